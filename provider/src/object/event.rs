//! The queue of a context's asynchronous events; ibv_get_async_event(3).

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use parking_lot::Mutex;

use super::{AsyncEvent, Cookie, Error};
use crate::sys::eventfd::EventFd;

/// A queue with an fd that is readable while something is in it.
#[derive(Debug)]
pub(crate) struct Fifo<T> {
    fd: EventFd,
    queue: Mutex<VecDeque<T>>,
}

impl<T> Fifo<T> {
    pub(crate) fn new() -> io::Result<Fifo<T>> {
        Ok(Fifo { fd: EventFd::new(true)?, queue: Mutex::default() })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd.raw()
    }

    pub(crate) fn push(&self, item: T) {
        self.queue.lock().push_back(item);
        self.fd.add(1);
    }

    /// Takes the oldest, waiting for one unless O_NONBLOCK was set on the fd.
    pub(crate) fn wait(&self) -> Result<T, Error> {
        loop {
            self.fd.read()?;
            // What was purged leaves its count behind.
            if let Some(item) = self.queue.lock().pop_front() {
                return Ok(item);
            }
        }
    }

    /// Removes what does not matter any more; gives how many.
    pub(crate) fn purge(&self, mut keep: impl FnMut(&T) -> bool) -> usize {
        let mut queue = self.queue.lock();
        let before = queue.len();
        queue.retain(|item| keep(item));
        before - queue.len()
    }
}

/// A context's asynchronous events.
pub(crate) type EventQueue = Fifo<AsyncEvent>;

impl EventQueue {
    /// Drops events of an object that is gone.
    pub(crate) fn forget(&self, cookie: Cookie) {
        self.purge(|event| event.cookie() != Some(cookie));
    }
}

impl AsyncEvent {
    fn cookie(&self) -> Option<Cookie> {
        match *self {
            AsyncEvent::CqErr(cookie)
            | AsyncEvent::QpFatal(cookie)
            | AsyncEvent::QpReqErr(cookie)
            | AsyncEvent::QpAccessErr(cookie)
            | AsyncEvent::CommEst(cookie)
            | AsyncEvent::SqDrained(cookie) => Some(cookie),
            AsyncEvent::PortActive(_) | AsyncEvent::PortErr(_) | AsyncEvent::GidChange(_) => None,
        }
    }
}
