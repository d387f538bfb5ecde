//! The TCP port that is steered to a client's queue.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use dmverbs_netdev::{Protocol, bind_to_interface, bound_interface, namespace};
use rustix::io::Errno;
use rustix::net::sockopt::{ipv6_v6only, set_ipv6_v6only, set_socket_reuseaddr, socket_domain, socket_protocol};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, listen, socket_with};

use super::request::Refusal;

/// A port that no other user can have as long as a client's socket has it on an interface.
///
/// A rule steers whatever comes to the port. Could another user have it too, be it later, that one's payload would come
/// into this client's memory.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    /// Over what the client listens.
    pub protocols: &'static [Protocol],
    /// Is bound there as well, on all interfaces and addresses, and shares the port with none: whatever the client does
    /// with its socket, nobody can bind another one. Only the client's, which came before, is there beside it. (But for
    /// others of the client's own user, if it has set SO_REUSEPORT: inet_csk_get_port() of the kernel looks at no more
    /// than the user then. It would do so, too, of two sockets of another user's of which the first is on an interface or
    /// of a family that does not collide with this one; hence all of them.)
    _pin: OwnedFd,
}

/// Connections that wait until the client takes them.
const BACKLOG: i32 = 1024;
/// In which another socket could still be bound to the port, if it says SO_REUSEADDR, and is bound to the interface, too. (For
/// a moment at its beginning, all that say so.) It could not listen, but connect from there. A client can make it last.
const WINDOW: Duration = Duration::from_secs(1);
/// No interface has this index.
const NOWHERE: u32 = i32::MAX as u32;

impl Port {
    /// Binds the client's socket to the port, or to any if that is 0, and has it listen there. The socket has to be of TCP,
    /// of this network namespace, bound to the interface and not yet to a port. That the client may bind it is not looked
    /// at; below 1024 nobody gets a port, as the broker may not bind these.
    ///
    /// # Errors
    /// The socket is another one, or the port is taken.
    pub fn give(socket: BorrowedFd, port: u16, ifindex: u32, own_namespace: u64) -> Result<Self, Refusal> {
        let (any, protocols) = judge(socket, ifindex, own_namespace)?;
        let what = if port == 0 { "a TCP port".to_owned() } else { format!("TCP port {port}") };
        let refused = |errno: Errno, why: &str| (errno.raw_os_error(), format!("cannot have {what}: {why}"));
        let taken = |e: Errno| refused(e, &e.to_string());
        let (pin, all) = everywhere(port).map_err(taken)?;
        let number = all.port();
        let bind_here = |socket: BorrowedFd| bind(socket, &SocketAddr::new(any, number));
        let other = of_interface(any, ifindex).map_err(taken)?;
        if bind_here(other.as_fd()) != Err(Errno::ADDRINUSE) {
            return Err(refused(Errno::OPNOTSUPP, "others can have it, as the interface is part of a VRF"));
        }
        let fence = of_interface(all.ip(), NOWHERE).map_err(taken)?;
        set_socket_reuseaddr(socket, true).map_err(taken)?;
        let since = Instant::now();
        set_socket_reuseaddr(&pin, true).map_err(taken)?;
        // Keeps out, meanwhile, all that are bound to no interface.
        set_socket_reuseaddr(&fence, true).and_then(|()| bind(&fence, &all)).map_err(taken)?;
        set_socket_reuseaddr(&fence, false).map_err(taken)?;
        match bind_here(socket) {
            Err(Errno::INVAL) => return Err(unfit("bound to a port already")),
            bound => bound.map_err(taken)?,
        }
        listen(socket, BACKLOG).map_err(taken)?;
        set_socket_reuseaddr(&pin, false).map_err(taken)?;
        if since.elapsed() > WINDOW {
            return Err(refused(Errno::AGAIN, "it took too long to bind the socket"));
        }
        Ok(Self { number, protocols, _pin: pin })
    }
}

