//! The requester: turns posted requests into frames, and acks and responses into completions (WIRE §4).

use alloc::collections::VecDeque;

use crate::driver::{Handed, Source, SourceGone, Transmit};
use crate::engine::{Current, Fatal};
use crate::flow::Flow;
use crate::frame::{Flags, Frame, MAX_CHUNK, Op};
use crate::work::{Completion, Extra, Request, SendFlags, SendOp, Slots, Status, Window};

/// A request with what became of it.
#[derive(Debug)]
struct Sent {
    request: Request,
    /// Its number on the wire, once its first frame is out.
    seq: u32,
    /// Its response has come, or it was a local operation and is carried out.
    done: bool,
    /// Frames whose payload's memory is not yet given back.
    lent: u32,
}

/// What [`Requester::emit`] did.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Emitted {
    /// A frame.
    Frame,
    /// Nothing: the queue is empty, or its next request has to wait.
    Nothing,
    /// No frame, but a local operation: the next request may go out.
    Local,
    /// Nothing: all before the next request is executed, and it has this fault.
    Fault(Status),
}

#[derive(Debug)]
pub(crate) struct Requester {
    queue: VecDeque<Sent>,
    capacity: usize,
    slots: Slots,
    /// Requests ever retired: `queue[i]` is at position `retired + i`.
    retired: u64,
    /// Index of the request that goes out next, and how much of it is out.
    next: usize,
    offset: u32,
    next_seq: u32,
    /// Requests whose last frame is with the driver, those of which it has nothing left to send, and requests that the
    /// peer has executed.
    sent: u32,
    out: u32,
    acked: u32,
    /// Absolute positions of READs and atomics that wait for their response, in order.
    awaiting: VecDeque<u64>,
    response_offset: u32,
    /// Payload ever sent, and the part of it that is acknowledged, up to the request at an absolute position.
    flown: u64,
    landed: u64,
    landed_to: u64,
    pub(crate) window: Window,
    /// Nothing is begun.
    pub(crate) closed: bool,
    /// Absolute position of the last one that was answered.
    answered: u64,
    /// READs and atomics in flight at most: as our side was told, and as the peer accepts.
    pub(crate) max_reads: usize,
    pub(crate) peer_reads: usize,
    /// The peer's receives: posted, and consumed by us.
    credit: u32,
    consumed: u32,
    /// The next request waits for a receive of the peer.
    pub(crate) starved: bool,
    /// The peer has posted receives since this was last looked at.
    pub(crate) fed: bool,
    /// No new request goes out (SQD).
    pub(crate) paused: bool,
}

impl Requester {
    pub(crate) fn new(capacity: usize) -> Requester {
        Requester {
            queue: VecDeque::with_capacity(capacity.min(256)),
            capacity,
            slots: Slots::new(capacity),
            retired: 0,
            next: 0,
            offset: 0,
            next_seq: 0,
            sent: 0,
            out: 0,
            acked: 0,
            awaiting: VecDeque::new(),
            response_offset: 0,
            flown: 0,
            landed: 0,
            landed_to: 0,
            window: Window::UNLIMITED,
            closed: false,
            answered: 0,
            max_reads: 0,
            peer_reads: usize::MAX,
            credit: 0,
            consumed: 0,
            starved: false,
            fed: false,
            paused: false,
        }
    }

    pub(crate) fn renumber(&mut self, from: u32) {
        let Requester { next_seq, sent, out, acked, credit, consumed, .. } = self;
        for counter in [next_seq, sent, out, acked, credit, consumed] {
            *counter = counter.wrapping_add(from);
        }
    }

    #[inline]
    pub(crate) fn next_slot(&self) -> u32 {
        self.slots.at(self.retired + self.queue.len() as u64)
    }

    /// Room for this many more requests.
    pub(crate) fn room(&self) -> usize {
        self.capacity - self.queue.len()
    }

    pub(crate) fn post(&mut self, request: Request) -> Option<u32> {
        if self.room() == 0 {
            return None;
        }
        let slot = self.next_slot();
        self.queue.push_back(Sent { request, seq: 0, done: false, lent: 0 });
        Some(slot)
    }

    /// Whether the peer owes an answer, or a connection: requests are out, or would be if they could.
    pub(crate) fn owed(&self) -> bool {
        !self.all_executed() || (self.unsent() > 0 && !self.paused && !self.starved)
    }

