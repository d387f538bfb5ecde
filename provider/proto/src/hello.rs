//! The handshake (WIRE §2): each side sends one [`Hello`] before its first frame.

use crate::Tick;

/// Bytes of a hello.
pub const HELLO_LEN: usize = 96;

const MAGIC: [u8; 4] = *b"DMVb";
const VERSION: u16 = 3;

/// What the acceptor thinks of a connection (WIRE §2.3).
#[repr(u16)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Verdict {
    /// Go on. A connector always sends this.
    #[default]
    Accept = 0,
    /// No QP of that number listens now; it may later.
    NotThere = 1,
    /// The QP expects somebody else: GIDs, QP numbers or PSNs differ.
    Mismatch = 2,
    /// The acceptor speaks another version, the one in this hello.
    Version = 3,
}

/// One side's half of the handshake; by default, nobody's.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Hello {
    /// The sender's opinion of the connection.
    pub verdict: Verdict,
    /// The sender's QP number.
    pub src_qpn: u32,
    /// The QP number it wants.
    pub dst_qpn: u32,
    /// The sender's GID.
    pub src_gid: [u8; 16],
    /// The GID it wants.
    pub dst_gid: [u8; 16],
    /// The PSN that the sender's first request would have.
    pub sq_psn: u32,
    /// The PSN that it expects of the peer.
    pub rq_psn: u32,
    /// Random, fresh for each connection.
    pub nonce: u64,
    /// Receives posted by the sender so far.
    pub credit: u32,
    /// Nanoseconds that a peer waits for a receive before it counts one RNR retry.
    pub rnr_timer: u32,
    /// READs and atomics that the sender accepts at a time.
    pub max_dest_rd_atomic: u8,
}

/// Why bytes are no acceptable hello.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HelloError {
    /// The first bytes are not ours: the peer is something else.
    NotDmverbs,
    /// It speaks this version, we another.
    Version(u16),
    /// A field has no meaning.
    Malformed,
}

impl core::fmt::Display for HelloError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            HelloError::NotDmverbs => f.write_str("the peer does not speak dmverbs"),
            HelloError::Version(theirs) => write!(f, "the peer speaks wire version {theirs}, we speak {VERSION}"),
            HelloError::Malformed => f.write_str("malformed hello"),
        }
    }
}

impl Hello {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_LEN] {
        let mut b = [0; HELLO_LEN];
        b[0..4].copy_from_slice(&MAGIC);
        b[4..6].copy_from_slice(&VERSION.to_le_bytes());
        b[6..8].copy_from_slice(&(self.verdict as u16).to_le_bytes());
        // Bytes 8..16 are feature bits: none are defined yet.
        b[16..20].copy_from_slice(&self.src_qpn.to_le_bytes());
        b[20..24].copy_from_slice(&self.dst_qpn.to_le_bytes());
        b[24..40].copy_from_slice(&self.src_gid);
        b[40..56].copy_from_slice(&self.dst_gid);
        b[56..60].copy_from_slice(&self.sq_psn.to_le_bytes());
        b[60..64].copy_from_slice(&self.rq_psn.to_le_bytes());
        b[64..72].copy_from_slice(&self.nonce.to_le_bytes());
        b[72..76].copy_from_slice(&self.credit.to_le_bytes());
        b[76..80].copy_from_slice(&self.rnr_timer.to_le_bytes());
        b[80] = self.max_dest_rd_atomic;
        b
    }

    /// Reads a hello.
    ///
    /// # Errors
    /// Magic is looked at before version, version before the rest, so that the error names the first difference.
    pub fn decode(b: &[u8; HELLO_LEN]) -> Result<Hello, HelloError> {
        let u32_at = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let gid_at = |i: usize| core::array::from_fn(|k| b[i + k]);
        if b[0..4] != MAGIC {
            return Err(HelloError::NotDmverbs);
        }
        let version = u16::from_le_bytes([b[4], b[5]]);
        if version != VERSION {
            return Err(HelloError::Version(version));
        }
        let verdict = match u16::from_le_bytes([b[6], b[7]]) {
            0 => Verdict::Accept,
            1 => Verdict::NotThere,
            2 => Verdict::Mismatch,
            3 => Verdict::Version,
            _ => return Err(HelloError::Malformed),
        };
        Ok(Hello {
            verdict,
            src_qpn: u32_at(16),
            dst_qpn: u32_at(20),
            src_gid: gid_at(24),
            dst_gid: gid_at(40),
            sq_psn: u32_at(56),
            rq_psn: u32_at(60),
            nonce: u64::from(u32_at(64)) | u64::from(u32_at(68)) << 32,
            credit: u32_at(72),
            rnr_timer: u32_at(76),
            max_dest_rd_atomic: b[80],
        })
    }

    /// Whether `self`, received, is the counterpart of `ours` (WIRE §2.3). PSNs are a consistency check, no secret.
    #[must_use]
    pub fn answers(&self, ours: &Hello) -> bool {
        (self.src_qpn, self.dst_qpn) == (ours.dst_qpn, ours.src_qpn)
            && (self.src_gid, self.dst_gid) == (ours.dst_gid, ours.src_gid)
            && (self.sq_psn, self.rq_psn) == (ours.rq_psn, ours.sq_psn)
    }
}

/// The minimum receiver-not-ready timer of a 5-bit code, in nanoseconds (IB spec vol. 1, table "Encoding for RNR NAK timer field").
#[must_use]
pub fn rnr_timer(code: u8) -> Tick {
    const STEPS_10US: [Tick; 32] = [
        65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072,
        4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
    ];
    STEPS_10US[usize::from(code & 31)] * 10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            verdict: Verdict::Accept,
            src_qpn: 0x12_3456,
            dst_qpn: 0x65_4321,
            src_gid: [1; 16],
            dst_gid: [2; 16],
            sq_psn: 3,
            rq_psn: 4,
            nonce: 0x0102_0304_0506_0708,
            credit: 512,
            rnr_timer: 640_000,
            max_dest_rd_atomic: 16,
        }
    }

    #[test]
    fn every_field_survives_the_wire() {
        assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
    }

    #[test]
    fn a_web_browser_is_told_from_an_old_version() {
        let mut http = [b' '; HELLO_LEN];
        http[..14].copy_from_slice(b"GET / HTTP/1.1");
        assert_eq!(Hello::decode(&http), Err(HelloError::NotDmverbs));
        let mut newer = hello().encode();
        newer[4] = 9;
        assert_eq!(Hello::decode(&newer), Err(HelloError::Version(9)));
    }

    #[test]
    fn only_the_counterpart_answers() {
        let ours = hello();
        let theirs = Hello {
            src_qpn: ours.dst_qpn,
            dst_qpn: ours.src_qpn,
            src_gid: ours.dst_gid,
            dst_gid: ours.src_gid,
            sq_psn: ours.rq_psn,
            rq_psn: ours.sq_psn,
            ..ours
        };
        assert!(theirs.answers(&ours));
        assert!(!Hello { sq_psn: 99, ..theirs }.answers(&ours));
        assert!(!ours.answers(&ours));
    }

    #[test]
    fn rnr_codes_are_the_specs() {
        assert_eq!(rnr_timer(0), 655_360_000);
        assert_eq!(rnr_timer(12), 640_000);
        assert_eq!(rnr_timer(31), 491_520_000);
    }
}
