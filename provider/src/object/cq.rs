//! Completion queues; ibv_create_cq(3), ibv_poll_cq(3), ibv_req_notify_cq(3).

use std::mem::MaybeUninit;
use std::sync::Arc;

use super::users::Users;
use super::{AsyncEvent, Channel, Completion, Context, Cookie, Error, Limits};
use crate::ring::{Notify, Pushed, ResizeError, Ring};
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
            if cq.ring.forget_notify() != Notify::Never {
                cq.context.progress().forget_sleeper();
            }
            waker.close(cq.cookie);
        }
        cq.context.events().forget(cq.cookie);
        Ok(())
    }

    /// Adds completions; an overflow kills the queue.
    #[inline]
    pub(crate) fn push_batch(&self, completions: &[Completion]) {
        let pushed = self.ring.push(completions, |completion| completion.solicited);
        if pushed != Pushed::default() {
            self.tell(pushed);
        }
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
