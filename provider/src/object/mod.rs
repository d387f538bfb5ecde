//! What an application sees of verbs, with the lifetime rules of libibverbs(3).

mod types;

pub use types::*;
