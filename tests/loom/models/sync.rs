//! What the provider's `sync` is, of loom's kind.

pub(crate) use loom::cell::UnsafeCell;
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use loom::sync::{Condvar, MutexGuard};

/// A lock that, like parking_lot's, knows no poison.
#[derive(Debug)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }
}

/// An eventfd: a count to wait on, which stays until it is drained.
#[derive(Debug)]
pub(crate) struct Bell {
    count: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    pub(crate) fn new() -> Bell {
        Bell { count: Mutex::new(0), rung: Condvar::new() }
    }

    pub(crate) fn ring(&self) {
        *self.count.lock() += 1;
        self.rung.notify_one();
    }

    /// Waits without a limit: a ring that is lost is a deadlock, which loom reports.
    pub(crate) fn wait(&self) {
        let mut count = self.count.lock();
        while *count == 0 {
            count = self.rung.wait(count).unwrap();
        }
    }

    pub(crate) fn drain(&self) {
        *self.count.lock() = 0;
    }
}
