//! System calls, one safe function each.

pub(crate) mod cancel;
pub(crate) mod cuda;
pub(crate) mod devmem;
pub(crate) mod dmabuf;
pub(crate) mod epoll;
pub(crate) mod eventfd;
mod fork;
pub(crate) mod interface;
pub(crate) mod mman;
pub(crate) mod netlink;
pub(crate) mod random;
pub(crate) mod report;
pub(crate) mod socket;
pub(crate) mod softaccel;
pub mod time;
pub(crate) mod uring;

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

/// Has `function` called when the process exits; atexit(3). One function a process.
pub(crate) fn at_exit(function: fn()) {
    static FUNCTION: std::sync::OnceLock<fn()> = std::sync::OnceLock::new();
    extern "C" fn call() {
        if let Some(function) = FUNCTION.get() {
            function();
        }
    }
    if FUNCTION.set(function).is_ok() {
        // SAFETY: `call` is a function without arguments that does not unwind: `farewell` takes no lock by force.
        unsafe { libc::atexit(call) };
    }
}
