//! The extended way to poll: ibv_create_cq_ex(3).

use std::cell::Cell;
use std::ffi::c_int;

use dmverbs_ffi::{Errno, InOut, Ptr, entry, guard};
use dmverbs_provider::object::Completion;
use parking_lot::RawMutex;
use parking_lot::lock_api::RawMutex as _;
use rdma_core_sys::verbs::{
    IBV_CQ_INIT_ATTR_MASK_FLAGS, IBV_CREATE_CQ_ATTR_SINGLE_THREADED, IBV_WC_STANDARD_FLAGS, ibv_cq_ex,
    ibv_cq_init_attr_ex, ibv_poll_cq_attr, ibv_wc_opcode, ibv_wc_tm_info,
};

use crate::channel::Channel;
use crate::context::Context;
use crate::cq::{self, Cq, stale};

/// The completion that the read functions speak of. Between a successful start_poll and end_poll it belongs to
/// the thread that started.
pub struct Cursor {
    lock: RawMutex,
    current: Cell<Option<Completion>>,
}

// SAFETY: `current` is touched only by the holder of `lock`.
unsafe impl Sync for Cursor {}

impl Default for Cursor {
    fn default() -> Self {
        Cursor { lock: RawMutex::INIT, current: Cell::new(None) }
    }
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cursor")
    }
}

entry! {
    /// ibv_create_cq_ex(3)
    pub fn create_cq_ex(context: &Context, cq_attr: InOut<'_, ibv_cq_init_attr_ex>) -> Ptr<ibv_cq_ex> {
        let attr = cq_attr;
        if attr.wc_flags & !u64::from(IBV_WC_STANDARD_FLAGS) != 0 {
            return Err(Errno::unsupported("`wc_flags` asks for time stamps, VLANs, flow tags or tag matching"));
        }
        if attr.comp_mask & !IBV_CQ_INIT_ATTR_MASK_FLAGS != 0 {
            return Err(Errno::unsupported("`comp_mask` asks for a parent domain or something unknown"));
        }
        if attr.comp_mask & IBV_CQ_INIT_ATTR_MASK_FLAGS != 0 && attr.flags & !IBV_CREATE_CQ_ATTR_SINGLE_THREADED != 0 {
            return Err(Errno::unsupported("`flags` asks to ignore overruns, or holds something unknown"));
        }
        let channel = if attr.channel.is_null() { None } else { Some(Channel::find(attr.channel, "channel")?) };
        let vector = c_int::try_from(attr.comp_vector).unwrap_or(-1);
        cq::create(context, attr.cqe, attr.cq_context, channel, vector, extend).map(|cq| cq.cast())
    }
}

fn extend(c: &mut ibv_cq_ex) {
    c.start_poll = Some(start_poll);
    c.next_poll = Some(next_poll);
    c.end_poll = Some(end_poll);
    c.read_opcode = Some(read_opcode);
    c.read_vendor_err = Some(read_vendor_err);
    c.read_byte_len = Some(read_byte_len);
    c.read_imm_data = Some(read_imm_data);
    c.read_qp_num = Some(read_qp_num);
    c.read_src_qp = Some(read_zero::<u32>);
    c.read_wc_flags = Some(read_wc_flags);
    c.read_slid = Some(read_zero::<u32>);
    c.read_sl = Some(read_zero::<u8>);
    c.read_dlid_path_bits = Some(read_zero::<u8>);
    c.read_completion_ts = Some(read_zero::<u64>);
    c.read_cvlan = Some(read_zero::<u16>);
    c.read_flow_tag = Some(read_zero::<u32>);
    c.read_tm_info = Some(read_tm_info);
    c.read_completion_wallclock_ns = Some(read_zero::<u64>);
}

