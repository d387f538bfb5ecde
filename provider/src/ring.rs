//! The ring behind a completion queue: connections push, pollers pop, and one push may be asked to tell.
//!
//! Producers take turns under one lock and consumers under another. The two sides share nothing but two counts, so
//! that a push and a pop go on at the same time, and a poller sees that there is nothing without any lock. Whoever
//! needs both locks takes the producers' first.
//!
//! Memory is reserved for the whole capacity, yet only a window of it is used, as large as the queue has ever been
//! full: a deep queue that never fills stays in the cache, and its untouched pages cost nothing.

use std::collections::{TryReserveError, VecDeque};
use std::mem::MaybeUninit;
use std::sync::Arc;

use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, UnsafeCell};

/// A bounded queue that dies when it overflows, as a completion queue must.
///
/// # Invariants
/// - Items are numbered in the order of their pushes, wrapping. Those from `front.head` up to `back.tail` are queued,
///   and item `n` is in slot `n & mask`. No more than `mask + 1` are queued, and `mask` is below the number of slots.
/// - The slots and the mask are the same on both sides; they change under both locks.
/// - A queued item's slot is read by the holder of the consumers' lock only, any other slot is written by the holder
///   of the producers' lock only. A slot changes hands by a Release store of `tail` or `head` and its Acquire load.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    back: Back<T>,
    front: Front<T>,
}

/// What producers write; apart from what consumers write, for the cache's sake.
#[derive(Debug)]
#[repr(align(128))]
struct Back<T> {
    producer: Mutex<Producer<T>>,
    /// Items ever pushed.
    tail: AtomicUsize,
    dead: AtomicBool,
}

#[derive(Debug)]
struct Producer<T> {
    slots: Arc<Slots<T>>,
    mask: usize,
    tail: usize,
    /// `front.head` as last seen: never beyond it.
    head: usize,
    capacity: usize,
    notify: Notify,
}

/// What consumers write.
#[derive(Debug)]
#[repr(align(128))]
struct Front<T> {
    consumer: Mutex<Consumer<T>>,
    /// Items ever popped or discarded, and those that were discarded.
    head: AtomicUsize,
    discarded: AtomicUsize,
}

#[derive(Debug)]
struct Consumer<T> {
    slots: Arc<Slots<T>>,
    mask: usize,
    head: usize,
    /// `back.tail` as last seen: never beyond it.
    tail: usize,
}

/// Which push to tell of.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Notify {
    /// None.
    Never,
    /// The next with a solicited item.
    Solicited,
    /// The next.
    Next,
}

/// What a push led to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Pushed {
    /// It was the one to tell of.
    pub(crate) notify: bool,
    /// It was the first that did not fit: the ring is dead, and what did not fit is lost.
    pub(crate) overflowed: bool,
    /// What was added.
    pub(crate) run: Run,
}

/// Items that one push has added.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Run {
    /// Items pushed and not discarded when the last of them had been.
    end: usize,
    len: usize,
}

/// What was pushed for somebody, as far as it may still be queued.
#[derive(Debug, Default)]
pub(crate) struct Unpopped {
    runs: VecDeque<Run>,
    len: usize,
}

/// Why a ring keeps its size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ResizeError {
    /// More is queued than would fit.
    Occupied,
    OutOfMemory,
}

impl<T: Copy> Ring<T> {
    /// A ring for `capacity` items; at least one.
    pub(crate) fn new(capacity: usize) -> Result<Ring<T>, TryReserveError> {
        Ring::with_window(capacity, FIRST_WINDOW)
    }

