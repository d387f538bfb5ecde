//! Lanes of a queue that io_uring has: a thread, as only one may go on with its ring, takes what they bring, and leaves it
//! where their readers look.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;

use super::intake::{Ending, Intake};
use crate::sys::devmem::{self, Landing, Piece};
use crate::sys::epoll::Event;
use crate::sys::eventfd::EventFd;
use crate::sys::fork::Unshared;
use crate::sys::socket::{self, Socket};
use crate::sys::thread;
use crate::sys::zcrx::{Completion, Refill, Ring};

/// What of all lanes together may be asked for, or wait for its readers (half of what is bound), and of each at least and at
/// most: what has been taken from a socket no longer closes the sender's window. A request that is out already is not made
/// smaller for lanes that come later.
const ASKED: usize = 16 << 20;
const ASKED_LEAST: usize = 64 << 10;
const ASKED_MOST: usize = 1 << 20;
/// As much memory is out of use for a piece at least.
const PIECE_LEAST: usize = 4096;
/// Of what came in no memory of a device, what is received at a time.
const HOST: usize = 64 << 10;
/// The kernel says so often that it has no memory, before it is believed.
const FRUITLESS: u32 = 1000;

/// A queue, and the thread that serves it, until this is dropped.
#[derive(Debug)]
pub(super) struct Feeder(Arc<Feeding>);

#[derive(Debug)]
struct Feeding {
    /// Nothing once the thread has ended.
    orders: Mutex<Option<Vec<Order>>>,
    kick: Unshared<EventFd>,
    memory: Memory,
    last: AtomicU64,
}

/// What the thread is to do.
#[derive(Debug)]
enum Order {
    Begin(u64, Socket, Arc<Feed>),
    GoOn(u64),
    End(u64),
    Stop,
}

impl Feeder {
    /// Serves the queue that `open` gives.
    ///
    /// # Errors
    /// Those of `open`; or there can be no thread.
    pub(super) fn start(open: impl FnOnce() -> io::Result<(Ring, Refill)>) -> io::Result<Feeder> {
        let kick = Unshared::made(|| EventFd::new(false))?;
        // The queue would not be free at once if there could be no thread for it.
        let (tell, told) = mpsc::channel::<Server>();
        thread::spawn("dmverbs zcrx", move || told.iter().for_each(Server::run))?;
        let (ring, refill) = open()?;
        let feeding = Arc::new(Feeding {
            orders: Mutex::new(Some(Vec::new())),
            kick,
            memory: Memory { refill, parts: Mutex::default() },
            last: AtomicU64::new(KICK),
        });
        let server = Server {
            ring,
            feeding: feeding.clone(),
            lanes: HashMap::new(),
            landing: Landing::new(HOST),
            orders: VecDeque::new(),
        };
        tell.send(server).map_err(io::Error::other)?;
        Ok(Feeder(feeding))
    }

    /// Whether the queue is served.
    pub(super) fn is_live(&self) -> bool {
        self.0.orders.lock().is_some()
    }

    /// The receiving end of a lane of this queue.
    ///
    /// # Errors
    /// No descriptor is left, or the queue is not served any more.
    pub(super) fn feed(&self, socket: Socket) -> io::Result<Fed> {
        let feed = Arc::new(Feed { ready: Unshared::made(|| EventFd::new(false))?, arrived: Mutex::default() });
        // Relaxed: the number stands for nothing but itself.
        let id = self.0.last.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.0.order(Order::Begin(id, socket, feed.clone())) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(Fed { id, feed, feeding: self.0.clone() })
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.0.order(Order::Stop);
    }
}

impl Feeding {
    /// False if there is nobody to do it.
    fn order(&self, order: Order) -> bool {
        let mut orders = self.orders.lock();
        let Some(orders) = &mut *orders else { return false };
        orders.push(order);
        self.kick.get().add(1);
        true
    }
}

/// What a lane has brought.
#[derive(Debug)]
struct Feed {
    /// Readable while there is something, or more than the reader has seen.
    ready: Unshared<EventFd>,
    arrived: Mutex<Arrived>,
}

