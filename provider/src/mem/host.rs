//! Registration of host memory.

use std::sync::Arc;

use dmverbs_proto::Access;

use super::region::Backing;
use super::{PdId, Region, keys, needs_write};
use crate::object::Error;
use crate::sys::mman;

/// Registers host memory.
///
/// # Errors
/// [`Error::Fault`] if it is not mapped with the rights that `access` needs, [`Error::NotSupported`] for on-demand
/// access where the system does not allow fault-safe copies.
pub(crate) fn register_host(addr: u64, len: u64, iova: u64, access: Access, pd: PdId) -> Result<Arc<Region>, Error> {
    let on_demand = access.contains(Access::ON_DEMAND);
    let implicit = addr == 0 && len == u64::MAX;
    if implicit && !on_demand {
        return Err(Error::Invalid("the whole address space can only be registered for on-demand access"));
    }
    if addr.checked_add(len).is_none() || iova.checked_add(len).is_none() {
        return Err(Error::Invalid("the range runs past the end of the address space"));
    }
    if on_demand && !mman::can_copy() {
        return Err(Error::NotSupported);
    }
    if !on_demand && len > 0 {
        mman::populate(addr, len, needs_write(access)).map_err(|_| Error::Fault)?;
    }
    let iova = if access.contains(Access::ZERO_BASED) { 0 } else { iova };
    let backing = if on_demand { Backing::OnDemand } else { Backing::Pinned };
    keys().insert(|key| Region::new(key, addr, len, iova, access, pd, backing))
}
