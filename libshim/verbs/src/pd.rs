//! Protection domains.

use std::sync::Arc;

use dmverbs_ffi::{Class, Code, Handle, Own, Ptr, entry};
use dmverbs_provider::object;
use rdma_core_sys::verbs::ibv_pd;

use crate::context::Context;

/// `ibv_pd`.
#[derive(Debug)]
pub enum PdClass {}

// SAFETY: pointers and integers may be zero.
unsafe impl Class for PdClass {
    type C = ibv_pd;
    type Seen = ibv_pd;
    type Inner = Arc<object::Pd>;
    const NAME: &'static str = "ibv_pd";
}

/// A protection domain.
pub type Pd = Handle<PdClass>;

entry! {
    /// ibv_alloc_pd(3)
    pub fn ibv_alloc_pd(context: &Context) -> Ptr<ibv_pd> {
        let pd = object::Pd::alloc(context.provider())?;
        let mut new = Pd::reserve();
        new.c().context = context.seen();
        Ok(new.commit(pd))
    }

    /// ibv_dealloc_pd(3)
    pub fn ibv_dealloc_pd(pd: Own<'_, PdClass>) -> Code {
        object::Pd::dealloc(Arc::clone(&pd)).map_err(|(_, e)| e)?;
        pd.free();
        Ok(())
    }
}