#[derive(Debug, Default)]
struct Arrived {
    pieces: VecDeque<Piece>,
    /// Those of pieces in host memory.
    host: VecDeque<u8>,
    bytes: usize,
    /// As much memory is out of use for them.
    weight: usize,
    /// How it ended: with an error, or in order.
    end: Option<Option<i32>>,
    told: bool,
    /// The thread asks for no more until the reader has caught up.
    paused: bool,
    /// Nobody reads it.
    closed: bool,
}

/// What has come of a lane at once.
#[derive(Debug, Default)]
struct News {
    pieces: Vec<Piece>,
    host: Vec<u8>,
    end: Option<Option<i32>>,
}

/// Memory that is out of use for a piece.
fn weight(piece: &Piece) -> usize {
    piece.len().max(PIECE_LEAST)
}

impl Feed {
    /// Leaves it to the reader; if there is none any more, gives the pieces that it is not left.
    fn tell(&self, news: News) -> Option<Vec<Piece>> {
        let News { pieces, host, end } = news;
        let mut arrived = self.arrived.lock();
        if arrived.closed {
            return Some(pieces);
        }
        if pieces.is_empty() && end.is_none() {
            return None;
        }
        arrived.bytes += pieces.iter().map(Piece::len).sum::<usize>();
        arrived.weight += pieces.iter().map(weight).sum::<usize>();
        arrived.pieces.extend(pieces);
        arrived.host.extend(host);
        arrived.end = arrived.end.or(end);
        if !std::mem::replace(&mut arrived.told, true) {
            self.ready.get().add(1);
        }
        None
    }
}

/// The memory that is bound, as far as it is handed out.
#[derive(Debug)]
struct Memory {
    refill: Refill,
    parts: Mutex<Parts>,
}

/// What the kernel has handed out, by the tokens of pieces: it takes each back at once, when all parts of it are back.
#[derive(Debug, Default)]
struct Parts {
    handed: Vec<Handed>,
    free: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Handed {
    at: u64,
    len: u32,
    parts: u32,
}

impl Memory {
    /// Has been handed out.
    fn take(&self, at: u64, len: u32) -> Piece {
        let Parts { handed, free } = &mut *self.parts.lock();
        let one = Handed { at, len, parts: 1 };
        let token = match free.pop() {
            Some(token) => {
                handed[token as usize] = one;
                token
            }
            None => {
                handed.push(one);
                handed.len() as u32 - 1
            }
        };
        Piece::Device { at, len, token, dmabuf: BINDING }
    }

    /// The first `len` bytes of a piece at most, and the rest.
    fn split(&self, piece: Piece, first: usize) -> (Piece, Option<Piece>) {
        match piece {
            Piece::Host { len } if len as usize > first => {
                let first = first as u32;
                (Piece::Host { len: first }, Some(Piece::Host { len: len - first }))
            }
            Piece::Device { at, len, token, dmabuf } if len as usize > first => {
                self.parts.lock().handed[token as usize].parts += 1;
                let first = first as u32;
                let rest = Piece::Device { at: at + u64::from(first), len: len - first, token, dmabuf };
                (Piece::Device { at, len: first, token, dmabuf }, Some(rest))
            }
            _ => (piece, None),
        }
    }

