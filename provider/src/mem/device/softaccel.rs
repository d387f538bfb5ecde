//! Memory of the soft accelerator (kernel/softaccel): no CPU can map it, its engine copies; include/uapi/softaccel.h.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rdma_core_sys::softaccel as uapi;

use super::{Copier, Device, Exported, Found, Kind, Piece, Source};
use crate::sys::{check, dmabuf};

/// Its buffers are dma-bufs.
pub(super) const SOURCE: Source = Source { exported: Memory::exported, at: |_, _| Ok(None) };

/// A buffer of an accelerator.
#[derive(Debug)]
struct Memory {
    accelerator: SoftAccel,
    dmabuf: OwnedFd,
    kind: Kind,
}

impl Memory {
    fn exported(&Exported { fd, .. }: &Exported<'_>) -> Found<Box<dyn Device>> {
        if dmabuf::exporter(fd)?.as_deref() != Some("softaccel") {
            return Ok(None);
        }
        let Some(accelerator) = SoftAccel::all().find(|accelerator| accelerator.owns(fd)) else {
            tracing::error!("the soft accelerator of a dma-buf cannot be opened; see the rights of /dev/softaccel*");
            return Err(io::ErrorKind::PermissionDenied.into());
        };
        Ok(Some(Box::new(Memory::new(accelerator, fd.try_clone_to_owned()?)?)))
    }

    fn new(accelerator: SoftAccel, dmabuf: OwnedFd) -> io::Result<Memory> {
        let kind = Kind { name: "softaccel", device: accelerator.number()? };
        Ok(Memory { accelerator, dmabuf, kind })
    }
}

impl Device for Memory {
    fn read(&self, offset: u64, len: usize, target: &mut Vec<u8>) -> io::Result<()> {
        self.accelerator.read(self.dmabuf.as_fd(), offset, len, target)
    }

    fn write(&self, offset: u64, source: &[u8]) -> io::Result<()> {
        self.accelerator.write(self.dmabuf.as_fd(), offset, source)
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn dmabuf(&self) -> Option<BorrowedFd<'_>> {
        Some(self.dmabuf.as_fd())
    }

    fn sibling(&self, len: u64) -> io::Result<Box<dyn Device>> {
        let dmabuf = self.accelerator.allocate(len)?;
        Ok(Box::new(Memory::new(self.accelerator.try_clone()?, dmabuf)?))
    }

    fn gather(&self, from: &dyn Device, pieces: &[Piece]) -> io::Result<Copier> {
        let Some(source) = from.dmabuf().filter(|_| from.kind() == self.kind) else {
            return self.gather_by_host(from, pieces);
        };
        for pieces in pieces.chunks(SEGMENTS_MAX) {
            self.accelerator.copy(source, self.dmabuf.as_fd(), pieces)?;
        }
        Ok(Copier::Engine)
    }
}

/// An open accelerator.
#[derive(Debug)]
struct SoftAccel(File);

/// Pieces of one copy at most.
const SEGMENTS_MAX: usize = uapi::SOFTACCEL_SEGMENTS_MAX as usize;

// A list of pieces is one of segments.
const _: () = assert!(
    size_of::<Piece>() == size_of::<uapi::softaccel_segment>()
        && offset_of!(Piece, src) == offset_of!(uapi::softaccel_segment, src)
        && offset_of!(Piece, dst) == offset_of!(uapi::softaccel_segment, dst)
        && offset_of!(Piece, len) == offset_of!(uapi::softaccel_segment, len)
);

impl SoftAccel {
    /// Every accelerator of the machine that this process may open.
    fn all() -> impl Iterator<Item = SoftAccel> {
        let nodes = fs::read_dir("/dev").into_iter().flatten().flatten();
        nodes
            .filter(|node| node.file_name().as_encoded_bytes().starts_with(b"softaccel"))
            .filter_map(|node| OpenOptions::new().read(true).write(true).open(node.path()).ok().map(SoftAccel))
    }

    /// Its device number.
    fn number(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.rdev())
    }

    fn try_clone(&self) -> io::Result<SoftAccel> {
        self.0.try_clone().map(SoftAccel)
    }

    /// Whether `dmabuf` is memory of this accelerator: it sums no other's.
    fn owns(&self, dmabuf: BorrowedFd<'_>) -> bool {
        let mut sum = uapi::softaccel_sum { fd: dmabuf.as_raw_fd(), ..Default::default() };
        // SAFETY: the call takes a struct softaccel_sum, which is written back to.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), uapi::SUM as _, &raw mut sum) }).is_ok()
    }

    /// `len` bytes of its memory, a multiple of 4096, as a dma-buf.
    ///
    /// # Errors
    /// ENOMEM when there is no room.
    fn allocate(&self, len: u64) -> io::Result<OwnedFd> {
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
    fn copy(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, pieces: &[Piece]) -> io::Result<()> {
        // SAFETY: both ends are dma-bufs: no memory of this process is named.
        unsafe { self.run(from.as_raw_fd(), to.as_raw_fd(), pieces) }
    }

    /// Copies `source` into a buffer, at `offset`.
    ///
    /// # Errors
    /// EINVAL if that is not inside.
    fn write(&self, to: BorrowedFd<'_>, offset: u64, source: &[u8]) -> io::Result<()> {
        let src = source.as_ptr().expose_provenance() as u64;
        let piece = Piece { src, dst: offset, len: source.len() as u64 };
        // SAFETY: the piece is read from `source`.
        unsafe { self.run(uapi::SOFTACCEL_HOST, to.as_raw_fd(), &[piece]) }
    }

    /// Appends `len` bytes of a buffer from `offset` to `target`.
    ///
    /// # Errors
    /// EINVAL if they are not inside; `target` is then as it was.
    fn read(&self, from: BorrowedFd<'_>, offset: u64, len: usize, target: &mut Vec<u8>) -> io::Result<()> {
        target.reserve(len);
        let dst = target.spare_capacity_mut().as_mut_ptr().expose_provenance() as u64;
        // SAFETY: the piece is written to spare capacity of `target`, reserved above.
        unsafe { self.run(from.as_raw_fd(), uapi::SOFTACCEL_HOST, &[Piece { src: offset, dst, len: len as u64 }])? };
        // SAFETY: the `len` bytes behind the old length were just written.
        unsafe { target.set_len(target.len() + len) };
        Ok(())
    }

    /// # Safety
    /// Where an end is the host, the pieces name memory there that may be read, or written.
    unsafe fn run(&self, src_fd: i32, dst_fd: i32, pieces: &[Piece]) -> io::Result<()> {
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
