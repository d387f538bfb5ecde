//! Memory that the kernel still reads for a socket: of calls of [`devmem::send`], which it numbers, until it says that
//! they are done with.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::devmem;

/// The calls of one socket, and the requests whose memory they read. Numbers wrap.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    /// Calls made; and all before this one are done with.
    calls: u32,
    done: u32,
    /// Calls beyond that are done with, first and last.
    early: Vec<(u32, u32)>,
    /// Send slots, with the number of calls after which their memory is free; in that order.
    lent: VecDeque<(u32, u32)>,
}

impl Notices {
    /// A call has sent something.
    pub(crate) fn called(&mut self) {
        self.calls = self.calls.wrapping_add(1);
    }

    /// The request in `slot` has memory that the calls so far read.
    pub(crate) fn lend(&mut self, slot: u32) {
        self.lent.push_back((self.calls, slot));
    }

    /// Whether there is news to come, or to be taken.
    pub(crate) fn is_waiting(&self) -> bool {
        self.will_come() || !self.lent.is_empty()
    }

    /// Whether there is news to come.
    pub(crate) fn will_come(&self) -> bool {
        self.done != self.calls
    }

    /// Takes the news of `socket`, and calls `release` for each request whose memory is free again.
    ///
    /// # Errors
    /// What broke the connection.
    pub(crate) fn take(&mut self, socket: BorrowedFd<'_>, release: impl FnMut(u32)) -> io::Result<()> {
        while self.will_come() {
            let Some((first, last)) = devmem::take_notice(socket)? else { break };
            self.told(first, last);
        }
        self.release(release);
        Ok(())
    }

    fn told(&mut self, first: u32, last: u32) {
        self.early.push((first, last));
        while let Some(i) = self.early.iter().position(|&(first, _)| first == self.done) {
            self.done = self.early.swap_remove(i).1.wrapping_add(1);
        }
    }

    fn release(&mut self, mut release: impl FnMut(u32)) {
        while let Some(&(after, slot)) = self.lent.front()
            && self.done.wrapping_sub(after) as i32 >= 0
        {
            self.lent.pop_front();
            release(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released(notices: &mut Notices) -> Vec<u32> {
        let mut slots = Vec::new();
        notices.release(|slot| slots.push(slot));
        slots
    }

    #[test]
    fn memory_is_free_when_every_call_that_read_it_is_done_with() {
        // The numbers wrap on the way.
        let mut notices = Notices { calls: u32::MAX - 1, done: u32::MAX - 1, ..Notices::default() };
        for slot in [7, 8, 9] {
            notices.called();
            notices.called();
            notices.lend(slot);
        }
        notices.told(u32::MAX - 1, u32::MAX - 1);
        assert!(released(&mut notices).is_empty());
        notices.told(0, 1);
        assert!(released(&mut notices).is_empty(), "the call between is still at it");
        notices.told(u32::MAX, u32::MAX);
        assert_eq!(released(&mut notices), [7, 8]);
        assert!(notices.is_waiting());
        notices.told(2, 3);
        assert_eq!(released(&mut notices), [9]);
        assert!(!notices.is_waiting());
    }

    #[test]
    fn memory_that_no_call_reads_is_free_at_once() {
        let mut notices = Notices::default();
        notices.lend(3);
        assert!(notices.is_waiting() && !notices.will_come(), "nothing will tell of it");
        assert_eq!(released(&mut notices), [3]);
    }
}
