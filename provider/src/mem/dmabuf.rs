//! Registration of dma-bufs.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use dmverbs_proto::Access;

use super::device::Exported;
use super::region::Backing;
use super::{PdId, Region, device, keys, needs_write};
use crate::object::Error;
use crate::sys::dmabuf::{is_dmabuf, size};

/// Registers a dma-buf of a device that we know how to copy from, or one that can be mapped.
///
/// # Errors
/// `EBADF` for a file descriptor that is not open, [`Error::Invalid`] for one that is no dma-buf or for a range beyond
/// its end, [`Error::NotSupported`] for a dma-buf that nobody can copy from.
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
    let range = Exported { fd, offset, len, addr: iova, write: needs_write(access) };
    let device = device::open(&range).map_err(|e| match e.raw_os_error() {
        Some(libc::EOPNOTSUPP) => Error::NotSupported,
        _ => Error::Io(e),
    })?;
    let iova = if access.contains(Access::ZERO_BASED) { 0 } else { iova };
    keys().insert(|key| Region::new(key, offset, len, iova, access, pd, Backing::Device(device)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

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
}
