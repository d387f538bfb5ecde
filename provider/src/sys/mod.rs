//! System calls, one safe function each.

pub(crate) mod cancel;
pub(crate) mod devmem;
pub(crate) mod dmabuf;
pub(crate) mod epoll;
pub(crate) mod eventfd;
pub(crate) mod fork;
pub(crate) mod interface;
pub(crate) mod mman;
pub(crate) mod netlink;
pub(crate) mod random;
pub(crate) mod report;
pub(crate) mod socket;
pub(crate) mod thread;
pub mod time;
pub(crate) mod uring;
pub(crate) mod zcrx;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// An open file descriptor, closed by number: see [`cancel`].
#[derive(Debug)]
struct Fd(RawFd);

impl Fd {
    /// # Safety
    /// `fd` is open, and belongs to nobody else.
    unsafe fn own(fd: RawFd) -> Fd {
        Fd(fd)
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Fd {
        Fd(fd.into_raw_fd())
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: it stays open as long as this lives.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody uses it any more.
        unsafe { libc::syscall(libc::SYS_close, self.0) };
    }
}

/// The result of a call that says -1 on failure.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for calls that give a size.
fn check_size(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The kernel's release, as uname(2) tells it.
pub(crate) fn release() -> String {
    // SAFETY: the structure is of plain bytes.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `names` is writable.
    unsafe { libc::uname(&raw mut names) };
    // SAFETY: the kernel has ended it by a zero, as it was before.
    unsafe { CStr::from_ptr(names.release.as_ptr()) }.to_string_lossy().into_owned()
}

/// Whether this program runs with more rights than its user has; getauxval(3).
pub(crate) fn is_secure() -> bool {
    // SAFETY: no pointers are involved.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Has `function` called when the process exits, but not when a child of it does that has not asked for it; atexit(3). One
/// function a program.
pub(crate) fn at_exit(function: fn()) {
    static FUNCTION: OnceLock<fn()> = OnceLock::new();
    static PID: AtomicU32 = AtomicU32::new(0);
    extern "C" fn call() {
        if let Some(function) = FUNCTION.get()
            && PID.load(Ordering::Acquire) == std::process::id()
        {
            function();
        }
    }
    PID.store(std::process::id(), Ordering::Release);
    if FUNCTION.set(function).is_ok() {
        // SAFETY: `call` is a function without arguments that does not unwind.
        unsafe { libc::atexit(call) };
    }
}
