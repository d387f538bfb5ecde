//! `cargo xtask bench --vm`: the virtual NIC and device memory, in the virtual machine.
//!
//! `kernel/vm/bench` makes the runs, in turns; a ratio is of two runs of the same round.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::plan::Bound;
use super::report::{Stats, verdict};
use crate::vm;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// By name, in rounds.
    runs: BTreeMap<String, Vec<Run>>,
    ratios: Vec<Ratio>,
    notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Run {
    bytes_per_second: f64,
    /// Of all the machine's processors; perftest's start takes more than its traffic.
    cpu_seconds_per_gb: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Ratio {
    of: &'static str,
    to: &'static str,
    figure: Figure,
    bound: Bound,
    ratio: Stats,
}

/// What is compared of two runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
enum Figure {
    Bandwidth,
    /// Processor time for 10^9 bytes.
    Processor,
}

/// Measures, and prints.
pub fn run(rounds: usize) -> Result<Report> {
    let report = Report::new(&vm::capture(&format!("kernel/vm/bench {rounds}"), SECONDS)?)?;
    println!("{rounds} rounds in the virtual machine; medians (least … most).\n{report}");
    Ok(report)
}

impl Report {
    fn new(printed: &str) -> Result<Report> {
        let mut runs: BTreeMap<String, Vec<Run>> = BTreeMap::new();
        let mut notes = Vec::new();
        for line in printed.lines() {
            if let Some(note) = line.strip_prefix("# ") {
                notes.push(note.to_owned());
                continue;
            }
            let (name, run) = parse(line).with_context(|| format!("not a run: {line:?}"))?;
            runs.entry(name.to_owned()).or_default().push(run);
        }
        let ratio = |&(of, to, figure, bound): &Comparison| -> Result<Ratio> {
            let rates = |name| runs.get(name).with_context(|| format!("no run of {name}"));
            let (ours, theirs) = (rates(of)?, rates(to)?);
            ensure!(ours.len() == theirs.len(), "{of} and {to} ran {} and {} times", ours.len(), theirs.len());
            let value = |run: &Run| match figure {
                Figure::Bandwidth => Some(run.bytes_per_second),
                Figure::Processor => run.cpu_seconds_per_gb,
            };
            let ratios: Option<Vec<f64>> = ours.iter().zip(theirs).map(|(a, b)| Some(value(a)? / value(b)?)).collect();
            let ratio = ratios
                .and_then(|ratios| Stats::of(ratios.into_iter()))
                .with_context(|| format!("no figure of {of} or {to}"))?;
            Ok(Ratio { of, to, figure, bound, ratio })
        };
        let ratios = COMPARISONS.iter().map(ratio).collect::<Result<_>>()?;
        Ok(Report { runs, ratios, notes })
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self.runs.keys().map(|name| name.chars().count()).max().unwrap_or(0);
        for (name, runs) in &self.runs {
            let shown = |of: fn(&Run) -> Option<f64>| {
                let Stats { median, min, max } = Stats::of(runs.iter().filter_map(of))?;
                Some(format!("{median:.1} ({min:.1} … {max:.1})"))
            };
            if let Some(rate) = shown(|run| Some(run.bytes_per_second / 1e6)) {
                write!(f, "{name:<width$} {rate:>24} MB/s")?;
            }
            if let Some(processor) = shown(|run| run.cpu_seconds_per_gb) {
                write!(f, " {processor:>24} s/GB")?;
            }
            writeln!(f)?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        for Ratio { of, to, figure, bound, ratio } in &self.ratios {
            let time = if *figure == Figure::Processor { ", processor time" } else { "" };
            write!(f, "{of} ÷ {to}{time}: {:.2} ({:.2} … {:.2})", ratio.median, ratio.min, ratio.max)?;
            match (bound, bound.met(ratio.median)) {
                (Bound::AtLeast(least), Some(met)) => writeln!(f, "; at least {least}: {}", verdict(met))?,
                (Bound::AtMost(most), Some(met)) => writeln!(f, "; at most {most}: {}", verdict(met))?,
                _ => writeln!(f)?,
            }
        }
        Ok(())
    }
}

/// A line of `kernel/vm/bench`.
fn parse(line: &str) -> Option<(&str, Run)> {
    let mut fields = line.split('\t');
    let name = fields.next()?;
    let number = |field: &str| field.parse().ok().filter(|&number: &f64| number.is_finite() && number > 0.0);
    let bytes_per_second = number(fields.next()?)?;
    let cpu_seconds_per_gb = match fields.next() {
        Some(field) => Some(number(field)?),
        None => None,
    };
    Some((name, Run { bytes_per_second, cpu_seconds_per_gb }))
}

/// One name, another, and how a figure of the one divided by that of the other should be.
type Comparison = (&'static str, &'static str, Figure, Bound);

const COMPARISONS: [Comparison; 23] = [
    ("iperf3, vhs", "iperf3, veth", Figure::Bandwidth, Bound::AtLeast(1.5)),
    ("udmabuf to udmabuf", "host to host", Figure::Bandwidth, Bound::AtLeast(3.0)),
    ("softaccel to softaccel", "host to host", Figure::Bandwidth, Bound::AtLeast(3.0)),
    ("softaccel to softaccel, 64 KiB", "host to host", Figure::Bandwidth, Bound::AtLeast(3.0)),
    (
        "softaccel to softaccel, 64 KiB, zcrx",
        "softaccel to softaccel, 64 KiB, beside zcrx",
        Figure::Bandwidth,
        Bound::Shown,
    ),
    (
        "softaccel to softaccel, 64 KiB, zcrx",
        "softaccel to softaccel, 64 KiB, beside zcrx",
        Figure::Processor,
        Bound::Shown,
    ),
    ("softaccel to softaccel", "iperf3, vhs", Figure::Bandwidth, Bound::Shown),
    ("host to udmabuf", "host to host", Figure::Bandwidth, Bound::Shown),
    ("host to softaccel", "host to host", Figure::Bandwidth, Bound::Shown),
    ("WRITE softaccel, direct", "WRITE softaccel, staged", Figure::Bandwidth, Bound::AtLeast(2.0)),
    ("WRITE softaccel, direct", "WRITE softaccel, staged", Figure::Processor, Bound::AtMost(0.5)),
    ("WRITE softaccel, direct", "softaccel to softaccel, 64 KiB", Figure::Bandwidth, Bound::AtLeast(0.9)),
    ("WRITE softaccel, direct", "softaccel to softaccel, 64 KiB", Figure::Processor, Bound::Shown),
    ("softaccel to softaccel, 64 KiB", "WRITE softaccel, staged", Figure::Bandwidth, Bound::Shown),
    ("softaccel to softaccel, 64 KiB", "WRITE softaccel, staged", Figure::Processor, Bound::Shown),
    ("WRITE softaccel, direct, io_uring", "WRITE softaccel, direct, beside io_uring", Figure::Bandwidth, Bound::Shown),
    ("WRITE softaccel, direct, io_uring", "WRITE softaccel, direct, beside io_uring", Figure::Processor, Bound::Shown),
    ("WRITE softaccel, direct, zcrx", "WRITE softaccel, direct, beside zcrx", Figure::Bandwidth, Bound::Shown),
    ("WRITE softaccel, direct, zcrx", "WRITE softaccel, direct, beside zcrx", Figure::Processor, Bound::Shown),
    ("SEND softaccel, in place", "SEND softaccel, direct", Figure::Bandwidth, Bound::Shown),
    ("SEND softaccel, in place", "SEND softaccel, direct", Figure::Processor, Bound::Shown),
    ("SEND softaccel, in place", "softaccel to softaccel, 64 KiB", Figure::Bandwidth, Bound::Shown),
    ("ib_write_bw, dmverbs", "ib_write_bw, rxe", Figure::Bandwidth, Bound::AtLeast(4.0)),
];

/// How long all rounds may take.
const SECONDS: u32 = 1800;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_ratio_is_of_two_runs_of_the_same_round() {
        let names: BTreeSet<&str> = COMPARISONS.iter().flat_map(|&(of, to, ..)| [of, to]).collect();
        let rate = |name| if name == "softaccel to softaccel" { "4e8" } else { "1e8" };
        let printed: Vec<String> = names.iter().map(|&name| format!("{name}\t{}\t2", rate(name))).collect();

        let report = Report::new(&printed.join("\n")).unwrap();

        let found = report.ratios.iter().find(|ratio| ratio.of == "softaccel to softaccel").unwrap();
        assert!((found.ratio.median - 4.0).abs() < 1e-9, "{found:?}");
        assert_eq!(report.runs["iperf3, vhs"], [Run { bytes_per_second: 1e8, cpu_seconds_per_gb: Some(2.0) }]);
    }

    #[test]
    fn what_is_no_run_is_refused() {
        assert!(Report::new("iperf3: error - unable to connect").is_err());
        assert!(Report::new("iperf3, vhs\t1e8\t2").is_err(), "the others are missing");
        assert_eq!(parse("ib_write_bw, rxe\tinf"), None);
        assert_eq!(parse("ib_write_bw, rxe\t2e7").map(|(_, run)| run.cpu_seconds_per_gb), Some(None));
    }
}
