//! epoll(7).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::{check, check_size};

/// What to wait for on an fd; errors and hang-ups are always reported, as readable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interest(u32);

impl Interest {
    pub(crate) const NONE: Interest = Interest(0);
    pub(crate) const READ: Interest = Interest(libc::EPOLLIN as u32);
    pub(crate) const WRITE: Interest = Interest(libc::EPOLLOUT as u32);
    pub(crate) const READ_OR_END: Interest = Interest((libc::EPOLLIN | libc::EPOLLRDHUP) as u32);

    pub(crate) fn of(read: bool, write: bool) -> Interest {
        Interest(if read { Interest::READ.0 } else { 0 } | if write { Interest::WRITE.0 } else { 0 })
    }
}

/// Something is ready.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Event(libc::epoll_event);

impl Default for Event {
    fn default() -> Event {
        Event(libc::epoll_event { events: 0, u64: 0 })
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Event({:#x}, {:#x})", self.token(), { self.0.events })
    }
}

impl Event {
    pub(crate) fn token(&self) -> u64 {
        self.0.u64
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.0.events & (libc::EPOLLIN | libc::EPOLLERR | libc::EPOLLHUP | libc::EPOLLRDHUP) as u32 != 0
    }

    /// The peer has ended its direction; reported where that was asked for.
    pub(crate) fn is_ended(&self) -> bool {
        self.0.events & libc::EPOLLRDHUP as u32 != 0
    }

    /// Both directions have ended.
    pub(crate) fn is_dead(&self) -> bool {
        self.0.events & libc::EPOLLHUP as u32 != 0
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.0.events & libc::EPOLLOUT as u32 != 0
    }
}

/// A set of fds to wait for.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers are involved.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was just opened and belongs to nobody else.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    pub(crate) fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    pub(crate) fn delete(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Interest::NONE)
    }

    fn control(&self, op: libc::c_int, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.0, u64: token };
        // SAFETY: both fds are open, and `event` is a valid epoll_event.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, fd.as_raw_fd(), &mut event) }).map(drop)
    }

    /// Waits for events, for at most `time` if given. An interrupted wait gives none.
    #[inline]
    pub(crate) fn wait(&self, events: &mut [Event], time: Option<Duration>) -> io::Result<usize> {
        let millis = time.map_or(-1, |t| i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        let (fd, room, mask) = (self.0.as_raw_fd(), events.len(), std::ptr::null::<libc::sigset_t>());
        // SAFETY: `events` is writable for its length, Event is a transparent epoll_event, and no signal mask is given.
        let n = unsafe { libc::syscall(libc::SYS_epoll_pwait, fd, events.as_mut_ptr(), room, millis, mask, 0_usize) };
        match check_size(n as isize) {
            Ok(n) => Ok(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(e) => Err(e),
        }
    }
}
