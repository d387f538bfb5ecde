//! Lanes (WIRE §8): streams of bare payload, which the receiver has had steered into the memory of a device.
//!
//! Whoever would have payload on a lane offers a port; the sender connects to it, and sends there what the receiver
//! then looks at: only if it came in the device's memory may the lane be used. Until then, and whenever a lane cannot
//! be had, payload comes in-band.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::Arc;

use dmverbs_proto::{Frame, Note, Op, PROBE_LEN, Tick, probe};

use super::conn::{Conn, Inner};
use super::lanes::PAUSE;
use super::link::Link;
use super::receive::Received;
use super::{LANE_IN, LANE_OUT, LANE_PAST};
use crate::config::Devmem;
use crate::mem::{Kind, Region};
use crate::object::Traffic;
use crate::sys::cancel::Uncancelled;
use crate::sys::devmem::{self, Landing, Piece};
use crate::sys::epoll::{Epoll, Event, Interest};
use crate::sys::socket::{self, Socket};
use crate::sys::{random, time};
use crate::transport::{Batch, Ending, Intake, Notices, Receiver, Stream, Wait};

/// A lane to the peer.
#[derive(Debug)]
pub(super) struct LaneOut {
    pub(super) stream: Stream,
    pub(super) notices: Notices,
    state: Out,
    /// When the connection was begun.
    begun: Tick,
    challenge: u64,
    /// What the peer would have here.
    keys: Keys,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Out {
    Connecting,
    /// The peer looks at what came.
    Tried,
    Ready,
}

/// A lane from the peer.
#[derive(Debug)]
pub(super) struct LaneIn {
    receiver: Arc<Receiver>,
    challenge: u64,
    /// What the peer has been told of.
    keys: Keys,
    stream: Option<Arc<dyn Intake>>,
    state: In,
    /// What has been put into its place, and not given back yet.
    owed: Vec<Piece>,
    /// When it was last looked whether its queue is gone.
    looked: Tick,
    /// When the peer is told of it again if it has not come by then, and how long after that.
    again: (Tick, Tick),
    /// Bytes read of it.
    read: u64,
    early: Early,
    /// Epoll does not tell of what comes.
    deaf: bool,
}

/// What has come before a frame has announced it.
#[derive(Clone, Copy, Debug, Default)]
struct Early {
    /// Since when there is some, and when that was last seen.
    since: Tick,
    seen: Tick,
    /// What had come then has been read when so many bytes have.
    until: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum In {
    Offered,
    /// So many bytes of the probe have come.
    Tried(usize),
    Ready,
}

/// What has been offered: keys of the receiver's regions, 0 for its receives. As offers come in order, both sides of a lane
/// know the same (WIRE §8.1).
#[derive(Debug, Default)]
struct Keys(HashSet<u32>);

/// With one more, all others are forgotten.
const KEYS: usize = 4096;
/// A peer that has not come, or whose probe did not arrive as it should, is told of a lane again after [`PAUSE`], then after
/// twice as long, and so on up to this.
const AGAIN_LAST: Tick = 64_000_000_000;
/// What comes on a lane before a frame has announced it may wait so long for that, at least and at most: the frame's stream
/// has a path and retransmissions of its own. It is seen all the while, first as epoll tells of it again and again, then by
/// a timer: if it was not seen for `EARLY_GAP`, it was read, or this process was stopped.
const EARLY_TIME: RangeInclusive<Tick> = 5_000_000_000..=40_000_000_000;
const EARLY_GAP: Tick = 500_000_000;
const EARLY_BY_EPOLL: Tick = 1_000_000;

/// As long as a QP with this budget would wait for its peer otherwise.
fn early_time(retry: Option<Tick>) -> Tick {
    retry.unwrap_or(Tick::MAX).clamp(*EARLY_TIME.start(), *EARLY_TIME.end())
}

impl Keys {
    /// False if it is known already.
    fn insert(&mut self, key: u32) -> bool {
        if self.0.len() >= KEYS && !self.0.contains(&key) {
            self.0.clear();
        }
        self.0.insert(key)
    }
}

impl LaneOut {
    /// Whether the peer would have this frame's payload here, and can.
    pub(super) fn takes(&self, frame: &Frame) -> bool {
        let key = match frame.op {
            Op::Write => frame.rkey,
            Op::Send => 0,
            _ => return false,
        };
        self.is_ready() && self.keys.0.contains(&key)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state == Out::Ready
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.is_ready() && self.stream.is_blocked()
    }
}

impl LaneIn {
    /// Whether nothing can come of it: it has not become ready, and its queue is gone. Looked at now and then.
    fn is_hopeless(&mut self, now: Tick) -> bool {
        if self.is_ready() || now < self.looked + PAUSE {
            return false;
        }
        self.looked = now;
        !self.receiver.is_live()
    }

