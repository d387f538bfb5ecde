//! The shadow on disk.
//!
//! It is a folder `shadow-<digest of its content>`, made when a process first looks for it, and shared by all
//! processes that see the same devices: nobody owns it, so nobody needs to outlive anybody, and a killed process
//! leaves nothing behind that the next one would not use. Folders that nobody has used for a day are removed.

use std::cell::Cell;
use std::ffi::{CStr, CString, OsString, c_char, c_int};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use std::{env, ptr};

use dmverbs_provider::Uncancelled;
use libc::AT_FDCWD;

use crate::cards::cards;
use crate::place::{HINT, place};
use crate::settings::{Settings, settings};
use crate::tree::Tree;

/// A path that leads into the shadow.
#[derive(Debug)]
pub struct Shadowed {
    /// Where it is on disk.
    disk: CString,
    /// Where the program believes it to be: an absolute path.
    path: Vec<u8>,
    root: &'static Path,
    uverbs: Option<u32>,
    /// What is done with the path is no point of cancellation: the thread would end with this in hand.
    _uncancelled: Uncancelled,
}

impl Shadowed {
    /// Where it is on disk.
    pub fn disk(&self) -> *const c_char {
        self.disk.as_ptr()
    }

    /// The number, if it is a verbs device.
    pub fn uverbs(&self) -> Option<u32> {
        self.uverbs
    }

    /// Why it cannot be opened for writing; `creates`: whether that would make it.
    pub fn write_error(&self, creates: bool) -> c_int {
        // SAFETY: a C string.
        let exists = unsafe { libc::access(self.disk.as_ptr(), libc::F_OK) } == 0;
        if exists || creates { libc::EACCES } else { libc::ENOENT }
    }

    /// What realpath(3) of the program's path is, given that of the path on disk.
    pub fn real_path(&self, disk: &CStr) -> CString {
        let path = if self.uverbs.is_some() {
            self.path.clone()
        } else {
            // What does not lie in the shadow was reached by a link, and is as real as it can be.
            let inside = disk.to_bytes().strip_prefix(self.root.as_os_str().as_bytes());
            inside.filter(|inside| inside.starts_with(b"/")).unwrap_or(disk.to_bytes()).to_owned()
        };
        // Neither holds a NUL: both were C strings before.
        CString::new(path).unwrap_or_default()
    }
}

/// Where a path leads, seen from the folder `dirfd`; none if it has nothing to do with the shadow.
///
/// # Safety
/// `path` is a C string or null.
pub unsafe fn find(dirfd: RawFd, path: *const c_char) -> Option<Shadowed> {
    if path.is_null() {
        return None;
    }
    // SAFETY: both are C strings.
    let hint = unsafe { libc::strstr(path, HINT.as_ptr()) };
    if hint.is_null() {
        return None;
    }
    // SAFETY: it is a C string.
    let path = unsafe { CStr::from_ptr(path) };
    let uncancelled = Uncancelled::begin();
    let settings = settings()?;
    // Making the shadow calls libc, hence us.
    INSIDE.with(|inside| {
        if inside.replace(true) {
            return None;
        }
        let found = catch_unwind(|| look_up(settings, dirfd, path, uncancelled)).ok().flatten();
        inside.set(false);
        found
    })
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

fn look_up(settings: &'static Settings, dirfd: RawFd, path: &CStr, uncancelled: Uncancelled) -> Option<Shadowed> {
    let place = place(&absolute(dirfd, path)?)?;
    let root = current(settings)?;
    let disk = [root.as_os_str().as_bytes(), b"/", &place.path].concat();
    Some(Shadowed {
        disk: CString::new(disk).ok()?,
        path: [b"/", place.path.as_slice()].concat(),
        root,
        uverbs: place.uverbs,
        _uncancelled: uncancelled,
    })
}

fn absolute(dirfd: RawFd, path: &CStr) -> Option<Vec<u8>> {
    let path = path.to_bytes();
    if path.starts_with(b"/") {
        return Some(path.to_owned());
    }
    let from = match dirfd {
        AT_FDCWD => env::current_dir(),
        dirfd => fs::read_link(format!("/proc/self/fd/{dirfd}")),
    };
    Some([from.ok()?.into_os_string().into_vec().as_slice(), path].join(&b'/'))
}

/// The root of the shadow of the devices as they are now, or were a second ago.
fn current(settings: &Settings) -> Option<&'static Path> {
    // Paired: a root is stored, with Release, before the time until which it is good.
    static GOOD_UNTIL: AtomicU64 = AtomicU64::new(0);
    static ROOT: AtomicPtr<PathBuf> = AtomicPtr::new(ptr::null_mut());
    let now = seconds();
    let good = now < GOOD_UNTIL.load(Ordering::Acquire);
    // SAFETY: null, or leaked below; the Acquire load pairs with the Release store of a whole PathBuf.
    let known = unsafe { ROOT.load(Ordering::Acquire).as_ref() };
    if let Some(known) = known.filter(|_| good) {
        return Some(known);
    }
    let root = match make(settings) {
        Ok(root) => root,
        Err(why) => {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| eprintln!("dmverbs: /sys/class/infiniband cannot be shown: {why}"));
            return None;
        }
    };
    // A process that lives while its devices change a thousand times leaks a thousand paths, and holds no lock
    // that a fork() could leave locked.
    let root = match known.filter(|known| **known == root) {
        Some(known) => known,
        None => &*Box::leak(Box::new(root)),
    };
    ROOT.store(ptr::from_ref(root).cast_mut(), Ordering::Release);
    GOOD_UNTIL.store(now + 2, Ordering::Release);
    Some(root)
}

