//! ibv_wr_start(3) and its family: requests are collected, then posted all or none.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::ops::Range;
use std::slice;

use dmverbs_ffi::{Errno, guard};
use dmverbs_provider::object::{Limits, Payload, Remote, SendFlags, SendOp, SendWr, Sge};
use parking_lot::RawMutex;
use parking_lot::lock_api::RawMutex as _;
use rdma_core_sys::verbs::*;

use crate::cq::stale;
use crate::qp::Qp;

/// The operations that a QP can be created for.
pub const SUPPORTED: u64 = (IBV_QP_EX_WITH_RDMA_WRITE
    | IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM
    | IBV_QP_EX_WITH_SEND
    | IBV_QP_EX_WITH_SEND_WITH_IMM
    | IBV_QP_EX_WITH_SEND_WITH_INV
    | IBV_QP_EX_WITH_RDMA_READ
    | IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP
    | IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD
    | IBV_QP_EX_WITH_LOCAL_INV) as u64;

/// Requests between ibv_wr_start() and ibv_wr_complete(): a critical section of the thread that started, held
/// across calls.
pub struct Builder {
    lock: RawMutex,
    batch: UnsafeCell<Batch>,
}

// SAFETY: `batch` is touched only by the holder of `lock`.
unsafe impl Sync for Builder {}

impl Default for Builder {
    fn default() -> Self {
        Builder { lock: RawMutex::INIT, batch: UnsafeCell::default() }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Builder")
    }
}

/// The requests collected so far. Emptied, it keeps its memory: posting costs no allocation in the long run.
#[derive(Debug, Default)]
struct Batch {
    requests: Vec<Request>,
    sges: Vec<Sge>,
    bytes: Vec<u8>,
    fault: Option<Errno>,
}

#[derive(Debug)]
struct Request {
    id: u64,
    op: SendOp,
    flags: SendFlags,
    data: Data,
}

/// Where in a batch the data of a request is.
#[derive(Clone, Debug)]
enum Data {
    Sges(Range<usize>),
    Inline(Range<usize>),
}

impl Batch {
    fn clear(&mut self) {
        self.requests.clear();
        self.sges.clear();
        self.bytes.clear();
        self.fault = None;
    }

    /// Remembers the first thing that went wrong; ibv_wr_complete() tells it.
    fn refuse(&mut self, e: Errno) {
        self.fault.get_or_insert(e);
    }

    #[inline]
    fn begin(&mut self, id: u64, flags: u32, op: SendOp) {
        match SendFlags::from_bits(flags & !IBV_SEND_INLINE) {
            Some(flags) => self.requests.push(Request { id, op, flags, data: Data::Sges(0..0) }),
            None => self.refuse(Errno::invalid("`wr_flags` holds something unknown")),
        }
    }

    #[inline]
    fn set(&mut self, data: Data) {
        match self.requests.last_mut() {
            Some(request) => request.data = data,
            None => self.refuse(Errno::misuse("data was set before any operation")),
        }
    }

    #[inline]
    fn set_sges(&mut self, sges: &[Sge]) {
        let start = self.sges.len();
        self.sges.extend_from_slice(sges);
        self.set(Data::Sges(start..self.sges.len()));
    }

    fn set_inline<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>) {
        let start = self.bytes.len();
        parts.for_each(|part| self.bytes.extend_from_slice(part));
        self.set(Data::Inline(start..self.bytes.len()));
    }

    fn requests(&self) -> impl Iterator<Item = SendWr<'_>> + Clone {
        self.requests.iter().map(|request| SendWr {
            id: request.id,
            op: request.op,
            flags: request.flags,
            payload: match &request.data {
                Data::Sges(range) => Payload::Sges(&self.sges[range.clone()]),
                Data::Inline(range) => Payload::Inline(&self.bytes[range.clone()]),
            },
        })
    }
}

