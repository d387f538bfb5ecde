//! What the files of the shadow look like: its verbs devices are links to another device, which must not show.

use std::ffi::{c_char, c_int, c_uint};

use libc::{AT_FDCWD, AT_SYMLINK_NOFOLLOW, makedev, stat as Stat, statx as Statx};

use crate::next::interpose;
use crate::shadow::find;
use crate::tree::{UVERBS_MAJOR, uverbs_minor};

interpose! {
    /// stat(2)
    fn stat(path: *const c_char, buf: *mut Stat) -> c_int, |next| {
        status(AT_FDCWD, path, buf, |path, _| next(path, buf))
    };
    /// stat(2); on 64-bit machines the structure is the same
    fn stat64(path: *const c_char, buf: *mut Stat) -> c_int, |next| {
        status(AT_FDCWD, path, buf, |path, _| next(path, buf))
    };
    /// lstat(2)
    fn lstat(path: *const c_char, buf: *mut Stat) -> c_int, |next| {
        status(AT_FDCWD, path, buf, |path, is| if is == Is::Device { stat(path, buf) } else { next(path, buf) })
    };
    /// lstat(2)
    fn lstat64(path: *const c_char, buf: *mut Stat) -> c_int, |next| {
        status(AT_FDCWD, path, buf, |path, is| if is == Is::Device { stat64(path, buf) } else { next(path, buf) })
    };
    /// fstatat(2)
    fn fstatat(dirfd: c_int, path: *const c_char, buf: *mut Stat, flags: c_int) -> c_int, |next| {
        status(dirfd, path, buf, |path, is| next(dirfd, path, buf, flags & is.kept()))
    };
    /// fstatat(2)
    fn fstatat64(dirfd: c_int, path: *const c_char, buf: *mut Stat, flags: c_int) -> c_int, |next| {
        status(dirfd, path, buf, |path, is| next(dirfd, path, buf, flags & is.kept()))
    };
    /// stat(2), in programs built before glibc 2.33
    fn __xstat(version: c_int, path: *const c_char, buf: *mut Stat) -> c_int, |next| {
        status(AT_FDCWD, path, buf, |path, _| next(version, path, buf))
    };
    /// stat(2), in programs built before glibc 2.33
    fn __xstat64(version: c_int, path: *const c_char, buf: *mut Stat) -> c_int, |next| {
        status(AT_FDCWD, path, buf, |path, _| next(version, path, buf))
    };
    /// lstat(2), in programs built before glibc 2.33
    fn __lxstat(version: c_int, path: *const c_char, buf: *mut Stat) -> c_int, |next| {
        status(AT_FDCWD, path, buf, |path, is| {
            if is == Is::Device { __xstat(version, path, buf) } else { next(version, path, buf) }
        })
    };
    /// lstat(2), in programs built before glibc 2.33
    fn __lxstat64(version: c_int, path: *const c_char, buf: *mut Stat) -> c_int, |next| {
        status(AT_FDCWD, path, buf, |path, is| {
            if is == Is::Device { __xstat64(version, path, buf) } else { next(version, path, buf) }
        })
    };
    /// fstatat(2), in programs built before glibc 2.33
    fn __fxstatat(version: c_int, dirfd: c_int, path: *const c_char, buf: *mut Stat, flags: c_int) -> c_int, |next| {
        status(dirfd, path, buf, |path, is| next(version, dirfd, path, buf, flags & is.kept()))
    };
    /// fstatat(2), in programs built before glibc 2.33
    fn __fxstatat64(version: c_int, dirfd: c_int, path: *const c_char, buf: *mut Stat, flags: c_int) -> c_int, |next| {
        status(dirfd, path, buf, |path, is| next(version, dirfd, path, buf, flags & is.kept()))
    };
    /// statx(2)
    fn statx(dirfd: c_int, path: *const c_char, flags: c_int, mask: c_uint, buf: *mut Statx) -> c_int, |next| {
        extended(dirfd, path, buf, |path, is| next(dirfd, path, flags & is.kept(), mask, buf))
    };
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Is {
    /// A verbs device of the shadow.
    Device,
    /// Anything else.
    Other,
}

impl Is {
    /// The flags to keep: those that would show a device as a link are not.
    fn kept(self) -> c_int {
        if self == Is::Device { !AT_SYMLINK_NOFOLLOW } else { !0 }
    }
}

/// # Safety
/// `path` is a C string or null; `next` takes such, and fills `buf` where it returns 0.
unsafe fn status(
    dirfd: c_int,
    path: *const c_char,
    buf: *mut Stat,
    next: impl FnOnce(*const c_char, Is) -> c_int,
) -> c_int {
    // SAFETY: the caller's duty.
    let Some(at) = (unsafe { find(dirfd, path) }) else { return next(path, Is::Other) };
    let Some(number) = at.uverbs() else { return next(at.disk(), Is::Other) };
    let result = next(at.disk(), Is::Device);
    if result == 0 {
        // SAFETY: filled just now.
        unsafe { (*buf).st_rdev = makedev(UVERBS_MAJOR, uverbs_minor(number)) };
    }
    result
}

/// # Safety
/// As [`status`].
unsafe fn extended(
    dirfd: c_int,
    path: *const c_char,
    buf: *mut Statx,
    next: impl FnOnce(*const c_char, Is) -> c_int,
) -> c_int {
    // SAFETY: the caller's duty.
    let Some(at) = (unsafe { find(dirfd, path) }) else { return next(path, Is::Other) };
    let Some(number) = at.uverbs() else { return next(at.disk(), Is::Other) };
    let result = next(at.disk(), Is::Device);
    if result == 0 {
        // SAFETY: filled just now.
        unsafe { (*buf).stx_rdev_major = UVERBS_MAJOR };
        // SAFETY: as above.
        unsafe { (*buf).stx_rdev_minor = uverbs_minor(number) };
    }
    result
}
