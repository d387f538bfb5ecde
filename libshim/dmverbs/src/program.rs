//! Finding the program to run, as a shell would.

use std::env;
use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The file that `name` stands for: itself if it holds a slash, else the first such program in PATH.
pub fn find(name: &OsStr) -> Result<PathBuf, Failure> {
    if name.is_empty() {
        return Err(Failure::not_found("PROGRAM is empty"));
    }
    let candidates: Vec<PathBuf> = if name.as_bytes().contains(&b'/') {
        vec![name.into()]
    } else {
        let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        // An empty element is the current folder.
        env::split_paths(&path).map(|dir| Path::new(".").join(dir).join(name)).collect()
    };
    let mut problem = None;
    for candidate in candidates {
        match fs::metadata(&candidate) {
            Ok(found) if found.is_dir() => problem = problem.or(Some((candidate, "is a folder"))),
            Ok(_) if executable(&candidate) => return Ok(candidate),
            Ok(_) => problem = problem.or(Some((candidate, "is not executable by this user"))),
            Err(_) => {}
        }
    }
    let name = Path::new(name).display();
    Err(match problem {
        Some((file, why)) => Failure::not_runnable(format!("{} {why}", file.display())),
        None if name.to_string().contains('/') => Failure::not_found(format!("there is no program {name}")),
        None => Failure::not_found(format!("there is no program {name} in PATH")),
    })
}

/// Refuses a program that would have more rights than its user: the loader takes no libraries from the environment
/// there, so the program would silently run without us.
pub fn refuse_privileged(file: &Path) -> Result<(), Failure> {
    let Some(why) = privileges(file) else { return Ok(()) };
    Err(Failure::not_runnable(format!(
        "{} is {why}: it would run with more rights than you have, and such programs take no libraries from their \
         environment. Run it as the user it is for, or use a copy without that right",
        file.display()
    )))
}

const DEFAULT_PATH: &str = "/bin:/usr/bin";

fn executable(file: &Path) -> bool {
    let Ok(file) = CString::new(file.as_os_str().as_bytes()) else { return false };
    // SAFETY: `file` is a C string.
    unsafe { libc::eaccess(file.as_ptr(), libc::X_OK) == 0 }
}

fn privileges(file: &Path) -> Option<&'static str> {
    let found = fs::metadata(file).ok()?;
    // The kernel runs a script's interpreter, with that one's rights.
    if is_script(file) {
        return None;
    }
    // SAFETY: getuid(2) always succeeds.
    let user = unsafe { libc::getuid() };
    // SAFETY: getgid(2) always succeeds.
    let group = unsafe { libc::getgid() };
    if has(&found, libc::S_ISUID) && found.uid() != user {
        Some("set-user-ID")
    } else if has(&found, libc::S_ISGID | libc::S_IXGRP) && found.gid() != group {
        Some("set-group-ID")
    } else if user != 0 && has_capabilities(file) {
        Some("given capabilities")
    } else {
        None
    }
}

fn has(found: &Metadata, bits: libc::mode_t) -> bool {
    found.mode() & bits == bits
}

fn is_script(file: &Path) -> bool {
    let mut start = [0; 2];
    File::open(file).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"#!"
}

fn has_capabilities(file: &Path) -> bool {
    const ATTRIBUTE: &CStr = c"security.capability";
    let Ok(file) = CString::new(file.as_os_str().as_bytes()) else { return false };
    // SAFETY: both are C strings; a length of 0 only asks for the size.
    unsafe { libc::getxattr(file.as_ptr(), ATTRIBUTE.as_ptr(), std::ptr::null_mut(), 0) > 0 }
}
