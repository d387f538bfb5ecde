//! Memory of devices, most of it as dma-bufs: what the engine asks of it, and a file for each kind of device.

mod cuda;
mod mapped;
mod softaccel;

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

use parking_lot::Mutex;

/// Every kind of device, in the order in which they are asked whose some memory is. A new one is a file, and is told of
/// here.
const SOURCES: [Source; 3] = [softaccel::SOURCE, cuda::SOURCE, mapped::SOURCE];

/// How memory is found to be of a kind of device: see [`open`] and [`at`].
struct Source {
    exported: fn(&Exported<'_>) -> Found<Box<dyn Device>>,
    at: fn(addr: u64, len: u64) -> Found<Located>,
}

/// Nothing for memory of another kind.
type Found<T> = io::Result<Option<T>>;

/// A device, and an offset in its memory.
type Located = (Box<dyn Device>, u64);

/// A range of a dma-buf.
pub(super) struct Exported<'a> {
    pub(super) fd: BorrowedFd<'a>,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// What the program calls its first byte: for a GPU's memory, its address there.
    pub(super) addr: u64,
    /// Whether it is to be written to.
    pub(super) write: bool,
}

/// Whose memory it is: copies between buffers of one kind need no host.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Kind {
    /// Of its file.
    pub(super) name: &'static str,
    /// The device's number among those.
    pub(super) device: u64,
}

/// Who has copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Copier {
    /// The device's engine: the host has touched nothing.
    Engine,
    Cpu,
}

/// One piece of a copy: `len` bytes at `src` of one buffer go to `dst` of another. (A struct softaccel_segment, so that
/// a list of them is one for the soft accelerator.)
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) src: u64,
    pub(crate) dst: u64,
    pub(crate) len: u64,
}

/// Memory of a device, and who copies from and to it: its device's engine, or the CPU if it can be mapped. Offsets are
/// those in its dma-buf; ranges are the caller's duty.
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

/// The device behind a dma-buf.
///
/// # Errors
/// `EOPNOTSUPP` if nobody can copy from it.
pub(super) fn open(range: &Exported<'_>) -> io::Result<Box<dyn Device>> {
    for source in SOURCES {
        if let Some(device) = (source.exported)(range)? {
            return Ok(device);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}

/// The device that `len` bytes at an address of the program's belong to, and where they begin in its memory; nothing for
/// what the CPU can reach.
///
/// # Errors
/// `EFAULT` if the memory ends before they do.
pub(super) fn at(addr: u64, len: u64) -> Found<Located> {
    for source in SOURCES {
        if let Some(found) = (source.at)(addr, len)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
