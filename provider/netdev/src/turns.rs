//! Turns at taking queues.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::broker::FOLDER;

/// What processes take turns by at taking queues, a file in /run: between one's look at what is free and its last rule
/// no other takes a queue, or deletes a rule that is not its own.
///
/// Who may not open the file goes on without.
#[derive(Debug)]
pub struct Turns(Mutex<Option<File>>);

impl Turns {
    /// Opens the file; makes it, and its folder, where they are not there.
    pub fn open() -> Self {
        let file = open(Path::new(FOLDER)).inspect_err(|e| tracing::debug!(error = %e, "queues are taken out of turn"));
        Self(Mutex::new(file.ok()))
    }

    /// Waits for ours, but not for ever: whoever has it may have been stopped.
    pub fn wait(&self) -> Turn<'_> {
        let file = self.0.lock();
        let (until, mut waits) = (Instant::now() + PATIENCE, false);
        while let Some(Err(e)) = file.as_ref().map(|file| flock(file, FlockOperation::NonBlockingLockExclusive)) {
            if e != Errno::WOULDBLOCK && e != Errno::INTR || Instant::now() >= until {
                tracing::warn!(error = %e, "a queue is taken out of turn");
                break;
            }
            if !std::mem::replace(&mut waits, true) {
                tracing::info!("another process takes a queue: it is waited for");
            }
            std::thread::sleep(LOOK);
        }
        Turn(file)
    }
}

/// Until this is dropped, it is our turn.
#[derive(Debug)]
#[must_use = "its drop ends the turn"]
pub struct Turn<'a>(MutexGuard<'a, Option<File>>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(Err(e)) = self.0.as_ref().map(|file| flock(file, FlockOperation::Unlock)) {
            tracing::debug!(error = %e, "a turn does not end before its file is closed");
        }
    }
}

fn open(folder: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(MODE).create(folder) {
        // It is for everybody to look into, whatever this process's umask says: the broker listens there.
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(MODE))?,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join("queues.lock"))
}

const MODE: u32 = 0o755;
/// Less than clients of the broker wait. To take a queue takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks whether it is ours; flock(2) that waits has no limit.
const LOOK: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_lasts_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("dmverbs");
        let turns = Turns(Mutex::new(Some(open(&folder).unwrap())));
        let other = open(&folder).unwrap();
        let others_turn = || flock(&other, FlockOperation::NonBlockingLockExclusive);
        let turn = turns.wait();
        assert_eq!(others_turn(), Err(rustix::io::Errno::WOULDBLOCK));
        drop(turn);
        assert_eq!(others_turn(), Ok(()));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("queues.lock"))), (0o755, 0o600));
    }

    #[test]
    fn who_may_not_have_the_file_has_turns_all_the_same() {
        assert!(open(Path::new("/proc/none/dmverbs")).is_err());
        drop(Turns(Mutex::default()).wait());
    }
}
