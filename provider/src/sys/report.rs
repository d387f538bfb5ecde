//! The socket by which a process tells of itself: abstract, so that it ends with the process and belongs to the network
//! namespace; unix(7). Everybody may make one of any name, so who asks takes care whom it believes, and for how long.

use std::ffi::c_char;
use std::io::{self, ErrorKind, Read};
use std::mem::offset_of;
use std::os::fd::FromRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use dmverbs_netdev::peer;

use super::check;

/// How long either side waits for the other.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// This process's listener.
///
/// # Errors
/// `EADDRINUSE` if the process was forked from one that listens still.
pub(crate) fn listen() -> io::Result<UnixListener> {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name(std::process::id()))?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The processes that listen in this network namespace.
///
/// # Errors
/// /proc cannot be read.
pub(crate) fn pids() -> io::Result<Vec<u32>> {
    // Each connection that is open has a line of its own, too; and there are sockets of any name.
    let list = std::fs::read("/proc/net/unix")?;
    let mut pids: Vec<u32> = String::from_utf8_lossy(&list)
        .lines()
        .filter_map(|line| line.split_whitespace().last()?.strip_prefix('@')?.strip_prefix(PREFIX)?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Whether the other end is of this user's, or root's.
pub(crate) fn may_ask(stream: &UnixStream) -> io::Result<bool> {
    let (uid, _) = peer(stream)?;
    Ok(uid == 0 || uid == user())
}

/// What a process says of itself.
///
/// # Errors
/// It does not say it, or not in time, or too much; or it is another one, or another user's, and this one is not root.
pub(crate) fn ask(pid: u32) -> io::Result<Vec<u8>> {
    ask_at(&name(pid), pid, PATIENCE)
}

fn ask_at(name: &str, pid: u32, patience: Duration) -> io::Result<Vec<u8>> {
    let until = Instant::now() + patience;
    let stream = connect(name)?;
    if !is_believed(peer(&stream)?, user(), pid) {
        return Err(ErrorKind::PermissionDenied.into());
    }
    stream.set_nonblocking(false)?;
    let mut text = Vec::new();
    let read = Until { stream, until }.take(MOST + 1).read_to_end(&mut text)?;
    if read as u64 > MOST { Err(ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

/// Whether what this user's process, or root's, is asked of another may be told by this one.
fn is_believed((uid, pid): (u32, i32), user: u32, asked: u32) -> bool {
    (user == 0 || uid == user) && u32::try_from(pid) == Ok(asked)
}

/// Connects, or fails with `EAGAIN` if too many others wait for that.
pub(crate) fn connect(name: &str) -> io::Result<UnixStream> {
    let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
    for (to, from) in address.sun_path[1..].iter_mut().zip(name.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    let len = (offset_of!(libc::sockaddr_un, sun_path) + 1 + name.len()) as libc::socklen_t;
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers are involved.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let stream = unsafe { UnixStream::from_raw_fd(fd) };
    // SAFETY: `address` is readable for the length given.
    check(unsafe { libc::connect(fd, (&raw const address).cast(), len) })?;
    Ok(stream)
}

/// What comes until then.
struct Until {
    stream: UnixStream,
    until: Instant,
}

impl Read for Until {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        // A socket's timeout of nothing is none.
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

fn user() -> u32 {
    // SAFETY: no pointers are involved.
    unsafe { libc::geteuid() }
}

pub(crate) fn name(pid: u32) -> String {
    format!("{PREFIX}{pid}")
}

const PREFIX: &str = "dmverbs/";
/// Bytes that a process may say: of some 40,000 QPs.
const MOST: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn who_says_all_in_time_is_heard_if_it_is_who_was_asked() {
        let (name, listener) = listening("heard");
        let pid = std::process::id();
        says(listener, |mut stream| stream.write_all(b"all"));
        assert_eq!(ask_at(&name, pid, LONG).unwrap(), b"all");
        assert_eq!(ask_at(&name, pid + 1, LONG).unwrap_err().kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_listener_that_accepts_nobody_is_not_waited_for() {
        let (name, listener) = listening("full");
        // SAFETY: no pointers are involved.
        check(unsafe { libc::listen(listener.as_raw_fd(), 0) }).unwrap();
        let _others: Vec<UnixStream> = std::iter::from_fn(|| connect(&name).ok()).collect();
        assert_eq!(ask_at(&name, std::process::id(), LONG).unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    }

    #[test]
    fn who_says_little_by_little_is_heard_for_so_long() {
        let (name, listener) = listening("slow");
        says(listener, |mut stream| {
            loop {
                stream.write_all(b"x")?;
                thread::sleep(Duration::from_millis(1));
            }
        });
        let error = ask_at(&name, std::process::id(), Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{error}");
    }

    #[test]
    fn who_does_not_end_is_heard_for_so_much() {
        let (name, listener) = listening("endless");
        says(listener, |mut stream| {
            loop {
                stream.write_all(&[b'x'; 1 << 16])?;
            }
        });
        let error = ask_at(&name, std::process::id(), LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn another_users_process_is_believed_by_root_only() {
        assert!(is_believed((1000, 7), 1000, 7) && is_believed((1000, 7), 0, 7));
        assert!(!is_believed((1000, 7), 1001, 7) && !is_believed((0, 7), 1001, 7));
        assert!(!is_believed((1000, 8), 0, 7) && !is_believed((1000, 0), 0, 7) && !is_believed((1000, -1), 0, 7));
    }

    #[test]
    fn sockets_with_names_of_any_bytes_do_not_matter() {
        let _odd = UnixListener::bind_addr(&SocketAddr::from_abstract_name(b"dmverbs/\xff\n\xfe").unwrap()).unwrap();
        pids().unwrap();
    }

    /// A listener whose name is that of no process.
    fn listening(what: &str) -> (String, UnixListener) {
        let name = format!("{PREFIX}{what}-{}", std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        (name, listener)
    }

    fn says(listener: UnixListener, what: impl Fn(UnixStream) -> io::Result<()> + Send + 'static) {
        thread::spawn(move || {
            for stream in listener.incoming() {
                // It ends when nobody listens any more.
                let _ = what(stream.unwrap());
            }
        });
    }
}
