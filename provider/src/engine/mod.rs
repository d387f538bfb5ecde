//! Progress: who moves bytes, and when.
//!
//! One engine serves the process. Whoever polls a completion queue moves the bytes of every connection, inline and
//! under a try-lock; while nobody polls, one thread does so, asleep on the sockets (see [`wake`]). Lock order:
//! engine, connection, completion queue; the small lists of this file are leaves.

mod bootstrap;
mod conn;
mod ending;
mod lane;
mod lanes;
mod lazy;
mod link;
mod links;
mod message;
mod receive;
mod registry;
mod report;
mod send;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timers;
mod visits;
pub(crate) mod wake;

use std::cell::Cell;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use dmverbs_proto::Tick;
use parking_lot::{Mutex, MutexGuard};

use bootstrap::Bootstrap;
pub(crate) use bootstrap::Peer;
pub(crate) use conn::{Conn, Inner, Phase};
use lanes::Lanes;
use lazy::Lazy;
use links::Links;
use receive::Staging;
use registry::Registry;
use report::Reporter;
use timers::Timers;
use visits::Visits;
use wake::{Plan, Standby, Watch};

use crate::config::Config;
use crate::mem::Region;
use crate::object::Error;
use crate::sys::cancel::Uncancelled;
use crate::sys::epoll::{Epoll, Event, Interest};
use crate::sys::eventfd::EventFd;
use crate::sys::socket::{self, Iov};
use crate::sys::{thread, time};
use crate::transport::{BatchPool, Bindings, Ending};

/// The longest message; `max_msg_sz` of ibv_query_port(3).
pub(crate) const MAX_MESSAGE: u64 = 1 << 30;

/// Up to this many connections are read without asking epoll which of them have something.
const DIRECT: usize = 2;
/// Then epoll is still asked every so many turns, for handshakes.
const DIRECT_TURNS: u32 = 64;

/// After so many idle turns (some 50 µs) a poller offers its processor to others now and then: the peer may be waiting
/// for it. With nobody waiting that costs a system call.
const YIELD_AFTER: u32 = 100;
const YIELD_EVERY: u32 = 8;

/// Tokens of epoll that are no connection; connections use their QP number, which has 24 bits.
const KICK: u64 = 1 << 32;
const LINKS: u64 = 1 << 33;
const BOOTSTRAP: u64 = 1 << 34;
/// Among those of the handshake: a listener, by its index.
const LISTENER: u64 = 1 << 35;
/// The lanes of a connection, with its QP number; and the port of a receiver, by its index.
const LANE_OUT: u64 = 1 << 36;
const LANE_IN: u64 = 1 << 37;
const LANE_PAST: u64 = 1 << 38;
const LANE_LISTENER: u64 = 1 << 39;
/// Who asks what has passed.
const REPORT: u64 = 1 << 40;

