//! Memory of NVIDIA's GPUs: CUDA's driver copies, on a stream of ours, where the program has loaded it; CUDA Driver API
//! reference, cuda.h.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::io;
use std::mem::transmute_copy;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::{Copier, Device, Exported, Found, Kind, Located, Piece, Source};
use crate::sys::cancel::Uncancelled;
use crate::sys::mman::page_size;
use crate::sys::{dmabuf, thread};

/// Its addresses are also the program's, and its driver may export it as dma-bufs.
pub(super) const SOURCE: Source = Source { exported: Memory::exported, at: Memory::at };

/// An allocation of the program's on a GPU, or one of ours.
#[derive(Debug)]
struct Memory {
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
    fn at(addr: u64, len: u64) -> Found<Located> {
        let Some(allocation) = covering(addr, len)? else { return Ok(None) };
        allocation.synchronize();
        // dma-bufs are of whole pages.
        let base = allocation.start - allocation.start % page_size();
        let size = (allocation.start + allocation.size).next_multiple_of(page_size()) - base;
        Ok(Some((Box::new(Memory::new(allocation.gpu, base, size, false)), addr - base)))
    }

    fn exported(&Exported { fd, offset, len, addr, .. }: &Exported<'_>) -> Found<Box<dyn Device>> {
        // The name of its module.
        if dmabuf::exporter(fd)?.as_deref() != Some("nvidia") {
            return Ok(None);
        }
        let Some(base) = addr.checked_sub(offset) else { return Ok(None) };
        let Some(allocation) = covering(addr, len)? else { return Ok(None) };
        allocation.synchronize();
        let dmabuf = Some(fd.try_clone_to_owned()?);
        Ok(Some(Box::new(Memory { gpu: allocation.gpu, base, dmabuf, ours: false })))
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
        Kind { name: "cuda", device: self.gpu.ordinal as u64 }
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

/// CUdeviceptr: an address in a GPU's memory.
type Address = u64;
/// CUcontext, CUstream
type Handle = *mut c_void;
/// CUresult
type Outcome = c_uint;

/// cuda.h: CUresult, CUpointer_attribute, CUmemorytype, CUstream_flags, CUmemRangeHandleType
const OUT_OF_MEMORY: Outcome = 2;
const ATTRIBUTE_CONTEXT: c_uint = 1;
const ATTRIBUTE_MEMORY_TYPE: c_uint = 2;
const ATTRIBUTE_SYNC_MEMOPS: c_uint = 6;
const ATTRIBUTE_IS_MANAGED: c_uint = 8;
const ATTRIBUTE_DEVICE_ORDINAL: c_uint = 9;
const ATTRIBUTE_RANGE_START: c_uint = 11;
const ATTRIBUTE_RANGE_SIZE: c_uint = 12;
const MEMORY_TYPE_DEVICE: c_uint = 2;
const STREAM_NON_BLOCKING: c_uint = 1;
const RANGE_HANDLE_DMA_BUF: c_uint = 1;

/// Declares the driver's functions, and how they are found.
macro_rules! driver {
    ($($field:ident = $name:literal: fn($($argument:ty),*);)*) => {
        /// The driver's functions.
        #[derive(Debug)]
        struct Driver {
            $($field: unsafe extern "C" fn($($argument),*) -> Outcome,)*
        }

        impl Driver {
            /// Of a library that stays loaded.
            fn find(library: Handle) -> Option<Driver> {
                let function = |name: &CStr| {
                    // SAFETY: `library` is a handle of dlopen(3).
                    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
                    if found.is_null() {
                        tracing::warn!(?name, "CUDA's driver is too old: memory of GPUs cannot be registered");
                    }
                    (!found.is_null()).then_some(found)
                };
                Some(Driver {
                    $($field: {
                        let found = function($name)?;
                        // SAFETY: the driver's function of this name has this type, by cuda.h.
                        unsafe { transmute_copy(&found) }
                    },)*
                })
            }
        }
    };
}

driver! {
    attribute = c"cuPointerGetAttribute": fn(*mut c_void, c_uint, Address);
    set_attribute = c"cuPointerSetAttribute": fn(*const c_void, c_uint, Address);
    retain = c"cuDevicePrimaryCtxRetain": fn(*mut Handle, c_int);
    identity = c"cuCtxGetId": fn(Handle, *mut c_ulonglong);
    push = c"cuCtxPushCurrent_v2": fn(Handle);
    pop = c"cuCtxPopCurrent_v2": fn(*mut Handle);
    stream_create = c"cuStreamCreate": fn(*mut Handle, c_uint);
    stream_synchronize = c"cuStreamSynchronize": fn(Handle);
    to_host = c"cuMemcpyDtoHAsync_v2": fn(*mut c_void, Address, usize, Handle);
    to_device = c"cuMemcpyHtoDAsync_v2": fn(Address, *const c_void, usize, Handle);
    within = c"cuMemcpyDtoDAsync_v2": fn(Address, Address, usize, Handle);
    allocate = c"cuMemAlloc_v2": fn(*mut Address, usize);
    free = c"cuMemFree_v2": fn(Address);
    export = c"cuMemGetHandleForAddressRange": fn(*mut c_void, Address, usize, c_uint, c_ulonglong);
    error_string = c"cuGetErrorString": fn(Outcome, *mut *const c_char);
}

/// The driver, if the program has loaded it: without, it has no memory of GPUs.
fn driver() -> Option<&'static Driver> {
    static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();
    if let Some(driver) = DRIVER.get() {
        return driver.as_ref();
    }
    // SAFETY: the name is a C string. The handle is never closed, so that the library stays.
    let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    // The program may load it yet.
    if library.is_null() { None } else { DRIVER.get_or_init(|| Driver::find(library)).as_ref() }
}

impl Driver {
    /// The error that `outcome` of `call` stands for.
    fn check(&self, call: &str, outcome: Outcome) -> io::Result<()> {
        if outcome == 0 {
            return Ok(());
        }
        let mut text: *const c_char = ptr::null();
        // SAFETY: `text` is writable.
        unsafe { (self.error_string)(outcome, &raw mut text) };
        let text = if text.is_null() {
            "unknown error".into()
        } else {
            // SAFETY: the driver's texts are C strings that stay.
            unsafe { CStr::from_ptr(text) }.to_string_lossy()
        };
        let kind = if outcome == OUT_OF_MEMORY { io::ErrorKind::OutOfMemory } else { io::ErrorKind::Other };
        Err(io::Error::new(kind, format!("{call}: {text} ({outcome})")))
    }