    /// Whether the peer is to be told of it again.
    fn is_due(&mut self, now: Tick) -> bool {
        let (at, pause) = self.again;
        if self.stream.is_some() || now < at {
            return false;
        }
        self.again = (now + pause, (pause * 2).min(AGAIN_LAST));
        true
    }

    /// What the peer is told, for all keys.
    fn offers(&self) -> impl Iterator<Item = Note> {
        self.keys.0.iter().map(|&rkey| self.offer(rkey))
    }

    fn offer(&self, rkey: u32) -> Note {
        Note::Offer { port: self.receiver.port(), rkey, challenge: self.challenge }
    }

    /// Whether the peer may be asked for payload here.
    pub(super) fn is_ready(&self) -> bool {
        self.state == In::Ready
    }

    pub(super) fn stream(&self) -> Option<&Arc<dyn Intake>> {
        self.stream.as_ref()
    }
}

impl Conn {
    /// Payload for a device has come, or will come, in-band: the peer hears that there is a better way.
    pub(super) fn want_lane(&self, inner: &mut Inner, device: Kind, key: u32) {
        let _uncancelled = Uncancelled::begin();
        self.renew_lane(inner);
        let (Some(link), Some(peer)) = (&mut inner.link, inner.peer) else { return };
        if inner.engine.unsaid() > KEYS {
            // The peer does not read.
            return;
        }
        let now = time::now();
        if let Some(lane) = link.lane_in.take_if(|lane| lane.is_hopeless(now)) {
            lane.close(self.progress.epoll());
        }
        if link.lane_in.is_none() {
            let Some(receiver) = self.progress.lanes.queue(self.progress, peer.ifindex, device) else { return };
            link.lane_in = LaneIn::over(receiver);
        }
        let Some(lane) = link.next_in.as_mut().or(link.lane_in.as_mut()) else { return };
        if !lane.receiver.serves(peer.ifindex, device) {
            return;
        }
        if lane.keys.insert(key) {
            inner.engine.say(lane.offer(key));
        } else if lane.is_due(now) {
            lane.offers().for_each(|offer| inner.engine.say(offer));
        }
    }

    /// If the queue of the lane in use is gone, and there is another, the peer is offered a lane to that.
    fn renew_lane(&self, inner: &mut Inner) {
        let (Some(link), Some(peer)) = (&mut inner.link, inner.peer) else { return };
        if inner.engine.unsaid() > KEYS {
            return;
        }
        let now = time::now();
        let Some(lane) = link.lane_in.as_mut().filter(|lane| lane.is_ready()) else { return };
        if let Some(next) = link.next_in.take_if(|next| next.is_hopeless(now)) {
            lane.keys = next.keys;
        }
        if let Some(next) = &mut link.next_in {
            if next.is_due(now) {
                next.offers().for_each(|offer| inner.engine.say(offer));
            }
            return;
        }
        if now < lane.looked + PAUSE {
            return;
        }
        lane.looked = now;
        if lane.receiver.is_live() {
            return;
        }
        let kind = lane.receiver.memory().0.kind();
        let Some(receiver) = self.progress.lanes.queue(self.progress, peer.ifindex, kind) else { return };
        let Some(mut next) = LaneIn::over(receiver) else { return };
        tracing::info!(qpn = self.qpn, "the queue of a lane is gone; the peer is offered another");
        next.keys = std::mem::take(&mut lane.keys);
        next.offers().for_each(|offer| inner.engine.say(offer));
        link.next_in = Some(next);
    }

