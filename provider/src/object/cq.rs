//! Completion queues; ibv_create_cq(3), ibv_poll_cq(3), ibv_req_notify_cq(3).

use std::mem::MaybeUninit;
use std::sync::Arc;

use super::users::Users;
use super::{AsyncEvent, Channel, Completion, Context, Cookie, Error, Limits};
use crate::ring::{Notify, Pushed, ResizeError, Ring, Run, Unpopped};
use crate::sync::{Condvar, Mutex};

/// A completion queue.
#[derive(Debug)]
pub struct Cq {
    context: Arc<Context>,
    ring: Ring<Completion>,
    waker: Option<Waker>,
    cookie: Cookie,
    /// Queue pairs that complete here, once for each of their queues.
    users: Users,
}

/// How it tells of completions.
#[derive(Debug)]
struct Waker {
    channel: Arc<Channel>,
    told: Mutex<Told>,
    acked: Condvar,
}

#[derive(Debug, Default)]
struct Told {
    /// Events that went to the channel and have not been acknowledged.
    unacked: usize,
    /// No more events: the queue is being destroyed.
    closed: bool,
}

impl Cq {
    /// Makes a queue for `cqe` completions.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no completions, more than the device's max_cqe, or a channel of another context;
    /// [`Error::NoMemory`].
    pub fn create(
        context: &Arc<Context>,
        cqe: usize,
        channel: Option<&Arc<Channel>>,
        cookie: Cookie,
    ) -> Result<Arc<Cq>, Error> {
        let ring = Ring::new(check_size(cqe)?).map_err(|_| Error::NoMemory)?;
        let waker = channel.map(|channel| Waker::new(channel, context)).transpose()?;
        Ok(Arc::new(Cq { context: context.clone(), ring, waker, cookie, users: Users::default() }))
    }

    /// Completions that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// Hands up to `max` completions to `sink`; moves bytes first if there are none.
    ///
    /// # Errors
    /// [`Error::State`] if the queue has overflowed and what fitted has been taken.
    #[inline]
    pub fn poll(&self, max: usize, mut sink: impl FnMut(&Completion)) -> Result<usize, Error> {
        let n = self.take(max, &mut sink);
        if n > 0 || max == 0 {
            return Ok(n);
        }
        self.make_progress();
        // Asked before the queue is looked at: an overflow comes after what fitted.
        let dead = self.ring.is_dead();
        match self.take(max, &mut sink) {
            0 if dead => Err(Error::State("the completion queue has overflowed")),
            n => Ok(n),
        }
    }

    /// Asks for one event on the channel when the next completion comes, or the next solicited or failed one.
    pub fn request_notify(&self, solicited_only: bool) {
        if self.waker.is_none() {
            return;
        }
        let before = self.ring.notify(if solicited_only { Notify::Solicited } else { Notify::Next });
        if before == Notify::Never {
            self.context.progress().expect_sleepers();
        }
    }

    /// Changes how many completions fit; ibv_resize_cq(3).
    ///
    /// # Errors
    /// [`Error::Invalid`] for a size out of range, or below what is in the queue now; [`Error::NoMemory`].
    pub fn resize(&self, cqe: usize) -> Result<(), Error> {
        self.ring.resize(check_size(cqe)?).map_err(|e| match e {
            ResizeError::Occupied => Error::Invalid("more completions are queued than the new size holds"),
            ResizeError::OutOfMemory => Error::NoMemory,
        })
    }

    /// Acknowledges `n` events.
    pub fn ack_events(&self, n: u32) {
        if let Some(waker) = &self.waker {
            waker.ack(n as usize);
        }
    }

    /// Ends it, when all events that were taken from the channel have been acknowledged.
    ///
    /// # Errors
    /// [`Error::Busy`] while QPs complete here; [`Error::State`] if it was destroyed before.
    pub fn destroy(cq: Arc<Cq>) -> Result<(), (Arc<Cq>, Error)> {
        if let Err(e) = cq.users.close() {
            return Err((cq, e));
        }
        if let Some(waker) = &cq.waker {
            waker.close(cq.cookie);
            // Whoever acknowledged the last event may have armed it before.
            if cq.ring.forget_notify() != Notify::Never {
                cq.context.progress().forget_sleeper();
            }
        }
        cq.context.events().forget(cq.cookie);
        Ok(())
    }

    /// Adds completions; an overflow kills the queue.
    #[inline]
    pub(crate) fn push(&self, completions: impl IntoIterator<Item = Completion>) -> Run {
        let pushed = self.ring.push(completions, |completion| completion.solicited);
        if pushed.notify || pushed.overflowed {
            self.tell(pushed);
        }
        pushed.run
    }

