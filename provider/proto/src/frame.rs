//! The frame header (WIRE §3): 32 bytes, little-endian, followed by an operation's own bytes and its payload.

use alloc::vec::Vec;

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 32;
/// Bytes of the longest header with its operation's own bytes.
pub const MAX_HEADER_LEN: usize = HEADER_LEN + 16;
/// Payload bytes of one frame at most: long messages are cut, so that acks of the other direction get through (WIRE §3.2).
pub const MAX_CHUNK: u32 = 1 << 20;

/// The payload follows its header.
pub const IN_BAND: u16 = 0;
/// The payload comes on the lane (WIRE §8).
pub const LANE: u16 = 1;

/// What a frame is (WIRE §3.1).
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Op {
    /// Payload for `addr` under `rkey`.
    Write = 1,
    /// Payload for the next receive; `addr` is the offset in the message.
    Send = 2,
    /// Asks for `imm` bytes at `addr` under `rkey`.
    Read = 3,
    /// Payload of a READ; `addr` is the offset in it.
    ReadResponse = 4,
    /// 16 own bytes: compare, swap.
    CompareSwap = 5,
    /// 16 own bytes: add, zero.
    FetchAdd = 6,
    /// 8 own bytes: the value before.
    AtomicResponse = 7,
    /// Carries only `ack` and `credit`.
    Ack = 8,
    /// Request number `ack` failed for the reason in `imm`.
    Nak = 9,
    /// Nothing follows; the sender's QP is gone.
    Bye = 10,
    /// The sender would have payload on a lane: it listens on TCP port `imm`, for payload for the memory under `rkey`
    /// (0: for receives); a prober sends what `addr` stands for.
    LaneOffer = 11,
    /// The sender has connected to the port that was offered, from port `imm`.
    LaneOpen = 12,
    /// The lane that was opened may be used.
    LaneReady = 13,
}

impl Op {
    fn parse(byte: u8) -> Option<Op> {
        Some(match byte {
            1 => Op::Write,
            2 => Op::Send,
            3 => Op::Read,
            4 => Op::ReadResponse,
            5 => Op::CompareSwap,
            6 => Op::FetchAdd,
            7 => Op::AtomicResponse,
            8 => Op::Ack,
            9 => Op::Nak,
            10 => Op::Bye,
            11 => Op::LaneOffer,
            12 => Op::LaneOpen,
            13 => Op::LaneReady,
            _ => return None,
        })
    }

    /// Bytes of its own that follow the fixed header.
    fn own_len(self) -> usize {
        match self {
            Op::CompareSwap | Op::FetchAdd => 16,
            Op::AtomicResponse => 8,
            _ => 0,
        }
    }

    fn may_carry_payload(self) -> bool {
        matches!(self, Op::Write | Op::Send | Op::ReadResponse)
    }
}

bitflags::bitflags! {
    /// Flags of a frame (WIRE §3.1).
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub struct Flags: u8 {
        /// First frame of its message; if not also the last, `imm` is the message's length.
        const FIRST = 1;
        /// Last frame of its message.
        const LAST = 1 << 1;
        /// `imm` is immediate data (only with LAST).
        const IMM = 1 << 2;
        /// `imm` is a key to invalidate (only with LAST).
        const INV = 1 << 3;
        /// The receiver asked to be woken (only with LAST).
        const SOLICITED = 1 << 4;
        /// The response is wanted on the lane (only on Read).
        const LANE = 1 << 5;
    }
}

/// A decoded frame header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame {
    /// What it is.
    pub op: Op,
    /// Its flags.
    pub flags: Flags,
    /// Where its payload is: [`IN_BAND`] or [`LANE`].
    pub lane: u16,
    /// Payload bytes.
    pub len: u32,
    /// Address or offset.
    pub addr: u64,
    /// Remote key.
    pub rkey: u32,
    /// Immediate, key, length or reason.
    pub imm: u32,
    /// Requests executed by the sender of this frame, modulo 2^32.
    pub ack: u32,
    /// Receives posted by the sender of this frame, modulo 2^32.
    pub credit: u32,
    /// The operation's own bytes as two words (atomics).
    pub own: [u64; 2],
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DecodeError {
    /// Unknown operation.
    BadOp(u8),
    /// Undefined flags, or flags that do not go together.
    BadFlags(u8),
    /// A lane that does not exist, or one without payload.
    BadLane(u16),
    /// More payload than a frame may carry, or payload where there is none.
    BadLength(u32),
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            DecodeError::BadOp(op) => write!(f, "unknown operation {op}"),
            DecodeError::BadFlags(flags) => write!(f, "bad flags {flags:#x}"),
            DecodeError::BadLane(lane) => write!(f, "no lane {lane}"),
            DecodeError::BadLength(len) => write!(f, "bad payload length {len}"),
        }
    }
}

impl Frame {
    /// A frame without payload, flags or arguments.
    #[must_use]
    pub fn new(op: Op) -> Frame {
        Frame { op, flags: Flags::empty(), lane: 0, len: 0, addr: 0, rkey: 0, imm: 0, ack: 0, credit: 0, own: [0; 2] }
    }

    /// Writes the header; the first `n` bytes of the array count.
    #[inline]
    #[must_use]
    pub fn encode(&self) -> ([u8; MAX_HEADER_LEN], usize) {
        let mut b = [0; MAX_HEADER_LEN];
        self.write(&mut b);
        (b, HEADER_LEN + self.op.own_len())
    }