thread_local! {
    static IS_PROGRESS_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// The process's progress engine.
#[derive(Debug)]
pub struct Progress {
    epoll: Epoll,
    kick: EventFd,
    standby: Standby,
    /// What may wait in all sockets together, in bytes.
    tcp_memory: u64,
    batches: BatchPool,
    registry: Registry,
    links: Links,
    lanes: Lanes,
    bindings: Bindings,
    reporter: Reporter,
    turn: Mutex<Turn>,
    /// Connections with requests that gather, and whether there are any; those that wait for their turn.
    listed: Mutex<Vec<Arc<Conn>>>,
    any_listed: AtomicBool,
    visits: Visits<Conn>,
    /// Connections whose stream is gone, to be forgotten at the next turn.
    unlinked: Mutex<Vec<Arc<Conn>>>,
    any_unlinked: AtomicBool,
    timers: Timers<Conn>,
    /// When the handshakes want the thread.
    next_bootstrap: AtomicU64,
    /// The thread wants its turn: pollers let it have it.
    thread_waits: AtomicBool,
}

/// Whether a mark was set, which is taken away. To look costs less than to write, which is done when there is something.
/// Who sets it and relies on the thread has [`Standby::is_asleep_anyhow`] between.
fn take(mark: &AtomicBool) -> bool {
    // Relaxed: whoever finds it unset looks again at the next turn.
    mark.load(Ordering::Relaxed) && mark.swap(false, Ordering::AcqRel)
}

/// What one takes turns at.
#[derive(Debug)]
pub(crate) struct Turn {
    conns: HashMap<u64, Arc<Conn>>,
    direct: Vec<Arc<Conn>>,
    direct_turns: u32,
    /// Epoll does not watch all streams. While the thread sleeps, it does.
    hidden: bool,
    /// Turns of pollers in a row that brought nothing.
    idle: u32,
    bootstrap: Bootstrap,
    desk: Desk,
    events: Vec<Event>,
}

/// What a connection is served with.
#[derive(Debug)]
struct Desk {
    staging: Staging,
    iovs: Vec<Iov>,
    /// Connections that owe their peer an ack which may find a frame to ride on.
    lazy: Lazy<Conn>,
}

impl Desk {
    fn service(&mut self, conn: &Arc<Conn>, inner: &mut Inner) -> bool {
        let serviced = conn.service(inner, &mut self.staging, &mut self.iovs);
        if serviced.owes_ack {
            self.lazy.add(conn, serviced.moved);
        }
        serviced.moved
    }

    /// Whether a lane has died of whose peer there is still something to read: what it said before counts, and epoll tells
    /// again.
    fn hears_out(&mut self, is_dead: bool, conn: &Arc<Conn>, inner: &mut Inner) -> bool {
        is_dead && self.service(conn, inner)
    }
}

impl Progress {
    /// The process's engine, started by its first user. A child of fork(2) starts one of its own: of its parent's it has
    /// neither the thread nor the sockets.
    pub(crate) fn start() -> Result<&'static Progress, Error> {
        static ENGINE: Mutex<Option<(u32, &'static Progress)>> = Mutex::new(None);
        let mut engine = ENGINE.lock();
        let pid = std::process::id();
        if let Some((_, engine)) = engine.filter(|(owner, _)| *owner == pid) {
            return Ok(engine);
        }
        let config = crate::config::config()?;
        // It begins with the engine, if there is one.
        let (tell, told) = mpsc::channel::<&'static Progress>();
        thread::spawn("dmverbs", move || told.iter().for_each(Progress::run))?;
        let started: &'static Progress = Box::leak(Box::new(Progress::new(config)?));
        *engine = Some((pid, started));
        let _ = tell.send(started);
        crate::sys::at_exit(|| {
            if let Some((_, engine)) = ENGINE.try_lock().and_then(|engine| *engine) {
                engine.farewell();
            }
        });
        Ok(started)
    }

    fn new(config: &Config) -> Result<Progress, Error> {
        let devmem = config.devmem;
        let epoll = Epoll::new()?;
        let kick = EventFd::new(false)?;
        epoll.add(kick.as_fd(), KICK, Interest::READ)?;
        let links = Links::new()?;
        if let Some(fd) = links.fd() {
            epoll.add(fd, LINKS, Interest::READ)?;
        }
        let turn = Turn {
            conns: HashMap::new(),
            direct: Vec::new(),
            direct_turns: 0,
            hidden: false,
            idle: 0,
            bootstrap: Bootstrap::default(),
            desk: Desk { staging: Staging::new(), iovs: Vec::new(), lazy: Lazy::default() },
            events: vec![Event::default(); 128],
        };
        let reporter = Reporter::new(&epoll);
        Ok(Progress {
            epoll,
            kick,
            standby: Standby::default(),
            tcp_memory: socket::memory(),
            batches: BatchPool::default(),
            registry: Registry::new(config.port_range.clone()),
            links,
            lanes: Lanes::new(devmem, config.lane_port),
            bindings: Bindings::new(devmem),
            reporter,
            turn: Mutex::new(turn),
            listed: Mutex::default(),
            any_listed: AtomicBool::new(false),
            visits: Visits::default(),
            unlinked: Mutex::default(),
            any_unlinked: AtomicBool::new(false),
            timers: Timers::default(),
            next_bootstrap: AtomicU64::new(Tick::MAX),
            thread_waits: AtomicBool::new(false),
        })
    }

    pub(crate) fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// Keeps a file descriptor for a connection to come.
    pub(crate) fn reserve_place(&self) -> Result<OwnedFd, Error> {
        self.kick.duplicate().map_err(|e| {
            tracing::error!(error = %e, "no file descriptor for another QP; see RLIMIT_NOFILE in getrlimit(2)");
            Error::Io(e)
        })
    }

    pub(crate) fn batches(&self) -> &BatchPool {
        &self.batches
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    /// Memory has been registered that the NIC may receive into.
    pub(crate) fn prepare(&self, ifindex: u32, region: &Region) {
        if let Some(device) = region.device() {
            self.lanes.prepare(self, ifindex, device);
        }
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock()
    }

    /// Progress by an application that polls: nothing if somebody else is at it.
    #[inline]
    pub(crate) fn poll_inline(&self) {
        self.standby.polled();
        let turn = if self.thread_waits.load(Ordering::Relaxed) { None } else { self.turn.try_lock() };
        let Some(mut turn) = turn else {
            // On this very processor, perhaps.
            return std::thread::yield_now();
        };
        let moved = self.turn_inline(&mut turn, !self.standby.is_asleep());
        if !moved && !turn.desk.lazy.is_empty() {
            self.send_acks(turn.desk.lazy.take_all());
        }
        if !turn.desk.lazy.is_empty() && self.standby.is_asleep() {
            // The application may never poll again; the thread will see to the acks.
            self.wake();
        }
        turn.idle = if moved { 0 } else { turn.idle.wrapping_add(1) };
        let yields = turn.idle >= YIELD_AFTER && turn.idle.is_multiple_of(YIELD_EVERY);
        drop(turn);
        if yields {
            std::thread::yield_now();
        }
    }

    /// A call sends for some time. An application's is as good as polling: the thread would only be in its way.
    pub(crate) fn goes_on(&self) {
        if !IS_PROGRESS_THREAD.get() {
            self.standby.polled();
        }
    }

    /// Reads the streams if they are few, and else those that epoll names. Epoll need not watch the few if the caller
    /// `hides` them: if the thread does not sleep on them meanwhile.
    fn turn_inline(&self, turn: &mut Turn, hides: bool) -> bool {
        turn.direct_turns += 1;
        let (mut moved, mut blocked) = (false, false);
        let direct = turn.conns.len() <= DIRECT && !turn.direct_turns.is_multiple_of(DIRECT_TURNS);
        if direct {
            for conn in &turn.direct {
                let mut inner = conn.lock();
                // Only epoll tells when it takes bytes again.
                blocked |= inner.is_blocked();
                moved |= !blocked && turn.desk.service(conn, &mut inner);
            }
        }
        if !direct || blocked {
            if hides && !blocked && turn.conns.len() <= DIRECT {
                turn.hide()
            } else {
                turn.show()
            }
            moved |= self.turn_epoll(turn);
        }
        self.housekeep(turn, moved);
        moved
    }

    /// Serves whatever epoll says is ready.
    fn turn_epoll(&self, turn: &mut Turn) -> bool {
        let mut events = std::mem::take(&mut turn.events);
        let n = self.epoll.wait(&mut events, Some(Duration::ZERO)).unwrap_or(0);
        let moved = self.dispatch(turn, &events[..n]);
        turn.events = events;
        moved
    }

    fn dispatch(&self, turn: &mut Turn, events: &[Event]) -> bool {
        let mut moved = false;
        let _uncancelled = (!events.is_empty()).then(Uncancelled::begin);
        for event in events {
            match event.token() {
                // The thread's alone: who else took it would let the thread sleep on.
                KICK => {}
                LINKS => self.links.on_readable(),
                REPORT => self.reporter.answer(self, turn),
                token if token & BOOTSTRAP != 0 => {
                    turn.bootstrap_event(self, token & !BOOTSTRAP);
                    moved = true;
                }
                token if token & LANE_LISTENER != 0 => {
                    self.lanes.accept(self, token & !LANE_LISTENER);
                    moved = true;
                }
                token if token & LANE_OUT != 0 => {
                    let Some(conn) = turn.conns.get(&(token & !LANE_OUT)).cloned() else { continue };
                    let mut inner = conn.lock();
                    if !turn.desk.hears_out(event.is_dead(), &conn, &mut inner) {
                        conn.on_lane_out(&mut inner, event);
                    }
                    moved = true;
                }
                token if token & LANE_PAST != 0 => {
                    let Some(conn) = turn.conns.get(&(token & !LANE_PAST)).cloned() else { continue };
                    let mut inner = conn.lock();
                    if !turn.desk.hears_out(event.is_dead(), &conn, &mut inner) {
                        conn.on_past_lane(&mut inner, event);
                    }
                    moved = true;
                }
                token => {
                    let Some(conn) = turn.conns.get(&(token & !LANE_IN)).cloned() else { continue };
                    if token & LANE_IN != 0 {
                        let mut inner = conn.lock();
                        let ending = inner.lane_ending(event);
                        if turn.desk.hears_out(ending == Ending::Dead, &conn, &mut inner) {
                            moved = true;
                        } else {
                            conn.on_lane_in(&mut inner, ending);
                        }
                    } else if event.is_dead() {
                        conn.on_dead(&mut conn.lock());
                    }
                    if event.is_writable() {
                        conn.on_writable(&mut conn.lock());
                        moved = true;
                    }
                    if event.is_readable() {
                        moved |= turn.desk.service(&conn, &mut conn.lock());
                    }
                }
            }
        }
        moved
    }

    /// What is due on every turn: connections that gathered requests, acknowledgements that have waited for long, and
    /// connections that ended. If the turn has moved something, requests may wait for the next.
    fn housekeep(&self, turn: &mut Turn, moved: bool) {
        if take(&self.any_listed) {
            let listed = std::mem::take(&mut *self.listed.lock());
            for conn in &listed {
                conn.unmark_listed();
                let mut inner = conn.lock();
                if inner.is_blocked() {
                    continue;
                }
                if moved && conn.may_wait(&mut inner) {
                    self.list(conn);
                } else {
                    conn.flush(&mut inner);
                }
            }
        }
        self.send_acks(turn.desk.lazy.take_late());
        if self.visits.any_waiting() {
            let anyhow = self.visits.look(time::now(), moved, |conn, old| conn.lock().count(old));
            self.let_begin(anyhow);
        }
        if take(&self.any_unlinked) {
            let _uncancelled = Uncancelled::begin();
            // Whoever has a connection's lock may take this one: it is not kept.
            let unlinked = std::mem::take(&mut *self.unlinked.lock());
            for conn in unlinked {
                turn.remove(&conn);
                self.release(&conn);
            }
        }
    }

    /// Connections begin that have waited for it: those for which there is room, the first perhaps `anyhow`.
    fn let_begin(&self, mut anyhow: bool) {
        while let Some((conn, room)) = self.visits.next(std::mem::take(&mut anyhow)) {
            conn.unmark_listed();
            let mut inner = conn.lock();
            if inner.is_blocked() {
                continue;
            }
            if inner.is_home() {
                conn.begin(&mut inner, room);
            } else {
                conn.flush(&mut inner);
            }
        }
    }

    /// Acknowledgements that have found no frame to ride on go alone.
    fn send_acks(&self, owing: impl IntoIterator<Item = Arc<Conn>>) {
        for conn in owing {
            let mut inner = conn.lock();
            if inner.owes_ack() && !inner.is_blocked() {
                conn.flush(&mut inner);
            }
        }
    }

    /// The process exits: acknowledgements that waited for a frame to ride on go out now, or never.
    fn farewell(&self) {
        let _uncancelled = Uncancelled::begin();
        self.lanes.close();
        for conn in self.registry.all() {
            if let Some(mut inner) = conn.try_lock().filter(|inner| inner.is_linked() && !inner.is_blocked()) {
                conn.flush_all(&mut inner, true);
            }
        }
    }

    /// Notes that `conn` has requests that gather.
    pub(crate) fn list(&self, conn: &Arc<Conn>) {
        if conn.mark_listed() {
            self.listed.lock().push(conn.clone());
            self.any_listed.store(true, Ordering::Release);
        }
    }

    /// As [`list`](Self::list), with nothing on its way to the peer of which an answer would make somebody look. False if
    /// the thread sleeps, or is about to: nobody might look then.
    pub(crate) fn list_if_awake(&self, conn: &Arc<Conn>) -> bool {
        if conn.is_listed() {
            return true;
        }
        self.list(conn);
        !self.standby.is_asleep_anyhow()
    }

    /// Has `conn`, which takes turns, wait for its own. The thread may not sleep for long then.
    fn wait(&self, conn: &Arc<Conn>) {
        if conn.mark_listed() {
            self.visits.wait(conn.clone(), time::now());
        } else if self.visits.any_waiting() {
            return;
        }
        // It looks how long it may sleep.
        if !IS_PROGRESS_THREAD.get() && self.standby.is_asleep_anyhow() {
            self.wake();
        }
    }

    /// Whether one that takes turns may begin at once.
    fn may_begin(&self) -> bool {
        self.visits.has_room()
    }

    /// So many bytes have been sent of what takes turns.
    fn count(&self, bytes: u64) {
        if bytes > 0 {
            self.visits.add(bytes);
        }
    }

    /// The turn of `conn` has begun.
    fn began(&self, conn: &Arc<Conn>) {
        self.visits.began(conn, time::now());
    }

    /// A destroyed QP's number may be given again, and nothing is kept for it, once nothing of it is left.
    pub(crate) fn release(&self, conn: &Arc<Conn>) {
        if conn.let_go() {
            self.timers.forget(conn);
            self.registry.release(conn);
        }
    }

    pub(crate) fn unlink(&self, conn: &Arc<Conn>) {
        self.unlinked.lock().push(conn.clone());
        self.any_unlinked.store(true, Ordering::Release);
    }

    pub(crate) fn start_timer(&self, at: Tick, conn: &Arc<Conn>) {
        self.timers.set(at, conn);
        self.wake();
    }

    /// Waits until nobody touches a revoked region for a QP of its protection domain by what it knew before. A device
    /// then has its memory back.
    pub(crate) fn quiesce(&self, region: &Region) {
        for conn in self.registry.all() {
            if conn.pd.id() == region.pd() {
                conn.quiesce(region);
            }
        }
        // Only now does nobody bind it any more.
        if region.device().is_some() {
            self.bindings.forget(region.key());
        }
    }

    /// A completion queue is armed: its application will sleep, and the thread has to move the bytes.
    pub(crate) fn expect_sleepers(&self) {
        if self.standby.expect_sleeper() {
            self.wake();
        }
    }

    pub(crate) fn forget_sleeper(&self) {
        self.standby.forget_sleeper();
    }

    /// Makes the thread look at its timers and lists.
    pub(crate) fn wake(&self) {
        self.kick.add(1);
    }

    fn run_timers(&self, now: Tick) {
        let due = self.timers.take_due(now);
        if !due.is_empty() {
            self.look();
        }
        for conn in due {
            if let Some(next) = conn.on_timer(now) {
                self.timers.set(next, &conn);
            }
        }
    }

    /// Serves every socket that is ready. What the peer has done counts against a deadline, also if nobody has looked
    /// since: this process may have been stopped, or busy with other connections.
    fn look(&self) {
        let mut turn = self.thread_turn();
        turn.show();
        for _ in 0..=turn.conns.len() / turn.events.len() {
            self.turn_epoll(&mut turn);
        }
    }

    /// The progress thread.
    fn run(&self) {
        IS_PROGRESS_THREAD.set(true);
        let mut events = vec![Event::default(); 128];
        let mut watch = Watch::default();
        loop {
            let now = time::now();
            self.run_timers(now);
            if self.next_bootstrap.load(Ordering::Acquire) <= now {
                self.look();
                self.thread_turn().bootstrap_tick(self, now);
            }
            if self.lanes.next() <= now {
                self.look();
                self.lanes.expire(self, now);
            }
            let deadline = self.next_due();
            match self.standby.plan(&mut watch) {
                Plan::StandBack(pause) => {
                    let pause = pause.min(Duration::from_nanos(deadline.saturating_sub(now)));
                    if self.kick.wait(pause) {
                        self.kick.drain();
                    }
                }
                Plan::Sleep => self.serve_sockets(&mut events, deadline, &mut watch),
            }
        }
    }

    /// The thread's turn. Pollers would hardly ever let go of the lock if they were not asked to.
    fn thread_turn(&self) -> MutexGuard<'_, Turn> {
        self.thread_waits.store(true, Ordering::Relaxed);
        let turn = self.turn.lock();
        self.thread_waits.store(false, Ordering::Relaxed);
        turn
    }

    pub(crate) fn set_bootstrap_deadline(&self, deadline: Option<Tick>) {
        let before = self.next_bootstrap.swap(deadline.unwrap_or(Tick::MAX), Ordering::AcqRel);
        if deadline.is_some_and(|deadline| deadline < before) {
            self.wake();
        }
    }

    /// Nobody polls: serve the sockets until somebody does.
    fn serve_sockets(&self, events: &mut [Event], deadline: Tick, watch: &mut Watch) {
        // A look first: an application woken by what came may well be about to answer, ack included.
        self.linger(watch);
        let now = time::now();
        let deadline = if self.visits.any_waiting() { deadline.min(now + visits::LULL) } else { deadline };
        let timeout = (deadline != Tick::MAX).then(|| Duration::from_nanos(deadline.saturating_sub(now)));
        let n = self.epoll.wait(events, timeout).unwrap_or(0);
        watch.slept(Duration::from_nanos(time::now() - now));
        self.standby.woke();
        if events[..n].iter().any(|event| event.token() == KICK) {
            self.kick.drain();
        }
        if let Some(mut turn) = self.turn.try_lock() {
            let moved = self.dispatch(&mut turn, &events[..n]);
            self.housekeep(&mut turn, moved);
        }
    }

    /// Takes turns until nothing has come for as long as `watch` says, something else is due, or somebody polls.
    fn linger(&self, watch: &mut Watch) {
        let mut turn = self.thread_turn();
        let clock = || Duration::from_nanos(time::now());
        let mut before = clock();
        let mut last = before;
        loop {
            let moved = self.turn_inline(&mut turn, true);
            let now = clock();
            if moved {
                last = now;
            } else {
                self.send_acks(turn.desk.lazy.take_all());
                watch.looked(now - before, now);
            }
            let due = Duration::from_nanos(self.next_due()) <= now;
            if due || now - last >= watch.lingers(now) || self.standby.is_polled() {
                break;
            }
            before = now;
            // Who wants the engine for something else gets it between two turns.
            MutexGuard::bump(&mut turn);
        }
        // Nothing that gathers may wait while the thread sleeps.
        self.housekeep(&mut turn, false);
        self.send_acks(turn.desk.lazy.take_all());
        turn.show();
    }

    /// When the thread has something to do, whatever comes.
    fn next_due(&self) -> Tick {
        let due = self.timers.next().min(self.next_bootstrap.load(Ordering::Acquire));
        due.min(self.lanes.next())
    }
}

impl Turn {
    pub(crate) fn insert(&mut self, conn: &Arc<Conn>) {
        self.conns.insert(conn.token(), conn.clone());
        self.refresh_direct();
    }

    fn remove(&mut self, conn: &Arc<Conn>) {
        // A QP that was reset may have a new stream by now.
        if conn.lock().is_linked() {
            return;
        }
        // Another may have its number by now.
        if self.conns.get(&conn.token()).is_some_and(|other| Arc::ptr_eq(other, conn)) {
            self.conns.remove(&conn.token());
        }
        self.desk.lazy.forget(conn);
        self.linger_no_more(conn);
        self.refresh_direct();
    }

    /// Pollers read the few streams that there are: epoll need not watch them.
    fn hide(&mut self) {
        for conn in &self.direct {
            conn.hide(&mut conn.lock());
        }
        self.hidden = true;
    }

    /// Epoll watches all streams again.
    fn show(&mut self) {
        if std::mem::take(&mut self.hidden) {
            for conn in self.conns.values() {
                conn.show(&mut conn.lock());
            }
        }
    }

    fn refresh_direct(&mut self) {
        self.direct.clear();
        if self.conns.len() <= DIRECT {
            self.direct.extend(self.conns.values().cloned());
        }
    }
}
