//! What `dmverbs run` tells the library.

use std::env;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The variable in which `dmverbs run` names its folder of links (libshim/dmverbs sets it). It is internal, hence
/// not called `DMVERBS_…`.
const VARIABLE: &str = "_DMVERBS_LIBDIR";

/// What the library needs to know.
#[derive(Debug)]
pub struct Settings {
    /// The drop-in library.
    library: CString,
    /// Where temporary things may be kept.
    folder: PathBuf,
}

impl Settings {
    /// The drop-in library's path.
    pub fn library(&self) -> &CStr {
        &self.library
    }

    /// The folder of this user's temporary things: the one above the links.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The settings; none when no `dmverbs run` is above, or when the process has more rights than its user.
pub fn settings() -> Option<&'static Settings> {
    static SETTINGS: OnceLock<Option<Settings>> = OnceLock::new();
    SETTINGS.get_or_init(read).as_ref()
}

/// Before the program can change its environment.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = {
    extern "C" fn read() {
        settings();
    }
    read
};

fn read() -> Option<Settings> {
    // SAFETY: getauxval(3) takes any number.
    let secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    let libdir = env::var_os(VARIABLE).filter(|_| !secure)?;
    let folder = Path::new(&libdir).parent().filter(|folder| folder.has_root())?.to_owned();
    let library = Path::new(&libdir).join("libibverbs.so.1");
    Some(Settings { library: CString::new(library.into_os_string().into_vec()).ok()?, folder })
}
