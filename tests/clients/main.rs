//! Debian's own verbs programs, unmodified, on dmverbs: one row a program and set of options.
//!
//! Run by `cargo xtask test clients`; a row by `cargo test -p dmverbs-tests --test clients -- "ib_write_bw -a"`.

mod devices;
mod hostile;
mod perftest;
mod pingpong;

use std::process::ExitCode;
use std::thread;

use anyhow::Result;
use dmverbs_tests::net::{self, Kind, Net};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // A server and a client that both spin fill two processors, but a good part of the time one waits for the other.
    args.test_threads.get_or_insert_with(|| thread::available_parallelism().map_or(1, usize::from));
    let rows = [devices::rows(), pingpong::rows(), perftest::rows(), hostile::rows()];
    libtest_mimic::run(&args, rows.into_iter().flatten().collect()).exit_code()
}

/// A row: a name, a network of its own, and what should happen in it.
fn row(name: impl Into<String>, kind: Kind, body: impl FnOnce(&Net) -> Result<()> + Send + 'static) -> Trial {
    let place = match kind {
        Kind::Loopback => "loopback",
        Kind::Veth => "veth",
    };
    Trial::ignorable_test(format!("{} over {place}", name.into()), move || {
        if let Some(why) = net::unavailable() {
            return Ok(Completion::ignored_with(why));
        }
        let done = Net::new(kind).and_then(|net| body(&net));
        done.map(|()| Completion::Completed).map_err(|error| Failed::from(format!("{error:#}")))
    })
}

/// The same, when it is about IPv6.
fn ipv6_row(name: impl Into<String>, body: impl FnOnce(&Net) -> Result<()> + Send + 'static) -> Trial {
    let name = name.into();
    if net::ipv6_available() {
        row(name, Kind::Veth, body)
    } else {
        Trial::ignorable_test(format!("{name} over veth"), || Ok(Completion::ignored_with("this kernel has no IPv6")))
    }
}

const BOTH: [Kind; 2] = [Kind::Loopback, Kind::Veth];