    /// Whether the peer has nothing to answer, because nothing may be begun.
    pub(crate) fn is_held(&self) -> bool {
        self.closed && self.all_executed() && self.offset == 0
    }

    /// Whether nothing but a missing receive keeps the next request.
    pub(crate) fn only_starved(&self) -> bool {
        self.starved && !self.paused && self.all_executed()
    }

    /// Whether the peer has executed and answered everything that was sent.
    #[inline]
    pub(crate) fn all_executed(&self) -> bool {
        self.acked == self.next_seq && self.awaiting.is_empty()
    }

    /// Whether no response is missing.
    pub(crate) fn is_answered(&self) -> bool {
        self.awaiting.is_empty()
    }

    /// Whether the peer has executed every posted request.
    pub(crate) fn all_acknowledged(&self) -> bool {
        self.unsent() == 0 && self.all_executed()
    }

    /// The local fault of the oldest request.
    pub(crate) fn head_fault(&self) -> Option<Status> {
        self.queue.front()?.request.fault
    }

    /// Requests out, or partly out, and not yet acknowledged.
    pub(crate) fn in_flight(&self) -> usize {
        self.next + usize::from(self.offset != 0)
    }

    /// Requests posted and not yet wholly out.
    pub(crate) fn unsent(&self) -> usize {
        self.queue.len() - self.next
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Payload ever sent.
    pub(crate) fn flown(&self) -> u64 {
        self.flown
    }

    /// Payload that is on its way: sent, and not acknowledged.
    pub(crate) fn on_way(&self) -> u64 {
        self.flown - self.landed + u64::from(self.offset)
    }

    /// Payload of the next request.
    pub(crate) fn next_payload(&self) -> u64 {
        self.queue.get(self.next).map_or(0, |sent| sent.request.outgoing())
    }

    /// Whether the next request has to wait for the window.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        let full = self.flown - self.landed >= self.window.bytes
            && self.retired + self.next as u64 - self.landed_to >= self.window.requests;
        (full || self.closed) && self.unsent() > 0
    }

