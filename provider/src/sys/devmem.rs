//! TCP from and to device memory; Documentation/networking/devmem.rst, linux/uio.h.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use super::{check, check_size};

/// Lets a socket send without copying, as [`send`] does.
///
/// # Errors
/// `EOPNOTSUPP` for a socket that is not of TCP.
pub(crate) fn enable_zerocopy(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let (fd, len) = (socket.as_raw_fd(), size_of_val(&on) as libc::socklen_t);
    // SAFETY: `on` is readable for the length given.
    check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, (&raw const on).cast(), len) }).map(drop)
}

/// Sends what the socket takes now of `len` bytes from `at` of the dma-buf that was bound as `binding`. Each call that
/// sends something has a number, from 0 on, and is told of by [`take_notice`].
///
/// # Errors
/// `ENOBUFS` while too many calls have not been told of; `ENODEV` where the route leads elsewhere.
pub(crate) fn send(socket: BorrowedFd<'_>, binding: u32, at: u64, len: usize) -> io::Result<usize> {
    // The kernel takes the offset for an address.
    let mut iov = libc::iovec { iov_base: std::ptr::without_provenance_mut(at as usize), iov_len: len };
    let mut control = Control::<{ space::<u32>() }>::new();
    // SAFETY: the structure is of plain numbers and pointers, for which zero stands for nothing.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut iov, 1);
    (message.msg_control, message.msg_controllen) = (control.as_mut_ptr(), space::<u32>());
    // SAFETY: `message` has a control buffer with room for one header.
    let header = unsafe { &mut *libc::CMSG_FIRSTHDR(&raw const message) };
    header.cmsg_level = libc::SOL_SOCKET;
    header.cmsg_type = SCM_DEVMEM_DMABUF;
    // SAFETY: no pointers are involved.
    header.cmsg_len = unsafe { libc::CMSG_LEN(size_of::<u32>() as u32) } as usize;
    // SAFETY: behind the header is room for the number.
    unsafe { libc::CMSG_DATA(header).cast::<u32>().write_unaligned(binding) };
    let flags = libc::MSG_ZEROCOPY | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `message` lists no memory of this process to be read but its control buffer.
    check_size(unsafe { libc::syscall(libc::SYS_sendmsg, socket.as_raw_fd(), &raw const message, flags) } as isize)
}

/// The first and the last number of calls of [`send`] whose memory the kernel no longer reads, if there is news.
///
/// # Errors
/// What broke the connection.
pub(crate) fn take_notice(socket: BorrowedFd<'_>) -> io::Result<Option<(u32, u32)>> {
    /// linux/errqueue.h
    const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
    loop {
        let mut control = Control::<256>::new();
        // SAFETY: as in `send`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        (message.msg_control, message.msg_controllen) = (control.as_mut_ptr(), 256);
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        // SAFETY: `message` has a control buffer of the size it says.
        let n = unsafe { libc::syscall(libc::SYS_recvmsg, socket.as_raw_fd(), &raw mut message, flags) };
        match check_size(n as isize) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        }
        for (level, _, data) in headers(&message) {
            if !matches!(level, libc::SOL_IP | libc::SOL_IPV6) {
                continue;
            }
            // SAFETY: an extended error is what the kernel sends at these levels; its control buffer may be cut short,
            // hence the length is looked at.
            let error = unsafe { read::<libc::sock_extended_err>(data) };
            if let Some(error) = error.filter(|error| error.ee_origin == SO_EE_ORIGIN_ZEROCOPY) {
                return Ok(Some((error.ee_info, error.ee_data)));
            }
        }
    }
}

/// What was received, in the order of the stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Piece {
    /// In the memory bound to the NIC's queue, until its token is given back.
    Device { at: u64, len: u32, token: u32, dmabuf: u32 },
    /// In the landing's bytes, behind what was there before.
    Host { len: u32 },
}

impl Piece {
    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        match *self {
            Piece::Device { len, .. } | Piece::Host { len } => len as usize,
        }
    }
}

