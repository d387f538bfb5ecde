//! Tests that need a process of their own.

use std::env;
use std::process::Command;

const MARK: &str = "_TEST_ALONE";

/// Whether this process runs nothing but the test of this name. If not, it is run again in one that does.
pub(crate) fn alone(name: &str) -> bool {
    alone_by(Command::new("env"), name)
}

/// The same by way of a command, which starts the program that it is given behind its own arguments.
pub(crate) fn alone_by(mut command: Command, name: &str) -> bool {
    if env::var_os(MARK).is_some() {
        return true;
    }
    command.arg(env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]).env(MARK, "1");
    let again = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&again.stdout) + String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success() && said.contains(" 1 passed"), "{command:?}:\n{said}");
    false
}