    pub(crate) fn with_window(capacity: usize, window: usize) -> Result<Ring<T>, TryReserveError> {
        let slots = Arc::new(Slots::new(capacity)?);
        // INVARIANT: the mask is below the number of slots, and nothing is queued.
        let mask = window.min(slots.0.len()).next_power_of_two() - 1;
        let consumer = Consumer { slots: slots.clone(), mask, head: 0, tail: 0 };
        let producer = Producer { slots, mask, tail: 0, head: 0, capacity, notify: Notify::Never };
        Ok(Ring {
            back: Back { producer: Mutex::new(producer), tail: AtomicUsize::new(0), dead: AtomicBool::new(false) },
            front: Front { consumer: Mutex::new(consumer), head: AtomicUsize::new(0), discarded: AtomicUsize::new(0) },
        })
    }

    /// Items that fit.
    pub(crate) fn capacity(&self) -> usize {
        self.back.producer.lock().capacity
    }

    /// Whether it has overflowed. Who knows that finds all that was pushed before.
    #[inline]
    pub(crate) fn is_dead(&self) -> bool {
        // pairs with the Release in `push`
        self.back.dead.load(Ordering::Acquire)
    }

    /// Adds all items, in order, or as many as fit; a dead ring takes none.
    ///
    /// The iterator runs under the producers' lock, but for its first item; without one, nothing is locked.
    #[inline]
    pub(crate) fn push(&self, items: impl IntoIterator<Item = T>, solicited: impl Fn(&T) -> bool) -> Pushed {
        let mut locked = None;
        let (mut added, mut any_solicited, mut overflowed) = (0, false, false);
        for item in items {
            let producer = locked.get_or_insert_with(|| self.back.producer.lock());
            if overflowed || self.back.dead.load(Ordering::Relaxed) {
                continue;
            }
            if !producer.has_room() {
                self.make_room(producer);
                if !producer.has_room() {
                    overflowed = true;
                    continue;
                }
            }
            (added, any_solicited) = (added + 1, any_solicited || solicited(&item));
            // SAFETY:
            // - Fewer than `mask + 1` slots are in use: `has_room`.
            // - The slot is ours: its item is not queued, and we hold the producers' lock.
            unsafe { producer.slots.write(producer.tail & producer.mask, item) };
            producer.tail = producer.tail.wrapping_add(1);
        }
        let Some(mut producer) = locked.filter(|_| !self.back.dead.load(Ordering::Relaxed)) else {
            return Pushed::default();
        };
        // pairs with the Acquire in `pop` and `is_empty`: the slots are consumers' from here on
        self.back.tail.store(producer.tail, Ordering::Release);
        if overflowed {
            // pairs with the Acquire in `is_dead`
            self.back.dead.store(true, Ordering::Release);
        }
        // An overflow is told to whoever waits for anything: nothing else will ever come.
        let notify = match producer.notify {
            Notify::Never => false,
            Notify::Solicited => overflowed || any_solicited,
            Notify::Next => overflowed || added > 0,
        };
        if notify {
            producer.notify = Notify::Never;
        }
        // Relaxed: who discards has the producers' lock.
        let end = producer.tail.wrapping_sub(self.front.discarded.load(Ordering::Relaxed));
        Pushed { notify, overflowed, run: Run { end, len: added } }
    }

    /// Asks that the next push be told of, or the next solicited one; gives what was asked before. Asking for less
    /// does not undo having asked for more.
    ///
    /// A push before this is there to be popped after it; a push after this tells.
    pub(crate) fn notify(&self, asked: Notify) -> Notify {
        let mut producer = self.back.producer.lock();
        let before = producer.notify;
        producer.notify = before.max(asked);
        before
    }

    /// Takes back what was asked; gives it.
    pub(crate) fn forget_notify(&self) -> Notify {
        std::mem::replace(&mut self.back.producer.lock().notify, Notify::Never)
    }

