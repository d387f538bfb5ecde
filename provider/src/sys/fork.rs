//! Sockets do not survive fork(2): a child's copies would keep connections alive after the parent has died.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

/// File descriptors below this are closed in a child; beyond it they are only closed on exec.
const FDS: usize = 1 << 20;

/// One bit for each fd that a child must not keep. Plain memory: the child's handler may take no lock.
static OURS: [AtomicU64; FDS / 64] = [const { AtomicU64::new(0) }; FDS / 64];

fn place(fd: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok()?;
    Some((OURS.get(fd / 64)?, 1 << (fd % 64)))
}

/// From now on children close `fd`.
pub(super) fn keep_from_children(fd: RawFd) {
    static HANDLER: Once = Once::new();
    // SAFETY: `in_child` is async-signal-safe: it touches atomics and calls close(2), by number: its thread may be one that is cancelled.
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
}

impl<T: AsFd> Drop for Unshared<T> {
    fn drop(&mut self) {
        forget(self.0.as_fd().as_raw_fd());
    }
}

unsafe extern "C" fn in_child() {
    for (i, word) in OURS.iter().enumerate() {
        let mut bits = word.swap(0, Ordering::Relaxed);
        while bits != 0 {
            let fd = i * 64 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            // SAFETY: the parent's owner of `fd` runs in the parent only; its copy here has no other user.
            unsafe { libc::syscall(libc::SYS_close, fd as RawFd) };
        }
    }
}
