//! Devices: one for each interface that has an address.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Error, Gid};
use crate::config;
use crate::sys::interface::{self, Interface};

/// A device, named `dmv_<interface>`.
#[derive(Debug)]
pub struct Device {
    name: String,
    ifname: String,
    ifindex: u32,
    guid: [u8; 8],
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

/// The devices of this network namespace, ordered by interface index; the loopback's is the last, as programs that are not
/// told which to use take the first.
///
/// # Errors
/// The interfaces cannot be listed, or an environment variable makes no sense (its name is in the error).
pub fn devices() -> Result<Vec<Arc<Device>>, Error> {
    let config = config::config()?;
    config.warn_of_unknown();
    let mut found = interface::interfaces()?;
    found.retain(|interface| interface.addresses.iter().any(|ip| gid_of(*ip).is_some()));
    found.sort_by_key(|interface| (interface.is_loopback(), interface.index));
    if let config::IfNames::Only(wanted) = &config.ifnames {
        for missing in wanted.iter().filter(|name| !found.iter().any(|interface| interface.name == **name)) {
            tracing::warn!("DMVERBS_IFNAMES names {missing}, which is no interface with an address");
        }
    }
    Ok(found.iter().filter(|interface| config.ifnames.allow(&interface.name)).map(Device::over).collect())
}

/// Addresses that peers elsewhere can reach; link-local IPv6 ones are not.
fn gid_of(ip: IpAddr) -> Option<Gid> {
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => None,
        ip => Some(Gid::from(ip)),
    }
}

impl Device {
    fn over(interface: &Interface) -> Arc<Device> {
        Arc::new(Device {
            name: format!("dmv_{}", interface.name),
            ifname: interface.name.clone(),
            ifindex: interface.index,
            guid: guid_of(interface),
        })
    }

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
        self.guid
    }

    /// Its GIDs now, by index: IPv4 addresses as IPv4-mapped, then global IPv6 ones, as they were found first. While this
    /// process lives, an address keeps its index; where one has gone the zero GID is, until another comes.
    ///
    /// # Errors
    /// The kernel does not list them, for want of file descriptors for instance.
    pub fn gids(&self) -> Result<Vec<Gid>, Error> {
        Ok(self.table(self.interface()?.as_ref()))
    }

    /// The state of its port now; down if the interface is gone.
    #[must_use]
    pub fn port(&self) -> PortInfo {
        let found = self.interface().ok();
        let gids = found.as_ref().map_or(0, |interface| self.table(interface.as_ref()).len());
        let interface = found.flatten();
        // The interface may have been renamed since.
        let name = interface.as_ref().map_or(&self.ifname, |interface| &interface.name);
        PortInfo {
            active: interface.as_ref().is_some_and(Interface::is_running),
            mtu: interface::mtu(name).unwrap_or(1500),
            speed_mbps: interface::speed_mbps(name).ok().flatten().unwrap_or(10_000),
            gids,
        }
    }

    fn table(&self, interface: Option<&Interface>) -> Vec<Gid> {
        static TABLES: Mutex<BTreeMap<u32, Vec<Gid>>> = Mutex::new(BTreeMap::new());
        let mut tables = TABLES.lock();
        let table = tables.entry(self.ifindex).or_default();
        update(table, &interface.map(gids_of).unwrap_or_default());
        table.clone()
    }

    fn interface(&self) -> io::Result<Option<Interface>> {
        Ok(interface::interfaces()?.into_iter().find(|interface| interface.index == self.ifindex))
    }
}

fn gids_of(interface: &Interface) -> Vec<Gid> {
    let mut ips = interface.addresses.clone();
    // A stable sort: IPv4 first, each family in the kernel's order.
    ips.sort_by_key(IpAddr::is_ipv6);
    ips.into_iter().filter_map(gid_of).collect()
}

/// Makes a table say which GIDs there are now; who stays keeps its place.
fn update(table: &mut Vec<Gid>, now: &[Gid]) {
    for gid in table.iter_mut().filter(|gid| !now.contains(gid)) {
        *gid = Gid::ZERO;
    }
    for gid in now {
        if table.contains(gid) {
            continue;
        }
        match table.iter_mut().find(|place| **place == Gid::ZERO) {
            Some(place) => *place = *gid,
            None => table.push(*gid),
        }
    }
    let used = table.iter().rposition(|gid| *gid != Gid::ZERO).map_or(0, |last| last + 1);
    table.truncate(used);
}