    /// An attribute of an address, if the driver knows it.
    ///
    /// # Safety
    /// The attribute's type is `T`.
    unsafe fn attribute<T: Default>(&self, attribute: c_uint, address: Address) -> Option<T> {
        let mut value = T::default();
        // SAFETY: `value` is writable, and of the attribute's type by contract; any address may be asked for.
        let outcome = unsafe { (self.attribute)((&raw mut value).cast(), attribute, address) };
        (outcome == 0).then_some(value)
    }
}

/// A CUcontext; null at first.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Context(Handle);

impl Default for Context {
    fn default() -> Context {
        Context(ptr::null_mut())
    }
}

/// Memory that was allocated on a GPU.
#[derive(Debug)]
struct Allocation {
    gpu: Arc<Gpu>,
    start: Address,
    size: u64,
}

impl Allocation {
    /// The one that `address` belongs to, if it is a GPU's. What the CPU can reach, too (managed memory, pinned host
    /// memory), is not.
    ///
    /// # Errors
    /// The driver's.
    fn of(address: Address) -> io::Result<Option<Allocation>> {
        let Some(driver) = driver() else { return Ok(None) };
        // SAFETY: a CUmemorytype, an unsigned int.
        let kind = unsafe { driver.attribute::<c_uint>(ATTRIBUTE_MEMORY_TYPE, address) };
        // SAFETY: a boolean, as an unsigned int.
        let managed = unsafe { driver.attribute::<c_uint>(ATTRIBUTE_IS_MANAGED, address) };
        if kind != Some(MEMORY_TYPE_DEVICE) || managed.unwrap_or(0) != 0 {
            return Ok(None);
        }
        // SAFETY: a CUdeviceptr.
        let start = unsafe { driver.attribute::<Address>(ATTRIBUTE_RANGE_START, address) };
        // SAFETY: a size_t.
        let size = unsafe { driver.attribute::<u64>(ATTRIBUTE_RANGE_SIZE, address) };
        // SAFETY: an int.
        let ordinal = unsafe { driver.attribute::<c_int>(ATTRIBUTE_DEVICE_ORDINAL, address) };
        // SAFETY: a CUcontext.
        let context = unsafe { driver.attribute::<Context>(ATTRIBUTE_CONTEXT, address) };
        let (Some(start), Some(size), Some(ordinal)) = (start, size, ordinal) else {
            return Err(io::Error::other("CUDA's driver does not say what a GPU's memory belongs to"));
        };
        let gpu = Gpu::of(driver, ordinal, context.unwrap_or_default())?;
        Ok(Some(Allocation { gpu, start, size }))
    }