    /// How many more requests a QP's queue takes where its engine has `room`: one keeps its place until its completion
    /// here has been polled, as it does with adapters. So a queue overflows only if it has fewer places than the requests
    /// that are outstanding. Exact below `wanted`.
    #[inline]
    pub(crate) fn room(&self, room: usize, unpolled: &mut Unpopped, wanted: usize) -> usize {
        if room < unpolled.len() + wanted {
            unpolled.update(&self.ring);
        }
        room.saturating_sub(unpolled.len())
    }

    /// Drops what a QP of this number has completed.
    pub(crate) fn discard(&self, qpn: u32) {
        self.ring.discard(|completion| completion.qpn == qpn);
    }

    /// Whether it has overflowed: it takes no completions any more.
    #[inline]
    pub(crate) fn is_dead(&self) -> bool {
        self.ring.is_dead()
    }

    /// A queue of a QP completes here from now on.
    pub(crate) fn attach(&self) {
        // A queue that has been destroyed drops what comes, and needs no count of who uses it.
        let _ = self.users.attach();
    }

    pub(crate) fn detach(&self) {
        self.users.detach();
    }

    #[cold]
    fn tell(&self, pushed: Pushed) {
        if pushed.overflowed {
            tracing::error!(capacity = self.capacity(), "a completion queue has overflowed");
            self.context.events().push(AsyncEvent::CqErr(self.cookie));
        }
        if let Some(waker) = self.waker.as_ref().filter(|_| pushed.notify) {
            self.context.progress().forget_sleeper();
            waker.wake(self.cookie);
        }
    }

    /// Hands over what is there.
    #[inline]
    fn take(&self, max: usize, sink: &mut impl FnMut(&Completion)) -> usize {
        let mut taken = 0;
        // By way of here, so that the sink does not run under the ring's lock.
        let mut room = [const { MaybeUninit::uninit() }; AT_ONCE];
        while taken < max {
            let asked = AT_ONCE.min(max - taken);
            let got = self.ring.pop(&mut room[..asked]);
            got.iter().for_each(&mut *sink);
            taken += got.len();
            if got.len() < asked {
                break;
            }
        }
        taken
    }

    fn make_progress(&self) {
        self.context.progress().poll_inline();
    }
}

impl Waker {
    fn new(channel: &Arc<Channel>, context: &Arc<Context>) -> Result<Waker, Error> {
        channel.attach(context)?;
        Ok(Waker { channel: channel.clone(), told: Mutex::default(), acked: Condvar::new() })
    }

    fn wake(&self, cookie: Cookie) {
        let mut told = self.told.lock();
        if !told.closed {
            told.unacked += 1;
            self.channel.tell(cookie);
        }
    }

    fn ack(&self, n: usize) {
        let mut told = self.told.lock();
        told.unacked = told.unacked.saturating_sub(n);
        self.acked.notify_all();
    }

    /// Drops the events that nobody took, and waits for the others to be acknowledged.
    fn close(&self, cookie: Cookie) {
        let mut told = self.told.lock();
        told.closed = true;
        told.unacked = told.unacked.saturating_sub(self.channel.detach(cookie));
        while told.unacked > 0 {
            self.acked.wait(&mut told);
        }
    }
}

fn check_size(cqe: usize) -> Result<usize, Error> {
    if (1..=Limits::MAX_CQE as usize).contains(&cqe) {
        Ok(cqe)
    } else {
        Err(Error::Invalid("cqe is 0 or beyond the device's max_cqe"))
    }
}

