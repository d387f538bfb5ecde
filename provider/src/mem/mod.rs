//! Registered memory: who may touch which bytes, and the only code that does.

mod bytes;
mod device;
mod dmabuf;
mod host;
mod keys;
mod region;
mod slots;
#[cfg(test)]
pub(crate) mod stub;

use std::sync::Arc;

use dmverbs_proto::Access;

pub(crate) use device::{Copier, Device, Kind, Piece};
pub(crate) use dmabuf::register_dmabuf;
pub(crate) use host::{advise, register, unkeyed};
pub(crate) use keys::keys;
pub(crate) use region::{AccessError, Region, Span};
pub(crate) use slots::SlotRing;

use crate::sys::cancel::Uncancelled;

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

/// Makes `span` what [`target`] would find: in less time where it is of the same region.
#[inline]
pub(crate) fn retarget(
    span: &mut Span,
    last: &mut Option<Arc<Region>>,
    rkey: u32,
    addr: u64,
    len: u64,
    need: Access,
    pd: PdId,
) -> Result<(), AccessError> {
    if len == 0 || !span.point(cached(last, rkey)?, addr, len, need, pd) {
        *span = target(last, rkey, addr, len, need, pd)?;
    }
    Ok(())
}

/// Writes `source` where a peer names `covers` bytes with `rkey`, as [`target`] and [`Span::copy_in`] would. False if
/// that is a device's, and not written.
#[inline]
pub(crate) fn put(
    last: &mut Option<Arc<Region>>,
    rkey: u32,
    addr: u64,
    covers: u64,
    pd: PdId,
    source: &[u8],
) -> Result<bool, AccessError> {
    let region = cached(last, rkey)?;
    if region.is_dmabuf() {
        return Ok(false);
    }
    region.put(addr, covers, pd, source).map(|()| true)
}

/// The region under `key`, which is often the one that was looked up last.
#[inline]
fn cached(last: &mut Option<Arc<Region>>, key: u32) -> Result<&Arc<Region>, AccessError> {
    match last {
        Some(region) if region.key() == key && region.is_live() => {}
        _ => {
            let found = keys().lookup(key).ok_or(AccessError::NoKey)?;
            let before = last.replace(found);
            // Nobody else may have it: then its device goes.
            let _uncancelled = before.as_ref().is_some_and(|region| region.is_dmabuf()).then(Uncancelled::begin);
            drop(before);
        }
    }
    last.as_ref().ok_or(AccessError::NoKey)
}

/// Whether memory must be writable to grant `access`.
fn needs_write(access: Access) -> bool {
    access.intersects(Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::REMOTE_ATOMIC)
}
