//! Changes of links, and of their addresses, from the kernel; rtnetlink(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;
use super::socket;

/// A link, or its addresses, have changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LinkEvent {
    /// Which.
    pub(crate) ifindex: u32,
    /// Whether it is up, with a carrier; nothing if this is about an address.
    pub(crate) running: Option<bool>,
}

/// Changes of links in this network namespace, as they come.
#[derive(Debug)]
pub(crate) struct LinkEvents(OwnedFd);

impl LinkEvents {
    pub(crate) fn new() -> io::Result<LinkEvents> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers are involved.
        let fd = check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) })?;
        // SAFETY: `fd` was just opened and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // struct sockaddr_nl: family, padding, port id, groups.
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        let name = [libc::AF_NETLINK as u32, 0, groups as u32];
        // SAFETY: `name` is as long as struct sockaddr_nl and laid out like it (little-endian family, zero padding).
        check(unsafe { libc::bind(socket.as_raw_fd(), name.as_ptr().cast(), size_of_val(&name) as libc::socklen_t) })?;
        Ok(LinkEvents(socket))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The changes in the next message; `None` when there is no message.
    pub(crate) fn read(&self) -> io::Result<Option<Vec<LinkEvent>>> {
        let mut buffer = [0; 16 << 10];
        match socket::recv(self.fd(), &mut buffer) {
            Ok(n) => Ok(Some(parse(&buffer[..n]))),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // Messages were lost: the state of every link makes up for them.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => self.ask_all().map(|()| Some(Vec::new())),
            Err(e) => Err(e),
        }
    }

    /// Makes the kernel send the state of every link, as if each had changed. Links that are gone are not among them.
    fn ask_all(&self) -> io::Result<()> {
        socket::send(self.fd(), &request()).map(drop)
    }
}

/// A request for the state of every link: struct nlmsghdr and an empty struct ifinfomsg.
fn request() -> [u8; 32] {
    let mut request = [0; 32];
    request[0..4].copy_from_slice(&32_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    request
}

/// Reads struct nlmsghdr (16 bytes) and struct ifinfomsg or ifaddrmsg behind it, for each message.
fn parse(mut bytes: &[u8]) -> Vec<LinkEvent> {
    const HEADER: usize = 16;
    let u32_at = |bytes: &[u8], at: usize| bytes.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let mut events = Vec::new();
    while let (Some(len), Some(kind)) = (u32_at(bytes, 0), bytes.get(4..6).map(|b| u16::from_ne_bytes([b[0], b[1]]))) {
        let len = len as usize;
        if len < HEADER || len > bytes.len() {
            break;
        }
        // The index is at the same place in both.
        if let (Some(family), Some(ifindex)) = (bytes.get(HEADER), u32_at(bytes, HEADER + 4)) {
            let wanted = (libc::IFF_UP | libc::IFF_LOWER_UP) as u32;
            // A link that leaves a bridge is deleted there, and is still a link.
            let of_bridge = i32::from(*family) == libc::AF_BRIDGE;
            let running = match (kind, u32_at(bytes, HEADER + 8)) {
                _ if of_bridge => None,
                (libc::RTM_NEWLINK, Some(flags)) => Some(Some(flags & wanted == wanted)),
                (libc::RTM_DELLINK, _) => Some(Some(false)),
                (libc::RTM_NEWADDR | libc::RTM_DELADDR, _) => Some(None),
                _ => None,
            };
            events.extend(running.map(|running| LinkEvent { ifindex, running }));
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, ifindex: u32, flags: u32) -> Vec<u8> {
        let mut m = vec![0; 32];
        m[0..4].copy_from_slice(&32_u32.to_ne_bytes());
        m[4..6].copy_from_slice(&kind.to_ne_bytes());
        m[20..24].copy_from_slice(&ifindex.to_ne_bytes());
        m[24..28].copy_from_slice(&flags.to_ne_bytes());
        m
    }

    #[test]
    fn several_messages_in_one_datagram_are_all_read() {
        let mut bytes = message(libc::RTM_NEWLINK, 3, (libc::IFF_UP | libc::IFF_LOWER_UP) as u32);
        bytes.extend(message(libc::RTM_NEWLINK, 4, libc::IFF_UP as u32));
        bytes.extend(message(libc::RTM_DELLINK, 5, 0));
        bytes.extend(message(libc::RTM_DELADDR, 6, 0));
        let event = |ifindex, running| LinkEvent { ifindex, running };
        let links = [event(3, Some(true)), event(4, Some(false)), event(5, Some(false)), event(6, None)];
        assert_eq!(parse(&bytes), links);
    }

    #[test]
    fn a_link_that_leaves_its_bridge_is_not_gone() {
        let mut bytes = message(libc::RTM_DELLINK, 3, (libc::IFF_UP | libc::IFF_LOWER_UP) as u32);
        bytes[16] = libc::AF_BRIDGE as u8;
        assert_eq!(parse(&bytes), []);
    }

    #[test]
    fn the_state_of_every_link_can_be_asked_for() {
        let links = LinkEvents::new().unwrap();
        links.ask_all().unwrap();
        // The kernel has answered when the request returns, at least the first part: loopback has index 1.
        let events = links.read().unwrap().expect("an answer");
        assert!(events.iter().any(|event| event.ifindex == 1), "{events:?}");
    }

    #[test]
    fn a_message_that_lies_about_its_length_ends_the_datagram() {
        let mut bytes = message(libc::RTM_NEWLINK, 3, 0);
        bytes[0] = 200;
        assert_eq!(parse(&bytes), []);
        bytes[0] = 3;
        assert_eq!(parse(&bytes), []);
    }
}