    /// The peer's driver has said something.
    pub(super) fn on_note(self: &Arc<Self>, inner: &mut Inner, note: Note) {
        let _uncancelled = Uncancelled::begin();
        match note {
            Note::Offer { port, rkey, challenge } => {
                if let Err(e) = self.on_offer(inner, port, rkey, challenge) {
                    tracing::info!(qpn = self.qpn, error = %e, "no lane to the peer");
                }
            }
            Note::Open { from } => {
                let (Some(link), Some(peer)) = (&mut inner.link, inner.peer) else { return };
                if let Some(next) = link.next_in.take() {
                    // All that the peer sent on the lane before has come.
                    if let Some(lane) = link.lane_in.replace(next) {
                        lane.close(self.progress.epoll());
                    }
                }
                if link.lane_in.is_none() {
                    return;
                }
                let from = SocketAddr::new(peer.remote_gid.ip(), from);
                if let Some(socket) = self.progress.lanes.meet(self, from) {
                    self.take_lane(inner, socket);
                }
            }
            Note::Ready => {
                let Some(link) = &mut inner.link else { return };
                // Before it has heard of the lane, and of all that is on the one before, no peer says this.
                let told = !link.batch.as_deref().is_some_and(Batch::wants_lane);
                if let Some(lane) = link.lane_out.as_mut().filter(|lane| told && lane.state == Out::Tried) {
                    tracing::debug!(qpn = self.qpn, "a lane to the peer");
                    lane.state = Out::Ready;
                    // All of them follow, and the two sides forget together.
                    lane.keys = Keys::default();
                    link.close_past(self.progress.epoll());
                }
            }
        }
    }

    fn on_offer(&self, inner: &mut Inner, port: u16, rkey: u32, challenge: u64) -> io::Result<()> {
        let (Some(link), Some(peer)) = (&mut inner.link, inner.peer) else { return Ok(()) };
        if self.progress.lanes.devmem == Devmem::Off {
            return Ok(());
        }
        if let Some(mut lane) = link.lane_out.take_if(|lane| lane.challenge != challenge) {
            // Another, in its place.
            if !lane.is_ready() && time::now() < lane.begun + PAUSE / 2 {
                // Each costs a port. An offer is a wish, and is told again.
                link.lane_out = Some(lane);
                return Ok(());
            } else if !lane.is_ready() {
                lane.stream.deregister(self.progress.epoll());
            } else if link.past_out.is_some() {
                // One at a time: an offer is a wish.
                link.lane_out = Some(lane);
                return Ok(());
            } else {
                // It carries what has been announced already, and no more.
                lane.stream.set_token(self.progress.epoll(), self.lane_token(LANE_PAST))?;
                link.past_out = Some(lane);
            }
        }
        if link.lane_out.is_none() {
            // The kernel sends from device memory only by the interface that it is bound to, whatever routes prefer.
            let socket = socket::connect(peer.address(port), Some(peer.local_gid.ip()), Some(peer.ifindex))?;
            socket::keep_alive(socket.as_fd())?;
            socket::traffic_class(socket.as_fd(), peer.traffic_class);
            devmem::enable_zerocopy(socket.as_fd())?;
            let mut stream = Stream::duplex(socket);
            stream.register(self.progress.epoll(), self.lane_token(LANE_OUT))?;
            // Nothing comes from there; that it has ended shows when something is sent.
            stream.set_deaf(true, self.progress.epoll(), self.lane_token(LANE_OUT))?;
            stream.set_wait(Wait::Room, self.progress.epoll(), self.lane_token(LANE_OUT))?;
            link.lane_out = Some(LaneOut {
                stream,
                notices: Notices::default(),
                state: Out::Connecting,
                begun: time::now(),
                challenge,
                keys: Keys::default(),
            });
        }
        if let Some(lane) = &mut link.lane_out {
            lane.keys.insert(rkey);
        }
        Ok(())
    }

