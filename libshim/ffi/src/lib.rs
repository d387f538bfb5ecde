//! What every C entry point of the drop-in libraries shares: checking arguments, borrowing objects, turning
//! results into what the manual page promises.
//!
//! [`entry!`] writes an exported function around a safe body. [`Handle`] is an object as C sees it: the C
//! structure first, ours behind it. Functions that must cost nothing (posting, polling) skip the macro and use
//! [`Handle::hot`] and [`guard`].

mod args;
mod entry;
mod errno;
mod handle;
pub mod log;

pub use args::{Arg, Code, Count, In, InOut, MinusOne, Nullable, OrZero, Out, Ptr, Ret, Void};
pub use entry::{call, guard, wait};
pub use errno::{Errno, set_errno};
pub use handle::{Class, Handle, Own, Reserved, class_word, if_live};
