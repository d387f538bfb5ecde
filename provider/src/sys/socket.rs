//! Stream sockets.

use std::io;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use super::fork::Unshared;
use super::{Fd, check, check_size};

/// An open socket, which forked children do not keep.
#[derive(Debug)]
pub(crate) struct Socket(Unshared<Fd>);

impl Socket {
    /// # Safety
    /// `open` gives a descriptor that it opens, and that belongs to nobody else; or -1.
    unsafe fn own(open: impl FnOnce() -> RawFd) -> io::Result<Socket> {
        // SAFETY: by contract.
        Unshared::made(|| check(open()).map(|fd| unsafe { Fd::own(fd) })).map(Socket)
    }

    /// One that somebody else opens, by this.
    pub(crate) fn adopt(open: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Socket> {
        Unshared::made(|| open().map(Fd::from)).map(Socket)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get().as_fd()
    }
}

/// A range of registered memory for the kernel to read from or write to; `struct iovec`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Iov(libc::iovec);

// SAFETY: it is an address and a length; who may use the memory is settled by its makers, whatever the thread.
unsafe impl Send for Iov {}
// SAFETY: as above; it has no interior mutability.
unsafe impl Sync for Iov {}

impl std::fmt::Debug for Iov {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Iov({:p}, {})", self.0.iov_base, self.0.iov_len)
    }
}

impl Iov {
    /// A range of registered memory. The kernel checks that it is mapped: it gives EFAULT where it is not.
    ///
    /// # Safety
    /// The range is inside a registered region, which has the right to be read, or written if it is received into;
    /// the region is still live when a system call is given this.
    pub(crate) unsafe fn registered(addr: u64, len: usize) -> Iov {
        Iov(libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(addr as usize), iov_len: len })
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iov_len
    }

    pub(crate) fn addr(&self) -> u64 {
        self.0.iov_base.addr() as u64
    }

    /// Without its first `n` bytes.
    pub(crate) fn skip(self, n: usize) -> Iov {
        debug_assert!(n <= self.len());
        Iov(libc::iovec { iov_base: self.0.iov_base.wrapping_byte_add(n), iov_len: self.0.iov_len - n })
    }
}

/// A listening socket on all addresses, on a free port of `ports` or any: IPv6 and IPv4, or IPv4 where there is no IPv6.
/// On a port of `ports` there may still be connections of a process that is gone: for a minute, if that ended them.
///
/// # Errors
/// `EADDRINUSE` naming the range if all of its ports are taken.
pub(crate) fn listen(ports: Option<RangeInclusive<u16>>) -> io::Result<(Socket, u16)> {
    listen_among(ports, true)
}

/// As [`listen`], where nobody has connections: a NIC is told what to do with all that comes to the port.
///
/// # Errors
/// As of [`listen`].
pub(crate) fn listen_alone(ports: Option<RangeInclusive<u16>>) -> io::Result<(Socket, u16)> {
    listen_among(ports, false)
}

fn listen_among(ports: Option<RangeInclusive<u16>>, again: bool) -> io::Result<(Socket, u16)> {
    let Some(range) = ports else { return listen_with(0, false) };
    for port in range.clone() {
        match listen_with(port, again) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
    let what = format!("DMVERBS_PORT_RANGE={}-{}: every port is in use", range.start(), range.end());
    tracing::error!("{what}");
    Err(io::Error::new(io::ErrorKind::AddrInUse, what))
}

/// As [`listen`], on the one port that it can be.
///
/// # Errors
/// `EADDRINUSE` if somebody listens there.
pub(crate) fn listen_again(port: u16) -> io::Result<(Socket, u16)> {
    listen_with(port, true)
}

fn listen_with(port: u16, again: bool) -> io::Result<(Socket, u16)> {
    let any6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let socket = match listen_at(any6, again) {
        Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) || e.kind() == io::ErrorKind::AddrNotAvailable => {
            listen_at(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), again)
        }
        result => result,
    }?;
    Ok((socket.0, socket.1.port()))
}

