//! One QP: requester and responder on one stream, with their errors and timers.

use alloc::collections::VecDeque;

use crate::Tick;
use crate::driver::{Incoming, Need, Refusal, Source, SourceGone, Transmit};
use crate::flow::Flow;
use crate::frame::{DecodeError, Flags, Frame, Op};
use crate::hello::Hello;
use crate::lane::Note;
use crate::requester::{Emitted, Requester};
use crate::responder::{Destination, Responder};
use crate::work::{Completion, Request, Status, Window};

/// Queue sizes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Send requests outstanding at most.
    pub send_wr: usize,
    /// Receives outstanding at most.
    pub recv_wr: usize,
}

/// How patient a QP is, and how much it asks at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Time without any progress after which the peer counts as lost; `None`: for ever.
    pub retry: Option<Tick>,
    /// Receiver-not-ready retries; 7: for ever.
    pub rnr_retry: u8,
    /// READs and atomics in flight as requester.
    pub max_rd_atomic: u8,
    /// READs and atomics accepted at a time as responder.
    pub max_dest_rd_atomic: u8,
}

/// Why a connection cannot go on: the peer broke the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fatal {
    /// Bytes that are no frame.
    Decode(DecodeError),
    /// A frame that cannot come here; the peer ….
    Sequence(&'static str),
}

impl core::fmt::Display for Fatal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Fatal::Decode(e) => e.fmt(f),
            Fatal::Sequence(what) => write!(f, "the peer {what}"),
        }
    }
}

impl From<DecodeError> for Fatal {
    fn from(e: DecodeError) -> Fatal {
        Fatal::Decode(e)
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// No connection yet: requests wait.
    Unconnected,
    Open,
    /// The peer has gone: the next request fails.
    Lost,
    /// Failed or closed: everything is flushed.
    Failed,
}

/// What of a frame still matters when its payload has come.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) op: Op,
    pub(crate) flags: Flags,
    pub(crate) len: u32,
    pub(crate) imm: u32,
}

impl Current {
    fn of(frame: &Frame) -> Current {
        Current { op: frame.op, flags: frame.flags, len: frame.len, imm: frame.imm }
    }
}

/// The protocol state of one QP.
#[derive(Debug)]
pub struct Engine {
    qpn: u32,
    /// The peer is this engine itself.
    looped: bool,
    state: State,
    requester: Requester,
    responder: Responder,
    flow: Flow,
    timing: Timing,
    peer_rnr_timer: Tick,
    /// Ours, if the peer has to hear of it once more.
    rnr_news: Option<u32>,
    /// Of the frame whose payload is arriving, or whose answer is being stored.
    current: Option<Current>,
    /// Statuses of the next request and receive to be flushed, where they differ from WR_FLUSH.
    request_fault: Option<Status>,
    receive_fault: Option<Status>,
    nak: Option<Refusal>,
    bye: bool,
    /// To be said to the peer's driver.
    pub(crate) notes: VecDeque<Note>,
    /// No request succeeds any more: one has failed.
    flushing: bool,
    /// The peer showed a sign of life since the last tick.
    moved: bool,
    /// The stream took no more when it was last offered frames.
    clogged: bool,
    progress_at: Option<Tick>,
    starved_at: Option<Tick>,
}

/// What a starved sender allows beyond the retries, so that a receive posted just now can be heard of.
const RNR_GRACE: Tick = 2_000_000;

impl Engine {
    /// An engine without a connection.
    #[must_use]
    pub fn new(qpn: u32, limits: Limits) -> Engine {
        Engine {
            qpn,
            looped: false,
            state: State::Unconnected,
            requester: Requester::new(limits.send_wr),
            responder: Responder::new(limits.recv_wr),
            flow: Flow::new(),
            timing: Timing::default(),
            peer_rnr_timer: 0,
            rnr_news: None,
            current: None,
            request_fault: None,
            receive_fault: None,
            nak: None,
            bye: false,
            notes: VecDeque::new(),
            flushing: false,
            moved: false,
            clogged: false,
            progress_at: None,
            starved_at: None,
        }
    }

