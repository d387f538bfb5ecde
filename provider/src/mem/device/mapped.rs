//! Memory of devices that the CPU can map: udmabuf, dma-heaps, and others.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::{Device, Kind, Source};
use crate::mem::bytes::{append, publish, word};
use crate::mem::region::update;
use crate::sys::dmabuf::{self, DmaBuf};
use crate::sys::mman;

/// Whatever nobody else has.
pub(super) const SOURCE: Source = Source {
    exported: |range| {
        let memory = Memory::map(range.fd, range.offset, range.len, range.write)?;
        Ok(Some(Box::new(memory)))
    },
    at: |_, _| Ok(None),
};

/// The kernel's own number, which drivers let out; linux/errno.h.
const ENOTSUPP: i32 = 524;

/// A range of a dma-buf, mapped: the pages around it.
///
/// # Invariants
/// `dmabuf` maps the dma-buf from `start` on, a multiple of the page size, writable if anything is written.
#[derive(Debug)]
struct Memory {
    dmabuf: DmaBuf,
    start: u64,
}

impl Memory {
    /// Maps `len` bytes from `offset`.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if its exporter cannot, or not with these rights.
    fn map(fd: BorrowedFd<'_>, offset: u64, len: u64, write: bool) -> io::Result<Memory> {
        let skip = offset % mman::page_size();
        let size = len.checked_add(skip).and_then(|n| usize::try_from(n).ok()).ok_or(io::ErrorKind::OutOfMemory)?;
        let start = offset - skip;
        let dmabuf = DmaBuf::map(fd, start, size, write).map_err(|e| match e.raw_os_error() {
            // EINVAL: its exporter has no way to map it; the range has been checked.
            Some(libc::EINVAL | libc::ENODEV | libc::EACCES | libc::EPERM | libc::ENOTTY | ENOTSUPP) => {
                io::Error::from_raw_os_error(libc::EOPNOTSUPP)
            }
            _ => e,
        })?;
        Ok(Memory { dmabuf, start })
    }

    /// Where the byte at `offset` of the dma-buf is mapped.
    fn addr(&self, offset: u64) -> u64 {
        self.dmabuf.addr() + (offset - self.start)
    }
}

impl Device for Memory {
    fn read(&self, offset: u64, len: usize, target: &mut Vec<u8>) -> io::Result<()> {
        let _access = self.dmabuf.access(false)?;
        // SAFETY: callers stay inside the range that is mapped (Device).
        unsafe { append(self.addr(offset), len, target) };
        Ok(())
    }

    fn write(&self, offset: u64, source: &[u8]) -> io::Result<()> {
        let _access = self.dmabuf.access(true)?;
        // SAFETY: callers stay inside the range that is mapped (Device), writable for whoever writes (invariant).
        unsafe { publish(self.addr(offset), source) };
        Ok(())
    }

    fn update(&self, offset: u64, change: &dyn Fn(u64) -> u64) -> io::Result<u64> {
        let _access = self.dmabuf.access(true)?;
        // SAFETY: as for `write`; the mapping lives as long as `self`.
        Ok(update(unsafe { word(self.addr(offset)) }, change))
    }

    fn kind(&self) -> Kind {
        Kind { name: "mapped", device: 0 }
    }

    fn dmabuf(&self) -> Option<BorrowedFd<'_>> {
        Some(self.dmabuf.fd())
    }

    fn sibling(&self, len: u64) -> io::Result<Box<dyn Device>> {
        let dmabuf = dmabuf::of_host_memory(len)?;
        Ok(Box::new(Memory::map(dmabuf.as_fd(), 0, len, true)?))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Mapping is the same for every file: no dma-buf is needed to see it.
    #[test]
    fn a_range_is_mapped_wherever_in_a_page_it_begins() {
        let path = std::env::current_exe().unwrap();
        let (bytes, file) = (std::fs::read(&path).unwrap(), File::open(&path).unwrap());
        let memory = Memory::map(file.as_fd(), 5000, 5000, false).unwrap();
        let mut out = Vec::new();
        mman::copy_out(memory.addr(5000), 5000, &mut out).unwrap();
        assert_eq!(out, bytes[5000..10_000]);
    }

    #[test]
    fn a_file_that_cannot_be_mapped_as_asked_is_not_supported() {
        let refused = |result: io::Result<Memory>| result.unwrap_err().raw_os_error();
        let read_only = File::open("/proc/self/exe").unwrap();
        assert_eq!(refused(Memory::map(read_only.as_fd(), 0, 4096, true)), Some(libc::EOPNOTSUPP));
        let (pipe, _other) = std::io::pipe().unwrap();
        assert_eq!(refused(Memory::map(pipe.as_fd(), 0, 4096, false)), Some(libc::EOPNOTSUPP));
    }
}
