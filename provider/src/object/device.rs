//! Devices: one for each interface that has an address.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Error, Gid};
use crate::config;
use crate::sys::interface;

/// A device, named `dmv_<interface>`.
#[derive(Debug)]
pub struct Device {
    name: String,
    ifname: String,
    ifindex: u32,
}

/// What a device can do.
#[derive(Clone, Copy, Debug)]
pub struct Limits;

impl Limits {
    /// Queue pairs in a process: 256 a listener, and as many listeners as a process may reasonably open.
    pub const MAX_QP: u32 = 64 << 10;
    /// Requests outstanding on a queue.
    pub const MAX_QP_WR: u32 = 32 << 10;
    /// Elements of a scatter/gather list.
    pub const MAX_SGE: u32 = 32;
    /// Inline bytes of a request.
    pub const MAX_INLINE: u32 = 1024;
    /// Completion queues; memory is what limits them.
    pub const MAX_CQ: u32 = 64 << 10;
    /// Completions in a queue.
    pub const MAX_CQE: u32 = 4 << 20;
    /// Memory regions; memory is what limits them.
    pub const MAX_MR: u32 = 1 << 20;
    /// Protection domains; memory is what limits them.
    pub const MAX_PD: u32 = 64 << 10;
    /// READs and atomics in flight on a QP, in each direction.
    pub const MAX_RD_ATOMIC: u8 = 128;
    /// Bytes of a message.
    pub const MAX_MESSAGE: u32 = crate::engine::MAX_MESSAGE as u32;
}

/// The state of a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PortInfo {
    /// Whether the link is up.
    pub active: bool,
    /// The interface's MTU in bytes.
    pub mtu: u32,
    /// The speed in Mbit/s; 10,000 where the kernel knows none (loopback, veth).
    pub speed_mbps: u32,
    /// GIDs.
    pub gids: usize,
}

impl PortInfo {
    /// Whether the link is up.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// The largest MTU of InfiniBand that fits the interface's, as its code: 1 (256 bytes) to 5 (4096).
    #[must_use]
    pub fn mtu_code(&self) -> u32 {
        (2..=5).rev().find(|code| 128 << code <= self.mtu).unwrap_or(1)
    }
}

/// The devices of this network namespace, ordered by interface index.
///
/// # Errors
/// The interfaces cannot be listed, or an environment variable makes no sense (its name is in the error).
pub fn devices() -> Result<Vec<Arc<Device>>, Error> {
    let config = config::config()?;
    let mut names = BTreeMap::new();
    for address in interface::addresses()? {
        if gid_of(address.ip).is_some() && config.ifnames.allow(&address.ifname) {
            names.insert(address.ifindex, address.ifname);
        }
    }
    if let config::IfNames::Only(wanted) = &config.ifnames {
        for missing in wanted.iter().filter(|name| !names.values().any(|n| n == *name)) {
            tracing::warn!("DMVERBS_IFNAMES names {missing}, which is no interface with an address");
        }
    }
    let device = |(ifindex, ifname)| Arc::new(Device { name: format!("dmv_{ifname}"), ifname, ifindex });
    Ok(names.into_iter().map(device).collect())
}

/// Addresses that peers elsewhere can reach; link-local IPv6 ones are not.
fn gid_of(ip: IpAddr) -> Option<Gid> {
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => None,
        ip => Some(Gid::from(ip)),
    }
}

impl Device {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its interface.
    #[must_use]
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// Its interface's index.
    #[must_use]
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Its GUID in network byte order: the EUI-64 of the interface's MAC address; of the index where there is none.
    #[must_use]
    pub fn guid(&self) -> [u8; 8] {
        let text = self.attribute("address").unwrap_or_default();
        let mac: Vec<u8> = text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        match mac[..] {
            [a, b, c, d, e, f] if mac.iter().any(|byte| *byte != 0) => [a ^ 2, b, c, 0xff, 0xfe, d, e, f],
            _ => (0x0200_00ff_fe00_0000 | u64::from(self.ifindex)).to_be_bytes(),
        }
    }

    /// Its GIDs now: IPv4 addresses as IPv4-mapped, then global IPv6 ones.
    #[must_use]
    pub fn gids(&self) -> Vec<Gid> {
        let addresses = interface::addresses().unwrap_or_default();
        let mut ips: Vec<IpAddr> = addresses.into_iter().filter(|a| a.ifindex == self.ifindex).map(|a| a.ip).collect();
        // A stable sort: IPv4 first, each family in the kernel's order.
        ips.sort_by_key(IpAddr::is_ipv6);
        ips.into_iter().filter_map(gid_of).collect()
    }

    /// The state of its port now.
    #[must_use]
    pub fn port(&self) -> PortInfo {
        let number = |name| self.attribute(name).and_then(|text| text.parse::<i64>().ok());
        // IFF_UP | IFF_RUNNING as the kernel shows them, carrier apart: reading it fails while the link is down.
        let up = self.attribute("flags").and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        PortInfo {
            active: up.is_some_and(|flags| flags & libc::IFF_UP as u32 != 0) && number("carrier") == Some(1),
            mtu: number("mtu").and_then(|mtu| u32::try_from(mtu).ok()).unwrap_or(1500),
            speed_mbps: number("speed").and_then(|s| u32::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(10_000),
            gids: self.gids().len(),
        }
    }

    /// An attribute in /sys/class/net, which shows the network namespace that sysfs was mounted in; where that is
    /// another one, ioctls would be the way.
    fn attribute(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(format!("/sys/class/net/{}/{name}", self.ifname)).ok()?;
        Some(text.trim().to_owned())
    }
}
