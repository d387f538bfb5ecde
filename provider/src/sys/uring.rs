//! Receiving from, and giving back to, device memory by one system call: io_uring(7).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::types::Fd;
use io_uring::{IoUring, opcode};

use super::devmem::{Landing, MSG_SOCK_DEVMEM, SO_DEVMEM_DONTNEED, Tokens};

/// A ring, of which each call waits until all that it has asked for is done.
pub(crate) struct Uring {
    ring: IoUring,
    broken: bool,
}

impl Uring {
    /// # Errors
    /// This kernel has none, or not for us (io_uring_disabled, seccomp).
    pub(crate) fn new() -> io::Result<Uring> {
        Ok(Uring { ring: IoUring::new(4)?, broken: false })
    }

    /// Gives memory back to the NIC's queue as [`super::devmem::give_back`] does, if it is any, then receives as
    /// [`super::devmem::recv`] does.
    ///
    /// # Errors
    /// Those of both; the memory has been given back unless that is what failed.
    pub(crate) fn recv(
        &mut self,
        socket: BorrowedFd<'_>,
        owed: &[Tokens],
        landing: &mut Landing,
        len: usize,
    ) -> io::Result<usize> {
        let fd = Fd(socket.as_raw_fd());
        let mut iov = landing.iov(len);
        let mut message = landing.message(&mut iov);
        let flags = (MSG_SOCK_DEVMEM | libc::MSG_DONTWAIT) as u32;
        let receive = opcode::RecvMsg::new(fd, &raw mut message).flags(flags).build().user_data(RECEIVE);
        let (level, option) = (libc::SOL_SOCKET as u32, SO_DEVMEM_DONTNEED as u32);
        let size = size_of_val(owed) as u32;
        let owed_at = owed.as_ptr().cast();
        let give = opcode::SetSockOpt::new(fd, level, option, owed_at, size).build().user_data(GIVE);
        let mut queue = self.ring.submission();
        for entry in [(!owed.is_empty()).then_some(give), Some(receive)].into_iter().flatten() {
            // SAFETY: `owed`, `message`, and what that points at, stay as they are until `finish` has returned, when
            // the kernel has done with them. There is room: a call leaves the queue empty, or the ring broken.
            unsafe { queue.push(&entry) }.map_err(io::Error::other)?;
        }
        drop(queue);
        let (given, received) = self.finish(1 + usize::from(!owed.is_empty()));
        given?;
        let n = received?;
        Ok(landing.told(&message, n))
    }

    /// Waits for so many, and says how giving back and receiving have ended. What the kernel has taken it has also done
    /// with when this returns: nothing of it waits (MSG_DONTWAIT), and what a failed call has left in the queue is never
    /// submitted.
    fn finish(&mut self, mut left: usize) -> (io::Result<()>, io::Result<usize>) {
        let (mut given, mut received) = (Ok(()), Ok(0));
        loop {
            let entered = self.ring.submit_and_wait(left);
            for entry in self.ring.completion() {
                left -= 1;
                let result = if entry.result() < 0 {
                    Err(io::Error::from_raw_os_error(-entry.result()))
                } else {
                    Ok(entry.result() as usize)
                };
                match entry.user_data() {
                    GIVE => given = result.map(drop),
                    _ => received = result,
                }
            }
            match entered {
                _ if left == 0 => return (given, received),
                Err(e) if !matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {
                    self.broken = true;
                    return (given, Err(e));
                }
                _ => {}
            }
        }
    }

    /// The kernel no longer takes anything, as after a program has closed all descriptors.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").finish_non_exhaustive()
    }
}

const GIVE: u64 = 0;
const RECEIVE: u64 = 1;
