//! The responder: executes the peer's requests in order, and says how far it came (WIRE §5).

use alloc::collections::VecDeque;

use crate::driver::{Incoming, Refusal, Source, SourceGone, Transmit};
use crate::engine::{Current, Fatal};
use crate::flow::Flow;
use crate::frame::{Flags, Frame, MAX_CHUNK, Op};
use crate::work::{AtomicOp, Completion, Extra, Slots, Status, WcOpcode};

/// Acknowledge at once after this many requests, or so many bytes where any has been executed, or the lesser number of both
/// (WIRE §5.2); before, acks wait for a frame to ride on.
const ACK_REQUESTS: u32 = 64;
const ACK_BYTES: u32 = 1 << 20;
/// Instead of [`ACK_BYTES`], where the driver knows of two more frames.
const ACK_BYTES_FOLLOWED: u32 = 2 << 20;
const ACK_BOTH: (u32, u32) = (16, 32 << 10);

/// Where the payload of a frame goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Destination {
    /// Memory under a key that the peer named.
    Memory {
        /// Where this frame's payload begins.
        addr: u64,
        /// The key.
        rkey: u32,
        /// Bytes from `addr` on that the whole message covers: at its first frame all of it, later this frame's.
        covers: u32,
    },
    /// The receive in `slot` of the receive queue.
    Receive {
        /// The slot that `post_recv` gave.
        slot: u32,
        /// Where in the message this frame begins.
        offset: u32,
    },
    /// The READ request in `slot` of the send queue.
    Response {
        /// The slot that `post_send` gave.
        slot: u32,
        /// Where in the READ this frame begins.
        offset: u32,
    },
}

#[derive(Clone, Copy, Debug)]
struct Receive {
    id: u64,
    len: u32,
}

/// The message whose frames are arriving.
#[derive(Clone, Copy, Debug)]
enum Inbound {
    Write { total: u32, left: u32, next: u64, rkey: u32 },
    Send { receive: Receive, total: u32, left: u32 },
}

/// A response that waits to be sent.
#[derive(Debug)]
struct Response {
    /// The number of its request.
    seq: u32,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    Read { slot: u32, len: u32, offset: u32 },
    Atomic { before: u64 },
}

#[derive(Debug)]
pub(crate) struct Responder {
    receives: VecDeque<Receive>,
    capacity: usize,
    slots: Slots,
    /// Receives ever posted and ever completed.
    posted: u32,
    completed: u64,
    inbound: Option<Inbound>,
    executed: u32,
    responses: VecDeque<Response>,
    read_slot: u32,
    pub(crate) max_reads: usize,
    /// What the last frame told the peer.
    acked: u32,
    credited: u32,
    taken: u32,
    bytes: u32,
    pub(crate) followed: bool,
    completions: VecDeque<Completion>,
}

impl Responder {
    pub(crate) fn new(capacity: usize) -> Responder {
        Responder {
            receives: VecDeque::with_capacity(capacity.min(256)),
            capacity,
            slots: Slots::new(capacity),
            posted: 0,
            completed: 0,
            inbound: None,
            executed: 0,
            responses: VecDeque::new(),
            read_slot: 0,
            max_reads: 0,
            acked: 0,
            credited: 0,
            taken: 0,
            bytes: 0,
            followed: false,
            completions: VecDeque::new(),
        }
    }

    pub(crate) fn renumber(&mut self, from: u32) {
        for counter in [&mut self.executed, &mut self.acked, &mut self.posted, &mut self.credited, &mut self.taken] {
            *counter = counter.wrapping_add(from);
        }
    }

    /// Room for this many more receives. One has its place until its completion has been taken.
    pub(crate) fn room(&self) -> usize {
        let filling = usize::from(matches!(self.inbound, Some(Inbound::Send { .. })));
        self.capacity.saturating_sub(self.receives.len() + filling + self.completions.len())
    }

    pub(crate) fn next_slot(&self) -> u32 {
        let filling = u64::from(matches!(self.inbound, Some(Inbound::Send { .. })));
        self.slots.at(self.completed + filling + self.receives.len() as u64)
    }

    pub(crate) fn post(&mut self, id: u64, len: u32) -> Option<u32> {
        if self.room() == 0 {
            return None;
        }
        let slot = self.next_slot();
        self.receives.push_back(Receive { id, len });
        self.posted = self.posted.wrapping_add(1);
        Some(slot)
    }

    pub(crate) fn credit(&self) -> u32 {
        self.posted
    }

    /// The handshake has told the peer of this many receives.
    pub(crate) fn on_credit_told(&mut self, told: u32) {
        self.credited = told;
    }

    /// Requests executed, as far as the peer may know: a READ, and all behind it, counts once its response is out.
    #[inline]
    pub(crate) fn ack(&self) -> u32 {
        self.ack_after(0)
    }

