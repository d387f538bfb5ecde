//! Registration of memory by its address.

use std::io;
use std::sync::Arc;

use dmverbs_proto::Access;

use super::region::Backing;
use super::{AccessError, PdId, Region, device, keys, needs_write};
use crate::object::{Advice, Error, Sge};
use crate::sys::mman;

/// Registers what [`unkeyed`] makes.
///
/// # Errors
/// As [`unkeyed`].
pub(crate) fn register(addr: u64, len: u64, iova: u64, access: Access, pd: PdId) -> Result<Arc<Region>, Error> {
    keys().insert(unkeyed(addr, len, iova, access, pd)?)
}

/// What makes a region, when it has a key, of host memory, or of that of a device whose addresses are also the program's.
///
/// # Errors
/// [`Error::Fault`] if it is not mapped with the rights that `access` needs, `EFAULT` if it ends before it should,
/// [`Error::NotSupported`] for on-demand access where the system does not allow fault-safe copies.
pub(crate) fn unkeyed(
    addr: u64,
    len: u64,
    iova: u64,
    access: Access,
    pd: PdId,
) -> Result<impl FnOnce(u32) -> Region, Error> {
    let on_demand = access.contains(Access::ON_DEMAND);
    let implicit = addr == 0 && len == u64::MAX;
    if implicit && !on_demand {
        return Err(Error::Invalid("the whole address space can only be registered for on-demand access"));
    }
    if addr.checked_add(len).is_none() || iova.checked_add(len).is_none() {
        return Err(Error::Invalid("the range runs past the end of the address space"));
    }
    let iova = if access.contains(Access::ZERO_BASED) { 0 } else { iova };
    let device = if implicit || len == 0 { None } else { device::at(addr, len)? };
    let (base, backing) = if let Some((device, offset)) = device {
        (offset, Backing::Device(device))
    } else if on_demand {
        if !mman::can_copy() {
            return Err(Error::NotSupported);
        }
        (addr, Backing::OnDemand)
    } else {
        if len > 0 {
            mman::populate(addr, len, needs_write(access)).map_err(|_| Error::Fault)?;
        }
        (addr, Backing::Pinned)
    };
    Ok(move |key| Region::new(key, base, len, iova, access, pd, backing))
}

/// See [`crate::object::Mr::advise`].
pub(crate) fn advise(pd: PdId, advice: Advice, range: &Sge) -> Result<(), Error> {
    let os = |code| Error::Io(io::Error::from_raw_os_error(code));
    let region = keys().lookup(range.lkey).ok_or(os(libc::ENOENT))?;
    if !region.is_on_demand() {
        return Err(Error::Invalid("the region is not on demand"));
    }
    let write = advice == Advice::PrefetchWrite;
    let need = if write { Access::LOCAL_WRITE } else { Access::empty() };
    let addr = region.locate(range.addr, range.length.into(), need, pd).map_err(|e| match e {
        AccessError::OutOfRange | AccessError::Fault => Error::Fault,
        _ => os(libc::EPERM),
    })?;
    if range.length == 0 || advice == Advice::PrefetchNoFault {
        return Ok(());
    }
    mman::populate(addr, range.length.into(), write).map_err(|_| Error::Fault)
}
