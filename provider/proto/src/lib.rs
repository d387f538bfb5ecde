//! dmverbs' wire protocol as a sans-IO state machine: one [`Engine`] is one reliable connected QP, both its
//! requester and its responder. It decides; it owns no socket, no memory and no clock. WIRE.md beside this
//! crate numbers the rules, and code cites them as `WIRE §n`.
//!
//! An engine has four kinds of method: commands (`post_send`), events (`on_frame`), effects for the driver
//! (`transmit`, `poll_send`) and questions. Payload is a length: bytes move between the driver's memory and
//! its stream, and the engine only says from where and to where.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod driver;
mod engine;
mod flow;
mod frame;
mod hello;
mod lane;
mod requester;
mod responder;
pub mod testing;
mod work;

pub use driver::{Handed, Incoming, Need, Refusal, Source, SourceGone, Transmit};
pub use engine::{Engine, Fatal, Limits, Timing};
pub use frame::{DecodeError, Flags, Frame, HEADER_LEN, IN_BAND, LANE, MAX_CHUNK, MAX_HEADER_LEN, Op};
pub use hello::{HELLO_LEN, Hello, HelloError, Verdict, rnr_timer};
pub use lane::{Note, PROBE_LEN, probe};
pub use responder::Destination;
pub use work::{
    Access, AtomicOp, Completion, Extra, Remote, Request, SendFlags, SendOp, Status, WcOpcode, Window, slots,
};

/// Time in nanoseconds since an arbitrary start; it never goes back.
pub type Tick = u64;
