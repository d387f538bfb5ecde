//! What a process that may not take a queue says to `dmverbs broker`, which may.
//!
//! A client connects to a socket of type SOCK_SEQPACKET, sends one request with two descriptors, its dma-buf and a TCP
//! socket, which the broker has listen, and gets one answer. What it is lent is its own as long as the connection lasts.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    self, AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, recv, sendmsg, socket_with,
};

/// A queue that the broker has taken for us, until the connection is closed by which it was asked for.
#[derive(Debug)]
pub struct Loan {
    /// The queue.
    pub queue: u32,
    /// The number of the binding, by which the kernel tells where payload is.
    pub binding: u32,
}

/// Why there is no loan.
#[derive(Debug)]
pub enum NoLoan {
    /// Nobody listens, or who does went away or is silent.
    NoBroker(io::Error),
    /// The broker has said why.
    Refused {
        /// The error number that comes closest.
        errno: i32,
        /// In words.
        why: String,
    },
}

impl Loan {
    /// Asks the broker at the other end of a new connection to bind the dma-buf to a queue of the interface, to have the
    /// socket listen at the TCP port, any if that is 0, and to steer there what comes to it. The socket has to be one that
    /// the broker accepts (see `dmverbs broker --help`).
    ///
    /// # Errors
    /// There is no broker, or it refuses.
    pub fn ask(
        connection: BorrowedFd,
        request: Request,
        dmabuf: BorrowedFd,
        socket: BorrowedFd,
    ) -> Result<Self, NoLoan> {
        let mut answer = [0; Answer::LEN_MAX];
        let len = ask(connection, request, [dmabuf, socket], &mut answer).map_err(|e| NoLoan::NoBroker(e.into()))?;
        match Answer::decode(&answer[..len]) {
            Some(Answer::Lent { queue, binding }) => Ok(Self { queue, binding }),
            Some(Answer::Refused { errno, why }) => Err(NoLoan::Refused { errno, why }),
            None if len == 0 => Err(NoLoan::NoBroker(io::ErrorKind::UnexpectedEof.into())),
            None => Err(NoLoan::NoBroker(io::ErrorKind::InvalidData.into())),
        }
    }
}

impl Display for NoLoan {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Self::NoBroker(error) => write!(f, "no broker answers: {error}"),
            Self::Refused { why, .. } => write!(f, "the broker refuses: {why}"),
        }
    }
}

impl std::error::Error for NoLoan {}

/// Where the broker of this thread's network namespace listens.
///
/// # Errors
/// /proc does not tell the namespace's number.
pub fn path() -> io::Result<PathBuf> {
    let namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
    Ok(Path::new(FOLDER).join(format!("broker-{namespace}.sock")))
}

/// A socket by which a broker may be asked.
///
/// # Errors
/// No descriptor is left.
pub fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Connects it to the broker that listens there.
///
/// # Errors
/// It does not let this process do so, or there is none.
pub fn connect(socket: BorrowedFd, path: &Path) -> io::Result<()> {
    for timeout in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(socket, timeout, Some(PATIENCE))?;
    }
    let address = SocketAddrUnix::new(path)?;
    Ok(patiently(|| net::connect(socket, &address))?)
}

/// Whether the broker of this thread's network namespace lets this process connect to it.
pub fn answers() -> bool {
    path().is_ok_and(|path| socket().is_ok_and(|socket| connect(socket.as_fd(), &path).is_ok()))
}

pub(crate) const FOLDER: &str = "/run/dmverbs";
/// As long as a client waits. The broker itself does not take as long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks, and gives how long the answer is.
fn ask(
    connection: BorrowedFd,
    request: Request,
    descriptors: [BorrowedFd; 2],
    answer: &mut [u8],
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let bytes = request.encode();
    match patiently(|| sendmsg(connection, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)) {
        // It has refused already.
        Err(Errno::PIPE) => {}
        sent => drop(sent?),
    }
    hear(connection, answer)
}

/// What the broker says; or 0, if it has closed the connection.
fn hear(connection: BorrowedFd, answer: &mut [u8]) -> rustix::io::Result<usize> {
    let mut recv = || patiently(|| recv(connection, &mut *answer, RecvFlags::empty()).map(|(len, _)| len));
    match recv() {
        // Where it has closed without taking all that was sent, this comes before what it said.
        Err(Errno::CONNRESET) => recv(),
        heard => heard,
    }
}

/// Whether the program has signals does not matter. (With a timeout, the kernel does not call again by itself.)
fn patiently<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match call() {
            Err(Errno::INTR) if Instant::now() < until => {}
            done => return done,
        }
    }
}

/// What a client asks for, beside its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The interface.
    pub ifindex: u32,
    /// The port at which it wants to listen; any if it is 0.
    pub port: u16,
}

impl Request {
    /// Bytes of a request.
    pub const LEN: usize = 14;

    /// As it is sent: what it is, the interface's index, and the port.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.ifindex.to_le_bytes());
        bytes[12..].copy_from_slice(&self.port.to_le_bytes());
        bytes
    }

    /// None if it is no request.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (ifindex, rest) = rest.split_first_chunk()?;
        let (ifindex, port) = (u32::from_le_bytes(*ifindex), u16::from_le_bytes(rest.try_into().ok()?));
        (*magic == MAGIC).then_some(Self { ifindex, port })
    }
}

