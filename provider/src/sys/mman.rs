//! Memory of the process, as the kernel sees it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{check, check_size};

fn page() -> u64 {
    // SAFETY: no pointers are involved.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

/// Makes sure that memory is mapped with the rights needed, page by page, as pinning would; madvise(2).
///
/// # Errors
/// Some of it is not.
pub(crate) fn populate(addr: u64, len: u64, write: bool) -> io::Result<()> {
    let page = page();
    let from = addr & !(page - 1);
    let end =
        addr.checked_add(len).and_then(|end| end.checked_next_multiple_of(page)).ok_or(io::ErrorKind::InvalidInput)?;
    let advice = if write { libc::MADV_POPULATE_WRITE } else { libc::MADV_POPULATE_READ };
    let start = std::ptr::without_provenance_mut(from as usize);
    loop {
        // SAFETY: MADV_POPULATE_* changes no contents, and checks the range itself.
        match check(unsafe { libc::madvise(start, (end - from) as usize, advice) }) {
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Copies from `source` into this process's memory at `addr`, wherever that is.
///
/// # Errors
/// EFAULT if it is not mapped writable; then some bytes may have been copied.
pub(crate) fn copy_in(addr: u64, source: &[u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: source.as_ptr().cast_mut().cast(), iov_len: source.len() };
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(addr as usize), iov_len: source.len() };
    // SAFETY: `local` is `source`; the kernel checks `remote`.
    let n = check_size(unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) })?;
    if n == source.len() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EFAULT)) }
}

/// Appends `len` bytes of this process's memory at `addr` to `target`.
///
/// # Errors
/// EFAULT if it is not mapped readable; `target` is then as it was.
pub(crate) fn copy_out(addr: u64, len: usize, target: &mut Vec<u8>) -> io::Result<()> {
    let before = target.len();
    target.resize(before + len, 0);
    let local = libc::iovec { iov_base: target[before..].as_mut_ptr().cast(), iov_len: len };
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(addr as usize), iov_len: len };
    // SAFETY: `local` is the fresh tail of `target`; the kernel checks `remote`.
    let result = check_size(unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) });
    if result.as_ref().is_ok_and(|n| *n == len) {
        return Ok(());
    }
    target.truncate(before);
    result.and(Err(io::Error::from_raw_os_error(libc::EFAULT)))
}

/// Whether a file is a dma-buf; statfs(2).
///
/// # Errors
/// EBADF if it is not open.
pub(crate) fn is_dmabuf(fd: BorrowedFd<'_>) -> io::Result<bool> {
    /// DMA_BUF_MAGIC of linux/magic.h.
    const MAGIC: i64 = 0x444d_4142;
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `stat` has room for a struct statfs.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstatfs(2) has filled it.
    Ok(unsafe { stat.assume_init() }.f_type == MAGIC)
}

/// A shared mapping of a file.
#[derive(Debug)]
pub(crate) struct Mapping {
    addr: u64,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes from `offset`, a multiple of the page size.
    pub(crate) fn new(fd: BorrowedFd<'_>, offset: u64, len: usize, write: bool) -> io::Result<Mapping> {
        let rights = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a mapping at an address of the kernel's choice touches no existing one.
        let addr = unsafe { libc::mmap(std::ptr::null_mut(), len, rights, libc::MAP_SHARED, fd.as_raw_fd(), offset) };
        if addr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { addr: addr.expose_provenance() as u64, len })
    }

    pub(crate) fn addr(&self) -> u64 {
        self.addr
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this range was mapped by `new` and nobody unmaps it before; users hold the region that owns this.
        unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(self.addr as usize), self.len) };
    }
}

/// The page size.
pub(crate) fn page_size() -> u64 {
    page()
}
