//! Protection domains; ibv_alloc_pd(3).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::{Context, Error};
use crate::mem::PdId;

/// A protection domain: keys of one never open memory of another.
#[derive(Debug)]
pub struct Pd {
    context: Arc<Context>,
    id: PdId,
    /// Memory regions and queue pairs that live in it.
    children: AtomicUsize,
}

impl Pd {
    /// Makes one.
    ///
    /// # Errors
    /// None today; the signature is ibv_alloc_pd(3)'s.
    pub fn alloc(context: &Arc<Context>) -> Result<Arc<Pd>, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let id = PdId(NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Arc::new(Pd { context: context.clone(), id, children: AtomicUsize::new(0) }))
    }

    /// Ends it.
    ///
    /// # Errors
    /// [`Error::Busy`] while it has children; it lives on.
    pub fn dealloc(pd: Arc<Pd>) -> Result<(), (Arc<Pd>, Error)> {
        if pd.children.load(Ordering::Acquire) == 0 { Ok(()) } else { Err((pd, Error::Busy)) }
    }

    /// Its context.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn id(&self) -> PdId {
        self.id
    }

    pub(crate) fn attach(&self) {
        self.children.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn detach(&self) {
        self.children.fetch_sub(1, Ordering::AcqRel);
    }
}