unsafe extern "C" fn start_poll(seen: *mut ibv_cq_ex, attr: *mut ibv_poll_cq_attr) -> c_int {
    guard("ibv_start_poll", libc::EIO, || {
        // SAFETY: NULL or a CQ: the caller's duty.
        let Some(cq) = (unsafe { Cq::hot(seen.cast()) }) else {
            stale("cq").report("ibv_start_poll");
            return libc::EINVAL;
        };
        // SAFETY: NULL, or the attributes: the caller's duty.
        if unsafe { attr.as_ref() }.is_some_and(|attr| attr.comp_mask != 0) {
            return libc::EINVAL;
        }
        cq.cursor.lock.lock();
        let code = step(cq);
        if code != 0 {
            // A failed start is not ended.
            // SAFETY: locked just above, by this thread.
            unsafe { cq.cursor.lock.unlock() };
        }
        code
    })
}

unsafe extern "C" fn next_poll(seen: *mut ibv_cq_ex) -> c_int {
    guard("ibv_next_poll", libc::EIO, || {
        // SAFETY: NULL or a CQ: the caller's duty.
        let Some(cq) = (unsafe { Cq::hot(seen.cast()) }) else {
            stale("cq").report("ibv_next_poll");
            return libc::EINVAL;
        };
        step(cq)
    })
}

unsafe extern "C" fn end_poll(seen: *mut ibv_cq_ex) {
    // SAFETY: NULL or a CQ: the caller's duty.
    match unsafe { Cq::hot(seen.cast()) } {
        Some(cq) if cq.cursor.lock.is_locked() => {
            cq.cursor.current.set(None);
            // SAFETY: the caller holds it since its successful ibv_start_poll().
            unsafe { cq.cursor.lock.unlock() }
        }
        Some(_) => Errno::misuse("the CQ is not being polled").report("ibv_end_poll"),
        None => stale("cq").report("ibv_end_poll"),
    }
}

/// Takes the next completion; the cursor is locked by the caller.
fn step(cq: &Cq) -> c_int {
    let mut next = None;
    match cq.provider().poll(1, |completion| next = Some(*completion)) {
        Ok(_) => {}
        Err(e) => return Errno::from(e).code(),
    }
    let Some(completion) = next else { return libc::ENOENT };
    let c = cq.c();
    // SAFETY: the structure lives; between start and end its polling fields are this thread's.
    unsafe { (*c).status = completion.status as u32 };
    // SAFETY: as above.
    unsafe { (*c).wr_id = completion.id };
    cq.cursor.current.set(Some(completion));
    0
}

/// Reads something of the current completion; all zeroes if there is none.
///
/// # Safety
/// `seen` is NULL or a CQ that this thread polls.
unsafe fn read<T: Default>(seen: *mut ibv_cq_ex, pick: impl FnOnce(&Completion) -> T) -> T {
    // SAFETY: NULL or a CQ: the caller's duty.
    let current = unsafe { Cq::hot(seen.cast()) }.and_then(|cq| cq.cursor.current.get());
    current.map_or_else(T::default, |completion| pick(&completion))
}

macro_rules! readers {
    ($(fn $name:ident() -> $ty:ty = $pick:expr;)*) => {$(
        unsafe extern "C" fn $name(seen: *mut ibv_cq_ex) -> $ty {
            // SAFETY: a CQ between ibv_start_poll() and ibv_end_poll(): the caller's duty.
            unsafe { read(seen, $pick) }
        }
    )*};
}

readers! {
    fn read_opcode() -> ibv_wc_opcode = |c| c.opcode as u32;
    fn read_vendor_err() -> u32 = |c| cq::vendor_error(c.status);
    fn read_byte_len() -> u32 = |c| c.len;
    fn read_imm_data() -> u32 = |c| cq::flags(c).0;
    fn read_qp_num() -> u32 = |c| c.qpn;
    fn read_wc_flags() -> u32 = |c| cq::flags(c).1;
}

/// What RoCE has no use for, or what creating the CQ has refused.
unsafe extern "C" fn read_zero<T: Default>(_: *mut ibv_cq_ex) -> T {
    T::default()
}

unsafe extern "C" fn read_tm_info(_: *mut ibv_cq_ex, info: *mut ibv_wc_tm_info) {
    // SAFETY: NULL or a place for the result: the caller's duty.
    if let Some(info) = unsafe { info.as_mut() } {
        *info = ibv_wc_tm_info::default();
    }
}
