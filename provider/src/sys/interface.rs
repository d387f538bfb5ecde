//! Addresses of network interfaces; getifaddrs(3).

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::check;

/// An address of an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Address {
    pub(crate) ifname: String,
    pub(crate) ifindex: u32,
    pub(crate) ip: IpAddr,
}

/// Every IP address of this network namespace.
pub(crate) fn addresses() -> io::Result<Vec<Address>> {
    let mut head = std::ptr::null_mut();
    // SAFETY: `head` is writable; the list is freed below.
    check(unsafe { libc::getifaddrs(&mut head) })?;
    let mut addresses = Vec::new();
    let mut next: *const libc::ifaddrs = head;
    // SAFETY: `next` is null or an element of the list, which is not yet freed.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: getifaddrs(3): `ifa_addr` is null or a socket address of its family's length.
        let Some(ip) = (unsafe { ip(entry.ifa_addr) }) else { continue };
        // SAFETY: getifaddrs(3): `ifa_name` is a C string.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        // SAFETY: `name` is a C string.
        let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if ifindex != 0 {
            addresses.push(Address { ifname: name.to_string_lossy().into_owned(), ifindex, ip });
        }
    }
    // SAFETY: `head` came from getifaddrs and nothing of the list is used any more.
    unsafe { libc::freeifaddrs(head) };
    Ok(addresses)
}

/// # Safety
/// `address` is null or points to a socket address of its family's length.
unsafe fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: null or valid for the family field, by contract.
    let family = unsafe { address.as_ref() }?.sa_family;
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: an AF_INET address is a sockaddr_in, by contract.
            let v4 = unsafe { &*address.cast::<libc::sockaddr_in>() };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: an AF_INET6 address is a sockaddr_in6, by contract.
            let v6 = unsafe { &*address.cast::<libc::sockaddr_in6>() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}
