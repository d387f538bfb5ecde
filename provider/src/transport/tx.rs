//! dma-bufs from which an interface may send.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dmverbs_netdev::{Error, Netdev};
use dmverbs_proto::Tick;
use parking_lot::Mutex;

use crate::config::Devmem;
use crate::mem::Region;
use crate::sys::cancel::Uncancelled;
use crate::sys::fork::Unshared;
use crate::sys::time;

/// A dma-buf that was bound for sending, as long as this lives.
#[derive(Debug)]
pub(crate) struct Binding {
    id: u32,
    /// The kernel has refused to send from it.
    useless: AtomicBool,
    _socket: Unshared<Netdev>,
}

impl Binding {
    fn make(ifindex: u32, dmabuf: BorrowedFd<'_>) -> Result<Binding, Error> {
        let _uncancelled = Uncancelled::begin();
        let socket = netdev()?;
        let id = socket.get().bind_tx(ifindex, dmabuf)?;
        Ok(Binding { id, useless: AtomicBool::new(false), _socket: socket })
    }

    /// One that the kernel does not know.
    #[cfg(test)]
    pub(crate) fn unknown() -> Result<Binding, Error> {
        Ok(Binding { id: u32::MAX, useless: AtomicBool::new(false), _socket: netdev()? })
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// The kernel has refused to send: the host will.
    pub(crate) fn refused(&self, why: &io::Error) {
        if !self.useless.swap(true, Ordering::Relaxed) {
            tracing::warn!(binding = self.id, error = %why, "the kernel does not send from device memory");
        }
    }
}

/// A socket for bindings, which children do not keep.
pub(super) fn netdev() -> Result<Unshared<Netdev>, Error> {
    let mut netdev = Unshared::made(Netdev::socket_alone)?;
    netdev.get_mut().reach()?;
    Ok(netdev)
}

/// The process's dma-bufs that are bound for sending: by key of their region and interface. `None` for those that cannot.
#[derive(Debug)]
pub(crate) struct Bindings {
    devmem: Devmem,
    bound: Mutex<HashMap<(u32, u32), MaybeBinding>>,
    /// Until then nothing is asked for: something was missing that there may be later.
    missed: AtomicU64,
}

/// How long that lasts.
const PAUSE: Tick = 1_000_000_000;

type MaybeBinding = Option<Arc<Binding>>;

impl Bindings {
    pub(crate) fn new(devmem: Devmem) -> Bindings {
        Bindings { devmem, bound: Mutex::default(), missed: AtomicU64::new(0) }
    }

    /// The binding of a region's dma-buf to an interface, made when it is first asked for.
    pub(crate) fn of(&self, region: &Region, ifindex: u32) -> Option<Arc<Binding>> {
        let dmabuf = region.device().filter(|_| self.devmem != Devmem::Off)?.dmabuf()?;
        let binding = match self.bound.lock().entry((region.key(), ifindex)) {
            Entry::Occupied(known) => known.get().clone(),
            // Relaxed: a hint.
            Entry::Vacant(_) if time::now() < self.missed.load(Ordering::Relaxed) => None,
            Entry::Vacant(unknown) => match Binding::make(ifindex, dmabuf) {
                Ok(binding) => unknown.insert(Some(Arc::new(binding))).clone(),
                Err(e) if is_for_now(&e) => {
                    tracing::debug!("the host sends what device memory holds for now: {e}");
                    self.missed.store(time::now() + PAUSE, Ordering::Relaxed);
                    None
                }
                Err(e) => {
                    tracing::info!("the host sends what device memory holds: {e}");
                    unknown.insert(None).clone()
                }
            },
        };
        binding.filter(|binding| !binding.useless.load(Ordering::Relaxed))
    }

    /// Has a region be bound to an interface by `binding`.
    #[cfg(test)]
    pub(crate) fn set(&self, region: &Region, ifindex: u32, binding: Binding) {
        self.bound.lock().insert((region.key(), ifindex), Some(Arc::new(binding)));
    }

    /// Whether a region has, or could not have, a binding.
    #[cfg(test)]
    pub(crate) fn know(&self, key: u32) -> bool {
        self.bound.lock().keys().any(|(of, _)| *of == key)
    }

    /// The region is gone.
    pub(crate) fn forget(&self, key: u32) {
        self.bound.lock().retain(|(of, _), _| *of != key);
    }
}

/// Whether what is missing may be there the next time.
fn is_for_now(error: &Error) -> bool {
    matches!(error.errno(), libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENODEV)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::PdId;
    use crate::mem::stub::Memory;
    use crate::testing::alone;

    /// In a process of its own, all threads of which lack file descriptors meanwhile.
    #[test]
    fn what_could_not_be_bound_for_want_of_file_descriptors_is_bound_later() {
        const NAME: &str = "transport::tx::tests::what_could_not_be_bound_for_want_of_file_descriptors_is_bound_later";
        if !alone(NAME) {
            return;
        }
        let region = Memory::new(1).register(PdId(9));
        let bindings = Bindings::new(Devmem::RecvMsg);
        let before = set_limit(None);
        set_limit(Some(0));
        let bound = bindings.of(&region, 1).is_some();
        set_limit(Some(before));
        assert!(!bound && !bindings.know(region.key()));
        assert!(bindings.of(&region, 1).is_none() && !bindings.know(region.key()), "it is too early");
        bindings.missed.store(0, Ordering::Relaxed);
        // It is no dma-buf, and the interface sends from none.
        assert!(bindings.of(&region, 1).is_none() && bindings.know(region.key()));
    }

    /// Changes how many file descriptors there may be; gives how many that was.
    fn set_limit(to: Option<u64>) -> u64 {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is writable.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
        let before = limit.rlim_cur;
        limit.rlim_cur = to.unwrap_or(before);
        // SAFETY: `limit` is readable.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
        before
    }
}