    /// From now on the program's own copies from and to this memory are done when its calls return; GPUDirect RDMA,
    /// "Synchronization and Memory Ordering".
    fn synchronize(&self) {
        let on: c_uint = 1;
        // SAFETY: the attribute's value is a boolean, as an unsigned int.
        let outcome =
            unsafe { (self.gpu.driver.set_attribute)((&raw const on).cast(), ATTRIBUTE_SYNC_MEMOPS, self.start) };
        if let Err(e) = self.gpu.driver.check("cuPointerSetAttribute", outcome) {
            tracing::debug!(error = %e, "a GPU's memory keeps its asynchronous copies");
        }
    }
}

/// A context of a GPU, with a stream of our own.
#[derive(Debug)]
struct Gpu {
    driver: &'static Driver,
    ordinal: c_int,
    context: Context,
    /// Another if the context has been reset since, and has no stream of ours any more.
    identity: c_ulonglong,
    stream: Handle,
}

// SAFETY: contexts and streams may be used by all threads; CUDA C++ programming guide, "Driver API", "Context".
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// The one of this context, or of the primary one where memory belongs to none (pools, virtual memory).
    fn of(driver: &'static Driver, ordinal: c_int, mut context: Context) -> io::Result<Arc<Gpu>> {
        static GPUS: Mutex<Vec<Arc<Gpu>>> = Mutex::new(Vec::new());
        let mut gpus = GPUS.lock();
        let primary = context == Context::default();
        if primary {
            // SAFETY: the context is writable. It is retained until the process ends.
            driver.check("cuDevicePrimaryCtxRetain", unsafe { (driver.retain)(&raw mut context.0, ordinal) })?;
        }
        let mut identity = 0;
        // SAFETY: the context is one that the driver gave, and `identity` is writable.
        driver.check("cuCtxGetId", unsafe { (driver.identity)(context.0, &raw mut identity) })?;
        gpus.retain(|gpu| gpu.context != context || gpu.identity == identity);
        if let Some(gpu) = gpus.iter().find(|gpu| gpu.context == context) {
            return Ok(gpu.clone());
        }
        let mut gpu = Gpu { driver, ordinal, context, identity, stream: ptr::null_mut() };
        let mut stream: Handle = ptr::null_mut();
        gpu.within(|driver| {
            // SAFETY: `stream` is writable.
            driver.check("cuStreamCreate", unsafe { (driver.stream_create)(&raw mut stream, STREAM_NON_BLOCKING) })
        })?;
        gpu.stream = stream;
        let gpu = Arc::new(gpu);
        gpus.push(gpu.clone());
        Ok(gpu)
    }

