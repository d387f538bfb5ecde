//! The queues that receive into the memory of devices, and the ports from which payload is steered there: where peers'
//! lanes (WIRE §8) arrive, and connections that are of no peer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dmverbs_proto::Tick;
use parking_lot::Mutex;

use super::bootstrap::DEAF_TIME;
use super::conn::Conn;
use super::{LANE_LISTENER, Progress};
use crate::config::Devmem;
use crate::mem::{Device, Kind};
use crate::sys::epoll::Interest;
use crate::sys::socket::{self, Socket};
use crate::sys::{thread, time};
use crate::transport::Receiver;

/// A queue that there was none of, or whose broker is gone, is asked for again no sooner than this after the last time.
pub(super) const PAUSE: Tick = 1_000_000_000;
/// Connections to a lane's port of which nobody has told us yet: so many, and so long. What they send takes memory of the
/// queue: as much as a fresh socket's buffer, 128 KiB (tcp_rmem, tcp(7)), so that half of it is left.
const STRANGERS: usize = 128;
const STRANGER_TIME: Tick = 5_000_000_000;

/// The queues that are ours, and who meets whom at their ports.
#[derive(Debug)]
pub(crate) struct Lanes {
    pub(super) devmem: Devmem,
    /// The port that is steered to a queue that has been leased.
    steered: Option<u16>,
    /// Held by who takes a queue; when one was last asked for in vain, by interface and kind of memory.
    taking: Mutex<HashMap<(u32, Kind), Tick>>,
    meeting: Mutex<Meeting>,
    /// When the first of the strangers has waited long enough, or a port is listened to again.
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Meeting {
    receivers: Vec<Arc<Receiver>>,
    /// The oldest first.
    strangers: Vec<(Tick, SocketAddr, Socket)>,
    expected: Vec<(SocketAddr, Arc<Conn>)>,
    /// Ports, by their index, from which nothing could be accepted, and when that is tried again.
    deaf: Vec<(Tick, u64)>,
}

impl Lanes {
    pub(super) fn new(devmem: Devmem, steered: Option<u16>) -> Lanes {
        Lanes { devmem, steered, taking: Mutex::default(), meeting: Mutex::default(), next: AtomicU64::new(Tick::MAX) }
    }

    /// Memory of `device` has been registered for an interface: takes a queue of it, if there is one to be had, and the
    /// one that was taken before is gone, or there was none.
    pub(crate) fn prepare(&self, progress: &Progress, ifindex: u32, device: &dyn Device) {
        if self.devmem == Devmem::Off || self.find(ifindex, device.kind()).is_some_and(|known| known.is_live()) {
            return;
        }
        let mut failed = self.taking.lock();
        let known = self.find(ifindex, device.kind());
        if known.as_ref().is_some_and(|known| known.is_live()) {
            return;
        }
        let what = (ifindex, device.kind());
        if failed.get(&what).is_some_and(|failed| time::now() < failed + PAUSE) {
            return;
        }
        let left = {
            let meeting = self.meeting.lock();
            let left = meeting.receivers.iter().filter(|one| one.is_left(device.kind()));
            left.max_by_key(|one| Some(one.port()) == self.steered).cloned()
        };
        let ports = progress.registry.ports();
        let receiver = match Receiver::open(ifindex, device, self.devmem, ports, self.steered, left.as_deref()) {
            Ok(receiver) => receiver,
            Err(why) => {
                tracing::info!(ifindex, kind = ?device.kind(), "what arrives for device memory passes through the host: {why}");
                failed.insert(what, time::now());
                return;
            }
        };
        let mut meeting = self.meeting.lock();
        let past = known.or(left);
        let is_past = |one: &Arc<Receiver>| past.as_ref().is_some_and(|past| Arc::ptr_eq(one, past));
        let known = meeting.receivers.iter().position(is_past);
        let index = known.unwrap_or(meeting.receivers.len());
        let token = LANE_LISTENER | index as u64;
        if let Err(e) = progress.epoll.add(receiver.listener(), token, Interest::READ) {
            tracing::warn!(error = %e, "nobody would be heard at the port of a lane");
            return;
        }
        tracing::info!(ifindex, port = receiver.port(), kind = ?device.kind(), "a queue receives into device memory");
        meeting.receivers.push(Arc::new(receiver));
        if known.is_none() {
            return;
        }
        // The broker that lent the queue is gone, or the interface. What ends with it may take its time.
        let dead = meeting.receivers.swap_remove(index);
        drop(meeting);
        if let Err(e) = progress.epoll.delete(dead.listener()) {
            tracing::warn!(error = %e, "the port of a queue that is gone is still listened to");
        }
    }

