//! dmverbs' verbs engine: a safe Rust interface to RDMA verbs over TCP.
//!
//! `object` holds what an application sees (contexts, queues, memory regions), `engine` runs the wire
//! protocol of [`dmverbs_proto`] over `transport`, `mem` owns registered memory and `sys` the system
//! calls. See DESIGN.md beside this crate for threads, lock order and who frees what.

pub mod config;
mod engine;
mod mem;
pub mod object;
mod ring;
mod sync;
mod sys;
#[cfg(test)]
mod testing;
mod transport;

pub use sys::cancel::Uncancelled;
