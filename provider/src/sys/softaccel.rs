//! The soft accelerator's calls; include/uapi/softaccel.h.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rdma_core_sys::softaccel as uapi;

use super::check;

/// One piece of a copy: `len` bytes, from and to an offset in a buffer of the device.
pub(crate) use uapi::softaccel_segment as Segment;

/// An open accelerator.
#[derive(Debug)]
pub(crate) struct SoftAccel(File);

/// Pieces of one copy at most.
pub(crate) const SEGMENTS_MAX: usize = uapi::SOFTACCEL_SEGMENTS_MAX as usize;

impl SoftAccel {
    /// Every accelerator of the machine that this process may open.
    pub(crate) fn all() -> impl Iterator<Item = SoftAccel> {
        let nodes = fs::read_dir("/dev").into_iter().flatten().flatten();
        nodes
            .filter(|node| node.file_name().as_encoded_bytes().starts_with(b"softaccel"))
            .filter_map(|node| OpenOptions::new().read(true).write(true).open(node.path()).ok().map(SoftAccel))
    }

    /// Its device number.
    pub(crate) fn number(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.rdev())
    }

    pub(crate) fn try_clone(&self) -> io::Result<SoftAccel> {
        self.0.try_clone().map(SoftAccel)
    }

    /// Whether `dmabuf` is memory of this accelerator: it sums no other's.
    pub(crate) fn owns(&self, dmabuf: BorrowedFd<'_>) -> bool {
        let mut sum = uapi::softaccel_sum { fd: dmabuf.as_raw_fd(), ..Default::default() };
        // SAFETY: the call takes a struct softaccel_sum, which is written back to.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), uapi::SUM as _, &raw mut sum) }).is_ok()
    }

    /// `len` bytes of its memory, a multiple of 4096, as a dma-buf.
    ///
    /// # Errors
    /// ENOMEM when there is no room.
    pub(crate) fn allocate(&self, len: u64) -> io::Result<OwnedFd> {
        let mut memory = uapi::softaccel_alloc { size: len, ..Default::default() };
        // SAFETY: the call takes a struct softaccel_alloc, which is written back to.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), uapi::ALLOC as _, &raw mut memory) })?;
        // SAFETY: the call succeeded: it is a fresh descriptor that belongs to us.
        Ok(unsafe { OwnedFd::from_raw_fd(memory.fd) })
    }

    /// Copies between buffers of this accelerator, piece by piece; at most [`SEGMENTS_MAX`] of them.
    ///
    /// # Errors
    /// EINVAL for a piece that is not inside; then nothing was copied.
    pub(crate) fn copy(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, pieces: &[Segment]) -> io::Result<()> {
        // SAFETY: both ends are dma-bufs: no memory of this process is named.
        unsafe { self.run(from.as_raw_fd(), to.as_raw_fd(), pieces) }
    }

    /// Copies `source` into a buffer, at `offset`.
    ///
    /// # Errors
    /// EINVAL if that is not inside.
    pub(crate) fn write(&self, to: BorrowedFd<'_>, offset: u64, source: &[u8]) -> io::Result<()> {
        let src = source.as_ptr().expose_provenance() as u64;
        let piece = Segment { src, dst: offset, len: source.len() as u64 };
        // SAFETY: the piece is read from `source`.
        unsafe { self.run(uapi::SOFTACCEL_HOST, to.as_raw_fd(), &[piece]) }
    }

    /// Appends `len` bytes of a buffer from `offset` to `target`.
    ///
    /// # Errors
    /// EINVAL if they are not inside; `target` is then as it was.
    pub(crate) fn read(&self, from: BorrowedFd<'_>, offset: u64, len: usize, target: &mut Vec<u8>) -> io::Result<()> {
        target.reserve(len);
        let dst = target.spare_capacity_mut().as_mut_ptr().expose_provenance() as u64;
        // SAFETY: the piece is written to spare capacity of `target`, reserved above.
        unsafe { self.run(from.as_raw_fd(), uapi::SOFTACCEL_HOST, &[Segment { src: offset, dst, len: len as u64 }])? };
        // SAFETY: the `len` bytes behind the old length were just written.
        unsafe { target.set_len(target.len() + len) };
        Ok(())
    }

    /// # Safety
    /// Where an end is the host, the pieces name memory there that may be read, or written.
    unsafe fn run(&self, src_fd: i32, dst_fd: i32, pieces: &[Segment]) -> io::Result<()> {
        let segments = pieces.as_ptr().expose_provenance() as u64;
        let copy = uapi::softaccel_copy { segments, count: pieces.len() as u32, src_fd, dst_fd, event_fd: -1 };
        loop {
            // SAFETY: the call takes a struct softaccel_copy with a list as long as it says, whose pieces are the
            // caller's duty.
            match check(unsafe { libc::ioctl(self.0.as_raw_fd(), uapi::COPY as _, &raw const copy) }) {
                Ok(_) => return Ok(()),
                // The same bytes are copied again.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}
