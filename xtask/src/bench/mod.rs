//! `cargo xtask bench`: dmverbs, plain TCP and UCX, in turns, on one loopback with one congestion control.
//!
//! A ratio is only formed of two runs of the same row that found the machine in the same state (`machine`).

mod machine;
mod peers;
mod plan;
mod report;
mod vm;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use dmverbs_tests::Net;
use serde::Serialize;

use crate::{build, setup};
use machine::Machine;
use peers::{Bench, Participant, UCX, written};
use report::{Comparison, Report, Row, Sample};

/// What `cargo xtask bench` takes.
#[derive(clap::Args)]
pub struct Options {
    /// One pair of runs instead of three, and shorter ones, or one round of --vm instead of five: to see that everything
    /// works, not to quote.
    #[arg(long)]
    quick: bool,
    /// Write all figures into this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only the rows whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The virtual NIC of kernel/ and device memory instead, in the virtual machine.
    #[arg(long, conflicts_with_all = ["only", "congestion_control"])]
    vm: bool,
    /// The congestion control of everybody.
    #[arg(long, default_value = "reno")]
    congestion_control: String,
}

/// Measures, prints, and writes the JSON.
pub fn run(options: &Options) -> Result<()> {
    setup::run(&[])?;
    let json = options.json.as_ref().map(|path| File::create(path).with_context(|| path.display().to_string()));
    let json = json.transpose()?;
    if options.vm {
        return save(json, &vm::run(if options.quick { 1 } else { 5 })?);
    }
    let plan: Vec<_> = plan::rows().into_iter().filter(|row| wanted(&row.name(), options)).collect();
    ensure!(!plan.is_empty(), "no row has that in its name; there are:\n  {}", names().join("\n  "));
    build::release()?;
    build::baseline()?;
    let net = Net::loopback()?;
    net.set_congestion_control(&options.congestion_control)?;
    let bench =
        Bench { net: &net, seconds: if options.quick { 0.3 } else { 0.7 }, ucx: UCX.unpack()?, written: written()? };
    let mut machine = Machine::watch(&net)?;
    let rounds = if options.quick { 1 } else { 3 };

    println!(
        "{} rows, {rounds} pairs each; loopback, {}, only raw TCP pinned.\n",
        plan.len(),
        options.congestion_control
    );
    let mut report = Report::new(&options.congestion_control, rounds);
    for row in &plan {
        let measured = measure(&bench, &mut machine, row, rounds).with_context(|| row.name())?;
        println!("{measured}");
        report.rows.push(measured);
    }
    println!("\n{}", report.summary());
    save(json, &report)
}

fn save(json: Option<File>, report: &impl Serialize) -> Result<()> {
    json.map_or(Ok(()), |mut file| Ok(file.write_all(serde_json::to_string_pretty(report)?.as_bytes())?))
}

fn names() -> Vec<String> {
    plan::rows().iter().map(plan::Row::name).collect()
}

fn wanted(name: &str, options: &Options) -> bool {
    options.only.as_ref().is_none_or(|text| name.contains(text.as_str()))
}

/// A B C, A B C, …: everybody in turn, until each peer has enough pairs with ours in the same state.
fn measure(bench: &Bench, machine: &mut Machine, row: &plan::Row, rounds: usize) -> Result<Row> {
    let ours = Participant::calibrated(bench, row.ours.clone(), row.size)?;
    let against = row.against.iter().map(|against| Participant::calibrated(bench, against.peer.clone(), row.size));
    let against: Vec<Participant> = against.collect::<Result<_>>()?;
    let mut sample = |participant: &Participant| -> Result<Sample> {
        let (figure, state) = machine.observe(|| {
            let figure = participant.run(bench).with_context(|| participant.describe())?;
            Ok((figure, figure.seconds))
        })?;
        Ok(Sample { value: row.figure.of(&figure), state })
    };
    let (mut first, mut others) = (Vec::new(), vec![Vec::new(); against.len()]);
    for _ in 0..rounds * PATIENCE {
        first.push(sample(&ours)?);
        for (participant, samples) in against.iter().zip(&mut others) {
            samples.push(sample(participant)?);
        }
        let enough = |theirs| Comparison::new(&first, theirs).is_some_and(|found| found.pairs() >= rounds);
        if others.iter().all(|theirs: &Vec<Sample>| enough(theirs)) {
            break;
        }
    }
    Ok(Row::new(row, first, others))
}

/// How many rounds are tried for each that is wanted.
const PATIENCE: usize = 3;
