//! The state of the machine during a run.
//!
//! Two things move figures more than a change of the code does: other processes, and where the host of a virtual
//! machine has put its processors. The first is measured by comparing the busy time of all processors with what this
//! process and its children have used; the second by `baseline hops`, which runs all the time.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use dmverbs_tests::process::Running;
use dmverbs_tests::{Net, programs, wait};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

/// What a run met: how far the processors were from each other, if nobody else used them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// They shared a cache.
    Near,
    /// They did not.
    Far,
    /// Now the one, now the other.
    Mixed,
    /// Somebody else used the processors too.
    Disturbed,
}

/// The watcher.
pub struct Machine {
    hops: Running,
    ticks_per_second: f64,
    processors: f64,
}

impl Machine {
    /// Begins to watch.
    pub fn watch(net: &Net) -> Result<Machine> {
        let mut command = net.server().command("chrt");
        command.args(["--fifo", "1"]).arg(programs::release("baseline")?).arg("hops");
        let mut hops = Running::spawn(command)?;
        wait::until("the first cache line to hop", Duration::from_secs(5), || {
            anyhow::ensure!(hops.is_alive()?, "`chrt --fifo 1 baseline hops` ended: real-time priority is needed");
            Ok((!hops.stdout_so_far().is_empty()).then_some(()))
        })?;
        let ticks_per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")? as f64;
        let processors = std::thread::available_parallelism()?.get() as f64;
        Ok(Machine { hops, ticks_per_second, processors })
    }

    /// Runs `body` when the machine is quiet, and says what it met. `body` also says how many seconds its last part
    /// took, the one that it measured; without, all of it counts.
    pub fn observe<T>(&mut self, body: impl FnOnce() -> Result<(T, Option<f64>)>) -> Result<(T, State)> {
        self.wait_for_quiet()?;
        let (busy, own, begun) = (self.busy()?, own()?, now()?);
        let (value, measured) = body()?;
        let (busy, own, ended) = (self.busy()? - busy, self::own()? - own, now()?);
        let foreign = (busy - own) / ((ended - begun) * self.processors);
        let from = measured.map_or(begun, |seconds| begun.max(ended - seconds - TEARDOWN));
        let state = if foreign < FOREIGN { self.distance(from, ended) } else { State::Disturbed };
        Ok((value, state))
    }

    fn distance(&self, from: f64, to: f64) -> State {
        let printed = self.hops.stdout_so_far();
        let (mut near, mut all) = (0.0, 0.0);
        // The newest lines come last.
        for line in printed.lines().rev() {
            let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<f64>().ok());
            let (Some(time), Some(nanoseconds)) = (numbers.next(), numbers.next()) else { continue };
            if time < from {
                break;
            }
            if time <= to {
                all += 1.0;
                near += f64::from(u8::from(nanoseconds < NEAR));
            }
        }
        match near / all {
            share if share > 0.85 => State::Near,
            share if share < 0.15 => State::Far,
            _ => State::Mixed,
        }
    }

    /// Until the machine is nearly idle; after the limit the run is made anyway, and judged by what it met.
    fn wait_for_quiet(&self) -> Result<()> {
        let mut last = (self.busy()?, Instant::now());
        let quiet = wait::until("a quiet machine", Duration::from_secs(2), || {
            let passed = last.1.elapsed().as_secs_f64();
            if passed < 0.1 {
                return Ok(None);
            }
            let share = (self.busy()? - last.0) / (passed * self.processors);
            last = (self.busy()?, Instant::now());
            Ok((share < FOREIGN).then_some(()))
        });
        drop(quiet);
        Ok(())
    }

    /// The busy time of all processors since the start of the machine, in seconds.
    fn busy(&self) -> Result<f64> {
        let stat = fs::read_to_string("/proc/stat")?;
        let fields = stat.lines().next().context("/proc/stat is empty")?.split_whitespace().skip(1);
        let fields: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
        // user nice system; irq softirq steal. Idle and iowait stand between them.
        let busy: f64 = fields.iter().take(3).chain(fields.iter().skip(5).take(3)).sum();
        Ok(busy / self.ticks_per_second)
    }
}

/// The processor time that ended children, and theirs, have used.
pub fn children() -> Result<f64> {
    used(UsageWho::RUSAGE_CHILDREN)
}

/// That of this process too, which waits for the programs to start.
fn own() -> Result<f64> {
    Ok(children()? + used(UsageWho::RUSAGE_SELF)?)
}

fn used(who: UsageWho) -> Result<f64> {
    let used = getrusage(who)?;
    Ok((used.user_time() + used.system_time()).num_microseconds() as f64 / 1e6)
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// The share of all processors that others may use.
const FOREIGN: f64 = 0.08;
/// Seconds from the end of the traffic to the end of the programs.
const TEARDOWN: f64 = 0.05;
/// Nanoseconds of a hop, below which the processors share a cache.
const NEAR: f64 = 100.0;
