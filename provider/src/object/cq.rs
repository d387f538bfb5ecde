//! Completion queues; ibv_create_cq(3), ibv_poll_cq(3), ibv_req_notify_cq(3).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

use super::{AsyncEvent, Channel, Completion, Context, Cookie, Error, Limits};
use crate::ring::{Overflow, Ring};

/// A completion queue.
#[derive(Debug)]
pub struct Cq {
    context: Arc<Context>,
    ring: Ring<Completion>,
    notice: Option<Notice>,
    cookie: Cookie,
    /// Queue pairs that complete here, once for each of their queues.
    users: AtomicUsize,
}

#[derive(Debug)]
struct Notice {
    channel: Arc<Channel>,
    armed: Mutex<Armed>,
    /// Events that were announced and not yet acknowledged.
    unacked: Mutex<u64>,
    acked: Condvar,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Armed {
    No,
    Solicited,
    Any,
}

impl Cq {
    /// Makes a queue for at least `cqe` completions.
    ///
    /// # Errors
    /// [`Error::Invalid`] for none, or more than the device's max_cqe.
    pub fn create(
        context: &Arc<Context>,
        cqe: usize,
        channel: Option<&Arc<Channel>>,
        cookie: Cookie,
    ) -> Result<Arc<Cq>, Error> {
        let notice = channel.map(|channel| {
            channel.attach();
            let (armed, unacked) = (Mutex::new(Armed::No), Mutex::new(0));
            Notice { channel: channel.clone(), armed, unacked, acked: Condvar::new() }
        });
        let ring = Ring::new(check_size(cqe)?);
        Ok(Arc::new(Cq { context: context.clone(), ring, notice, cookie, users: AtomicUsize::new(0) }))
    }

    /// Completions that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// Hands up to `max` completions to `sink`; moves bytes first if there are none.
    ///
    /// # Errors
    /// [`Error::State`] if the queue has overflowed: it is dead.
    #[inline]
    pub fn poll(&self, max: usize, mut sink: impl FnMut(&Completion)) -> Result<usize, Error> {
        let n = self.ring.pop(max, &mut sink);
        if n > 0 || max == 0 {
            return Ok(n);
        }
        if self.ring.has_overflowed() {
            return Err(Error::State("the completion queue has overflowed"));
        }
        self.context.progress().poll_inline();
        Ok(self.ring.pop(max, &mut sink))
    }

    /// Adds completions; an overflow kills the queue.
    #[inline]
    pub(crate) fn push_batch(&self, completions: &[Completion]) {
        match self.ring.push(completions) {
            Ok(()) => {}
            Err(Overflow::First) => {
                tracing::error!(capacity = self.capacity(), "a completion queue has overflowed");
                self.context.events().push(AsyncEvent::CqErr(self.cookie));
            }
            Err(Overflow::Again) => return,
        }
        let Some(notice) = &self.notice else { return };
        let mut armed = notice.armed.lock();
        let wake = match *armed {
            Armed::No => false,
            Armed::Solicited => completions.iter().any(|completion| completion.solicited),
            Armed::Any => true,
        };
        if wake {
            self.disarm(&mut armed);
            *notice.unacked.lock() += 1;
            notice.channel.announce(self.cookie);
        }
    }

    /// Asks for one event on the channel when the next completion comes, or the next solicited or failed one.
    pub fn request_notify(&self, solicited_only: bool) {
        let Some(notice) = &self.notice else { return };
        let mut armed = notice.armed.lock();
        let was = *armed;
        // Asking for less does not undo having asked for more.
        if was != Armed::Any {
            *armed = if solicited_only { Armed::Solicited } else { Armed::Any };
        }
        drop(armed);
        if was == Armed::No {
            self.context.progress().expect_sleepers();
        }
    }

    fn disarm(&self, armed: &mut Armed) {
        if std::mem::replace(armed, Armed::No) != Armed::No {
            self.context.progress().forget_sleeper();
        }
    }

    /// Changes how many completions fit; ibv_resize_cq(3).
    ///
    /// # Errors
    /// [`Error::Invalid`] for a size out of range, or below what is in the queue now.
    pub fn resize(&self, cqe: usize) -> Result<(), Error> {
        if self.ring.resize(check_size(cqe)?) {
            Ok(())
        } else {
            Err(Error::Invalid("more completions are queued than the new size holds"))
        }
    }

    /// Acknowledges `n` events.
    pub fn ack_events(&self, n: u32) {
        let Some(notice) = &self.notice else { return };
        let mut unacked = notice.unacked.lock();
        *unacked = unacked.saturating_sub(u64::from(n));
        notice.acked.notify_all();
    }

    /// Ends it, when all events that were taken from the channel have been acknowledged.
    ///
    /// # Errors
    /// [`Error::Busy`] while QPs complete here.
    pub fn destroy(cq: Arc<Cq>) -> Result<(), (Arc<Cq>, Error)> {
        if cq.users.load(Ordering::Acquire) != 0 {
            return Err((cq, Error::Busy));
        }
        if let Some(notice) = &cq.notice {
            cq.disarm(&mut notice.armed.lock());
            let never_taken = notice.channel.detach(cq.cookie) as u64;
            let mut unacked = notice.unacked.lock();
            *unacked = unacked.saturating_sub(never_taken);
            while *unacked > 0 {
                notice.acked.wait(&mut unacked);
            }
        }
        cq.context.events().forget(cq.cookie);
        Ok(())
    }

    pub(crate) fn attach(&self) {
        self.users.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn detach(&self) {
        self.users.fetch_sub(1, Ordering::AcqRel);
    }
}

fn check_size(cqe: usize) -> Result<usize, Error> {
    if (1..=Limits::MAX_CQE as usize).contains(&cqe) {
        Ok(cqe)
    } else {
        Err(Error::Invalid("cqe is 0 or beyond the device's max_cqe"))
    }
}
