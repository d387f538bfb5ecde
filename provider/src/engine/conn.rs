//! One QP at work: its protocol engine, its stream, and the memory its requests name.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dmverbs_proto as proto;
use parking_lot::{Mutex, MutexGuard};
use proto::{Engine, Hello, Need, Refusal, Request, Tick};

use super::bootstrap::Peer;
use super::lane::{LaneIn, on_device};
use super::link::{Link, Path, Share};
use super::message::Messages;
use super::receive::{Received, Staging};
use super::send::{Filler, Nowhere};
use super::{MAX_MESSAGE, Progress};
use crate::mem::{self, Region, SlotRing, Span};
use crate::object::{AsyncEvent, Cookie, Cq, Payload, Pd, QpCap, QpReport, RecvWr, SendWr, Status, Taken, Traffic};
use crate::ring::Unpopped;
use crate::sys::cancel::Uncancelled;
use crate::sys::socket::Iov;
use crate::transport::{Flushed, Stream, Wait};

/// Requests that gather while the peer is busy with earlier ones are sent when they are so many bytes, or so many,
/// which depends on the queue (see [`gather`]), or the lesser number of both.
const GATHER_BYTES: u64 = 1 << 20;
const GATHER_REQUESTS: (usize, usize) = (16, 128);
const GATHER_BOTH: (usize, u64) = (72, 64 << 10);
/// Turns that bring something from the peer, completions perhaps and then more requests, for which requests that
/// gather wait before they are sent.
const PATIENCE: u32 = 4;

/// A program that has posted so many requests in each of so many bursts is expected to go on like that: even the first
/// request of a burst waits for the others then, unless they are so many bytes, or nobody is awake to send them.
const BURST: u32 = 16;
const BURSTS: u32 = 8;
const BURST_BYTES: u64 = 16 << 10;

/// A call that sends so many bytes is as good as polling: the progress thread would only be in its way.
const LONG: usize = 64 << 10;
/// A connection sends so many batches that are full, and then others have their turn: a peer that reads as fast as we
/// send would have them wait for all that it has asked for.
const BATCHES: u32 = 8;

/// What stands for receives where keys are named.
pub(super) const RECEIVES: u32 = 0;

/// What of a QP the progress engine works on.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) qpn: u32,
    pub(crate) pd: Arc<Pd>,
    pub(crate) send_cq: Arc<Cq>,
    pub(crate) recv_cq: Arc<Cq>,
    pub(crate) cookie: Cookie,
    pub(crate) progress: &'static Progress,
    cap: QpCap,
    signal_all: bool,
    /// In the progress engine's list of connections whose requests gather, or of those that wait for their turn.
    listed: AtomicBool,
    inner: Mutex<Inner>,
}

/// What the verbs state of the QP lets it do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// RESET: nothing may be posted.
    Reset,
    /// INIT and RTR: receives may be posted.
    Receive,
    /// RTS, SQD and ERR: everything may be posted.
    Send,
    /// Destroyed: completions are dropped.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(super) phase: Phase,
    pub(super) engine: Engine,
    pub(super) access: proto::Access,
    /// Known from RTR on.
    pub(super) peer: Option<Peer>,
    pub(super) link: Option<Link>,
    /// The region that the peer named last: most of its requests name the same.
    pub(super) named: Option<Arc<Region>>,
    /// A place in the table of file descriptors, so that it is the making of a QP that fails when that is full.
    place: Option<OwnedFd>,
    pub(super) sends: SlotRing,
    pub(super) receives: SlotRing,
    pub(super) messages: Messages,
    /// Memory of READs that the peer waits for, by response slot.
    pub(super) reads: Vec<Option<Answer>>,
    pub(super) traffic: Traffic,
    unsent_bytes: u64,
    /// So many requests gather at most.
    gather: usize,
    /// What is left of [`PATIENCE`] for the requests that gather now.
    patience: u32,
    /// The last turn brought something.
    brought: bool,
    /// Requests posted since the pipe was idle, and how many bursts of [`BURST`] or more there were in a row.
    burst: u32,
    bursts: u32,
    /// When the progress thread will look at this connection's deadlines.
    timer: Option<Tick>,
    /// The timer was set with a missing receive of the peer in mind.
    starved: bool,
    /// It is among those whose turn has begun.
    counted: bool,
    pub(super) drained_wanted: bool,
    /// Completions, of sending and of receiving, that may not have been polled.
    pub(super) unpolled: (Unpopped, Unpopped),
    /// The QP has failed for a reason of its own, and its owner has been told.
    pub(super) reported: bool,
}

