//! Completion channels; ibv_create_comp_channel(3), ibv_get_cq_event(3).

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::event::Fifo;
use super::{Context, Cookie, Error};

/// Where completion queues announce completions.
#[derive(Debug)]
pub struct Channel {
    events: Fifo<Cookie>,
    /// Completion queues that use it.
    users: AtomicUsize,
}

impl Channel {
    /// Makes one.
    ///
    /// # Errors
    /// The system gives no file descriptor.
    pub fn create(_context: &Arc<Context>) -> Result<Arc<Channel>, Error> {
        Ok(Arc::new(Channel { events: Fifo::new()?, users: AtomicUsize::new(0) }))
    }

    /// Readable while an event is queued.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.events.fd()
    }

    /// Takes the oldest event, waiting for one: the cookie of its completion queue.
    ///
    /// # Errors
    /// `EAGAIN` if there is none and O_NONBLOCK was set on the fd.
    pub fn wait(&self) -> Result<Cookie, Error> {
        self.events.wait()
    }

    /// Ends it.
    ///
    /// # Errors
    /// [`Error::Busy`] while completion queues use it.
    pub fn destroy(channel: Arc<Channel>) -> Result<(), (Arc<Channel>, Error)> {
        if channel.users.load(Ordering::Acquire) == 0 { Ok(()) } else { Err((channel, Error::Busy)) }
    }

    pub(super) fn attach(&self) {
        self.users.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn announce(&self, cookie: Cookie) {
        self.events.push(cookie);
    }

    /// A completion queue is gone: its events that nobody took go with it. Gives how many.
    pub(super) fn detach(&self, cookie: Cookie) -> usize {
        let dropped = self.events.purge(|event| *event != cookie);
        self.users.fetch_sub(1, Ordering::AcqRel);
        dropped
    }
}
