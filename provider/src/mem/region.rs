//! A registered region, and checked ranges of it.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use dmverbs_proto::Access;

use super::PdId;
use crate::sys::mman::{self, Mapping};
use crate::sys::socket::Iov;

/// Why memory may not be touched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AccessError {
    /// Its region, or the QP, does not give the right.
    Denied,
    /// It is not mapped (on-demand regions only).
    Fault,
    /// No such key, or it belongs to another protection domain.
    NoKey,
    /// It is not all inside the region.
    OutOfRange,
    /// An atomic's address is not a multiple of 8.
    Unaligned,
}

/// Memory that was registered, until it is deregistered.
///
/// # Invariants
/// Unless `on_demand`, `addr..addr + len` was mapped with the rights of `access` at registration, and its owner keeps
/// it so until deregistration has returned (ibv_reg_mr(3)); nothing is copied once `live` is false.
#[derive(Debug)]
pub(crate) struct Region {
    key: u32,
    addr: u64,
    len: u64,
    iova: u64,
    access: Access,
    pd: PdId,
    live: AtomicBool,
    /// Ours to unmap when the last span is gone.
    _mapping: Option<Mapping>,
}

impl Region {
    pub(super) fn new(
        key: u32,
        addr: u64,
        len: u64,
        iova: u64,
        access: Access,
        pd: PdId,
        mapping: Option<Mapping>,
    ) -> Region {
        Region { key, addr, len, iova, access, pd, live: AtomicBool::new(true), _mapping: mapping }
    }

    pub(crate) fn key(&self) -> u32 {
        self.key
    }

    pub(crate) fn base(&self) -> u64 {
        self.addr
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn iova(&self) -> u64 {
        self.iova
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    pub(crate) fn pd(&self) -> PdId {
        self.pd
    }

    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        // Acquire pairs with the Release in `revoke`; who holds a connection's lock sees a revocation that came before.
        self.live.load(Ordering::Acquire)
    }

    /// From now on nobody may use it; who already does is waited for by `Progress::quiesce`.
    pub(crate) fn revoke(&self) {
        self.live.store(false, Ordering::Release);
    }

    /// `len` bytes at `addr`, if range, rights and protection domain allow.
    #[inline]
    pub(crate) fn span(this: &Arc<Region>, addr: u64, len: u64, need: Access, pd: PdId) -> Result<Span, AccessError> {
        if this.pd != pd || !this.is_live() {
            return Err(AccessError::NoKey);
        }
        if !this.access.contains(need) {
            return Err(AccessError::Denied);
        }
        let offset = addr.checked_sub(this.iova).ok_or(AccessError::OutOfRange)?;
        if len > this.len || offset > this.len - len {
            return Err(AccessError::OutOfRange);
        }
        Ok(Span { addr: this.addr + offset, len: len as usize, region: Some(this.clone()) })
    }

    fn is_on_demand(&self) -> bool {
        self.access.contains(Access::ON_DEMAND)
    }
}

/// A checked range of a region. It stays inside; whether the region is still live is checked at each use.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    addr: u64,
    len: usize,
    /// `None` only for the empty span.
    region: Option<Arc<Region>>,
}