/// Memory of a READ that the peer waits for.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) memory: Span,
    /// It is wanted on the lane.
    pub(super) by_lane: bool,
}

impl Conn {
    pub(crate) fn new(
        qpn: u32,
        pd: &Arc<Pd>,
        (send_cq, recv_cq): (&Arc<Cq>, &Arc<Cq>),
        cap: QpCap,
        signal_all: bool,
        cookie: Cookie,
        place: OwnedFd,
    ) -> Conn {
        let inner = Inner {
            phase: Phase::Reset,
            engine: Engine::new(qpn, limits(&cap)),
            access: proto::Access::empty(),
            peer: None,
            link: None,
            named: None,
            place: Some(place),
            sends: SlotRing::new(proto::slots(cap.send_wr as usize)),
            receives: SlotRing::new(proto::slots(cap.recv_wr as usize)),
            messages: Messages::default(),
            reads: Vec::new(),
            traffic: Traffic::default(),
            unsent_bytes: 0,
            gather: gather(cap.send_wr as usize),
            patience: 0,
            brought: false,
            burst: 0,
            bursts: 0,
            timer: None,
            starved: false,
            counted: false,
            drained_wanted: false,
            unpolled: (Unpopped::default(), Unpopped::default()),
            reported: false,
        };
        Conn {
            qpn,
            pd: pd.clone(),
            send_cq: send_cq.clone(),
            recv_cq: recv_cq.clone(),
            cookie,
            progress: pd.context().progress(),
            cap,
            signal_all,
            listed: AtomicBool::new(false),
            inner: Mutex::new(inner),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Inner>> {
        self.inner.try_lock()
    }

    pub(crate) fn cap(&self) -> QpCap {
        self.cap
    }

    /// Back to what a fresh QP is.
    pub(crate) fn reset(&self, inner: &mut Inner) {
        inner.phase = Phase::Reset;
        inner.engine = Engine::new(self.qpn, limits(&self.cap));
        inner.access = proto::Access::empty();
        inner.peer = None;
        inner.forget_memory();
        inner.traffic = Traffic::default();
        inner.return_messages();
        (inner.unsent_bytes, inner.drained_wanted, inner.reported) = (0, false, false);
        inner.timer = None;
        inner.unpolled = (Unpopped::default(), Unpopped::default());
    }

    /// Posts one send request; the caller flushes when the list is posted.
    #[inline]
    pub(crate) fn post_send(&self, inner: &mut Inner, wr: &SendWr<'_>) -> bool {
        let (len, fault) = match wr.payload {
            Payload::Inline(bytes) => (bytes.len() as u64, None),
            Payload::Sges(sges) => (sges.iter().map(|s| u64::from(s.length)).sum(), None),
        };
        let atomic = matches!(wr.op, proto::SendOp::CompareSwap { .. } | proto::SendOp::FetchAdd { .. });
        let fault = fault.or((len > MAX_MESSAGE || (atomic && len != 8)).then_some(Status::LocLen));
        let mut flags = wr.flags;
        flags.set(proto::SendFlags::SIGNALED, self.signal_all || flags.contains(proto::SendFlags::SIGNALED));
        if self.send_room(inner, 1) == 0 {
            return false;
        }
        let slot = inner.engine.next_send_slot() as usize;
        let need = if wr.op.has_response() { proto::Access::LOCAL_WRITE } else { proto::Access::empty() };
        let resolved = match wr.payload {
            Payload::Inline(bytes) => {
                inner.sends.set_inline(slot, bytes);
                Ok(())
            }
            Payload::Sges(sges) => inner.sends.resolve(slot, sges, self.pd.id(), need),
        };
        let fault = fault.or(resolved.err().map(|_| Status::LocProt));
        if matches!(wr.op, proto::SendOp::Read(_))
            && let Some((device, key)) = on_device(inner.sends.region(slot))
        {
            self.want_lane(inner, device, key);
        }
        let request = Request { id: wr.id, op: wr.op, flags, len: len as u32, fault };
        inner.unsent_bytes += len;
        inner.burst = inner.burst.saturating_add(1);
        inner.engine.post_send(request).is_some()
    }

    /// How many more send requests fit, exactly if fewer than are `wanted`.
    #[inline]
    pub(crate) fn send_room(&self, inner: &mut Inner, wanted: usize) -> usize {
        self.send_cq.room(inner.engine.send_room(), &mut inner.unpolled.0, wanted)
    }

    /// Whether a receive fits: 0 if none does.
    #[inline]
    fn recv_room(&self, inner: &mut Inner) -> usize {
        self.recv_cq.room(inner.engine.recv_room(), &mut inner.unpolled.1, 1)
    }

    /// Posts one receive.
    #[inline]
    pub(crate) fn post_recv(&self, inner: &mut Inner, wr: &RecvWr<'_>) -> bool {
        if self.recv_room(inner) == 0 {
            return false;
        }
        let slot = inner.engine.next_recv_slot() as usize;
        let len: u64 = wr.sges.iter().map(|s| u64::from(s.length)).sum();
        // A bad key is reported when a message comes for it, as hardware does.
        let _ = inner.receives.resolve(slot, wr.sges, self.pd.id(), proto::Access::LOCAL_WRITE);
        if let Some((device, _)) = on_device(inner.receives.region(slot)) {
            self.want_lane(inner, device, RECEIVES);
        }
        inner.engine.post_recv(wr.id, u32::try_from(len).unwrap_or(u32::MAX)).is_some()
    }

    /// Nobody is to find what has completed and not been polled.
    pub(crate) fn discard_completions(&self) {
        self.send_cq.discard(self.qpn);
        self.recv_cq.discard(self.qpn);
    }

    /// Posts a receive whose message stays where it comes, for memory like that of `region`.
    pub(crate) fn post_recv_in_place(&self, inner: &mut Inner, id: u64, len: u32, region: &Arc<Region>) -> bool {
        if self.recv_room(inner) == 0 {
            return false;
        }
        let slot = inner.engine.next_recv_slot() as usize;
        inner.receives.set_in_place(slot, id, region);
        if let Some((device, _)) = on_device(Some(region)) {
            self.want_lane(inner, device, RECEIVES);
        }
        inner.engine.post_recv(id, len).is_some()
    }

    /// After posting sends: an idle pipe gets them at once, unless more are expected; else they gather, and go out with
    /// others when the peer has answered, when the application polls, or when enough has gathered.
    #[inline]
    pub(crate) fn after_post(self: &Arc<Self>, inner: &mut Inner) {
        let idle = inner.engine.in_flight() == 0;
        let blocked = inner.is_blocked();
        let now = inner.has_gathered() || (idle && !self.expects_more(inner));
        if inner.engine.has_failed() || (now && !blocked && !self.has_to_begin(inner)) {
            self.flush(inner);
        } else if now && !blocked && self.progress.may_begin() {
            self.begin(inner, true);
        } else if !blocked {
            self.list(inner);
        }
        self.mind_deadlines(inner);
    }

    /// Whether what it sends next begins a turn.
    fn has_to_begin(&self, inner: &Inner) -> bool {
        inner.link.as_ref().is_some_and(|link| link.has_to_begin(&inner.engine))
    }

    /// It is its turn, and there may be `room`.
    pub(super) fn begin(self: &Arc<Self>, inner: &mut Inner, room: bool) {
        if let Some(link) = &mut inner.link {
            link.open_window(&mut inner.engine, room);
        }
        self.flush_all(inner, true);
        if let Some(link) = &inner.link {
            link.narrow_window(&mut inner.engine);
            if inner.engine.on_way() > 0 && !std::mem::replace(&mut inner.counted, true) {
                self.progress.began(self);
            }
        }
    }

    /// Requests are left for a later turn of the progress engine.
    fn list(self: &Arc<Self>, inner: &mut Inner) {
        if self.has_to_begin(inner) {
            self.wait(inner);
        } else {
            self.progress.list(self);
        }
    }

    /// Its requests wait for its turn.
    fn wait(self: &Arc<Self>, inner: &mut Inner) {
        if let Some(link) = &mut inner.link {
            link.gate(&mut inner.engine, false);
        }
        self.progress.wait(self);
    }

    /// Requests have been posted to an idle pipe: whether they may wait for those that the program is about to post.
    /// They wait for its next poll; if that does not come, for the end of the progress thread's nap.
    fn expects_more(self: &Arc<Self>, inner: &mut Inner) -> bool {
        if !self.is_listed() {
            let many = std::mem::take(&mut inner.burst) >= BURST;
            inner.bursts = if many { inner.bursts.saturating_add(1) } else { 0 };
        }
        inner.bursts >= BURSTS && inner.unsent_bytes <= BURST_BYTES && self.progress.list_if_awake(self)
    }

    /// Sees to it that the thread looks at the deadlines that run.
    #[inline]
    fn mind_deadlines(self: &Arc<Self>, inner: &mut Inner) {
        if !inner.engine.has_rnr_deadline() {
            inner.starved = false;
        } else if !inner.starved {
            // A receiver-not-ready deadline is much shorter than the one that may be set already.
            inner.starved = true;
            inner.timer = None;
        }
        if inner.timer.is_none() && inner.engine.wants_tick() {
            self.start_timer(inner);
        }
    }

    /// After posting receives: a peer that waits for one is told at once.
    #[inline]
    pub(crate) fn after_post_recv(self: &Arc<Self>, inner: &mut Inner) {
        if inner.engine.has_failed() || inner.engine.need() == Need::Now {
            self.flush(inner);
        }
    }

    /// Sends what may be sent, and completes what is complete.
    pub(crate) fn flush(self: &Arc<Self>, inner: &mut Inner) {
        self.flush_all(inner, false);
        if inner.engine.unsent() > 0 && !inner.is_blocked() && self.has_to_begin(inner) {
            self.wait(inner);
        }
    }

    /// As [`flush`](Self::flush), also requests that begin a turn if it `begins`, and waits for none.
    pub(super) fn flush_all(self: &Arc<Self>, inner: &mut Inner, begins: bool) {
        let flown = inner.engine.flown();
        let (open, mut gone) = (!inner.has_failed(), false);
        let flushed = self.try_flush(inner, begins, &mut gone);
        if open && gone {
            self.report_refusal(inner, Refusal::Access);
        }
        if let Err(e) = flushed {
            tracing::debug!(qpn = self.qpn, error = %e, "the stream broke while sending");
            // Half a frame is out: there is no way to go on.
            if e.raw_os_error() == Some(libc::EFAULT) {
                inner.engine.fail(Some(Status::LocProt));
                self.lose(inner);
            } else if e.raw_os_error() == Some(libc::EKEYREVOKED) {
                if !inner.has_failed() {
                    self.refuse(inner, Refusal::Access);
                }
                self.lose(inner);
            } else if let Some(link) = &mut inner.link {
                // What the peer said before may still wait to be read; the end of the stream follows it, as it does ours.
                link.broken = true;
                link.stream.finish();
                if let Some(batch) = link.batch.take() {
                    self.progress.batches().give(batch);
                }
            }
        }
        if let Some(link) = &inner.link {
            self.progress.count(link.counts(inner.engine.flown() - flown));
        }
        self.mind_deadlines(inner);
        self.settle(inner);
    }

    /// Whether requests that gather may wait for another turn; once for each call that says so.
    pub(super) fn may_wait(&self, inner: &mut Inner) -> bool {
        let may = inner.brought && inner.patience > 0 && inner.engine.in_flight() > 0;
        inner.patience -= u32::from(may);
        may
    }

    /// Sets `gone` if memory that the peer reads was no longer there.
    fn try_flush(&self, inner: &mut Inner, begins: bool, gone: &mut bool) -> io::Result<()> {
        let Inner { engine, link, sends, reads, traffic, peer, .. } = inner;
        let Some(link) = link.as_mut().filter(|link| !link.broken) else {
            engine.set_closed(false);
            engine.transmit(&mut Nowhere);
            return Ok(());
        };
        let ifindex = peer.map_or(0, |peer| peer.ifindex);
        link.gate(engine, begins);
        let mut batches = 0;
        loop {
            let batch = link.batch.get_or_insert_with(|| self.progress.batches().take());
            // What waited for the socket was filled before; there may be more by now.
            let mut more = true;
            if batch.is_empty() {
                let lane = link.lane_out.as_ref();
                let answers_by_lane = link.lane_in.as_ref().is_some_and(LaneIn::is_ready);
                let bindings = link.stream.is_of_tcp().then_some(&self.progress.bindings);
                let pd = self.pd.id();
                engine.transmit(&mut Filler {
                    batch,
                    sends,
                    reads,
                    traffic,
                    pd,
                    lane,
                    answers_by_lane,
                    bindings,
                    ifindex,
                    gone,
                });
                if batch.is_empty() {
                    // There was no more to send after a rest.
                    link.rest(Wait::Nothing, self.progress.epoll(), self.token())?;
                    break;
                }
                more = !batch.has_room();
            }
            if batch.len() >= LONG {
                self.progress.goes_on();
            }
            match link.flush(traffic, self.progress.epoll(), self.token())? {
                Flushed::All => {
                    engine.on_flushed();
                    if !more {
                        break;
                    }
                    batches += 1;
                    if batches == BATCHES {
                        return link.rest(Wait::Room, self.progress.epoll(), self.token());
                    }
                }
                Flushed::Blocked => return Ok(()),
                // Memory was deregistered while the peer read it.
                Flushed::Revoked => return Err(io::Error::from_raw_os_error(libc::EKEYREVOKED)),
            }
        }
        if let Some(batch) = link.batch.take() {
            self.progress.batches().give(batch);
        }
        link.mind_window(engine, self.progress, self.progress.visits.any_waiting());
        (inner.unsent_bytes, inner.patience) = (0, PATIENCE);
        if engine.has_said_goodbye() && !link.finished {
            link.finished = true;
            link.stream.finish();
        }
        Ok(())
    }

    /// What `dmverbs top` shows.
    pub(super) fn report_traffic(&self) -> QpReport {
        let inner = self.lock();
        QpReport {
            qpn: self.qpn,
            device: self.pd.context().device().name().to_owned(),
            peer: inner.peer.map(|peer| (peer.remote_gid.ip().to_string(), peer.remote_qpn)),
            connected: inner.link.is_some(),
            traffic: inner.traffic,
        }
    }

    pub(super) fn report(&self, event: AsyncEvent) {
        self.pd.context().events().push(event);
    }

    /// Receives what has come, up to a budget, and answers it. True if anything moved.
    pub(super) fn service(self: &Arc<Self>, inner: &mut Inner, staging: &mut Staging, iovs: &mut Vec<Iov>) -> Serviced {
        let mut serviced = Serviced::default();
        let Some(link) = &inner.link else { return serviced };
        let _uncancelled = link.has_lanes().then(Uncancelled::begin);
        if link.has_lanes() {
            serviced.moved = self.try_lane(inner, staging.lane());
            self.take_notices(inner);
        }
        loop {
            match self.receive(inner, staging, iovs) {
                Ok(Received::Nothing) => break,
                Ok(Received::Some { drained }) => {
                    serviced.moved = true;
                    if inner.engine.need() == Need::Now || (!drained && inner.engine.unsent() > 0) {
                        self.flush(inner);
                    }
                    serviced.turns += 1;
                    // What is held back is in no socket, so that nobody would be told of it.
                    let held = inner.link.as_ref().is_some_and(|link| link.inbox.holds());
                    if drained || (serviced.turns >= TURNS && !held) {
                        break;
                    }
                }
                Ok(Received::End) => {
                    self.lose(inner);
                    serviced.moved = true;
                    break;
                }
                Err(e) => {
                    tracing::debug!(qpn = self.qpn, error = %e, "the stream broke while receiving");
                    self.lose(inner);
                    serviced.moved = true;
                    break;
                }
            }
        }
        self.pay_lane(inner);
        inner.mind_followed(false);
        inner.brought = serviced.moved;
        // A lane may have had something to say of which the stream brought nothing.
        let says = inner.engine.need() == Need::Now && !inner.is_blocked();
        if inner.engine.has_failed() || says {
            self.flush(inner);
        } else {
            if inner.engine.unsent() > 0 && !inner.is_blocked() {
                self.list(inner);
            }
            if serviced.moved {
                self.settle(inner);
            }
        }
        serviced.owes_ack = inner.engine.need() == Need::Lazy;
        serviced
    }

    /// Somebody reads the stream all the time: epoll need not watch it.
    pub(super) fn hide(&self, inner: &mut Inner) {
        if let Some(link) = inner.link.as_mut().filter(|link| !link.has_lanes()) {
            link.stream.hide(self.progress.epoll());
        }
    }

    /// Epoll has to watch the stream again.
    pub(super) fn show(self: &Arc<Self>, inner: &mut Inner) {
        let Some(link) = &mut inner.link else { return };
        if let Err(e) = link.stream.show(self.progress.epoll(), self.token()) {
            tracing::error!(qpn = self.qpn, error = %e, "the stream cannot be watched");
            self.lose(inner);
            self.flush(inner);
        }
    }

    /// The socket takes bytes again.
    pub(super) fn on_writable(self: &Arc<Self>, inner: &mut Inner) {
        // The peer reads: it may be slow, but it is there.
        inner.engine.on_moved();
        self.flush(inner);
    }

    /// The handshake is done: `theirs` came over `stream`, and ours told of `told` receives.
    pub(super) fn attach(
        self: &Arc<Self>,
        inner: &mut Inner,
        stream: Stream,
        theirs: &Hello,
        told: u32,
    ) -> io::Result<()> {
        stream.register(self.progress.epoll(), self.token())?;
        let share = Share::of(self.progress, Path::default());
        inner.engine.set_window(share.window);
        inner.link = Some(Link::new(stream, share));
        if let Err(fatal) = inner.engine.connect(theirs, told) {
            self.break_off(inner, &fatal.to_string());
        }
        self.flush(inner);
        Ok(())
    }

    pub(crate) fn want_drained(self: &Arc<Self>, inner: &mut Inner) {
        inner.drained_wanted = true;
        self.settle(inner);
    }

    /// What goes on is not awaited to be drained.
    pub(crate) fn forget_drained(&self, inner: &mut Inner) {
        inner.drained_wanted = false;
    }

    /// Deadlines that run are looked at anew.
    pub(crate) fn set_timing(self: &Arc<Self>, inner: &mut Inner, timing: proto::Timing) {
        inner.engine.set_timing(timing);
        inner.timer = None;
        self.mind_deadlines(inner);
    }

    /// The peer is told.
    pub(crate) fn set_rnr_timer(self: &Arc<Self>, timer: Tick) {
        let mut inner = self.lock();
        inner.engine.set_rnr_timer(timer);
        self.flush(&mut inner);
    }

    fn start_timer(self: &Arc<Self>, inner: &mut Inner) {
        let now = crate::sys::time::now();
        inner.timer = Some(now);
        self.progress.start_timer(now, self);
    }

    /// The timer has gone off; gives when it next does.
    pub(super) fn on_timer(self: &Arc<Self>, now: Tick) -> Option<Tick> {
        let mut inner = self.lock();
        if inner.timer.is_some() {
            inner.timer = inner.engine.on_tick(now);
            if inner.engine.has_failed() {
                self.flush(&mut inner);
            }
        }
        let lane = self.on_lane_timer(&mut inner);
        inner.timer.into_iter().chain(lane).min()
    }

    pub(super) fn mark_listed(&self) -> bool {
        !self.listed.load(Ordering::Acquire) && !self.listed.swap(true, Ordering::AcqRel)
    }

    pub(super) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    pub(super) fn unmark_listed(&self) {
        self.listed.store(false, Ordering::Release);
    }

    pub(super) fn token(&self) -> u64 {
        u64::from(self.qpn)
    }

    pub(crate) fn invalidate(pd: mem::PdId, key: u32) -> bool {
        match mem::keys().lookup(key) {
            Some(region) if region.pd() == pd => region.revoke(),
            _ => false,
        }
    }
}

/// What [`Conn::service`] did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Serviced {
    pub(super) moved: bool,
    pub(super) owes_ack: bool,
    turns: u32,
}

/// Reads from one connection before others get their turn.
const TURNS: u32 = 16;

/// How many requests gather, of a queue of so many: a little more than half, so that the peer works on these while the
/// others are posted. Of perftest's 128, of which one in a hundred completes, that one is then among the first part.
fn gather(send_wr: usize) -> usize {
    (send_wr * 9 / 16).clamp(GATHER_REQUESTS.0, GATHER_REQUESTS.1)
}

fn limits(cap: &QpCap) -> proto::Limits {
    proto::Limits { send_wr: cap.send_wr as usize, recv_wr: cap.recv_wr as usize }
}

impl Inner {
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Requests are taken. Those of a QP that has failed are flushed.
    pub(crate) fn takes_sends(&self) -> bool {
        self.phase == Phase::Send || self.engine.has_failed()
    }

