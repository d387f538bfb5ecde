//! Memory of NVIDIA's GPUs: CUDA's driver copies, on a stream of ours.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Copier, Device, Kind, Piece};
use crate::sys::cuda::{Address, Allocation, Gpu};
use crate::sys::mman::page_size;
use crate::sys::{dmabuf, thread};

/// An allocation of the program's on a GPU, or one of ours.
#[derive(Debug)]
pub(super) struct Memory {
    gpu: Arc<Gpu>,
    /// Of offset 0.
    base: Address,
    dmabuf: Option<OwnedFd>,
    /// It is freed with this.
    ours: bool,
}

/// Allocations of ours that the driver is to free, and has not freed yet; there are no more to be had while they are so many.
static FREEING: AtomicU32 = AtomicU32::new(0);
const FREEING_MAX: u32 = 4;

impl Memory {
    /// The memory that `len` bytes at `addr` belong to, and where in it they begin, if it is a GPU's.
    ///
    /// # Errors
    /// It ends before they do; or the driver's.
    pub(super) fn at(addr: u64, len: u64) -> io::Result<Option<(Memory, u64)>> {
        let Some(allocation) = covering(addr, len)? else { return Ok(None) };
        allocation.synchronize();
        // dma-bufs are of whole pages.
        let base = allocation.start - allocation.start % page_size();
        let size = (allocation.start + allocation.size).next_multiple_of(page_size()) - base;
        Ok(Some((Memory::new(allocation.gpu, base, size, false), addr - base)))
    }

    /// The memory behind a dma-buf, the byte at `offset` of which the program also knows as `addr`, if it is a GPU's.
    ///
    /// # Errors
    /// It has less than `len` bytes there; or the driver's.
    pub(super) fn exported(fd: BorrowedFd<'_>, offset: u64, len: u64, addr: u64) -> io::Result<Option<Memory>> {
        // The name of its module.
        if dmabuf::exporter(fd)?.as_deref() != Some("nvidia") {
            return Ok(None);
        }
        let Some(base) = addr.checked_sub(offset) else { return Ok(None) };
        let Some(allocation) = covering(addr, len)? else { return Ok(None) };
        allocation.synchronize();
        let dmabuf = Some(fd.try_clone_to_owned()?);
        Ok(Some(Memory { gpu: allocation.gpu, base, dmabuf, ours: false }))
    }

    fn new(gpu: Arc<Gpu>, base: Address, size: u64, ours: bool) -> Memory {
        let dmabuf = gpu
            .export(base, size as usize)
            .inspect_err(
                |e| tracing::info!(error = %e, "a GPU's memory has no dma-buf: its payload passes through the host"),
            )
            .ok();
        Memory { gpu, base, dmabuf, ours }
    }
}

/// The allocation with all of these bytes, if they are a GPU's.
fn covering(addr: u64, len: u64) -> io::Result<Option<Allocation>> {
    let Some(allocation) = Allocation::of(addr)? else { return Ok(None) };
    if addr - allocation.start > allocation.size.saturating_sub(len) || len > allocation.size {
        return Err(io::Error::from_raw_os_error(libc::EFAULT));
    }
    Ok(Some(allocation))
}

impl Drop for Memory {
    /// By a thread of its own: the driver waits for what the GPU does, and that may wait for what this thread brings it.
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        let (gpu, base) = (self.gpu.clone(), self.base);
        FREEING.fetch_add(1, Ordering::Relaxed);
        let free = move || {
            gpu.free(base);
            FREEING.fetch_sub(1, Ordering::Relaxed);
        };
        if let Err(e) = thread::spawn("dmverbs free", free) {
            tracing::warn!(error = %e, "a GPU's memory is not given back");
        }
    }
}

impl Device for Memory {
    fn read(&self, offset: u64, len: usize, target: &mut Vec<u8>) -> io::Result<()> {
        self.gpu.read(self.base + offset, len, target)
    }

    fn write(&self, offset: u64, source: &[u8]) -> io::Result<()> {
        self.gpu.write(self.base + offset, source)
    }

    fn kind(&self) -> Kind {
        Kind::Cuda(self.gpu.ordinal)
    }

    fn dmabuf(&self) -> Option<BorrowedFd<'_>> {
        self.dmabuf.as_ref().map(OwnedFd::as_fd)
    }

    fn sibling(&self, len: u64) -> io::Result<Box<dyn Device>> {
        if FREEING.load(Ordering::Relaxed) >= FREEING_MAX {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "the driver has not freed what it was given back"));
        }
        let base = self.gpu.allocate(len as usize)?;
        Ok(Box::new(Memory::new(self.gpu.clone(), base, len, true)))
    }

    fn base(&self) -> u64 {
        self.base
    }

    fn gather(&self, from: &dyn Device, pieces: &[Piece]) -> io::Result<Copier> {
        if from.kind() != self.kind() {
            return self.gather_by_host(from, pieces);
        }
        let pieces = pieces.iter().map(|piece| (self.base + piece.dst, from.base() + piece.src, piece.len as usize));
        self.gpu.gather(pieces).map(|()| Copier::Engine)
    }
}