/// A socket that is bound to the port, or to any if that is 0, on all interfaces, of IPv4 and of IPv6 if there is that;
/// and its address. Nobody else has so much as a connection there.
fn everywhere(port: u16) -> rustix::io::Result<(OwnedFd, SocketAddr)> {
    let bound = |any: IpAddr| {
        let socket = unbound(any)?;
        bind(&socket, &SocketAddr::new(any, port))?;
        let at = getsockname(&socket)?.try_into()?;
        Ok((socket, at))
    };
    match bound(Ipv6Addr::UNSPECIFIED.into()) {
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => bound(Ipv4Addr::UNSPECIFIED.into()),
        done => done,
    }
}

/// A socket that is bound to the interface, and to no port yet.
fn of_interface(family_of: IpAddr, ifindex: u32) -> rustix::io::Result<OwnedFd> {
    let socket = unbound(family_of)?;
    bind_to_interface(&socket, ifindex).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok(socket)
}

/// A TCP socket; one of IPv6 is of IPv4, too.
fn unbound(family_of: IpAddr) -> rustix::io::Result<OwnedFd> {
    let family = if family_of.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if family_of.is_ipv6() {
        set_ipv6_v6only(&socket, false)?;
    }
    Ok(socket)
}

/// All addresses of the socket's family, and over what it is to listen.
fn judge(socket: BorrowedFd, ifindex: u32, own_namespace: u64) -> Result<(IpAddr, &'static [Protocol]), Refusal> {
    let no_socket = |_| unfit("no socket that could be listened to");
    let family = socket_domain(socket).map_err(no_socket)?;
    let is_ip = [AddressFamily::INET, AddressFamily::INET6].contains(&family);
    if !is_ip || socket_protocol(socket).map_err(no_socket)? != Some(ipproto::TCP) {
        return Err(unfit("not of TCP"));
    }
    if namespace(&socket).map_err(|_| unfit("of an unknown network namespace"))? != own_namespace {
        return Err(unfit("of another network namespace than the broker's"));
    }
    if bound_interface(&socket).map_err(|_| unfit("bound to an unknown interface"))? != ifindex {
        return Err(unfit("not bound to the interface"));
    }
    Ok(match family {
        AddressFamily::INET => (Ipv4Addr::UNSPECIFIED.into(), &[Protocol::Tcp4]),
        _ if ipv6_v6only(socket).map_err(no_socket)? => (Ipv6Addr::UNSPECIFIED.into(), &[Protocol::Tcp6]),
        _ => (Ipv6Addr::UNSPECIFIED.into(), &[Protocol::Tcp4, Protocol::Tcp6]),
    })
}

