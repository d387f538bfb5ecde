//! Who makes progress: applications that poll, or the thread.
//!
//! While somebody polls, the thread stands back: it naps, and looks now and then whether polling goes on. When nobody
//! has polled during a nap it sleeps on the sockets instead, and serves what comes. A poller costs nothing for this
//! but a counter; a thread that is woken although somebody polls sees the counter move, and stands back again.

use std::time::Duration;

use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// The first nap, and the longest: naps grow while polling goes on.
const NAP_FIRST: Duration = Duration::from_micros(50);
const NAP_LAST: Duration = Duration::from_millis(1);

/// The hand-off between pollers and the thread.
#[derive(Debug, Default)]
pub(crate) struct Standby {
    polls: AtomicU64,
    asleep: AtomicBool,
    /// Completion queues whose application sleeps, or is about to, until an event comes.
    sleepers: AtomicUsize,
}

/// The thread's memory of it.
#[derive(Debug)]
pub(crate) struct Watch {
    seen: u64,
    nap: Duration,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch { seen: 0, nap: NAP_FIRST }
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
        // Relaxed: a hint; several pollers may lose a count, never all of it. A lost hint costs one nap.
        let polls = self.polls.load(Ordering::Relaxed);
        self.polls.store(polls.wrapping_add(1), Ordering::Relaxed);
    }

    /// Whether the thread sleeps on the sockets, so that only they or a kick wake it.
    ///
    /// A poller that leaves work behind (an ack to be sent later) looks here after it has noted the work under the
    /// engine's lock; the thread says that it sleeps before it looks for work under the same lock. One of them sees
    /// the other.
    #[inline]
    pub(crate) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// What the thread does next.
    pub(crate) fn plan(&self, watch: &mut Watch) -> Plan {
        let polls = self.polls.load(Ordering::Relaxed);
        let polled = std::mem::replace(&mut watch.seen, polls) != polls;
        // SeqCst: see `expect_sleeper`.
        if !polled || self.sleepers.load(Ordering::SeqCst) > 0 {
            watch.nap = NAP_FIRST;
            self.asleep.store(true, Ordering::SeqCst);
            return Plan::Sleep;
        }
        let nap = watch.nap;
        watch.nap = (nap * 2).min(NAP_LAST);
        Plan::StandBack(nap)
    }

    /// An application arms a completion queue, and will sleep. True if the thread naps and must be woken.
    ///
    /// The thread says that it sleeps on the sockets only after it has seen that there is no need to nap; here it is
    /// the other way round. One of them sees the other.
    #[must_use]
    pub(crate) fn expect_sleeper(&self) -> bool {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        !self.asleep.load(Ordering::SeqCst)
    }

    /// An armed completion queue has announced its event.
    pub(crate) fn forget_sleeper(&self) {
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// The thread is awake.
    pub(crate) fn woke(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }
}