/// Seconds of the monotonic clock.
fn seconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0)
}

/// Makes the shadow, unless it is there.
fn make(settings: &Settings) -> Result<PathBuf, String> {
    let tree = Tree::new(&cards()?);
    let folder = own_folder(settings.folder()).map_err(|e| e.to_string())?;
    let root = folder.join(format!("shadow-{:016x}", tree.digest()));
    put(&tree, &folder, &root).map_err(|e| format!("{}: {e}", root.display()))?;
    Ok(root)
}

/// A folder that this user may write to: `folder`, or, if the program changed its user, one beside it.
fn own_folder(folder: &Path) -> io::Result<PathBuf> {
    // SAFETY: geteuid(2) always succeeds.
    let user = unsafe { libc::geteuid() };
    let folder = match fs::metadata(folder) {
        Ok(found) if found.uid() == user => folder.to_owned(),
        _ => folder.with_file_name(format!("dmverbs-{user}")),
    };
    match DirBuilder::new().mode(0o755).create(&folder) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let found = fs::symlink_metadata(&folder)?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o022 != 0 {
        return Err(io::Error::other(format!("{} is not ours alone", folder.display())));
    }
    // Links come out of realpath() resolved: so must what they are compared with.
    fs::canonicalize(folder)
}

fn put(tree: &Tree, folder: &Path, root: &Path) -> io::Result<()> {
    // The time of the last use.
    let used = File::open(root).and_then(|root| root.set_modified(SystemTime::now()));
    // Who cleans /tmp takes away single files that nobody has read for long.
    if used.is_ok() && tree.is_whole(root) {
        return Ok(());
    }
    let new = new_folder(folder)?;
    let done = tree.write(&new).and_then(|()| match fs::rename(&new, root) {
        Err(_) if !tree.is_whole(root) => exchange(&new, root),
        done => done,
    });
    drop(fs::remove_dir_all(&new));
    remove_old(folder);
    // Somebody else may have been faster.
    if root.is_dir() { Ok(()) } else { done }
}

/// Gives each of two folders the other's name, at once.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let [one, other] = [one, other].map(|path| CString::new(path.as_os_str().as_bytes()));
    let (one, other) = (one?, other?);
    // SAFETY: two C strings.
    let done = unsafe { libc::renameat2(AT_FDCWD, one.as_ptr(), AT_FDCWD, other.as_ptr(), libc::RENAME_EXCHANGE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A new folder of nobody else's, where a tree can be written before it gets its name.
fn new_folder(folder: &Path) -> io::Result<PathBuf> {
    let mut template = folder.join("new-XXXXXX").into_os_string().into_vec();
    template.push(0);
    // SAFETY: a C string that ends in XXXXXX, which mkdtemp(3) may change.
    if unsafe { libc::mkdtemp(template.as_mut_ptr().cast()) }.is_null() {
        return Err(io::Error::last_os_error());
    }
    template.pop();
    Ok(OsString::from_vec(template).into())
}

fn remove_old(folder: &Path) {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = [b"shadow-".as_slice(), b"new-"].iter().any(|start| name.as_bytes().starts_with(start));
        let age = entry.metadata().and_then(|data| data.modified()).ok().and_then(|time| time.elapsed().ok());
        if ours && age.is_some_and(|age| age > DAY) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// Sets errno and gives what a function of libc returns then.
pub fn fail<T>(errno: c_int, value: T) -> T {
    // SAFETY: errno(3) is this thread's.
    unsafe { *libc::__errno_location() = errno };
    value
}