fn guid_of(interface: &Interface) -> [u8; 8] {
    match interface.mac {
        Some([a, b, c, d, e, f]) => [a ^ 2, b, c, 0xff, 0xfe, d, e, f],
        None => (0x0200_00ff_fe00_0000 | u64::from(interface.index)).to_be_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::sys::epoll::{Epoll, Event, Interest};
    use crate::sys::netlink::LinkEvents;
    use crate::testing::alone_by;

    #[test]
    fn the_mtu_code_is_the_largest_that_fits_the_interface() {
        let code = |mtu| PortInfo { active: true, mtu, speed_mbps: 1, gids: 1 }.mtu_code();
        let codes = [68, 256, 511, 512, 1024, 1500, 2047, 2048, 4095, 4096, 9000, 65_536].map(code);
        assert_eq!(codes, [1, 1, 1, 2, 3, 3, 3, 4, 4, 5, 5, 5]);
    }

    #[test]
    fn a_gid_keeps_its_index_while_others_come_and_go() {
        let gid = |last| Gid::from(IpAddr::from([10, 9, 0, last]));
        let mut table = Vec::new();
        let mut after = |now: &[Gid]| {
            update(&mut table, now);
            table.clone()
        };
        assert_eq!(after(&[gid(1), gid(2)]), [gid(1), gid(2)]);
        assert_eq!(after(&[gid(3), gid(1), gid(2)]), [gid(1), gid(2), gid(3)]);
        assert_eq!(after(&[gid(2), gid(3)]), [Gid::ZERO, gid(2), gid(3)]);
        assert_eq!(after(&[gid(2), gid(4)]), [gid(4), gid(2)]);
        assert_eq!(after(&[]), []);
    }

    /// The namespace is entered as nsenter(1) does: /sys still shows the interfaces of the old one.
    #[test]
    fn a_device_tells_what_its_interface_is_in_the_namespace_of_the_caller() {
        if !in_fresh_namespace("a_device_tells_what_its_interface_is_in_the_namespace_of_the_caller") {
            return;
        }
        assert!(devices().unwrap().is_empty(), "interfaces without an address are offered");
        ip("link set lo up");
        ip("link add v0 address 02:11:22:33:44:55 type veth peer name v1");
        ip("link set v0 mtu 3000");
        ip("address add 10.9.0.1/24 dev v0 label v0:1");
        ip("address add fd00::9/64 dev v0 nodad");
        ip("address add 10.9.0.2/24 dev v0");

        let found = devices().unwrap();
        let names: Vec<&str> = found.iter().map(|device| device.name()).collect();
        assert_eq!(names, ["dmv_v0", "dmv_lo"], "v1 has no address, v0:1 is only a label, and lo is the last");
        let v0 = &found[0];
        assert_eq!(v0.guid(), [0x00, 0x11, 0x22, 0xff, 0xfe, 0x33, 0x44, 0x55]);
        let gids: Vec<String> = v0.gids().unwrap().into_iter().map(|gid| gid.ip().to_string()).collect();
        assert_eq!(gids, ["10.9.0.1", "10.9.0.2", "fd00::9"], "IPv4 comes first");
        assert_eq!(v0.port(), PortInfo { active: false, mtu: 3000, speed_mbps: 10_000, gids: 3 });
        assert!(found[1].port().is_active());

        let mut links = Watch::new();
        ip("link set v1 up");
        ip("link set v0 up");
        links.wait_for(v0, true);
        assert!(v0.port().is_active());
        assert_eq!(v0.gids().unwrap().len(), 3, "the link-local address is no GID");
        ip("link set v1 down");
        links.wait_for(v0, false);
        assert!(!v0.port().is_active());

        ip("link delete v0");
        assert_eq!(v0.port(), PortInfo { active: false, mtu: 1500, speed_mbps: 10_000, gids: 0 });
    }

    struct Watch(LinkEvents, Epoll);

    impl Watch {
        fn new() -> Watch {
            let (links, epoll) = (LinkEvents::new().unwrap(), Epoll::new().unwrap());
            epoll.add(links.fd(), 0, Interest::READ).unwrap();
            Watch(links, epoll)
        }

        fn wait_for(&mut self, device: &Device, running: bool) {
            loop {
                while let Some(events) = self.0.read().unwrap() {
                    if events.iter().any(|event| event.ifindex == device.ifindex() && event.running == Some(running)) {
                        return;
                    }
                }
                let ready = self.1.wait(&mut [Event::default()], Some(Duration::from_secs(10))).unwrap();
                assert_ne!(ready, 0, "no event tells that {} is running: {running}", device.name());
            }
        }
    }

    /// Whether this process is alone in a network namespace. If not, the test `name` is run again in one that is made
    /// for it, as root of a user namespace where need be; it goes away with the process.
    fn in_fresh_namespace(name: &str) -> bool {
        let mut again = Command::new("unshare");
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            again.args(["--user", "--map-root-user"]);
        }
        again.arg("--net").env_remove("DMVERBS_IFNAMES");
        alone_by(again, &format!("object::device::tests::{name}"))
    }

    fn ip(words: &str) {
        let status = Command::new("ip").args(words.split(' ')).status().expect("ip(8) of iproute2 is installed");
        assert!(status.success(), "ip {words}");
    }
}
