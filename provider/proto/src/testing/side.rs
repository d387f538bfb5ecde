//! One side of a [`Pair`](super::Pair): an engine with what a driver does for it.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use super::memory::{Denied, Memory, Sge, slice};
use super::rng::Rng;
use crate::driver::{Handed, Incoming, Need, Refusal, Source, SourceGone, Transmit};
use crate::engine::{Engine, Fatal, Limits};
use crate::frame::{Flags, Frame, LANE};
use crate::lane::Note;
use crate::responder::Destination;
use crate::work::{Access, AtomicOp, Completion, Request, SendFlags, SendOp, Status, slots};

/// A send work request.
#[derive(Clone, Debug)]
pub struct Wr {
    /// Returned in its completion.
    pub id: u64,
    /// The operation.
    pub op: SendOp,
    /// Its flags.
    pub flags: SendFlags,
    /// Where its payload comes from, or where the response goes.
    pub sges: Vec<Sge>,
}

/// Bytes that have become visible in memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placed {
    /// On whose behalf.
    pub by: Origin,
    /// Where.
    pub addr: u64,
    /// What.
    pub bytes: Vec<u8>,
}

/// Why memory changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// A request of the peer.
    Peer,
    /// The response to a request of one's own.
    Response,
}

/// An engine with memory and a miniature driver.
#[derive(Debug)]
pub struct Side {
    /// The engine.
    pub engine: Engine,
    /// Its registered memory.
    pub memory: Memory,
    /// Every change of memory so far, until taken.
    pub placed: Vec<Placed>,
    /// What it last refused of its peer.
    pub refused: Option<Refusal>,
    /// How the peer broke the protocol.
    pub fatal: Option<Fatal>,
    sends: Vec<Vec<Sge>>,
    receives: Vec<Vec<Sge>>,
    reads: Vec<Option<Sge>>,
    /// What the peer's driver has said.
    pub notes: Vec<Note>,
    /// Sends payload on the lane when this says so; otherwise all goes in-band.
    pub lane: Option<Rng>,
    /// The two streams to the peer.
    pub(super) out: VecDeque<u8>,
    /// What it transmits has not been sent: its driver still has it.
    pub holds: bool,
    pub(super) lane_out: VecDeque<u8>,
    /// Slots of requests whose memory is lent, in order.
    lent: VecDeque<u32>,
    /// What has come of the two streams and waits for the other.
    arrived: VecDeque<u8>,
    lane_arrived: VecDeque<u8>,
    placing: Option<Placing>,
    /// The stream is gone; and the peer has been told.
    pub(super) closed: bool,
    pub(super) finished: bool,
    sent: Vec<Completion>,
    received: Vec<Completion>,
}

#[derive(Debug)]
struct Placing {
    to: Vec<Sge>,
    by: Origin,
    need: Access,
    left: u32,
    by_lane: bool,
    invalidates: Option<u32>,
}

impl Side {
    pub(super) fn new(qpn: u32, limits: Limits) -> Side {
        Side {
            engine: Engine::new(qpn, limits),
            memory: Memory::default(),
            placed: Vec::new(),
            refused: None,
            fatal: None,
            sends: vec![Vec::new(); slots(limits.send_wr)],
            receives: vec![Vec::new(); slots(limits.recv_wr)],
            reads: Vec::new(),
            notes: Vec::new(),
            lane: None,
            out: VecDeque::new(),
            holds: false,
            lane_out: VecDeque::new(),
            lent: VecDeque::new(),
            arrived: VecDeque::new(),
            lane_arrived: VecDeque::new(),
            placing: None,
            closed: false,
            finished: false,
            sent: Vec::new(),
            received: Vec::new(),
        }
    }