    /// Does something with our context as the thread's, whatever the program has made its own.
    fn within<T>(&self, work: impl FnOnce(&Driver) -> io::Result<T>) -> io::Result<T> {
        let _uncancelled = Uncancelled::begin();
        // SAFETY: the context is one that the driver gave; if it has been destroyed since, the driver says so.
        self.driver.check("cuCtxPushCurrent", unsafe { (self.driver.push)(self.context.0) })?;
        let result = work(self.driver);
        let mut popped: Handle = ptr::null_mut();
        // SAFETY: `popped` is writable.
        self.driver.check("cuCtxPopCurrent", unsafe { (self.driver.pop)(&raw mut popped) })?;
        result
    }

    /// Queues copies, and waits for them.
    fn copy(&self, queue: impl FnOnce(&Driver) -> io::Result<()>) -> io::Result<()> {
        self.within(|driver| {
            let queued = queue(driver);
            // Those that were queued before an error are waited for, too: they use memory that is the caller's.
            // SAFETY: the stream is ours.
            driver.check("cuStreamSynchronize", unsafe { (driver.stream_synchronize)(self.stream) })?;
            queued
        })
    }

    /// Appends the `len` bytes at `from` to `target`.
    ///
    /// # Errors
    /// The driver's, if the memory has been freed, say; `target` is then as it was.
    fn read(&self, from: Address, len: usize, target: &mut Vec<u8>) -> io::Result<()> {
        target.reserve(len);
        let end: *mut c_void = target.spare_capacity_mut().as_mut_ptr().cast();
        self.copy(|driver| {
            // SAFETY: `end..+len` is spare capacity, which nobody else touches until the stream is synchronized.
            driver.check("cuMemcpyDtoHAsync", unsafe { (driver.to_host)(end, from, len, self.stream) })
        })?;
        // SAFETY: the `len` bytes behind the old length were just written.
        unsafe { target.set_len(target.len() + len) };
        Ok(())
    }

    /// Writes `source` at `to`.
    ///
    /// # Errors
    /// The driver's.
    fn write(&self, to: Address, source: &[u8]) -> io::Result<()> {
        let (from, len) = (source.as_ptr().cast(), source.len());
        self.copy(|driver| {
            // SAFETY: `source` is readable until the stream is synchronized.
            driver.check("cuMemcpyHtoDAsync", unsafe { (driver.to_device)(to, from, len, self.stream) })
        })
    }

    /// Copies pieces (to, from, length) inside the GPU.
    ///
    /// # Errors
    /// The driver's.
    fn gather(&self, pieces: impl Iterator<Item = (Address, Address, usize)>) -> io::Result<()> {
        self.copy(|driver| {
            for (to, from, len) in pieces {
                // SAFETY: no memory of the process is involved.
                let outcome = unsafe { (driver.within)(to, from, len, self.stream) };
                driver.check("cuMemcpyDtoDAsync", outcome)?;
            }
            Ok(())
        })
    }

    /// `len` bytes of the GPU's memory.
    ///
    /// # Errors
    /// There are none left.
    fn allocate(&self, len: usize) -> io::Result<Address> {
        let mut address = 0;
        self.within(|driver| {
            // SAFETY: `address` is writable.
            driver.check("cuMemAlloc", unsafe { (driver.allocate)(&raw mut address, len) })
        })?;
        Ok(address)
    }

    /// Gives back what [`allocate`](Self::allocate) gave.
    fn free(&self, address: Address) {
        // SAFETY: no memory of the process is involved.
        let freed = self.within(|driver| driver.check("cuMemFree", unsafe { (driver.free)(address) }));
        if let Err(e) = freed {
            tracing::debug!(error = %e, "a GPU's memory is not given back");
        }
    }

    /// A dma-buf of `len` bytes at `start`, both multiples of the page size.
    ///
    /// # Errors
    /// The GPU, its driver or the kernel has none.
    fn export(&self, start: Address, len: usize) -> io::Result<OwnedFd> {
        let mut fd: RawFd = -1;
        self.within(|driver| {
            // SAFETY: the handle of this type is an int.
            let outcome = unsafe { (driver.export)((&raw mut fd).cast(), start, len, RANGE_HANDLE_DMA_BUF, 0) };
            driver.check("cuMemGetHandleForAddressRange", outcome)
        })?;
        if fd < 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // SAFETY: the driver has just opened it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}
