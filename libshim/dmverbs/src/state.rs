//! The folder in which things of the running system are kept, until the next boot.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;

pub const FOLDER: &str = "/run/dmverbs";

/// Makes the folder, if it is not there.
pub fn create() -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(FOLDER) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}
