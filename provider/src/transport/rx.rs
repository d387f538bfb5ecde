//! Queues of NICs that put payload into the memory of a device.

use std::error::Error;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};

use dmverbs_netdev::broker::{Loan, NoLoan};
use dmverbs_netdev::{Lease, Protocol, bind_to_interface};

use parking_lot::Mutex;

use crate::mem::{Device, Kind};
use crate::sys::socket::{self, Socket};

/// A queue of an interface, bound to memory of a device, and the TCP port from which payload is steered there.
#[derive(Debug)]
pub(crate) struct Receiver {
    hold: Mutex<Option<Hold>>,
    ifindex: u32,
    kind: Kind,
    memory: Box<dyn Device>,
    binding: u32,
    listener: Socket,
    port: u16,
}

/// What the queue is ours by.
#[derive(Debug)]
enum Hold {
    Own {
        _lease: Lease,
    },
    /// The connection to the broker: the queue is ours as long as it, and as long as the broker lives.
    Lent {
        broker: Socket,
    },
}

/// Bytes of memory that are bound: all connections of the process together have no more in the queue at a time.
const BOUND: u64 = 32 << 20;

impl Receiver {
    /// Takes a queue to which nothing is spread (`dmverbs nic setup` sees to that), binds memory of `device`'s kind to
    /// it, and steers a port there. What this process may not do, it asks the broker for.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn open(
        ifindex: u32,
        device: &dyn Device,
        ports: Option<RangeInclusive<u16>>,
    ) -> Result<Receiver, Box<dyn Error + Send + Sync>> {
        Lease::find(ifindex)?;
        let memory = device.sibling(BOUND)?;
        let dmabuf = memory.dmabuf().ok_or("the memory has no dma-buf")?;
        let (listener, port) = socket::listen(ports)?;
        let (binding, hold) = match Lease::take(ifindex, dmabuf, port, &[Protocol::Tcp4, Protocol::Tcp6]) {
            Ok(lease) => (lease.binding(), Hold::Own { _lease: lease }),
            Err(denied) if denied.is_denied() => {
                // The broker lends nothing for a port that others can have on the same interface.
                bind_to_interface(&listener.as_fd(), ifindex)?;
                let loan = Loan::ask(ifindex, dmabuf, listener.as_fd()).map_err(|why| both(&denied, &why))?;
                tracing::debug!(queue = loan.queue, "the broker has lent a queue");
                (loan.binding, Hold::Lent { broker: Socket::adopt(loan.connection) })
            }
            Err(e) => return Err(e.into()),
        };
        Ok(Receiver { hold: Mutex::new(Some(hold)), ifindex, kind: memory.kind(), memory, binding, listener, port })
    }

    /// Whether the queue is still ours.
    pub(crate) fn is_live(&self) -> bool {
        match &*self.hold.lock() {
            Some(Hold::Own { .. }) => true,
            Some(Hold::Lent { broker }) => socket::is_open(broker.as_fd()),
            None => false,
        }
    }

    /// Whether it is for memory of `kind` behind this interface.
    pub(crate) fn serves(&self, ifindex: u32, kind: Kind) -> bool {
        (self.ifindex, self.kind) == (ifindex, kind)
    }

    /// Gives the queue back, also if somebody still has this: what comes now is of no use to anybody.
    pub(crate) fn close(&self) {
        drop(self.hold.lock().take());
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The memory that is bound, and the number of its binding.
    pub(crate) fn memory(&self) -> (&dyn Device, u32) {
        (self.memory.as_ref(), self.binding)
    }
}

/// Why a queue cannot be taken, and why none is lent.
fn both(denied: &dmverbs_netdev::Error, why: &NoLoan) -> String {
    format!("{denied}; {why}")
}