    /// [`Responder::ack`] once this many more responses are out.
    #[inline]
    fn ack_after(&self, responses: usize) -> u32 {
        self.responses.get(responses).map_or(self.executed, |response| response.seq)
    }

    #[inline]
    pub(crate) fn on_stamped(&mut self) {
        self.acked = self.ack();
        self.credited = self.posted;
        self.bytes = 0;
    }

    /// The peer should hear of progress when there is a good occasion.
    pub(crate) fn owes_ack(&self) -> bool {
        self.ack() != self.acked || self.owes_credit()
    }

    /// The peer should hear of progress now.
    pub(crate) fn owes_ack_now(&self) -> bool {
        let (requests, bytes) = (self.ack().wrapping_sub(self.acked), self.bytes);
        requests >= ACK_REQUESTS
            || (requests > 0 && bytes >= if self.followed { ACK_BYTES_FOLLOWED } else { ACK_BYTES })
            || (requests >= ACK_BOTH.0 && bytes >= ACK_BOTH.1)
            || self.owes_credit_now()
    }

    /// The peer knows of no receive that it has not consumed, yet there is one: it may be waiting for it.
    fn owes_credit_now(&self) -> bool {
        self.credited == self.taken && self.posted != self.credited
    }

    /// Less than half of what is posted is known to the peer.
    fn owes_credit(&self) -> bool {
        let known = self.credited.wrapping_sub(self.taken);
        self.posted.wrapping_sub(self.credited) > known
    }

    pub(crate) fn has_responses(&self) -> bool {
        !self.responses.is_empty()
    }

    /// Sends the next frame of the oldest response, if there is one and `flow` lets it go.
    #[inline]
    pub(crate) fn emit(&mut self, flow: &mut Flow, sink: &mut impl Transmit) -> Result<bool, SourceGone> {
        if self.responses.is_empty() { Ok(false) } else { self.emit_response(flow, sink) }
    }

    fn emit_response(&mut self, flow: &mut Flow, sink: &mut impl Transmit) -> Result<bool, SourceGone> {
        let Some(response) = self.responses.front() else { return Ok(false) };
        let mut frame = Frame { credit: self.posted, ..Frame::new(Op::ReadResponse) };
        let (source, last) = match response.answer {
            Answer::Read { slot, len, offset } => {
                let chunk = (len - offset).min(MAX_CHUNK);
                if chunk > 0 && flow.is_full() {
                    return Ok(false);
                }
                frame.len = chunk;
                frame.addr = u64::from(offset);
                frame.flags.set(Flags::FIRST, offset == 0);
                frame.flags.set(Flags::LAST, offset + chunk == len);
                let source = if chunk == 0 { Source::None } else { Source::Response { slot, offset } };
                (source, offset + chunk == len)
            }
            Answer::Atomic { before } => {
                frame.op = Op::AtomicResponse;
                frame.own = [before, 0];
                (Source::None, true)
            }
        };
        frame.ack = self.ack_after(usize::from(last));
        let len = frame.len;
        sink.frame(frame, source)?;
        flow.on_sent(len);
        if last {
            self.responses.pop_front();
        } else if let Some(Response { answer: Answer::Read { offset, .. }, .. }) = self.responses.front_mut() {
            *offset += len;
        }
        Ok(true)
    }

    /// A frame with payload for memory or a receive; says where it goes.
    #[inline]
    pub(crate) fn on_message(&mut self, frame: &Frame) -> Result<Incoming, Fatal> {
        let first = frame.flags.contains(Flags::FIRST);
        let last = frame.flags.contains(Flags::LAST);
        if first {
            if self.inbound.is_some() {
                return Err(Fatal::Sequence("begins a message inside another"));
            }
            let total = if last { frame.len } else { frame.imm };
            let inbound = if frame.op == Op::Write {
                Inbound::Write { total, left: total, next: frame.addr, rkey: frame.rkey }
            } else {
                let receive = self.receives.front().copied().ok_or(Fatal::Sequence("sends without a receive"))?;
                if total > receive.len {
                    return Ok(Incoming::Refused(Refusal::TooLong));
                }
                self.take();
                Inbound::Send { receive, total, left: total }
            };
            self.inbound = Some(inbound);
        }
        let slot = self.slots.at(self.completed);
        let (left, destination) = match (&mut self.inbound, frame.op) {
            (Some(Inbound::Write { total, left, next, rkey }), Op::Write) => {
                if (frame.addr, frame.rkey) != (*next, *rkey) {
                    return Err(Fatal::Sequence("leaves a gap in a message"));
                }
                *next = next.wrapping_add(u64::from(frame.len));
                let covers = if first { *total } else { frame.len };
                let destination = Destination::Memory { addr: frame.addr, rkey: frame.rkey, covers };
                (left, destination)
            }
            (Some(Inbound::Send { total, left, .. }), Op::Send) => {
                let offset = *total - *left;
                if frame.addr != u64::from(offset) {
                    return Err(Fatal::Sequence("leaves a gap in a message"));
                }
                (left, Destination::Receive { slot, offset })
            }
            _ => return Err(Fatal::Sequence("continues a message that never began")),
        };
        *left = left.checked_sub(frame.len).ok_or(Fatal::Sequence("sends more than it announced"))?;
        if (*left == 0) != last {
            return Err(Fatal::Sequence("ends a message elsewhere than announced"));
        }
        if last && frame.flags.contains(Flags::IMM) && frame.op == Op::Write && self.receives.is_empty() {
            return Err(Fatal::Sequence("sends without a receive"));
        }
        Ok(Incoming::Payload(destination))
    }

