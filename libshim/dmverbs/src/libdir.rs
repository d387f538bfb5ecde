//! The folder of links that brings a program to the drop-in library.
//!
//! It holds nothing but links to the libraries beside this executable, is the same at every call, and stays: so
//! `dmverbs run` can become the program instead of waiting for it to end, which would change its process number, its
//! place in the terminal's job control and the signals it gets, and would break programs that go on in the
//! background.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The folder of links and what it holds.
#[derive(Debug)]
pub struct Libdir(PathBuf);

impl Libdir {
    /// Makes the folder, or finds it as it was made before.
    pub fn make() -> Result<Self, Failure> {
        let libraries = Libraries::find()?;
        let at = own_folder()?.join(format!("lib-{:016x}", libraries.digest()));
        let done = libraries.link_into(&at);
        done.map_err(|e| Failure::ours(format!("{}: {e}", at.display())))?;
        Ok(Self(at))
    }

    /// Where it is. The path can stand in LD_LIBRARY_PATH and LD_PRELOAD.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What has to be preloaded into a program.
    pub fn preloads(&self) -> [PathBuf; 2] {
        [PRELOAD, "libibverbs.so.1"].map(|name| self.0.join(name))
    }
}

/// The folder that holds the libraries which belong to this executable.
pub fn libraries() -> Result<PathBuf, Failure> {
    Libraries::find().map(|libraries| libraries.0)
}

/// `dmverbs libdir`
pub fn print() -> Result<(), Failure> {
    let libdir = Libdir::make()?;
    let mut line = libdir.path().as_os_str().as_bytes().to_owned();
    line.push(b'\n');
    io::stdout().write_all(&line).map_err(Failure::ours)
}

/// The drop-in library's file.
const VERBS: &str = "libdmverbs_verbs.so";
/// The file of the library that redirects dlopen() and shows the shadow.
const PRELOAD: &str = "libdmverbs_preload.so";
/// Names in the folder, and the files they lead to.
const LINKS: [(&str, &str); 3] = [("libibverbs.so", VERBS), ("libibverbs.so.1", VERBS), (PRELOAD, PRELOAD)];

/// The folder with the libraries that belong to this executable.
struct Libraries(PathBuf);

impl Libraries {
    /// Beside the executable, as cargo builds them, or where an installation keeps them.
    fn find() -> Result<Self, Failure> {
        let exe = env::current_exe().and_then(fs::canonicalize);
        let exe = exe.map_err(|e| Failure::ours(format!("cannot find this executable's own path: {e}")))?;
        let beside = exe.parent().unwrap_or(Path::new("/"));
        let folders = [beside.to_owned(), beside.with_file_name("lib").join("dmverbs")];
        let whole = |folder: &&PathBuf| [VERBS, PRELOAD].iter().all(|name| folder.join(name).is_file());
        if let Some(folder) = folders.iter().find(whole) {
            return Ok(Self(folder.clone()));
        }
        let missing = [VERBS, PRELOAD].into_iter().find(|name| !beside.join(name).is_file()).unwrap_or(VERBS);
        Err(Failure::ours(format!(
            "{} is missing (and {} is no installation); `cargo build --release` in dmverbs' source makes it",
            beside.join(missing).display(),
            folders[1].display(),
        )))
    }

    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        hasher.finish()
    }

    fn link_into(&self, at: &Path) -> io::Result<()> {
        create(at)?;
        for (name, file) in LINKS {
            let (link, to) = (at.join(name), self.0.join(file));
            match symlink(&to, &link) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                done => done?,
            }
            if fs::read_link(&link)? != to {
                return Err(io::Error::other(format!("{name} is not the link that dmverbs made; remove it")));
            }
        }
        Ok(())
    }
}

/// The folder of this user's temporary things, which nobody else can write to.
///
/// It lies in TMPDIR or /tmp, not in XDG_RUNTIME_DIR, and everybody may read it: the loader of a program that changes
/// its user still has to get there.
fn own_folder() -> Result<PathBuf, Failure> {
    // SAFETY: geteuid(2) always succeeds.
    let user = unsafe { libc::geteuid() };
    let top = env::var_os("TMPDIR").filter(|dir| usable(dir)).unwrap_or_else(|| "/tmp".into());
    let folder = Path::new(&top).join(format!("dmverbs-{user}"));
    create(&folder).map_err(|e| Failure::ours(format!("{}: {e}", folder.display())))?;
    let found = fs::symlink_metadata(&folder).map_err(Failure::ours)?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o022 != 0 {
        return Err(Failure::ours(format!(
            "{} is not a folder that only this user can write to; set TMPDIR to another place",
            folder.display()
        )));
    }
    Ok(folder)
}

/// Whether the loader understands paths in this folder: it splits its variables at `:`, `;` and spaces, expands `$`,
/// and takes relative paths from wherever the program is.
fn usable(dir: &OsStr) -> bool {
    Path::new(dir).is_absolute()
        && !dir.as_bytes().iter().any(|byte| b":;$".contains(byte) || byte.is_ascii_whitespace())
}

/// Creates a folder, readable for all whatever the umask; one that is there stays as it is.
pub fn create(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(folder) {
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o755)),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::Mode;
    use rustix::process::umask;

    use super::*;

    #[test]
    fn paths_that_the_loader_would_split_are_not_used() {
        assert!(usable("/tmp/x-1".as_ref()));
        for bad in ["", "tmp", "/a b", "/a:b", "/a;b", "/$ORIGIN"] {
            assert!(!usable(bad.as_ref()), "{bad}");
        }
    }

    #[test]
    fn a_folder_is_for_all_whatever_the_umask_unless_it_is_there() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("folder");
        let mode = || fs::metadata(&folder).unwrap().mode() & 0o777;
        let usual = umask(Mode::RWXG | Mode::RWXO);
        let created = create(&folder);
        umask(usual);
        created.unwrap();
        assert_eq!(mode(), 0o755);
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        create(&folder).unwrap();
        assert_eq!(mode(), 0o700);
    }
}
