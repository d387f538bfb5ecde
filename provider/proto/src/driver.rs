//! What an engine and its driver say to each other.

#[cfg(doc)]
use crate::Engine;
use crate::frame::Frame;
use crate::lane::Note;
use crate::responder::Destination;
use crate::work::{AtomicOp, Status};

/// Why a request of the peer is not executed (WIRE §6).
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// Its key, range or rights do not allow it.
    Access = 1,
    /// It is malformed, or asks for more at a time than was agreed.
    Invalid = 2,
    /// A fault on this side, which its own receive reports.
    Local = 3,
    /// It is longer than the receive.
    TooLong = 4,
}

impl Refusal {
    pub(crate) fn remote_status(code: u32) -> Status {
        match code {
            1 => Status::RemAccess,
            3 => Status::RemOp,
            _ => Status::RemInvReq,
        }
    }
}

/// Where the payload of a frame to send comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// There is none.
    None,
    /// The request in `slot` of the send queue. A READ or atomic, whose frame has no payload, names where its answer
    /// goes.
    Request {
        /// The slot that `post_send` gave.
        slot: u32,
        /// Where in its payload this frame begins.
        offset: u32,
    },
    /// The memory resolved for response `slot`.
    Response {
        /// The slot of [`Incoming::Read`].
        slot: u32,
        /// Where in the READ this frame begins.
        offset: u32,
    },
}

/// The memory that a frame's payload should come from is no longer there; no byte of the frame was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SourceGone;

/// What became of the memory that a frame's payload comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Handed {
    /// Its owner may have it back when the request is executed, and the frame is sent ([`Engine::on_flushed`]).
    Over,
    /// The driver, or the kernel, still reads it: the request does not complete before [`Engine::release`].
    Lent,
}

/// What the driver offers to [`Engine::transmit`].
pub trait Transmit {
    /// Queues a header and `frame.len` bytes from `source`, or nothing at all. The driver may choose the frame's lane,
    /// and ask for one ([`Flags::LANE`](crate::Flags::LANE)).
    ///
    /// # Errors
    /// The source's memory has been deregistered.
    fn frame(&mut self, frame: Frame, source: Source) -> Result<Handed, SourceGone>;
    /// Whether another frame is welcome.
    fn room(&self) -> bool;
    /// Invalidates a local key (IBV_WR_LOCAL_INV); false if it is not there.
    fn invalidate(&mut self, key: u32) -> bool;
}

/// What the driver has to do about a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Incoming {
    /// Nothing.
    Done,
    /// Place `frame.len` bytes of payload there, then call [`Engine::on_payload`]; or [`Engine::refuse`].
    Payload(Destination),
    /// Resolve this memory into response slot `slot`, then call [`Engine::on_read`]; or [`Engine::refuse`].
    Read {
        /// Response slot, below the `max_dest_rd_atomic` agreed.
        slot: u32,
        /// Address.
        addr: u64,
        /// Key.
        rkey: u32,
        /// Bytes.
        len: u32,
        /// Whether the response is wanted on the lane.
        lane: bool,
    },
    /// The peer's driver has said this.
    Note(Note),
    /// Execute this, then call [`Engine::on_atomic`]; or [`Engine::refuse`].
    Atomic {
        /// What.
        op: AtomicOp,
        /// Where; a multiple of 8.
        addr: u64,
        /// Key.
        rkey: u32,
    },
    /// Store this answer to the atomic in `slot` of the send queue.
    AtomicResult {
        /// The slot that `post_send` gave.
        slot: u32,
        /// The value before.
        before: u64,
    },
    /// Call [`Engine::refuse`] with this.
    Refused(Refusal),
}

/// How urgently [`Engine::transmit`] should be called.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Need {
    /// Not at all.
    Nothing,
    /// Before the driver goes to sleep: an ack that may find a frame to ride on.
    Lazy,
    /// Now.
    Now,
}
