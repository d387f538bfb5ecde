//! What plain TCP does on this machine: the benchmark's baseline. Every measure prints one line of JSON.
//!
//! Two processes talk over 127.0.0.1, the second started by the first. Each has a processor
//! of its own. Both spin on non-blocking sockets, or both block (`--blocking`); they warm up for a while, then measure
//! a window.

mod bandwidth;
mod hops;
mod latency;
mod link;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use link::Link;

#[derive(Parser)]
#[command(about = "Plain TCP, measured")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Half of the round trip of a message.
    Latency(Measure),
    /// One direction's bandwidth.
    Bandwidth(Measure),
    /// The far end of one of the above; prints its port.
    #[command(hide = true)]
    Peer {
        #[command(subcommand)]
        of: PeerOf,
    },
    /// Prints, for ever, how long a cache line takes from one processor to the other.
    Hops,
}

#[derive(Subcommand)]
enum PeerOf {
    Latency(Measure),
    Bandwidth(Measure),
}

#[derive(Args, Clone)]
struct Measure {
    /// Bytes a message.
    #[arg(long)]
    size: usize,
    /// Messages a system call (bandwidth).
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Bytes that the receiver asks for in a call (bandwidth); the message's size by default.
    #[arg(long)]
    receive: Option<usize>,
    /// Wait in the kernel instead of spinning.
    #[arg(long)]
    blocking: bool,
    /// How long to measure.
    #[arg(long, default_value_t = 0.7)]
    seconds: f64,
}

impl Measure {
    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn words(&self) -> Vec<String> {
        let mut words = vec![format!("--size={}", self.size), format!("--batch={}", self.batch)];
        words.push(format!("--seconds={}", self.seconds));
        words.extend(self.receive.map(|bytes| format!("--receive={bytes}")));
        words.extend(self.blocking.then(|| "--blocking".to_owned()));
        words
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Latency(measure) => Link::near("latency", &measure).and_then(|link| latency::ask(link, &measure)),
        Command::Bandwidth(measure) => {
            Link::near("bandwidth", &measure).and_then(|link| bandwidth::send(link, &measure))
        }
        Command::Peer { of } => peer(of),
        Command::Hops => hops::print(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn peer(of: PeerOf) -> Result<()> {
    match of {
        PeerOf::Latency(measure) => latency::answer(&mut Link::far(&measure)?, &measure),
        PeerOf::Bandwidth(measure) => bandwidth::receive(&mut Link::far(&measure)?, &measure),
    }
}

/// The time before the window.
const WARM_UP: Duration = Duration::from_millis(200);
