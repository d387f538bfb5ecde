//! ibv_post_send(3) and ibv_post_recv(3): the fast path of programs that use work request lists.
//!
//! Nothing is copied or allocated: an iterator turns one C request after the other into a provider's.

use std::ffi::c_int;
use std::iter;
use std::ptr;
use std::slice;

use dmverbs_ffi::{Errno, guard};
use dmverbs_provider::object::{Payload, RecvWr, Remote, SendFlags, SendOp, SendWr, Sge};
use rdma_core_sys::verbs::*;

use crate::cq::stale;
use crate::qp::Qp;

/// ibv_post_send(3).
///
/// # Safety
/// `qp` is NULL or a QP; `wr` is NULL or a list of requests; `bad_wr` is NULL or a place for a pointer.
pub unsafe extern "C" fn post_send(qp: *mut ibv_qp, wr: *mut ibv_send_wr, bad_wr: *mut *mut ibv_send_wr) -> c_int {
    guard("ibv_post_send", libc::EIO, || {
        // SAFETY: NULL or a QP: the caller's duty.
        let Some(qp) = (unsafe { Qp::hot(qp) }) else { return fail_send(stale("qp"), wr, bad_wr) };
        let mut next = wr;
        while !next.is_null() {
            // SAFETY: `next` is in the caller's list.
            match unsafe { send_run(qp, next) } {
                Ok(rest) => next = rest,
                Err((bad, e)) => return fail_send(e, bad, bad_wr),
            }
        }
        0
    })
}

#[cold]
fn fail_send(e: Errno, bad: *mut ibv_send_wr, place: *mut *mut ibv_send_wr) -> c_int {
    e.report("ibv_post_send");
    // SAFETY: NULL or a place for a pointer: the caller's duty.
    if let Some(place) = unsafe { place.as_mut() } {
        *place = bad;
    }
    e.code()
}

/// Posts up to the first request whose inline data lies in several places, or that one alone: the provider
/// takes inline data in one piece. Gives what is left of the list.
///
/// # Safety
/// `first` is a list of requests that stays as it is during the call.
#[inline]
unsafe fn send_run(qp: &Qp, first: *mut ibv_send_wr) -> Result<*mut ibv_send_wr, (*mut ibv_send_wr, Errno)> {
    // SAFETY: not NULL, in the caller's list.
    let wr = unsafe { &*first };
    if is_scattered_inline(wr) {
        // SAFETY: in the caller's list.
        return unsafe { send_gathered(qp, wr) }.map(|()| wr.next).map_err(|e| (first, e));
    }
    let mut next = first;
    let mut refused = None;
    let list = iter::from_fn(|| {
        // SAFETY: NULL, or in the caller's list.
        let wr = unsafe { next.as_ref() }?;
        if is_scattered_inline(wr) {
            return None;
        }
        // SAFETY: in the caller's list.
        match unsafe { send_request(wr) } {
            Ok(request) => {
                next = wr.next;
                Some(request)
            }
            Err(e) => {
                refused = Some(e);
                None
            }
        }
    });
    match (qp.provider().post_send(list), refused) {
        // SAFETY: the provider was given more than `index` requests of the list.
        (Err((index, e)), _) => Err((unsafe { nth(first, index, |wr| wr.next) }, e.into())),
        (Ok(()), Some(e)) => Err((next, e)),
        (Ok(()), None) => Ok(next),
    }
}

fn is_scattered_inline(wr: &ibv_send_wr) -> bool {
    wr.send_flags & IBV_SEND_INLINE != 0 && wr.num_sge > 1
}

