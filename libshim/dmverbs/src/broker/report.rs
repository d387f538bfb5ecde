//! How helpers tell the server what they have heard.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use rustix::event::{EventfdFlags, eventfd};

use super::request::Heard;

/// A client's number, and what was heard of it.
pub type Report = (u64, Heard);

/// The helpers' end.
#[derive(Clone, Debug)]
pub struct Reporter {
    to: Sender<Report>,
    bell: Arc<OwnedFd>,
}

/// The server's end: readable once there is something to take.
#[derive(Debug)]
pub struct Reports {
    from: Receiver<Report>,
    bell: Arc<OwnedFd>,
}

/// Both ends.
///
/// # Errors
/// There can be no eventfd(2).
pub fn channel() -> io::Result<(Reporter, Reports)> {
    let (to, from) = mpsc::channel();
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    Ok((Reporter { to, bell: bell.clone() }, Reports { from, bell }))
}

impl Reporter {
    pub fn send(&self, report: Report) {
        // The server ends after this.
        let _ = self.to.send(report);
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

impl Reports {
    /// All that there are.
    pub fn take(&self) -> Vec<Report> {
        // What comes after this rings again.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.from.try_iter().collect()
    }
}

impl AsFd for Reports {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
