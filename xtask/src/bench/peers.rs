//! Who is measured, and how each is started.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dmverbs_tests::perftest::{Figures, Table};
use dmverbs_tests::process::{Running, run};
use dmverbs_tests::{Net, Pair, programs, wait};
use serde::Deserialize;

use super::machine;
use crate::debian::{self, Tree};
use crate::{output, root};

/// Where to measure, and for how long.
pub struct Bench<'a> {
    /// The network.
    pub net: &'a Net,
    /// Roughly how long a run's traffic lasts.
    pub seconds: f64,
    /// UCX with all that it needs, unpacked. Debian 12's own has a tenth of this one's bandwidth.
    pub ucx: PathBuf,
    /// [`written`].
    pub written: PathBuf,
}

/// What is measured of others.
pub const UCX: Tree = Tree { name: "ucx", packages: &["ucx-utils"], dependencies: true };

/// Builds what has ucx_perftest write its buffer before it sends that.
pub fn written() -> Result<PathBuf> {
    let library = root()?.join("target/written.so");
    let mut command = Command::new("cc");
    command.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(root()?.join("xtask/src/bench/written.c"));
    output(&mut command)?;
    Ok(library)
}

/// Somebody who can be measured.
#[derive(Clone, Debug)]
pub enum Peer {
    /// perftest by `dmverbs run`.
    Ours {
        /// perftest's program.
        program: &'static str,
        /// Its options.
        options: &'static str,
        /// Its `-q`. Each queue pair carries the number of messages.
        queue_pairs: u64,
    },
    /// The same, for the processor time that both ends use.
    OursProcessor {
        /// perftest's program.
        program: &'static str,
    },
    /// Plain TCP: `baseline` of the tests.
    Raw {
        /// Its words, without the size.
        words: &'static str,
    },
    /// ucx_perftest over TCP.
    Ucx {
        /// Its `-t`.
        test: &'static str,
        /// With a buffer that it has written before.
        written: bool,
    },
}

/// What one run gave. A measure that the program does not make is absent.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Figure {
    /// How long the traffic lasted that was measured.
    pub seconds: Option<f64>,
    /// Half a round trip.
    pub latency_us: Option<f64>,
    /// Of one direction.
    pub bytes_per_second: Option<f64>,
    /// Of one direction.
    pub messages_per_second: Option<f64>,
    /// Both ends together.
    pub cpu_seconds_per_gb: Option<f64>,
}

impl Peer {
    fn queue_pairs(&self) -> u64 {
        if let Peer::Ours { queue_pairs, .. } = self { *queue_pairs } else { 1 }
    }
}

/// A peer with a size, and the number of messages that fill the time.
pub struct Participant {
    peer: Peer,
    size: u64,
    iterations: u64,
}

impl Participant {
    /// Finds how many messages fill the time. A short run is slower than a long one, so it is tried again with more until
    /// one fills a third.
    pub fn calibrated(bench: &Bench, peer: Peer, size: u64) -> Result<Participant> {
        let short = if size < 1 << 20 { 1000 / peer.queue_pairs().min(100) } else { 100 };
        let mut participant = Participant { peer, size, iterations: short };
        if let Peer::Raw { .. } = participant.peer {
            return Ok(participant);
        }
        let longer = match participant.peer {
            Peer::OursProcessor { .. } => 1.5,
            // A thousand begin for a twentieth of a second.
            _ if participant.peer.queue_pairs() > 1 => 3.0,
            _ => 1.0,
        };
        let wanted = bench.seconds * longer;
        loop {
            let iterations = participant.iterations;
            let figure = participant.measure(bench, iterations).with_context(|| participant.describe())?;
            let rate = match figure {
                Figure { latency_us: Some(latency), .. } => 5e5 / latency,
                Figure { bytes_per_second: Some(bandwidth), .. } => {
                    bandwidth / (size * participant.peer.queue_pairs()) as f64
                }
                _ => bail!("no figures of {}", participant.describe()),
            };
            participant.iterations = ((rate * wanted) as u64).max(short);
            if iterations as f64 >= rate * wanted / 3.0 {
                return Ok(participant);
            }
        }
    }

    /// One run.
    pub fn run(&self, bench: &Bench) -> Result<Figure> {
        match self.peer {
            Peer::OursProcessor { program } => self.processor(bench, program),
            Peer::Raw { .. } => {
                let figure = self.measure(bench, self.iterations)?;
                Ok(Figure { seconds: Some(bench.seconds), ..figure })
            }
            Peer::Ours { .. } | Peer::Ucx { .. } => {
                let figure = self.measure(bench, self.iterations)?;
                let messages = (self.iterations * self.peer.queue_pairs()) as f64;
                let seconds = match figure {
                    Figure { latency_us: Some(latency), .. } => Some(2e-6 * latency * messages),
                    Figure { bytes_per_second, .. } => bytes_per_second.map(|rate| messages * self.size as f64 / rate),
                };
                Ok(Figure { seconds, ..figure })
            }
        }
    }

    /// For error messages.
    pub fn describe(&self) -> String {
        format!("{:?} with {} bytes", self.peer, self.size)
    }