/// Another socket of the same family, bound to nothing yet; the listening one is closed, and its port free.
pub(crate) fn unbound_as(listener: Socket) -> io::Result<Socket> {
    let address = local_address(listener.as_fd())?;
    drop(listener);
    unbound(address)
}

/// A socket that can listen at this address, whether it is IPv4's or IPv6's.
fn unbound(at: SocketAddr) -> io::Result<Socket> {
    let socket = stream(at)?;
    if at.is_ipv6() {
        // Also where net.ipv6.bindv6only says otherwise.
        set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
    }
    Ok(socket)
}

fn listen_at(at: SocketAddr, again: bool) -> io::Result<(Socket, SocketAddr)> {
    let socket = unbound(at)?;
    if again {
        set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    bind(&socket, at)?;
    // SAFETY: no pointers are involved.
    check(unsafe { libc::listen(socket.as_fd().as_raw_fd(), 1024) })?;
    let address = local_address(socket.as_fd())?;
    Ok((socket, address))
}

/// The address that a socket is bound to.
pub(crate) fn local_address(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut name = Name::EMPTY;
    // SAFETY: `name` has room for any address, and says so.
    check(unsafe { libc::getsockname(socket.as_raw_fd(), name.as_mut_ptr(), &mut name.len) })?;
    Ok(name.parse())
}

fn stream(family_of: SocketAddr) -> io::Result<Socket> {
    let family = if family_of.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers are involved; what is opened belongs to nobody else.
    unsafe { Socket::own(|| libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)) }
}

fn bind(socket: &Socket, at: SocketAddr) -> io::Result<()> {
    let name = Name::of(at);
    // SAFETY: `name` holds an address of the length it says.
    check(unsafe { libc::bind(socket.as_fd().as_raw_fd(), name.as_ptr(), name.len) }).map(drop)
}

/// Takes a connection, if one waits; the socket is non-blocking.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<(Socket, SocketAddr)>> {
    let mut name = Name::EMPTY;
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: `name` has room for any address, and says so; what is opened belongs to nobody else.
    let socket =
        unsafe { Socket::own(|| libc::accept4(listener.as_raw_fd(), name.as_mut_ptr(), &mut name.len, flags)) };
    match socket {
        Ok(socket) => Ok(Some((socket, name.parse()))),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes an accepted socket one of IPv4, if that is what its connection is: each packet costs less then. `IPV6_ADDRFORM`
/// of ipv6(7).
pub(crate) fn prefer_ipv4(socket: BorrowedFd<'_>) {
    // Refused for all other sockets.
    let _ = set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_ADDRFORM, libc::AF_INET);
}

/// Begins to connect, from that address and by that interface if they are given; the socket becomes writable when that
/// has succeeded or failed.
pub(crate) fn connect(to: SocketAddr, from: Option<IpAddr>, by: Option<u32>) -> io::Result<Socket> {
    let socket = stream(to)?;
    if let Some(ifindex) = by {
        dmverbs_netdev::bind_to_interface(&socket.as_fd(), ifindex)?;
    }
    nodelay(socket.as_fd())?;
    if let Some(from) = from {
        let scope = if let SocketAddr::V6(v6) = to { v6.scope_id() } else { 0 };
        let mut from = SocketAddr::new(from, 0);
        if let SocketAddr::V6(v6) = &mut from {
            v6.set_scope_id(scope);
        }
        // The port is chosen for the peer, so that those in TIME_WAIT to others do not count.
        set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        bind(&socket, from)?;
    }
    let name = Name::of(to);
    // SAFETY: `name` holds an address of the length it says.
    match check(unsafe { libc::connect(socket.as_fd().as_raw_fd(), name.as_ptr(), name.len) }) {
        Ok(_) => Ok(socket),
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
        Err(e) => Err(e),
    }
}

/// Ends a connection at once, and drops what has come by it; connect(2) with AF_UNSPEC.
///
/// # Errors
/// `ENOTCONN`.
pub(crate) fn disconnect(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the structure is of plain numbers.
    let mut nobody: libc::sockaddr = unsafe { std::mem::zeroed() };
    nobody.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    let len = size_of_val(&nobody) as libc::socklen_t;
    // SAFETY: `nobody` is readable for the length given.
    check(unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, len) }).map(drop)
}