    /// The queue for memory of `kind`. If it is gone, another is asked for, by a thread of its own, as a broker may keep it
    /// waiting.
    pub(super) fn queue(&self, progress: &'static Progress, ifindex: u32, kind: Kind) -> Option<Arc<Receiver>> {
        let receiver = self.find(ifindex, kind)?;
        let now = time::now();
        let asked = receiver.asked.load(Ordering::Relaxed);
        if now < asked + PAUSE {
            return None;
        }
        if receiver.is_live() {
            return Some(receiver);
        }
        if receiver.asked.compare_exchange(asked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let take = move || progress.lanes.prepare(progress, ifindex, receiver.memory().0);
            if let Err(e) = thread::spawn("dmverbs queue", take) {
                tracing::debug!(error = %e, "no thread to ask for a queue with");
            }
        }
        None
    }

    fn find(&self, ifindex: u32, kind: Kind) -> Option<Arc<Receiver>> {
        self.meeting.lock().receivers.iter().find(|receiver| receiver.serves(ifindex, kind)).cloned()
    }

    /// The process exits: gives the queues back.
    pub(super) fn close(&self) {
        if let Some(meeting) = self.meeting.try_lock() {
            for receiver in &meeting.receivers {
                // No other is asked for.
                receiver.asked.store(Tick::MAX - PAUSE, Ordering::Relaxed);
                // The memory is the system's to free: the device's driver may be ending, too.
                receiver.close();
            }
        }
    }

    /// Has this be the queue for its kind of memory.
    #[cfg(test)]
    pub(super) fn set(&self, ifindex: u32, receiver: Receiver) {
        let kind = receiver.memory().0.kind();
        let receivers = &mut self.meeting.lock().receivers;
        receivers.retain(|other| !other.serves(ifindex, kind));
        receivers.push(Arc::new(receiver));
    }

    /// Somebody has connected to a lane's port.
    pub(super) fn accept(&self, progress: &Progress, index: u64) {
        let Some(receiver) = self.meeting.lock().receivers.get(index as usize).cloned() else { return };
        // Whoever connects without end is not to keep the turn; epoll tells again.
        for _ in 0..STRANGERS {
            match socket::accept(receiver.listener()) {
                Ok(Some((socket, from))) => self.came(progress, socket, from),
                Ok(None) => return,
                Err(e) => {
                    // Level-triggered epoll would ask again at once, and for ever.
                    tracing::warn!(error = %e, "cannot accept lanes for a moment");
                    let _ = progress.epoll.modify(receiver.listener(), LANE_LISTENER | index, Interest::NONE);
                    let until = time::now() + DEAF_TIME;
                    let mut meeting = self.meeting.lock();
                    meeting.deaf.push((until, index));
                    self.mind(progress, until);
                    return;
                }
            }
        }
    }

    fn came(&self, progress: &Progress, socket: Socket, from: SocketAddr) {
        let mut meeting = self.meeting.lock();
        if let Some(i) = meeting.expected.iter().position(|(address, _)| *address == from) {
            let (_, conn) = meeting.expected.swap_remove(i);
            drop(meeting);
            conn.take_lane(&mut conn.lock(), socket);
            return;
        }
        if meeting.strangers.len() >= STRANGERS {
            let (_, from, _) = meeting.strangers.remove(0);
            tracing::debug!(%from, "too many connections to the port of a lane: closing the oldest");
        }
        if let Err(e) = socket::keep_small(socket.as_fd(), true) {
            tracing::debug!(error = %e, "a stranger may take much of a queue's memory");
        }
        let until = time::now() + STRANGER_TIME;
        meeting.strangers.push((until, from, socket));
        self.mind(progress, until);
    }

    /// The thread has something to do here at this time.
    fn mind(&self, progress: &Progress, at: Tick) {
        if self.next.fetch_min(at, Ordering::AcqRel) > at {
            progress.wake();
        }
    }

    /// When [`expire`](Self::expire) is due.
    pub(super) fn next(&self) -> Tick {
        self.next.load(Ordering::Acquire)
    }

    /// Closes the connections that nobody has told us of in time, and listens again where nothing could be accepted.
    pub(super) fn expire(&self, progress: &Progress, now: Tick) {
        let mut meeting = self.meeting.lock();
        let Meeting { receivers, strangers, deaf, .. } = &mut *meeting;
        let before = strangers.len();
        strangers.retain(|(until, ..)| *until > now);
        let closed = before - strangers.len();
        if closed > 0 {
            tracing::warn!(closed, "connections to the port of a lane were of no peer");
        }
        for (_, index) in deaf.extract_if(.., |(until, _)| *until <= now) {
            if let Some(receiver) = receivers.get(index as usize) {
                let _ = progress.epoll.modify(receiver.listener(), LANE_LISTENER | index, Interest::READ);
            }
        }
        let times = strangers.iter().map(|(until, ..)| *until).chain(deaf.iter().map(|(until, _)| *until));
        self.next.store(times.min().unwrap_or(Tick::MAX), Ordering::Release);
    }

