//! Byte streams between QPs: TCP sockets, or a socket pair where both ends live in this process; and what they need of
//! NICs to carry the memory of devices.

mod batch;
mod intake;
mod notices;
mod rx;
mod stream;
mod tx;
mod zcrx;

pub(crate) use batch::{Batch, BatchPool, COPY_MAX, Flushed, OnDevice, Outlet, Queue};
pub(crate) use intake::{Ending, Intake};
pub(crate) use notices::Notices;
pub(crate) use rx::{HeldBlocks, Receiver};
pub(crate) use stream::{Stream, Wait};
#[cfg(test)]
pub(crate) use tx::Binding;
pub(crate) use tx::Bindings;
