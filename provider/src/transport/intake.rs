//! How payload is taken in from lanes, and the memory that it came in goes back to the queue: by a call each, or both
//! by one of io_uring.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::sys::devmem::{self, Landing, Piece, Tokens};
use crate::sys::epoll::Event;
use crate::sys::socket::{self, Socket};
use crate::sys::uring::Uring;

/// The receiving end of a lane.
pub(crate) trait Intake: Debug + Send + Sync {
    /// What epoll waits for: it is readable while there is something to receive.
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// Whether the lane is at its end, as far as `event` tells.
    fn ending(&self, event: &Event) -> Ending;

    /// Bytes that can be received.
    fn unread(&self) -> usize;

    /// Gives the memory of `owed`, pieces that came by this lane before, back to the queue, whatever else becomes of
    /// the call; then receives what is there, `len` bytes at most; 0 at the end of the stream. `calls` grows by the system
    /// calls that only gave back.
    ///
    /// # Errors
    /// Those of both.
    fn receive(&self, owed: &[Piece], landing: &mut Landing, len: usize, calls: &mut u64) -> io::Result<usize>;

    /// Gives the memory of pieces back to the queue, which the NIC waits for; says in how many calls.
    ///
    /// # Errors
    /// It does not go back.
    fn give_back(&self, pieces: &[Piece]) -> io::Result<u64>;

    /// Nobody receives any more, though pieces may still be given back.
    fn disconnect(&self);
}

/// How far a lane is from its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ending {
    /// More may come.
    Open,
    /// There is nothing but the end to be received.
    Ended,
    /// It is broken.
    Dead,
}

/// recvmsg(2) and setsockopt(2).
#[derive(Debug)]
pub(crate) struct Each(Socket);

impl Each {
    pub(crate) fn new(socket: Socket) -> Each {
        Each(socket)
    }
}

impl Intake for Each {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn ending(&self, event: &Event) -> Ending {
        if event.is_dead() {
            Ending::Dead
        } else if event.is_ended() && self.unread() == 0 {
            Ending::Ended
        } else {
            Ending::Open
        }
    }

    fn unread(&self) -> usize {
        socket::unread(self.0.as_fd()).unwrap_or(0)
    }

    fn receive(&self, owed: &[Piece], landing: &mut Landing, len: usize, calls: &mut u64) -> io::Result<usize> {
        *calls += self.give_back(owed)?;
        devmem::recv(self.0.as_fd(), landing, len)
    }

    fn give_back(&self, pieces: &[Piece]) -> io::Result<u64> {
        let batches = batches(pieces);
        batches.iter().try_for_each(|batch| devmem::give_back(self.0.as_fd(), batch))?;
        Ok(batches.len() as u64)
    }

    fn disconnect(&self) {
        let _ = socket::disconnect(self.0.as_fd());
    }
}

/// One io_uring_enter(2) for both.
#[derive(Debug)]
pub(crate) struct Both {
    each: Each,
    ring: Arc<Mutex<Uring>>,
}

impl Both {
    pub(crate) fn new(socket: Socket, ring: Arc<Mutex<Uring>>) -> Both {
        Both { each: Each::new(socket), ring }
    }
}

impl Intake for Both {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.each.as_fd()
    }

    fn ending(&self, event: &Event) -> Ending {
        self.each.ending(event)
    }

    fn unread(&self) -> usize {
        self.each.unread()
    }

    fn receive(&self, owed: &[Piece], landing: &mut Landing, len: usize, calls: &mut u64) -> io::Result<usize> {
        let mut ring = self.ring.lock();
        if ring.is_broken() {
            return self.each.receive(owed, landing, len, calls);
        }
        let mut batches = batches(owed);
        let last = batches.pop().unwrap_or_default();
        for batch in &batches {
            devmem::give_back(self.as_fd(), batch)?;
            *calls += 1;
        }
        ring.recv(self.as_fd(), &last, landing, len)
    }

    fn give_back(&self, pieces: &[Piece]) -> io::Result<u64> {
        self.each.give_back(pieces)
    }

    fn disconnect(&self) {
        self.each.disconnect();
    }
}

/// The tokens of pieces, as many at a time as one call takes.
fn batches(pieces: &[Piece]) -> Vec<Vec<Tokens>> {
    /// net/core/sock.c
    const RUNS: usize = 128;
    const TOKENS: u32 = 1024;
    let mut runs: Vec<Tokens> = Vec::new();
    for piece in pieces {
        let Piece::Device { token, .. } = *piece else { continue };
        match runs.last_mut() {
            Some(run) if run.first.wrapping_add(run.count) == token && run.count < TOKENS => run.count += 1,
            _ => runs.push(Tokens { first: token, count: 1 }),
        }
    }
    let mut batches: Vec<Vec<Tokens>> = Vec::new();
    let mut count = 0;
    for run in runs {
        count += run.count;
        match batches.last_mut() {
            Some(batch) if batch.len() < RUNS && count <= TOKENS => batch.push(run),
            _ => {
                batches.push(vec![run]);
                count = run.count;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    use super::*;

    fn device(token: u32) -> Piece {
        Piece::Device { at: 0, len: 1, token, dmabuf: 1 }
    }

    #[test]
    fn tokens_that_follow_each_other_are_a_run() {
        let pieces = [device(7), device(8), Piece::Host { len: 3 }, device(9), device(1)];
        assert_eq!(batches(&pieces), [[Tokens { first: 7, count: 3 }, Tokens { first: 1, count: 1 }]]);
        assert!(batches(&[Piece::Host { len: 3 }]).is_empty());
    }

    #[test]
    fn no_call_gives_back_more_than_the_kernel_takes() {
        let run: Vec<Piece> = (0..3000).map(device).collect();
        let counts: Vec<u32> = batches(&run).iter().map(|batch| batch[0].count).collect();
        assert_eq!(counts, [1024, 1024, 952]);
        let scattered: Vec<Piece> = (0..300).map(|i| device(i * 2)).collect();
        let sizes: Vec<usize> = batches(&scattered).iter().map(Vec::len).collect();
        assert_eq!(sizes, [128, 128, 44]);
    }

    /// What a lane brings in the memory of a device is seen in a virtual machine; here is what a socket brings.
    fn receives<I: Intake>(intake: impl FnOnce(Socket) -> I) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (here, _) = listener.accept().unwrap();
        let intake = intake(Socket::adopt(|| Ok(OwnedFd::from(here))).unwrap());
        let mut landing = Landing::new(16);
        let receive = |landing: &mut Landing, len| intake.receive(&[], landing, len, &mut 0);
        let nothing = receive(&mut landing, 4).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        there.write_all(b"payload").unwrap();
        drop(there);
        match receive(&mut landing, 4) {
            Ok(n) => {
                assert_eq!((n, landing.pieces.as_slice()), (4, [Piece::Host { len: 4 }].as_slice()));
                assert_eq!(landing.bytes()[..4], *b"payl");
                assert_eq!(receive(&mut landing, 16).unwrap(), 3);
                assert_eq!(receive(&mut landing, 16).unwrap(), 0);
            }
            // A kernel without device memory.
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EFAULT)),
        }
    }

    #[test]
    fn recvmsg_receives() {
        receives(Each::new);
    }

    #[test]
    fn io_uring_receives() {
        match Uring::new() {
            Ok(ring) => receives(|socket| Both::new(socket, Arc::new(Mutex::new(ring)))),
            Err(e) => println!("skipped: io_uring: {e}"),
        }
    }
}
