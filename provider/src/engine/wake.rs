//! Who makes progress: applications that poll, or the thread.
//!
//! While somebody polls, the thread stands back: it naps, and looks now and then whether polling goes on. When nobody
//! has polled during a nap it sleeps on the sockets instead, and serves what comes. A poller that sets in then does
//! not wake the thread; the next frame does, and the thread sees that somebody polled meanwhile, and stands back.
//!
//! An application that has armed a completion queue is about to sleep until an event comes: then there are no naps.
//!
//! A thread that sleeps has to be woken, which costs the sender and the receiver several microseconds each. When what
//! it waits for comes at short intervals it lingers: it looks at the sockets for a while before it sleeps. On a busy
//! machine that harms more than it helps, as a thread that never sleeps has to share its processor; so when the
//! thread finds that it was displaced for much of the time that it lingered, it does not linger for some time.
//!
//! What counts is that somebody polled, not that somebody polls while the thread serves: on a machine with few cores
//! the thread may have displaced the very poller it looks for.

use std::time::Duration;

use crate::sync::{AtomicBool, AtomicUsize, Ordering, fence};

/// The hand-off between pollers and the thread.
#[derive(Debug, Default)]
pub(crate) struct Standby {
    /// Somebody has polled since the thread last asked.
    polled: AtomicBool,
    /// The thread naps, or is about to.
    napping: AtomicBool,
    /// The thread sleeps on the sockets, or is about to.
    asleep: AtomicBool,
    /// Completion queues whose application sleeps, or is about to, until an event comes. It may wrap below 0 for a
    /// moment, when an event overtakes the call that asked for it; that passes for many.
    sleepers: AtomicUsize,
}

/// The thread's memory of it.
#[derive(Debug)]
pub(crate) struct Watch {
    /// How long it naps if somebody polls.
    nap: Duration,
    /// The last sleep was short.
    brisk: bool,
    /// It does not linger before this time of the clock, and for how long that was.
    abstains_until: Duration,
    abstinence: Duration,
    /// For how long it was displaced, less what is tolerated, up to this time of the clock.
    displaced: Duration,
    displaced_at: Duration,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch {
            nap: NAP_FIRST,
            brisk: false,
            abstains_until: Duration::ZERO,
            abstinence: ABSTINENCE_FIRST,
            displaced: Duration::ZERO,
            displaced_at: Duration::ZERO,
        }
    }
}

impl Watch {
    /// For how long after the last bytes the thread looks for more before it sleeps.
    pub(crate) fn lingers(&self, now: Duration) -> Duration {
        if self.brisk && now >= self.abstains_until { LINGER } else { Duration::ZERO }
    }

    /// A sleep has ended, by an event or by the clock.
    pub(crate) fn slept(&mut self, time: Duration) {
        self.brisk = time < LINGER;
    }

    /// Looking for bytes where there were none took as long as `time`.
    pub(crate) fn looked(&mut self, time: Duration, now: Duration) {
        if time < DISPLACED {
            return;
        }
        let tolerated = (now - self.displaced_at) / TOLERATED;
        self.displaced = self.displaced.saturating_sub(tolerated) + time;
        self.displaced_at = now;
        if self.displaced < DISPLACED_LAST {
            return;
        }
        self.displaced = Duration::ZERO;
        let soon = now.saturating_sub(self.abstains_until) < ABSTINENCE_LAST;
        self.abstinence = if soon { (self.abstinence * 2).min(ABSTINENCE_LAST) } else { ABSTINENCE_FIRST };
        self.abstains_until = now + self.abstinence;
    }
}

/// What the thread does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Plan {
    /// Nap; somebody polls.
    StandBack(Duration),
    /// Sleep on the sockets; nobody polls.
    Sleep,
}

impl Standby {
    /// Somebody polls.
    #[inline]
    pub(crate) fn polled(&self) {
        // Relaxed: a hint; one that is missed is followed by the next poll's, and after the last poll a nap is lost.
        // Looking first keeps the cache line shared between all who poll: it is written once a nap, not once a poll.
        if !self.polled.load(Ordering::Relaxed) {
            self.polled.store(true, Ordering::Relaxed);
        }
    }

    /// Whether somebody has polled since the thread last asked what to do.
    pub(crate) fn is_polled(&self) -> bool {
        // Relaxed: a hint.
        self.polled.load(Ordering::Relaxed)
    }