    fn take(&mut self) -> Option<Receive> {
        let receive = self.receives.pop_front();
        if receive.is_some() {
            self.taken = self.taken.wrapping_add(1);
        }
        receive
    }

    /// The payload of `frame` is in its place.
    #[inline]
    pub(crate) fn on_placed(&mut self, frame: &Current, qpn: u32) {
        self.bytes = self.bytes.saturating_add(frame.len);
        if !frame.flags.contains(Flags::LAST) {
            return;
        }
        self.executed = self.executed.wrapping_add(1);
        let imm = frame.flags.contains(Flags::IMM);
        let received = match self.inbound.take() {
            Some(Inbound::Send { receive, total, .. }) => Some((receive, total, WcOpcode::Recv)),
            Some(Inbound::Write { total, .. }) if imm => self.take().map(|r| (r, total, WcOpcode::RecvRdmaWithImm)),
            _ => None,
        };
        let Some((receive, len, opcode)) = received else { return };
        self.completed += 1;
        let extra = if imm {
            Extra::Imm(frame.imm)
        } else if frame.flags.contains(Flags::INV) {
            Extra::Invalidated(frame.imm)
        } else {
            Extra::None
        };
        let solicited = frame.flags.contains(Flags::SOLICITED);
        self.completions.push_back(Completion {
            id: receive.id,
            status: Status::Success,
            opcode,
            len,
            qpn,
            extra,
            solicited,
        });
    }

    /// A READ request: where its response comes from must be resolved into response slot `slot`.
    pub(crate) fn on_read(&mut self, frame: &Frame) -> Result<Incoming, Fatal> {
        self.expect_between_messages()?;
        if self.responses.len() >= self.max_reads {
            return Ok(Incoming::Refused(Refusal::Invalid));
        }
        let slot = self.read_slot;
        let lane = frame.flags.contains(Flags::LANE);
        Ok(Incoming::Read { slot, addr: frame.addr, rkey: frame.rkey, len: frame.imm, lane })
    }

    pub(crate) fn on_read_resolved(&mut self, len: u32) {
        let slot = self.read_slot;
        self.read_slot = (self.read_slot + 1) % self.max_reads.max(1) as u32;
        self.respond(Answer::Read { slot, len, offset: 0 });
    }

    pub(crate) fn on_atomic(&mut self, frame: &Frame) -> Result<Incoming, Fatal> {
        self.expect_between_messages()?;
        if self.responses.len() >= self.max_reads || !frame.addr.is_multiple_of(8) {
            return Ok(Incoming::Refused(Refusal::Invalid));
        }
        let op = match frame.op {
            Op::CompareSwap => AtomicOp::CompareSwap { compare: frame.own[0], swap: frame.own[1] },
            _ => AtomicOp::FetchAdd { add: frame.own[0] },
        };
        Ok(Incoming::Atomic { op, addr: frame.addr, rkey: frame.rkey })
    }

    pub(crate) fn on_atomic_executed(&mut self, before: u64) {
        self.respond(Answer::Atomic { before });
    }

    fn respond(&mut self, answer: Answer) {
        self.responses.push_back(Response { seq: self.executed, answer });
        self.executed = self.executed.wrapping_add(1);
    }

    fn expect_between_messages(&self) -> Result<(), Fatal> {
        match self.inbound {
            None => Ok(()),
            Some(_) => Err(Fatal::Sequence("puts a request inside a message")),
        }
    }

    pub(crate) fn poll(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    /// Completes the receive that is being filled, or the next one, with `status`.
    pub(crate) fn flush(&mut self, status: Status, qpn: u32) -> Option<Completion> {
        let receive = match self.inbound.take() {
            Some(Inbound::Send { receive, .. }) => receive,
            _ => self.take()?,
        };
        self.completed += 1;
        Some(Completion {
            id: receive.id,
            status,
            opcode: WcOpcode::Recv,
            len: 0,
            qpn,
            extra: Extra::None,
            solicited: true,
        })
    }
}
