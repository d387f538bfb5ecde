//! The project's own commands: `cargo xtask setup | demo | test | bench | vm | regen`.

mod bench;
mod build;
mod debian;
mod demo;
mod groups;
mod pyverbs;
mod regen;
mod setup;
mod tally;
mod test;
mod vm;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use nix::fcntl::{Flock, FlockArg};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "The commands of the dmverbs source tree")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the Debian packages that the other commands need (as root; otherwise say which are missing).
    Setup,
    /// Build, and run Debian's perftest between two network namespaces; ends with a table.
    Demo,
    /// Run the tests; the last line is "N passed, N failed, N skipped".
    Test {
        /// The groups to run, in the order of the list; without any, all of them.
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(groups::names()))]
        groups: Vec<String>,
    },
    /// Measure dmverbs, raw TCP and UCX side by side, and print medians, ranges and ratios.
    Bench(bench::Options),
    /// Run a command in a virtual machine with the modules of kernel/.
    Vm(vm::Options),
    /// Generate the checked-in bindings anew.
    Regen {
        /// Change nothing, and fail if the files in the tree are not what would be generated.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup => setup::run(&vm::HOST).map(|()| ExitCode::SUCCESS),
        Command::Demo => demo::run().map(|()| ExitCode::SUCCESS),
        Command::Test { groups } => test::run(&groups),
        Command::Bench(options) => bench::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Vm(options) => vm::run(&options),
        Command::Regen { check } => setup::run(&[]).and_then(|()| regen::run(check)).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The root of the source tree.
fn root() -> Result<PathBuf> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(own.parent().map_or(own.clone(), PathBuf::from).canonicalize()?)
}

/// Makes the folder; and until what is returned is dropped, nobody else makes things in it that are made once.
fn alone_in(folder: &Path) -> Result<Flock<File>> {
    fs::create_dir_all(folder)?;
    let lock = Flock::lock(File::open(folder)?, FlockArg::LockExclusive);
    lock.map_err(|(_, e)| e).with_context(|| format!("{} cannot be locked", folder.display()))
}

/// Runs a command to its end and returns what it printed.
fn output(command: &mut std::process::Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?} does not start"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn one_at_a_time_makes_what_is_made_once() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("made");
        let alone = alone_in(&folder).unwrap();
        let may = || Flock::lock(File::open(&folder).unwrap(), FlockArg::LockExclusiveNonblock).is_ok();
        assert!(!may());
        drop(alone);
        assert!(may());
    }

    #[test]
    fn the_options_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_machine_runs_a_command_or_gives_a_shell() {
        let parses = |words: &[&str]| Cli::try_parse_from([&["xtask", "vm"], words].concat()).is_ok();
        assert!(parses(&["--kernel", "6.12", "--", "uname", "-r"]) && parses(&["--shell"]));
        assert!(!parses(&[]) && !parses(&["--shell", "--", "true"]) && !parses(&["--kernel", "5.10", "--", "true"]));
    }
}