    /// Posts a send request, for which there is room.
    pub fn post(&mut self, wr: Wr) {
        let len = wr.sges.iter().map(|sge| sge.len).sum();
        let atomic = matches!(wr.op, SendOp::CompareSwap { .. } | SendOp::FetchAdd { .. });
        let need = if wr.op.has_response() { Access::LOCAL_WRITE } else { Access::empty() };
        let fault = if atomic && len != 8 {
            Some(Status::LocLen)
        } else {
            wr.sges.iter().find_map(|&sge| self.memory.check(sge, need).err()).map(|Denied| Status::LocProt)
        };
        let request = Request { id: wr.id, op: wr.op, flags: wr.flags, len, fault };
        let slot = self.engine.next_send_slot();
        assert_eq!(self.engine.post_send(request), Some(slot), "the send queue is full");
        self.sends[slot as usize] = wr.sges;
    }

    /// Posts a receive, for which there is room. Keys are looked at when a message comes.
    pub fn post_receive(&mut self, id: u64, sges: Vec<Sge>) {
        let len = sges.iter().map(|sge| sge.len).sum();
        let slot = self.engine.next_recv_slot();
        assert_eq!(self.engine.post_recv(id, len), Some(slot), "the receive queue is full");
        self.receives[slot as usize] = sges;
    }

    /// Lets the engine send, as long as fewer than `limit` bytes are under way.
    pub fn transmit(&mut self, limit: usize) {
        if self.closed {
            self.engine.transmit(&mut Nowhere);
            return;
        }
        let Side { engine, memory, sends, reads, lane, out, lane_out, lent, .. } = self;
        engine.transmit(&mut Sink { memory, sends, reads, lane, out, lane_out, lent, limit });
        if !self.holds {
            self.engine.on_flushed();
        }
    }

    /// Lets the engine send if, and only if, a driver would have to.
    pub fn transmit_if_needed(&mut self, limit: usize) {
        if self.engine.need() != Need::Nothing || self.engine.unsent() > 0 {
            self.transmit(limit);
        }
    }

    /// Takes completions out of the engine.
    pub fn poll(&mut self) {
        self.sent.extend(core::iter::from_fn(|| self.engine.poll_send()));
        self.received.extend(core::iter::from_fn(|| self.engine.poll_recv()));
    }

    /// The send queue's completions since the last call.
    pub fn completions(&mut self) -> Vec<Completion> {
        self.poll();
        core::mem::take(&mut self.sent)
    }

    /// The receive queue's completions since the last call.
    pub fn receptions(&mut self) -> Vec<Completion> {
        self.poll();
        core::mem::take(&mut self.received)
    }

