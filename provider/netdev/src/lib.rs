//! Network interfaces as devmem TCP needs them: dma-bufs bound to queues, and the settings of an interface that have
//! to fit.
//!
//! [`Netdev`] speaks the kernel's generic netlink family `netdev`, [`Ethtool`] the family `ethtool`. Each holds one
//! netlink socket, of the network namespace in which its thread opened it; every call is one request and waits for its
//! answer. There is no other state, so threads may share them, and interfaces are named by their index alone.
//! [`Lease`] is a queue taken by means of both, [`Leased`] one that a netkit interface has, [`Turns`] keeps two processes
//! from taking one at the same time, and [`broker`] is what a process without CAP_NET_ADMIN asks to take one.
//!
//! Two things cannot be said by netlink, and go by `ioctl(SIOCETHTOOL)` on the same socket: steering rules
//! (`ETHTOOL_SRXCLSRLINS`, `ETHTOOL_GRXCLSRLALL` and the like), and the RSS table of kernels that have no
//! `ETHTOOL_MSG_RSS_SET` (before 6.17).
#![deny(unsafe_code)]

pub mod broker;
mod error;
mod ethtool;
mod genl;
mod ioctl;
mod lease;
mod netdev;
mod rules;
mod socket;
mod turns;

pub use error::Error;
pub use ethtool::{Channels, ChannelsChange, DataSplit, Ethtool, Feature, Rings, RingsChange};
pub use lease::{Lease, Leased, Vacancy, left_behind};
pub use netdev::{LARGE, Netdev, RxQueue};
pub use rules::{Protocol, Rule, RuleSpec};
pub use socket::{bind_to_interface, bound_interface, namespace, peer};
pub use turns::{Turn, Turns};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_may_share_the_sockets() {
        fn shared<T: Send + Sync>() {}
        shared::<Netdev>();
        shared::<Ethtool>();
        shared::<Lease>();
        shared::<Turns>();
    }
}
