//! Connections that send in turn.
//!
//! What a thousand connections have on their way together is out of the processors' caches before anybody reads it. So
//! where they are many, a connection that has nothing on its way begins only while little is on its way from others,
//! and waits in line until then. When nothing has come for a moment, processors are not what is scarce, and one may begin
//! whatever is on its way; and a connection whose peer has stopped counts for a second only.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use dmverbs_proto::Tick;
use parking_lot::Mutex;

/// While so many bytes of payload are on their way, or so many have begun since that was last looked at, nobody else begins.
const BUDGET: u64 = 4 << 20;
const MOST: usize = 1024;
/// For so long a connection counts.
const COUNTS: Tick = 1_000_000_000;
/// When nothing has come for so long, one may begin anyhow.
pub(super) const LULL: Tick = 1_000_000;

/// Who has begun, and who waits in line.
#[derive(Debug)]
pub(super) struct Visits<T> {
    any_waiting: AtomicBool,
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    waiting: VecDeque<Arc<T>>,
    /// When they began, in order; some may be gone.
    begun: VecDeque<(Tick, Weak<T>)>,
    /// Their payload on its way, as it was when they began or were last looked at.
    bytes: u64,
    /// When something last came, if anybody waited then, or when who waits first began to wait.
    moved: Tick,
}

impl<T> Default for Visits<T> {
    fn default() -> Visits<T> {
        let inner = Inner { waiting: VecDeque::new(), begun: VecDeque::new(), bytes: 0, moved: 0 };
        Visits { any_waiting: AtomicBool::new(false), inner: Mutex::new(inner) }
    }
}

impl<T> Inner<T> {
    fn has_room(&self) -> bool {
        self.bytes < BUDGET && self.begun.len() < MOST
    }
}

impl<T> Visits<T> {
    /// Whether one may begin that has not waited.
    pub(super) fn has_room(&self) -> bool {
        let inner = self.inner.lock();
        inner.waiting.is_empty() && inner.has_room()
    }

    /// Who has begun has so much payload on its way.
    pub(super) fn began(&self, one: &Arc<T>, bytes: u64, now: Tick) {
        let mut inner = self.inner.lock();
        inner.bytes += bytes;
        inner.begun.push_back((now, Arc::downgrade(one)));
    }

    pub(super) fn wait(&self, one: Arc<T>, now: Tick) {
        let mut inner = self.inner.lock();
        if inner.waiting.is_empty() {
            inner.moved = now;
        }
        inner.waiting.push_back(one);
        self.any_waiting.store(true, Ordering::Release);
    }

    pub(super) fn any_waiting(&self) -> bool {
        // Relaxed: whoever finds nobody looks again at the next turn.
        self.any_waiting.load(Ordering::Relaxed)
    }

    /// Who has waited longest, if there is room for it, or `anyhow`; and whether there is.
    pub(super) fn next(&self, anyhow: bool) -> Option<(Arc<T>, bool)> {
        let mut inner = self.inner.lock();
        let room = inner.has_room();
        let next = if anyhow || room { inner.waiting.pop_front() } else { None };
        self.any_waiting.store(!inner.waiting.is_empty(), Ordering::Release);
        next.map(|next| (next, room))
    }