fn unfit(why: &str) -> Refusal {
    (libc::EINVAL, format!("the second descriptor is {why}"))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;

    use dmverbs_netdev::Ethtool;
    use rustix::net::sockopt::{set_socket_reuseport, socket_acceptconn};
    use rustix::net::{connect, connect_unspec};

    use super::*;

    #[test]
    fn only_a_tcp_socket_of_the_interface_that_is_not_bound_will_do() {
        let bound = TcpListener::bind("0.0.0.0:0").unwrap();
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
        let file = File::open("/dev/null").unwrap();
        assert_eq!(why(udp.as_fd()), "not of TCP");
        assert_eq!(why(unix.as_fd()), "not of TCP");
        assert_eq!(why(file.as_fd()), "no socket that could be listened to");
        assert_eq!(why(bound.as_fd()), "not bound to the interface");
        let (namespace, ifindex) = here();
        bind_to_interface(&bound, ifindex).unwrap();
        assert_eq!(why(bound.as_fd()), "bound to a port already");
        let socket = client(V4);
        assert_eq!(
            Port::give(socket.as_fd(), 0, ifindex, namespace + 1).unwrap_err().1,
            "the second descriptor is of another network namespace than the broker's"
        );
    }

    #[test]
    fn the_socket_listens_where_it_is_wanted_and_over_what_it_can() {
        let (namespace, ifindex) = here();
        let free = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let only = client(V6);
        set_ipv6_v6only(&only, true).unwrap();
        let both = client(V6);
        set_ipv6_v6only(&both, false).unwrap();
        for (socket, port, protocols) in [
            (client(V4), free, [Protocol::Tcp4].as_slice()),
            (only, 0, &[Protocol::Tcp6]),
            (both, 0, &[Protocol::Tcp4, Protocol::Tcp6]),
        ] {
            let given = Port::give(socket.as_fd(), port, ifindex, namespace).unwrap();
            assert!(socket_acceptconn(&socket).unwrap());
            let at = SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap();
            assert!(at.ip().is_unspecified() && at.port() == given.number && [0, at.port()].contains(&port));
            assert_eq!(given.protocols, protocols);
            let to = if protocols.contains(&Protocol::Tcp4) { "127.0.0.1" } else { "::1" };
            TcpStream::connect((to, given.number)).unwrap();
        }
    }

    #[test]
    fn a_port_where_another_has_so_much_as_a_connection_is_not_given() {
        let (namespace, ifindex) = here();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _connected = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _accepted = listener.accept().unwrap();
        drop(listener);
        // It would do: the standard library's listeners have SO_REUSEADDR.
        drop(TcpListener::bind(("0.0.0.0", port)).unwrap());
        let (errno, why) = Port::give(client(V4).as_fd(), port, ifindex, namespace).unwrap_err();
        assert_eq!(errno, libc::EADDRINUSE);
        assert!(why.starts_with(&format!("cannot have TCP port {port}: ")), "{why}");
    }

    /// As long as it is given, whatever the client has its socket do, and however others ask.
    #[test]
    fn nobody_else_can_have_the_port() {
        let (namespace, ifindex) = here();
        for any in [V4, V6] {
            let socket = client(any);
            let port = Port::give(socket.as_fd(), 0, ifindex, namespace).unwrap();
            assert_eq!(others(port.number), 0);
            connect_unspec(&socket).unwrap();
            set_socket_reuseaddr(&socket, true).unwrap();
            assert_eq!(others(port.number), 0);
            let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
            let SocketAddr::V4(to) = elsewhere.local_addr().unwrap() else { unreachable!() };
            let to = if any == V4 { to.into() } else { SocketAddr::new(to.ip().to_ipv6_mapped().into(), to.port()) };
            connect(&socket, &to).unwrap();
            assert_eq!(others(port.number), 0);
            drop(socket);
            assert_eq!(others(port.number), 0);
            let number = port.number;
            drop((port, elsewhere));
            assert!(others(number) > 0);
        }
    }

    /// How many sockets can be bound to the port, one after the other, and stay: on this interface, on others and on none,
    /// of each family, with SO_REUSEADDR, SO_REUSEPORT and both.
    fn others(port: u16) -> usize {
        let mut bound = Vec::new();
        for _again in 0..2 {
            for (ifindex, any, only, reuse) in ways(&[here().1, NOWHERE - 1, 0]) {
                let socket = unbound(any).unwrap();
                if ifindex != 0 {
                    bind_to_interface(&socket, ifindex).unwrap();
                }
                if any.is_ipv6() {
                    set_ipv6_v6only(&socket, only).unwrap();
                }
                set_socket_reuseaddr(&socket, reuse & 1 != 0).unwrap();
                set_socket_reuseport(&socket, reuse & 2 != 0).unwrap();
                if bind(&socket, &SocketAddr::new(any, port)).is_ok() {
                    bound.push(socket);
                }
            }
        }
        bound.len()
    }

    fn ways(interfaces: &[u32]) -> impl Iterator<Item = (u32, IpAddr, bool, u8)> {
        let [one4, one6] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let families = [(V4, false), (V6, false), (V6, true), (one4, false), (one6, false)];
        let pairs = interfaces.iter().flat_map(move |&ifindex| families.map(|(any, only)| (ifindex, any, only)));
        pairs.flat_map(|(ifindex, any, only)| (0..4).map(move |reuse| (ifindex, any, only, reuse)))
    }

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

    fn client(any: IpAddr) -> OwnedFd {
        of_interface(any, here().1).unwrap()
    }

    fn why(socket: BorrowedFd) -> String {
        let (namespace, ifindex) = here();
        let (errno, why) = Port::give(socket, 0, ifindex, namespace).unwrap_err();
        assert_eq!(errno, libc::EINVAL);
        why.strip_prefix("the second descriptor is ").unwrap().to_owned()
    }

    fn here() -> (u64, u32) {
        let ethtool = Ethtool::open().unwrap();
        (ethtool.namespace().unwrap(), ethtool.ifindex("lo").unwrap())
    }
}