    /// The connection has ended, and with it its lanes.
    pub(super) fn lose_lanes(self: &Arc<Self>, link: &mut Link) {
        for lane in [&link.lane_out, &link.past_out].into_iter().flatten() {
            lane.stream.deregister(self.progress.epoll());
        }
        self.progress.lanes.forget(self);
        if let Some(lane) = &link.lane_in {
            lane.close(self.progress.epoll());
        }
    }

    fn lane_token(&self, kind: u64) -> u64 {
        kind | self.token()
    }

    /// Something happened on the lane to the peer.
    pub(super) fn on_lane_out(self: &Arc<Self>, inner: &mut Inner, event: &Event) {
        let Some(lane) = inner.link.as_mut().and_then(|link| link.lane_out.as_mut()) else { return };
        if lane.state != Out::Connecting {
            if event.is_dead() {
                return self.on_dead_lane(inner);
            }
            self.take_notices(inner);
            if event.is_writable() {
                inner.engine.on_moved();
                self.flush(inner);
            }
            return;
        }
        match self.connected(lane) {
            Ok(None) => {}
            Ok(Some(from)) => {
                inner.engine.say(Note::Open { from });
                self.flush(inner);
            }
            Err(e) => {
                tracing::info!(qpn = self.qpn, error = %e, "no lane to the peer");
                if let Some(link) = &mut inner.link {
                    link.lane_out = None;
                }
            }
        }
    }

    /// The lane to the peer is gone: with it what was on its way there, if it was in use.
    fn on_dead_lane(self: &Arc<Self>, inner: &mut Inner) {
        let Some(link) = &mut inner.link else { return };
        if link.lane_out.as_ref().is_some_and(LaneOut::is_ready) {
            tracing::debug!(qpn = self.qpn, "a lane broke");
            self.lose(inner);
        } else if let Some(lane) = link.lane_out.take() {
            lane.stream.deregister(self.progress.epoll());
        }
    }

    /// Something happened on the lane from the peer: how it ends is seen here, what it brings by `service`.
    pub(super) fn on_lane_in(self: &Arc<Self>, inner: &mut Inner, ending: Ending) {
        let Some(stream) = inner.lane_stream() else { return };
        match ending {
            Ending::Dead => self.lose(inner),
            // The end itself is read when a frame wants more.
            Ending::Ended => {
                if let Err(e) = self.progress.epoll().modify(stream.as_fd(), self.lane_token(LANE_IN), Interest::NONE) {
                    tracing::warn!(qpn = self.qpn, error = %e, "a lane that has ended is still waited for");
                }
            }
            Ending::Open => {
                self.mind_early(inner);
            }
        }
    }

    /// The lane has something to read: if no frame has announced it, the peer has to do so in time, for what is not read
    /// takes memory of the queue. Gives when to look again, if epoll does not tell.
    fn mind_early(self: &Arc<Self>, inner: &mut Inner) -> Option<Tick> {
        let link = inner.link.as_mut().filter(|link| !link.inbox.waits_for_lane())?;
        // Of one that has failed all is read, and dropped.
        let lane = link.lane_in.as_mut().filter(|lane| lane.is_ready() && !inner.engine.has_failed())?;
        let now = time::now();
        if now > lane.early.seen + EARLY_GAP {
            let waiting = lane.stream.as_ref().map_or(0, |stream| stream.unread());
            lane.early = Early { since: now, seen: now, until: lane.read + waiting as u64 };
        }
        lane.early.seen = now;
        if now > lane.early.since + early_time(inner.engine.retry_budget()) {
            self.break_off(inner, "sends on a lane what no frame announces");
            self.flush(inner);
            return None;
        }
        if now < lane.early.since + EARLY_BY_EPOLL {
            return None;
        }
        let again = now + EARLY_GAP / 2;
        if !lane.deaf {
            lane.set_deaf(true, self.progress.epoll(), self.lane_token(LANE_IN));
            self.progress.start_timer(again, self);
        }
        Some(again)
    }

