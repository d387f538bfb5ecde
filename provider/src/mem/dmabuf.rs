//! Registration of dma-bufs, by mapping them.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use dmverbs_proto::Access;

use super::region::Backing;
use super::{PdId, Region, keys, needs_write};
use crate::object::Error;
use crate::sys::dmabuf::{DmaBuf, is_dmabuf, size};
use crate::sys::mman;

/// Registers a dma-buf that can be mapped.
///
/// # Errors
/// `EBADF` for a file descriptor that is not open, [`Error::Invalid`] for one that is no dma-buf or for a range beyond
/// its end, [`Error::NotSupported`] for a dma-buf that cannot be mapped.
pub(crate) fn register_dmabuf(
    fd: RawFd,
    offset: u64,
    len: u64,
    iova: u64,
    access: Access,
    pd: PdId,
) -> Result<Arc<Region>, Error> {
    if fd < 0 {
        return Err(Error::Io(std::io::Error::from_raw_os_error(libc::EBADF)));
    }
    if len == 0 || iova.checked_add(len).is_none() {
        return Err(Error::Invalid("the range is empty or runs past the end of the address space"));
    }
    // SAFETY: `fd` is not -1; that it stays open is the duty of ibv_reg_dmabuf_mr's caller, and if it does not, the
    // calls below say EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    if !is_dmabuf(fd)? {
        return Err(Error::Invalid("the file is no dma-buf"));
    }
    let size = size(fd)?;
    if offset.checked_add(len).is_none_or(|end| end > size) {
        return Err(Error::Invalid("the range runs past the end of the dma-buf"));
    }
    let (skip, dmabuf) = map(fd, offset, len, needs_write(access))?;
    let addr = dmabuf.addr() + skip;
    let iova = if access.contains(Access::ZERO_BASED) { 0 } else { iova };
    keys().insert(|key| Region::new(key, addr, len, iova, access, pd, Backing::DmaBuf(dmabuf)))
}

/// Maps the pages around a range, and tells how far into them it begins.
fn map(fd: BorrowedFd<'_>, offset: u64, len: u64, write: bool) -> Result<(u64, DmaBuf), Error> {
    let skip = offset % mman::page_size();
    let size = len.checked_add(skip).and_then(|n| usize::try_from(n).ok()).ok_or(Error::NoMemory)?;
    let dmabuf = DmaBuf::map(fd, offset - skip, size, write).map_err(|e| match e.raw_os_error() {
        // EINVAL: its exporter has no way to map it; the range has been checked.
        Some(libc::EINVAL | libc::ENODEV | libc::EACCES | libc::EPERM | libc::EOPNOTSUPP | libc::ENOTTY) => {
            Error::NotSupported
        }
        _ => Error::Io(e),
    })?;
    Ok((skip, dmabuf))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;

    fn register(fd: RawFd, len: u64) -> Error {
        register_dmabuf(fd, 0, len, 0, Access::empty(), PdId(1)).expect_err("there is no dma-buf")
    }

    #[test]
    fn what_is_no_dma_buf_is_refused_with_the_reason() {
        let errno = |error| match error {
            Error::Io(e) => e.raw_os_error(),
            _ => None,
        };
        assert_eq!(errno(register(-1, 4096)), Some(libc::EBADF));
        assert_eq!(errno(register(RawFd::MAX, 4096)), Some(libc::EBADF));
        let file = File::open("/proc/self/exe").unwrap();
        assert!(matches!(register(file.as_raw_fd(), 4096), Error::Invalid(why) if why.contains("dma-buf")));
        assert!(matches!(register(file.as_raw_fd(), 0), Error::Invalid(why) if why.contains("empty")));
    }

    /// Mapping is the same for every file: no dma-buf is needed to see it.
    #[test]
    fn a_range_is_mapped_wherever_in_a_page_it_begins() {
        let path = std::env::current_exe().unwrap();
        let (bytes, file) = (std::fs::read(&path).unwrap(), File::open(&path).unwrap());
        let (skip, mapped) = map(file.as_fd(), 5000, 5000, false).unwrap();
        assert_eq!(skip, 5000 % mman::page_size());
        let mut out = Vec::new();
        mman::copy_out(mapped.addr() + skip, 5000, &mut out).unwrap();
        assert_eq!(out, bytes[5000..10_000]);
    }

    #[test]
    fn a_file_that_cannot_be_mapped_as_asked_is_not_supported() {
        let read_only = File::open("/proc/self/exe").unwrap();
        assert!(matches!(map(read_only.as_fd(), 0, 4096, true), Err(Error::NotSupported)));
        let (pipe, _other) = std::io::pipe().unwrap();
        assert!(matches!(map(pipe.as_fd(), 0, 4096, false), Err(Error::NotSupported)));
    }
}
