//! Queues of NICs that put payload into the memory of a device.

use std::error::Error;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};

use dmverbs_netdev::{DataSplit, Ethtool, Netdev, Protocol, RuleSpec};

use crate::mem::{Device, Kind};
use crate::sys::socket::{self, Socket};

/// A queue of an interface, bound to memory of a device, and the TCP port from which payload is steered there.
#[derive(Debug)]
pub(crate) struct Receiver {
    ifindex: u32,
    kind: Kind,
    memory: Box<dyn Device>,
    binding: u32,
    queue: u32,
    listener: Socket,
    port: u16,
    ethtool: Ethtool,
    rules: Vec<u32>,
    /// The binding lives as long as this.
    _netdev: Netdev,
}

/// Bytes of memory that are bound: all connections of the process together have no more in the queue at a time.
const BOUND: u64 = 32 << 20;
/// Bytes of a buffer of the queue, where the NIC has more to offer than a page: fewer pieces to copy.
const LARGE: u32 = 64 << 10;

impl Receiver {
    /// Takes a queue to which nothing is spread (`dmverbs nic setup` sees to that), binds memory of `device`'s kind to
    /// it, and steers a port there.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn open(
        ifindex: u32,
        device: &dyn Device,
        ports: Option<RangeInclusive<u16>>,
    ) -> Result<Receiver, Box<dyn Error + Send + Sync>> {
        let (ethtool, netdev) = (Ethtool::open()?, Netdev::open()?);
        if ethtool.rings(ifindex)?.tcp_data_split != Some(DataSplit::Enabled) {
            return Err("header split is not on".into());
        }
        let spread = ethtool.rss_table(ifindex)?;
        let queues = netdev.rx_queues(ifindex)?;
        let free =
            |queue: &&dmverbs_netdev::RxQueue| queue.dmabuf.is_none() && !queue.taken && !spread.contains(&queue.id);
        let queue = queues.iter().rev().find(free).ok_or("there is no queue that RSS spreads nothing to")?.id;
        // Who had the queue before may have been killed.
        for rule in ethtool.rules(ifindex)? {
            if rule.queue == Some(queue) {
                ethtool.delete_rule(ifindex, rule.location)?;
            }
        }
        let memory = device.sibling(BOUND)?;
        let bind = |page_size| netdev.bind_rx(ifindex, memory.dmabuf(), &[queue], page_size);
        let binding = bind(Some(LARGE)).or_else(|_| bind(None))?;
        let (listener, port) = socket::listen(ports)?;
        let mut receiver = Receiver {
            ifindex,
            kind: memory.kind(),
            memory,
            binding,
            queue,
            listener,
            port,
            ethtool,
            rules: Vec::new(),
            _netdev: netdev,
        };
        receiver.steer()?;
        Ok(receiver)
    }

    fn steer(&mut self) -> Result<(), dmverbs_netdev::Error> {
        for protocol in [Protocol::Tcp4, Protocol::Tcp6] {
            let spec = RuleSpec { protocol, dst_port: self.port };
            self.rules.push(self.ethtool.insert_rule(self.ifindex, spec, self.queue)?);
        }
        Ok(())
    }

    /// Whether it is for memory of `kind` behind this interface.
    pub(crate) fn serves(&self, ifindex: u32, kind: Kind) -> bool {
        (self.ifindex, self.kind) == (ifindex, kind)
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

impl Drop for Receiver {
    fn drop(&mut self) {
        for &rule in &self.rules {
            if let Err(e) = self.ethtool.delete_rule(self.ifindex, rule) {
                tracing::warn!("a steering rule stays: {e}");
            }
        }
    }
}