    /// Sends the next frame of the next request, if nothing holds it back.
    #[inline]
    pub(crate) fn emit(&mut self, ack: u32, credit: u32, flow: &mut Flow, sink: &mut impl Transmit) -> Emitted {
        let full = self.is_full();
        let Some(sent) = self.queue.get_mut(self.next) else { return Emitted::Nothing };
        let request = &sent.request;
        let begins = self.offset == 0;
        if begins && (self.paused || full) || request.outgoing() > 0 && flow.is_full() {
            return Emitted::Nothing;
        }
        // Whether all before it has been executed: then it is the turn of what happens here, and not at the peer.
        let before = if begins { self.next_seq } else { sent.seq };
        let local_turn = self.acked == before && self.awaiting.is_empty();
        let fails = |fault| if local_turn { Emitted::Fault(fault) } else { Emitted::Nothing };
        let reads = self.max_reads.min(self.peer_reads);
        let refused = (request.op.has_response() && reads == 0).then_some(Status::RemInvReq);
        if let Some(fault) = request.fault.or(refused) {
            return fails(fault);
        }
        if begins {
            if let SendOp::LocalInv(key) = request.op {
                if !local_turn {
                    return Emitted::Nothing;
                }
                if !sink.invalidate(key) {
                    return Emitted::Fault(Status::LocProt);
                }
                sent.done = true;
                self.next += 1;
                self.land_acked();
                return Emitted::Local;
            }
            if request.op.has_response() && self.awaiting.len() >= reads
                || request.flags.contains(SendFlags::FENCE) && !self.awaiting.is_empty()
            {
                return Emitted::Nothing;
            }
            if request.op.consumes_receive() && self.consumed == self.credit {
                self.starved = true;
                return Emitted::Nothing;
            }
        }
        let mut frame = Frame { ack, credit, ..Frame::new(Op::Write) };
        let chunk = (request.len - self.offset).min(MAX_CHUNK);
        let last = self.offset + chunk == request.len;
        let message = |frame: &mut Frame, op: Op| {
            frame.op = op;
            frame.len = chunk;
            frame.flags.set(Flags::FIRST, self.offset == 0);
            frame.flags.set(Flags::LAST, last);
            frame.flags.set(Flags::SOLICITED, last && request.flags.contains(SendFlags::SOLICITED));
            if self.offset == 0 && !last {
                frame.imm = request.len;
            }
        };
        let one_frame = |frame: &mut Frame, op: Op, addr: u64, rkey: u32| {
            *frame = Frame { op, addr, rkey, ..*frame };
        };
        match request.op {
            SendOp::Write(to) | SendOp::WriteImm(to, _) => {
                message(&mut frame, Op::Write);
                frame.addr = to.addr.wrapping_add(u64::from(self.offset));
                frame.rkey = to.rkey;
            }
            SendOp::Send | SendOp::SendImm(_) | SendOp::SendInv(_) => {
                message(&mut frame, Op::Send);
                frame.addr = u64::from(self.offset);
            }
            SendOp::Read(from) => {
                one_frame(&mut frame, Op::Read, from.addr, from.rkey);
                frame.imm = request.len;
            }
            SendOp::CompareSwap { at, compare, swap } => {
                one_frame(&mut frame, Op::CompareSwap, at.addr, at.rkey);
                frame.own = [compare, swap];
            }
            SendOp::FetchAdd { at, add } => {
                one_frame(&mut frame, Op::FetchAdd, at.addr, at.rkey);
                frame.own = [add, 0];
            }
            SendOp::LocalInv(_) => {}
        }
        if last {
            match request.op {
                SendOp::WriteImm(_, imm) | SendOp::SendImm(imm) => {
                    frame.imm = imm;
                    frame.flags |= Flags::IMM;
                }
                SendOp::SendInv(key) => {
                    frame.imm = key;
                    frame.flags |= Flags::INV;
                }
                _ => {}
            }
        }
        let has_response = request.op.has_response();
        let consumes = request.op.consumes_receive();
        let position = self.retired + self.next as u64;
        let source = if frame.len == 0 && !has_response {
            Source::None
        } else {
            Source::Request { slot: self.slots.at(position), offset: self.offset }
        };
        match sink.frame(frame, source) {
            Ok(handed) => {
                sent.lent += u32::from(handed == Handed::Lent);
                flow.on_sent(frame.len);
            }
            // It fails when what is before it has been executed, as if posted like that.
            Err(SourceGone) => {
                sent.request.fault = Some(Status::LocProt);
                return fails(Status::LocProt);
            }
        }
        if self.offset == 0 {
            sent.seq = self.next_seq;
            self.next_seq = self.next_seq.wrapping_add(1);
            self.consumed = self.consumed.wrapping_add(u32::from(consumes));
        }
        if has_response {
            self.awaiting.push_back(position);
        }
        if last || has_response {
            self.next += 1;
            self.offset = 0;
            self.flown += sent.request.outgoing();
            self.sent = self.sent.wrapping_add(1);
        } else {
            self.offset += chunk;
        }
        Emitted::Frame
    }

    /// WIRE §4.2: acks are cumulative and never run ahead of what was sent.
    #[inline]
    pub(crate) fn on_ack(&mut self, ack: u32, credit: u32) -> Result<(), Fatal> {
        if ack.wrapping_sub(self.acked) > self.sent.wrapping_sub(self.acked) {
            return Err(Fatal::Sequence("acknowledges what was never sent"));
        }
        self.acked = ack;
        self.land_acked();
        if credit != self.credit {
            if (credit.wrapping_sub(self.credit) as i32) < 0 {
                return Err(Fatal::Sequence("takes receives back"));
            }
            self.credit = credit;
            self.starved = false;
            self.fed = true;
        }
        Ok(())
    }

    /// The driver has nothing left to send.
    pub(crate) fn on_flushed(&mut self) {
        self.out = self.sent;
    }

    /// Whether nothing but what the driver has not sent keeps requests from being retired.
    #[inline]
    pub(crate) fn is_only_unflushed(&self) -> bool {
        self.out != self.sent && self.all_executed()
    }

    /// Whether the peer has executed a request that is out; what happens here counts as executed.
    fn is_acked(&self, sent: &Sent) -> bool {
        matches!(sent.request.op, SendOp::LocalInv(_)) || has_reached(self.acked, sent.seq)
    }

    /// What has been executed is no longer on its way.
    fn land_acked(&mut self) {
        let out = self.retired + self.next as u64;
        while self.landed_to < out && self.is_acked(&self.queue[(self.landed_to - self.retired) as usize]) {
            self.land();
        }
    }

    /// The payload of the next request is no longer on its way.
    fn land(&mut self) {
        self.landed += self.queue[(self.landed_to - self.retired) as usize].request.outgoing();
        self.landed_to += 1;
    }