    /// Whether there is nothing to pop.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed: `head` only grows, and never beyond a `tail` that is loaded after it. So the two are equal only if
        // all that the caller could know of has been popped.
        let head = self.front.head.load(Ordering::Relaxed);
        // pairs with the Release in `push`
        self.back.tail.load(Ordering::Acquire) == head
    }

    /// Moves the oldest items to `room`, as many as there are; gives those.
    #[inline]
    pub(crate) fn pop<'a>(&self, room: &'a mut [MaybeUninit<T>]) -> &'a [T] {
        if self.is_empty() {
            return &[];
        }
        let mut consumer = self.front.consumer.lock();
        if consumer.queued() < room.len() {
            // pairs with the Release in `push`: the slots before `tail` are written
            consumer.tail = self.back.tail.load(Ordering::Acquire);
        }
        let n = room.len().min(consumer.queued());
        for place in &mut room[..n] {
            // SAFETY: the item is queued, hence its slot was written, and we hold the consumers' lock.
            place.write(unsafe { consumer.slots.read(consumer.head & consumer.mask) });
            consumer.head = consumer.head.wrapping_add(1);
        }
        // pairs with the Acquire in `make_room`: the slots are producers' from here on
        self.front.head.store(consumer.head, Ordering::Release);
        drop(consumer);
        let written: *const [MaybeUninit<T>] = &room[..n];
        // SAFETY: the loop above wrote the first `n`, and a `MaybeUninit<T>` that is written is a `T`.
        unsafe { &*(written as *const [T]) }
    }

    /// How many of these are still queued. Where others were discarded since, some may count that are not, but none does
    /// in an empty ring.
    fn queued_of(&self, run: Run) -> usize {
        if self.is_empty() {
            return 0;
        }
        // pairs with the Release in `discard`: of `head` and `discarded`, the latter is no older
        let head = self.front.head.load(Ordering::Acquire);
        let popped = head.wrapping_sub(self.front.discarded.load(Ordering::Relaxed));
        let queued = run.end.wrapping_sub(popped).cast_signed().max(0).cast_unsigned();
        queued.min(run.len)
    }

    /// Changes the capacity.
    pub(crate) fn resize(&self, capacity: usize) -> Result<(), ResizeError> {
        let mut producer = self.back.producer.lock();
        let mut consumer = self.front.consumer.lock();
        (producer.head, consumer.tail) = (consumer.head, producer.tail);
        if consumer.queued() > capacity {
            return Err(ResizeError::Occupied);
        }
        if capacity > producer.slots.0.len() {
            let slots = Slots::new(capacity).map_err(|_| ResizeError::OutOfMemory)?;
            for at in consumer.positions() {
                // SAFETY: the item is queued, hence its slot was written; we hold both locks.
                let item = unsafe { consumer.slots.read(at & consumer.mask) };
                // SAFETY: nobody else knows of these slots yet.
                unsafe { slots.write(at & consumer.mask, item) };
            }
            producer.slots = Arc::new(slots);
            consumer.slots = producer.slots.clone();
        }
        producer.capacity = capacity;
        Ok(())
    }

    /// Drops queued items that are `unwanted`; the others keep their order.
    pub(crate) fn discard(&self, unwanted: impl Fn(&T) -> bool) {
        let mut producer = self.back.producer.lock();
        let mut consumer = self.front.consumer.lock();
        consumer.tail = producer.tail;
        // From the youngest on, each that stays moves up to those that stayed before it.
        let mut place = consumer.tail;
        for i in 1..=consumer.queued() {
            let at = consumer.tail.wrapping_sub(i);
            // SAFETY: the item is queued, hence its slot was written; we hold both locks.
            let item = unsafe { consumer.slots.read(at & consumer.mask) };
            if !unwanted(&item) {
                place = place.wrapping_sub(1);
                // SAFETY: the slot is that of an item which has been read; we hold both locks.
                unsafe { consumer.slots.write(place & consumer.mask, item) };
            }
        }
        let dropped = place.wrapping_sub(consumer.head);
        (consumer.head, producer.head) = (place, place);
        // Relaxed: it changes under both locks.
        let before = self.front.discarded.load(Ordering::Relaxed);
        self.front.discarded.store(before.wrapping_add(dropped), Ordering::Relaxed);
        // pairs with the Acquire in `make_room` and `queued_of`
        self.front.head.store(place, Ordering::Release);
    }

    /// Learns what has been popped, and widens the window if another item needs it and the capacity lets it in.
    #[cold]
    #[inline(never)]
    fn make_room(&self, producer: &mut Producer<T>) {
        // pairs with the Release in `pop`: the slots before `head` have been read
        producer.head = self.front.head.load(Ordering::Acquire);
        let needed = (producer.queued() + 1).min(producer.capacity);
        if needed <= producer.mask + 1 {
            return;
        }
        let mut consumer = self.front.consumer.lock();
        // What the same push has added before: `consumer.tail` is never beyond `back.tail`.
        self.back.tail.store(producer.tail, Ordering::Release);
        (producer.head, consumer.tail) = (consumer.head, producer.tail);
        let mask = needed.next_power_of_two() - 1;
        for at in consumer.positions() {
            if at & mask != at & producer.mask {
                // SAFETY: the item is queued, hence its slot was written; we hold both locks.
                let item = unsafe { consumer.slots.read(at & producer.mask) };
                // SAFETY: the slot is beyond the old window, hence no item's; we hold both locks.
                unsafe { consumer.slots.write(at & mask, item) };
            }
        }
        (producer.mask, consumer.mask) = (mask, mask);
    }
}

