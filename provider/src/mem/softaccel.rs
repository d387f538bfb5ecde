//! Memory of the soft accelerator (kernel/softaccel): no CPU can map it, its engine copies.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Copier, Device, Kind, Piece};
use crate::sys::dmabuf;
use crate::sys::softaccel::{SEGMENTS_MAX, SoftAccel};

/// A buffer of an accelerator.
#[derive(Debug)]
pub(super) struct Memory {
    accelerator: SoftAccel,
    dmabuf: OwnedFd,
    kind: Kind,
}

impl Memory {
    /// The buffer behind `fd`, if it is one.
    pub(super) fn of(fd: BorrowedFd<'_>) -> io::Result<Option<Memory>> {
        if dmabuf::exporter(fd)?.as_deref() != Some("softaccel") {
            return Ok(None);
        }
        let Some(accelerator) = SoftAccel::all().find(|accelerator| accelerator.owns(fd)) else {
            tracing::error!("the soft accelerator of a dma-buf cannot be opened; see the rights of /dev/softaccel*");
            return Err(io::ErrorKind::PermissionDenied.into());
        };
        Memory::new(accelerator, fd.try_clone_to_owned()?).map(Some)
    }

    fn new(accelerator: SoftAccel, dmabuf: OwnedFd) -> io::Result<Memory> {
        let kind = Kind::SoftAccel(accelerator.number()?);
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
