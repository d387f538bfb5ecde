//! Queues of events with an fd to wait on: a context's asynchronous events, a channel's completion events.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use super::{AsyncEvent, Cookie, Error};
use crate::sync::Mutex;
use crate::sys::eventfd::EventFd;

/// A queue with an fd that is readable while something is in it.
#[derive(Debug)]
pub(crate) struct Fifo<T> {
    count: EventFd,
    queue: Mutex<Queue<T>>,
}

/// # Invariants
/// The fd's count, and the waiters who have taken one from it and not been here since, are together as many as there
/// are events and void counts. (Before 2.41, glibc may cancel a thread right after it has taken one: BZ 12683. An event
/// then stays until the next comes; with rdma-core it would be lost.)
#[derive(Debug)]
struct Queue<T> {
    events: VecDeque<T>,
    /// Counts that were taken for events that have been dropped since.
    void: usize,
}

impl<T> Fifo<T> {
    pub(crate) fn new() -> io::Result<Fifo<T>> {
        Ok(Fifo { count: EventFd::new(true)?, queue: Mutex::new(Queue { events: VecDeque::new(), void: 0 }) })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.count.raw()
    }

    pub(crate) fn push(&self, event: T) {
        let mut queue = self.queue.lock();
        queue.events.push_back(event);
        self.count.add(1);
    }

    /// Takes the oldest event, for one that the caller has taken from the fd's count by read(2). None if that was of an
    /// event that has been dropped since.
    pub(crate) fn claim(&self) -> Option<T> {
        let mut queue = self.queue.lock();
        if queue.void > 0 {
            queue.void -= 1;
            return None;
        }
        queue.events.pop_front()
    }

    /// Takes the oldest event, waiting for one unless O_NONBLOCK was set on the fd.
    ///
    /// # Errors
    /// `EAGAIN` if there is none and the fd is non-blocking; `EINTR` after a signal handler that does not restart
    /// system calls, as read(2) has it.
    pub(crate) fn wait(&self) -> Result<T, Error> {
        loop {
            self.count.take()?;
            if let Some(event) = self.claim() {
                return Ok(event);
            }
        }
    }

    /// Drops what is about an object that goes; gives how many.
    pub(crate) fn drop_if(&self, mut goes: impl FnMut(&T) -> bool) -> usize {
        let mut queue = self.queue.lock();
        let before = queue.events.len();
        queue.events.retain(|event| !goes(event));
        let dropped = before - queue.events.len();
        let taken_back = (0..dropped).take_while(|_| self.count.try_take()).count();
        queue.void += dropped - taken_back;
        dropped
    }
}

/// A context's asynchronous events.
pub(crate) type EventQueue = Fifo<AsyncEvent>;

impl EventQueue {
    /// Drops the events of an object that goes.
    pub(crate) fn forget(&self, cookie: Cookie) {
        self.drop_if(|event| event.cookie() == Some(cookie));
    }
}

impl AsyncEvent {
    fn cookie(&self) -> Option<Cookie> {
        match *self {
            AsyncEvent::CqErr(cookie)
            | AsyncEvent::QpFatal(cookie)
            | AsyncEvent::QpReqErr(cookie)
            | AsyncEvent::QpAccessErr(cookie)
            | AsyncEvent::SqDrained(cookie) => Some(cookie),
            AsyncEvent::PortActive(_) | AsyncEvent::PortErr(_) | AsyncEvent::GidChange(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn the_fd_is_readable_exactly_while_an_event_is_queued() {
        let fifo = Fifo::new().unwrap();
        assert!(!is_readable(&fifo));
        fifo.push(1);
        fifo.push(2);
        assert_eq!(fifo.wait().unwrap(), 1);
        assert!(is_readable(&fifo));
        assert_eq!(fifo.wait().unwrap(), 2);
        assert!(!is_readable(&fifo));
    }

    #[test]
    fn a_dropped_event_is_not_delivered_and_leaves_no_count() {
        let fifo = Fifo::new().unwrap();
        for event in [1, 2, 1] {
            fifo.push(event);
        }
        assert_eq!(fifo.drop_if(|event| *event == 1), 2);
        assert_eq!(fifo.wait().unwrap(), 2);
        assert!(!is_readable(&fifo));
    }

    #[test]
    fn an_event_dropped_under_a_waiter_costs_nobody_theirs() {
        let fifo = Fifo::new().unwrap();
        fifo.push(1);
        // A waiter on its way from the fd to the queue.
        fifo.count.take().unwrap();
        assert_eq!(fifo.drop_if(|event| *event == 1), 1);
        fifo.push(2);
        assert_eq!(fifo.queue.lock().void, 1);
        fifo.count.add(1);
        assert_eq!(fifo.wait().unwrap(), 2);
        assert!(!is_readable(&fifo));
    }

    #[test]
    fn waiting_fails_at_once_on_an_fd_that_does_not_block() {
        let fifo = Fifo::<u8>::new().unwrap();
        set_nonblocking(&fifo);
        match fifo.wait() {
            Err(Error::Io(e)) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn threads_that_wait_get_every_event_once() {
        const WAITERS: u32 = 3;
        const EVENTS: u32 = 300;
        let fifo = Fifo::new().unwrap();
        let mut got = std::thread::scope(|s| {
            let waiters: Vec<_> = (0..WAITERS)
                .map(|_| s.spawn(|| (0..EVENTS / WAITERS).map(|_| fifo.wait().unwrap()).collect()))
                .collect();
            (0..EVENTS).for_each(|event| fifo.push(event));
            waiters.into_iter().flat_map(|waiter| -> Vec<u32> { waiter.join().unwrap() }).collect::<Vec<_>>()
        });
        got.sort_unstable();
        assert_eq!(got, (0..EVENTS).collect::<Vec<_>>());
    }

    fn is_readable<T>(fifo: &Fifo<T>) -> bool {
        fifo.count.wait(std::time::Duration::ZERO)
    }

    fn set_nonblocking<T>(fifo: &Fifo<T>) {
        // SAFETY: no pointers are involved, and the fd is open.
        assert_eq!(unsafe { libc::fcntl(fifo.fd(), libc::F_SETFL, libc::O_NONBLOCK) }, 0);
    }
}