impl Unpopped {
    /// These have been pushed.
    #[inline]
    pub(crate) fn add(&mut self, run: Run) {
        if run.len > 0 {
            self.runs.push_back(run);
            self.len += run.len;
        }
    }

    /// How many there are at most, by what was known at the last `update`.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Learns what has been popped of the ring that all of it was pushed into.
    #[cold]
    pub(crate) fn update<T: Copy>(&mut self, ring: &Ring<T>) {
        while let Some(first) = self.runs.front_mut() {
            let queued = ring.queued_of(*first);
            self.len -= first.len - queued;
            first.len = queued;
            if queued > 0 {
                return;
            }
            self.runs.pop_front();
        }
    }
}

impl<T> Producer<T> {
    /// How many are queued, or were a moment ago.
    #[inline]
    fn queued(&self) -> usize {
        self.tail.wrapping_sub(self.head)
    }

    /// Whether another item fits, as far as is known.
    #[inline]
    fn has_room(&self) -> bool {
        self.queued() < (self.mask + 1).min(self.capacity)
    }
}

impl<T> Consumer<T> {
    /// How many are known to be queued.
    #[inline]
    fn queued(&self) -> usize {
        self.tail.wrapping_sub(self.head)
    }

    fn positions(&self) -> impl Iterator<Item = usize> {
        let head = self.head;
        (0..self.queued()).map(move |i| head.wrapping_add(i))
    }
}

/// Room for items; a power of two of them.
struct Slots<T>(Box<[UnsafeCell<MaybeUninit<T>>]>);

// SAFETY: a slot is touched by one thread at a time: invariant of `Ring`, and `Slots` are in no other hands.
unsafe impl<T: Send> Sync for Slots<T> {}

impl<T: Copy> Slots<T> {
    fn new(capacity: usize) -> Result<Slots<T>, TryReserveError> {
        let capacity = capacity.next_power_of_two();
        let mut slots = Vec::new();
        slots.try_reserve_exact(capacity)?;
        // Optimised, this writes nothing, and pages that were never written take no memory.
        slots.extend(std::iter::repeat_with(|| UnsafeCell::new(MaybeUninit::uninit())).take(capacity));
        Ok(Slots(slots.into_boxed_slice()))
    }

    /// # Safety
    /// Nobody else touches this slot now.
    #[inline]
    unsafe fn write(&self, slot: usize, item: T) {
        // SAFETY: the pointer is a slot's, and nobody else touches it: the caller's duty.
        self.0[slot].with_mut(|place| unsafe { (*place).write(item) });
    }