    /// Memory that was lent for a frame of the request in `slot` is given back.
    pub(crate) fn release(&mut self, slot: u32) {
        let index = self.slots.distance(self.retired, slot);
        if let Some(sent) = self.queue.get_mut(index as usize) {
            sent.lent = sent.lent.saturating_sub(1);
        }
    }

    /// Where `frame`'s payload (a READ response) goes: slot and offset.
    pub(crate) fn on_response(&mut self, frame: &Frame) -> Result<(u32, u32), Fatal> {
        let &position = self.awaiting.front().ok_or(Fatal::Sequence("answers no READ"))?;
        let request = &self.queue[(position - self.retired) as usize].request;
        let end = frame.addr.checked_add(u64::from(frame.len));
        if !matches!(request.op, SendOp::Read(_))
            || frame.addr != u64::from(self.response_offset)
            || end.is_none_or(|end| end > u64::from(request.len))
            || frame.flags.contains(Flags::LAST) != (end == Some(u64::from(request.len)))
        {
            return Err(Fatal::Sequence("answers a READ otherwise than asked"));
        }
        Ok((self.slots.at(position), self.response_offset))
    }

    /// The payload of a READ response frame is in its place.
    pub(crate) fn on_response_placed(&mut self, frame: &Current) {
        if frame.flags.contains(Flags::LAST) {
            self.response_offset = 0;
            self.finish_response();
        } else {
            self.response_offset += frame.len;
        }
    }

    /// The slot of the atomic that a response answers.
    pub(crate) fn on_atomic_response(&mut self) -> Result<u32, Fatal> {
        let &position = self.awaiting.front().ok_or(Fatal::Sequence("answers no atomic"))?;
        if matches!(self.queue[(position - self.retired) as usize].request.op, SendOp::Read(_)) {
            return Err(Fatal::Sequence("answers a READ as an atomic"));
        }
        let slot = self.slots.at(position);
        self.finish_response();
        Ok(slot)
    }

    fn finish_response(&mut self) {
        if let Some(position) = self.awaiting.pop_front() {
            self.queue[(position - self.retired) as usize].done = true;
            self.answered = position;
        }
    }

    /// The last answer could not be stored: its request is not done after all.
    pub(crate) fn take_back_answer(&mut self) {
        if let Some(sent) = self.answered.checked_sub(self.retired).and_then(|i| self.queue.get_mut(i as usize)) {
            sent.done = false;
        }
    }

    /// Retires the next executed request whose memory is free; if all is `over`, also one of which something is still to be
    /// sent, or whose memory is lent. `None` for one that asked for no completion.
    #[inline]
    pub(crate) fn retire(&mut self, qpn: u32, over: bool) -> Option<Option<Completion>> {
        let head = self.queue.front()?;
        let local = matches!(head.request.op, SendOp::LocalInv(_));
        let answered = head.done || !(local || head.request.op.has_response());
        // A peer that acknowledges what has not come yet has it sent nevertheless, from memory that is not the program's
        // again before.
        let free = over || (head.lent == 0 && (local || has_reached(self.out, head.seq)));
        let executed = self.next > 0 && answered && free && self.is_acked(head);
        if !executed {
            return None;
        }
        let signaled = head.request.flags.contains(SendFlags::SIGNALED);
        let completion = signaled.then(|| completion(&head.request, Status::Success, qpn));
        self.pop();
        Some(completion)
    }

    /// Retires the next request unexecuted.
    pub(crate) fn flush(&mut self, status: Status, qpn: u32) -> Option<Completion> {
        let completion = completion(&self.queue.front()?.request, status, qpn);
        self.pop();
        Some(completion)
    }

    fn pop(&mut self) {
        if self.next > 0 && self.landed_to == self.retired {
            self.land();
        }
        self.queue.pop_front();
        self.retired += 1;
        self.landed_to = self.landed_to.max(self.retired);
        if self.next == 0 {
            self.offset = 0;
        }
        self.next = self.next.saturating_sub(1);
    }
}

/// Whether a count of requests includes the one with this number.
fn has_reached(count: u32, seq: u32) -> bool {
    (count.wrapping_sub(seq).wrapping_sub(1) as i32) >= 0
}

fn completion(request: &Request, status: Status, qpn: u32) -> Completion {
    Completion {
        id: request.id,
        status,
        opcode: request.op.wc_opcode(),
        len: request.len,
        qpn,
        extra: Extra::None,
        solicited: status != Status::Success,
    }
}
