//! Random schedules of two engines, or of one connected to itself, against a model.
//!
//! Each schedule follows from its seed. `DMVERBS_SIM_SEED=n` runs one alone; `DMVERBS_SIM_COUNT` says how many,
//! `DMVERBS_SIM_FIRST` from which seed on.

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

mod oracle;
mod schedule;

#[test]
fn random_schedules_keep_every_promise() {
    if let Some(seed) = number("DMVERBS_SIM_SEED") {
        return schedule::run(seed);
    }
    let first = number("DMVERBS_SIM_FIRST").unwrap_or(0);
    let count = number("DMVERBS_SIM_COUNT").unwrap_or(if cfg!(debug_assertions) { 1_000 } else { 20_000 });
    let next = AtomicU64::new(first);
    let broken = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || broken.lock().unwrap().len() >= ENOUGH {
                        break;
                    }
                    if catch_unwind(|| schedule::run(seed)).is_err() {
                        println!("run it alone with DMVERBS_SIM_SEED={seed}");
                        broken.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap();
    assert!(broken.is_empty(), "promises are broken with these seeds: {broken:?}");
    println!("{count} schedules, seeds {first} to {}", first + count - 1);
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

/// After this many broken schedules, more tell nothing new.
const ENOUGH: usize = 10;