/// Fills in the function pointers of the extended interface.
pub fn extend(c: &mut ibv_qp_ex) {
    c.wr_atomic_cmp_swp = Some(wr_atomic_cmp_swp);
    c.wr_atomic_fetch_add = Some(wr_atomic_fetch_add);
    c.wr_bind_mw = Some(wr_bind_mw);
    c.wr_local_inv = Some(wr_local_inv);
    c.wr_rdma_read = Some(wr_rdma_read);
    c.wr_rdma_write = Some(wr_rdma_write);
    c.wr_rdma_write_imm = Some(wr_rdma_write_imm);
    c.wr_send = Some(wr_send);
    c.wr_send_imm = Some(wr_send_imm);
    c.wr_send_inv = Some(wr_send_inv);
    c.wr_send_tso = Some(wr_send_tso);
    c.wr_set_ud_addr = Some(wr_set_ud_addr);
    c.wr_set_xrc_srqn = Some(wr_set_xrc_srqn);
    c.wr_set_inline_data = Some(wr_set_inline_data);
    c.wr_set_inline_data_list = Some(wr_set_inline_data_list);
    c.wr_set_sge = Some(wr_set_sge);
    c.wr_set_sge_list = Some(wr_set_sge_list);
    c.wr_start = Some(wr_start);
    c.wr_complete = Some(wr_complete);
    c.wr_abort = Some(wr_abort);
    c.wr_atomic_write = Some(wr_atomic_write);
    c.wr_flush = Some(wr_flush);
}

unsafe extern "C" fn wr_start(seen: *mut ibv_qp_ex) {
    // SAFETY: NULL or a QP: the caller's duty.
    match unsafe { Qp::hot(seen.cast()) } {
        Some(qp) => qp.builder.lock.lock(),
        None => stale("qp").report("ibv_wr_start"),
    }
}

unsafe extern "C" fn wr_complete(seen: *mut ibv_qp_ex) -> c_int {
    // SAFETY: NULL or a QP that this thread has started.
    let result = unsafe { finish(seen, "ibv_wr_complete", post) };
    result.map_or_else(
        |e| {
            e.report("ibv_wr_complete");
            e.code()
        },
        |()| 0,
    )
}

unsafe extern "C" fn wr_abort(seen: *mut ibv_qp_ex) {
    // SAFETY: NULL or a QP that this thread has started.
    if let Err(e) = unsafe { finish(seen, "ibv_wr_abort", |_, _| Ok(())) } {
        e.report("ibv_wr_abort");
    }
}

#[inline]
fn post(qp: &Qp, batch: &mut Batch) -> Result<(), Errno> {
    match batch.fault.take() {
        Some(e) => Err(e),
        None => Ok(qp.provider().post_send_all(batch.requests())?),
    }
}

/// Ends what ibv_wr_start() has begun.
///
/// # Safety
/// `seen` is NULL or a QP; if it is started, then by this thread.
#[inline]
unsafe fn finish(
    seen: *mut ibv_qp_ex,
    name: &'static str,
    end: impl FnOnce(&Qp, &mut Batch) -> Result<(), Errno>,
) -> Result<(), Errno> {
    // SAFETY: NULL or a QP: the caller's duty.
    let qp = unsafe { Qp::hot(seen.cast()) }.ok_or_else(|| stale("qp"))?;
    if !qp.builder.lock.is_locked() {
        return Err(Errno::misuse("ibv_wr_start() was not called"));
    }
    // SAFETY: this thread holds the lock: the caller's duty.
    let batch = unsafe { &mut *qp.builder.batch.get() };
    let result = guard(name, Err(Errno::new(libc::EIO, "a fault in dmverbs itself")), || end(qp, batch));
    batch.clear();
    // SAFETY: as above; `batch` is not used any more.
    unsafe { qp.builder.lock.unlock() };
    result
}

/// Adds to the batch.
///
/// # Safety
/// `seen` is NULL or a QP; if it is started, then by this thread.
#[inline]
unsafe fn build(seen: *mut ibv_qp_ex, name: &'static str, step: impl FnOnce(&mut Batch, u64, u32)) {
    // SAFETY: NULL or a QP: the caller's duty.
    let Some(qp) = (unsafe { Qp::hot(seen.cast()) }) else { return stale("qp").report(name) };
    if !qp.builder.lock.is_locked() {
        return Errno::misuse("ibv_wr_start() was not called").report(name);
    }
    // SAFETY: the structure lives, and this thread has set the two members for the request to come.
    let (id, flags) = unsafe { ((*seen).wr_id, (*seen).wr_flags) };
    // SAFETY: this thread holds the lock: the caller's duty.
    let batch = unsafe { &mut *qp.builder.batch.get() };
    let broken = guard(name, true, || {
        step(batch, id, flags);
        false
    });
    if broken {
        batch.refuse(Errno::new(libc::EIO, "a fault in dmverbs itself"));
    }
}

macro_rules! operations {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) = $op:expr;)*) => {$(
        unsafe extern "C" fn $name(seen: *mut ibv_qp_ex, $($arg: $ty),*) {
            // SAFETY: NULL or a QP that this thread has started: the caller's duty.
            unsafe { build(seen, concat!("ib", "v_", stringify!($name)), |batch, id, flags| batch.begin(id, flags, $op)) }
        }
    )*};
}

