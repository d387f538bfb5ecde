//! Memory of the soft accelerator (kernel/softaccel): no CPU can map it, its engine copies.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use parking_lot::Mutex;

use super::{Device, Kind, Piece};
use crate::sys::dmabuf;
use crate::sys::softaccel::{SEGMENTS_MAX, SoftAccel};

/// A buffer of an accelerator.
#[derive(Debug)]
pub(super) struct Memory {
    accelerator: SoftAccel,
    dmabuf: OwnedFd,
    kind: Kind,
    /// Held by who changes a word: the engine has no atomics.
    updating: Mutex<()>,
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
        Ok(Memory { accelerator, dmabuf, kind, updating: Mutex::new(()) })
    }
}

impl Device for Memory {
    fn read(&self, offset: u64, len: usize, target: &mut Vec<u8>) -> io::Result<()> {
        self.accelerator.read(self.dmabuf.as_fd(), offset, len, target)
    }

    fn write(&self, offset: u64, source: &[u8]) -> io::Result<()> {
        self.accelerator.write(self.dmabuf.as_fd(), offset, source)
    }

    fn update(&self, offset: u64, change: &dyn Fn(u64) -> u64) -> io::Result<u64> {
        let _alone = self.updating.lock();
        let mut bytes = Vec::with_capacity(8);
        self.read(offset, 8, &mut bytes)?;
        let found = bytes.try_into().map(u64::from_ne_bytes).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        self.write(offset, &change(found).to_ne_bytes())?;
        Ok(found)
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn dmabuf(&self) -> BorrowedFd<'_> {
        self.dmabuf.as_fd()
    }

    fn sibling(&self, len: u64) -> io::Result<Box<dyn Device>> {
        let dmabuf = self.accelerator.allocate(len)?;
        Ok(Box::new(Memory::new(self.accelerator.try_clone()?, dmabuf)?))
    }

    fn gather(&self, from: &dyn Device, pieces: &[Piece]) -> io::Result<()> {
        for pieces in pieces.chunks(SEGMENTS_MAX) {
            self.accelerator.copy(from.dmabuf(), self.dmabuf.as_fd(), pieces)?;
        }
        Ok(())
    }
}
