//! Opening, listing and following paths into the shadow.

use std::ffi::{CStr, c_char, c_int, c_void};

use libc::{AT_FDCWD, DIR, FILE, mode_t, size_t, ssize_t};

use crate::next::interpose;
use crate::shadow::{Shadowed, fail, find};

type Open = unsafe extern "C" fn(*const c_char, c_int, ...) -> c_int;
type OpenAt = unsafe extern "C" fn(c_int, *const c_char, c_int, ...) -> c_int;
type Filter = unsafe extern "C" fn(*const libc::dirent) -> c_int;
type Order = unsafe extern "C" fn(*mut *const libc::dirent, *mut *const libc::dirent) -> c_int;

interpose! {
    /// open(2)
    fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int as Open, |next| {
        open_at(AT_FDCWD, path, flags, |path, flags| next(path, flags, mode))
    };
    /// open(2)
    fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int as Open, |next| {
        open_at(AT_FDCWD, path, flags, |path, flags| next(path, flags, mode))
    };
    /// open(2), fortified
    fn __open_2(path: *const c_char, flags: c_int) -> c_int, |next| {
        open_at(AT_FDCWD, path, flags, |path, flags| next(path, flags))
    };
    /// open(2), fortified
    fn __open64_2(path: *const c_char, flags: c_int) -> c_int, |next| {
        open_at(AT_FDCWD, path, flags, |path, flags| next(path, flags))
    };
    /// openat(2)
    fn openat(dirfd: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int as OpenAt, |next| {
        open_at(dirfd, path, flags, |path, flags| next(dirfd, path, flags, mode))
    };
    /// openat(2)
    fn openat64(dirfd: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int as OpenAt, |next| {
        open_at(dirfd, path, flags, |path, flags| next(dirfd, path, flags, mode))
    };
    /// openat(2), fortified
    fn __openat_2(dirfd: c_int, path: *const c_char, flags: c_int) -> c_int, |next| {
        open_at(dirfd, path, flags, |path, flags| next(dirfd, path, flags))
    };
    /// openat(2), fortified
    fn __openat64_2(dirfd: c_int, path: *const c_char, flags: c_int) -> c_int, |next| {
        open_at(dirfd, path, flags, |path, flags| next(dirfd, path, flags))
    };
    /// fopen(3)
    fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE, |next| {
        stream(path, mode, |path| next(path, mode))
    };
    /// fopen(3)
    fn fopen64(path: *const c_char, mode: *const c_char) -> *mut FILE, |next| {
        stream(path, mode, |path| next(path, mode))
    };
    /// access(2)
    fn access(path: *const c_char, mode: c_int) -> c_int, |next| {
        next(on_disk(&find(AT_FDCWD, path), path), mode)
    };
    /// eaccess(3)
    fn eaccess(path: *const c_char, mode: c_int) -> c_int, |next| {
        next(on_disk(&find(AT_FDCWD, path), path), mode)
    };
    /// euidaccess(3)
    fn euidaccess(path: *const c_char, mode: c_int) -> c_int, |next| {
        next(on_disk(&find(AT_FDCWD, path), path), mode)
    };
    /// faccessat(2)
    fn faccessat(dirfd: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int, |next| {
        next(dirfd, on_disk(&find(dirfd, path), path), mode, flags)
    };
    /// chdir(2)
    fn chdir(path: *const c_char) -> c_int, |next| {
        next(on_disk(&find(AT_FDCWD, path), path))
    };
    /// opendir(3)
    fn opendir(path: *const c_char) -> *mut DIR, |next| {
        next(on_disk(&find(AT_FDCWD, path), path))
    };
    /// scandir(3)
    fn scandir(
        path: *const c_char, list: *mut *mut *mut libc::dirent, filter: Option<Filter>, order: Option<Order>,
    ) -> c_int, |next| {
        next(on_disk(&find(AT_FDCWD, path), path), list, filter, order)
    };
    /// scandir(3)
    fn scandir64(
        path: *const c_char, list: *mut *mut *mut libc::dirent, filter: Option<Filter>, order: Option<Order>,
    ) -> c_int, |next| {
        next(on_disk(&find(AT_FDCWD, path), path), list, filter, order)
    };
    /// getxattr(2)
    fn getxattr(path: *const c_char, name: *const c_char, value: *mut c_void, len: size_t) -> ssize_t, |next| {
        next(on_disk(&find(AT_FDCWD, path), path), name, value, len)
    };
    /// lgetxattr(2)
    fn lgetxattr(path: *const c_char, name: *const c_char, value: *mut c_void, len: size_t) -> ssize_t, |next| {
        next(on_disk(&find(AT_FDCWD, path), path), name, value, len)
    };
    /// listxattr(2)
    fn listxattr(path: *const c_char, list: *mut c_char, len: size_t) -> ssize_t, |next| {
        next(on_disk(&find(AT_FDCWD, path), path), list, len)
    };
    /// llistxattr(2)
    fn llistxattr(path: *const c_char, list: *mut c_char, len: size_t) -> ssize_t, |next| {
        next(on_disk(&find(AT_FDCWD, path), path), list, len)
    };
    /// readlink(2)
    fn readlink(path: *const c_char, buf: *mut c_char, len: size_t) -> ssize_t, |next| {
        link(AT_FDCWD, path, |path| next(path, buf, len))
    };
    /// readlink(2), fortified
    fn __readlink_chk(path: *const c_char, buf: *mut c_char, len: size_t, room: size_t) -> ssize_t, |next| {
        link(AT_FDCWD, path, |path| next(path, buf, len, room))
    };
    /// readlinkat(2)
    fn readlinkat(dirfd: c_int, path: *const c_char, buf: *mut c_char, len: size_t) -> ssize_t, |next| {
        link(dirfd, path, |path| next(dirfd, path, buf, len))
    };
    /// readlinkat(2), fortified
    fn __readlinkat_chk(
        dirfd: c_int, path: *const c_char, buf: *mut c_char, len: size_t, room: size_t,
    ) -> ssize_t, |next| {
        link(dirfd, path, |path| next(dirfd, path, buf, len, room))
    };
    /// realpath(3)
    fn realpath(path: *const c_char, resolved: *mut c_char) -> *mut c_char, |next| {
        real_path(path, resolved, |path, resolved| next(path, resolved))
    };
    /// realpath(3), fortified: the shadow's paths are shorter than PATH_MAX, which `room` is at least
    fn __realpath_chk(path: *const c_char, resolved: *mut c_char, room: size_t) -> *mut c_char, |next| {
        real_path(path, resolved, |path, resolved| next(path, resolved, room))
    };
    /// canonicalize_file_name(3)
    fn canonicalize_file_name(path: *const c_char) -> *mut c_char, |next| {
        real_path(path, std::ptr::null_mut(), |path, _| next(path))
    };
}

fn on_disk(at: &Option<Shadowed>, path: *const c_char) -> *const c_char {
    at.as_ref().map_or(path, Shadowed::disk)
}

/// # Safety
/// `path` is a C string or null; `next` takes one.
unsafe fn open_at(
    dirfd: c_int,
    path: *const c_char,
    flags: c_int,
    next: impl FnOnce(*const c_char, c_int) -> c_int,
) -> c_int {
    // SAFETY: the caller's duty.
    let Some(at) = (unsafe { find(dirfd, path) }) else { return next(path, flags) };
    let writes = flags & (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) != libc::O_RDONLY;
    if at.uverbs().is_some() {
        next(at.disk(), flags & !libc::O_CREAT & !libc::O_NOFOLLOW)
    } else if writes {
        fail(at.write_error(flags & libc::O_CREAT != 0), -1)
    } else {
        next(at.disk(), flags)
    }
}

/// # Safety
/// `path` is a C string or null, `mode` a C string; `next` takes a C string.
unsafe fn stream(path: *const c_char, mode: *const c_char, next: impl FnOnce(*const c_char) -> *mut FILE) -> *mut FILE {
    // SAFETY: the caller's duty.
    let Some(at) = (unsafe { find(AT_FDCWD, path) }) else { return next(path) };
    // SAFETY: the caller's duty.
    let mode = unsafe { CStr::from_ptr(mode) }.to_bytes();
    let writes = mode.iter().take_while(|byte| **byte != b',').any(|byte| b"wa+".contains(byte));
    if writes && at.uverbs().is_none() {
        fail(at.write_error(!mode.starts_with(b"r")), std::ptr::null_mut())
    } else {
        next(at.disk())
    }
}

/// # Safety
/// `path` is a C string or null; `next` takes one.
unsafe fn link(dirfd: c_int, path: *const c_char, next: impl FnOnce(*const c_char) -> ssize_t) -> ssize_t {
    // SAFETY: the caller's duty.
    match unsafe { find(dirfd, path) } {
        Some(at) if at.uverbs().is_some() => fail(libc::EINVAL, -1),
        at => next(on_disk(&at, path)),
    }
}

/// # Safety
/// `path` is a C string or null, `resolved` null or room for a path; `next` takes such, and gives null, `resolved`,
/// or a string that malloc(3) made.
unsafe fn real_path(
    path: *const c_char,
    resolved: *mut c_char,
    next: impl FnOnce(*const c_char, *mut c_char) -> *mut c_char,
) -> *mut c_char {
    // SAFETY: the caller's duty.
    let Some(at) = (unsafe { find(AT_FDCWD, path) }) else { return next(path, resolved) };
    let disk = next(at.disk(), resolved);
    if disk.is_null() {
        return disk;
    }
    // SAFETY: realpath(3) gave it.
    let real = at.real_path(unsafe { CStr::from_ptr(disk) });
    if resolved.is_null() {
        // SAFETY: realpath(3) made it by malloc(3), and nobody else has it.
        unsafe { libc::free(disk.cast()) };
        // SAFETY: `real` is a C string.
        return unsafe { libc::strdup(real.as_ptr()) };
    }
    let bytes = real.as_bytes_with_nul();
    // SAFETY: `resolved` has room for PATH_MAX bytes; `real` is shorter: a path the kernel took, the root cut off or
    // left as realpath(3) gave it. They are different memory.
    unsafe { resolved.copy_from_nonoverlapping(bytes.as_ptr().cast(), bytes.len()) };
    resolved
}
