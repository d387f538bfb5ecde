//! Putting the machine back when the user presses ctrl-C.
//!
//! `Drop` does not run when a signal ends the process, so what is to be removed then is also listed here, and one
//! thread that waits for the signals does it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, Once};
use std::{fs, process, thread};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::net;

/// Something to remove.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Made {
    /// A network namespace, by its name.
    Namespace(String),
    /// A file.
    File(PathBuf),
}

impl Made {
    fn remove(&self) {
        match self {
            Made::Namespace(name) => net::remove(name),
            Made::File(path) => {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// It is about to be made.
pub(crate) fn track(made: &Made) {
    WATCH.call_once(watch);
    LIVE.lock().unwrap().insert(made.clone());
}

/// Removes it.
pub(crate) fn remove(made: &Made) {
    made.remove();
    LIVE.lock().unwrap().remove(made);
}

fn watch() {
    let ignored = fs::read_to_string("/proc/self/status").map_or(0, |status| ignored(&status));
    // nohup(1), and a shell that starts something in the background, have some ignored.
    let signals = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let Ok(mut signals) = Signals::new(signals) else { return };
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // The lock stays held, so that no other thread makes anything between this and the exit.
            let live = LIVE.lock().unwrap();
            live.iter().for_each(Made::remove);
            process::exit(128 + signal);
        }
    });
}

/// The signals that a process ignores, by its /proc/PID/status: bit 0 is signal 1.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

static LIVE: Mutex<BTreeSet<Made>> = Mutex::new(BTreeSet::new());
static WATCH: Once = Once::new();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_which_signals_are_ignored() {
        assert_eq!(ignored("Name:\tx\nSigIgn:\t0000000000001003\nSigCgt:\t0000000000000440\n"), 0x1003);
        assert_eq!(ignored("Name:\tx\n"), 0);
    }
}
