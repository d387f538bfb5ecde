//! Connections that send in turn.
//!
//! What a thousand connections have on their way together is out of the processors' caches before anybody reads it. So
//! where they are many, a connection that has nothing on its way begins only while little is on its way from others,
//! and waits in line until then. When nothing of that has arrived for a moment, processors are not what is scarce, and
//! one after the other begins whatever is on its way; and a connection whose peer has stopped counts for a second only.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use dmverbs_proto::Tick;
use parking_lot::Mutex;

/// While so many bytes of payload are on their way, nobody else begins.
const BUDGET: u64 = 4 << 20;
/// For so long a connection counts.
const COUNTS: Tick = 1_000_000_000;
/// When nothing of it has arrived for so long, one may begin anyhow, and after as long the next.
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
    /// Each once, and when it began, in order; some may be gone.
    begun: VecDeque<(Tick, Weak<T>)>,
    /// Their payload on its way, as last looked at, and what has been sent since.
    bytes: u64,
    /// Something has come since.
    stale: bool,
    /// When they were last seen to have less on their way, one was let go anyhow, or who waits first began to wait.
    progress: Tick,
}

impl<T> Inner<T> {
    /// Whether one may begin anyhow; for the next there has to be another lull.
    fn lulls(&mut self, now: Tick) -> bool {
        let lulls = now.saturating_sub(self.progress) >= LULL;
        if lulls {
            self.progress = now;
        }
        lulls
    }
}

impl<T> Default for Visits<T> {
    fn default() -> Visits<T> {
        let inner = Inner { waiting: VecDeque::new(), begun: VecDeque::new(), bytes: 0, stale: false, progress: 0 };
        Visits { any_waiting: AtomicBool::new(false), inner: Mutex::new(inner) }
    }
}

impl<T> Visits<T> {
    /// Whether one may begin that has not waited.
    pub(super) fn has_room(&self) -> bool {
        let inner = self.inner.lock();
        inner.waiting.is_empty() && inner.bytes < BUDGET
    }

    /// One has begun that is not among those yet.
    pub(super) fn began(&self, one: &Arc<T>, now: Tick) {
        self.inner.lock().begun.push_back((now, Arc::downgrade(one)));
    }

    /// One has sent so many bytes.
    pub(super) fn add(&self, bytes: u64) {
        self.inner.lock().bytes += bytes;
    }

    pub(super) fn wait(&self, one: Arc<T>, now: Tick) {
        let mut inner = self.inner.lock();
        if inner.waiting.is_empty() {
            (inner.stale, inner.progress) = (true, now);
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
        let room = inner.bytes < BUDGET;
        let next = if anyhow || room { inner.waiting.pop_front() } else { None };
        self.any_waiting.store(!inner.waiting.is_empty(), Ordering::Release);
        next.map(|next| (next, room))
    }

    /// Looks again at those that have begun, if nobody may begin because of them and something has `moved`. `count` is
    /// told whether one began too long ago to count, and gives what counts of its payload on its way; with nothing, it is
    /// no longer among them. One caller at a time. Whether the next may begin anyhow.
    pub(super) fn look(&self, now: Tick, moved: bool, count: impl Fn(&T, bool) -> u64) -> bool {
        let is_old = |began: Tick| now.saturating_sub(began) >= COUNTS;
        let (mut begun, before) = {
            let mut inner = self.inner.lock();
            inner.stale |= moved;
            let old = inner.begun.front().is_some_and(|(began, _)| is_old(*began));
            if inner.bytes < BUDGET || !(inner.stale || old) {
                return inner.lulls(now);
            }
            inner.stale = false;
            (std::mem::take(&mut inner.begun), std::mem::take(&mut inner.bytes))
        };
        // Without the lock, as who takes it may have locked one of them.
        let mut bytes = 0;
        begun.retain(|(began, one)| {
            let counts = one.upgrade().map_or(0, |one| count(&one, is_old(*began)));
            bytes += counts;
            counts > 0
        });
        let mut inner = self.inner.lock();
        if bytes < before {
            inner.progress = now;
        }
        inner.bytes += bytes;
        begun.append(&mut inner.begun);
        inner.begun = begun;
        inner.lulls(now)
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
        visits.add(one.load(Ordering::Relaxed));
        visits.began(one, now);
    }

    fn look(visits: &Visits<One>, now: Tick, moved: bool) -> bool {
        visits.look(now, moved, |one, old| if old { 0 } else { one.load(Ordering::Relaxed) })
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
    fn one_may_begin_anyhow_when_nothing_has_arrived_for_a_moment() {
        let visits = Visits::default();
        let [a, b] = [(); 2].map(|()| one());
        begin(&visits, &a, 0);
        begin(&visits, &b, 0);
        visits.wait(one(), 10);
        assert!(!look(&visits, LULL + 9, true));
        // A byte is sent, and arrives.
        visits.add(1);
        assert!(!look(&visits, 2 * LULL, true));
        assert!(!look(&visits, 3 * LULL - 1, false));
        // Something else has come.
        assert!(look(&visits, 3 * LULL, true));
        assert!(matches!(visits.next(true), Some((_, false))) && visits.next(true).is_none());
        assert!(!look(&visits, 4 * LULL - 1, true));
        assert!(look(&visits, 4 * LULL, false));
    }

    #[test]
    fn who_arrived_while_nobody_waited_leaves_room() {
        let visits = Visits::default();
        let [a, b] = [(); 2].map(|()| one());
        begin(&visits, &a, 0);
        begin(&visits, &b, 0);
        a.store(0, Ordering::Relaxed);
        drop(b);
        visits.wait(one(), 1);
        look(&visits, 1, false);
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