    /// # Safety
    /// The slot has been written, and nobody writes it now.
    #[inline]
    unsafe fn read(&self, slot: usize) -> T {
        // SAFETY: the pointer is a slot's that was written and that nobody writes: the caller's duty.
        self.0[slot].with(|place| unsafe { (*place).assume_init_read() })
    }
}

impl<T> std::fmt::Debug for Slots<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slots({})", self.0.len())
    }
}

/// The window of a fresh ring.
const FIRST_WINDOW: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_out_in_the_order_of_their_pushes_while_the_window_grows() {
        let ring = ring(1000);
        let (mut pushed, mut popped) = (0, 0);
        for n in [1, 63, 64, 65, 200, 7, 300, 300] {
            push(&ring, pushed..pushed + n);
            pushed += n;
            // Less than came, so that the queue gets longer and wraps.
            for item in pop(&ring, n as usize * 3 / 4) {
                assert_eq!(item, popped);
                popped += 1;
            }
        }
        assert_eq!(pop(&ring, 1000), (popped..pushed).collect::<Vec<_>>());
        assert!(ring.is_empty());
    }

    #[test]
    fn exactly_its_capacity_fits_and_more_kills_it() {
        let ring = ring(100);
        assert!(!push(&ring, 0..100).overflowed);
        let pushed = push(&ring, 100..101);
        assert!(pushed.overflowed && pushed.run.len == 0);
        assert!(ring.is_dead());
        assert_eq!(pop(&ring, 200), (0..100).collect::<Vec<_>>());
        assert_eq!(push(&ring, 0..1), Pushed::default());
        assert!(ring.is_empty());
    }

    #[test]
    fn of_a_batch_that_overflows_what_fits_is_kept() {
        let ring = ring(3);
        assert!(push(&ring, 0..5).overflowed);
        assert_eq!(pop(&ring, 5), [0, 1, 2]);
    }

    #[test]
    fn resizing_keeps_what_is_queued_and_refuses_to_lose_any() {
        let ring = ring(8);
        push(&ring, 0..5);
        pop(&ring, 3);
        push(&ring, 5..10);
        assert_eq!(ring.resize(6), Err(ResizeError::Occupied));
        ring.resize(7).unwrap();
        assert_eq!(ring.capacity(), 7);
        ring.resize(300).unwrap();
        assert!(!push(&ring, 10..303).overflowed);
        assert_eq!(pop(&ring, 400), (3..303).collect::<Vec<_>>());
    }

    #[test]
    fn each_producer_knows_how_many_of_its_items_are_queued() {
        let ring = ring(100);
        let mut own = [Unpopped::default(), Unpopped::default()];
        let mut known = |producer: usize, more| {
            own[producer].add(push(&ring, more).run);
            own[producer].update(&ring);
            own[producer].len()
        };
        assert_eq!((known(0, 0..3), known(1, 3..5), known(0, 5..6)), (3, 2, 4));
        for (popped, queued) in [(2, (2, 2)), (2, (1, 1)), (1, (1, 0)), (1, (0, 0))] {
            assert_eq!(pop(&ring, popped).len(), popped);
            assert_eq!((known(0, 0..0), known(1, 0..0)), queued);
        }
        // What is discarded behind them changes nothing; what is before them leaves too many for a while, and never too few.
        assert_eq!((known(1, 0..2), known(0, 2..5), known(1, 5..7)), (2, 3, 4));
        ring.discard(|item| *item >= 5);
        assert_eq!(known(0, 0..0), 3);
        ring.discard(|item| *item < 2);
        assert_eq!((pop(&ring, 1), known(0, 0..0)), (vec![2], 3));
        assert_eq!((pop(&ring, 9), known(0, 0..0)), (vec![3, 4], 0));
    }

    #[test]
    fn one_push_is_told_of_per_request() {
        let ring = ring(10);
        assert!(!push(&ring, 0..1).notify);
        ring.notify(Notify::Next);
        assert!(!push(&ring, 0..0).notify);
        assert!(push(&ring, 1..2).notify);
        assert!(!push(&ring, 2..3).notify);
    }

    #[test]
    fn a_request_that_is_taken_back_tells_of_nothing() {
        let ring = ring(10);
        assert_eq!(ring.notify(Notify::Next), Notify::Never);
        assert_eq!(ring.forget_notify(), Notify::Next);
        assert!(!push(&ring, 1..2).notify);
    }

    #[test]
    fn a_request_for_solicited_items_waits_for_one_unless_more_was_asked_before() {
        let ring = ring(10);
        ring.notify(Notify::Solicited);
        assert!(!push(&ring, 1..2).notify);
        assert!(push(&ring, SOLICITED..SOLICITED + 1).notify);
        ring.notify(Notify::Next);
        ring.notify(Notify::Solicited);
        assert!(push(&ring, 1..2).notify);
    }

    #[test]
    fn who_waits_for_solicited_items_is_told_of_the_end() {
        let ring = ring(1);
        ring.notify(Notify::Solicited);
        let pushed = push(&ring, 0..2);
        assert!(pushed.notify && pushed.overflowed);
    }

    #[test]
    fn what_is_discarded_makes_room_and_the_rest_keeps_its_order() {
        let ring = ring(100);
        push(&ring, 0..70);
        assert_eq!(pop(&ring, 40).len(), 40);
        push(&ring, 70..130);
        ring.discard(|item| item % 3 == 0);
        push(&ring, 130..160);
        let kept = (40..130).filter(|item| item % 3 != 0);
        assert_eq!(pop(&ring, 200), kept.chain(130..160).collect::<Vec<_>>());
        assert!(ring.is_empty() && !ring.is_dead());
        ring.discard(|_| true);
        push(&ring, 0..100);
        ring.discard(|_| true);
        assert!(ring.is_empty());
        assert!(!push(&ring, 0..100).overflowed);
    }

    #[test]
    fn threads_lose_and_double_nothing() {
        const EACH: u64 = 20_000;
        let ring = ring(1 << 20);
        let popped = std::thread::scope(|s| {
            for producer in 0..2 {
                let ring = &ring;
                s.spawn(move || {
                    for i in (0..EACH).step_by(5) {
                        push(ring, producer * EACH + i..producer * EACH + i + 5);
                    }
                });
            }
            s.spawn(|| (1..=10).for_each(|i| ring.resize((1 << 20) + i * 1000).unwrap()));
            let consumers = [(); 2].map(|()| {
                s.spawn(|| {
                    let mut all = Vec::new();
                    while all.last() != Some(&STOP) {
                        all.extend(pop(&ring, 1));
                        std::thread::yield_now();
                    }
                    all
                })
            });
            while consumers.iter().any(|consumer| !consumer.is_finished()) {
                if ring.is_empty() {
                    push(&ring, STOP..STOP + 1);
                }
                std::thread::yield_now();
            }
            consumers.map(|consumer| consumer.join().unwrap())
        });
        for consumer in &popped {
            for producer in 0..2 {
                let own = consumer.iter().filter(|item| **item / EACH == producer);
                assert!(own.is_sorted(), "the items of one producer changed places");
            }
        }
        let mut rest: Vec<_> = popped.concat();
        rest.extend(pop(&ring, usize::MAX >> 40));
        rest.retain(|item| *item != STOP);
        rest.sort_unstable();
        assert_eq!(rest, (0..2 * EACH).collect::<Vec<_>>());
    }

    const SOLICITED: u64 = 1 << 40;
    const STOP: u64 = 1 << 41;

    fn ring(capacity: usize) -> Ring<u64> {
        Ring::new(capacity).unwrap()
    }

    fn push(ring: &Ring<u64>, items: std::ops::Range<u64>) -> Pushed {
        ring.push(items, |item| *item == SOLICITED)
    }

    fn pop(ring: &Ring<u64>, max: usize) -> Vec<u64> {
        let mut room = vec![MaybeUninit::uninit(); max];
        ring.pop(&mut room).to_vec()
    }
}
