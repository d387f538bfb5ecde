//! eventfd(2): a counter to sleep on.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use super::{Fd, check, check_size};

/// A counter that is readable while it is not zero.
#[derive(Debug)]
pub(crate) struct EventFd(Fd);

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl EventFd {
    /// A counter at zero; as a semaphore, each read takes one.
    pub(crate) fn new(semaphore: bool) -> io::Result<EventFd> {
        let flags = libc::EFD_CLOEXEC | if semaphore { libc::EFD_SEMAPHORE } else { 0 };
        // SAFETY: no pointers are involved.
        let fd = check(unsafe { libc::eventfd(0, flags) })?;
        // SAFETY: `fd` was just opened and belongs to nobody else.
        Ok(EventFd(unsafe { Fd::own(fd) }))
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }

    /// Another file descriptor of it, which keeps a place in the process's table.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }

    /// Adds to the counter.
    pub(crate) fn add(&self, n: u64) {
        // SAFETY: the buffer is 8 readable bytes. It cannot fail short of 2^64 - 1 adds.
        unsafe { libc::syscall(libc::SYS_write, self.raw(), &raw const n, 8_usize) };
    }

    /// Takes from the counter, waiting until it is not zero unless O_NONBLOCK was set on the fd.
    pub(crate) fn read(&self) -> io::Result<u64> {
        let mut n = 0_u64;
        loop {
            // SAFETY: the buffer is 8 writable bytes.
            match check_size(unsafe { libc::read(self.raw(), (&raw mut n).cast(), 8) }) {
                Ok(_) => return Ok(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// As [`EventFd::read`], yet a signal may interrupt it: `EINTR`, unless its handler restarts system calls.
    pub(crate) fn take(&self) -> io::Result<u64> {
        let mut n = 0_u64;
        // SAFETY: the buffer is 8 writable bytes.
        check_size(unsafe { libc::read(self.raw(), (&raw mut n).cast(), 8) }).map(|_| n)
    }

    /// Takes from the counter without waiting, whether or not O_NONBLOCK was set on the fd; false if it is zero.
    pub(crate) fn try_take(&self) -> bool {
        let mut n = 0_u64;
        let iov = libc::iovec { iov_base: (&raw mut n).cast(), iov_len: 8 };
        let (fd, here) = (self.raw(), -1_i64);
        // SAFETY: the buffer is 8 writable bytes.
        unsafe { libc::syscall(libc::SYS_preadv2, fd, &raw const iov, 1, here, here, libc::RWF_NOWAIT) == 8 }
    }

    /// Waits until it is not zero, or the time is over.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        let mut poll = libc::pollfd { fd: self.raw(), events: libc::POLLIN, revents: 0 };
        let time = libc::timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        // SAFETY: `poll` is one valid pollfd, `time` a valid timespec, and no signal mask is given.
        unsafe { libc::ppoll(&mut poll, 1, &time, std::ptr::null()) > 0 }
    }

    /// Takes all there is, without waiting.
    pub(crate) fn drain(&self) {
        if self.wait(Duration::ZERO) {
            // It was readable, and only its owner reads it.
            let _ = self.read();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_semaphore_gives_one_at_a_time_and_a_counter_all_at_once() {
        let (semaphore, counter) = (EventFd::new(true).unwrap(), EventFd::new(false).unwrap());
        semaphore.add(2);
        counter.add(2);
        assert_eq!([semaphore.read().unwrap(), semaphore.read().unwrap()], [1, 1]);
        assert_eq!(counter.read().unwrap(), 2);
        assert!(!semaphore.wait(Duration::ZERO) && !counter.wait(Duration::ZERO));
    }

    #[test]
    fn a_read_does_not_wait_once_the_program_has_made_the_fd_non_blocking() {
        let event = EventFd::new(true).unwrap();
        // SAFETY: no pointers are involved.
        check(unsafe { libc::fcntl(event.raw(), libc::F_SETFL, libc::O_NONBLOCK) }).unwrap();
        assert_eq!(event.read().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        event.add(1);
        event.drain();
        assert!(!event.wait(Duration::ZERO));
    }
}
