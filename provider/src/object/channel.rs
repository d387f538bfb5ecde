//! Completion channels; ibv_create_comp_channel(3), ibv_get_cq_event(3).

use std::os::fd::RawFd;
use std::sync::Arc;

use super::event::Fifo;
use super::users::Users;
use super::{Context, Cookie, Error};

/// Where completion queues tell of completions.
#[derive(Debug)]
pub struct Channel {
    context: Arc<Context>,
    events: Fifo<Cookie>,
    /// Completion queues that use it.
    users: Users,
}

impl Channel {
    /// Makes one.
    ///
    /// # Errors
    /// The system gives no file descriptor.
    pub fn create(context: &Arc<Context>) -> Result<Arc<Channel>, Error> {
        Ok(Arc::new(Channel { context: context.clone(), events: Fifo::new()?, users: Users::default() }))
    }

    /// An eventfd(2), a semaphore: readable while an event is queued.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.events.fd()
    }

    /// Takes the oldest event, the cookie of its completion queue, for one that the caller has read from the fd. None if
    /// that was of an event that has been dropped since: then there is another to wait for.
    #[must_use]
    pub fn claim(&self) -> Option<Cookie> {
        self.events.claim()
    }

    /// Takes the oldest event, waiting for one: the cookie of its completion queue.
    ///
    /// # Errors
    /// `EAGAIN` if there is none and O_NONBLOCK was set on the fd; `EINTR` after a signal handler that does not
    /// restart system calls.
    pub fn wait(&self) -> Result<Cookie, Error> {
        self.events.wait()
    }

    /// Ends it.
    ///
    /// # Errors
    /// [`Error::Busy`] while completion queues use it.
    pub fn destroy(channel: Arc<Channel>) -> Result<(), (Arc<Channel>, Error)> {
        match channel.users.close() {
            Ok(()) => Ok(()),
            Err(e) => Err((channel, e)),
        }
    }

    /// A completion queue of `context` wants to use it.
    pub(super) fn attach(&self, context: &Arc<Context>) -> Result<(), Error> {
        if !Arc::ptr_eq(&self.context, context) {
            return Err(Error::Invalid("the completion channel belongs to another context"));
        }
        self.users.attach()
    }

    pub(super) fn tell(&self, cookie: Cookie) {
        self.events.push(cookie);
    }

    /// A completion queue goes, and its events that nobody took with it. Gives how many.
    pub(super) fn detach(&self, cookie: Cookie) -> usize {
        let dropped = self.events.drop_if(|event| *event == cookie);
        self.users.detach();
        dropped
    }
}
