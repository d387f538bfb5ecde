//! What `dmverbs run` preloads into a program, beside the drop-in library itself.
//!
//! Two things stand between a program and dmverbs that no library called libibverbs.so.1 can mend:
//! - programs that dlopen() `libibverbs.so`, by name or by path, get whatever is installed (`names`);
//! - programs look into /sys/class/infiniband, /sys/class/infiniband_verbs and /dev/infiniband themselves. They see
//!   a shadow of these: `files` and `stat` stand before libc's functions, `place` tells which paths are meant,
//!   `shadow` keeps the shadow on disk, `tree` says what is in it, `cards` what it is made from.
//!
//! Everything else passes through at the price of one strstr(3). Without `dmverbs run` around it (`settings`), or
//! in a process with more rights than its user, the library does nothing at all.

mod cards;
mod files;
mod names;
mod next;
mod place;
mod settings;
mod shadow;
mod stat;
mod tree;