/// Completions that are taken under one lock: what perftest asks for at a time.
const AT_ONCE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Extra, Status, WcOpcode, devices};

    #[test]
    fn completions_come_out_in_the_order_they_went_in() {
        let cq = Cq::create(&context(), 100, None, 1).unwrap();
        cq.push((0..50).map(completion));
        assert_eq!(poll(&cq, 20).unwrap(), (0..20).collect::<Vec<_>>());
        assert!(poll(&cq, 0).unwrap().is_empty());
        assert_eq!(poll(&cq, 100).unwrap(), (20..50).collect::<Vec<_>>());
        assert!(poll(&cq, 1).unwrap().is_empty());
    }

    #[test]
    fn an_overflow_is_reported_once_and_after_what_fitted() {
        let context = context();
        let cq = Cq::create(&context, 2, None, 7).unwrap();
        for id in 0..4 {
            cq.push([completion(id)]);
        }
        assert_eq!(context.wait_event().unwrap(), AsyncEvent::CqErr(7));
        assert_eq!(poll(&cq, 10).unwrap(), [0, 1]);
        assert!(matches!(poll(&cq, 10), Err(Error::State(_))));
        assert!(!is_readable(context.async_fd()));
    }

    #[test]
    fn a_destroyed_queue_leaves_no_event_behind() {
        let context = context();
        let channel = Channel::create(&context).unwrap();
        let (gone, stays) =
            (Cq::create(&context, 1, Some(&channel), 1).unwrap(), Cq::create(&context, 1, Some(&channel), 2).unwrap());
        for cq in [&gone, &stays] {
            cq.request_notify(false);
            cq.push([completion(0)]);
            cq.push([completion(1)]);
        }
        Cq::destroy(gone).unwrap();
        assert_eq!(channel.wait().unwrap(), 2);
        assert_eq!(context.wait_event().unwrap(), AsyncEvent::CqErr(2));
        stays.ack_events(1);
        Cq::destroy(stays).unwrap();
    }

    #[test]
    fn one_event_answers_one_request_and_only_for_what_comes_after_it() {
        let context = context();
        let channel = Channel::create(&context).unwrap();
        let cq = Cq::create(&context, 10, Some(&channel), 5).unwrap();
        cq.push([completion(0)]);
        cq.request_notify(false);
        assert!(!is_readable(channel.fd()));
        cq.push([completion(1)]);
        cq.push([completion(2)]);
        assert_eq!(channel.wait().unwrap(), 5);
        assert!(!is_readable(channel.fd()));
        cq.ack_events(1);
        Cq::destroy(cq).unwrap();
    }

    #[test]
    fn a_request_for_solicited_completions_waits_for_one() {
        let context = context();
        let channel = Channel::create(&context).unwrap();
        let cq = Cq::create(&context, 10, Some(&channel), 5).unwrap();
        cq.request_notify(true);
        cq.push([completion(1)]);
        assert!(!is_readable(channel.fd()));
        cq.push([Completion { solicited: true, ..completion(2) }]);
        assert!(is_readable(channel.fd()));
        Cq::destroy(cq).unwrap();
    }

    #[test]
    fn destroying_waits_until_the_events_that_were_taken_are_acknowledged() {
        let context = context();
        let channel = Channel::create(&context).unwrap();
        let cq = Cq::create(&context, 10, Some(&channel), 5).unwrap();
        for id in 0..3 {
            cq.request_notify(false);
            cq.push([completion(id)]);
        }
        channel.wait().unwrap();
        channel.wait().unwrap();
        cq.ack_events(1);
        let destroyed = std::thread::spawn({
            let cq = cq.clone();
            move || Cq::destroy(cq).is_ok()
        });
        // The event that nobody took goes at once, and then it waits.
        while is_readable(channel.fd()) {
            std::thread::yield_now();
        }
        assert!(!destroyed.is_finished());
        cq.ack_events(1);
        assert!(destroyed.join().unwrap());
        assert!(matches!(Cq::destroy(cq), Err((_, Error::State(_)))));
    }

    #[test]
    fn what_is_in_use_is_not_destroyed() {
        let context = context();
        let channel = Channel::create(&context).unwrap();
        let cq = Cq::create(&context, 10, Some(&channel), 5).unwrap();
        cq.attach();
        let (channel, e) = Channel::destroy(channel).unwrap_err();
        assert!(matches!(e, Error::Busy));
        let (cq, e) = Cq::destroy(cq).unwrap_err();
        assert!(matches!(e, Error::Busy));
        cq.detach();
        Cq::destroy(cq).unwrap();
        Channel::destroy(channel).unwrap();
    }

    #[test]
    fn a_queue_that_cannot_be_made_does_not_use_its_channel() {
        let context = context();
        let channel = Channel::create(&context).unwrap();
        assert!(matches!(Cq::create(&context, 0, Some(&channel), 1), Err(Error::Invalid(_))));
        let other = self::context();
        assert!(matches!(Cq::create(&other, 1, Some(&channel), 1), Err(Error::Invalid(_))));
        Channel::destroy(channel).unwrap();
    }

    #[test]
    fn a_queue_is_resized_around_what_it_holds() {
        let cq = Cq::create(&context(), 2, None, 1).unwrap();
        cq.push([completion(0), completion(1)]);
        assert!(matches!(cq.resize(1), Err(Error::Invalid(_))));
        cq.resize(1000).unwrap();
        assert_eq!(cq.capacity(), 1000);
        cq.push([completion(2)]);
        assert_eq!(poll(&cq, 10).unwrap(), [0, 1, 2]);
    }

    /// A context of its own, on any device: there is always the loopback's.
    fn context() -> Arc<Context> {
        Context::open(&devices().unwrap()[0]).unwrap()
    }

    fn completion(id: u64) -> Completion {
        let (status, opcode, extra) = (Status::Success, WcOpcode::Send, Extra::None);
        Completion { id, status, opcode, len: 0, qpn: 1, extra, solicited: false }
    }

    fn poll(cq: &Cq, max: usize) -> Result<Vec<u64>, Error> {
        let mut ids = Vec::new();
        let n = cq.poll(max, |completion| ids.push(completion.id))?;
        assert_eq!(n, ids.len());
        Ok(ids)
    }

    fn is_readable(fd: std::os::fd::RawFd) -> bool {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one valid pollfd.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    }
}
