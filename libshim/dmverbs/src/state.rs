//! The folder in which things of the running system are kept, until the next boot.

use std::io;
use std::path::Path;

use crate::libdir;

pub const FOLDER: &str = "/run/dmverbs";

/// Makes the folder, if it is not there. Everybody may look for the broker in it.
pub fn create() -> io::Result<()> {
    libdir::create(Path::new(FOLDER))
}