    fn measure(&self, bench: &Bench, iterations: u64) -> Result<Figure> {
        match self.peer {
            Peer::Ours { program, options, queue_pairs: 1 } => self.ours(bench, program, options, iterations),
            Peer::Ours { program, options, queue_pairs } => {
                self.ours(bench, program, &format!("{options} -q {queue_pairs}"), iterations)
            }
            Peer::OursProcessor { program } => self.ours(bench, program, "", iterations),
            Peer::Raw { words } => self.raw(bench, words),
            Peer::Ucx { test, written } => self.ucx(bench, test, written, iterations),
        }
    }

    fn pair<'a>(&self, bench: &'a Bench, program: &'a str, options: &str, iterations: u64) -> Pair<'a> {
        Pair::new(bench.net, program).options(&format!("-F -s {} -n {iterations} {options}", self.size))
    }

    fn ours(&self, bench: &Bench, program: &str, options: &str, iterations: u64) -> Result<Figure> {
        let (_, table) = self.pair(bench, program, options, iterations).measure(&[self.size])?;
        Ok(figure(&table))
    }

    /// The processor time of a run, less that of a run that moves almost nothing: what the start costs.
    fn processor(&self, bench: &Bench, program: &str) -> Result<Figure> {
        let few = 5;
        let timed = |iterations| -> Result<(f64, Figure)> {
            // -N: no search for the peak, which compares every two completions.
            let pair = self.pair(bench, program, "-N", iterations);
            let (before, _, table) = pair.measure_since(&[self.size], machine::children)?;
            Ok((machine::children()? - before, figure(&table)))
        };
        let ((start, _), (whole, figure)) = (timed(few)?, timed(self.iterations)?);
        let gigabytes = (self.iterations - few) as f64 * self.size as f64 / 1e9;
        let bytes = self.iterations as f64 * self.size as f64;
        Ok(Figure {
            seconds: figure.bytes_per_second.map(|rate| bytes / rate),
            cpu_seconds_per_gb: Some((whole - start) / gigabytes),
            ..Figure::default()
        })
    }

    fn raw(&self, bench: &Bench, words: &str) -> Result<Figure> {
        let mut command = bench.net.server().command(programs::release("baseline")?);
        command.args(words.split_whitespace());
        command.args([format!("--size={}", self.size), format!("--seconds={}", bench.seconds)]);
        let shown = run(command, LIMIT)?;
        let line = shown.succeeded()?.stdout.trim();
        serde_json::from_str(line).with_context(|| shown.to_string())
    }

    fn ucx(&self, bench: &Bench, test: &str, written: bool, iterations: u64) -> Result<Figure> {
        let command = |side: &dmverbs_tests::Side| {
            let [loader, how, libraries] = debian::loader(&bench.ucx);
            let mut command = side.command(loader);
            command.arg(how).arg(libraries);
            if written {
                command.arg("--preload").arg(&bench.written);
            }
            command.arg(bench.ucx.join("usr/bin/ucx_perftest"));
            command.envs([("UCX_TLS", "tcp"), ("UCX_NET_DEVICES", "lo"), ("UCX_LOG_LEVEL", "fatal")]);
            command.args(["-P", "0", "-p", &UCX_PORT.to_string()]);
            command
        };
        let side = bench.net.server();
        let mut server = Running::spawn(command(side))?;
        wait::until("ucx_perftest to listen", LIMIT, || {
            ensure!(server.is_alive()?, "ucx_perftest ended before it listened");
            Ok(side.listening(server.id()).contains(&UCX_PORT).then_some(()))
        })?;
        let mut client = command(bench.net.client());
        client.args(["-t", test, "-s", &self.size.to_string(), "-n", &iterations.to_string()]);
        client.args(["-w", &(iterations / 10).max(10).to_string(), "-f", "-v", side.ipv4]);
        let shown = run(client, LIMIT)?;
        server.wait(LIMIT)?.succeeded()?;
        // iterations, percentile us, average us, overall us, MB/s average, overall, messages/s average, overall
        let mut lines = shown.succeeded()?.stdout.lines().map(str::trim);
        let line = lines.rfind(|line| line.starts_with(|first: char| first.is_ascii_digit()));
        let line = line.with_context(|| format!("no figures in\n{shown}"))?;
        let numbers: Vec<f64> = line.split(',').map(str::parse).collect::<Result<_, _>>()?;
        ensure!(numbers.len() >= 8, "too few figures: {line}");
        Ok(if test.ends_with("lat") {
            Figure { latency_us: Some(numbers[1]), ..Figure::default() }
        } else {
            let bytes_per_second = Some(numbers[5] * 1_048_576.0);
            Figure { bytes_per_second, messages_per_second: Some(numbers[7]), ..Figure::default() }
        })
    }
}

/// What a table of one row says.
fn figure(table: &Table) -> Figure {
    match table.rows[0].figures {
        Figures::Bandwidth { bytes_per_second, messages_per_second } => Figure {
            bytes_per_second: Some(bytes_per_second),
            messages_per_second: Some(messages_per_second),
            ..Figure::default()
        },
        Figures::Latency { typical, .. } => Figure { latency_us: Some(typical), ..Figure::default() },
    }
}

const LIMIT: Duration = Duration::from_secs(60);
const UCX_PORT: u16 = 13337;
