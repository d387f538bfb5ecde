//! A queue of a NIC that io_uring has, and that fills the memory of a device; Documentation/networking/iou-zcrx.rst.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{from_mut, with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::atomic::{AtomicU32, Ordering};

use io_uring::types::{self, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};
use parking_lot::Mutex;

use super::check_size;
use super::eventfd::EventFd;
use super::fork::Unshared;
use super::mman::{self, Mapping};

/// The ring that has the queue: only the thread that has called [`Ring::enable`] may go on with it.
pub(crate) struct Ring {
    ring: Unshared<IoUring<squeue::Entry, cqueue::Entry32>>,
    zcrx: u32,
}

/// What has become of a request, or a part of what it asked for.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) token: u64,
    /// Bytes.
    ///
    /// # Errors
    /// `ENOMEM` where the next bytes have not been put into the device's memory: recvmsg(2) gives them.
    pub(crate) result: io::Result<u32>,
    /// Where they are in the dma-buf.
    pub(crate) at: u64,
    /// More comes of the request.
    pub(crate) more: bool,
}

/// The way by which memory goes back to the queue.
#[derive(Debug)]
pub(crate) struct Refill {
    shared: Mapping,
    offsets: Offsets,
    /// What the kernel has the memory under.
    area: u64,
    given: Mutex<Given>,
}

#[derive(Clone, Copy, Debug)]
struct Offsets {
    head: u64,
    tail: u64,
    entries: u64,
}

#[derive(Debug, Default)]
struct Given {
    tail: u32,
    /// What there was no room for.
    left: Vec<types::io_uring_zcrx_rqe>,
}

/// io_uring/zcrx.c: at most so many.
const REFILLS: u32 = 32 << 10;
const REQUESTS: u32 = 1024;
/// How often a request that there is no room for is tried.
const TRIES: u32 = 100;
/// The token of what cancels others.
const CANCEL: u64 = u64::MAX;
const COMPLETIONS: u32 = 4096;
/// linux/io_uring/zcrx.h
const AREA_DMABUF: u32 = 1;
/// linux/io_uring.h
const REGISTER_ZCRX: libc::c_uint = 32;

impl Ring {
    /// Has this queue fill the first `len` bytes of `dmabuf`, in pieces of `page_size` where that is not 0. It is the ring's
    /// until that is dropped, and a moment longer.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_ADMIN in the first user namespace; `ENOSYS` before Linux 7.3, where a request may stop short
    /// without a completion that says so; `EINVAL` from a NIC that knows of no such pieces.
    pub(crate) fn open(
        ifindex: u32,
        queue: u32,
        dmabuf: BorrowedFd<'_>,
        len: u64,
        page_size: u32,
    ) -> io::Result<(Ring, Refill)> {
        if !is_recent(&super::release()) {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let mut builder = IoUring::builder();
        builder.dontfork().setup_r_disabled().setup_single_issuer().setup_defer_taskrun().setup_cqsize(COMPLETIONS);
        let ring = Unshared::made(|| builder.build(REQUESTS))?;
        let size = REFILLS as usize * size_of::<types::io_uring_zcrx_rqe>() + mman::page_size() as usize;
        let shared = Mapping::anonymous(size)?;
        let mut region = types::io_uring_region_desc {
            user_addr: shared.addr(),
            size: size as u64,
            flags: types::IORING_MEM_REGION_TYPE_USER,
            ..Default::default()
        };
        let mut area = types::io_uring_zcrx_area_reg {
            len,
            flags: AREA_DMABUF,
            dmabuf_fd: dmabuf.as_raw_fd().cast_unsigned(),
            ..Default::default()
        };
        let mut zcrx = types::io_uring_zcrx_ifq_reg {
            if_idx: ifindex,
            if_rxq: queue,
            rq_entries: REFILLS,
            area_ptr: from_mut(&mut area).expose_provenance() as u64,
            region_ptr: from_mut(&mut region).expose_provenance() as u64,
            // Called rx_buf_len by newer kernels.
            __resv2: page_size,
            ..Default::default()
        };
        let fd = ring.get().as_raw_fd();
        // SAFETY: the three structures are what the call takes, and fills; `shared` is as long as it says, and its pages
        // are the kernel's for as long as the ring lives, wherever they are mapped.
        check_size(unsafe { libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_ZCRX, &raw mut zcrx, 1) } as isize)?;
        let offsets = Offsets {
            head: zcrx.offsets.head.into(),
            tail: zcrx.offsets.tail.into(),
            entries: zcrx.offsets.rqes.into(),
        };
        let refill = Refill { shared, offsets, area: area.rq_area_token, given: Mutex::default() };
        Ok((Ring { ring, zcrx: zcrx.zcrx_id }, refill))
    }

