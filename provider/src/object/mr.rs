//! Memory regions; ibv_reg_mr(3).

use std::os::fd::RawFd;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Access, Advice, Error, Pd, Sge};
use crate::mem::{self, Region};

/// Registered memory.
#[derive(Debug)]
pub struct Mr {
    inner: Mutex<(Arc<Pd>, Arc<Region>)>,
}

impl Mr {
    /// Registers `len` bytes at `addr`, of the process or of a GPU, which peers name from `iova` on. `addr` 0 and `len`
    /// `u64::MAX` with [`Access::ON_DEMAND`] stand for the whole address space.
    ///
    /// # Errors
    /// [`Error::Fault`] if the memory is not mapped with these rights; [`Error::Invalid`] for rights that do not go
    /// together.
    pub fn register(pd: &Arc<Pd>, addr: u64, len: u64, iova: u64, access: Access) -> Result<Arc<Mr>, Error> {
        check(access)?;
        let region = mem::register(addr, len, iova, access, pd.id())?;
        Ok(Mr::over(pd, region))
    }

    /// Registers `len` bytes from `offset` of a dma-buf; ibv_reg_dmabuf_mr(3).
    ///
    /// # Errors
    /// `EBADF` for no open file; [`Error::NotSupported`] for a dma-buf that nobody can copy from.
    pub fn register_dmabuf(
        pd: &Arc<Pd>,
        offset: u64,
        len: u64,
        iova: u64,
        fd: RawFd,
        access: Access,
    ) -> Result<Arc<Mr>, Error> {
        check(access)?;
        let region = mem::register_dmabuf(fd, offset, len, iova, access, pd.id())?;
        Ok(Mr::over(pd, region))
    }

    fn over(pd: &Arc<Pd>, region: Arc<Region>) -> Arc<Mr> {
        prepare(pd, &region);
        pd.attach();
        Arc::new(Mr { inner: Mutex::new((pd.clone(), region)) })
    }

    /// Its local key.
    #[must_use]
    pub fn lkey(&self) -> u32 {
        self.inner.lock().1.key()
    }

    /// What it is at present.
    pub(crate) fn region(&self) -> Arc<Region> {
        self.inner.lock().1.clone()
    }

    /// Its remote key; the same number.
    #[must_use]
    pub fn rkey(&self) -> u32 {
        self.lkey()
    }

    /// Changes protection domain, memory or rights; the keys stay. What has been posted with them before fails.
    /// ibv_rereg_mr(3).
    ///
    /// # Errors
    /// As [`Mr::register`]; [`Error::NotSupported`] for a dma-buf. The region is then as it was.
    pub fn rereg(&self, pd: Option<&Arc<Pd>>, memory: Option<(u64, u64)>, access: Option<Access>) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        let (old_pd, old) = &*inner;
        if old.is_dmabuf() {
            return Err(Error::NotSupported);
        }
        let pd = pd.unwrap_or(old_pd).clone();
        let access = access.unwrap_or(old.access());
        check(access)?;
        let (addr, len, iova) = match memory {
            Some((addr, len)) => (addr, len, addr),
            None => (old.base(), old.len(), old.iova()),
        };
        let new = Arc::new(mem::unkeyed(addr, len, iova, access, pd.id())?(old.key()));
        old.revoke();
        mem::keys().replace(&new);
        old_pd.context().progress().quiesce(old);
        prepare(&pd, &new);
        pd.attach();
        let (old_pd, _) = std::mem::replace(&mut *inner, (pd, new));
        old_pd.detach();
        Ok(())
    }

    /// Does to the pages of ranges of on-demand regions as advised, before it returns. ibv_advise_mr(3).
    ///
    /// # Errors
    /// `ENOENT` for a key of no region, `EPERM` for one of another protection domain or without the right to write,
    /// [`Error::Invalid`] for a region that is not on demand, [`Error::Fault`] for a range that is not all in the region,
    /// or not mapped. What comes before such a range has been done.
    pub fn advise(pd: &Pd, advice: Advice, ranges: &[Sge]) -> Result<(), Error> {
        ranges.iter().try_for_each(|range| mem::advise(pd.id(), advice, range))
    }

    /// Ends it: when this returns, nothing touches the memory any more.
    ///
    /// # Errors
    /// None today; the signature leaves room for memory windows (EBUSY).
    pub fn deregister(mr: Arc<Mr>) -> Result<(), (Arc<Mr>, Error)> {
        let inner = mr.inner.lock();
        revoke(&inner.0, &inner.1);
        inner.0.detach();
        Ok(())
    }
}

/// Memory of a device that may be written will be received into.
fn prepare(pd: &Pd, region: &Region) {
    if region.access().contains(Access::LOCAL_WRITE) {
        let context = pd.context();
        context.progress().prepare(context.device().ifindex(), region);
    }
}

fn revoke(pd: &Pd, region: &Arc<Region>) {
    region.revoke();
    mem::keys().remove(region.key());
    pd.context().progress().quiesce(region);
}

fn check(access: Access) -> Result<(), Error> {
    if access.intersects(Access::REMOTE_WRITE | Access::REMOTE_ATOMIC) && !access.contains(Access::LOCAL_WRITE) {
        return Err(Error::Invalid("remote write or atomic access without local write access"));
    }
    Ok(())
}
