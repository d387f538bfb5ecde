//! dma-bufs from which an interface may send.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dmverbs_netdev::Netdev;
use parking_lot::Mutex;

use crate::config::Devmem;
use crate::mem::Region;
use crate::sys::cancel::Uncancelled;
use crate::sys::fork::Unshared;

/// A dma-buf that was bound for sending, as long as this lives.
#[derive(Debug)]
pub(crate) struct Binding {
    id: u32,
    /// The kernel has refused to send from it.
    useless: AtomicBool,
    _socket: Unshared<Netdev>,
}

impl Binding {
    /// One that the kernel does not know.
    #[cfg(test)]
    pub(crate) fn unknown() -> Result<Binding, dmverbs_netdev::Error> {
        Ok(Binding { id: u32::MAX, useless: AtomicBool::new(false), _socket: Unshared::new(Netdev::open()?) })
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

/// The process's dma-bufs that are bound for sending: by key of their region and interface. `None` for those that cannot.
#[derive(Debug)]
pub(crate) struct Bindings {
    devmem: Devmem,
    bound: Mutex<HashMap<(u32, u32), MaybeBinding>>,
}

type MaybeBinding = Option<Arc<Binding>>;

impl Bindings {
    pub(crate) fn new(devmem: Devmem) -> Bindings {
        Bindings { devmem, bound: Mutex::default() }
    }

    /// The binding of a region's dma-buf to an interface, made when it is first asked for.
    pub(crate) fn of(&self, region: &Region, ifindex: u32) -> Option<Arc<Binding>> {
        let dmabuf = region.device().filter(|_| self.devmem != Devmem::Off)?.dmabuf()?;
        let mut bindings = self.bound.lock();
        let binding = bindings.entry((region.key(), ifindex)).or_insert_with(|| {
            let _uncancelled = Uncancelled::begin();
            let bind = || {
                let socket = Netdev::open()?;
                let id = socket.bind_tx(ifindex, dmabuf)?;
                Ok::<_, dmverbs_netdev::Error>(Binding {
                    id,
                    useless: AtomicBool::new(false),
                    _socket: Unshared::new(socket),
                })
            };
            bind().inspect_err(|e| tracing::info!("the host sends what device memory holds: {e}")).ok().map(Arc::new)
        });
        binding.as_ref().filter(|binding| !binding.useless.load(Ordering::Relaxed)).cloned()
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