    /// Whether the thread sleeps on the sockets, so that only they or a kick wake it.
    ///
    /// A poller that leaves work behind (an ack to be sent later) asks this under the engine's lock, after it has
    /// noted the work. The thread says that it sleeps, and then looks for work under the same lock: either it finds
    /// the work, or the poller came later and finds it asleep.
    #[inline]
    pub(crate) fn is_asleep(&self) -> bool {
        // Relaxed: the engine's lock orders this with `plan`.
        self.asleep.load(Ordering::Relaxed)
    }

    /// The same for who has left work without the engine's lock, where the thread looks for it before it sleeps: one of
    /// them sees the other.
    #[inline]
    pub(crate) fn is_asleep_anyhow(&self) -> bool {
        // pairs with the fence in `plan`
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed)
    }

    /// What the thread does next.
    pub(crate) fn plan(&self, watch: &mut Watch) -> Plan {
        self.napping.store(false, Ordering::Relaxed);
        // Relaxed: a hint.
        if self.polled.swap(false, Ordering::Relaxed) && self.may_nap() {
            let nap = watch.nap;
            watch.nap = (nap * 2).min(NAP_SOON.max(nap * 5 / 4)).min(NAP_LAST);
            Plan::StandBack(nap)
        } else {
            watch.nap = NAP_FIRST;
            // Relaxed: the engine's lock orders this with `is_asleep`.
            self.asleep.store(true, Ordering::Relaxed);
            // pairs with the fence in `is_asleep_anyhow`
            fence(Ordering::SeqCst);
            Plan::Sleep
        }
    }

    fn may_nap(&self) -> bool {
        self.napping.store(true, Ordering::Relaxed);
        // pairs with the fence in `expect_sleeper`
        fence(Ordering::SeqCst);
        let may = self.sleepers.load(Ordering::Relaxed) == 0;
        self.napping.store(may, Ordering::Relaxed);
        may
    }

    /// An application arms a completion queue, and will sleep. True if the thread may be napping: it must be kicked.
    ///
    /// The thread says that it naps before it looks for sleepers; here it is the other way round. One of them sees
    /// the other.
    #[must_use]
    pub(crate) fn expect_sleeper(&self) -> bool {
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        // pairs with the fence in `may_nap`
        fence(Ordering::SeqCst);
        self.napping.load(Ordering::Relaxed)
    }

    /// An armed completion queue has told its application, or is gone.
    pub(crate) fn forget_sleeper(&self) {
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }

    /// The thread is awake.
    pub(crate) fn woke(&self) {
        // Relaxed: who still finds it asleep kicks it in vain; who finds it awake will be seen by its next plan.
        self.asleep.store(false, Ordering::Relaxed);
    }
}

