//! The socket by which a process tells of itself: abstract, so that it ends with the process and belongs to the network
//! namespace; unix(7).

use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use super::check;

/// How long either side waits for the other.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Where a process listens.
pub(crate) fn address(pid: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("{PREFIX}{pid}"))
}

/// This process's listener.
///
/// # Errors
/// `EADDRINUSE` if the process was forked from one that listens still.
pub(crate) fn listen() -> io::Result<UnixListener> {
    let listener = UnixListener::bind_addr(&address(std::process::id())?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The processes that listen in this network namespace.
///
/// # Errors
/// /proc cannot be read.
pub(crate) fn pids() -> io::Result<Vec<u32>> {
    // Each connection that is open has a line of its own, too.
    let list = std::fs::read_to_string("/proc/net/unix")?;
    let mut pids: Vec<u32> = list
        .lines()
        .filter_map(|line| line.split_whitespace().last()?.strip_prefix('@')?.strip_prefix(PREFIX)?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Whether the other end is of this user's, or root's.
pub(crate) fn may_ask(stream: &UnixStream) -> io::Result<bool> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of_val(&peer) as libc::socklen_t;
    let fd = stream.as_raw_fd();
    // SAFETY: `peer` is writable for the length given.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut len) })?;
    // SAFETY: no pointers are involved.
    Ok(peer.uid == 0 || peer.uid == unsafe { libc::geteuid() })
}

const PREFIX: &str = "dmverbs/";
