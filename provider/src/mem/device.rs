//! Memory of devices, as dma-bufs.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

use super::{mapped, softaccel};

/// Whose memory it is: copies between buffers of one kind need no host.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Kind {
    /// The CPU's: it can be mapped.
    Mapped,
    /// That of a soft accelerator, by its device number.
    SoftAccel(u64),
}

/// One piece of a copy: `len` bytes at `src` of one buffer go to `dst` of another.
pub(crate) use crate::sys::softaccel::Segment as Piece;

/// A dma-buf, and who copies from and to it: its device's engine, or the CPU if it can be mapped. Offsets are those in
/// the dma-buf; ranges are the caller's duty. A new kind of device is an implementation, and a line in [`open`].
pub(crate) trait Device: Debug + Send + Sync {
    /// Appends `len` bytes from `offset` to `target`.
    ///
    /// # Errors
    /// The device's; `target` is then as it was.
    fn read(&self, offset: u64, len: usize, target: &mut Vec<u8>) -> io::Result<()>;

    /// Writes `source` at `offset`.
    ///
    /// # Errors
    /// The device's; some bytes may have been written.
    fn write(&self, offset: u64, source: &[u8]) -> io::Result<()>;

    /// Replaces the word at `offset`, a multiple of 8, by what `change` makes of it, and gives what was there. Of
    /// several at a time the one is done before the other begins.
    ///
    /// # Errors
    /// The device's.
    fn update(&self, offset: u64, change: &dyn Fn(u64) -> u64) -> io::Result<u64>;

    /// What kind of memory it is.
    fn kind(&self) -> Kind;

    /// The dma-buf.
    fn dmabuf(&self) -> BorrowedFd<'_>;

    /// `len` bytes of memory of the same kind, to receive into.
    ///
    /// # Errors
    /// There are none left, or not for us.
    fn sibling(&self, len: u64) -> io::Result<Box<dyn Device>>;

    /// Copies pieces of `from`, in order.
    ///
    /// # Errors
    /// The device's; some bytes may have been written.
    fn gather(&self, from: &dyn Device, pieces: &[Piece]) -> io::Result<()> {
        // By the host: the kinds are different, or the CPU copies anyway.
        let mut bytes = Vec::new();
        for piece in pieces {
            bytes.clear();
            from.read(piece.src, piece.len as usize, &mut bytes)?;
            self.write(piece.dst, &bytes)?;
        }
        Ok(())
    }
}

/// The device behind a dma-buf of which `len` bytes from `offset` are wanted, to be written to or only read.
///
/// # Errors
/// `EOPNOTSUPP` if nobody can copy from it.
pub(super) fn open(fd: BorrowedFd<'_>, offset: u64, len: u64, write: bool) -> io::Result<Box<dyn Device>> {
    if let Some(memory) = softaccel::Memory::of(fd)? {
        return Ok(Box::new(memory));
    }
    Ok(Box::new(mapped::Memory::map(fd, offset, len, write)?))
}
