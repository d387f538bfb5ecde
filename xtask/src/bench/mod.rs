//! `cargo xtask bench`: dmverbs, plain TCP and UCX, in turns, on one loopback with one congestion control.
//!
//! A ratio is only formed of runs that found the machine in the same state (`machine`).

mod machine;
mod peers;
mod plan;
mod report;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use dmverbs_tests::Net;

use crate::{build, setup};
use machine::{Machine, State};
use peers::{Bench, Participant, UCX};
use report::{Against, Report, Row, Sample};

/// What `cargo xtask bench` takes.
#[derive(clap::Args)]
pub struct Options {
    /// Two rounds instead of five, and shorter runs: to see that everything works, not to quote.
    #[arg(long)]
    quick: bool,
    /// Write all figures into this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only the rows whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The congestion control of everybody.
    #[arg(long, default_value = "reno")]
    congestion_control: String,
}

/// Measures, prints, and writes the JSON.
pub fn run(options: &Options) -> Result<()> {
    setup::run()?;
    build::release()?;
    build::baseline()?;
    let net = Net::loopback()?;
    net.congestion_control(&options.congestion_control)?;
    let bench = Bench { net: &net, seconds: if options.quick { 0.3 } else { 0.7 }, ucx: UCX.unpack()? };
    let mut machine = Machine::watch(&net)?;
    let rounds = if options.quick { 2 } else { 5 };

    let plan: Vec<_> = plan::rows().into_iter().filter(|row| wanted(&row.name(), options)).collect();
    println!("{} rows, {rounds} rounds each; loopback, {}, nobody pinned.\n", plan.len(), options.congestion_control);
    let mut report = Report::new(&options.congestion_control, rounds);
    for row in &plan {
        let measured = measure(&bench, &mut machine, row, rounds).with_context(|| row.name())?;
        println!("{measured}");
        report.rows.push(measured);
    }
    println!("\n{}", report.summary());
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&report)?).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn wanted(name: &str, options: &Options) -> bool {
    options.only.as_ref().is_none_or(|text| name.contains(text.as_str()))
}

/// A B C, A B C, …: everybody in turn, until each has had enough undisturbed runs in one state of the machine.
fn measure(bench: &Bench, machine: &mut Machine, row: &plan::Row, rounds: usize) -> Result<Row> {
    let mut participants = vec![Participant::calibrated(bench, row.ours.clone(), row.size)?];
    for against in &row.against {
        participants.push(Participant::calibrated(bench, against.peer.clone(), row.size)?);
    }
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); participants.len()];
    for _ in 0..rounds * PATIENCE {
        for (participant, samples) in participants.iter().zip(&mut samples) {
            let (figure, state) = machine.observe(|| {
                let figure = participant.run(bench).with_context(|| participant.describe())?;
                Ok((figure, figure.seconds))
            })?;
            samples.push(Sample { value: row.figure.of(&figure), state });
        }
        if report::common_state(&samples).is_some_and(|(state, count)| state != State::Disturbed && count >= rounds) {
            break;
        }
    }
    let mut samples = samples.into_iter();
    let ours = samples.next().unwrap_or_default();
    let against = row.against.iter().zip(samples);
    let against = against.map(|(against, samples)| Against::new(against, samples)).collect();
    Ok(Row::new(row.name(), row.figure, ours, against))
}

/// How many rounds are tried for each that is wanted.
const PATIENCE: usize = 4;
