//! When something is to be looked at, one time each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dmverbs_proto::Tick;
use parking_lot::Mutex;

#[derive(Debug)]
pub(super) struct Timers<T> {
    /// The earliest, or one that was.
    next: AtomicU64,
    /// Each once.
    set: Mutex<Vec<(Tick, Arc<T>)>>,
}

impl<T> Default for Timers<T> {
    fn default() -> Timers<T> {
        Timers { next: AtomicU64::new(Tick::MAX), set: Mutex::default() }
    }
}

impl<T> Timers<T> {
    /// `one` is due at this time, or when it was due before if that is earlier.
    pub(super) fn set(&self, at: Tick, one: &Arc<T>) {
        let mut set = self.set.lock();
        match set.iter_mut().find(|(_, other)| Arc::ptr_eq(other, one)) {
            Some((due, _)) => *due = at.min(*due),
            None => set.push((at, one.clone())),
        }
        self.next.fetch_min(at, Ordering::AcqRel);
    }

    /// `one` is not due any more.
    pub(super) fn forget(&self, one: &Arc<T>) {
        // The time that was the next stays: to look in vain once costs less than to find another.
        self.set.lock().retain(|(_, other)| !Arc::ptr_eq(other, one));
    }

    /// When the next is due.
    pub(super) fn next(&self) -> Tick {
        self.next.load(Ordering::Acquire)
    }

    /// Those that are due are no longer set.
    pub(super) fn take_due(&self, now: Tick) -> Vec<Arc<T>> {
        if self.next() > now {
            return Vec::new();
        }
        let mut set = self.set.lock();
        let (due, rest) = std::mem::take(&mut *set).into_iter().partition::<Vec<_>, _>(|(at, _)| *at <= now);
        self.next.store(rest.iter().map(|(at, _)| *at).min().unwrap_or(Tick::MAX), Ordering::Release);
        *set = rest;
        due.into_iter().map(|(_, one)| one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_forgotten_is_not_kept() {
        let timers = Timers::default();
        let [a, b] = [Arc::new('a'), Arc::new('b')];
        timers.set(10, &a);
        timers.set(20, &b);
        timers.forget(&a);
        assert_eq!(Arc::strong_count(&a), 1);
        assert_eq!(timers.take_due(100), [b]);
    }

    #[test]
    fn one_that_is_set_again_is_due_once_at_the_earliest_time() {
        // Each receive that was missing for a moment left an entry behind, for as long as the retry budget is.
        let timers = Timers::default();
        let [a, b] = [Arc::new('a'), Arc::new('b')];
        timers.set(30, &a);
        timers.set(20, &b);
        for at in [40, 10, 50] {
            timers.set(at, &a);
        }
        assert_eq!(timers.next(), 10);
        assert!(timers.take_due(9).is_empty());
        assert_eq!(timers.take_due(10), [a]);
        assert_eq!(timers.next(), 20);
        assert_eq!(timers.take_due(100), [b]);
        assert!(timers.take_due(Tick::MAX - 1).is_empty() && timers.set.lock().is_empty());
    }
}
