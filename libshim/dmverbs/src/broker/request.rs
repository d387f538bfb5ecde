//! What a client has sent, and whether it may have what it asks for.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Barrier};
use std::thread;

use dmverbs_netdev::broker::Request;
use dmverbs_netdev::{Protocol, bound_interface, namespace};
use rustix::fs::{SeekFrom, fstatfs, seek};
use rustix::io::Errno;
use rustix::net::sockopt::{ipv6_v6only, socket_acceptconn, socket_domain, socket_protocol};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, getsockname, ipproto, recvmsg,
};

/// Why a client is refused: the error number that comes closest, and words.
pub type Refusal = (i32, String);

/// A request that may be granted.
#[derive(Debug)]
pub struct Wish {
    pub ifindex: u32,
    pub dmabuf: OwnedFd,
    pub listener: OwnedFd,
    pub port: u16,
    pub protocols: &'static [Protocol],
}

/// What came from a client.
#[derive(Debug)]
pub enum Came {
    /// Nothing yet.
    Nothing,
    /// It has closed the connection, or the connection is broken.
    End,
    /// It sent this, and those descriptors.
    Message(Vec<u8>, Vec<OwnedFd>),
}

/// Takes what a client has sent.
pub fn receive(connection: BorrowedFd) -> Came {
    let mut bytes = [0; Request::LEN + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(connection, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags);
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    match received {
        Err(Errno::AGAIN | Errno::INTR) => Came::Nothing,
        Ok(received) if received.bytes > 0 || !descriptors.is_empty() => {
            // Descriptors that found no room make it a request that it is not.
            let len = if received.flags.contains(ReturnFlags::CTRUNC) { 0 } else { received.bytes };
            Came::Message(bytes[..len].to_vec(), descriptors)
        }
        Ok(_) | Err(_) => Came::End,
    }
}

impl Wish {
    /// What a client asks for by this message. Descriptors that are not what they should be go to `discard`.
    ///
    /// # Errors
    /// Why it may not have it.
    pub fn judge(
        message: &[u8],
        descriptors: Vec<OwnedFd>,
        own_namespace: u64,
        discard: &Discard,
    ) -> Result<Self, Refusal> {
        let Some(Request { ifindex }) = Request::decode(message) else {
            descriptors.into_iter().for_each(|descriptor| discard.close(descriptor));
            return Err((libc::EPROTO, "that is no request that this broker understands".to_owned()));
        };
        let [dmabuf, listener] = match <[OwnedFd; 2]>::try_from(descriptors) {
            Ok(two) => two,
            Err(others) => {
                others.into_iter().for_each(|descriptor| discard.close(descriptor));
                return Err((libc::EPROTO, "a request comes with two descriptors".to_owned()));
            }
        };
        let checked = port(listener.as_fd(), ifindex, own_namespace);
        match checked.and_then(|port| check_dmabuf(dmabuf.as_fd()).map(|()| port)) {
            Ok((port, protocols)) => Ok(Self { ifindex, dmabuf, listener, port, protocols }),
            Err(refusal) => {
                discard.close(dmabuf);
                discard.close(listener);
                Err(refusal)
            }
        }
    }
}

/// The port of a listening socket, if none but that socket can get what comes to it by the interface, and over what.
///
/// A rule steers whatever comes to a port. Were the socket not bound to the interface and to all addresses, another
/// user's could have the same port there, and its payload would come into this client's memory. Without CAP_NET_RAW a
/// client cannot undo any of this but by ending the socket; `Server` looks at that. What this does not see: connections
/// that another user's socket has accepted at the same port before it was closed, if all have SO_REUSEADDR.
fn port(socket: BorrowedFd, ifindex: u32, own_namespace: u64) -> Result<(u16, &'static [Protocol]), Refusal> {
    let refused = |why: &str| (libc::EINVAL, format!("the second descriptor is {why}"));
    let unfit = |_| refused("no socket that could be listened to");
    let domain = socket_domain(socket).map_err(unfit)?;
    let is_ip = [AddressFamily::INET, AddressFamily::INET6].contains(&domain);
    if !is_ip || socket_protocol(socket).map_err(unfit)? != Some(ipproto::TCP) {
        return Err(refused("not of TCP"));
    }
    if !socket_acceptconn(socket).map_err(unfit)? {
        return Err(refused("a TCP socket that does not listen"));
    }
    if namespace(&socket).map_err(|_| refused("of an unknown network namespace"))? != own_namespace {
        return Err(refused("of another network namespace than the broker's"));
    }
    if bound_interface(&socket).map_err(|_| refused("bound to an unknown interface"))? != ifindex {
        return Err(refused("not bound to the interface"));
    }
    let address = getsockname(socket).map_err(unfit)?;
    let address = SocketAddr::try_from(address).map_err(unfit)?;
    if !address.ip().is_unspecified() {
        return Err(refused("bound to one address"));
    }
    let protocols: &[Protocol] = match address {
        SocketAddr::V4(_) => &[Protocol::Tcp4],
        SocketAddr::V6(_) if ipv6_v6only(socket).map_err(unfit)? => &[Protocol::Tcp6],
        SocketAddr::V6(_) => &[Protocol::Tcp4, Protocol::Tcp6],
    };
    Ok((address.port(), protocols))
}

/// Whether it is a dma-buf.
fn check_dmabuf(file: BorrowedFd) -> Result<(), Refusal> {
    const DMA_BUF_MAGIC: i64 = 0x444d_4142;
    // A dma-buf knows no current position. Files whose file system may take its time to answer, such as FUSE's, have one
    // or cannot seek at all, and are not asked further.
    let known = seek(file, SeekFrom::Current(0)) == Err(Errno::INVAL);
    match known && fstatfs(file).is_ok_and(|found| found.f_type == DMA_BUF_MAGIC) {
        true => Ok(()),
        false => Err((libc::EINVAL, "the first descriptor is no dma-buf".to_owned())),
    }
}

/// Closes what clients have sent that it should not be: a file's closing may wait for its file system, which may be the
/// client's own.
#[derive(Debug)]
pub struct Discard {
    to_close: Sender<OwnedFd>,
    count: Arc<AtomicUsize>,
}

impl Discard {
    /// Starts the thread that closes, and waits until it runs: to start takes system calls that are forbidden later.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn start() -> io::Result<Self> {
        let (to_close, closing) = mpsc::channel::<OwnedFd>();
        let count = Arc::new(AtomicUsize::new(0));
        let (left, runs) = (count.clone(), Arc::new(Barrier::new(2)));
        let running = runs.clone();
        thread::Builder::new().name("discard".to_owned()).spawn(move || {
            running.wait();
            for descriptor in closing {
                drop(descriptor);
                // Relaxed: it is a number, and orders nothing.
                left.fetch_sub(1, Ordering::Relaxed);
            }
        })?;
        runs.wait();
        Ok(Self { to_close, count })
    }

    /// Closes it some time.
    pub fn close(&self, descriptor: OwnedFd) {
        // Relaxed: as above.
        self.count.fetch_add(1, Ordering::Relaxed);
        // The thread ends after this.
        let _ = self.to_close.send(descriptor);
    }

    /// Whether so many wait that nobody should send further ones.
    pub fn is_full(&self) -> bool {
        const MOST: usize = 64;
        // Relaxed: as above.
        self.count.load(Ordering::Relaxed) >= MOST
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    use dmverbs_netdev::{Ethtool, bind_to_interface};

    use super::*;

    #[test]
    fn only_a_tcp_socket_that_listens_will_do() {
        let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
        let to = tcp.local_addr().unwrap().port();
        let connected = TcpStream::connect(("127.0.0.1", to)).unwrap();
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
        let file = File::open("/dev/null").unwrap();
        assert_eq!(why(connected.as_fd()), "a TCP socket that does not listen");
        assert_eq!(why(udp.as_fd()), "not of TCP");
        assert_eq!(why(unix.as_fd()), "not of TCP");
        assert_eq!(why(file.as_fd()), "no socket that could be listened to");
    }

    #[test]
    fn a_port_that_others_can_have_too_will_not_do() {
        let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        assert_eq!(why(everywhere.as_fd()), "not bound to the interface");
        let (namespace, ifindex) = here();
        bind_to_interface(&everywhere, ifindex).unwrap();
        let port_of = |listener: &TcpListener| listener.local_addr().unwrap().port();
        assert_eq!(
            port(everywhere.as_fd(), ifindex, namespace),
            Ok((port_of(&everywhere), [Protocol::Tcp4].as_slice()))
        );
        assert_eq!(
            port(everywhere.as_fd(), ifindex, namespace + 1).unwrap_err().1,
            "the second descriptor is of another network namespace than the broker's"
        );
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        bind_to_interface(&one, ifindex).unwrap();
        assert_eq!(why(one.as_fd()), "bound to one address");
    }

    #[test]
    fn a_file_is_no_dma_buf() {
        for path in ["/dev/null", "/proc/self/status", "/proc/self/exe"] {
            let file = File::open(path).unwrap();
            assert_eq!(check_dmabuf(file.as_fd()).unwrap_err().1, "the first descriptor is no dma-buf");
        }
    }

    #[test]
    fn nonsense_is_refused_and_its_descriptors_are_closed() {
        let discard = Discard::start().unwrap();
        let files = |count| (0..count).map(|_| File::open("/dev/null").unwrap().into()).collect::<Vec<OwnedFd>>();
        let (namespace, ifindex) = here();
        let good = Request { ifindex }.encode();
        for (message, count) in [(&good[..4], 2), (&good, 0), (&good, 1), (&good, 3), (&good, 2)] {
            assert!(Wish::judge(message, files(count), namespace, &discard).is_err());
        }
        while discard.count.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
    }

    fn why(socket: BorrowedFd) -> String {
        let (namespace, ifindex) = here();
        let (errno, why) = port(socket, ifindex, namespace).unwrap_err();
        assert_eq!(errno, libc::EINVAL);
        why.strip_prefix("the second descriptor is ").unwrap().to_owned()
    }

    fn here() -> (u64, u32) {
        let ethtool = Ethtool::open().unwrap();
        (ethtool.namespace().unwrap(), ethtool.ifindex("lo").unwrap())
    }
}
