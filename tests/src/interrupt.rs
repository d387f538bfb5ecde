//! Putting the machine back when the user presses ctrl-C.
//!
//! `Drop` does not run when a signal ends the process, so the namespaces that exist are also listed here, and one
//! thread that waits for the signals removes them.

use std::collections::BTreeSet;
use std::sync::{Mutex, Once};
use std::{process, thread};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::net;

/// Lists the namespace as one to remove.
pub(crate) fn track(name: &str) {
    WATCH.call_once(watch);
    LIVE.lock().unwrap().insert(name.to_owned());
}

/// The namespace is gone.
pub(crate) fn forget(name: &str) {
    LIVE.lock().unwrap().remove(name);
}

fn watch() {
    let Ok(mut signals) = Signals::new([SIGHUP, SIGINT, SIGTERM]) else { return };
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // The lock stays held, so that no other thread makes a namespace between this and the exit.
            let live = LIVE.lock().unwrap();
            for name in live.iter() {
                net::remove(name);
            }
            process::exit(128 + signal);
        }
    });
}

static LIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
static WATCH: Once = Once::new();
