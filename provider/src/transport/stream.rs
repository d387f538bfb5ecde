//! A connected, non-blocking byte stream.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::sys::epoll::{Epoll, Interest};
use crate::sys::socket::{self, Socket};

/// A stream to the peer. Its two directions are one socket, except for a QP connected to itself, which reads from
/// one end of a socket pair what it writes into the other.
#[derive(Debug)]
pub(crate) struct Stream {
    rx: Socket,
    tx: Option<Socket>,
    /// The socket takes no more bytes; epoll tells when it does.
    blocked: bool,
}

impl Stream {
    /// A stream over one socket.
    pub(crate) fn duplex(socket: Socket) -> Stream {
        Stream { rx: socket, tx: None, blocked: false }
    }

    /// A stream to oneself.
    pub(crate) fn to_self() -> io::Result<Stream> {
        let (rx, tx) = socket::pair()?;
        Ok(Stream { rx, tx: Some(tx), blocked: false })
    }

    pub(crate) fn rx(&self) -> BorrowedFd<'_> {
        self.rx.as_fd()
    }

    pub(crate) fn tx(&self) -> BorrowedFd<'_> {
        self.tx.as_ref().unwrap_or(&self.rx).as_fd()
    }

    /// Reports readability to `epoll` under `token` from now on.
    pub(crate) fn register(&self, epoll: &Epoll, token: u64) -> io::Result<()> {
        epoll.add(self.rx(), token, Interest::READ)?;
        if let Some(tx) = &self.tx {
            epoll.add(tx.as_fd(), token, Interest::NONE)?;
        }
        Ok(())
    }

    pub(crate) fn deregister(&self, epoll: &Epoll) {
        // Closing the sockets would do the same, unless a forked child holds copies.
        let _ = epoll.delete(self.rx());
        if let Some(tx) = &self.tx {
            let _ = epoll.delete(tx.as_fd());
        }
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Asks `epoll` to report when the socket takes bytes again, or no longer to.
    pub(crate) fn set_blocked(&mut self, blocked: bool, epoll: &Epoll, token: u64) -> io::Result<()> {
        if self.blocked == blocked {
            return Ok(());
        }
        self.blocked = blocked;
        let (idle, waiting) = match self.tx {
            None => (Interest::READ, Interest::READ_WRITE),
            Some(_) => (Interest::NONE, Interest::WRITE),
        };
        epoll.modify(self.tx(), token, if blocked { waiting } else { idle })
    }

    /// Nothing more will be sent.
    pub(crate) fn finish(&self) {
        // A stream that is already dead needs no end.
        let _ = socket::shutdown_write(self.tx());
    }
}
