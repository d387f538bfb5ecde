//! Network interfaces of the calling thread's network namespace.
//!
//! sysfs would show those of the namespace it was mounted in, which `nsenter --net` and setns(2) leave behind; the
//! calls here always ask the namespace that sockets are opened in.

use std::ffi::{CStr, c_void};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::check;

/// An interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) index: u32,
    flags: u32,
    /// Its Ethernet address; loopback has none, nor have tunnels.
    pub(crate) mac: Option<[u8; 6]>,
    /// Its IP addresses, in the kernel's order.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Interface {
    /// Whether it leads to this machine only.
    pub(crate) fn is_loopback(&self) -> bool {
        self.flags & libc::IFF_LOOPBACK as u32 != 0
    }

    /// Whether it is up with a carrier: what a link event of [`super::netlink`] calls running.
    pub(crate) fn is_running(&self) -> bool {
        let wanted = (libc::IFF_UP | libc::IFF_LOWER_UP) as u32;
        self.flags & wanted == wanted
    }
}

/// Every interface; getifaddrs(3).
///
/// # Errors
/// The kernel does not list them.
pub(crate) fn interfaces() -> io::Result<Vec<Interface>> {
    let mut head = std::ptr::null_mut();
    // SAFETY: `head` is writable; the list is freed below.
    check(unsafe { libc::getifaddrs(&mut head) })?;
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut addresses = Vec::new();
    let mut next: *const libc::ifaddrs = head;
    // SAFETY: `next` is null or an element of the list, which is not yet freed.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: getifaddrs(3): `ifa_name` is a C string.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy();
        // SAFETY: getifaddrs(3): `ifa_addr` is null or a socket address of its family's length.
        match unsafe { parse(entry.ifa_addr) } {
            Some(Address::Link { index, mac }) => interfaces.push(Interface {
                name: name.into_owned(),
                index,
                flags: entry.ifa_flags,
                mac,
                addresses: Vec::new(),
            }),
            Some(Address::Ip(ip)) => addresses.push((name.into_owned(), ip)),
            None => {}
        }
    }
    // SAFETY: `head` came from getifaddrs and nothing of the list is used any more.
    unsafe { libc::freeifaddrs(head) };
    for (label, ip) in addresses {
        // An IPv4 address may carry a label, `eth0:1`; the names of interfaces hold no colon.
        let name = label.split(':').next().unwrap_or_default();
        if let Some(interface) = interfaces.iter_mut().find(|interface| interface.name == name) {
            interface.addresses.push(ip);
        }
    }
    Ok(interfaces)
}

enum Address {
    Ip(IpAddr),
    Link { index: u32, mac: Option<[u8; 6]> },
}

/// # Safety
/// `address` is null or points to a socket address of its family's length.
unsafe fn parse(address: *const libc::sockaddr) -> Option<Address> {
    // SAFETY: null or valid for the family field, by contract.
    let family = unsafe { address.as_ref() }?.sa_family;
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: an AF_INET address is a sockaddr_in, by contract.
            let v4 = unsafe { &*address.cast::<libc::sockaddr_in>() };
            Some(Address::Ip(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into()))
        }
        libc::AF_INET6 => {
            // SAFETY: an AF_INET6 address is a sockaddr_in6, by contract.
            let v6 = unsafe { &*address.cast::<libc::sockaddr_in6>() };
            Some(Address::Ip(Ipv6Addr::from(v6.sin6_addr.s6_addr).into()))
        }
        libc::AF_PACKET => {
            // SAFETY: an AF_PACKET address is at least a sockaddr_ll, by contract.
            let link = unsafe { &*address.cast::<libc::sockaddr_ll>() };
            let [a, b, c, d, e, f, ..] = link.sll_addr;
            let mac = [a, b, c, d, e, f];
            let is_mac = link.sll_halen == 6 && mac != [0; 6];
            Some(Address::Link { index: u32::try_from(link.sll_ifindex).ok()?, mac: is_mac.then_some(mac) })
        }
        _ => None,
    }
}

/// The MTU of the interface `name` in bytes; netdevice(7).
///
/// # Errors
/// There is no such interface.
pub(crate) fn mtu(name: &str) -> io::Result<u32> {
    /// `struct ifreq` with its `ifr_mtu`.
    #[repr(C)]
    struct Request {
        name: [u8; libc::IF_NAMESIZE],
        mtu: libc::c_int,
        rest: [u8; 20],
    }
    let socket = any_socket()?;
    let mut request = Request { name: padded(name)?, mtu: 0, rest: [0; 20] };
    // SAFETY: `request` is as long as struct ifreq, and SIOCGIFMTU writes its `mtu`.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) })?;
    u32::try_from(request.mtu).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The speed of the interface `name` in Mbit/s; `None` if its driver knows none.
///
/// # Errors
/// There is no such interface, or its driver has no notion of speed (EOPNOTSUPP; loopback).
pub(crate) fn speed_mbps(name: &str) -> io::Result<Option<u32>> {
    /// ETHTOOL_GLINKSETTINGS of linux/ethtool.h.
    const GET_LINK_SETTINGS: u32 = 0x4c;
    /// Words in a bitmap of link modes: the type of their count allows no more.
    const MAX_WORDS: usize = 127;
    /// `struct ethtool_link_settings` and the three bitmaps behind it.
    #[repr(C)]
    struct Settings {
        command: u32,
        speed: u32,
        bytes: [u8; 7],
        words: i8,
        more: [u8; 4],
        reserved: [u32; 7],
        masks: [u32; 3 * MAX_WORDS],
    }
    /// `struct ifreq` with its `ifr_data`.
    #[repr(C)]
    struct Request {
        name: [u8; libc::IF_NAMESIZE],
        data: *mut c_void,
        rest: [u8; 16],
    }
    let socket = any_socket()?;
    let mut settings = Settings {
        command: GET_LINK_SETTINGS,
        speed: 0,
        bytes: [0; 7],
        words: 0,
        more: [0; 4],
        reserved: [0; 7],
        masks: [0; 3 * MAX_WORDS],
    };
    // The first answer says, negated, how many words the bitmaps have; the second holds the settings.
    for _ in 0..2 {
        settings.command = GET_LINK_SETTINGS;
        settings.words = settings.words.saturating_neg();
        let mut request = Request { name: padded(name)?, data: (&raw mut settings).cast(), rest: [0; 16] };
        // SAFETY:
        // - `request` is as long as struct ifreq, and its `data` points to `settings`.
        // - The kernel writes struct ethtool_link_settings and 3 * `words` words, for which `masks` has room.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) })?;
    }
    Ok(Some(settings.speed).filter(|speed| *speed != 0 && *speed != u32::MAX))
}

/// A socket to ask about interfaces; its family does not matter.
fn any_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are involved.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `fd` was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A name with zeros behind it, at least one.
fn padded(name: &str) -> io::Result<[u8; libc::IF_NAMESIZE]> {
    let mut bytes = [0; libc::IF_NAMESIZE];
    if name.len() >= bytes.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_an_mtu_but_no_mac_and_no_speed() {
        let lo = interfaces().unwrap().into_iter().find(|interface| interface.name == "lo").unwrap();
        assert_eq!(lo.mac, None);
        assert!(mtu("lo").unwrap() >= 1280);
        assert_eq!(speed_mbps("lo").unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        assert_eq!(mtu("no-such-if").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert_eq!(speed_mbps("no-such-if").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert_eq!(mtu("a-name-that-is-too-long").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