/// Posts a request whose inline data lies in several places.
///
/// # Safety
/// `wr` is a request, its elements readable memory.
#[cold]
unsafe fn send_gathered(qp: &Qp, wr: &ibv_send_wr) -> Result<(), Errno> {
    // SAFETY: the caller's request.
    let elements = unsafe { elements(wr.sg_list, wr.num_sge) }?;
    let cap = qp.provider().cap();
    if elements.len() > cap.send_sge as usize {
        return Err(Errno::invalid("more elements than max_send_sge"));
    }
    let room = cap.inline as usize;
    let total: usize = elements.iter().map(|sge| sge.length as usize).sum();
    if total > room {
        return Err(Errno::invalid("more inline data than max_inline_data"));
    }
    let mut bytes = Vec::with_capacity(total);
    for sge in elements {
        // SAFETY: inline data is ordinary readable memory of the program.
        bytes.extend_from_slice(unsafe { inline_bytes(sge) }?);
    }
    let request =
        SendWr { id: wr.wr_id, op: operation(wr)?, flags: flags(wr.send_flags)?, payload: Payload::Inline(&bytes) };
    qp.provider().post_send(iter::once(request)).map_err(|(_, e)| e.into())
}

/// Translates a request.
///
/// # Safety
/// `wr` is a request whose elements stay as they are for `'a`.
#[inline]
unsafe fn send_request<'a>(wr: &ibv_send_wr) -> Result<SendWr<'a>, Errno> {
    // SAFETY: the caller's request.
    let elements = unsafe { elements(wr.sg_list, wr.num_sge) }?;
    let payload = match elements {
        // SAFETY: inline data is ordinary readable memory of the program.
        [sge] if wr.send_flags & IBV_SEND_INLINE != 0 => Payload::Inline(unsafe { inline_bytes(sge) }?),
        [] if wr.send_flags & IBV_SEND_INLINE != 0 => Payload::Inline(&[]),
        elements => Payload::Sges(elements),
    };
    Ok(SendWr { id: wr.wr_id, op: operation(wr)?, flags: flags(wr.send_flags)?, payload })
}

/// The scatter/gather list of a request.
///
/// # Safety
/// `list` has `len` elements that stay as they are for `'a`.
#[inline]
pub(crate) unsafe fn elements<'a>(list: *const ibv_sge, len: c_int) -> Result<&'a [Sge], Errno> {
    const { assert!(size_of::<Sge>() == size_of::<ibv_sge>() && align_of::<Sge>() == align_of::<ibv_sge>()) };
    match usize::try_from(len) {
        Ok(0) => Ok(&[]),
        // SAFETY: not NULL; the elements are there (the caller's duty); `Sge` is laid out as `ibv_sge`.
        Ok(len) if !list.is_null() => Ok(unsafe { slice::from_raw_parts(list.cast(), len) }),
        Ok(_) => Err(Errno::misuse("`sg_list` is NULL")),
        Err(_) => Err(Errno::invalid("`num_sge` is negative")),
    }
}

/// The bytes of an element of inline data.
///
/// # Safety
/// They can be read, and nobody writes them for `'a`.
#[inline]
unsafe fn inline_bytes<'a>(sge: &Sge) -> Result<&'a [u8], Errno> {
    if sge.length == 0 {
        return Ok(&[]);
    }
    if sge.addr == 0 {
        return Err(Errno::misuse("inline data is at NULL"));
    }
    let at = ptr::with_exposed_provenance(usize::try_from(sge.addr).unwrap_or(0));
    // SAFETY: the program says that the bytes are there: the caller's duty.
    Ok(unsafe { slice::from_raw_parts(at, sge.length as usize) })
}

#[inline]
fn flags(flags: u32) -> Result<SendFlags, Errno> {
    SendFlags::from_bits(flags & !IBV_SEND_INLINE).ok_or(Errno::invalid("`send_flags` holds something unknown"))
}