    /// The calling thread goes on with it.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn enable(&self) -> io::Result<()> {
        self.ring.get().submitter().register_enable_rings()
    }

    /// Asks for `len` bytes of a stream; completions have `token`. The socket must stay open until the request has ended.
    ///
    /// # Errors
    /// The kernel takes no requests.
    pub(crate) fn ask(&mut self, socket: BorrowedFd<'_>, len: u32, token: u64) -> io::Result<()> {
        let entry = opcode::RecvZc::new(Fd(socket.as_raw_fd()), len).ifq(self.zcrx).build();
        self.push(&entry.user_data(token))
    }

    /// Asks to be told whenever `event` is readable.
    ///
    /// # Errors
    /// As of [`Ring::ask`].
    pub(crate) fn watch(&mut self, event: &EventFd, token: u64) -> io::Result<()> {
        let entry = opcode::PollAdd::new(Fd(event.raw()), libc::POLLIN as u32).multi(true).build();
        self.push(&entry.user_data(token))
    }

    /// Asks for no more of what has `token`: the request ends with `ECANCELED`, if it has not ended yet.
    ///
    /// # Errors
    /// As of [`Ring::ask`].
    pub(crate) fn cancel(&mut self, token: u64) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(token).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push(&entry.user_data(CANCEL))
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        for _ in 0..TRIES {
            // SAFETY: what is asked for has no memory of this process.
            if unsafe { self.ring.get_mut().submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.ring.get().submit().map(drop).or_else(passing)?;
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// Waits until something has come of what was asked for.
    ///
    /// # Errors
    /// The ring is of no use any more, as after a program has closed all descriptors.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        self.ring.get().submit_and_wait(1).map(drop).or_else(passing)
    }

    /// What has come.
    pub(crate) fn completions(&mut self) -> Vec<Completion> {
        let completion = |entry: cqueue::Entry32| Completion {
            token: entry.user_data(),
            result: match entry.result() {
                errno @ ..0 => Err(io::Error::from_raw_os_error(-errno)),
                bytes => Ok(bytes.cast_unsigned()),
            },
            at: entry.big_cqe()[0] & !types::IORING_ZCRX_AREA_MASK,
            more: cqueue::more(entry.flags()),
        };
        self.ring.get_mut().completion().map(completion).collect()
    }
}

/// Whether a kernel of this release is one of 7.3 or later.
fn is_recent(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(7), Some(3))
}

/// Not an error where the completions are to be looked at first, or it is to be asked again.
fn passing(e: io::Error) -> io::Result<()> {
    if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) { Ok(()) } else { Err(e) }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("zcrx", &self.zcrx).finish_non_exhaustive()
    }
}

impl Refill {
    /// Gives back what completions told of, each once: where it is, and how long.
    pub(crate) fn give_back(&self, pieces: impl IntoIterator<Item = (u64, u32)>) {
        let mut given = self.given.lock();
        let Given { tail, left } = &mut *given;
        let entry = |(at, len)| types::io_uring_zcrx_rqe { off: at | self.area, len, __pad: 0 };
        left.extend(pieces.into_iter().map(entry));
        // SAFETY: the kernel has told where the numbers are in the mapping, and reads and writes them as atomics.
        let shared = |at: u64| unsafe { &*with_exposed_provenance::<AtomicU32>((self.shared.addr() + at) as usize) };
        // pairs with the kernel's release, after which it reads no more of what it has taken
        let head = shared(self.offsets.head).load(Ordering::Acquire);
        let room = REFILLS - tail.wrapping_sub(head);
        for entry in left.drain(..left.len().min(room as usize)) {
            let at = self.offsets.entries + u64::from(*tail % REFILLS) * size_of_val(&entry) as u64;
            // SAFETY: it is one of the ring's entries, which the kernel does not read before the tail has passed it.
            unsafe {
                with_exposed_provenance_mut::<types::io_uring_zcrx_rqe>((self.shared.addr() + at) as usize).write(entry)
            };
            *tail = tail.wrapping_add(1);
        }
        // pairs with the kernel's acquire
        shared(self.offsets.tail).store(*tail, Ordering::Release);
    }
}

#[cfg(test)]
impl Refill {
    /// One of no queue.
    pub(crate) fn of_no_queue() -> Refill {
        let offsets = Offsets { head: 0, tail: 64, entries: 128 };
        let size = offsets.entries as usize + REFILLS as usize * size_of::<types::io_uring_zcrx_rqe>();
        Refill { shared: Mapping::anonymous(size).unwrap(), offsets, area: 1 << 48, given: Mutex::default() }
    }

    /// What has been given back since this was last asked, as the kernel sees it.
    pub(crate) fn taken(&self) -> Vec<(u64, u32)> {
        // SAFETY: as in `give_back`.
        let shared = |at: u64| unsafe { &*with_exposed_provenance::<AtomicU32>((self.shared.addr() + at) as usize) };
        let (head, tail) = (shared(self.offsets.head), shared(self.offsets.tail).load(Ordering::Acquire));
        let entry = |i: u32| {
            let at = self.offsets.entries + u64::from(i % REFILLS) * size_of::<types::io_uring_zcrx_rqe>() as u64;
            // SAFETY: it has been written before the tail passed it.
            let entry = unsafe {
                with_exposed_provenance::<types::io_uring_zcrx_rqe>((self.shared.addr() + at) as usize).read()
            };
            (entry.off - self.area, entry.len)
        };
        let before = head.load(Ordering::Relaxed);
        let taken = (0..tail.wrapping_sub(before)).map(|i| entry(before.wrapping_add(i))).collect();
        head.store(tail, Ordering::Release);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_their_release() {
        let recent = ["7.3.4+deb13-amd64", "7.10.0", "8.0-rc1"].map(is_recent);
        let old = ["7.2.9", "6.12.57+deb13-amd64", "7", ""].map(is_recent);
        assert_eq!((recent, old), ([true; 3], [false; 4]));
    }

    #[test]
    fn what_there_is_no_room_for_goes_back_later() {
        let refill = Refill::of_no_queue();
        let piece = |i: u32| (u64::from(i) * 100, i);
        refill.give_back((0..REFILLS + 3).map(piece));
        assert_eq!(refill.taken(), (0..REFILLS).map(piece).collect::<Vec<_>>());
        assert_eq!(refill.taken(), []);
        refill.give_back([]);
        assert_eq!(refill.taken(), (REFILLS..REFILLS + 3).map(piece).collect::<Vec<_>>());
    }
}
