//! `cargo xtask test`: runs groups, counts, and says so in one last line.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::groups::{GROUPS, Group};
use crate::tally::{Digest, Tally, skipped};
use crate::{root, setup};

/// What the test programs print, passed or not; from the root of the tree.
const LOG: &str = "target/test.log";

/// Runs the groups of these names, or all.
pub fn run(names: &[String]) -> Result<ExitCode> {
    let chosen: Vec<&Group> =
        GROUPS.iter().filter(|group| names.is_empty() || names.iter().any(|name| name == group.name)).collect();
    let packages: BTreeSet<&str> = chosen.iter().flat_map(|group| group.packages()).copied().collect();
    setup::run(&Vec::from_iter(packages))?;
    fs::create_dir_all(root()?.join("target"))?;
    File::create(root()?.join(LOG))?;
    let mut total = Tally::default();
    let mut report = Vec::new();
    for group in chosen {
        println!("\n=== {}: {}", group.name, group.about);
        let start = Instant::now();
        let tally = run_group(group);
        println!("{tally} in {:.1} s", start.elapsed().as_secs_f64());
        total += tally.clone();
        report.push((group.name, tally, start.elapsed()));
    }
    print_report(&report);
    println!("What tests printed that passed is in {LOG}, too.");
    println!("{total}");
    std::io::stdout().flush()?;
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a command that is one test by itself.
pub fn verdict(command: &mut Command) -> Result<Tally> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("{command:?}"))?;
    Ok(Tally::one(status.success()))
}

/// One test that does not run here.
pub fn skip(name: &str, why: &str) -> Tally {
    println!("test {name} ... ignored, {why}");
    Tally { skipped: 1, ..Tally::default() }
}

/// Runs a command that prints results, shows those that matter, logs them all, and counts.
pub fn count(command: &mut Command) -> Result<Tally> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let stdout = child.stdout.take().expect("stdout was asked for");
    let mut log = File::options().create(true).append(true).open(root()?.join(LOG))?;
    let mut digest = Digest::default();
    let mut tally = Tally::default();
    let mut counted_as_passed = 0;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        writeln!(log, "{line}")?;
        if digest.keeps(&line) {
            println!("{line}");
        }
        tally.read(&line);
        if let Some((name, "")) = skipped(&line) {
            println!("{name} was skipped without a reason, which counts as failed");
            tally.failed += 1;
        }
        // A test that finds out for itself that it cannot run here; its program counts it as passed.
        counted_as_passed += u64::from(line.starts_with("skipped: "));
    }
    tally.passed = tally.passed.saturating_sub(counted_as_passed);
    tally.skipped += counted_as_passed;
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        println!("{command:?} ended with {status}");
        tally.failed += 1;
    }
    Ok(tally)
}

fn run_group(group: &Group) -> Tally {
    match (group.run)() {
        Ok(tally) if tally.is_empty() => {
            println!("the group {} ran no test, which counts as failed", group.name);
            Tally::one(false)
        }
        Ok(tally) => tally,
        Err(error) => {
            println!("the group {} did not run: {error:#}", group.name);
            Tally::one(false)
        }
    }
}

fn print_report(report: &[(&str, Tally, Duration)]) {
    println!("\n{:<10} {:>7} {:>7} {:>8} {:>9}", "group", "passed", "failed", "skipped", "seconds");
    for (name, tally, time) in report {
        let Tally { passed, failed, skipped, .. } = tally;
        println!("{name:<10} {passed:>7} {failed:>7} {skipped:>8} {:>9.1}", time.as_secs_f64());
    }
    for (name, Tally { notes, .. }, _) in report {
        notes.iter().for_each(|note| println!("{name}: {note}"));
    }
    for (name, tally, _) in report {
        for failure in &tally.failures {
            println!("failed in {name}: {failure}");
        }
    }
}