    /// Looks again at those that have begun, if nobody may begin because of them: `on_way` is their payload on its way,
    /// which can have changed if something has `moved`. One caller at a time. Whether the next may begin anyhow.
    pub(super) fn look(&self, now: Tick, moved: bool, on_way: impl Fn(&T) -> u64) -> bool {
        let mut begun = {
            let mut inner = self.inner.lock();
            if moved {
                inner.moved = now;
            }
            let lull = now.saturating_sub(inner.moved) >= LULL;
            let counts = |&(began, _): &(Tick, Weak<T>)| now.saturating_sub(began) < COUNTS;
            if inner.has_room() || (!moved && inner.begun.front().is_some_and(counts)) {
                return lull;
            }
            inner.bytes = 0;
            std::mem::take(&mut inner.begun)
        };
        // Without the lock, as who takes it may have locked one of them.
        let mut bytes = 0;
        begun.retain(|(began, one)| {
            let counts = match one.upgrade() {
                Some(one) if now.saturating_sub(*began) < COUNTS => on_way(&one),
                _ => 0,
            };
            bytes += counts;
            counts > 0
        });
        let mut inner = self.inner.lock();
        inner.bytes += bytes;
        begun.append(&mut inner.begun);
        inner.begun = begun;
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    type One = AtomicU64;

    /// One that would like to send half of what may be on its way.
    fn one() -> Arc<One> {
        Arc::new(AtomicU64::new(BUDGET / 2))
    }

    fn begin(visits: &Visits<One>, one: &Arc<One>, now: Tick) {
        visits.began(one, one.load(Ordering::Relaxed), now);
    }

    fn look(visits: &Visits<One>, now: Tick, moved: bool) -> bool {
        visits.look(now, moved, |one| one.load(Ordering::Relaxed))
    }

    #[test]
    fn who_comes_while_enough_is_on_its_way_waits_in_line() {
        let visits = Visits::default();
        let [a, b, c, d] = [(); 4].map(|()| one());
        assert!(visits.has_room() && !visits.any_waiting());
        begin(&visits, &a, 0);
        assert!(visits.has_room());
        begin(&visits, &b, 0);
        assert!(!visits.has_room());
        visits.wait(c.clone(), 0);
        visits.wait(d.clone(), 0);
        assert!(!look(&visits, 1, true));
        assert!(visits.next(false).is_none() && visits.any_waiting());
        a.store(0, Ordering::Relaxed);
        look(&visits, 1, false);
        assert!(visits.next(false).is_none());
        look(&visits, 1, true);
        // There is room, but c comes first.
        assert!(!visits.has_room());
        assert!(Arc::ptr_eq(&visits.next(false).unwrap().0, &c));
        begin(&visits, &c, 2);
        assert!(visits.next(false).is_none());
        b.store(0, Ordering::Relaxed);
        look(&visits, 3, true);
        assert!(Arc::ptr_eq(&visits.next(false).unwrap().0, &d) && !visits.any_waiting());
    }

    #[test]
    fn one_may_begin_anyhow_when_nothing_has_come_for_a_moment() {
        let visits = Visits::default();
        let [a, b] = [(); 2].map(|()| one());
        begin(&visits, &a, 0);
        begin(&visits, &a, 0);
        visits.wait(b, 10);
        assert!(!look(&visits, LULL + 9, false));
        assert!(!look(&visits, LULL + 9, true));
        assert!(!look(&visits, 2 * LULL, false));
        assert!(look(&visits, 2 * LULL + 9, false));
        assert!(matches!(visits.next(true), Some((_, false))) && visits.next(true).is_none());
    }

    #[test]
    fn who_is_gone_or_done_leaves_room_for_many_with_little() {
        let visits = Visits::default();
        let all: Vec<_> = (0..MOST).map(|i| Arc::new(AtomicU64::new((i % 2) as u64))).collect();
        for one in &all {
            visits.began(one, 1, 0);
        }
        assert!(!visits.has_room());
        drop(all);
        visits.wait(one(), 0);
        look(&visits, 1, true);
        assert!(matches!(visits.next(false), Some((_, true))) && visits.has_room());
    }

    #[test]
    fn who_does_not_come_to_an_end_counts_no_longer() {
        let visits = Visits::default();
        let [a, b, c, d] = [(); 4].map(|()| one());
        begin(&visits, &a, 0);
        begin(&visits, &b, 1);
        visits.wait(c, 1);
        visits.wait(d, 1);
        look(&visits, COUNTS - 1, true);
        assert!(visits.next(false).is_none());
        look(&visits, COUNTS, false);
        let (c, room) = visits.next(false).unwrap();
        assert!(room);
        begin(&visits, &c, COUNTS);
        assert!(visits.next(false).is_none());
        look(&visits, COUNTS + 1, false);
        assert!(visits.next(false).is_some());
    }
}
