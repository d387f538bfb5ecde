//! What the tests, the demo and the benchmark share: private networks, programs that run in them, and a reader of
//! what perftest prints.
//!
//! Nothing here knows dmverbs from the inside. A program is started as a user would start it, by `dmverbs run`, and
//! judged by its exit status and its output.

pub mod net;
pub mod pair;
pub mod perftest;
pub mod process;
pub mod programs;
pub mod verify;
pub mod wait;

mod interrupt;

pub use net::{Net, Side};
pub use pair::{Outcome, Pair};
pub use process::{Finished, Running};