    /// The timer has gone off; gives when it is to again.
    pub(super) fn on_lane_timer(self: &Arc<Self>, inner: &mut Inner) -> Option<Tick> {
        inner.link.as_ref()?.lane_in.as_ref().filter(|lane| lane.deaf)?;
        let again = self.mind_early(inner);
        if again.is_none() {
            self.hear_lane(inner);
        }
        again
    }

    /// Epoll tells of what the lane from the peer brings.
    pub(super) fn hear_lane(&self, inner: &mut Inner) {
        if let Some(lane) = inner.link.as_mut().and_then(|link| link.lane_in.as_mut()) {
            lane.set_deaf(false, self.progress.epoll(), self.lane_token(LANE_IN));
        }
    }

    /// Something happened on the lane to the peer that another has taken the place of.
    pub(super) fn on_past_lane(self: &Arc<Self>, inner: &mut Inner, event: &Event) {
        self.take_notices(inner);
        if event.is_dead() {
            return self.on_dead_past(inner);
        }
        if event.is_writable() {
            inner.engine.on_moved();
            self.flush(inner);
        }
    }

    /// Nothing more can be sent on the lane that another has taken the place of; nothing may be left to be.
    fn on_dead_past(self: &Arc<Self>, inner: &mut Inner) {
        let Some(link) = &mut inner.link else { return };
        if link.broken || link.batch.as_deref().is_some_and(Batch::wants_lane) {
            tracing::debug!(qpn = self.qpn, "a lane broke");
            self.lose(inner);
        } else if let Some(past) = link.past_out.take_if(|past| !past.notices.is_waiting()) {
            // Of one with notices to come epoll tells again.
            past.stream.deregister(self.progress.epoll());
        }
    }