#[inline]
fn operation(wr: &ibv_send_wr) -> Result<SendOp, Errno> {
    // SAFETY: integers, whichever member the program has set.
    let word = unsafe { wr.__bindgen_anon_1.imm_data };
    // SAFETY: as above.
    let rdma = unsafe { wr.wr.rdma };
    let remote = Remote { addr: rdma.remote_addr, rkey: rdma.rkey };
    Ok(match wr.opcode {
        IBV_WR_RDMA_WRITE => SendOp::Write(remote),
        IBV_WR_RDMA_WRITE_WITH_IMM => SendOp::WriteImm(remote, word),
        IBV_WR_SEND => SendOp::Send,
        IBV_WR_SEND_WITH_IMM => SendOp::SendImm(word),
        IBV_WR_SEND_WITH_INV => SendOp::SendInv(word),
        IBV_WR_RDMA_READ => SendOp::Read(remote),
        IBV_WR_ATOMIC_CMP_AND_SWP => {
            // SAFETY: integers, whichever member the program has set.
            let atomic = unsafe { wr.wr.atomic };
            let at = Remote { addr: atomic.remote_addr, rkey: atomic.rkey };
            SendOp::CompareSwap { at, compare: atomic.compare_add, swap: atomic.swap }
        }
        IBV_WR_ATOMIC_FETCH_AND_ADD => {
            // SAFETY: integers, whichever member the program has set.
            let atomic = unsafe { wr.wr.atomic };
            SendOp::FetchAdd { at: Remote { addr: atomic.remote_addr, rkey: atomic.rkey }, add: atomic.compare_add }
        }
        IBV_WR_LOCAL_INV => SendOp::LocalInv(word),
        IBV_WR_BIND_MW | IBV_WR_TSO | IBV_WR_DRIVER1 | IBV_WR_ATOMIC_WRITE => {
            return Err(Errno::unsupported("`opcode` is a window's, TSO, a driver's or an atomic write"));
        }
        _ => return Err(Errno::invalid("`opcode` is unknown")),
    })
}

/// ibv_post_recv(3).
///
/// # Safety
/// `qp` is NULL or a QP; `wr` is NULL or a list of requests; `bad_wr` is NULL or a place for a pointer.
pub unsafe extern "C" fn post_recv(qp: *mut ibv_qp, wr: *mut ibv_recv_wr, bad_wr: *mut *mut ibv_recv_wr) -> c_int {
    guard("ibv_post_recv", libc::EIO, || {
        // SAFETY: NULL or a QP: the caller's duty.
        let Some(qp) = (unsafe { Qp::hot(qp) }) else { return fail_recv(stale("qp"), wr, bad_wr) };
        let mut next = wr;
        let mut refused = None;
        let list = iter::from_fn(|| {
            // SAFETY: NULL, or in the caller's list.
            let wr = unsafe { next.as_ref() }?;
            // SAFETY: the caller's request.
            match unsafe { elements(wr.sg_list, wr.num_sge) } {
                Ok(sges) => {
                    next = wr.next;
                    Some(RecvWr { id: wr.wr_id, sges })
                }
                Err(e) => {
                    refused = Some(e);
                    None
                }
            }
        });
        match (qp.provider().post_recv(list), refused) {
            // SAFETY: the provider was given more than `index` requests of the list.
            (Err((index, e)), _) => fail_recv(e.into(), unsafe { nth(wr, index, |wr| wr.next) }, bad_wr),
            (Ok(()), Some(e)) => fail_recv(e, next, bad_wr),
            (Ok(()), None) => 0,
        }
    })
}

#[cold]
fn fail_recv(e: Errno, bad: *mut ibv_recv_wr, place: *mut *mut ibv_recv_wr) -> c_int {
    e.report("ibv_post_recv");
    // SAFETY: NULL or a place for a pointer: the caller's duty.
    if let Some(place) = unsafe { place.as_mut() } {
        *place = bad;
    }
    e.code()
}