/// Whether the peer, which sends nothing, still has its end open.
pub(crate) fn is_open(socket: BorrowedFd<'_>) -> bool {
    let mut byte = 0_u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: `byte` is writable for the length given.
    let n = check_size(unsafe { libc::recv(socket.as_raw_fd(), (&raw mut byte).cast(), 1, flags) });
    n.is_err_and(|e| matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted))
}

/// Whether a socket that was connecting is connected.
///
/// # Errors
/// Why it could not connect.
pub(crate) fn finish_connect(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut error: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `error` is writable for the length that `len` says.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &mut len) })?;
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut name = Name::EMPTY;
    // SAFETY: `name` has room for any address, and says so.
    match check(unsafe { libc::getpeername(fd, name.as_mut_ptr(), &mut name.len) }) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(e) => Err(e),
    }
}

/// Small segments go out at once; tcp(7).
pub(crate) fn nodelay(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// What is sent has this IPv4 type of service, or IPv6 traffic class; ip(7), ipv6(7). A socket that is of no network has none.
pub(crate) fn traffic_class(socket: BorrowedFd<'_>, class: u8) {
    if class != 0 {
        let _ = set_option(socket, libc::IPPROTO_IP, libc::IP_TOS, class.into());
        let _ = set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, class.into());
    }
}

/// A connection on which nothing moves is probed after 10 s, and given up 30 s later if the peer's host is gone: who
/// waits for a receive of the peer, for ever if need be, has no deadline of its own. A peer that is only slow or
/// stopped answers probes.
pub(crate) fn keep_alive(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 10)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 5)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 6)
}

/// Bytes that wait to be read (tcp(7), SIOCINQ).
pub(crate) fn unread(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: `bytes` is writable.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut bytes) })?;
    Ok(bytes as usize)
}

/// Whether what waits to be read may come to no more than the socket's buffer has room for now (`SO_BUF_LOCK`,
/// net/core/sock.c): else the kernel makes that larger when it is full.
pub(crate) fn keep_small(socket: BorrowedFd<'_>, small: bool) -> io::Result<()> {
    /// asm-generic/socket.h, linux/socket.h
    const SO_BUF_LOCK: libc::c_int = 72;
    const SOCK_RCVBUF_LOCK: libc::c_int = 2;
    set_option(socket, libc::SOL_SOCKET, SO_BUF_LOCK, if small { SOCK_RCVBUF_LOCK } else { 0 })
}

/// So many bytes may wait to be read from now on (half of what net.ipv4.tcp_rmem allows at most), and more if the kernel finds
/// that they should. By itself it measures what is read in a round trip, and stops too early where that is short: whoever
/// sends then meets a window of zero. To wait for more than fits makes room, and leaves the kernel free to make more
/// (`tcp_set_rcvlowat()`, net/ipv4/tcp.c), as SO_RCVBUF does not.
pub(crate) fn make_room(socket: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1)
}

