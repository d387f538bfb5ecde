//! Lanes (WIRE §8): what the drivers say of them, and what one begins with.

use crate::engine::{Engine, Fatal};
use crate::frame::{Frame, Op};

/// What the two drivers say to each other about their lanes (WIRE §8).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Note {
    /// Payload is wanted on a lane.
    Offer {
        /// The TCP port to connect to.
        port: u16,
        /// For the memory under this key; 0: for receives.
        rkey: u32,
        /// What the lane begins with stands for this.
        challenge: u64,
    },
    /// The port that was offered has been connected to.
    Open {
        /// From this port.
        from: u16,
    },
    /// The lane may be used.
    Ready,
}

impl Note {
    /// As a frame.
    pub(crate) fn frame(self, ack: u32, credit: u32) -> Frame {
        let (op, addr, rkey, imm) = match self {
            Note::Offer { port, rkey, challenge } => (Op::LaneOffer, challenge, rkey, u32::from(port)),
            Note::Open { from } => (Op::LaneOpen, 0, 0, u32::from(from)),
            Note::Ready => (Op::LaneReady, 0, 0, 0),
        };
        Frame { addr, rkey, imm, ack, credit, ..Frame::new(op) }
    }

    /// # Errors
    /// A port that is none.
    pub(crate) fn of(frame: &Frame) -> Result<Note, Fatal> {
        let port = || match u16::try_from(frame.imm) {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(Fatal::Sequence("names a port that is none")),
        };
        Ok(match frame.op {
            Op::LaneOffer => Note::Offer { port: port()?, rkey: frame.rkey, challenge: frame.addr },
            Op::LaneOpen => Note::Open { from: port()? },
            _ => Note::Ready,
        })
    }
}

impl Engine {
    /// Says something to the peer's driver. Of two [`Note::Open`] that wait to be said, the first is of no use any more.
    pub fn say(&mut self, note: Note) {
        if matches!(note, Note::Open { .. }) {
            self.notes.retain(|other| !matches!(other, Note::Open { .. }));
        }
        self.notes.push_back(note);
    }

    /// How much waits to be said.
    #[must_use]
    pub fn unsaid(&self) -> usize {
        self.notes.len()
    }
}

/// Bytes with which a lane begins, so that its receiver sees where they come.
pub const PROBE_LEN: usize = 4096;

/// The bytes that stand for `challenge`: SplitMix64 from there on, as little-endian words.
#[must_use]
pub fn probe(challenge: u64) -> [u8; PROBE_LEN] {
    let mut bytes = [0; PROBE_LEN];
    let mut state = challenge;
    for word in bytes.as_chunks_mut::<8>().0 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *word = (z ^ (z >> 31)).to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Limits;

    #[test]
    fn of_connections_that_took_the_place_of_others_only_the_last_is_told_of() {
        let mut engine = Engine::new(1, Limits { send_wr: 1, recv_wr: 1 });
        engine.say(Note::Ready);
        for from in 1..=1000 {
            engine.say(Note::Open { from });
        }
        assert_eq!(engine.notes, [Note::Ready, Note::Open { from: 1000 }]);
        assert_eq!(engine.unsaid(), 2);
    }

    /// The first words of SplitMix64 from 1234567, as published with the generator.
    #[test]
    fn a_probe_is_what_the_description_says() {
        let bytes = probe(1_234_567);
        assert_eq!(bytes[..8], 6_457_827_717_110_365_317_u64.to_le_bytes());
        assert_eq!(bytes[8..16], 3_203_168_211_198_807_973_u64.to_le_bytes());
    }
}
