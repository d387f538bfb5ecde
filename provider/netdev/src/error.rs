//! Why the kernel refused.

use std::fmt::{self, Display, Formatter};
use std::io;

/// What was attempted, and why the kernel refused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    attempt: String,
    refusal: Refusal,
}

impl Error {
    /// The error number.
    pub fn errno(&self) -> i32 {
        self.refusal.errno
    }

    /// What the kernel said beyond the number, if it did.
    pub fn message(&self) -> Option<&str> {
        self.refusal.message.as_deref()
    }

    /// Whether the interface, its driver or the kernel has no such thing.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.errno(), libc::EOPNOTSUPP | libc::ENOENT)
    }

    /// Whether a privilege is missing: nearly always CAP_NET_ADMIN over the network namespace.
    pub fn is_denied(&self) -> bool {
        matches!(self.errno(), libc::EPERM | libc::EACCES)
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "cannot {}: ", self.attempt)?;
        if let Some(message) = self.message() {
            write!(f, "{message}: ")?;
        }
        write!(f, "{}", io::Error::from_raw_os_error(self.errno()))
    }
}

impl std::error::Error for Error {}

/// Of a socket that could not be opened.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Refusal::from(error).of("open a netlink socket")
    }
}

/// An error before it is known what was attempted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub errno: i32,
    pub message: Option<String>,
}

impl Refusal {
    /// An answer that is none of those that the kernel documents.
    pub fn malformed() -> Self {
        Self { errno: libc::EBADMSG, message: None }
    }

    pub fn of(self, attempt: impl Into<String>) -> Error {
        Error { attempt: attempt.into(), refusal: self }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { errno: error.raw_os_error().unwrap_or(libc::EIO), message: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_attempt_the_kernels_words_and_the_number() {
        let refusal = Refusal { errno: libc::EINVAL, message: Some("tcp-data-split is disabled".to_owned()) };
        assert_eq!(
            refusal.of("bind a dma-buf to eth0").to_string(),
            "cannot bind a dma-buf to eth0: tcp-data-split is disabled: Invalid argument (os error 22)"
        );
        let refusal = Refusal { errno: libc::EPERM, message: None };
        assert_eq!(refusal.of("do it").to_string(), "cannot do it: Operation not permitted (os error 1)");
    }
}