operations! {
    fn wr_rdma_write(rkey: u32, addr: u64) = SendOp::Write(Remote { addr, rkey });
    fn wr_rdma_write_imm(rkey: u32, addr: u64, imm: u32) = SendOp::WriteImm(Remote { addr, rkey }, imm);
    fn wr_rdma_read(rkey: u32, addr: u64) = SendOp::Read(Remote { addr, rkey });
    fn wr_send() = SendOp::Send;
    fn wr_send_imm(imm: u32) = SendOp::SendImm(imm);
    fn wr_send_inv(rkey: u32) = SendOp::SendInv(rkey);
    fn wr_local_inv(rkey: u32) = SendOp::LocalInv(rkey);
    fn wr_atomic_cmp_swp(rkey: u32, addr: u64, compare: u64, swap: u64) =
        SendOp::CompareSwap { at: Remote { addr, rkey }, compare, swap };
    fn wr_atomic_fetch_add(rkey: u32, addr: u64, add: u64) = SendOp::FetchAdd { at: Remote { addr, rkey }, add };
}

macro_rules! refused {
    ($(fn $name:ident($($ty:ty),*) = $why:literal;)*) => {$(
        unsafe extern "C" fn $name(seen: *mut ibv_qp_ex, $(_: $ty),*) {
            // SAFETY: NULL or a QP that this thread has started: the caller's duty.
            unsafe {
                build(seen, concat!("ib", "v_", stringify!($name)), |batch, _, _| batch.refuse(Errno::unsupported($why)))
            }
        }
    )*};
}

refused! {
    fn wr_bind_mw(*mut ibv_mw, u32, *const ibv_mw_bind_info) = "there are no memory windows";
    fn wr_send_tso(*mut c_void, u16, u16) = "an RC QP has no TSO";
    fn wr_set_ud_addr(*mut ibv_ah, u32, u32) = "an RC QP has no UD address";
    fn wr_set_xrc_srqn(u32) = "an RC QP has no XRC SRQ";
    fn wr_atomic_write(u32, u64, *const c_void) = "there are no atomic writes";
    fn wr_flush(u32, u64, usize, u8, u8) = "there are no flushes";
}

unsafe extern "C" fn wr_set_sge(seen: *mut ibv_qp_ex, lkey: u32, addr: u64, length: u32) {
    // SAFETY: NULL or a QP that this thread has started: the caller's duty.
    unsafe { build(seen, "ibv_wr_set_sge", |batch, _, _| batch.set_sges(&[Sge { addr, length, lkey }])) }
}

unsafe extern "C" fn wr_set_sge_list(seen: *mut ibv_qp_ex, num_sge: usize, list: *const ibv_sge) {
    let step = |batch: &mut Batch, _, _| {
        if num_sge == 0 {
            return batch.set_sges(&[]);
        }
        if list.is_null() {
            return batch.refuse(Errno::misuse("`sg_list` is NULL"));
        }
        if num_sge > Limits::MAX_SGE as usize {
            return batch.refuse(Errno::invalid("more elements than max_send_sge"));
        }
        // SAFETY: not NULL; the caller's list has `num_sge` elements, laid out as `Sge`.
        batch.set_sges(unsafe { slice::from_raw_parts(list.cast(), num_sge) });
    };
    // SAFETY: NULL or a QP that this thread has started: the caller's duty.
    unsafe { build(seen, "ibv_wr_set_sge_list", step) }
}

unsafe extern "C" fn wr_set_inline_data(seen: *mut ibv_qp_ex, addr: *mut c_void, length: usize) {
    let data = ibv_data_buf { addr, length };
    // SAFETY: NULL or a QP that this thread has started, and readable data: the caller's duty.
    unsafe { set_inline(seen, "ibv_wr_set_inline_data", slice::from_ref(&data)) }
}

unsafe extern "C" fn wr_set_inline_data_list(seen: *mut ibv_qp_ex, num_buf: usize, list: *const ibv_data_buf) {
    let buffers = if num_buf == 0 {
        &[]
    } else if list.is_null() || num_buf > Limits::MAX_INLINE as usize {
        let step = |batch: &mut Batch, _, _| {
            batch.refuse(if list.is_null() {
                Errno::misuse("`buf_list` is NULL")
            } else {
                Errno::invalid("more places of inline data than max_inline_data")
            });
        };
        // SAFETY: NULL or a QP that this thread has started: the caller's duty.
        return unsafe { build(seen, "ibv_wr_set_inline_data_list", step) };
    } else {
        // SAFETY: not NULL; the caller's list has `num_buf` elements.
        unsafe { slice::from_raw_parts(list, num_buf) }
    };
    // SAFETY: NULL or a QP that this thread has started, and readable data: the caller's duty.
    unsafe { set_inline(seen, "ibv_wr_set_inline_data_list", buffers) }
}