/// The request `index` places down a list.
///
/// # Safety
/// The list is that long, or shorter and ends in NULL.
#[cold]
unsafe fn nth<T>(mut wr: *mut T, index: usize, next: impl Fn(&T) -> *mut T) -> *mut T {
    for _ in 0..index {
        // SAFETY: NULL or in the list.
        match unsafe { wr.as_ref() } {
            Some(here) => wr = next(here),
            None => break,
        }
    }
    wr
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: ibv_wr_opcode) -> ibv_send_wr {
        let mut wr = ibv_send_wr { wr_id: 5, opcode, send_flags: IBV_SEND_SIGNALED, ..Default::default() };
        wr.__bindgen_anon_1.imm_data = 77;
        wr.wr.atomic = ibv_send_wr__bindgen_ty_2__bindgen_ty_2 { remote_addr: 1, compare_add: 2, swap: 3, rkey: 4 };
        wr
    }

    #[test]
    fn every_rc_opcode_is_translated() {
        let mut rdma = request(IBV_WR_RDMA_WRITE);
        rdma.wr.rdma = ibv_send_wr__bindgen_ty_2__bindgen_ty_1 { remote_addr: 8, rkey: 9 };
        let remote = Remote { addr: 8, rkey: 9 };
        let at = Remote { addr: 1, rkey: 4 };
        assert_eq!(operation(&rdma).unwrap(), SendOp::Write(remote));
        rdma.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
        assert_eq!(operation(&rdma).unwrap(), SendOp::WriteImm(remote, 77));
        rdma.opcode = IBV_WR_RDMA_READ;
        assert_eq!(operation(&rdma).unwrap(), SendOp::Read(remote));
        assert_eq!(operation(&request(IBV_WR_SEND)).unwrap(), SendOp::Send);
        assert_eq!(operation(&request(IBV_WR_SEND_WITH_IMM)).unwrap(), SendOp::SendImm(77));
        assert_eq!(operation(&request(IBV_WR_SEND_WITH_INV)).unwrap(), SendOp::SendInv(77));
        assert_eq!(operation(&request(IBV_WR_LOCAL_INV)).unwrap(), SendOp::LocalInv(77));
        let swap = SendOp::CompareSwap { at, compare: 2, swap: 3 };
        assert_eq!(operation(&request(IBV_WR_ATOMIC_CMP_AND_SWP)).unwrap(), swap);
        assert_eq!(operation(&request(IBV_WR_ATOMIC_FETCH_AND_ADD)).unwrap(), SendOp::FetchAdd { at, add: 2 });
        assert_eq!(operation(&request(IBV_WR_TSO)).unwrap_err().code(), libc::EOPNOTSUPP);
        assert_eq!(operation(&request(99)).unwrap_err().code(), libc::EINVAL);
    }

    #[test]
    fn a_single_inline_element_is_taken_where_it_lies() {
        let data = *b"inline";
        let mut sge = ibv_sge { addr: data.as_ptr().expose_provenance() as u64, length: 6, lkey: 0xdead };
        let mut wr = request(IBV_WR_SEND);
        (wr.sg_list, wr.num_sge) = (&raw mut sge, 1);
        wr.send_flags |= IBV_SEND_INLINE;
        // SAFETY: the element and the data live.
        let request = unsafe { send_request(&wr) }.unwrap();
        assert!(matches!(request.payload, Payload::Inline(bytes) if bytes.as_ptr() == data.as_ptr()));
        assert_eq!(request.flags, SendFlags::SIGNALED);
    }

    #[test]
    fn a_request_with_a_bad_list_is_refused() {
        let mut wr = request(IBV_WR_SEND);
        wr.num_sge = 1;
        // SAFETY: the list is NULL.
        assert_eq!(unsafe { send_request(&wr) }.unwrap_err().code(), libc::EINVAL);
        wr.num_sge = -1;
        // SAFETY: the list is NULL.
        assert_eq!(unsafe { send_request(&wr) }.unwrap_err().code(), libc::EINVAL);
        (wr.num_sge, wr.send_flags) = (0, 1 << 9);
        // SAFETY: the list is empty.
        assert_eq!(unsafe { send_request(&wr) }.unwrap_err().code(), libc::EINVAL);
    }
}
