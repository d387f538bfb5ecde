//! Completion queues.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use dmverbs_ffi::{Class, Code, Errno, Handle, Own, Ptr, entry, guard};
use dmverbs_provider::object::{self, Completion, Extra, Status};
use rdma_core_sys::verbs::{IBV_WC_WITH_IMM, IBV_WC_WITH_INV, ibv_cq, ibv_cq_ex, ibv_wc, ibv_wc__bindgen_ty_1};

use crate::channel::Channel;
use crate::context::{COMP_VECTORS, Context};
use crate::cq_ex::Cursor;
use crate::event::Acks;

/// `ibv_cq`, at the start of an `ibv_cq_ex`: every CQ has room for the extended interface.
#[derive(Debug)]
pub enum CqClass {}

// SAFETY: pointers, integers, optional functions, mutexes and conditions may be zero; an `ibv_cq_ex` starts with
// the fields of an `ibv_cq`.
unsafe impl Class for CqClass {
    type C = ibv_cq_ex;
    type Seen = ibv_cq;
    type Inner = CqInner;
    const NAME: &'static str = "ibv_cq";
}

/// A completion queue.
pub type Cq = Handle<CqClass>;

/// What we keep of one.
#[derive(Debug)]
pub struct CqInner {
    cq: Arc<object::Cq>,
    /// Where ibv_next_poll() stands.
    pub cursor: Cursor,
    /// Asynchronous events about it.
    pub acks: Acks,
}

impl CqInner {
    /// The provider's CQ.
    #[inline]
    pub fn provider(&self) -> &Arc<object::Cq> {
        &self.cq
    }
}

entry! {
    /// ibv_create_cq(3)
    pub fn ibv_create_cq(
        context: &Context, cqe: c_int, cq_context: *mut c_void, channel: Option<&Channel>, comp_vector: c_int,
    ) -> Ptr<ibv_cq> {
        let cqe = u32::try_from(cqe).map_err(|_| Errno::invalid("`cqe` is negative"))?;
        create(context, cqe, cq_context, channel, comp_vector, |_| ())
    }

    /// ibv_resize_cq(3)
    pub fn ibv_resize_cq(cq: &Cq, cqe: c_int) -> Code {
        let cqe = usize::try_from(cqe).map_err(|_| Errno::invalid("`cqe` is negative"))?;
        cq.provider().resize(cqe)?;
        // SAFETY: the structure lives; a program reads `cqe` after the call.
        unsafe { (*cq.c()).cqe = capacity(cq.provider()) };
        Ok(())
    }

    /// ibv_create_cq(3)
    pub fn ibv_destroy_cq(cq: Own<'_, CqClass>) -> Code {
        object::Cq::destroy(Arc::clone(cq.provider())).map_err(|(_, e)| e)?;
        cq.acks.settle();
        cq.free();
        Ok(())
    }
}

/// Makes a CQ; `extend` may fill in the extended part.
pub fn create(
    context: &Context,
    cqe: u32,
    cq_context: *mut c_void,
    channel: Option<&Channel>,
    comp_vector: c_int,
    extend: impl FnOnce(&mut ibv_cq_ex),
) -> Result<*mut ibv_cq, Errno> {
    if !(0..COMP_VECTORS).contains(&comp_vector) {
        return Err(Errno::invalid("`comp_vector` is not below num_comp_vectors"));
    }
    if cqe == 0 {
        return Err(Errno::invalid("`cqe` is 0"));
    }
    let mut new = Cq::reserve();
    let cookie = new.seen().expose_provenance();
    let cq = object::Cq::create(context.provider(), cqe as usize, channel.map(|channel| &**channel), cookie)?;
    let c = new.c();
    c.context = context.seen();
    c.channel = channel.map_or(std::ptr::null_mut(), Handle::seen);
    c.cq_context = cq_context;
    c.cqe = capacity(&cq);
    extend(c);
    Ok(new.commit(CqInner { cq, cursor: Cursor::default(), acks: Acks::default() }))
}

fn capacity(cq: &object::Cq) -> c_int {
    c_int::try_from(cq.capacity()).unwrap_or(c_int::MAX)
}

/// ibv_poll_cq(3).
///
/// # Safety
/// `cq` is NULL or a CQ; `wc` has room for `num_entries` of them.
pub unsafe extern "C" fn poll_cq(cq: *mut ibv_cq, num_entries: c_int, wc: *mut ibv_wc) -> c_int {
    guard("ibv_poll_cq", -libc::EIO, || {
        // SAFETY: NULL or a CQ: the caller's duty.
        let Some(cq) = (unsafe { Cq::hot(cq) }) else {
            stale("cq").report("ibv_poll_cq");
            return -libc::EINVAL;
        };
        let Ok(max) = usize::try_from(num_entries) else { return -libc::EINVAL };
        let mut place = wc;
        let polled = cq.provider().poll(max, |completion| {
            // SAFETY: the array has room for `max` (the caller's duty), and the provider gives no more.
            unsafe { place.write(work_completion(completion)) };
            place = place.wrapping_add(1);
        });
        match polled {
            Ok(n) => c_int::try_from(n).unwrap_or(num_entries),
            Err(e) => -Errno::from(e).code(),
        }
    })
}

/// ibv_req_notify_cq(3).
///
/// # Safety
/// `cq` is NULL or a CQ.
pub unsafe extern "C" fn req_notify_cq(cq: *mut ibv_cq, solicited_only: c_int) -> c_int {
    guard("ibv_req_notify_cq", libc::EIO, || {
        // SAFETY: NULL or a CQ: the caller's duty.
        let Some(cq) = (unsafe { Cq::hot(cq) }) else {
            stale("cq").report("ibv_req_notify_cq");
            return libc::EINVAL;
        };
        cq.provider().request_notify(solicited_only != 0);
        0
    })
}

/// A fast-path call met an object that is NULL or dead.
#[cold]
pub fn stale(name: &'static str) -> Errno {
    Errno::misuse(format!("`{name}` is NULL or was destroyed before"))
}

#[inline]
fn work_completion(from: &Completion) -> ibv_wc {
    let (extra, wc_flags) = flags(from);
    ibv_wc {
        wr_id: from.id,
        status: from.status as u32,
        opcode: from.opcode as u32,
        vendor_err: vendor_error(from.status),
        byte_len: from.len,
        __bindgen_anon_1: ibv_wc__bindgen_ty_1 { imm_data: extra },
        qp_num: from.qpn,
        src_qp: 0,
        wc_flags,
        pkey_index: 0,
        slid: 0,
        sl: 0,
        dlid_path_bits: 0,
    }
}

/// The immediate data or invalidated key of a completion, and the flag that says which.
#[inline]
pub fn flags(from: &Completion) -> (u32, u32) {
    match from.extra {
        Extra::None => (0, 0),
        Extra::Imm(data) => (data, IBV_WC_WITH_IMM),
        Extra::Invalidated(key) => (key, IBV_WC_WITH_INV),
    }
}

/// There is nothing that only a vendor knows: the status again, so that programs which print both agree.
#[inline]
pub fn vendor_error(status: Status) -> u32 {
    status as u32
}