/// The first nap, and the longest. Naps grow while polling goes on: by doubling, as who has begun to poll may soon stop, and
/// from [`NAP_SOON`] on by a quarter. The end of a nap takes tens of microseconds from who polls on that processor, if a
/// hypervisor keeps the time.
const NAP_FIRST: Duration = Duration::from_micros(50);
const NAP_SOON: Duration = Duration::from_millis(1);
const NAP_LAST: Duration = Duration::from_millis(4);
/// What a sender of 4 KiB messages takes to gather and send half of perftest's window.
const LINGER: Duration = Duration::from_micros(100);
/// A look at a socket takes less than a microsecond, unless somebody else has run meanwhile.
const DISPLACED: Duration = Duration::from_micros(200);
/// One part in so many of the time may pass like that: a hypervisor takes as much, and daemons do.
const TOLERATED: u32 = 16;
/// What may come at once; somebody who shares the processor takes it for some milliseconds at a time.
const DISPLACED_LAST: Duration = Duration::from_millis(5);
const ABSTINENCE_FIRST: Duration = Duration::from_millis(50);
const ABSTINENCE_LAST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    #[test]
    fn the_thread_sleeps_on_the_sockets_while_nobody_polls() {
        let (standby, mut watch) = (Standby::default(), Watch::default());
        assert_eq!(standby.plan(&mut watch), Plan::Sleep);
        assert!(standby.is_asleep());
        standby.woke();
        assert!(!standby.is_asleep());
        assert_eq!(standby.plan(&mut watch), Plan::Sleep);
    }

    #[test]
    fn a_thread_that_is_woken_while_somebody_polls_stands_back() {
        let (standby, mut watch) = (Standby::default(), Watch::default());
        assert_eq!(standby.plan(&mut watch), Plan::Sleep);
        standby.polled();
        standby.woke();
        assert_eq!(standby.plan(&mut watch), Plan::StandBack(NAP_FIRST));
        assert!(!standby.is_asleep());
    }

    #[test]
    fn naps_grow_while_polling_goes_on() {
        let (standby, mut watch) = (Standby::default(), Watch::default());
        let mut nap = || {
            standby.polled();
            match standby.plan(&mut watch) {
                Plan::StandBack(nap) => nap,
                Plan::Sleep => panic!("somebody polls"),
            }
        };
        let soon: Vec<_> = (0..6).map(|_| nap()).collect();
        assert_eq!(soon, [50, 100, 200, 400, 800, 1000].map(Duration::from_micros));
        let mut polled: Duration = soon.iter().sum();
        let later = iter::repeat_with(nap).take_while(|nap| *nap < NAP_LAST).take(100);
        for nap in later {
            assert!(nap > NAP_SOON && nap < polled / 2, "{nap:?} after {polled:?}");
            polled += nap;
        }
        assert!(polled < 8 * NAP_LAST, "{polled:?}");
    }

    #[test]
    fn there_are_no_naps_while_an_application_sleeps_until_an_event() {
        let (standby, mut watch) = (Standby::default(), Watch::default());
        assert!(!standby.expect_sleeper());
        standby.polled();
        assert_eq!(standby.plan(&mut watch), Plan::Sleep);
        standby.forget_sleeper();
        standby.polled();
        assert!(matches!(standby.plan(&mut watch), Plan::StandBack(_)));
        assert!(standby.expect_sleeper(), "a thread that naps must be kicked");
    }

    #[test]
    fn the_thread_lingers_while_events_come_at_short_intervals() {
        let mut watch = Watch::default();
        assert_eq!(watch.lingers(Duration::ZERO), Duration::ZERO);
        watch.slept(LINGER / 2);
        assert_eq!(watch.lingers(Duration::ZERO), LINGER);
        watch.slept(LINGER);
        assert_eq!(watch.lingers(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_thread_that_shares_its_processor_abstains_from_lingering_for_longer_and_longer() {
        let mut watch = Watch::default();
        watch.slept(Duration::ZERO);
        let (start, tick) = (Duration::from_secs(10), Duration::from_nanos(1));
        let shares = |watch: &mut Watch, at| {
            watch.looked(DISPLACED_LAST / 2, at);
            watch.looked(DISPLACED_LAST, at);
        };
        watch.looked(Duration::from_micros(1), start);
        assert_eq!(watch.lingers(start), LINGER);
        shares(&mut watch, start);
        let first = start + ABSTINENCE_FIRST;
        assert_eq!((watch.lingers(first - tick), watch.lingers(first)), (Duration::ZERO, LINGER));
        shares(&mut watch, first);
        let second = first + 2 * ABSTINENCE_FIRST;
        assert_eq!((watch.lingers(second - tick), watch.lingers(second)), (Duration::ZERO, LINGER));
        let long_after = second + 2 * ABSTINENCE_LAST;
        shares(&mut watch, long_after);
        assert_eq!(watch.lingers(long_after + ABSTINENCE_FIRST), LINGER);
    }

    #[test]
    fn a_thread_that_is_displaced_now_and_then_lingers_on() {
        let mut watch = Watch::default();
        watch.slept(Duration::ZERO);
        let (time, pause) = (Duration::from_millis(1), Duration::from_millis(50));
        for i in 1..1000 {
            watch.looked(time, i * pause);
            assert_eq!(watch.lingers(i * pause), LINGER);
        }
    }

    #[test]
    fn the_thread_takes_over_when_a_nap_passes_without_a_poll() {
        let (standby, mut watch) = (Standby::default(), Watch::default());
        standby.polled();
        assert!(matches!(standby.plan(&mut watch), Plan::StandBack(_)));
        assert_eq!(standby.plan(&mut watch), Plan::Sleep);
        assert!(standby.is_asleep());
    }
}