/// What the broker answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The queue is the client's.
    Lent {
        /// The queue.
        queue: u32,
        /// The binding's number.
        binding: u32,
    },
    /// It is not to have one.
    Refused {
        /// The error number that comes closest; never 0.
        errno: i32,
        /// In words.
        why: String,
    },
}

impl Answer {
    /// No answer is longer; words that are too long are cut.
    pub const LEN_MAX: usize = 512;

    /// As it is sent: the error number, and then either the two numbers or the words.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Lent { queue, binding } => [0, *queue, *binding].map(u32::to_le_bytes).concat(),
            Self::Refused { errno, why } => {
                let mut bytes = [&errno.to_le_bytes(), why.as_bytes()].concat();
                bytes.truncate(Self::LEN_MAX);
                bytes
            }
        }
    }

    /// None if it is no answer.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (errno, rest) = bytes.split_first_chunk()?;
        let errno = i32::from_le_bytes(*errno);
        if errno != 0 {
            return Some(Self::Refused { errno, why: String::from_utf8_lossy(rest).into_owned() });
        }
        let (queue, rest) = rest.split_first_chunk()?;
        let binding = rest.try_into().ok()?;
        Some(Self::Lent { queue: u32::from_le_bytes(*queue), binding: u32::from_le_bytes(binding) })
    }
}

/// The version is its last byte.
const MAGIC: [u8; 8] = *b"dmverbs\x02";

#[cfg(test)]
mod tests {
    use rustix::net::{accept, bind, listen, send, socketpair};

    use super::*;

    #[test]
    fn requests_and_answers_are_read_as_they_were_written() {
        let request = Request { ifindex: 0x0102_0304, port: 0x0506 };
        assert_eq!(Request::decode(&request.encode()), Some(request));
        let lent = Answer::Lent { queue: 3, binding: u32::MAX };
        let refused = Answer::Refused { errno: libc::EBUSY, why: "no queue".to_owned() };
        for answer in [lent, refused] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn what_is_neither_is_not_taken_for_one() {
        let good = Request { ifindex: 2, port: 3 }.encode();
        let mut other = good;
        other[7] = 1;
        for bad in [&good[..13], &[good.as_slice(), &[0]].concat(), &other, &[]] {
            assert_eq!(Request::decode(bad), None, "{bad:?}");
        }
        for bad in [[].as_slice(), &[0; 3], &[0; 11], &[0; 13]] {
            assert_eq!(Answer::decode(bad), None, "{bad:?}");
        }
        let long = Answer::Refused { errno: 1, why: "x".repeat(1000) };
        assert_eq!(long.encode().len(), Answer::LEN_MAX);
    }

    #[test]
    fn without_a_broker_it_says_so() {
        let error = NoLoan::NoBroker(connect(socket().unwrap().as_fd(), Path::new("/run/dmverbs/none")).unwrap_err());
        assert!(error.to_string().starts_with("no broker answers: "), "{error}");
    }

    #[test]
    fn a_broker_that_has_refused_and_gone_is_heard() {
        let refused = Answer::Refused { errno: libc::EAGAIN, why: "no queue".to_owned() }.encode();
        for asks in [false, true] {
            let (ours, broker) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
            if asks {
                send(&ours, b"a request", SendFlags::empty()).unwrap();
            }
            send(&broker, &refused, SendFlags::empty()).unwrap();
            drop(broker);
            let mut answer = [0; Answer::LEN_MAX];
            let len = hear(ours.as_fd(), &mut answer).unwrap();
            assert_eq!(answer[..len], refused);
            assert_eq!(hear(ours.as_fd(), &mut answer), Ok(0));
        }
    }

    #[test]
    fn a_broker_that_refuses_without_being_asked_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let broker = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        bind(&broker, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&broker, 1).unwrap();
        let connection = socket().unwrap();
        connect(connection.as_fd(), &path).unwrap();
        let accepted = accept(&broker).unwrap();
        let refused = Answer::Refused { errno: libc::EAGAIN, why: "no queue".to_owned() }.encode();
        send(&accepted, &refused, SendFlags::empty()).unwrap();
        drop(accepted);
        let file = fs::File::open("/dev/null").unwrap();
        let mut answer = [0; Answer::LEN_MAX];
        let len = ask(connection.as_fd(), Request { ifindex: 1, port: 0 }, [file.as_fd(); 2], &mut answer).unwrap();
        assert_eq!(answer[..len], refused);
    }

    #[test]
    fn a_call_that_a_signal_interrupts_is_made_again() {
        let mut answers = [Err(Errno::INTR), Err(Errno::INTR), Ok(9), Err(Errno::PIPE)].into_iter();
        assert_eq!(patiently(|| answers.next().unwrap()), Ok(9));
        assert_eq!(patiently(|| answers.next().unwrap()), Err(Errno::PIPE));
    }

    #[test]
    fn a_socket_that_a_broker_has_left_behind_does_not_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let broker = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        bind(&broker, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&broker, 1).unwrap();
        let try_to = || connect(socket().unwrap().as_fd(), &path);
        assert!(try_to().is_ok());
        drop(broker);
        assert!(path.exists());
        assert_eq!(try_to().unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
    }
}