fn set_option(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` is readable for the length given.
    check(unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), len) })
        .map(drop)
}

/// The NAPI instance by which the last packet came; 0 if the kernel does not know (linux/net/core/sock.c).
pub(crate) fn incoming_napi_id(socket: BorrowedFd<'_>) -> io::Result<u32> {
    option(socket, libc::SOL_SOCKET, libc::SO_INCOMING_NAPI_ID).map(libc::c_int::cast_unsigned)
}

/// What an option is.
pub(crate) fn option(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<libc::c_int> {
    let (mut value, mut len) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    let (fd, to) = (socket.as_raw_fd(), (&raw mut value).cast());
    // SAFETY: `value` and `len` are writable.
    check(unsafe { libc::getsockopt(fd, level, option, to, &raw mut len) }).map(|_| value)
}

/// Bytes that may wait in all TCP sockets of the machine together before the kernel holds them back: a sixteenth of the
/// memory, unless tcp_mem (tcp(7)) was changed, which is not seen in every network namespace.
pub(crate) fn memory() -> u64 {
    super::mman::memory() / 16
}

/// Bytes that are on their way between the hosts when a TCP connection is as fast as it was lately: its rate times the
/// shortest time there and back, as the kernel has seen them (linux/tcp.h).
///
/// # Errors
/// `EOPNOTSUPP` where the socket is not of TCP.
pub(crate) fn path_capacity(socket: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: the structure is of plain numbers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&info) as libc::socklen_t;
    let fd = socket.as_raw_fd();
    // SAFETY: `info` is writable for the length given.
    check(unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len) })?;
    let bytes = u128::from(info.tcpi_delivery_rate) * u128::from(info.tcpi_min_rtt) / 1_000_000;
    Ok(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// Two connected stream sockets within this process.
pub(crate) fn pair() -> io::Result<(Socket, Socket)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let pair = Unshared::pair(|| {
        // SAFETY: `fds` has room for two.
        check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
        // SAFETY: both were just opened and belong to nobody else.
        io::Result::Ok(fds.map(|fd| unsafe { Fd::own(fd) }))
    })?;
    let pair = pair.map(Socket);
    for socket in &pair {
        // More in flight, fewer switches; the system's limit applies.
        set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, 1 << 20)?;
    }
    Ok(pair.into())
}

/// Ends the sending direction.
pub(crate) fn shutdown_write(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers are involved.
    check(unsafe { libc::shutdown(socket.as_fd().as_raw_fd(), libc::SHUT_WR) }).map(drop)
}

/// Has who receives find the end when all that is there has been received.
pub(crate) fn shutdown_read(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers are involved.
    check(unsafe { libc::shutdown(socket.as_fd().as_raw_fd(), libc::SHUT_RD) }).map(drop)
}

/// What is sent together: bytes of ours, or a range of registered memory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    Bytes(&'a [u8]),
    Memory(Iov),
}

/// Sends what the socket takes now of `parts`; `room` is for the vector. Gives how much that was, and how much there is.
#[inline]
pub(crate) fn send_vectored<'a>(
    socket: BorrowedFd<'_>,
    room: &mut Vec<Iov>,
    parts: impl Iterator<Item = Part<'a>>,
) -> io::Result<(usize, usize)> {
    room.clear();
    room.extend(parts.map(|part| match part {
        Part::Bytes(bytes) => Iov(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }),
        Part::Memory(iov) => iov,
    }));
    let all = room.iter().map(Iov::len).sum();
    let fd = socket.as_raw_fd();
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let sent = if let [iov] = &room[..] {
        // SAFETY: the range is borrowed for the call, or registered, and then the kernel says EFAULT if it is gone.
        unsafe {
            let to = ptr::null::<libc::sockaddr>();
            libc::syscall(libc::SYS_sendto, fd, iov.0.iov_base, iov.0.iov_len, flags, to, 0)
        }
    } else {
        let message = message(room);
        // SAFETY: as above, for each range that `message` lists.
        unsafe { libc::syscall(libc::SYS_sendmsg, fd, &raw const message, flags) }
    };
    check_size(sent as isize).map(|sent| (sent, all))
}

/// Receives what is there now, first into `iovs`, then into `tail`; 0 at the end of the stream. Empties `iovs`.
#[inline]
pub(crate) fn recv_vectored(socket: BorrowedFd<'_>, iovs: &mut Vec<Iov>, tail: &mut [u8]) -> io::Result<usize> {
    let fd = socket.as_raw_fd();
    let received = if iovs.is_empty() {
        // SAFETY: `tail` is writable for its length.
        unsafe {
            let from = ptr::null_mut::<libc::c_void>();
            libc::syscall(libc::SYS_recvfrom, fd, tail.as_mut_ptr(), tail.len(), libc::MSG_DONTWAIT, from, from)
        }
    } else {
        iovs.push(Iov(libc::iovec { iov_base: tail.as_mut_ptr().cast(), iov_len: tail.len() }));
        let mut message = message(iovs);
        // SAFETY: `message` lists registered ranges, for which the kernel says EFAULT if they are gone, and `tail`,
        // which is writable for its length.
        unsafe { libc::syscall(libc::SYS_recvmsg, fd, &raw mut message, libc::MSG_DONTWAIT) }
    };
    iovs.clear();
    check_size(received as isize)
}

fn message(iovs: &[Iov]) -> libc::msghdr {
    libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: iovs.as_ptr().cast_mut().cast(),
        msg_iovlen: iovs.len(),
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

/// Sends a slice, or the front of it.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    send_vectored(socket, &mut Vec::new(), iter::once(Part::Bytes(bytes))).map(|(sent, _)| sent)
}

/// Receives into a slice; 0 at the end of the stream.
pub(crate) fn recv(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    recv_vectored(socket, &mut Vec::new(), bytes)
}

/// A socket address as the kernel wants it.
struct Name {
    storage: libc::sockaddr_in6,
    len: libc::socklen_t,
}

impl Name {
    const EMPTY: Name = Name {
        storage: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
        len: size_of::<libc::sockaddr_in6>() as libc::socklen_t,
    };

    fn of(address: SocketAddr) -> Name {
        let mut name = Name::EMPTY;
        match address {
            SocketAddr::V6(v6) => {
                name.storage.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                name.storage.sin6_port = v6.port().to_be();
                name.storage.sin6_addr.s6_addr = v6.ip().octets();
                name.storage.sin6_scope_id = v6.scope_id();
            }
            SocketAddr::V4(v4) => {
                // struct sockaddr_in: family, port and address lie where family, port and flow info lie here.
                name.storage.sin6_family = libc::AF_INET as libc::sa_family_t;
                name.storage.sin6_port = v4.port().to_be();
                name.storage.sin6_flowinfo = u32::from_ne_bytes(v4.ip().octets());
                name.len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
        }
        name
    }

    fn parse(&self) -> SocketAddr {
        let port = u16::from_be(self.storage.sin6_port);
        let ip = if i32::from(self.storage.sin6_family) == libc::AF_INET {
            IpAddr::from(self.storage.sin6_flowinfo.to_ne_bytes())
        } else {
            Ipv6Addr::from(self.storage.sin6_addr.s6_addr).to_canonical()
        };
        SocketAddr::new(ip, port)
    }

    fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut self.storage).cast()
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

    fn wait(socket: &Socket, interest: Interest) {
        let epoll = Epoll::new().unwrap();
        epoll.add(socket.as_fd(), 0, interest).unwrap();
        assert_eq!(epoll.wait(&mut [Event::default()], Some(Duration::from_secs(10))).unwrap(), 1);
    }

    #[test]
    fn there_is_room_for_what_may_come_and_the_kernel_may_make_more() {
        const SOL: libc::c_int = libc::SOL_SOCKET;
        const SO_BUF_LOCK: libc::c_int = 72;
        let (_listener, port) = listen(None).unwrap();
        let socket = connect((std::net::Ipv4Addr::LOCALHOST, port).into(), None, None).unwrap();
        let room = || option(socket.as_fd(), SOL, libc::SO_RCVBUF).unwrap();
        let before = room();
        let asked = 2 * before;
        make_room(socket.as_fd(), asked as u64).unwrap();
        assert!(room() >= asked, "{before} bytes, and now {}", room());
        assert_eq!(option(socket.as_fd(), SOL, libc::SO_RCVLOWAT).unwrap(), 1);
        assert_eq!(option(socket.as_fd(), SOL, SO_BUF_LOCK).unwrap(), 0);
    }

    #[test]
    fn what_is_sent_has_the_traffic_class_of_its_family() {
        let (listener, port) = listen(None).unwrap();
        let v4 = connect((std::net::Ipv4Addr::LOCALHOST, port).into(), None, None).unwrap();
        traffic_class(v4.as_fd(), 104);
        assert_eq!(option(v4.as_fd(), libc::IPPROTO_IP, libc::IP_TOS).unwrap(), 104);
        // One that is accepted is of IPv6, whatever the peer's address.
        wait(&listener, Interest::READ);
        let (accepted, _) = accept(listener.as_fd()).unwrap().unwrap();
        traffic_class(accepted.as_fd(), 104);
        for (level, name) in [(libc::IPPROTO_IP, libc::IP_TOS), (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)] {
            assert!(option(accepted.as_fd(), level, name).is_ok_and(|class| class == 104) || !is_v6(&listener));
        }
    }

    fn is_v6(socket: &Socket) -> bool {
        local_address(socket.as_fd()).unwrap().is_ipv6()
    }

    #[test]
    fn one_listener_takes_connections_of_both_families() {
        let (listener, port) = listen(None).unwrap();
        assert!(accept(listener.as_fd()).unwrap().is_none());
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let client = connect(SocketAddr::new(ip, port), Some(ip), None).unwrap();
            wait(&client, Interest::WRITE);
            assert!(finish_connect(client.as_fd()).unwrap());
            wait(&listener, Interest::READ);
            let (server, from) = accept(listener.as_fd()).unwrap().unwrap();
            assert_eq!(from.ip(), ip);
            assert_eq!(send(client.as_fd(), b"hello").unwrap(), 5);
            shutdown_write(client.as_fd()).unwrap();
            wait(&server, Interest::READ);
            let (mut front, mut back) = ([0; 2], [0; 8]);
            assert_eq!(recv(server.as_fd(), &mut front).unwrap(), 2);
            assert_eq!(recv(server.as_fd(), &mut back).unwrap(), 3);
            assert_eq!((&front, &back[..3]), (b"he", b"llo".as_slice()));
            wait(&server, Interest::READ);
            assert_eq!(recv(server.as_fd(), &mut back).unwrap(), 0, "the end of the stream");
        }
    }

    /// The test before again, in a network namespace of its own, as root of a user namespace where need be.
    #[test]
    fn one_listener_takes_connections_of_both_families_where_the_system_would_not() {
        let test = "sys::socket::tests::one_listener_takes_connections_of_both_families";
        let script = "echo 1 > /proc/sys/net/ipv6/bindv6only && ip link set lo up && exec \"$0\" --exact \"$1\"";
        let mut again = Command::new("unshare");
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            again.args(["--user", "--map-root-user"]);
        }
        again.args(["--net", "sh", "-c", script]).arg(std::env::current_exe().unwrap()).arg(test);
        let again = again.output().expect("unshare(1) of util-linux is installed");
        let said = String::from_utf8_lossy(&again.stdout) + String::from_utf8_lossy(&again.stderr);
        assert!(again.status.success() && said.contains(" 1 passed"), "in a network namespace:\n{said}");
    }

    #[test]
    fn a_stream_within_the_host_has_no_path() {
        let (here, _there) = pair().unwrap();
        assert_eq!(path_capacity(here.as_fd()).unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    }

    #[test]
    fn a_range_whose_ports_are_all_in_use_is_named() {
        let (_listener, port) = listen(None).unwrap();
        let error = listen(Some(port..=port)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&format!("{port}-{port}")), "{error}");
    }

    #[test]
    fn a_port_of_a_range_is_listened_on_although_connections_have_just_ended_there() {
        let free = listen(None).unwrap().1;
        let (listener, port) = listen(Some(free..=u16::MAX)).unwrap();
        let client = connect((Ipv4Addr::LOCALHOST, port).into(), None, None).unwrap();
        wait(&listener, Interest::READ);
        let (server, _) = accept(listener.as_fd()).unwrap().unwrap();
        // Who ends it first, remembers it.
        shutdown_write(server.as_fd()).unwrap();
        wait(&client, Interest::READ);
        drop(client);
        wait(&server, Interest::READ);
        drop((server, listener));
        assert_eq!(listen_alone(Some(port..=port)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let (_again, same) = listen(Some(port..=port)).unwrap();
        assert_eq!(same, port);
        assert_eq!(listen(Some(port..=port)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_connection_that_is_refused_says_so() {
        let (listener, port) = listen(None).unwrap();
        drop(listener);
        let refused = connect((Ipv4Addr::LOCALHOST, port).into(), None, None).and_then(|client| {
            wait(&client, Interest::WRITE);
            finish_connect(client.as_fd())
        });
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
