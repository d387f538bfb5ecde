//! Tools for tests: a [`Pair`] is two engines, each with memory and a miniature driver, on two in-memory streams,
//! with a clock and a seed. Whatever a real driver and a real network may do in between, a test can do step by step.

pub mod fuzz;
mod memory;
mod pair;
mod rng;
mod side;

pub use memory::{Denied, Memory, Sge};
pub use pair::{End, Pair, Setup};
pub use rng::Rng;
pub use side::{Origin, Placed, Side, Wr};
