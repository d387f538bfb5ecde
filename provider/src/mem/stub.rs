//! Memory of a device for tests: bytes of the host.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dmverbs_proto::Access;
use parking_lot::Mutex;

use super::region::Backing;
use super::{Device, Kind, PdId, Region, keys};

/// The memory, for whoever looks at it from outside.
#[derive(Debug)]
pub(crate) struct Memory {
    bytes: Mutex<Vec<u8>>,
    number: u64,
    /// Nobody can read it any more.
    broken: AtomicBool,
    dmabuf: File,
    /// How often that was asked for, and for how many milliseconds it then cannot be had.
    asked: AtomicUsize,
    slow: AtomicU64,
}

/// What a region has of it.
#[derive(Debug)]
struct Stub(Arc<Memory>);

impl Memory {
    /// `len` bytes of a device of their own.
    pub(crate) fn new(len: usize) -> Arc<Memory> {
        Memory::of(&vec![0; len])
    }

    /// The same with these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Arc<Memory> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        Arc::new(Memory {
            bytes: Mutex::new(bytes.to_vec()),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            broken: AtomicBool::new(false),
            dmabuf: File::open("/dev/null").unwrap(),
            asked: AtomicUsize::new(0),
            slow: AtomicU64::new(0),
        })
    }

    /// Registers all of it, from address 0 on.
    pub(crate) fn register(self: &Arc<Self>, pd: PdId) -> Arc<Region> {
        let (len, device) = (self.bytes.lock().len() as u64, self.device());
        let access = Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::REMOTE_READ;
        keys().insert(|key| Region::new(key, 0, len, 0, access, pd, Backing::Device(device))).unwrap()
    }

    pub(crate) fn device(self: &Arc<Self>) -> Box<dyn Device> {
        Box::new(Stub(self.clone()))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().clone()
    }

    /// Whether nothing of the engine's has it.
    pub(crate) fn is_let_go(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
    }

    /// Has it fail from now on.
    pub(crate) fn fail(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Whoever wants to bind it waits for so long.
    pub(crate) fn delay(&self, millis: u64) {
        self.slow.store(millis, Ordering::Relaxed);
    }

    /// How often somebody wanted to bind it.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Device for Stub {
    fn read(&self, offset: u64, len: usize, target: &mut Vec<u8>) -> io::Result<()> {
        if self.0.broken.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        target.extend_from_slice(&self.0.bytes.lock()[offset as usize..][..len]);
        Ok(())
    }

    fn write(&self, offset: u64, source: &[u8]) -> io::Result<()> {
        self.0.bytes.lock()[offset as usize..][..source.len()].copy_from_slice(source);
        Ok(())
    }

    fn kind(&self) -> Kind {
        Kind { name: "stub", device: self.0.number }
    }

    fn dmabuf(&self) -> Option<BorrowedFd<'_>> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(self.0.slow.load(Ordering::Relaxed)));
        Some(self.0.dmabuf.as_fd())
    }

    fn sibling(&self, len: u64) -> io::Result<Box<dyn Device>> {
        Ok(Memory::new(len as usize).device())
    }
}
