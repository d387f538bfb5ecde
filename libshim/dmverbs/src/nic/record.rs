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
/// Another network namespace may get the number of one that is gone, and with it that one's file; no other gets the
/// cookie.
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

    /// What has become of the interface since.
    pub fn now(&self, ethtool: &Ethtool) -> Result<Now, Failure> {
        if ethtool.namespace().map_err(Failure::ours)? != self.namespace {
            return Ok(Now::Gone);
        }
        // It keeps its index as long as it stays in its namespace.
        Ok(ethtool.ifname(self.ifindex).map_or(Now::Gone, |ifname| Now::There { ifindex: self.ifindex, ifname }))
    }

    /// The record of the interface that had this name in this network namespace, if there is one.
    pub fn load(ifname: &str) -> Result<Option<Self>, Failure> {
        let path = path(ifname)?;
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|e| at(&path, &e))?,
        };
        let record = serde_json::from_str(&text).map_err(|e| at(&path, &e.into()))?;
        Ok(Some(record))
    }

    /// Keeps it, whole or not at all.
    pub fn save(&self, ifname: &str) -> Result<(), Failure> {
        let path = path(ifname)?;
        let new = path.with_extension("new");
        let text = serde_json::to_string(self).map_err(Failure::ours)?;
        state::create()
            .and_then(|()| fs::write(&new, text))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|e| at(&path, &e))
    }

    /// Forgets it.
    pub fn remove(ifname: &str) -> Result<(), Failure> {
        let path = path(ifname)?;
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

/// A recorded interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Now {
    Gone,
    There { ifindex: u32, ifname: String },
}

/// Other network namespaces have interfaces of the same name.
fn path(ifname: &str) -> Result<PathBuf, Failure> {
    let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(|e| at(Path::new("/proc"), &e))?.ino();
    Ok(Path::new(FOLDER).join(format!("nic-{namespace}-{}.json", file_name(ifname))))
}

/// The kernel lets no `/` into names, but this one may be any.
fn file_name(ifname: &str) -> String {
    ifname.replace('/', "_")
}

fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::refused(format!("{}: {error}", path.display()))
}
