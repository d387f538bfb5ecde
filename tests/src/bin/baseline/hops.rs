//! How near two processors are to each other.
//!
//! A virtual machine's processors may share a cache at one moment and not at the next, which moves latencies by a
//! factor of 1.4 and bandwidths by up to 2. Two threads, which the benchmark starts with real-time priority, hand a
//! cache line back and forth every 40 ms while something else is being measured.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{hint, thread};

use anyhow::Result;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Prints "<seconds since 1970> <nanoseconds one way>" a line, for ever.
pub fn print() -> Result<()> {
    let line = Line::default();
    thread::scope(|scope| {
        scope.spawn(|| -> Result<()> {
            pin(1)?;
            for round in 0.. {
                wait_for_start(round);
                line.answer(round);
            }
            Ok(())
        });
        pin(0)?;
        for round in 0.. {
            wait_for_start(round);
            if let Some(time) = line.ask(round) {
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
                let mut out = std::io::stdout();
                writeln!(out, "{now:.4} {:.0}", time.as_nanos() as f64 / f64::from(HOPS) / 2.0)?;
                out.flush()?;
            }
        }
        Ok(())
    })
}

/// A cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Line {
    turn: AtomicU64,
}

impl Line {
    /// Hands the line over `HOPS` times and gets it back; nothing when the other thread does not come.
    fn ask(&self, round: u64) -> Option<Duration> {
        let first = round * ROUND;
        self.turn.store(first + 1, Ordering::Release);
        self.wait(first + 2)?;
        let start = Instant::now();
        for hop in 1..=u64::from(HOPS) {
            self.turn.store(first + 2 * hop + 1, Ordering::Release);
            self.wait(first + 2 * hop + 2)?;
        }
        Some(start.elapsed())
    }

    fn answer(&self, round: u64) -> Option<()> {
        let first = round * ROUND;
        for hop in 0..=u64::from(HOPS) {
            self.wait(first + 2 * hop + 1)?;
            self.turn.store(first + 2 * hop + 2, Ordering::Release);
        }
        Some(())
    }

    /// Spins until it is this one's turn, or gives up.
    fn wait(&self, turn: u64) -> Option<()> {
        let start = Instant::now();
        loop {
            for _ in 0..1000 {
                // Pairs with the Release of the other thread's store.
                if self.turn.load(Ordering::Acquire) == turn {
                    return Some(());
                }
                hint::spin_loop();
            }
            if start.elapsed() > PATIENCE {
                return None;
            }
        }
    }
}

/// Both threads begin a round at the same time of the day, so neither has to spin for the other for long.
fn wait_for_start(round: u64) {
    static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let begin = *BEGIN.get_or_init(Instant::now);
    let at = begin + PERIOD * u32::try_from(round).unwrap_or(u32::MAX);
    while let Some(left) = at.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
}

fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

const HOPS: u32 = 300;
const PATIENCE: Duration = Duration::from_millis(4);
const PERIOD: Duration = Duration::from_millis(40);
/// More turns than a round has.
const ROUND: u64 = 1000;
