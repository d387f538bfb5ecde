//! Locks and atomics of what is modelled with loom: one place to exchange them for loom's.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

pub(crate) use parking_lot::Mutex;