    /// Appends the header.
    #[inline]
    pub fn append(&self, to: &mut Vec<u8>) {
        let from = to.len();
        to.resize(from + MAX_HEADER_LEN, 0);
        if let Some(b) = to.last_chunk_mut() {
            self.write(b);
        }
        to.truncate(from + HEADER_LEN + self.op.own_len());
    }

    #[inline]
    fn write(&self, b: &mut [u8; MAX_HEADER_LEN]) {
        b[0] = self.op as u8;
        b[1] = self.flags.bits();
        b[2..4].copy_from_slice(&self.lane.to_le_bytes());
        b[4..8].copy_from_slice(&self.len.to_le_bytes());
        b[8..16].copy_from_slice(&self.addr.to_le_bytes());
        b[16..20].copy_from_slice(&self.rkey.to_le_bytes());
        b[20..24].copy_from_slice(&self.imm.to_le_bytes());
        b[24..28].copy_from_slice(&self.ack.to_le_bytes());
        b[28..32].copy_from_slice(&self.credit.to_le_bytes());
        b[32..40].copy_from_slice(&self.own[0].to_le_bytes());
        b[40..48].copy_from_slice(&self.own[1].to_le_bytes());
    }

    /// Reads a header from the front of `bytes`: the frame and its header's length, or `None` while bytes are missing.
    ///
    /// # Errors
    /// What is no frame of this version (WIRE §3.3).
    pub fn decode(bytes: &[u8]) -> Result<Option<(Frame, usize)>, DecodeError> {
        let mut frame = Frame::new(Op::Ack);
        Ok(frame.read(bytes)?.map(|len| (frame, len)))
    }

    /// The same into a frame that is there: a frame that is handed on is read again before it has been written, which
    /// a processor waits for. Without a header, it means nothing.
    ///
    /// # Errors
    /// As of [`decode`](Self::decode).
    #[inline]
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<usize>, DecodeError> {
        let Some((b, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let u32_at = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        self.op = Op::parse(b[0]).ok_or(DecodeError::BadOp(b[0]))?;
        self.flags = Flags::from_bits(b[1]).ok_or(DecodeError::BadFlags(b[1]))?;
        self.lane = u16::from_le_bytes([b[2], b[3]]);
        self.len = u32_at(4);
        self.addr = u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32;
        self.rkey = u32_at(16);
        self.imm = u32_at(20);
        self.ack = u32_at(24);
        self.credit = u32_at(28);
        self.own = [0; 2];
        self.check()?;
        let own = self.op.own_len();
        if rest.len() < own {
            return Ok(None);
        }
        for (word, bytes) in self.own.iter_mut().zip(rest[..own].as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Ok(Some(HEADER_LEN + own))
    }

    #[inline]
    fn check(&self) -> Result<(), DecodeError> {
        let bad_flags = DecodeError::BadFlags(self.flags.bits());
        if self.lane > if self.len > 0 { LANE } else { IN_BAND } {
            return Err(DecodeError::BadLane(self.lane));
        }
        if self.len > if self.op.may_carry_payload() { MAX_CHUNK } else { 0 } {
            return Err(DecodeError::BadLength(self.len));
        }
        let last_only = Flags::IMM | Flags::INV | Flags::SOLICITED;
        let allowed = match self.op {
            Op::Write => Flags::all().difference(Flags::INV | Flags::LANE),
            Op::Send => Flags::all().difference(Flags::LANE),
            Op::Read => Flags::LANE,
            Op::ReadResponse => Flags::FIRST | Flags::LAST,
            _ => Flags::empty(),
        };
        if !allowed.contains(self.flags)
            || (self.flags.intersects(last_only) && !self.flags.contains(Flags::LAST))
            || self.flags.contains(Flags::IMM | Flags::INV)
        {
            return Err(bad_flags);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_survives_the_wire() {
        let frame = Frame {
            op: Op::CompareSwap,
            addr: 0x0123_4567_89ab_cdef,
            rkey: 0xdead_beef,
            imm: 7,
            ack: u32::MAX,
            credit: 9,
            own: [3, u64::MAX],
            ..Frame::new(Op::CompareSwap)
        };
        let (bytes, n) = frame.encode();
        assert_eq!(Frame::decode(&bytes[..n]), Ok(Some((frame, n))));
        for short in 0..n {
            assert_eq!(Frame::decode(&bytes[..short]), Ok(None));
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let bytes = |f: &dyn Fn(&mut [u8; HEADER_LEN])| {
            let mut b = *Frame::new(Op::Write).encode().0.first_chunk().unwrap();
            f(&mut b);
            Frame::decode(&b)
        };
        assert_eq!(bytes(&|b| b[0] = 77), Err(DecodeError::BadOp(77)));
        assert_eq!(bytes(&|b| b[1] = 0x80), Err(DecodeError::BadFlags(0x80)));
        assert_eq!(bytes(&|b| b[1] = Flags::IMM.bits()), Err(DecodeError::BadFlags(4)));
        assert_eq!(bytes(&|b| (b[2], b[4]) = (2, 1)), Err(DecodeError::BadLane(2)));
        assert_eq!(bytes(&|b| b[2] = 1), Err(DecodeError::BadLane(1)), "nothing comes there");
        assert_eq!(bytes(&|b| b[7] = 1), Err(DecodeError::BadLength(1 << 24)));
    }
}