/// Copies inline data into the batch.
///
/// # Safety
/// As for [`build`]; every buffer is readable.
unsafe fn set_inline(seen: *mut ibv_qp_ex, name: &'static str, buffers: &[ibv_data_buf]) {
    let step = |batch: &mut Batch, _, _| {
        if buffers.iter().any(|buffer| buffer.addr.is_null() && buffer.length > 0) {
            return batch.refuse(Errno::misuse("inline data at NULL"));
        }
        let total = buffers.iter().fold(0, |sum: usize, buffer| sum.saturating_add(buffer.length));
        if total > Limits::MAX_INLINE as usize {
            return batch.refuse(Errno::invalid("more inline data than max_inline_data"));
        }
        batch.set_inline(buffers.iter().filter(|buffer| buffer.length > 0).map(|buffer| {
            // SAFETY: readable, and not written meanwhile: the caller's duty.
            unsafe { slice::from_raw_parts(buffer.addr.cast::<u8>(), buffer.length) }
        }));
    };
    // SAFETY: the caller's duty.
    unsafe { build(seen, name, step) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(addr: u64) -> SendOp {
        SendOp::Write(Remote { addr, rkey: 1 })
    }

    #[test]
    fn no_function_of_the_interface_is_null() {
        const FIRST: usize = std::mem::offset_of!(ibv_qp_ex, wr_atomic_cmp_swp);
        const COUNT: usize = (size_of::<ibv_qp_ex>() - FIRST) / size_of::<usize>();
        let mut c = ibv_qp_ex::default();
        extend(&mut c);
        // SAFETY: from there to its end the structure has function pointers only.
        let functions =
            unsafe { slice::from_raw_parts((&raw const c).wrapping_byte_add(FIRST).cast::<usize>(), COUNT) };
        assert!(functions.iter().all(|function| *function != 0), "{functions:x?}");
    }

    #[test]
    fn each_request_keeps_its_own_data() {
        let mut batch = Batch::default();
        batch.begin(1, IBV_SEND_SIGNALED, write(10));
        batch.set_sges(&[Sge { addr: 1, length: 2, lkey: 3 }]);
        batch.begin(2, 0, SendOp::Send);
        batch.set_inline([&b"in"[..], b"line"].into_iter());
        batch.begin(3, IBV_SEND_FENCE, SendOp::Read(Remote { addr: 5, rkey: 6 }));
        batch.set_sges(&[Sge { addr: 7, length: 8, lkey: 9 }, Sge::default()]);
        let requests: Vec<_> = batch.requests().collect();
        assert_eq!(requests.iter().map(|r| r.id).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(requests[0].flags, SendFlags::SIGNALED);
        assert!(matches!(requests[0].payload, Payload::Sges([Sge { addr: 1, .. }])));
        assert!(matches!(requests[1].payload, Payload::Inline(b"inline")));
        assert!(matches!(requests[2].payload, Payload::Sges([Sge { addr: 7, .. }, _])));
    }

    #[test]
    fn a_request_without_data_is_empty_and_the_last_data_set_counts() {
        let mut batch = Batch::default();
        batch.begin(1, 0, SendOp::Send);
        assert!(matches!(batch.requests().next().unwrap().payload, Payload::Sges([])));
        batch.set_sges(&[Sge::default()]);
        batch.set_sges(&[Sge::default(), Sge::default()]);
        assert!(matches!(batch.requests().next().unwrap().payload, Payload::Sges([_, _])));
    }

    #[test]
    fn the_first_fault_is_told_and_does_not_outlive_the_batch() {
        let mut batch = Batch::default();
        batch.set_sges(&[]);
        batch.begin(1, 1 << 9, SendOp::Send);
        assert!(batch.fault.as_ref().unwrap().to_string().contains("before any operation"));
        batch.clear();
        assert!(batch.fault.is_none() && batch.requests().next().is_none());
    }

    #[test]
    fn an_emptied_batch_keeps_its_memory() {
        let mut batch = Batch::default();
        batch.begin(1, 0, SendOp::Send);
        batch.set_sges(&[Sge::default()]);
        let before = (batch.requests.capacity(), batch.sges.capacity());
        batch.clear();
        assert_eq!((batch.requests.capacity(), batch.sges.capacity()), before);
    }
}
