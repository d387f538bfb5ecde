//! How an interface was before `dmverbs nic setup`: a file in /run, which the next boot starts without.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use dmverbs_netdev::Ethtool;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::Settings;
use crate::failure::Failure;
use crate::state::{self, FOLDER};

/// An interface, and its settings.
///
/// It keeps its index as long as it stays in its namespace, whatever it is called. Another network namespace may get the
/// number of one that is gone, and with it that one's files; no other gets the cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    namespace: u64,
    ifindex: u32,
    pub settings: Settings,
}

impl Record {
    /// What there is to record of an interface.
    pub fn new(ethtool: &Ethtool, ifindex: u32, settings: Settings) -> Result<Self, Failure> {
        Ok(Self { namespace: ethtool.namespace().map_err(Failure::ours)?, ifindex, settings })
    }

    /// The record of this interface, if there is one.
    pub fn load(ethtool: &Ethtool, ifindex: u32) -> Result<Option<Self>, Failure> {
        let path = path(ifindex)?;
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|e| at(&path, &e))?,
        };
        let record: Self = serde_json::from_str(&text).map_err(|e| at(&path, &e.into()))?;
        let namespace = ethtool.namespace().map_err(Failure::ours)?;
        Ok(Some(record).filter(|record| record.namespace == namespace))
    }

    /// Keeps it, whole or not at all.
    pub fn save(&self) -> Result<(), Failure> {
        let path = path(self.ifindex)?;
        let new = path.with_extension("new");
        let text = serde_json::to_string(self).map_err(Failure::ours)?;
        state::create()
            .and_then(|()| fs::write(&new, text))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|e| at(&path, &e))
    }

    /// Forgets it.
    pub fn remove(&self) -> Result<(), Failure> {
        let path = path(self.ifindex)?;
        fs::remove_file(&path).map_err(|e| at(&path, &e))
    }
}

/// Waits for its turn: whoever changes interfaces holds this, and nobody else may.
pub fn turn() -> Result<File, Failure> {
    let path = Path::new(FOLDER).join("nic.lock");
    state::create()
        .and_then(|()| OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path))
        .and_then(|file| Ok(flock(&file, FlockOperation::LockExclusive).map(|()| file)?))
        .map_err(|e| at(&path, &e))
}

/// Other network namespaces have interfaces of the same index.
fn path(ifindex: u32) -> Result<PathBuf, Failure> {
    let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(|e| at(Path::new("/proc"), &e))?.ino();
    Ok(Path::new(FOLDER).join(format!("nic-{namespace}-{ifindex}.json")))
}

fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::refused(format!("{}: {error}", path.display()))
}