    /// Sends the probe once the lane is connected; gives the port that it comes from.
    fn connected(&self, lane: &mut LaneOut) -> io::Result<Option<u16>> {
        let socket = lane.stream.tx();
        if !socket::finish_connect(socket)? {
            return Ok(None);
        }
        // The socket is fresh: the probe fits its buffer, or the socket is of no use.
        if socket::send(socket, &probe(lane.challenge))? != PROBE_LEN {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let from = socket::local_address(socket)?.port();
        lane.stream.set_wait(Wait::Nothing, self.progress.epoll(), self.lane_token(LANE_OUT))?;
        lane.state = Out::Tried;
        Ok(Some(from))
    }

    /// The peer's connection to the port that it was offered.
    pub(super) fn take_lane(self: &Arc<Self>, inner: &mut Inner, socket: Socket) {
        let Some(lane) = inner.link.as_mut().and_then(|link| link.lane_in.as_mut()) else { return };
        if lane.stream.is_some() {
            return;
        }
        let ready = socket::keep_alive(socket.as_fd()).and_then(|()| {
            let stream = lane.receiver.intake(socket)?;
            self.progress.epoll().add(stream.as_fd(), self.lane_token(LANE_IN), Interest::READ_OR_END)?;
            Ok(stream)
        });
        match ready {
            Ok(stream) => (lane.stream, lane.state) = (Some(stream), In::Tried(0)),
            Err(e) => tracing::warn!(qpn = self.qpn, error = %e, "a lane cannot be waited for"),
        }
    }

    /// Looks at what a lane begins with; true if something came.
    pub(super) fn try_lane(self: &Arc<Self>, inner: &mut Inner, landing: &mut Landing) -> bool {
        let Inner { engine, link, .. } = inner;
        let Some(lane) = link.as_mut().and_then(|link| link.lane_in.as_mut()) else { return false };
        let (Some(stream), In::Tried(have)) = (&lane.stream, lane.state) else { return false };
        match lane.prove(&**stream, have, landing) {
            Ok(n) => {
                lane.state = if have + n < PROBE_LEN { In::Tried(have + n) } else { In::Ready };
                if lane.state == In::Ready {
                    tracing::debug!(qpn = self.qpn, "a lane from the peer, into device memory");
                    engine.say(Note::Ready);
                    // The peer may have connected anew since it was told of the first.
                    lane.offers().for_each(|offer| engine.say(offer));
                }
                true
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            Err(e) => {
                tracing::warn!(qpn = self.qpn, error = %e, "a lane is of no use");
                (lane.stream, lane.state) = (None, In::Offered);
                // Another challenge, so that the peer connects anew when it is told again.
                lane.challenge = challenge().unwrap_or(lane.challenge);
                true
            }
        }
    }

    /// Reads once what the lane brings of the current frame's payload, and puts it into its place.
    pub(super) fn receive_lane(self: &Arc<Self>, inner: &mut Inner, landing: &mut Landing) -> io::Result<Received> {
        let Inner { engine, link, traffic, .. } = inner;
        let Some(link) = link else { return Ok(Received::Nothing) };
        let left = link.inbox.awaited();
        let Some((stream, lane)) = link.lane_in.as_mut().and_then(|lane| Some((lane.stream.clone()?, lane))) else {
            return Ok(Received::End);
        };
        let owed = std::mem::take(&mut lane.owed);
        let n = match stream.receive(&owed, landing, left, &mut traffic.token_returns) {
            Ok(0) => return Ok(Received::End),
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                // What waits in the control stream cannot be looked at, and is not to wake anybody.
                link.stream.set_deaf(true, self.progress.epoll(), self.token())?;
                return Ok(Received::Nothing);
            }
            Err(e) => return Err(e),
        };
        let receiver = lane.receiver.clone();
        lane.read += n as u64;
        if lane.read >= lane.early.until {
            lane.early = Early::default();
        }
        let heard = link.stream.set_deaf(false, self.progress.epoll(), self.token());
        if heard.is_err() {
            std::mem::swap(&mut lane.owed, &mut landing.pieces);
        }
        heard?;
        engine.on_moved();
        traffic.received += n as u64;
        traffic.lane_receives += 1;
        let placed = self.place_pieces(inner, &receiver, landing);
        if landing.pieces.iter().all(|piece| matches!(piece, Piece::Host { .. })) {
            self.renew_lane(inner);
        }
        // Whatever has become of them: but for pieces that were kept, the memory goes back to the queue.
        if let Some(lane) = inner.link.as_mut().and_then(|link| link.lane_in.as_mut()) {
            std::mem::swap(&mut lane.owed, &mut landing.pieces);
        }
        if placed {
            self.advance(inner, n);
        }
        Ok(Received::Some { drained: n < left.min(landing.bytes().len()) })
    }

    /// Nothing more is read now: what the queue is still owed goes back.
    pub(super) fn pay_lane(&self, inner: &mut Inner) {
        let Some(lane) = inner.link.as_mut().and_then(|link| link.lane_in.as_mut()) else { return };
        let owed = std::mem::take(&mut lane.owed);
        let Some(stream) = lane.stream.as_ref().filter(|_| !owed.is_empty()) else { return };
        match stream.give_back(&owed) {
            Ok(calls) => inner.traffic.token_returns += calls,
            Err(e) => tracing::warn!(qpn = self.qpn, error = %e, "memory does not go back to its queue"),
        }
    }

    /// Takes the news of memory that the kernel has done with.
    pub(super) fn take_notices(self: &Arc<Self>, inner: &mut Inner) {
        let Inner { engine, link, .. } = inner;
        let Some(link) = link else { return };
        let mut resumes = false;
        let mut released = false;
        let mut release = |slot| {
            released = true;
            engine.release(slot);
        };
        let lanes = [&mut link.lane_out, &mut link.past_out].into_iter().flatten();
        let lanes = lanes.map(|lane| (&lane.stream, &mut lane.notices));
        for (stream, notices) in std::iter::once((&link.stream, &mut link.notices)).chain(lanes) {
            if !notices.is_waiting() {
                continue;
            }
            if let Err(e) = notices.take(stream.tx(), &mut release) {
                tracing::debug!(error = %e, "a socket tells of no more notices");
            }
            resumes |= stream.waits_for(Wait::Notices);
        }
        link.close_past(self.progress.epoll());
        if resumes {
            self.flush(inner);
        } else if released {
            self.settle(inner);
        }
    }
}

impl LaneIn {
    /// One that has not been offered yet; nothing without a random number.
    fn over(receiver: Arc<Receiver>) -> Option<LaneIn> {
        Some(LaneIn {
            receiver,
            challenge: challenge()?,
            keys: Keys::default(),
            stream: None,
            state: In::Offered,
            owed: Vec::new(),
            looked: 0,
            again: (time::now() + PAUSE, 2 * PAUSE),
            read: 0,
            early: Early::default(),
            deaf: false,
        })
    }

