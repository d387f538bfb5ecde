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
    /// It is no stream of TCP, but within this process.
    within: bool,
    wait: Wait,
    /// What arrives is not to be reported.
    deaf: bool,
    /// Epoll does not know it.
    hidden: bool,
}

/// What a sender waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wait {
    Nothing,
    /// The socket takes no more bytes; epoll tells when it does.
    Room,
    /// The kernel takes no more of a device's memory before it has told of what it has done with.
    Notices,
}

impl Stream {
    /// A stream over one socket of TCP.
    pub(crate) fn duplex(socket: Socket) -> Stream {
        Stream { rx: socket, tx: None, within: false, wait: Wait::Nothing, deaf: false, hidden: false }
    }

    /// Two that are connected with each other.
    pub(crate) fn pair() -> io::Result<[Stream; 2]> {
        let (a, b) = socket::pair()?;
        Ok([a, b].map(|socket| Stream { within: true, ..Stream::duplex(socket) }))
    }

    /// A stream to oneself.
    pub(crate) fn to_self() -> io::Result<Stream> {
        let (rx, tx) = socket::pair()?;
        Ok(Stream { tx: Some(tx), within: true, ..Stream::duplex(rx) })
    }

    /// Whether the kernel may send from memory of devices here.
    pub(crate) fn is_of_tcp(&self) -> bool {
        !self.within
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

    /// Reports to `epoll` under another `token` from now on.
    pub(crate) fn set_token(&mut self, epoll: &Epoll, token: u64) -> io::Result<()> {
        self.ask(epoll, token)
    }

    pub(crate) fn deregister(&self, epoll: &Epoll) {
        // Closing the sockets would do the same, unless a forked child holds copies.
        let _ = epoll.delete(self.rx());
        if let Some(tx) = &self.tx {
            let _ = epoll.delete(tx.as_fd());
        }
    }

    /// Takes the stream away from `epoll`, unless only that tells what it waits for: that somebody might sleep costs
    /// every packet that comes, also if nobody does.
    pub(crate) fn hide(&mut self, epoll: &Epoll) {
        let may = !self.hidden && self.tx.is_none() && self.wait == Wait::Nothing && !self.deaf;
        self.hidden |= may && epoll.delete(self.rx()).is_ok();
    }

    /// Reports to `epoll` again, also what has come meanwhile.
    pub(crate) fn show(&mut self, epoll: &Epoll, token: u64) -> io::Result<()> {
        if self.hidden { self.ask(epoll, token) } else { Ok(()) }
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.wait != Wait::Nothing
    }

    pub(crate) fn waits_for(&self, wait: Wait) -> bool {
        self.wait == wait
    }

    /// Asks `epoll` to report when the socket takes bytes again, or no longer to. Notices are reported always, as errors.
    pub(crate) fn set_wait(&mut self, wait: Wait, epoll: &Epoll, token: u64) -> io::Result<()> {
        if self.wait == wait {
            return Ok(());
        }
        self.wait = wait;
        self.ask(epoll, token)
    }

    pub(crate) fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Asks `epoll` not to report what arrives, or to do so again.
    pub(crate) fn set_deaf(&mut self, deaf: bool, epoll: &Epoll, token: u64) -> io::Result<()> {
        if self.deaf == deaf {
            return Ok(());
        }
        self.deaf = deaf;
        self.ask(epoll, token)
    }

    fn ask(&mut self, epoll: &Epoll, token: u64) -> io::Result<()> {
        let (read, write) = (!self.deaf, self.wait == Wait::Room);
        match &self.tx {
            None if self.hidden => {
                epoll.add(self.rx(), token, Interest::of(read, write))?;
                self.hidden = false;
                Ok(())
            }
            None => epoll.modify(self.rx(), token, Interest::of(read, write)),
            Some(tx) => {
                epoll.modify(self.rx(), token, Interest::of(read, false))?;
                epoll.modify(tx.as_fd(), token, Interest::of(false, write))
            }
        }
    }

    /// Nothing more will be sent.
    pub(crate) fn finish(&self) {
        // A stream that is already dead needs no end.
        let _ = socket::shutdown_write(self.tx());
    }
}
