//! The hand-off between pollers and the progress thread.

use loom::sync::Arc;
use loom::thread;

use crate::Model;
use crate::sync::{AtomicUsize, Bell, Mutex, Ordering};
use crate::wake::{Plan, Standby, Watch};

pub(crate) const ALL: &[Model] = &[
    ("a_kick_between_the_plan_and_the_sleep_is_not_lost", kick),
    ("an_acknowledgement_left_behind_is_found_or_the_thread_is_woken", left_behind),
    ("requests_left_behind_are_found_or_the_poster_sees_the_thread_asleep", posted),
    ("a_thread_that_naps_hears_of_an_application_that_goes_to_sleep", going_to_sleep),
];

/// What the engine shares.
struct Shared {
    standby: Standby,
    bell: Bell,
}

impl Shared {
    fn new() -> Arc<Shared> {
        Arc::new(Shared { standby: Standby::default(), bell: Bell::new() })
    }

    /// The thread's sleep on the sockets, of which only the bell rings here.
    fn sleep(&self) {
        self.bell.wait();
        self.standby.woke();
        self.bell.drain();
    }
}

/// Two applications each start a timer and kick the thread; it must see both timers.
fn kick() {
    let shared = Shared::new();
    let timers = Arc::new(AtomicUsize::new(0));
    let applications = [(); 2].map(|()| {
        let (shared, timers) = (shared.clone(), timers.clone());
        thread::spawn(move || {
            timers.fetch_add(1, Ordering::Relaxed);
            shared.bell.ring();
        })
    });
    let thread = thread::spawn(move || {
        let mut watch = Watch::default();
        while timers.load(Ordering::Relaxed) < 2 {
            assert_eq!(shared.standby.plan(&mut watch), Plan::Sleep);
            shared.sleep();
        }
    });
    applications.into_iter().for_each(|application| application.join().unwrap());
    thread.join().unwrap();
}

/// Two pollers each leave an acknowledgement for the thread and never poll again.
fn left_behind() {
    let shared = Shared::new();
    let lazy = Arc::new(Mutex::new(0));
    let pollers = [(); 2].map(|()| {
        let (shared, lazy) = (shared.clone(), lazy.clone());
        thread::spawn(move || {
            // They do not say `polled`: a thread that naps looks for acknowledgements after the nap in any case.
            let mut lazy = lazy.lock();
            *lazy += 1;
            if shared.standby.is_asleep() {
                shared.bell.ring();
            }
        })
    });
    let thread = thread::spawn(move || {
        let (mut watch, mut sent) = (Watch::default(), 0);
        loop {
            assert_eq!(shared.standby.plan(&mut watch), Plan::Sleep);
            sent += std::mem::take(&mut *lazy.lock());
            if sent == 2 {
                break;
            }
            shared.sleep();
        }
    });
    pollers.into_iter().for_each(|poller| poller.join().unwrap());
    thread.join().unwrap();
}

/// Somebody leaves requests to gather without the engine's lock, and sends them himself if the thread sleeps. No bell
/// rings: if both missed the other, nobody would have sent them.
fn posted() {
    let shared = Shared::new();
    let (listed, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let poster = thread::spawn({
        let (shared, listed, sent) = (shared.clone(), listed.clone(), sent.clone());
        move || {
            listed.store(1, Ordering::Release);
            if shared.standby.is_asleep_anyhow() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let thread = thread::spawn({
        let (shared, sent) = (shared.clone(), sent.clone());
        move || {
            assert_eq!(shared.standby.plan(&mut Watch::default()), Plan::Sleep);
            sent.fetch_add(listed.swap(0, Ordering::AcqRel), Ordering::Relaxed);
        }
    });
    poster.join().unwrap();
    thread.join().unwrap();
    assert_ne!(sent.load(Ordering::Relaxed), 0);
}

/// The nap has no end here: if the application did not end it, loom would see a deadlock.
fn going_to_sleep() {
    let shared = Shared::new();
    shared.standby.polled();
    let application = thread::spawn({
        let shared = shared.clone();
        move || {
            shared.standby.polled();
            if shared.standby.expect_sleeper() {
                shared.bell.ring();
            }
        }
    });
    let thread = thread::spawn(move || {
        let mut watch = Watch::default();
        // Once it sleeps on the sockets, frames will wake it.
        while let Plan::StandBack(_) = shared.standby.plan(&mut watch) {
            shared.bell.wait();
            shared.bell.drain();
        }
    });
    application.join().unwrap();
    thread.join().unwrap();
}
