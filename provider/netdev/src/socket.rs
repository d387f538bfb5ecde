//! Options of sockets that nobody else has safe names for.
#![expect(unsafe_code, reason = "getsockopt(2) and setsockopt(2) take pointers")]

use std::io;
use std::os::fd::AsRawFd;

/// The number of the socket's network namespace, which no other gets before the next boot.
///
/// # Errors
/// It is no socket.
pub fn namespace(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    // SAFETY: SO_NETNS_COOKIE writes a u64.
    unsafe { option(socket, SO_NETNS_COOKIE, &mut cookie) }?;
    Ok(cookie)
}

/// The index of the interface that the socket is bound to; 0 if it is bound to none.
///
/// # Errors
/// It is no socket.
pub fn bound_interface(socket: &impl AsRawFd) -> io::Result<u32> {
    let mut index = 0_i32;
    // SAFETY: SO_BINDTOIFINDEX writes an int.
    unsafe { option(socket, SO_BINDTOIFINDEX, &mut index) }?;
    Ok(index.cast_unsigned())
}

/// The user and the process that a local connection is with. The process is 0 where this one's namespace has no number
/// for it.
///
/// # Errors
/// It is no socket.
pub fn peer(socket: &impl AsRawFd) -> io::Result<(u32, i32)> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    // SAFETY: SO_PEERCRED writes a `ucred`.
    unsafe { option(socket, libc::SO_PEERCRED, &mut credentials) }?;
    Ok((credentials.uid, credentials.pid))
}

/// Has the socket send and receive by this interface alone. It takes CAP_NET_RAW to take that back.
///
/// # Errors
/// It is no socket, or bound to another one.
pub fn bind_to_interface(socket: &impl AsRawFd, ifindex: u32) -> io::Result<()> {
    let index = ifindex.cast_signed();
    let length = size_of_val(&index) as libc::socklen_t;
    // SAFETY: SO_BINDTOIFINDEX reads an int, which `length` says there is.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_BINDTOIFINDEX, (&raw const index).cast(), length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// # Safety
///
/// The option's value must be a `T`.
unsafe fn option<T>(socket: &impl AsRawFd, name: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes the option's value, for which `length` says there is room, and its length.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut *value).cast(), &raw mut length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const SO_BINDTOIFINDEX: libc::c_int = 62;
const SO_NETNS_COOKIE: libc::c_int = 71;