    pub(crate) fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
    }

    pub(crate) fn set_access(&mut self, access: proto::Access) {
        self.access = access;
    }

    /// Whom it has met, or is to meet.
    pub(crate) fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Whom to meet; the socket takes the place that was kept for it.
    pub(crate) fn set_peer(&mut self, peer: Option<Peer>) {
        self.peer = peer;
        self.place = None;
    }

    /// The oldest complete message that has not been taken.
    pub(crate) fn take_message(&mut self) -> Option<Taken> {
        self.messages.take()
    }

    /// Gives the memory of a message back; false if none that is taken has this handle.
    pub(crate) fn return_message(&mut self, handle: u64) -> bool {
        self.messages.give_back(handle, &mut self.traffic)
    }

    /// Gives the memory of all messages back.
    pub(crate) fn return_messages(&mut self) {
        self.messages.clear();
    }

    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.engine.set_paused(paused);
    }

    /// Lets go of regions that are no longer live.
    pub(crate) fn forget_revoked(&mut self) {
        self.named.take_if(|region| !region.is_live());
        self.sends.forget_revoked();
        self.receives.forget_revoked();
        if let Some(link) = &mut self.link {
            link.inbox.forget_revoked();
        }
        for answer in &mut self.reads {
            answer.take_if(|answer| !answer.memory.is_live());
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.engine.has_failed()
    }

    /// Whether every request that was begun has been executed.
    pub(crate) fn is_drained(&self) -> bool {
        self.engine.is_drained()
    }

    /// Whether there is enough to be worth a system call.
    fn has_gathered(&self) -> bool {
        let (requests, bytes) = (self.engine.unsent(), self.unsent_bytes);
        let enough =
            requests >= self.gather || bytes >= GATHER_BYTES || (requests >= GATHER_BOTH.0 && bytes >= GATHER_BOTH.1);
        enough && !self.engine.is_full()
    }

    /// Whether the peer should hear of progress, or of a failure.
    pub(super) fn owes_ack(&self) -> bool {
        self.engine.need() != Need::Nothing
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_blocked)
    }

    /// What counts of the payload that the peer has not acknowledged: nothing if it is too `old`. Then it counts no more.
    pub(super) fn count(&mut self, old: bool) -> u64 {
        let counts = self.link.as_ref().filter(|_| !old).map_or(0, |link| link.counts(self.engine.on_way()));
        self.counted = counts > 0;
        counts
    }

    /// Whether nothing is on its way of what may take turns.
    pub(super) fn is_home(&self) -> bool {
        self.engine.on_way() == 0
    }

    pub(crate) fn is_linked(&self) -> bool {
        self.link.is_some()
    }
}
