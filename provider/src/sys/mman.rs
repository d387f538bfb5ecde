//! Memory of the process, as the kernel sees it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use super::cancel::Uncancelled;
use super::{check, check_size};

fn page() -> u64 {
    // SAFETY: no pointers are involved.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

/// Makes sure that memory is mapped with the rights needed, page by page, as pinning would; madvise(2).
///
/// Kernels before 5.14 do not know the advice, and none takes it for mappings of devices: there the list of mappings
/// is asked.
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
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => break,
            Err(e) => return Err(e),
        }
    }
    let _uncancelled = Uncancelled::begin();
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    if covers(&maps, from, end, write) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EFAULT)) }
}

/// Whether `from..end` is all mapped with the rights needed, by a list of mappings in ascending order; proc(5).
fn covers(maps: &str, mut from: u64, end: u64, write: bool) -> bool {
    let mapping = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (low, high) = range.split_once('-')?;
        let granted = rest.starts_with(if write { "rw" } else { "r" });
        Some((u64::from_str_radix(low, 16).ok()?, u64::from_str_radix(high, 16).ok()?, granted))
    };
    for (low, high, granted) in maps.lines().filter_map(mapping) {
        if from >= end || from < low {
            break;
        }
        if from < high {
            if !granted {
                break;
            }
            from = high;
        }
    }
    from >= end
}

/// Whether the fault-safe copies work here: the system calls may be filtered out, as some containers do.
pub(crate) fn can_copy() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let word = 0_u64;
        let addr = (&raw const word).expose_provenance() as u64;
        copy_out(addr, 8, &mut Vec::new()).inspect_err(|e| tracing::warn!("process_vm_readv fails: {e}")).is_ok()
    })
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

/// A mapping of a file, which is shared, or of no file.
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

    /// Maps `len` bytes of no file: zeros, of this process alone.
    pub(crate) fn anonymous(len: usize) -> io::Result<Mapping> {
        let (rights, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: as in `new`.
        let addr = unsafe { libc::mmap(std::ptr::null_mut(), len, rights, kind, -1, 0) };
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

/// The machine's memory, in bytes; sysconf(3).
pub(crate) fn memory() -> u64 {
    // SAFETY: no pointers are involved.
    let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
    u64::try_from(pages).unwrap_or(0) * page_size()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three private pages: writable, read-only, without any right.
    fn three_pages() -> Mapping {
        let pages = Mapping::anonymous(3 * page() as usize).unwrap();
        for (i, rights) in [(1, libc::PROT_READ), (2, libc::PROT_NONE)] {
            let at = std::ptr::with_exposed_provenance_mut((pages.addr() + i * page()) as usize);
            // SAFETY: the page is inside the mapping just made, which nobody uses yet.
            check(unsafe { libc::mprotect(at, page() as usize, rights) }).unwrap();
        }
        pages
    }

    #[test]
    fn memory_is_only_populated_with_the_rights_it_is_mapped_with() {
        let pages = three_pages();
        let (addr, page) = (pages.addr(), page());
        populate(addr, page, true).unwrap();
        populate(addr + 1, 2 * page - 1, false).unwrap();
        assert!(populate(addr, page + 1, true).is_err());
        assert!(populate(addr, 2 * page + 1, false).is_err());
        assert!(populate(u64::MAX - 10, 20, false).is_err());
    }

    #[test]
    fn the_list_of_mappings_says_the_same_as_populating() {
        let pages = three_pages();
        let (addr, page) = (pages.addr(), page());
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(covers(&maps, addr, addr + page, true));
        assert!(covers(&maps, addr, addr + 2 * page, false));
        assert!(!covers(&maps, addr, addr + 2 * page, true));
        assert!(!covers(&maps, addr, addr + 3 * page, false));
        assert!(!covers("1000-2000 rw-p\n3000-4000 rw-p\n", 0x1000, 0x4000, false), "there is a hole");
        assert!(!covers("1000-2000 rw-p\n", 0x0, 0x1800, false));
    }

    #[test]
    fn a_fault_safe_copy_fails_where_an_ordinary_one_would_crash() {
        let pages = three_pages();
        let (addr, page) = (pages.addr(), page());
        assert!(can_copy());
        copy_in(addr, &[1, 2, 3]).unwrap();
        let mut out = vec![9];
        copy_out(addr, 3, &mut out).unwrap();
        assert_eq!(out, [9, 1, 2, 3]);
        assert_eq!(copy_in(addr + page, &[1]).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert_eq!(copy_in(addr + page - 1, &[1, 2]).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert_eq!(copy_out(addr + 2 * page, 1, &mut out).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert_eq!(out, [9, 1, 2, 3]);
    }
}
