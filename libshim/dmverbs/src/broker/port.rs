//! The TCP port that is steered to a client's queue.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use dmverbs_netdev::{Protocol, bind_to_interface, bound_interface, namespace};
use rustix::io::Errno;
use rustix::net::sockopt::{ipv6_v6only, set_ipv6_v6only, set_socket_reuseaddr, socket_domain, socket_protocol};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, listen, socket_with};

use super::request::Refusal;

/// A port of an interface that none but a client's socket can have.
///
/// A rule steers whatever comes to the port. Could another user have it too, be it later, that one's payload would come
/// into this client's memory.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    /// Over what the client listens.
    pub protocols: &'static [Protocol],
    /// Is bound there as well, and shares the port with none: whatever the client does with its socket, nobody can bind
    /// another one to the port. Only the client's, which came before, is there beside it.
    _pin: OwnedFd,
}

/// Connections that wait until the client takes them.
const BACKLOG: i32 = 1024;
/// In which the port can be had by others who say SO_REUSEADDR. A client can make it last.
const WINDOW: Duration = Duration::from_millis(200);

impl Port {
    /// Binds the client's socket to the port, or to any if that is 0, and has it listen there. The socket has to be of TCP,
    /// of this network namespace, bound to the interface and not yet to a port.
    ///
    /// # Errors
    /// The socket is another one, or the port is taken.
    pub fn give(socket: BorrowedFd, port: u16, ifindex: u32, own_namespace: u64) -> Result<Self, Refusal> {
        let (any, protocols) = judge(socket, ifindex, own_namespace)?;
        let taken = |e: Errno| (e.raw_os_error(), format!("cannot have TCP port {port}: {e}"));
        let family = if any.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        // Without SO_REUSEADDR: there is not even a connection of another's.
        let pin = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(taken)?;
        if any.is_ipv6() {
            set_ipv6_v6only(&pin, protocols == [Protocol::Tcp6]).map_err(taken)?;
        }
        bind_to_interface(&pin, ifindex).map_err(|e| taken(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        bind(&pin, &SocketAddr::new(any, port)).map_err(taken)?;
        let at = SocketAddr::try_from(getsockname(&pin).map_err(taken)?).map_err(taken)?;
        set_socket_reuseaddr(socket, true).map_err(taken)?;
        set_socket_reuseaddr(&pin, true).map_err(taken)?;
        let since = Instant::now();
        match bind(socket, &at) {
            Err(Errno::INVAL) => return Err(unfit("bound to a port already")),
            bound => bound.map_err(taken)?,
        }
        listen(socket, BACKLOG).map_err(taken)?;
        set_socket_reuseaddr(&pin, false).map_err(taken)?;
        if since.elapsed() > WINDOW {
            return Err((libc::EAGAIN, format!("cannot have TCP port {port}: it took too long to bind the socket")));
        }
        Ok(Self { number: at.port(), protocols, _pin: pin })
    }
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
    use rustix::net::connect_unspec;
    use rustix::net::sockopt::socket_acceptconn;

    use super::super::testing::unbound;
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
        let socket = of_interface(AddressFamily::INET);
        assert_eq!(
            Port::give(socket.as_fd(), 0, ifindex, namespace + 1).unwrap_err().1,
            "the second descriptor is of another network namespace than the broker's"
        );
    }

    #[test]
    fn the_socket_listens_where_it_is_wanted_and_over_what_it_can() {
        let (namespace, ifindex) = here();
        let free = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let only = of_interface(AddressFamily::INET6);
        set_ipv6_v6only(&only, true).unwrap();
        let both = of_interface(AddressFamily::INET6);
        set_ipv6_v6only(&both, false).unwrap();
        for (socket, port, protocols) in [
            (of_interface(AddressFamily::INET), free, [Protocol::Tcp4].as_slice()),
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
        let (errno, why) = Port::give(of_interface(AddressFamily::INET).as_fd(), port, ifindex, namespace).unwrap_err();
        assert_eq!(errno, libc::EADDRINUSE);
        assert!(why.starts_with(&format!("cannot have TCP port {port}: ")), "{why}");
    }

    /// As long as it is given, whatever the client has its socket do.
    #[test]
    fn nobody_else_can_have_the_port() {
        let (namespace, ifindex) = here();
        let socket = of_interface(AddressFamily::INET);
        let port = Port::give(socket.as_fd(), 0, ifindex, namespace).unwrap();
        let other = || TcpListener::bind(("0.0.0.0", port.number)).map(drop).map_err(|e| e.kind());
        let taken = Err(std::io::ErrorKind::AddrInUse);
        assert_eq!(other(), taken);
        connect_unspec(&socket).unwrap();
        set_socket_reuseaddr(&socket, true).unwrap();
        assert_eq!(other(), taken);
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::connect(&socket, &elsewhere.local_addr().unwrap()).unwrap();
        assert_eq!(other(), taken);
        drop(socket);
        assert_eq!(other(), taken);
        let number = port.number;
        drop(port);
        TcpListener::bind(("0.0.0.0", number)).unwrap();
    }

    fn of_interface(family: AddressFamily) -> OwnedFd {
        let socket = unbound(family);
        bind_to_interface(&socket, here().1).unwrap();
        socket
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
