//! Memory of devices, as dma-bufs.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

use parking_lot::Mutex;

use super::{cuda, mapped, softaccel};

/// Whose memory it is: copies between buffers of one kind need no host.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Kind {
    /// The CPU's: it can be mapped.
    Mapped,
    /// That of a soft accelerator, by its device number.
    SoftAccel(u64),
    /// That of a GPU, by its ordinal.
    Cuda(i32),
}

/// Who has copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Copier {
    /// The device's engine: the host has touched nothing.
    Engine,
    Cpu,
}

/// One piece of a copy: `len` bytes at `src` of one buffer go to `dst` of another.
pub(crate) use crate::sys::softaccel::Segment as Piece;

/// Memory of a device, and who copies from and to it: its device's engine, or the CPU if it can be mapped. Offsets are
/// those in its dma-buf; ranges are the caller's duty. A new kind of device is an implementation, and a line in [`open`].
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
    fn update(&self, offset: u64, change: &dyn Fn(u64) -> u64) -> io::Result<u64> {
        /// Held by who changes a word of a device whose engine has no atomics.
        static UPDATING: Mutex<()> = Mutex::new(());
        let _alone = UPDATING.lock();
        let mut bytes = Vec::with_capacity(8);
        self.read(offset, 8, &mut bytes)?;
        let found = bytes.try_into().map(u64::from_ne_bytes).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        self.write(offset, &change(found).to_ne_bytes())?;
        Ok(found)
    }

    /// What kind of memory it is.
    fn kind(&self) -> Kind;

    /// The dma-buf; without one, all payload passes through the host.
    fn dmabuf(&self) -> Option<BorrowedFd<'_>>;

    /// `len` bytes of memory of the same kind, to receive into.
    ///
    /// # Errors
    /// There are none left, or not for us.
    fn sibling(&self, len: u64) -> io::Result<Box<dyn Device>>;

    /// Copies pieces of `from`, in order, and says who did.
    ///
    /// # Errors
    /// The device's; some bytes may have been written.
    fn gather(&self, from: &dyn Device, pieces: &[Piece]) -> io::Result<Copier> {
        self.gather_by_host(from, pieces)
    }

    /// Where the device's engine finds offset 0, if that takes addresses.
    fn base(&self) -> u64 {
        0
    }

    /// Copies pieces of `from` where the kinds are different, or the CPU copies anyway.
    ///
    /// # Errors
    /// Those of both.
    fn gather_by_host(&self, from: &dyn Device, pieces: &[Piece]) -> io::Result<Copier> {
        let mut bytes = Vec::new();
        for piece in pieces {
            bytes.clear();
            from.read(piece.src, piece.len as usize, &mut bytes)?;
            self.write(piece.dst, &bytes)?;
        }
        Ok(Copier::Cpu)
    }
}

/// The device behind a dma-buf of which `len` bytes from `offset` are wanted, to be written to or only read. `addr` is
/// what the program calls their first: for a GPU's memory, its address there.
///
/// # Errors
/// `EOPNOTSUPP` if nobody can copy from it.
pub(super) fn open(fd: BorrowedFd<'_>, offset: u64, len: u64, addr: u64, write: bool) -> io::Result<Box<dyn Device>> {
    if let Some(memory) = softaccel::Memory::of(fd)? {
        return Ok(Box::new(memory));
    }
    if let Some(memory) = cuda::Memory::exported(fd, offset, len, addr)? {
        return Ok(Box::new(memory));
    }
    Ok(Box::new(mapped::Memory::map(fd, offset, len, write)?))
}

/// The device that `len` bytes at an address of the program's belong to, and where they begin in its memory; nothing for
/// what the CPU can reach.
///
/// # Errors
/// `EFAULT` if the memory ends before they do.
pub(super) fn at(addr: u64, len: u64) -> io::Result<Option<(Box<dyn Device>, u64)>> {
    let found = cuda::Memory::at(addr, len)?;
    Ok(found.map(|(memory, offset)| (Box::new(memory) as Box<dyn Device>, offset)))
}
