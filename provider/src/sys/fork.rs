//! Sockets do not survive fork(2): a child's copies would keep connections alive after the parent has died.

use std::cell::{Cell, UnsafeCell};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::cancel::Uncancelled;

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
fn keep_from_children(fd: RawFd) {
    if let Some((word, bit)) = place(fd) {
        // Relaxed: fork() orders the parent's memory before the child's.
        word.fetch_or(bit, Ordering::Relaxed);
    }
}

/// `fd` is about to be closed.
fn forget(fd: RawFd) {
    if let Some((word, bit)) = place(fd) {
        word.fetch_and(!bit, Ordering::Relaxed);
    }
}

/// Who opens a descriptor and notes it, or forgets and closes it, reads; fork(2) writes. It is one of C's, which can be made
/// anew in a child.
struct Lock(UnsafeCell<libc::pthread_rwlock_t>);

// SAFETY: it is a lock.
unsafe impl Sync for Lock {}

static LOCK: Lock = Lock(UnsafeCell::new(libc::PTHREAD_RWLOCK_INITIALIZER));

thread_local! {
    /// How many times this thread is between forks. If a signal's handler forks then, it cannot wait for that.
    static BETWEEN: Cell<u32> = const { Cell::new(0) };
    /// This thread forks, and has the lock.
    static FORKS: Cell<bool> = const { Cell::new(false) };
}

/// The handlers of who comes later run before this lock is taken, and after it is given back: it is the innermost.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = register;

extern "C" fn register() {
    // SAFETY: `in_child` is async-signal-safe: it touches atomics, a lock that nobody else has, and makes system calls, by
    // number: its thread may be one that is cancelled.
    unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
}

unsafe extern "C" fn before_fork() {
    if BETWEEN.get() == 0 {
        // SAFETY: it is initialized.
        unsafe { libc::pthread_rwlock_wrlock(LOCK.0.get()) };
        FORKS.set(true);
    }
}

unsafe extern "C" fn in_parent() {
    if FORKS.replace(false) {
        // SAFETY: it is this thread's.
        unsafe { libc::pthread_rwlock_unlock(LOCK.0.get()) };
    }
}

/// No child is made meanwhile, but by handlers of signals; others may do the same, and what takes long holds up forks only.
/// `act` takes no lock and allocates nothing, as allocators have handlers, too.
fn between_forks<T>(act: impl FnOnce() -> T) -> T {
    struct Locked;
    impl Drop for Locked {
        fn drop(&mut self) {
            // Of a child that was made by a handler meanwhile it is another lock.
            if BETWEEN.get() > 0 {
                // SAFETY: this thread reads.
                unsafe { libc::pthread_rwlock_unlock(LOCK.0.get()) };
                BETWEEN.set(BETWEEN.get() - 1);
            }
        }
    }
    if FORKS.get() {
        // A handler of the program's, within ours: there is nobody else to wait for.
        return act();
    }
    let _uncancelled = Uncancelled::begin();
    BETWEEN.set(BETWEEN.get() + 1);
    // SAFETY: it is initialized.
    unsafe { libc::pthread_rwlock_rdlock(LOCK.0.get()) };
    let _locked = Locked;
    act()
}

/// What belongs to its descriptor, which children do not keep.
#[derive(Debug)]
pub(crate) struct Unshared<T: AsFd>(ManuallyDrop<T>);

impl<T: AsFd> Unshared<T> {
    /// What `make` makes, at which it opens a descriptor.
    ///
    /// # Errors
    /// As of `make`.
    pub(crate) fn made<E>(make: impl FnOnce() -> Result<T, E>) -> Result<Unshared<T>, E> {
        between_forks(|| make().map(Unshared::noted))
    }

    /// The same for two.
    pub(crate) fn pair<E>(make: impl FnOnce() -> Result<[T; 2], E>) -> Result<[Unshared<T>; 2], E> {
        between_forks(|| make().map(|made| made.map(Unshared::noted)))
    }

    fn noted(of: T) -> Unshared<T> {
        keep_from_children(of.as_fd().as_raw_fd());
        Unshared(ManuallyDrop::new(of))
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
        between_forks(|| {
            forget(self.0.as_fd().as_raw_fd());
            // SAFETY: nobody uses it any more.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        });
    }
}

unsafe extern "C" fn in_child() {
    // SAFETY: there is one thread. What others hold is of no use to it.
    unsafe { LOCK.0.get().write(libc::PTHREAD_RWLOCK_INITIALIZER) };
    BETWEEN.set(0);
    FORKS.set(false);
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
    use std::io::{self, ErrorKind};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::testing::alone;

    fn status(child: libc::pid_t) -> i32 {
        let mut status = 0;
        // SAFETY: `status` has room for one.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        status
    }

    // In processes of their own, as children keep the sockets of other tests for a moment.

    #[test]
    fn a_child_has_nothing_of_the_connection_and_no_other_gets_its_number() {
        if !alone("sys::fork::tests::a_child_has_nothing_of_the_connection_and_no_other_gets_its_number") {
            return;
        }
        let (ours, peer) = UnixStream::pair().unwrap();
        let ours = Unshared::made(|| io::Result::Ok(ours)).unwrap();
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
        assert_eq!(status(child), 0);
        peer.set_nonblocking(true).unwrap();
        assert_eq!(std::io::Read::read(&mut &peer, &mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(std::io::Write::write(&mut ours.get(), b"x").unwrap(), 1);
    }

    #[test]
    fn a_child_has_nothing_of_what_is_made_and_closed_while_it_is_made() {
        if !alone("sys::fork::tests::a_child_has_nothing_of_what_is_made_and_closed_while_it_is_made") {
            return;
        }
        let name = format!("dmverbs-fork-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    drop(Unshared::made(|| UnixStream::connect_addr(&address)).unwrap());
                    drop(listener.accept().unwrap());
                }
            });
            let kept = (0..300).filter(|_| {
                // SAFETY: the child does nothing but system calls.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    // SAFETY: it ends the child.
                    unsafe { libc::_exit(i32::from((0..256).any(|fd| leads_to(fd, name.as_bytes())))) };
                }
                status(child) != 0
            });
            let kept = kept.count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(kept, 0);
        });
    }

    /// Whether it is connected with who has this abstract name.
    fn leads_to(fd: RawFd, name: &[u8]) -> bool {
        let mut peer = libc::sockaddr_un { sun_family: 0, sun_path: [0; 108] };
        let mut len = size_of_val(&peer) as libc::socklen_t;
        // SAFETY: `peer` has room for what `len` says.
        let found = unsafe { libc::getpeername(fd, (&raw mut peer).cast(), &raw mut len) } == 0;
        found && peer.sun_path[1..].iter().zip(name).all(|(a, b)| *a as u8 == *b)
    }
}