    /// Bytes sent and not yet delivered.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.out.len() + self.lane_out.len()
    }

    /// Gives back the memory that was lent first; false if none is.
    pub fn give_back(&mut self) -> bool {
        let slot = self.lent.pop_front();
        if let Some(slot) = slot {
            self.engine.release(slot);
        }
        slot.is_some()
    }

    /// Takes the bytes under way, which then never arrive.
    pub fn take_stream(&mut self) -> Vec<u8> {
        self.out.drain(..).collect()
    }

    /// Takes the bytes under way on the lane.
    #[must_use]
    pub fn take_lane(&mut self) -> Vec<u8> {
        self.lane_out.drain(..).collect()
    }

    /// Bytes come from the peer, cut anywhere.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.arrived.extend(bytes);
        self.take_in(!bytes.is_empty());
    }

    /// Bytes come on the lane.
    pub fn receive_lane(&mut self, bytes: &[u8]) {
        self.lane_arrived.extend(bytes);
        self.take_in(!bytes.is_empty());
    }

    fn take_in(&mut self, moved: bool) {
        if moved && !self.engine.has_failed() {
            self.engine.on_moved();
        }
        // After a failure whatever still comes is dropped.
        while !self.engine.has_failed() {
            if let Some(placing) = &self.placing {
                let from = if placing.by_lane { &mut self.lane_arrived } else { &mut self.arrived };
                let n = from.len().min(placing.left as usize);
                if n == 0 {
                    return;
                }
                let bytes: Vec<u8> = from.drain(..n).collect();
                self.place(&bytes);
                continue;
            }
            match Frame::decode(self.arrived.make_contiguous()) {
                Ok(Some((frame, len))) => {
                    self.arrived.drain(..len);
                    self.on_frame(&frame);
                }
                Ok(None) => return,
                Err(error) => self.on_fatal(error.into()),
            }
        }
    }

    /// The peer has closed its end, or the network broke.
    pub fn end_of_stream(&mut self) {
        if core::mem::replace(&mut self.closed, true) {
            return;
        }
        self.out.clear();
        self.lane_out.clear();
        self.lent.clear();
        self.engine.on_lost();
        self.engine.transmit(&mut Nowhere);
    }

    fn on_frame(&mut self, frame: &Frame) {
        let incoming = match self.engine.on_frame(frame) {
            Ok(incoming) => incoming,
            Err(fatal) => return self.on_fatal(fatal),
        };
        match incoming {
            Incoming::Done => {}
            Incoming::Refused(refusal) => self.refuse(refusal),
            Incoming::Payload(destination) => self.begin(frame, destination),
            Incoming::Note(note) => self.notes.push(note),
            Incoming::Read { slot, addr, rkey, len, .. } => {
                let from = Sge { addr, len, key: rkey };
                if self.memory.check(from, Access::REMOTE_READ).is_err() {
                    return self.refuse(Refusal::Access);
                }
                let slot = slot as usize;
                if self.reads.len() <= slot {
                    self.reads.resize(slot + 1, None);
                }
                self.reads[slot] = Some(from);
                self.engine.on_read(len);
            }
            Incoming::Atomic { op, addr, rkey } => {
                let at = Sge { addr, len: 8, key: rkey };
                match self.memory.write(at, Access::REMOTE_ATOMIC) {
                    Ok(bytes) => {
                        let before = apply(op, bytes);
                        let bytes = bytes.to_vec();
                        self.placed.push(Placed { by: Origin::Peer, addr, bytes });
                        self.engine.on_atomic(before);
                    }
                    Err(Denied) => self.refuse(Refusal::Access),
                }
            }
            Incoming::AtomicResult { slot, before } => {
                self.store(
                    &self.sends[slot as usize].clone(),
                    Origin::Response,
                    Access::LOCAL_WRITE,
                    &before.to_ne_bytes(),
                );
            }
        }
    }

    fn begin(&mut self, frame: &Frame, destination: Destination) {
        let all = |sges: &[Sge], offset| slice(sges, offset, frame.len).collect();
        let (to, by, need) = match destination {
            Destination::Memory { addr, rkey, covers } => {
                if self.memory.check(Sge { addr, len: covers, key: rkey }, Access::REMOTE_WRITE).is_err() {
                    return self.refuse(Refusal::Access);
                }
                (vec![Sge { addr, len: frame.len, key: rkey }], Origin::Peer, Access::REMOTE_WRITE)
            }
            Destination::Receive { slot, offset } => {
                (all(&self.receives[slot as usize], offset), Origin::Peer, Access::LOCAL_WRITE)
            }
            Destination::Response { slot, offset } => {
                (all(&self.sends[slot as usize], offset), Origin::Response, Access::LOCAL_WRITE)
            }
        };
        let invalidates = frame.flags.contains(Flags::INV).then_some(frame.imm);
        let by_lane = frame.lane == LANE;
        self.placing = Some(Placing { to, by, need, left: frame.len, by_lane, invalidates });
        if frame.len == 0 {
            self.place(&[]);
        }
    }

    /// The next bytes of the current frame's payload go to their place.
    fn place(&mut self, bytes: &[u8]) {
        let Some(mut placing) = self.placing.take() else { return };
        let now: Vec<Sge> = slice(&placing.to, 0, bytes.len() as u32).collect();
        placing.to = slice(&placing.to, bytes.len() as u32, u32::MAX).collect();
        placing.left -= bytes.len() as u32;
        if !self.store(&now, placing.by, placing.need, bytes) {
            return;
        }
        if placing.left > 0 {
            self.engine.on_moved();
            self.placing = Some(placing);
            return;
        }
        if placing.invalidates.is_some_and(|key| !self.memory.revoke(key)) {
            return self.refuse(Refusal::Access);
        }
        self.engine.on_payload();
    }

    /// Changes memory; false if that was not allowed and the engine has been told.
    fn store(&mut self, to: &[Sge], by: Origin, need: Access, mut bytes: &[u8]) -> bool {
        for &sge in to {
            let (now, later) = bytes.split_at(sge.len as usize);
            bytes = later;
            match self.memory.write(sge, need) {
                Ok(memory) => memory.copy_from_slice(now),
                Err(Denied) => {
                    match by {
                        Origin::Response => self.engine.fault(Status::LocProt),
                        Origin::Peer if need == Access::REMOTE_WRITE => self.refuse(Refusal::Access),
                        Origin::Peer => self.refuse(Refusal::Local),
                    }
                    return false;
                }
            }
            self.placed.push(Placed { by, addr: sge.addr, bytes: now.to_vec() });
        }
        true
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refused = Some(refusal);
        self.engine.refuse(refusal);
    }

    fn on_fatal(&mut self, fatal: Fatal) {
        self.fatal = Some(fatal);
        self.engine.on_fatal();
    }
}

