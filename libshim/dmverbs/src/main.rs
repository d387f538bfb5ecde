//! The `dmverbs` command: starts programs on dmverbs, and shows what they will find.
//!
//! `run` makes the program's environment and becomes the program (`program` finds it); `libdir` keeps the folder
//! of links that both it and LD_LIBRARY_PATH point to; `devices` lists what the program will see. `nic` prepares an
//! interface for device memory, `broker` takes queues of it for those who may not, and `doctor` tells what this machine
//! has for it. `top` shows what the queue pairs of programs have sent and received.
#![cfg_attr(not(test), no_main)]

mod broker;
mod devices;
mod doctor;
mod failure;
mod libdir;
mod nic;
mod privilege;
mod program;
mod run;
mod state;
mod top;

use std::ffi::{c_char, c_int};
use std::panic::catch_unwind;

use clap::{Parser, Subcommand};

use crate::failure::Failure;

/// RDMA verbs programs over plain TCP.
#[derive(Debug, Parser)]
#[command(name = "dmverbs", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    /// Print the folder to put in LD_LIBRARY_PATH, and make it if need be
    ///
    /// It holds links to dmverbs' library under the names of libibverbs, and what `dmverbs run` preloads besides. `dmverbs run` does more: it also redirects
    /// dlopen() of a path, overrides a program's RPATH, and shows dmverbs' devices in /sys and /dev.
    Libdir,
    /// List the devices that programs will find
    Devices,
    Top(top::Top),
    Nic(nic::Nic),
    Broker(broker::Broker),
    Doctor(doctor::Doctor),
}

/// C's main function, not Rust's: that one ignores SIGPIPE and opens closed descriptors, which the program started
/// by `dmverbs run` would inherit.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    catch_unwind(|| match command(Cli::parse().command) {
        Ok(()) => 0,
        Err(failure) => failure.report(),
    })
    .unwrap_or(failure::OURS)
}

fn command(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(run) => run.exec().map(|never| match never {}),
        Command::Libdir => libdir::print(),
        Command::Devices => devices::print(),
        Command::Top(top) => top.run(),
        Command::Nic(nic) => nic.run(),
        Command::Broker(broker) => broker.run(),
        Command::Doctor(doctor) => doctor.run(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