    fn give_back(&self, pieces: impl IntoIterator<Item = Piece>) {
        let mut whole = Vec::new();
        let mut parts = self.parts.lock();
        for piece in pieces {
            let Piece::Device { token, .. } = piece else { continue };
            let one = &mut parts.handed[token as usize];
            one.parts -= 1;
            if one.parts == 0 {
                whole.push((one.at, one.len));
                parts.free.push(token);
            }
        }
        drop(parts);
        if !whole.is_empty() {
            self.refill.give_back(whole);
        }
    }
}

/// The receiving end of a lane.
#[derive(Debug)]
pub(super) struct Fed {
    id: u64,
    feed: Arc<Feed>,
    feeding: Arc<Feeding>,
}

impl Intake for Fed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.feed.ready.get().as_fd()
    }

    fn ending(&self, _event: &Event) -> Ending {
        let arrived = self.feed.arrived.lock();
        match arrived.end {
            Some(end) if arrived.bytes == 0 => end.map_or(Ending::Ended, |_| Ending::Dead),
            _ => Ending::Open,
        }
    }

    fn unread(&self) -> usize {
        self.feed.arrived.lock().bytes
    }

    fn receive(&self, owed: &[Piece], landing: &mut Landing, len: usize, _calls: &mut u64) -> io::Result<usize> {
        self.give_back(owed)?;
        landing.pieces.clear();
        let room = len.min(landing.bytes().len());
        let (mut n, mut host) = (0, 0);
        let mut arrived = self.feed.arrived.lock();
        while n < room
            && let Some(piece) = arrived.pieces.pop_front()
        {
            arrived.weight -= weight(&piece);
            let (piece, rest) = self.feeding.memory.split(piece, room - n);
            if let Some(rest) = rest {
                arrived.weight += weight(&rest);
                arrived.pieces.push_front(rest);
            }
            if let Piece::Host { len } = piece {
                let bytes = arrived.host.drain(..len as usize);
                landing.bytes_mut()[host..].iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
                host += len as usize;
            }
            n += piece.len();
            landing.pieces.push(piece);
        }
        arrived.bytes -= n;
        if arrived.bytes == 0 && arrived.end.is_none() && std::mem::take(&mut arrived.told) {
            self.feed.ready.get().try_take();
        }
        if arrived.weight <= ASKED_MOST / 4 && std::mem::take(&mut arrived.paused) {
            self.feeding.order(Order::GoOn(self.id));
        }
        match arrived.end {
            _ if n > 0 => Ok(n),
            Some(None) => Ok(0),
            Some(Some(errno)) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn give_back(&self, pieces: &[Piece]) -> io::Result<u64> {
        self.feeding.memory.give_back(pieces.iter().copied());
        Ok(0)
    }

    fn disconnect(&self) {
        let mut arrived = self.feed.arrived.lock();
        if std::mem::replace(&mut arrived.closed, true) {
            return;
        }
        let pieces = std::mem::take(&mut arrived.pieces);
        (arrived.host, arrived.bytes, arrived.weight) = (VecDeque::new(), 0, 0);
        drop(arrived);
        self.feeding.memory.give_back(pieces);
        self.feeding.order(Order::End(self.id));
    }
}

impl Drop for Fed {
    fn drop(&mut self) {
        self.disconnect();
    }
}

/// The thread.
struct Server {
    ring: Ring,
    feeding: Arc<Feeding>,
    lanes: HashMap<u64, Lane>,
    landing: Landing,
    /// What it has been told to do, and has not done yet.
    orders: VecDeque<Order>,
}

#[derive(Debug)]
struct Lane {
    /// Open until no request is about it.
    socket: Socket,
    feed: Arc<Feed>,
    /// A request is out, which may have been cancelled, and bytes that it has asked for and that have not come.
    out: bool,
    cancelled: bool,
    asked: u32,
    /// How often there was no memory since something came.
    fruitless: u32,
    /// What its reader has not been told of.
    news: News,
}

impl Server {
    fn run(mut self) {
        if let Err(e) = self.serve() {
            tracing::error!(error = %e, "io_uring hands over nothing any more");
        }
        let left = self.feeding.orders.lock().take();
        let begun = self.orders.into_iter().chain(left.into_iter().flatten()).filter_map(|order| match order {
            Order::Begin(_, _, feed) => Some(feed),
            _ => None,
        });
        for feed in self.lanes.into_values().map(|lane| lane.feed).chain(begun) {
            feed.tell(News { end: Some(Some(libc::ECONNABORTED)), ..News::default() });
        }
    }

    /// Until it is to stop.
    fn serve(&mut self) -> io::Result<()> {
        self.ring.enable()?;
        self.ring.watch(self.feeding.kick.get(), KICK)?;
        let mut heard: Vec<u64> = Vec::new();
        loop {
            self.ring.wait()?;
            // What there was no room for.
            self.feeding.memory.refill.give_back([]);
            for completion in self.ring.completions() {
                if completion.token != KICK {
                    if heard.last() != Some(&completion.token) {
                        heard.push(completion.token);
                    }
                    self.hear(completion);
                    continue;
                }
                if !completion.more {
                    self.ring.watch(self.feeding.kick.get(), KICK)?;
                }
                self.feeding.kick.get().try_take();
                self.orders.extend(self.feeding.orders.lock().iter_mut().flat_map(|orders| orders.drain(..)));
            }
            heard.drain(..).try_for_each(|id| self.pass_on(id))?;
            while let Some(order) = self.orders.pop_front() {
                match order {
                    Order::Begin(id, socket, feed) => {
                        self.lanes.insert(id, Lane::new(socket, feed));
                        self.go_on(id)?;
                    }
                    Order::GoOn(id) => self.go_on(id)?,
                    Order::End(id) => self.end(id),
                    Order::Stop => return Ok(()),
                }
            }
        }
    }

    /// Asks for more of a lane, unless enough waits for its reader.
    fn go_on(&mut self, id: u64) -> io::Result<()> {
        let waiting = self.lanes.values().map(|lane| lane.feed.arrived.lock().weight).sum();
        let lanes = self.lanes.len();
        let Some(lane) = self.lanes.get_mut(&id).filter(|lane| !lane.out) else { return Ok(()) };
        let mut arrived = lane.feed.arrived.lock();
        if arrived.end.is_some() {
            return Ok(());
        }
        let Some(more) = may_ask(lanes, waiting, arrived.weight) else {
            arrived.paused = true;
            return Ok(());
        };
        drop(arrived);
        self.ring.ask(lane.socket.as_fd(), more, id)?;
        (lane.out, lane.cancelled, lane.asked) = (true, false, more);
        Ok(())
    }

    /// Nobody reads a lane any more.
    fn end(&mut self, id: u64) {
        let Some(lane) = self.lanes.get(&id) else { return };
        if lane.out {
            // It ends with what there is to be received, or has ended.
            let _ = socket::shutdown_read(lane.socket.as_fd());
        } else {
            self.lanes.remove(&id);
        }
    }

    fn hear(&mut self, Completion { token, result, at, more }: Completion) {
        let Some(lane) = self.lanes.get_mut(&token) else { return };
        let news = &mut lane.news;
        match result {
            Ok(0) if lane.asked > 0 => news.end = Some(None),
            Ok(0) => {}
            Ok(len) => {
                lane.asked = lane.asked.saturating_sub(len);
                lane.fruitless = 0;
                news.pieces.push(self.feeding.memory.take(at, len));
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOMEM) && lane.fruitless < FRUITLESS => {
                lane.fruitless += 1;
                // What cannot be received so stays where it is.
                if let Ok(len @ 1..) = devmem::recv(lane.socket.as_fd(), &mut self.landing, HOST) {
                    lane.fruitless = 0;
                    news.pieces.push(Piece::Host { len: len as u32 });
                    news.host.extend_from_slice(&self.landing.bytes()[..len]);
                }
            }
            // There was no room for the completion, or enough has come.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::ECANCELED)) => {}
            Err(e) => news.end = Some(Some(e.raw_os_error().unwrap_or(libc::EIO))),
        }
        if !more {
            (lane.out, lane.asked) = (false, 0);
        }
    }

    /// Tells a lane's reader what has come of it, and asks for more.
    fn pass_on(&mut self, id: u64) -> io::Result<()> {
        let Some(lane) = self.lanes.get_mut(&id) else { return Ok(()) };
        if let Some(left) = lane.feed.tell(std::mem::take(&mut lane.news)) {
            self.feeding.memory.give_back(left);
            if !lane.out {
                self.lanes.remove(&id);
            }
            return Ok(());
        }
        if !lane.out {
            return self.go_on(id);
        }
        // Of small pieces a request brings more than was thought of.
        if !lane.cancelled && lane.feed.arrived.lock().weight > 2 * ASKED_MOST {
            lane.cancelled = true;
            self.ring.cancel(id)?;
        }
        Ok(())
    }
}

impl Lane {
    fn new(socket: Socket, feed: Arc<Feed>) -> Lane {
        Lane { socket, feed, out: false, cancelled: false, asked: 0, fruitless: 0, news: News::default() }
    }
}

/// How much of one of so many lanes is asked for, if so much of all waits for its readers, and so much of this; nothing if
/// that is enough.
fn may_ask(lanes: usize, of_all: usize, of_this: usize) -> Option<u32> {
    if of_this > ASKED_MOST / 2 {
        return None;
    }
    let share = (ASKED.saturating_sub(of_all) / lanes.max(1)).min(ASKED_MOST);
    Some(share.saturating_sub(of_this).max(ASKED_LEAST) as u32)
}

/// The token of what the thread is woken by.
const KICK: u64 = 0;
/// The number of no binding of netlink's: this is the only memory that a lane of the queue can bring.
pub(super) const BINDING: u32 = 0;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A lane of no queue, and no thread.
    fn lane() -> Fed {
        let feeding = Feeding {
            orders: Mutex::new(Some(Vec::new())),
            kick: Unshared::made(|| EventFd::new(false)).unwrap(),
            memory: Memory { refill: Refill::of_no_queue(), parts: Mutex::default() },
            last: AtomicU64::new(KICK),
        };
        let (socket, _) = socket::pair().unwrap();
        Feeder(Arc::new(feeding)).feed(socket).unwrap()
    }

    fn bring(lane: &Fed, at: u64, len: u32) {
        let pieces = vec![lane.feeding.memory.take(at, len)];
        assert!(lane.feed.tell(News { pieces, ..News::default() }).is_none());
    }

    fn receive(lane: &Fed, landing: &mut Landing, len: usize) -> io::Result<usize> {
        lane.receive(&[], landing, len, &mut 0)
    }

    fn is_ready(lane: &Fed) -> bool {
        lane.feed.ready.get().wait(Duration::ZERO)
    }

    fn end(lane: &Fed, end: Option<i32>) {
        lane.feed.tell(News { end: Some(end), ..News::default() });
    }

    #[test]
    fn memory_goes_back_when_all_parts_of_it_do() {
        let lane = lane();
        let mut landing = Landing::new(64);
        bring(&lane, 100, 10);
        bring(&lane, 200, 10);
        assert_eq!(receive(&lane, &mut landing, 4).unwrap(), 4);
        let first = landing.pieces.clone();
        assert!(matches!(first[..], [Piece::Device { at: 100, len: 4, .. }]));
        assert_eq!(receive(&lane, &mut landing, 16).unwrap(), 16);
        assert!(matches!(landing.pieces[..], [Piece::Device { at: 104, len: 6, .. }, Piece::Device { at: 200, .. }]));
        lane.give_back(&landing.pieces).unwrap();
        assert_eq!(lane.feeding.memory.refill.taken(), [(200, 10)]);
        lane.give_back(&first).unwrap();
        assert_eq!(lane.feeding.memory.refill.taken(), [(100, 10)]);
    }

    #[test]
    fn what_came_beside_the_memory_is_in_its_place_of_the_stream() {
        let lane = lane();
        let mut landing = Landing::new(64);
        let news = |host: &[u8]| News {
            pieces: vec![lane.feeding.memory.take(0, 2), Piece::Host { len: host.len() as u32 }],
            host: host.to_vec(),
            end: None,
        };
        lane.feed.tell(news(b"one"));
        lane.feed.tell(news(b"two"));
        assert_eq!(lane.unread(), 10);
        assert_eq!(receive(&lane, &mut landing, 9).unwrap(), 9);
        assert_eq!(landing.bytes()[..5], *b"onetw");
        assert_eq!(landing.pieces.iter().map(Piece::len).collect::<Vec<_>>(), [2, 3, 2, 2]);
        assert_eq!(receive(&lane, &mut landing, 9).unwrap(), 1);
        assert_eq!(landing.bytes()[..1], *b"o");
    }

    #[test]
    fn who_waits_hears_of_what_comes_and_of_nothing_else() {
        let lane = lane();
        let mut landing = Landing::new(64);
        let blocks =
            |landing: &mut Landing| receive(&lane, landing, 8).unwrap_err().kind() == io::ErrorKind::WouldBlock;
        assert!(blocks(&mut landing) && !is_ready(&lane));
        bring(&lane, 0, 8);
        bring(&lane, 8, 8);
        assert!(is_ready(&lane));
        assert_eq!(receive(&lane, &mut landing, 8).unwrap(), 8);
        assert!(is_ready(&lane));
        assert_eq!(receive(&lane, &mut landing, 8).unwrap(), 8);
        assert!(!is_ready(&lane) && blocks(&mut landing));
    }

    #[test]
    fn an_end_is_seen_behind_what_came_before() {
        let event = Event::default();
        for errno in [None, Some(libc::ECONNRESET)] {
            let lane = lane();
            let mut landing = Landing::new(64);
            bring(&lane, 0, 8);
            end(&lane, errno);
            assert_eq!(lane.ending(&event), Ending::Open);
            assert_eq!(receive(&lane, &mut landing, 8).unwrap(), 8);
            assert!(is_ready(&lane));
            let ending = if errno.is_some() { Ending::Dead } else { Ending::Ended };
            assert_eq!(lane.ending(&event), ending);
            let received = receive(&lane, &mut landing, 8).map_err(|e| e.raw_os_error());
            assert_eq!(received, errno.map_or(Ok(0), |errno| Err(Some(errno))));
        }
    }

    #[test]
    fn of_a_lane_that_nobody_reads_all_goes_back() {
        let lane = lane();
        bring(&lane, 0, 8);
        lane.disconnect();
        assert_eq!(lane.feeding.memory.refill.taken(), [(0, 8)]);
        let pieces = vec![lane.feeding.memory.take(8, 8)];
        let left = lane.feed.tell(News { pieces: pieces.clone(), ..News::default() });
        assert_eq!(left, Some(pieces));
        let orders = lane.feeding.orders.lock().take().unwrap();
        assert!(matches!(orders[..], [Order::Begin(1, ..), Order::Stop, Order::End(1)]));
    }

    #[test]
    fn more_is_asked_for_when_the_reader_has_caught_up() {
        let lane = lane();
        let mut landing = Landing::new(ASKED_MOST);
        (0..ASKED_MOST / 4 + 2 * PIECE_LEAST).step_by(PIECE_LEAST).for_each(|at| bring(&lane, at as u64, 8));
        lane.feed.arrived.lock().paused = true;
        let goes_on = || {
            let orders = lane.feeding.orders.lock();
            orders.as_ref().unwrap().iter().filter(|order| matches!(order, Order::GoOn(1))).count()
        };
        assert_eq!(receive(&lane, &mut landing, 15).unwrap(), 15);
        assert_eq!(goes_on(), 0);
        assert_eq!(receive(&lane, &mut landing, 1).unwrap(), 1);
        assert_eq!(receive(&lane, &mut landing, ASKED_MOST).unwrap(), ASKED_MOST / 4 / PIECE_LEAST * 8);
        assert_eq!((goes_on(), lane.feed.arrived.lock().weight), (1, 0));
    }

    #[test]
    fn what_is_asked_for_is_bounded_but_each_lane_goes_on() {
        assert_eq!(may_ask(1, 0, 0), Some(1 << 20));
        assert_eq!(may_ask(1, 256 << 10, 256 << 10), Some(768 << 10));
        assert_eq!(may_ask(1, (512 << 10) + 1, (512 << 10) + 1), None);
        assert_eq!(may_ask(64, 0, 0), Some(256 << 10));
        assert_eq!(may_ask(64, 8 << 20, 0), Some(128 << 10));
        assert_eq!(may_ask(64, 40 << 20, 0), Some(64 << 10));
    }

    #[test]
    fn when_nobody_serves_the_queue_there_are_no_new_lanes() {
        let lane = lane();
        let feeder = Feeder(lane.feeding.clone());
        assert!(feeder.is_live());
        lane.feeding.orders.lock().take();
        assert!(!feeder.is_live());
        let (socket, _) = socket::pair().unwrap();
        assert_eq!(feeder.feed(socket).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