/// Where [`recv`] puts what does not come in device memory, and what it says of the rest.
#[derive(Debug)]
pub(crate) struct Landing {
    bytes: Vec<u8>,
    control: Vec<libc::cmsghdr>,
    pub(crate) pieces: Vec<Piece>,
}

impl Landing {
    /// Room for `len` bytes.
    pub(crate) fn new(len: usize) -> Landing {
        /// Fragments that one call tells of; 1,024 tokens at most are given back by another.
        const FRAGMENTS: usize = 1024;
        let control = (FRAGMENTS * space::<Fragment>()).div_ceil(size_of::<libc::cmsghdr>());
        // SAFETY: the structure is of plain numbers.
        let header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        Landing { bytes: vec![0; len], control: vec![header; control], pieces: Vec::new() }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Whether some of it came in the memory of another dma-buf than the one bound as `binding`.
    pub(crate) fn strays(&self, binding: u32) -> bool {
        self.pieces.iter().any(|piece| matches!(*piece, Piece::Device { dmabuf, .. } if dmabuf != binding))
    }

    /// Where `len` bytes go; the kernel counts device memory against this, too.
    pub(super) fn iov(&mut self, len: usize) -> libc::iovec {
        let len = len.min(self.bytes.len());
        libc::iovec { iov_base: self.bytes.as_mut_ptr().cast(), iov_len: len }
    }

    /// What recvmsg(2) takes, and fills; of no use when `iov`, or this, is gone.
    pub(super) fn message(&mut self, iov: &mut libc::iovec) -> libc::msghdr {
        // SAFETY: as in `send`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        (message.msg_iov, message.msg_iovlen) = (iov, 1);
        message.msg_control = self.control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(self.control.as_slice());
        message
    }

    /// Takes down what the kernel says in `message`, which is of this, about `n` bytes.
    pub(super) fn told(&mut self, message: &libc::msghdr, n: usize) -> usize {
        self.pieces.clear();
        let mut told = 0;
        for (level, kind, data) in headers(message) {
            if level != libc::SOL_SOCKET || !matches!(kind, SCM_DEVMEM_DMABUF | SCM_DEVMEM_LINEAR) {
                continue;
            }
            // SAFETY: a struct dmabuf_cmsg is what the kernel sends under these types.
            let Some(fragment) = (unsafe { read::<Fragment>(data) }) else { continue };
            let len = fragment.frag_size;
            told += len as usize;
            self.pieces.push(match kind {
                SCM_DEVMEM_LINEAR => Piece::Host { len },
                _ => Piece::Device {
                    at: fragment.frag_offset,
                    len,
                    token: fragment.frag_token,
                    dmabuf: fragment.dmabuf_id,
                },
            });
        }
        if told == 0 && n > 0 {
            self.pieces.push(Piece::Host { len: n as u32 });
        }
        n
    }
}

/// Receives what is there now, `len` bytes at most; 0 at the end of the stream.
///
/// # Errors
/// `EFAULT` for device memory on a kernel that has none.
pub(crate) fn recv(socket: BorrowedFd<'_>, landing: &mut Landing, len: usize) -> io::Result<usize> {
    let mut iov = landing.iov(len);
    let mut message = landing.message(&mut iov);
    let flags = MSG_SOCK_DEVMEM | libc::MSG_DONTWAIT;
    // SAFETY: `message` lists `landing.bytes`, and a control buffer of the size it says.
    let n = unsafe { libc::syscall(libc::SYS_recvmsg, socket.as_raw_fd(), &raw mut message, flags) };
    let n = check_size(n as isize)?;
    Ok(landing.told(&message, n))
}

/// Tokens that follow each other; struct dmabuf_token.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tokens {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Gives memory back to the NIC's queue: at most 128 runs, of at most 1,024 tokens together.
///
/// # Errors
/// More than that.
pub(crate) fn give_back(socket: BorrowedFd<'_>, tokens: &[Tokens]) -> io::Result<()> {
    let (fd, len) = (socket.as_raw_fd(), size_of_val(tokens) as libc::socklen_t);
    // SAFETY: `tokens` is readable for the length given. The call says how many there were, which is no failure.
    check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, SO_DEVMEM_DONTNEED, tokens.as_ptr().cast(), len) }).map(drop)
}