    /// The connection from `from`, if it has been accepted already; else it goes to `conn` when it is.
    pub(super) fn meet(&self, conn: &Arc<Conn>, from: SocketAddr) -> Option<Socket> {
        let mut meeting = self.meeting.lock();
        if let Some(i) = meeting.strangers.iter().position(|(_, address, _)| *address == from) {
            let socket = meeting.strangers.remove(i).2;
            if let Err(e) = socket::keep_small(socket.as_fd(), false) {
                tracing::debug!(error = %e, "a lane keeps a small buffer");
            }
            return Some(socket);
        }
        meeting.expected.retain(|(_, other)| !Arc::ptr_eq(other, conn));
        meeting.expected.push((from, conn.clone()));
        None
    }

    pub(super) fn forget(&self, conn: &Arc<Conn>) {
        self.meeting.lock().expected.retain(|(_, other)| !Arc::ptr_eq(other, conn));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpStream};
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::config::config;
    use crate::mem::stub::Memory;
    use crate::sys::epoll::Event;

    #[test]
    fn who_connects_without_end_does_not_keep_the_turn() {
        let progress = Progress::new(config().unwrap()).unwrap();
        let (listener, port) = socket::listen_alone(None).unwrap();
        let (broker, _) = socket::pair().unwrap();
        let receiver = Receiver::of_no_queue(1, Memory::new(1).device(), broker, listener);
        progress.lanes.meeting.lock().receivers.push(Arc::new(receiver));
        let connect = |_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let mut clients: Vec<_> = (0..STRANGERS + 2).map(connect).collect();
        let oldest = || progress.lanes.meeting.lock().strangers[0].1;

        progress.lanes.accept(&progress, 0);
        assert_eq!(progress.lanes.meeting.lock().strangers.len(), STRANGERS);
        assert_eq!(oldest().port(), clients[0].local_addr().unwrap().port());

        progress.lanes.accept(&progress, 0);
        assert_eq!(progress.lanes.meeting.lock().strangers.len(), STRANGERS);
        assert_eq!(oldest().port(), clients[2].local_addr().unwrap().port(), "two more: the two oldest are closed");
        assert_eq!(clients[0].read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_process_that_exits_asks_for_no_other_queue() {
        let progress: &'static Progress = Box::leak(Box::new(Progress::new(config().unwrap()).unwrap()));
        let memory = Memory::new(1);
        let kind = memory.device().kind();
        let (ours, broker) = socket::pair().unwrap();
        let (listener, _) = socket::listen(None).unwrap();
        progress.lanes.set(1, Receiver::of_no_queue(1, memory.device(), ours, listener));
        let asked = || progress.lanes.find(1, kind).unwrap().asked.load(Ordering::Relaxed);
        assert!(progress.lanes.queue(progress, 1, kind).is_some() && asked() == 0);
        progress.lanes.close();
        drop(broker);
        let before = asked();
        assert!(!progress.lanes.find(1, kind).unwrap().is_live());
        assert!(progress.lanes.queue(progress, 1, kind).is_none());
        assert_eq!(asked(), before);
    }

    #[test]
    fn a_port_from_which_nothing_can_be_accepted_is_not_heard_for_a_moment() {
        let progress = Progress::new(config().unwrap()).unwrap();
        // It has something to read, but accept(2) fails of it.
        let (listener, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        let (broker, _) = socket::pair().unwrap();
        let listener = Socket::adopt(|| Ok(OwnedFd::from(listener))).unwrap();
        let receiver = Receiver::of_no_queue(1, Memory::new(1).device(), broker, listener);
        progress.epoll.add(receiver.listener(), LANE_LISTENER, Interest::READ).unwrap();
        progress.lanes.meeting.lock().receivers.push(Arc::new(receiver));
        let heard = || {
            let mut events = [Event::default(); 8];
            let n = progress.epoll.wait(&mut events, Some(std::time::Duration::ZERO)).unwrap();
            events[..n].iter().any(|event| event.token() == LANE_LISTENER)
        };
        assert!(heard());
        progress.lanes.accept(&progress, 0);
        assert!(!heard());
        let until = progress.lanes.next();
        progress.lanes.expire(&progress, until - 1);
        assert!(!heard() && progress.lanes.next() == until);
        progress.lanes.expire(&progress, until);
        assert!(heard() && progress.lanes.next() == Tick::MAX);
    }
}
