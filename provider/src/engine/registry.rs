//! QP numbers: `listen port << 8 | slot`, so that (GID, QP number) alone says where to connect (WIRE §2.1).

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use dmverbs_proto::Tick;
use parking_lot::Mutex;

use super::conn::Conn;
use super::{BOOTSTRAP, LISTENER};
use crate::object::Error;
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::socket::{self, Socket};
use crate::sys::{random, time};

/// A number is not given again before this time has passed, so that a late peer of its last owner finds nobody.
const QUARANTINE: Tick = 2_000_000_000;

/// The QP numbers of the process, and who has them.
#[derive(Debug)]
pub(crate) struct Registry {
    ports: Option<RangeInclusive<u16>>,
    inner: Mutex<Numbers<Conn>>,
}

#[derive(Debug)]
struct Numbers<T> {
    listeners: Vec<Arc<Listener>>,
    free: Vec<u32>,
    resting: VecDeque<(Tick, u32)>,
    taken: HashMap<u32, Option<Arc<T>>>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Numbers<T> {
        Numbers { listeners: Vec::new(), free: Vec::new(), resting: VecDeque::new(), taken: HashMap::new() }
    }
}

impl<T> Numbers<T> {
    /// Takes the number from its owner. Who lingers gives it back twice, and by then it may be somebody else's.
    fn rest(&mut self, qpn: u32, owner: &Arc<T>, now: Tick) {
        let holder = self.taken.get(&qpn).and_then(Option::as_ref);
        if holder.is_some_and(|holder| Arc::ptr_eq(holder, owner)) {
            self.taken.remove(&qpn);
            self.resting.push_back((now + QUARANTINE, qpn));
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    port: u16,
    fd: Socket,
}

impl Listener {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The port on which the owner of a QP number listens.
pub(super) fn port(qpn: u32) -> u16 {
    (qpn >> 8) as u16
}

impl Registry {
    pub(super) fn new(ports: Option<RangeInclusive<u16>>) -> Registry {
        Registry { ports, inner: Mutex::default() }
    }

    /// The ports to listen on.
    pub(super) fn ports(&self) -> Option<RangeInclusive<u16>> {
        self.ports.clone()
    }

    /// A fresh QP number; opens another listener when 256 QPs share the last.
    pub(crate) fn allocate(&self, epoll: &Epoll) -> Result<u32, Error> {
        let mut numbers = self.inner.lock();
        let now = time::now();
        while let Some(&(at, qpn)) = numbers.resting.front()
            && at <= now
        {
            numbers.resting.pop_front();
            numbers.free.push(qpn);
        }
        if numbers.free.is_empty() {
            let (fd, port) = socket::listen(self.ports.clone())?;
            let index = numbers.listeners.len() as u64;
            epoll.add(fd.as_fd(), BOOTSTRAP | LISTENER | index, Interest::READ)?;
            tracing::debug!(port, "listening");
            numbers.listeners.push(Arc::new(Listener { port, fd }));
            // 0xffffff is the multicast QP.
            numbers.free.extend((0..=255).map(|slot| u32::from(port) << 8 | slot).filter(|qpn| *qpn != 0xff_ffff));
        }
        let mut bytes = [0; 4];
        random::fill(&mut bytes)?;
        let index = u32::from_le_bytes(bytes) as usize % numbers.free.len();
        let qpn = numbers.free.swap_remove(index);
        numbers.taken.insert(qpn, None);
        Ok(qpn)
    }

    pub(crate) fn insert(&self, conn: &Arc<Conn>) {
        self.inner.lock().taken.insert(conn.qpn, Some(conn.clone()));
    }

    /// Gives a destroyed QP's number back.
    pub(super) fn release(&self, conn: &Arc<Conn>) {
        self.inner.lock().rest(conn.qpn, conn, time::now());
    }

    pub(crate) fn find(&self, qpn: u32) -> Option<Arc<Conn>> {
        self.inner.lock().taken.get(&qpn).cloned().flatten()
    }

    /// How many QPs the process has, lingering ones included.
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().taken.len()
    }

    /// Every QP of the process.
    pub(crate) fn all(&self) -> Vec<Arc<Conn>> {
        self.inner.lock().taken.values().flatten().cloned().collect()
    }

    /// Whether this process listens on the port of `qpn`.
    pub(super) fn is_ours(&self, qpn: u32) -> bool {
        self.inner.lock().listeners.iter().any(|listener| listener.port == port(qpn))
    }

    pub(super) fn listener(&self, index: u64) -> Option<Arc<Listener>> {
        self.inner.lock().listeners.get(usize::try_from(index).ok()?).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_back_by_its_owner_only() {
        let (before, after) = (Arc::new("before"), Arc::new("after"));
        let mut numbers = Numbers::default();
        numbers.taken.insert(7, Some(before.clone()));
        numbers.rest(7, &before, 1);
        assert_eq!(numbers.resting, [(1 + QUARANTINE, 7)]);
        numbers.taken.insert(7, Some(after.clone()));
        numbers.rest(7, &before, 2);
        assert!(numbers.taken.get(&7).cloned().flatten().is_some_and(|owner| Arc::ptr_eq(&owner, &after)));
        assert_eq!(numbers.resting.len(), 1);
    }
}
