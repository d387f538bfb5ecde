//! Byte streams between QPs: TCP sockets, or a socket pair where both ends live in this process.

mod batch;
mod stream;

pub(crate) use batch::{Batch, BatchPool, COPY_MAX, Flushed};
pub(crate) use stream::Stream;
