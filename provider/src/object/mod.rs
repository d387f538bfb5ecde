//! What an application sees of verbs, with the lifetime rules of libibverbs(3).

mod channel;
mod context;
mod cq;
mod device;
mod event;
mod mr;
mod pd;
mod qp;
mod traffic;
mod transition;
mod types;
mod users;

pub use channel::Channel;
pub use context::Context;
pub use cq::Cq;
pub use device::{Device, Limits, PortInfo, devices};
pub use mr::Mr;
pub use pd::Pd;
pub use qp::{Qp, QpInit};
pub use traffic::{ProcessReport, QpReport, Traffic, processes};
pub use types::*;
