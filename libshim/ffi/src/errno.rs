//! `errno` values with the reason for them; they exist only on this side of the provider.

use std::borrow::Cow;
use std::ffi::c_int;
use std::fmt;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};

use dmverbs_provider::object::Error;

/// Why a call failed: the `errno` value for the program, the text for the log.
#[derive(Clone, Debug)]
pub struct Errno {
    code: c_int,
    why: Cow<'static, str>,
    loud: bool,
}

impl Errno {
    /// A failure that a program may well provoke on purpose.
    #[must_use]
    pub const fn new(code: c_int, why: &'static str) -> Self {
        Errno { code, why: Cow::Borrowed(why), loud: false }
    }

    /// EINVAL.
    #[must_use]
    pub const fn invalid(why: &'static str) -> Self {
        Errno::new(libc::EINVAL, why)
    }

    /// EOPNOTSUPP.
    #[must_use]
    pub const fn unsupported(why: &'static str) -> Self {
        Errno::new(libc::EOPNOTSUPP, why)
    }

    /// EINVAL for what only a faulty program does: a NULL or destroyed object. Logged as an error.
    #[must_use]
    pub fn misuse(why: impl Into<Cow<'static, str>>) -> Self {
        Errno { code: libc::EINVAL, why: why.into(), loud: true }
    }

    /// Logged as an error, for what the user must put right.
    #[must_use]
    pub fn loud(self) -> Self {
        Errno { loud: true, ..self }
    }

    /// The value for `errno`.
    #[must_use]
    pub fn code(&self) -> c_int {
        self.code
    }

    /// Logs it on behalf of the exported function `name`.
    pub fn report(&self, name: &'static str) {
        match self.code {
            _ if self.loud => match LOUD.fetch_add(1, Ordering::Relaxed) {
                0..MOST_LOUD => tracing::error!("{name}: {self}"),
                MOST_LOUD => tracing::error!("{name}: {self}; there may be more of this, not shown"),
                _ => {}
            },
            libc::EAGAIN => tracing::trace!("{name}: {self}"),
            _ => tracing::debug!("{name}: {self}"),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (errno {})", self.why, self.code)
    }
}

impl std::error::Error for Errno {}

impl From<Error> for Errno {
    fn from(e: Error) -> Self {
        let code = match &e {
            Error::Config(_) | Error::Invalid(_) | Error::State(_) => libc::EINVAL,
            Error::NoMemory => libc::ENOMEM,
            Error::NotSupported => libc::EOPNOTSUPP,
            Error::Busy => libc::EBUSY,
            Error::Fault => libc::EFAULT,
            Error::Io(e) => e.raw_os_error().unwrap_or_else(|| number(e.kind())),
        };
        let why = match e {
            Error::Invalid(what) | Error::State(what) => Cow::Borrowed(what),
            other => Cow::Owned(other.to_string()),
        };
        Errno { code, why, loud: false }
    }
}

/// Of an error that no system call gave.
fn number(kind: ErrorKind) -> c_int {
    match kind {
        ErrorKind::OutOfMemory => libc::ENOMEM,
        ErrorKind::PermissionDenied => libc::EACCES,
        _ => libc::EIO,
    }
}

/// Messages shown so far. A program may poll a destroyed queue for ever.
static LOUD: AtomicU64 = AtomicU64::new(0);
const MOST_LOUD: u64 = 100;

/// Stores into this thread's `errno`.
pub fn set_errno(code: c_int) {
    // SAFETY: `__errno_location` returns this thread's `errno`, valid as long as the thread.
    unsafe { *libc::__errno_location() = code }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_error_has_the_errno_of_its_manual_page() {
        let code = |e: Error| Errno::from(e).code();
        assert_eq!(code(Error::Invalid("x")), libc::EINVAL);
        assert_eq!(code(Error::State("x")), libc::EINVAL);
        assert_eq!(code(Error::NoMemory), libc::ENOMEM);
        assert_eq!(code(Error::NotSupported), libc::EOPNOTSUPP);
        assert_eq!(code(Error::Busy), libc::EBUSY);
        assert_eq!(code(Error::Fault), libc::EFAULT);
        assert_eq!(code(Error::Io(std::io::Error::from_raw_os_error(libc::EBADF))), libc::EBADF);
        assert_eq!(code(Error::Io(std::io::Error::other("x"))), libc::EIO);
        assert_eq!(code(Error::Io(ErrorKind::OutOfMemory.into())), libc::ENOMEM);
        assert_eq!(code(Error::Io(ErrorKind::PermissionDenied.into())), libc::EACCES);
    }
}
