//! Sockets do not survive fork(2): a child's copies would keep connections alive after the parent has died.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

/// File descriptors below this are replaced in a child; beyond it they are only closed on exec.
const FDS: usize = 1 << 20;

/// One bit for each fd that a child must not keep. Plain memory: the child's handler may take no lock.
static OURS: [AtomicU64; FDS / 64] = [const { AtomicU64::new(0) }; FDS / 64];

fn place(fd: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok()?;
    Some((OURS.get(fd / 64)?, 1 << (fd % 64)))
}

/// From now on children have something in place of `fd` that is good for nothing. They do not close it: a program that
/// goes on to destroy what it has inherited would end descriptors of its own that have got the number meanwhile.
pub(super) fn keep_from_children(fd: RawFd) {
    static HANDLER: Once = Once::new();
    // SAFETY: `in_child` is async-signal-safe: it touches atomics and makes system calls, by number: its thread may be one that is
    // cancelled.
    HANDLER.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    });
    if let Some((word, bit)) = place(fd) {
        // Relaxed: fork() orders the parent's memory before the child's.
        word.fetch_or(bit, Ordering::Relaxed);
    }
}

/// `fd` is about to be closed.
pub(super) fn forget(fd: RawFd) {
    if let Some((word, bit)) = place(fd) {
        word.fetch_and(!bit, Ordering::Relaxed);
    }
}

/// What belongs to its descriptor, which children do not keep.
#[derive(Debug)]
pub(crate) struct Unshared<T: AsFd>(T);

impl<T: AsFd> Unshared<T> {
    pub(crate) fn new(of: T) -> Unshared<T> {
        keep_from_children(of.as_fd().as_raw_fd());
        Unshared(of)
    }

    pub(crate) fn get(&self) -> &T {
        &self.0
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: AsFd> Drop for Unshared<T> {
    fn drop(&mut self) {
        forget(self.0.as_fd().as_raw_fd());
    }
}

unsafe extern "C" fn in_child() {
    // SAFETY: no pointers are involved.
    let inert = unsafe { libc::syscall(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    for (i, word) in OURS.iter().enumerate() {
        let mut bits = word.swap(0, Ordering::Relaxed);
        while bits != 0 {
            let fd = (i * 64 + bits.trailing_zeros() as usize) as RawFd;
            bits &= bits - 1;
            // SAFETY: the parent's owner of `fd` runs in the parent only; its copy here has no other user.
            unsafe {
                if libc::syscall(libc::SYS_dup3, inert, fd, libc::O_CLOEXEC) < 0 {
                    libc::syscall(libc::SYS_close, fd);
                }
            }
        }
    }
    // SAFETY: it was opened above, if it was, and nobody else has it.
    unsafe { libc::syscall(libc::SYS_close, inert) };
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_child_has_nothing_of_the_connection_and_no_other_gets_its_number() {
        let (ours, peer) = UnixStream::pair().unwrap();
        let ours = Unshared::new(ours);
        let fd = ours.get().as_raw_fd();
        // SAFETY: the child does nothing but system calls.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let mut pair = [0; 2];
            // SAFETY: `pair` has room for two, and "x" is a byte long.
            let right = unsafe {
                libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()) == 0
                    && !pair.contains(&fd)
                    && libc::send(fd, c"x".as_ptr().cast(), 1, libc::MSG_NOSIGNAL) < 0
                    && *libc::__errno_location() == libc::ENOTCONN
            };
            // SAFETY: it ends the child.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        let mut status = 0;
        // SAFETY: `status` has room for one.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        peer.set_nonblocking(true).unwrap();
        assert_eq!(std::io::Read::read(&mut &peer, &mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(std::io::Write::write(&mut ours.get(), b"x").unwrap(), 1);
    }
}