    /// Whether epoll tells of what comes; of what breaks it, it always does.
    fn set_deaf(&mut self, deaf: bool, epoll: &Epoll, token: u64) {
        let Some(stream) = self.stream.as_ref().filter(|_| self.deaf != deaf) else { return };
        let interest = if deaf { Interest::NONE } else { Interest::READ_OR_END };
        match epoll.modify(stream.as_fd(), token, interest) {
            Ok(()) => self.deaf = deaf,
            Err(e) => tracing::warn!(error = %e, "a lane is waited for as before"),
        }
    }

    /// Reads once what it brings for nobody.
    pub(super) fn discard(&mut self, landing: &mut Landing, traffic: &mut Traffic) {
        let Some(stream) = &self.stream else { return };
        let owed = std::mem::take(&mut self.owed);
        let room = landing.bytes().len();
        // Its end, and what breaks it, are seen elsewhere.
        if stream.receive(&owed, landing, room, &mut traffic.token_returns).is_ok() {
            std::mem::swap(&mut self.owed, &mut landing.pieces);
        }
    }

    /// Nothing more is read of it.
    fn close(&self, epoll: &Epoll) {
        let Some(stream) = &self.stream else { return };
        let _ = epoll.delete(stream.as_fd());
        // Of one that is closed the kernel gives it back when the peer has acknowledged the end, or for minutes does not.
        let _ = stream.give_back(&self.owed);
        if Arc::strong_count(stream) > 1 {
            // A message keeps it open, but not what will never be read.
            stream.disconnect();
        }
    }

    /// Reads more of the probe, of which `have` bytes have come.
    fn prove(&self, stream: &dyn Intake, have: usize, landing: &mut Landing) -> io::Result<usize> {
        let n = stream.receive(&[], landing, PROBE_LEN - have, &mut 0)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (memory, binding) = self.receiver.memory();
        let mut bytes = Vec::with_capacity(n);
        let read = landing.pieces.iter().try_for_each(|piece| match *piece {
            Piece::Device { at, len, dmabuf, .. } if dmabuf == binding => memory.read(at, len as usize, &mut bytes),
            _ => Err(io::Error::other(self.receiver.astray(stream.as_fd()))),
        });
        stream.give_back(&landing.pieces)?;
        read?;
        if bytes != probe(self.challenge)[have..have + n] {
            return Err(io::Error::other("other bytes arrive than were sent"));
        }
        Ok(n)
    }
}

impl Link {
    /// Closes the lane that another has taken the place of, if the peer knows that, and the kernel has done with what
    /// was sent there.
    fn close_past(&mut self, epoll: &Epoll) {
        if self.lane_out.as_ref().is_some_and(LaneOut::is_ready)
            && let Some(past) = self.past_out.take_if(|past| !past.notices.is_waiting())
        {
            past.stream.deregister(epoll);
        }
    }
}

impl Inner {
    fn lane_stream(&self) -> Option<&Arc<dyn Intake>> {
        self.link.as_ref()?.lane_in.as_ref()?.stream()
    }

    /// Whether the lane from the peer is at its end.
    pub(super) fn lane_ending(&self, event: &Event) -> Ending {
        self.lane_stream().map_or(Ending::Open, |stream| stream.ending(event))
    }
}

fn challenge() -> Option<u64> {
    let mut bytes = [0; 8];
    random::fill(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// The kind of memory of `region`, and the key under which peers know it, if it is a device's.
pub(super) fn on_device(region: Option<&Arc<Region>>) -> Option<(Kind, u32)> {
    region.and_then(|region| Some((region.device()?.kind(), region.key())))
}

#[cfg(test)]
mod tests;
