//! Memory regions.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use dmverbs_ffi::{Class, Code, Errno, Handle, MinusOne, Own, Ptr, entry};
use dmverbs_provider::object::{self, Access, Advice};
use rdma_core_sys::verbs::{
    IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH, IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT,
    IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE, IB_UVERBS_ADVISE_MR_FLAG_FLUSH, IBV_REREG_MR_CHANGE_ACCESS,
    IBV_REREG_MR_CHANGE_PD, IBV_REREG_MR_CHANGE_TRANSLATION, IBV_REREG_MR_FLAGS_SUPPORTED, ibv_mr, ibv_pd, ibv_sge,
};

use crate::pd::{Pd, PdClass};
use crate::post::elements;

/// `ibv_mr`.
#[derive(Debug)]
pub enum MrClass {}

// SAFETY: pointers and integers may be zero.
unsafe impl Class for MrClass {
    type C = ibv_mr;
    type Seen = ibv_mr;
    type Inner = Arc<object::Mr>;
    const NAME: &'static str = "ibv_mr";
}

/// A memory region.
pub type Mr = Handle<MrClass>;

entry! {
    /// ibv_reg_mr(3)
    pub fn ibv_reg_mr(pd: &Pd, addr: *mut c_void, length: usize, access: c_int) -> Ptr<ibv_mr> {
        register(pd, addr, length, addr.addr() as u64, access.cast_unsigned())
    }

    /// ibv_reg_mr_iova(3)
    pub fn ibv_reg_mr_iova(pd: &Pd, addr: *mut c_void, length: usize, iova: u64, access: c_int) -> Ptr<ibv_mr> {
        register(pd, addr, length, iova, access.cast_unsigned())
    }

    /// ibv_reg_mr(3) with optional access flags
    pub fn ibv_reg_mr_iova2(pd: &Pd, addr: *mut c_void, length: usize, iova: u64, access: c_uint) -> Ptr<ibv_mr> {
        register(pd, addr, length, iova, access)
    }

    /// ibv_reg_dmabuf_mr(3)
    pub fn ibv_reg_dmabuf_mr(
        pd: &Pd, offset: u64, length: usize, iova: u64, fd: c_int, access: c_int,
    ) -> Ptr<ibv_mr> {
        let access = rights(access.cast_unsigned())?;
        let mr = object::Mr::register_dmabuf(pd, offset, length as u64, iova, fd, access)?;
        // There is no address: rdma-core has the offset there.
        Ok(publish(pd, std::ptr::without_provenance_mut(offset as usize), length, mr))
    }

    /// ibv_rereg_mr(3): any failure leaves the region as it was, which is IBV_REREG_MR_ERR_INPUT, −1.
    pub fn ibv_rereg_mr(
        mr: &Mr, flags: c_int, pd: *mut ibv_pd, addr: *mut c_void, length: usize, access: c_int,
    ) -> MinusOne {
        let flags = flags.cast_unsigned();
        if flags == 0 || flags & !IBV_REREG_MR_FLAGS_SUPPORTED != 0 {
            return Err(Errno::invalid("`flags` holds nothing, or something unknown"));
        }
        if flags & IBV_REREG_MR_CHANGE_TRANSLATION != 0 && (length == 0 || addr.is_null()) {
            return Err(Errno::invalid("a new translation needs an address and a length"));
        }
        if flags & IBV_REREG_MR_CHANGE_ACCESS == 0 && access != 0 {
            return Err(Errno::invalid("`access` is given without IBV_REREG_MR_CHANGE_ACCESS"));
        }
        // pyverbs gives an address that is no protection domain's where it gives none.
        let new_pd = if flags & IBV_REREG_MR_CHANGE_PD != 0 { Some(Pd::find(pd, "pd")?) } else { None };
        let memory = flags & IBV_REREG_MR_CHANGE_TRANSLATION != 0;
        let access = if flags & IBV_REREG_MR_CHANGE_ACCESS != 0 { Some(rights(access.cast_unsigned())?) } else { None };
        let range = memory.then_some((addr.addr() as u64, length as u64));
        mr.rereg(new_pd.map(|pd| &**pd), range, access)?;
        // SAFETY: the structure lives, and a program must not use a region while it changes it.
        let c = unsafe { &mut *mr.c() };
        if memory {
            (c.addr, c.length) = (addr, length);
        }
        if let Some(pd) = new_pd {
            c.pd = pd.seen();
        }
        Ok(0)
    }

    /// ibv_advise_mr(3): at once, asked for IBV_ADVISE_MR_FLAG_FLUSH or not
    pub fn advise_mr(pd: &Pd, advice: c_uint, flags: u32, sg_list: *mut ibv_sge, num_sge: u32) -> Code {
        let advice = match advice {
            IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH => Advice::Prefetch,
            IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE => Advice::PrefetchWrite,
            IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT => Advice::PrefetchNoFault,
            _ => return Err(Errno::unsupported("`advice` is unknown")),
        };
        if flags & !IB_UVERBS_ADVISE_MR_FLAG_FLUSH != 0 {
            return Err(Errno::invalid("`flags` holds something unknown"));
        }
        // SAFETY: the elements are there: the caller's duty.
        let ranges = unsafe { elements(sg_list, num_sge.cast_signed()) }?;
        if ranges.is_empty() {
            return Err(Errno::invalid("`num_sge` is 0"));
        }
        Ok(object::Mr::advise(pd, advice, ranges)?)
    }

    /// ibv_dereg_mr(3)
    pub fn ibv_dereg_mr(mr: Own<'_, MrClass>) -> Code {
        object::Mr::deregister(Arc::clone(&mr)).map_err(|(_, e)| e)?;
        mr.free();
        Ok(())
    }
}

fn register(pd: &Pd, addr: *mut c_void, length: usize, iova: u64, access: c_uint) -> Result<*mut ibv_mr, Errno> {
    let mr = object::Mr::register(pd, addr.addr() as u64, length as u64, iova, rights(access)?)?;
    Ok(publish(pd, addr, length, mr))
}

fn publish(pd: &Handle<PdClass>, addr: *mut c_void, length: usize, mr: Arc<object::Mr>) -> *mut ibv_mr {
    let mut new = Mr::reserve();
    let pd: *mut ibv_pd = pd.seen();
    // SAFETY: `find` has just found the domain alive; only a pointer in it is read.
    let context = unsafe { (*pd).context };
    let handle = mr.lkey();
    *new.c() = ibv_mr { context, pd, addr, length, handle, lkey: mr.lkey(), rkey: mr.rkey() };
    new.commit(mr)
}

/// Unknown flags of the optional range are dropped, as ibv_reg_mr(3) allows; other unknown ones are refused.
fn rights(access: c_uint) -> Result<Access, Errno> {
    const OPTIONAL: u32 = 0x3ff0_0000;
    Access::from_bits(access & !OPTIONAL | access & OPTIONAL & Access::all().bits())
        .ok_or(Errno::invalid("`access` holds an unknown flag"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_access_flags_that_nobody_knows_are_dropped() {
        assert_eq!(rights(1 | 1 << 25).unwrap(), Access::LOCAL_WRITE);
        assert_eq!(rights(1 << 20).unwrap(), Access::RELAXED_ORDERING);
        assert_eq!(rights(1 << 12).unwrap_err().code(), libc::EINVAL);
    }
}
