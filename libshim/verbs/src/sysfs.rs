//! libibverbs' helpers for reading /sys, which some programs borrow.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use dmverbs_ffi::{Errno, MinusOne, Ptr, entry};

entry! {
    /// Where sysfs is. `SYSFS_PATH` is not followed: the shadow of /sys/class/infiniband is under /sys.
    pub fn ibv_get_sysfs_path() -> Ptr<c_char> {
        Ok(c"/sys".as_ptr().cast_mut())
    }

    /// Reads a file into a buffer, without its last newline and with a NUL
    pub fn ibv_read_sysfs_file(dir: *mut c_char, file: *mut c_char, buf: *mut c_char, size: usize) -> MinusOne {
        if buf.is_null() {
            return Err(Errno::misuse("`buf` is NULL"));
        }
        let path = [text(&dir, "dir")?, text(&file, "file")?].join(&b'/');
        let mut bytes = Vec::new();
        let limit = u64::try_from(size).unwrap_or(u64::MAX);
        let mut file = File::open(OsStr::from_bytes(&path)).map_err(dmverbs_provider::object::Error::from)?.take(limit);
        file.read_to_end(&mut bytes).map_err(dmverbs_provider::object::Error::from)?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.len() >= size {
            return Err(Errno::new(libc::ENOBUFS, "`size` leaves no room for the NUL"));
        }
        let len = c_int::try_from(bytes.len()).unwrap_or(c_int::MAX);
        bytes.push(0);
        // SAFETY: the buffer has `size` bytes (the caller's duty), which is no less than `bytes`; both are apart.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buf.cast(), bytes.len()) };
        Ok(len)
    }
}

/// A string argument. Borrowed from the reference only so that it cannot outlive the call.
fn text<'a>(string: &'a *mut c_char, name: &'static str) -> Result<&'a [u8], Errno> {
    if string.is_null() {
        return Err(Errno::misuse(format!("`{name}` is NULL")));
    }
    // SAFETY: not NULL; ends in a NUL: the caller's duty.
    Ok(unsafe { CStr::from_ptr(*string) }.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(size: usize) -> (c_int, Vec<u8>) {
        let mut buffer = vec![9_u8; 64];
        let (dir, file) = (c"/proc/self".as_ptr().cast_mut(), c"comm".as_ptr().cast_mut());
        // SAFETY: strings, and a buffer of at least that size.
        let len = unsafe { ibv_read_sysfs_file(dir, file, buffer.as_mut_ptr().cast(), size) };
        (len, buffer)
    }

    #[test]
    fn a_file_comes_without_its_newline_and_with_a_nul() {
        let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
        let name = comm.trim_end().as_bytes();
        let (len, buffer) = read(64);
        assert_eq!(len, c_int::try_from(name.len()).unwrap());
        assert_eq!(&buffer[..=name.len()], [name, &[0]].concat());
    }

    #[test]
    fn a_buffer_that_is_too_small_is_refused() {
        assert_eq!(read(2).0, -1);
    }

    #[test]
    fn a_missing_file_is_refused() {
        let mut buffer = [0_u8; 8];
        let (dir, file) = (c"/nonexistent".as_ptr().cast_mut(), c"x".as_ptr().cast_mut());
        // SAFETY: strings and a buffer of that size.
        assert_eq!(unsafe { ibv_read_sysfs_file(dir, file, buffer.as_mut_ptr().cast(), 8) }, -1);
    }
}
