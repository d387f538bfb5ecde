//! dma-bufs: memory of a device, as a file; linux/dma-buf.h.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;
use super::mman::Mapping;

/// Whether `fd` is a dma-buf; fstatfs(2).
///
/// # Errors
/// EBADF if it is no open file.
pub(crate) fn is_dmabuf(fd: BorrowedFd<'_>) -> io::Result<bool> {
    /// DMA_BUF_MAGIC of linux/magic.h.
    const MAGIC: u64 = 0x444d_4142;
    let mut buffer = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `buffer` has room for a struct statfs.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), buffer.as_mut_ptr()) })?;
    // SAFETY: fstatfs succeeded, hence filled it.
    Ok(unsafe { buffer.assume_init() }.f_type as u64 == MAGIC)
}

/// The bytes of a dma-buf; Documentation/driver-api/dma-buf.rst.
///
/// # Errors
/// EBADF if it is no open file.
pub(crate) fn size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: no pointers are involved.
    let end = unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_END) };
    u64::try_from(end).map_err(|_| io::Error::last_os_error())
}

/// Who exports a dma-buf, by the name that proc_pid_fdinfo(5) gives; `None` for a file that is none.
///
/// # Errors
/// /proc cannot be read.
pub(crate) fn exporter(fd: BorrowedFd<'_>) -> io::Result<Option<String>> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    Ok(info.lines().find_map(|line| line.strip_prefix("exp_name:")).map(|name| name.trim().to_owned()))
}

/// A dma-buf of `len` bytes of host memory, a multiple of 2 MiB; linux/udmabuf.h. In pages of 2 MiB, if the system has
/// so many: the fewer pieces, the faster a NIC's queue takes them.
///
/// # Errors
/// ENOENT or EACCES where /dev/udmabuf cannot be opened.
pub(crate) fn of_host_memory(len: u64) -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open("/dev/udmabuf")?;
    lend(&device, len, libc::MFD_HUGETLB).or_else(|_| lend(&device, len, 0))
}

fn lend(device: &File, len: u64, pages: libc::c_uint) -> io::Result<OwnedFd> {
    /// struct udmabuf_create
    #[repr(C)]
    struct Create {
        memfd: u32,
        flags: u32,
        offset: u64,
        size: u64,
    }
    /// UDMABUF_CREATE: _IOW('u', 0x42, struct udmabuf_create)
    const CREATE: libc::Ioctl = 0x4018_7542;
    const CLOEXEC: u32 = 1;
    let flags = libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC | pages;
    // SAFETY: the name is a C string.
    let memfd = check(unsafe { libc::memfd_create(c"dmverbs".as_ptr(), flags) })?;
    // SAFETY: `memfd` was just opened and belongs to nobody else.
    let memfd = unsafe { OwnedFd::from_raw_fd(memfd) };
    let size = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: no pointers are involved.
    check(unsafe { libc::ftruncate(memfd.as_raw_fd(), size) })?;
    // SAFETY: no pointers are involved.
    check(unsafe { libc::fcntl(memfd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) })?;
    let create = Create { memfd: memfd.as_raw_fd() as u32, flags: CLOEXEC, offset: 0, size: len };
    // SAFETY: the call takes a struct udmabuf_create.
    let fd = check(unsafe { libc::ioctl(device.as_raw_fd(), CREATE, &raw const create) })?;
    // SAFETY: `fd` was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A dma-buf that the CPU may touch between [`DmaBuf::access`] and the end of what that gives.
#[derive(Debug)]
pub(crate) struct DmaBuf {
    fd: OwnedFd,
    mapping: Mapping,
}

impl DmaBuf {
    /// Maps `len` bytes of the dma-buf from `offset`, a multiple of the page size.
    pub(crate) fn map(fd: BorrowedFd<'_>, offset: u64, len: usize, write: bool) -> io::Result<DmaBuf> {
        let mapping = Mapping::new(fd, offset, len, write)?;
        Ok(DmaBuf { fd: fd.try_clone_to_owned()?, mapping })
    }

    pub(crate) fn addr(&self) -> u64 {
        self.mapping.addr()
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Lets the CPU see what the device wrote, and the device, afterwards, what the CPU wrote.
    ///
    /// # Errors
    /// The exporter refuses.
    pub(crate) fn access(&self, write: bool) -> io::Result<CpuAccess<'_>> {
        let rights = if write { SYNC_READ | SYNC_WRITE } else { SYNC_READ };
        sync(self.fd.as_fd(), SYNC_START | rights)?;
        Ok(CpuAccess { fd: self.fd.as_fd(), rights })
    }
}

/// The CPU may touch a dma-buf until this is dropped.
#[derive(Debug)]
pub(crate) struct CpuAccess<'a> {
    fd: BorrowedFd<'a>,
    rights: u64,
}

impl Drop for CpuAccess<'_> {
    fn drop(&mut self) {
        if let Err(e) = sync(self.fd, SYNC_END | self.rights) {
            tracing::warn!(error = %e, "the exporter of a dma-buf did not end CPU access");
        }
    }
}

const SYNC_READ: u64 = 1;
const SYNC_WRITE: u64 = 2;
const SYNC_START: u64 = 0;
const SYNC_END: u64 = 4;

fn sync(fd: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    /// DMA_BUF_IOCTL_SYNC: _IOW('b', 0, struct dma_buf_sync), which is one 64-bit word.
    const SYNC: libc::Ioctl = 0x4008_6200;
    loop {
        // SAFETY: `flags` is as long as struct dma_buf_sync, and only read.
        match check(unsafe { libc::ioctl(fd.as_raw_fd(), SYNC, &raw const flags) }) {
            Ok(_) => return Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
            Err(e) => return Err(e),
        }
    }
}