fn apply(op: AtomicOp, bytes: &mut [u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    let before = u64::from_ne_bytes(word);
    let after = match op {
        AtomicOp::CompareSwap { compare, swap } if before == compare => swap,
        AtomicOp::CompareSwap { .. } => before,
        AtomicOp::FetchAdd { add } => before.wrapping_add(add),
    };
    bytes.copy_from_slice(&after.to_ne_bytes());
    before
}

/// The stream's sending end: payload is copied into it frame by frame.
struct Sink<'a> {
    memory: &'a mut Memory,
    sends: &'a [Vec<Sge>],
    reads: &'a [Option<Sge>],
    lane: &'a mut Option<Rng>,
    out: &'a mut VecDeque<u8>,
    lane_out: &'a mut VecDeque<u8>,
    lent: &'a mut VecDeque<u32>,
    limit: usize,
}

impl Transmit for Sink<'_> {
    fn frame(&mut self, frame: Frame, source: Source) -> Result<Handed, SourceGone> {
        let mut payload = Vec::new();
        let (pieces, need): (Vec<Sge>, Access) = match source {
            Source::None => (Vec::new(), Access::empty()),
            Source::Request { slot, offset } => {
                (slice(&self.sends[slot as usize], offset, frame.len).collect(), Access::empty())
            }
            Source::Response { slot, offset } => {
                let read = self.reads[slot as usize].ok_or(SourceGone)?;
                (vec![read.part(u64::from(offset), frame.len)], Access::REMOTE_READ)
            }
        };
        for sge in pieces {
            payload.extend_from_slice(self.memory.read(sge, need).map_err(|Denied| SourceGone)?);
        }
        assert_eq!(payload.len(), frame.len as usize, "a frame with less payload than it says");
        let by_lane = !payload.is_empty() && self.lane.as_mut().is_some_and(|rng| rng.one_in(2));
        let (header, len) = Frame { lane: if by_lane { LANE } else { frame.lane }, ..frame }.encode();
        self.out.extend(&header[..len]);
        if !by_lane {
            self.out.extend(&payload);
            return Ok(Handed::Over);
        }
        self.lane_out.extend(&payload);
        let Source::Request { slot, .. } = source else { return Ok(Handed::Over) };
        self.lent.push_back(slot);
        Ok(Handed::Lent)
    }

    fn room(&self) -> bool {
        self.out.len() + self.lane_out.len() < self.limit
    }

    fn invalidate(&mut self, key: u32) -> bool {
        self.memory.revoke(key)
    }
}

/// No stream.
struct Nowhere;

impl Transmit for Nowhere {
    fn frame(&mut self, _: Frame, _: Source) -> Result<Handed, SourceGone> {
        Err(SourceGone)
    }

    fn room(&self) -> bool {
        false
    }

    fn invalidate(&mut self, _: u32) -> bool {
        false
    }
}