    /// Sets what ibv_modify_qp(3) sets.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
        self.responder.max_reads = usize::from(timing.max_dest_rd_atomic);
        self.requester.max_reads = usize::from(timing.max_rd_atomic);
    }

    /// The handshake is complete: `theirs` came, and ours told the peer of [`Engine::credit`] receives.
    ///
    /// # Errors
    /// The hello takes something back that it cannot.
    pub fn connect(&mut self, theirs: &Hello, told: u32) -> Result<(), Fatal> {
        if self.state != State::Unconnected {
            return Ok(());
        }
        self.state = State::Open;
        self.moved = true;
        self.looped = (theirs.src_qpn, theirs.src_gid) == (theirs.dst_qpn, theirs.dst_gid);
        self.peer_rnr_timer = Tick::from(theirs.rnr_timer);
        self.requester.peer_reads = usize::from(theirs.max_dest_rd_atomic);
        self.responder.on_credit_told(told);
        self.requester.on_ack(0, theirs.credit)
    }

    /// Our minimum receiver-not-ready timer is no longer that of the hello.
    pub fn set_rnr_timer(&mut self, timer: Tick) {
        self.rnr_news = Some(u32::try_from(timer).unwrap_or(u32::MAX));
    }

    /// Lets the counters on the wire go on from `from`, so that tests see them wrap; for both sides of a fresh connection.
    pub(crate) fn renumber(&mut self, from: u32) {
        self.requester.renumber(from);
        self.responder.renumber(from);
    }

    /// Lets the peer hear sooner how far this side has come, and wait sooner for that, so that tests see it.
    pub(crate) fn set_grain(&mut self, grain: u64) {
        self.flow.grain = grain;
    }

    /// Receives posted so far, for the hello.
    #[must_use]
    pub fn credit(&self) -> u32 {
        self.responder.credit()
    }

    /// Queues a send request; gives its slot, or `None` if the queue is full.
    #[inline]
    pub fn post_send(&mut self, request: Request) -> Option<u32> {
        self.requester.post(request)
    }

    /// The slot that the next send request gets.
    #[inline]
    #[must_use]
    pub fn next_send_slot(&self) -> u32 {
        self.requester.next_slot()
    }

    /// The slot that the next receive gets.
    #[inline]
    #[must_use]
    pub fn next_recv_slot(&self) -> u32 {
        self.responder.next_slot()
    }

    /// Queues a receive of `len` bytes; gives its slot, or `None` if the queue is full.
    #[inline]
    pub fn post_recv(&mut self, id: u64, len: u32) -> Option<u32> {
        self.responder.post(id, len)
    }

    /// Send requests that still fit.
    #[must_use]
    pub fn send_room(&self) -> usize {
        self.requester.room()
    }

    /// Receives that still fit.
    #[must_use]
    pub fn recv_room(&self) -> usize {
        self.responder.room()
    }

    /// Requests that the peer has not yet acknowledged, wholly or partly sent.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.requester.in_flight()
    }

    /// Requests not yet wholly sent.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.requester.unsent()
    }

    /// Payload of requests that was ever sent.
    #[must_use]
    pub fn flown(&self) -> u64 {
        self.requester.flown()
    }

    /// Payload of requests and of responses that was ever sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.flow.sent()
    }

    /// Payload of requests that is sent, and not acknowledged.
    #[must_use]
    pub fn on_way(&self) -> u64 {
        self.requester.on_way()
    }

    /// Whether the next request, or payload, has to wait for the window.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.requester.is_full() || self.flow.is_full()
    }

    /// Limits what is on its way, of a long message also what of it is.
    pub fn set_window(&mut self, window: Window) {
        self.requester.window = window;
        self.flow.window = window.bytes;
    }

    /// Whether the driver has the header of the next frame, and that of another behind it, while their payload is still to
    /// come: then acknowledgements can wait for more.
    #[inline]
    pub fn set_followed(&mut self, followed: bool) {
        self.responder.followed = followed;
    }

    /// Begins no request, as if the window were full, or does so again. No deadline runs for one that is not begun.
    pub fn set_closed(&mut self, closed: bool) {
        self.requester.closed = closed;
    }

    /// Whether it was [closed](Self::set_closed).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.requester.closed
    }

    /// Payload of the next request that is not yet wholly sent.
    #[must_use]
    pub fn next_payload(&self) -> u64 {
        self.requester.next_payload()
    }

    /// All that [`transmit`](Self::transmit) has handed over so far has been sent, or copied. Before, a request of it does not
    /// succeed, whatever the peer says, unless [it is over](Self::is_over).
    pub fn on_flushed(&mut self) {
        self.requester.on_flushed();
    }

    /// Memory that was [lent](crate::Handed::Lent) for a frame of the request in `slot` of the send queue is given back.
    pub fn release(&mut self, slot: u32) {
        self.requester.release(slot);
    }

    /// Holds new requests back (SQD), or lets them go.
    pub fn set_paused(&mut self, paused: bool) {
        self.requester.paused = paused;
    }

    /// Whether every request was executed.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.requester.is_empty() || (self.requester.paused && self.requester.in_flight() == 0)
    }

    /// Whether the peer has not been met yet.
    #[must_use]
    pub fn is_unconnected(&self) -> bool {
        self.state == State::Unconnected
    }

    /// Whether the QP is in the error state.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.state == State::Failed
    }

    /// Whether all that must reach the peer before the stream is closed has been transmitted.
    #[must_use]
    pub fn has_said_goodbye(&self) -> bool {
        self.bye
    }

    /// Hands frames to `sink` while it has room: responses and requests in turn, so that neither starves the other.
    #[inline]
    pub fn transmit(&mut self, sink: &mut impl Transmit) {
        match self.state {
            State::Open => self.transmit_open(sink),
            State::Unconnected => self.check_unconnected_fault(),
            State::Lost => {
                if !self.requester.all_acknowledged() {
                    self.fail(Some(Status::RetryExc));
                }
            }
            State::Failed => {}
        }
        if self.state == State::Failed {
            self.transmit_last_words(sink);
        }
    }

    fn transmit_open(&mut self, sink: &mut impl Transmit) {
        let mut stamped = false;
        let idle = self.requester.all_executed();
        while let Some(&note) = self.notes.front()
            && sink.room()
        {
            let frame = note.frame(self.responder.ack(), self.responder.credit());
            if sink.frame(frame, Source::None).is_err() {
                break;
            }
            self.notes.pop_front();
            stamped = true;
        }
        while (self.requester.unsent() > 0 || self.responder.has_responses()) && sink.room() {
            let responded = match self.responder.emit(&mut self.flow, sink) {
                Ok(responded) => responded,
                Err(SourceGone) => return self.refuse(Refusal::Access),
            };
            stamped |= responded;
            if responded && !sink.room() {
                break;
            }
            match self.requester.emit(self.responder.ack(), self.responder.credit(), &mut self.flow, sink) {
                Emitted::Frame => stamped = true,
                Emitted::Local => {}
                Emitted::Nothing if responded => {}
                Emitted::Nothing => break,
                Emitted::Fault(status) => return self.fail(Some(status)),
            }
        }
        let news = self.rnr_news.is_some() || self.flow.has_news();
        if (news || !stamped && self.responder.owes_ack()) && sink.room() {
            let (ack, credit) = (self.responder.ack(), self.responder.credit());
            let (addr, imm) = (self.flow.placed(), self.rnr_news.unwrap_or(0));
            if sink.frame(Frame { ack, credit, addr, imm, ..Frame::new(Op::Ack) }, Source::None).is_ok() {
                self.rnr_news = None;
                self.flow.tell();
                stamped = true;
            }
        }
        if stamped {
            // What goes out tells of the peer only if the stream had been full; and before an idle peer is asked
            // something, it owes no sign of life.
            self.moved |= idle || self.clogged;
            self.responder.on_stamped();
        }
        self.clogged = !sink.room();
    }

    /// A request with a local fault needs no peer to fail.
    fn check_unconnected_fault(&mut self) {
        if let Some(fault) = self.requester.head_fault() {
            self.fail(Some(fault));
        }
    }

    /// After a failure: what was executed before a refused request is still answered; then the refusal, then goodbye.
    fn transmit_last_words(&mut self, sink: &mut impl Transmit) {
        if self.bye {
            return;
        }
        if let Some(refusal) = self.nak {
            // What the peer says is no longer heard.
            self.flow.window = Window::UNLIMITED.bytes;
            while self.responder.has_responses() {
                if !sink.room() {
                    return;
                }
                if self.responder.emit(&mut self.flow, sink).is_err() {
                    break;
                }
            }
            let (ack, credit) = (self.responder.ack(), self.responder.credit());
            let nak = Frame { imm: refusal as u32, ack, credit, ..Frame::new(Op::Nak) };
            if sink.frame(nak, Source::None).is_err() {
                return;
            }
            self.nak = None;
        }
        let bye = Frame { ack: self.responder.ack(), credit: self.responder.credit(), ..Frame::new(Op::Bye) };
        self.bye = sink.frame(bye, Source::None).is_ok();
    }

    /// How urgently the peer waits for [`Engine::transmit`], requests aside.
    #[inline]
    #[must_use]
    pub fn need(&self) -> Need {
        match self.state {
            State::Failed if !self.bye => Need::Now,
            State::Open if !self.notes.is_empty() || self.rnr_news.is_some() => Need::Now,
            State::Open if self.responder.owes_ack_now() || self.flow.has_much_news() => Need::Now,
            State::Open if self.responder.has_responses() && !self.flow.is_full() => Need::Now,
            State::Open if self.responder.owes_ack() || self.flow.has_news() => Need::Lazy,
            _ => Need::Nothing,
        }
    }

    /// A whole header has come.
    ///
    /// # Errors
    /// The peer broke the protocol: call [`Engine::on_fatal`] and close the stream.
    #[inline]
    pub fn on_frame(&mut self, frame: &Frame) -> Result<Incoming, Fatal> {
        if self.state != State::Open {
            return Err(Fatal::Sequence("speaks after goodbye"));
        }
        self.moved = true;
        self.current = None;
        self.requester.on_ack(frame.ack, frame.credit)?;
        let incoming = match frame.op {
            Op::Write | Op::Send => {
                self.current = Some(Current::of(frame));
                self.responder.on_message(frame)?
            }
            Op::ReadResponse => {
                self.current = Some(Current::of(frame));
                let (slot, offset) = self.requester.on_response(frame)?;
                Incoming::Payload(Destination::Response { slot, offset })
            }
            Op::Read => self.responder.on_read(frame)?,
            Op::CompareSwap | Op::FetchAdd => self.responder.on_atomic(frame)?,
            Op::AtomicResponse => {
                // Storing the answer may still fail.
                self.current = Some(Current::of(frame));
                let slot = self.requester.on_atomic_response()?;
                Incoming::AtomicResult { slot, before: frame.own[0] }
            }
            Op::Ack => {
                self.flow.on_told(frame.addr)?;
                if frame.imm != 0 {
                    self.peer_rnr_timer = Tick::from(frame.imm);
                }
                Incoming::Done
            }
            Op::LaneOffer | Op::LaneOpen | Op::LaneReady => Incoming::Note(Note::of(frame)?),
            Op::Nak => {
                self.fail(Some(Refusal::remote_status(frame.imm)));
                Incoming::Done
            }
            Op::Bye => {
                self.on_lost();
                Incoming::Done
            }
        };
        Ok(incoming)
    }

    /// The payload of the last frame is in its place.
    #[inline]
    pub fn on_payload(&mut self) {
        let Some(frame) = &self.current else { return };
        self.moved = true;
        self.flow.on_placed(frame.len);
        match frame.op {
            Op::ReadResponse => self.requester.on_response_placed(frame),
            Op::Write | Op::Send => self.responder.on_placed(frame, self.qpn),
            _ => {}
        }
        self.current = None;
    }

    /// The memory of [`Incoming::Read`] is resolved.
    pub fn on_read(&mut self, len: u32) {
        self.responder.on_read_resolved(len);
    }

    /// The atomic of [`Incoming::Atomic`] is executed; the memory held `before`.
    pub fn on_atomic(&mut self, before: u64) {
        self.responder.on_atomic_executed(before);
    }

    /// The peer's last request is not executed: it hears why, and this QP fails.
    pub fn refuse(&mut self, refusal: Refusal) {
        if self.state == State::Failed {
            return;
        }
        self.receive_fault = match refusal {
            Refusal::Local => Some(Status::LocProt),
            Refusal::TooLong => Some(Status::LocLen),
            Refusal::Access | Refusal::Invalid => None,
        };
        self.nak = Some(refusal);
        self.fail(None);
        if self.looped && self.requester.on_ack(self.responder.ack(), self.responder.credit()).is_ok() {
            // The refusal would come too late. It concerns the oldest request, unless that still waits for its answer.
            self.request_fault = self.requester.is_answered().then(|| Refusal::remote_status(refusal as u32));
        }
    }

    /// Local memory for a READ response or an atomic's result was not there: the request fails here.
    pub fn fault(&mut self, status: Status) {
        if self.current.as_ref().is_some_and(|frame| frame.op == Op::AtomicResponse) {
            self.requester.take_back_answer();
        }
        self.fail(Some(status));
    }

    /// A sign of life that is no whole frame: part of a payload has come, or a stream that was full takes bytes again.
    pub fn on_moved(&mut self) {
        self.moved = true;
    }

    /// The peer broke the protocol.
    pub fn on_fatal(&mut self) {
        self.refuse(Refusal::Invalid);
    }

    /// The stream has ended, with or without a goodbye: who waits for an answer gets none.
    pub fn on_lost(&mut self) {
        match self.state {
            // Nobody hears last words any more.
            State::Failed => (self.nak, self.bye) = (None, true),
            State::Lost => {}
            State::Unconnected | State::Open if self.requester.is_empty() => self.state = State::Lost,
            State::Unconnected | State::Open => {
                self.state = State::Lost;
                // What the peer acknowledged has succeeded; only if something is left has it failed.
                if !self.requester.all_acknowledged() {
                    self.fail(Some(Status::RetryExc));
                }
            }
        }
    }

    /// The QP goes to the error state: `status` for the oldest request that was not executed, a flush for all the rest.
    pub fn fail(&mut self, status: Option<Status>) {
        if self.state == State::Failed {
            return;
        }
        if matches!(self.state, State::Unconnected | State::Lost) {
            self.bye = true;
        }
        self.state = State::Failed;
        self.current = None;
        self.request_fault = status;
    }

    /// Whether the peer acknowledges all requests, but not all of them are known to be sent: it lies, or what goes out behind
    /// them is held up, nobody knows for how long.
    #[inline]
    #[must_use]
    pub fn is_only_unflushed(&self) -> bool {
        self.requester.is_only_unflushed()
    }

    /// Whether it has failed, or its peer has gone: requests end, whatever of them is still to be sent.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Lost | State::Failed)
    }

    /// The next completion of the send queue.
    #[inline]
    pub fn poll_send(&mut self) -> Option<Completion> {
        if !self.flushing {
            // After a failure, or when the peer has gone, nobody tells of memory that is lent: what was executed is a
            // success.
            while let Some(retired) = self.requester.retire(self.qpn, self.is_over()) {
                if retired.is_some() {
                    return retired;
                }
            }
            if self.state != State::Failed {
                return None;
            }
            self.flushing = true;
        }
        let status = self.request_fault.take().unwrap_or(Status::WrFlush);
        self.requester.flush(status, self.qpn)
    }

    /// The next completion of the receive queue.
    #[inline]
    pub fn poll_recv(&mut self) -> Option<Completion> {
        if let Some(completion) = self.responder.poll() {
            return Some(completion);
        }
        if self.state != State::Failed {
            return None;
        }
        let status = self.receive_fault.take().unwrap_or(Status::WrFlush);
        self.responder.flush(status, self.qpn)
    }

    /// Time passes. Gives the time of the next call, if one is needed; without one, requests have no deadline until
    /// [`Engine::wants_tick`] says so again.
    ///
    /// The stall of a peer is seen between one and one and a quarter budgets after it began: movement is noted, not
    /// timed, and looked at four times a budget.
    pub fn on_tick(&mut self, now: Tick) -> Option<Tick> {
        if self.state == State::Failed {
            return None;
        }
        let mut next = None;
        if !self.requester.owed() {
            self.progress_at = None;
        } else if let Some(budget) = self.timing.retry {
            if core::mem::take(&mut self.moved) || self.requester.is_held() {
                self.progress_at = None;
            }
            let since = *self.progress_at.get_or_insert(now);
            if now.saturating_sub(since) >= budget {
                self.fail(Some(Status::RetryExc));
                return None;
            }
            next = Some((since + budget).min(now + (budget / 4).max(1)));
        }
        let fed = core::mem::take(&mut self.requester.fed);
        if !self.requester.starved {
            self.starved_at = None;
        } else if self.timing.rnr_retry < 7 {
            let budget = Tick::from(self.timing.rnr_retry) * self.peer_rnr_timer + RNR_GRACE;
            if fed || !self.requester.only_starved() {
                self.starved_at = None;
            }
            let since = *self.starved_at.get_or_insert(now);
            if now.saturating_sub(since) >= budget {
                self.fail(Some(Status::RnrRetryExc));
                return None;
            }
            next = Some(next.map_or(since + budget, |n: Tick| n.min(since + budget)));
        }
        next
    }

    /// How long a peer may be without any progress; `None`: for ever.
    #[must_use]
    pub fn retry_budget(&self) -> Option<Tick> {
        self.timing.retry
    }

    /// Whether a deadline runs.
    #[inline]
    #[must_use]
    pub fn wants_tick(&self) -> bool {
        self.requester.owed() && self.timing.retry.is_some() || self.has_rnr_deadline()
    }

    /// Whether the next request waits for a receive of the peer.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        self.requester.starved
    }

    /// Whether a receiver-not-ready deadline runs, which is short.
    #[must_use]
    pub fn has_rnr_deadline(&self) -> bool {
        self.is_starved() && self.timing.rnr_retry < 7
    }
}
