//! System calls, one safe function each.

pub(crate) mod epoll;
pub(crate) mod eventfd;
mod fork;
pub(crate) mod interface;
pub(crate) mod mman;
pub(crate) mod netlink;
pub(crate) mod random;
pub(crate) mod socket;
pub mod time;

use std::io;

/// The result of a call that says -1 on failure.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for calls that give a size.
fn check_size(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Whether this program runs with more rights than its user has; getauxval(3).
pub(crate) fn is_secure() -> bool {
    // SAFETY: no pointers are involved.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}
