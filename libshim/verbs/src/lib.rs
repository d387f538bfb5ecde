//! The drop-in `libibverbs.so.1`: rdma-core's C interface over dmverbs' provider.
//!
//! `exports` lists every symbol with its version. Behind it there is a file for each kind of object, in the
//! order in which a program meets them: `device`, `context`, `query`, `pd`, `mr`, `channel`, `cq` (and `cq_ex`),
//! `qp` (with `post` and `wr`, the two ways to post), `event`. `strings`, `rates`, `sysfs` and `kern` are helpers
//! that libibverbs exports as well; `unsupported` is what dmverbs does not do.

mod channel;
mod context;
mod cq;
mod cq_ex;
mod device;
mod event;
mod exports;
mod kern;
mod message;
mod mr;
mod pd;
mod post;
mod qp;
mod query;
mod rates;
mod strings;
mod sysfs;
mod unsupported;
mod wr;