impl Span {
    /// No bytes.
    pub(crate) fn empty() -> Span {
        Span { addr: 0, len: 0, region: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        self.region.as_ref().is_none_or(|region| region.is_live())
    }

    pub(crate) fn region(&self) -> Option<&Arc<Region>> {
        self.region.as_ref()
    }

    /// Whether it may only be touched by fault-safe copies.
    pub(crate) fn is_on_demand(&self) -> bool {
        self.region.as_ref().is_some_and(|region| region.is_on_demand())
    }

    /// For the kernel to read from or write to; not for on-demand memory, nor if it is no longer live.
    #[inline]
    pub(crate) fn iov(&self, offset: usize, len: usize) -> Option<Iov> {
        if self.is_on_demand() || !self.is_live() || offset + len > self.len {
            return None;
        }
        Some(Iov::registered(self.addr + offset as u64, len))
    }

    #[inline]
    fn range(&self, offset: usize, len: usize) -> Result<(u64, bool), AccessError> {
        let region = self.region.as_ref().ok_or(AccessError::OutOfRange)?;
        if !region.is_live() {
            return Err(AccessError::NoKey);
        }
        if offset + len > self.len {
            return Err(AccessError::OutOfRange);
        }
        Ok((self.addr + offset as u64, region.is_on_demand()))
    }

    /// Writes `source` at `offset`. Its last bytes become visible last: programs poll on them.
    #[inline]
    pub(crate) fn copy_in(&self, offset: usize, source: &[u8]) -> Result<(), AccessError> {
        /// Bytes that are written behind a fence.
        const TAIL: usize = 8;
        if source.is_empty() {
            return Ok(());
        }
        let (addr, on_demand) = self.range(offset, source.len())?;
        if on_demand {
            return mman::copy_in(addr, source).map_err(|_| AccessError::Fault);
        }
        let target: *mut u8 = ptr::with_exposed_provenance_mut(addr as usize);
        let (head, tail) = source.split_at(source.len().saturating_sub(TAIL));
        // SAFETY:
        // - `target..+source.len()` is inside the region (checked by `range`), mapped writable (invariant of Region).
        // - `source` is ours, hence disjoint from registered memory.
        unsafe { ptr::copy_nonoverlapping(head.as_ptr(), target, head.len()) };
        // pairs with the Acquire, or the data dependency, of whoever polls on the last byte.
        fence(Ordering::Release);
        // SAFETY: as above, for the rest of the range.
        unsafe { ptr::copy_nonoverlapping(tail.as_ptr(), target.add(head.len()), tail.len()) };
        Ok(())
    }

    /// Appends `len` bytes from `offset` to `target`.
    #[inline]
    pub(crate) fn copy_out(&self, offset: usize, len: usize, target: &mut Vec<u8>) -> Result<(), AccessError> {
        if len == 0 {
            return Ok(());
        }
        let (addr, on_demand) = self.range(offset, len)?;
        if on_demand {
            return mman::copy_out(addr, len, target).map_err(|_| AccessError::Fault);
        }
        target.reserve(len);
        let source: *const u8 = ptr::with_exposed_provenance(addr as usize);
        let end = target.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY:
        // - `source..+len` is inside the region (checked by `range`), mapped readable (invariant of Region).
        // - `end..+len` is spare capacity of `target` (reserved above), hence disjoint.
        unsafe { ptr::copy_nonoverlapping(source, end, len) };
        // SAFETY: the `len` bytes behind the old length were just written.
        unsafe { target.set_len(target.len() + len) };
        Ok(())
    }

    fn atomic(&self, offset: usize) -> Result<&AtomicU64, AccessError> {
        let (addr, on_demand) = self.range(offset, 8)?;
        if !addr.is_multiple_of(8) {
            return Err(AccessError::Unaligned);
        }
        if on_demand {
            mman::populate(addr, 8, true).map_err(|_| AccessError::Fault)?;
        }
        // SAFETY:
        // - 8 bytes at `addr` are inside the region, mapped writable, and aligned (checked above).
        // - They live as long as `self` is used: the region is not deregistered under a connection's lock.
        Ok(unsafe { AtomicU64::from_ptr(ptr::with_exposed_provenance_mut(addr as usize)) })
    }

    /// Compare and swap; gives what was there.
    pub(crate) fn compare_swap(&self, offset: usize, compare: u64, swap: u64) -> Result<u64, AccessError> {
        let atomic = self.atomic(offset)?;
        // SeqCst: peers and local threads agree on one order of all atomics.
        Ok(atomic.compare_exchange(compare, swap, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_else(|found| found))
    }

    /// Fetch and add; gives what was there.
    pub(crate) fn fetch_add(&self, offset: usize, add: u64) -> Result<u64, AccessError> {
        // SeqCst: as above.
        Ok(self.atomic(offset)?.fetch_add(add, Ordering::SeqCst))
    }
}
