//! The ring behind a completion queue: several connections push, several threads poll.

use std::collections::VecDeque;

use crate::sync::{AtomicUsize, Mutex, Ordering};

/// A bounded queue that dies when it overflows, as a completion queue must.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    queue: Mutex<Queue<T>>,
    /// The queue's length, for pollers to see that it is empty without the lock.
    len: AtomicUsize,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    capacity: usize,
    dead: bool,
}

/// The ring was full: what was pushed is lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Overflow {
    /// For the first time.
    First,
    /// It was dead already.
    Again,
}

impl<T: Copy> Ring<T> {
    pub(crate) fn new(capacity: usize) -> Ring<T> {
        let queue = Queue { items: VecDeque::new(), capacity, dead: false };
        Ring { queue: Mutex::new(queue), len: AtomicUsize::new(0) }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.queue.lock().capacity
    }

    pub(crate) fn has_overflowed(&self) -> bool {
        self.queue.lock().dead
    }

    /// Adds all items, in order.
    #[inline]
    pub(crate) fn push(&self, items: &[T]) -> Result<(), Overflow> {
        let mut queue = self.queue.lock();
        if queue.dead {
            return Err(Overflow::Again);
        }
        if items.len() > queue.capacity - queue.items.len() {
            queue.dead = true;
            return Err(Overflow::First);
        }
        queue.items.extend(items);
        // pairs with the Acquire in `pop`
        self.len.store(queue.items.len(), Ordering::Release);
        Ok(())
    }

    /// Hands up to `max` of the oldest items to `sink`.
    #[inline]
    pub(crate) fn pop(&self, max: usize, sink: &mut impl FnMut(&T)) -> usize {
        // pairs with the Release in `push`: a poller that was told of a push finds its items
        if self.len.load(Ordering::Acquire) == 0 {
            return 0;
        }
        let mut queue = self.queue.lock();
        let n = max.min(queue.items.len());
        for item in queue.items.drain(..n) {
            sink(&item);
        }
        self.len.store(queue.items.len(), Ordering::Release);
        n
    }

    /// Changes the capacity, unless more is queued.
    pub(crate) fn resize(&self, capacity: usize) -> bool {
        let mut queue = self.queue.lock();
        let fits = queue.items.len() <= capacity;
        if fits {
            queue.capacity = capacity;
        }
        fits
    }
}