/// struct dmabuf_cmsg
#[repr(C)]
#[derive(Clone, Copy)]
struct Fragment {
    frag_offset: u64,
    frag_size: u32,
    frag_token: u32,
    dmabuf_id: u32,
    flags: u32,
}

/// A buffer for control messages, aligned as they are.
#[repr(C)]
union Control<const N: usize> {
    bytes: [MaybeUninit<u8>; N],
    _align: [libc::cmsghdr; 0],
}

impl<const N: usize> Control<N> {
    fn new() -> Control<N> {
        Control { bytes: [MaybeUninit::new(0); N] }
    }

    fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        (&raw mut *self).cast()
    }
}

/// Bytes of a control message with a `T`.
const fn space<T>() -> usize {
    // SAFETY: no pointers are involved.
    unsafe { libc::CMSG_SPACE(size_of::<T>() as u32) as usize }
}

/// The control messages of a message that recvmsg(2) has filled: level, type, data.
fn headers(message: &libc::msghdr) -> impl Iterator<Item = (libc::c_int, libc::c_int, &[u8])> {
    // SAFETY: recvmsg(2) has set the length of the control buffer to what it wrote.
    let first = NonNull::new(unsafe { libc::CMSG_FIRSTHDR(message) });
    // SAFETY: `header` is one of the message's.
    let next = |header: &NonNull<libc::cmsghdr>| NonNull::new(unsafe { libc::CMSG_NXTHDR(message, header.as_ptr()) });
    std::iter::successors(first, next).map(|header| {
        // SAFETY: it is a whole header of the kernel's in the control buffer.
        let libc::cmsghdr { cmsg_level, cmsg_type, cmsg_len } = unsafe { *header.as_ptr() };
        // SAFETY: no pointers are involved.
        let head = unsafe { libc::CMSG_LEN(0) } as usize;
        // SAFETY: the kernel wrote `cmsg_len` bytes, header included; they live as long as the message's buffer.
        let data = unsafe { std::slice::from_raw_parts(libc::CMSG_DATA(header.as_ptr()), cmsg_len - head) };
        (cmsg_level, cmsg_type, data)
    })
}

/// # Safety
/// Any bytes are a `T`.
unsafe fn read<T: Copy>(data: &[u8]) -> Option<T> {
    // SAFETY: `data` is long enough, and by contract its bytes are a `T`.
    (data.len() >= size_of::<T>()).then(|| unsafe { data.as_ptr().cast::<T>().read_unaligned() })
}

const SCM_DEVMEM_LINEAR: libc::c_int = 78;
const SCM_DEVMEM_DMABUF: libc::c_int = 79;
pub(super) const MSG_SOCK_DEVMEM: libc::c_int = 0x200_0000;
pub(super) const SO_DEVMEM_DONTNEED: libc::c_int = 80;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn bytes_that_come_in_no_device_memory_are_host_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (here, _) = listener.accept().unwrap();
        there.write_all(b"payload").unwrap();
        drop(there);
        let mut landing = Landing::new(16);
        match recv(here.as_fd(), &mut landing, 4) {
            Ok(n) => {
                assert_eq!((n, landing.pieces.as_slice()), (4, [Piece::Host { len: 4 }].as_slice()));
                assert_eq!(landing.bytes()[..4], *b"payl");
                assert_eq!(recv(here.as_fd(), &mut landing, 16).unwrap(), 3);
                assert_eq!(recv(here.as_fd(), &mut landing, 16).unwrap(), 0);
            }
            // A kernel without it.
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EFAULT)),
        }
    }

    #[test]
    fn there_is_no_news_of_calls_that_were_never_made() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        enable_zerocopy(there.as_fd()).unwrap();
        assert_eq!(take_notice(there.as_fd()).unwrap(), None);
    }
}
