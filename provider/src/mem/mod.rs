//! Registered memory: who may touch which bytes, and the only code that does.

mod keys;
mod region;
mod slots;

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use dmverbs_proto::Access;

pub(crate) use keys::keys;
pub(crate) use region::{AccessError, Region, Span};
pub(crate) use slots::SlotRing;

use crate::object::Error;
use crate::sys::mman::{self, Mapping};

/// A protection domain, as a number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PdId(pub(crate) u32);

/// The bytes that a peer names with `rkey`, if its key, rights and range allow it. Zero bytes need no key. `last` is
/// the region that was named last, and saves most look-ups.
#[inline]
pub(crate) fn target(
    last: &mut Option<Arc<Region>>,
    rkey: u32,
    addr: u64,
    len: u64,
    need: Access,
    pd: PdId,
) -> Result<Span, AccessError> {
    if len == 0 {
        return Ok(Span::empty());
    }
    Region::span(cached(last, rkey)?, addr, len, need, pd)
}

/// The region under `key`, which is often the one that was looked up last.
#[inline]
fn cached(last: &mut Option<Arc<Region>>, key: u32) -> Result<&Arc<Region>, AccessError> {
    match last {
        Some(region) if region.key() == key && region.is_live() => {}
        _ => *last = Some(keys().lookup(key).ok_or(AccessError::NoKey)?),
    }
    last.as_ref().ok_or(AccessError::NoKey)
}

/// Registers host memory.
///
/// # Errors
/// [`Error::Fault`] if it is not mapped with the rights that `access` needs.
pub(crate) fn register_host(addr: u64, len: u64, iova: u64, access: Access, pd: PdId) -> Result<Arc<Region>, Error> {
    let implicit = addr == 0 && len == u64::MAX;
    if implicit && !access.contains(Access::ON_DEMAND) {
        return Err(Error::Invalid("the whole address space can only be registered for on-demand access"));
    }
    if addr.checked_add(len).is_none() || iova.checked_add(len).is_none() {
        return Err(Error::Invalid("the range runs past the end of the address space"));
    }
    if !access.contains(Access::ON_DEMAND) && len > 0 {
        let write = access.intersects(Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::REMOTE_ATOMIC);
        mman::populate(addr, len, write).map_err(|_| Error::Fault)?;
    }
    let iova = if access.contains(Access::ZERO_BASED) { 0 } else { iova };
    keys().insert(|key| Region::new(key, addr, len, iova, access, pd, None))
}

/// Registers a dma-buf that can be mapped.
///
/// # Errors
/// `EBADF` for a file descriptor that is not open, [`Error::Invalid`] for one that is no dma-buf,
/// [`Error::NotSupported`] for one that cannot be mapped.
pub(crate) fn register_dmabuf(
    fd: RawFd,
    offset: u64,
    len: u64,
    iova: u64,
    access: Access,
    pd: PdId,
) -> Result<Arc<Region>, Error> {
    if fd < 0 {
        return Err(Error::Io(std::io::Error::from_raw_os_error(libc::EBADF)));
    }
    if len == 0 || iova.checked_add(len).is_none() {
        return Err(Error::Invalid("the range is empty or runs past the end of the address space"));
    }
    let page = mman::page_size();
    let skip = offset % page;
    let size = len.checked_add(skip).and_then(|n| usize::try_from(n).ok()).ok_or(Error::NoMemory)?;
    let write = access.intersects(Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::REMOTE_ATOMIC);
    // SAFETY: `fd` is not negative; if it is not open, the calls below say so.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    if !mman::is_dmabuf(fd)? {
        return Err(Error::Invalid("the file is no dma-buf"));
    }
    let mapping = Mapping::new(fd, offset - skip, size, write).map_err(|e| match e.raw_os_error() {
        Some(libc::ENODEV | libc::EACCES | libc::EOPNOTSUPP) => Error::NotSupported,
        _ => Error::Io(e),
    })?;
    let addr = mapping.addr() + skip;
    // A file may be shorter than its mapping: touching the pages now is safer than a SIGBUS later.
    mman::populate(addr, len, write).map_err(|_| Error::Fault)?;
    keys().insert(|key| Region::new(key, addr, len, iova, access, pd, Some(mapping)))
}
