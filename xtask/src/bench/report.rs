//! What was measured: the text and the JSON come from these structs.

use std::fmt;
use std::iter::zip;

use serde::Serialize;

use super::machine::State;
use super::plan::{self, Bound, Wanted, Which};

/// A whole benchmark.
#[derive(Serialize)]
pub struct Report {
    /// Of everybody's sockets.
    pub congestion_control: String,
    /// Pairs of runs in the same state that were asked for.
    pub rounds: usize,
    /// In the order measured.
    pub rows: Vec<Row>,
}

/// One comparison.
#[derive(Serialize)]
pub struct Row {
    /// What, and the size.
    pub name: String,
    /// Which figure.
    pub figure: Which,
    /// The others.
    pub against: Vec<Against>,
    /// All runs of ours, in the order made.
    pub samples: Vec<Sample>,
}

/// One peer of a comparison.
#[derive(Serialize)]
pub struct Against {
    /// Who.
    pub name: &'static str,
    /// What the ratio should be.
    pub bound: Bound,
    /// Of the pairs that count; absent when there was none.
    pub comparison: Option<Comparison>,
    /// Whether the ratio is as wanted.
    pub met: Option<bool>,
    /// All runs: one for each of ours, made right after it.
    pub samples: Vec<Sample>,
}

/// One run.
#[derive(Clone, Copy, Serialize)]
pub struct Sample {
    /// The figure.
    pub value: f64,
    /// What it was measured in.
    pub state: State,
}

/// Some figures.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Stats {
    /// In the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

/// Runs of ours and of a peer, in pairs that met the same state: of each state the first with the first, and so on.
#[derive(Clone, Copy, Serialize)]
pub struct Comparison {
    /// Our figures.
    pub ours: Stats,
    /// Theirs.
    pub theirs: Stats,
    /// Ours divided by theirs, pair by pair.
    pub ratio: Stats,
    /// Pairs that met near processors.
    pub near: usize,
    /// Pairs that met far ones.
    pub far: usize,
}

impl Report {
    /// An empty one.
    pub fn new(congestion_control: &str, rounds: usize) -> Report {
        Report { congestion_control: congestion_control.to_owned(), rounds, rows: Vec::new() }
    }

    /// How many of the wanted ratios were reached, and which were not.
    pub fn summary(&self) -> String {
        let wanted = self.rows.iter().flat_map(|row| row.against.iter().map(move |against| (row, against)));
        let wanted: Vec<_> = wanted.filter(|(_, against)| !matches!(against.bound, Bound::Shown)).collect();
        let met = wanted.iter().filter(|(_, against)| against.met == Some(true)).count();
        let mut text = format!("{met} of {} wanted ratios reached", wanted.len());
        for (row, against) in wanted {
            match against.met {
                Some(true) => {}
                Some(false) => text += &format!("\n  missed: {} against {}", row.name, against.name),
                None => text += &format!("\n  not comparable: {} against {}", row.name, against.name),
            }
        }
        text
    }
}

impl Row {
    /// Compares each peer's runs with ours.
    pub fn new(row: &plan::Row, ours: Vec<Sample>, theirs: Vec<Vec<Sample>>) -> Row {
        let against = row.against.iter().zip(theirs).map(|(wanted, theirs)| Against::new(wanted, &ours, theirs));
        Row { name: row.name(), figure: row.figure, against: against.collect(), samples: ours }
    }
}

impl Against {
    fn new(wanted: &Wanted, ours: &[Sample], samples: Vec<Sample>) -> Against {
        let comparison = Comparison::new(ours, &samples);
        let met = comparison.and_then(|comparison| wanted.bound.met(comparison.ratio.median));
        Against { name: wanted.name, bound: wanted.bound, comparison, met, samples }
    }
}

impl Stats {
    /// Of these; nothing of none.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Stats> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Stats { median, min, max })
    }
}

impl Comparison {
    /// Pairs are of the runs that nothing changed or disturbed.
    pub fn new(ours: &[Sample], theirs: &[Sample]) -> Option<Comparison> {
        let values = |samples: &[Sample], state| -> Vec<f64> {
            samples.iter().filter(|sample| sample.state == state).map(|sample| sample.value).collect()
        };
        let pairs = |state| -> Vec<(f64, f64)> { zip(values(ours, state), values(theirs, state)).collect() };
        let (near, far) = (pairs(State::Near), pairs(State::Far));
        let all = || near.iter().chain(&far);
        Some(Comparison {
            ours: Stats::of(all().map(|(ours, _)| *ours))?,
            theirs: Stats::of(all().map(|(_, theirs)| *theirs))?,
            ratio: Stats::of(all().map(|(ours, theirs)| ours / theirs))?,
            near: near.len(),
            far: far.len(),
        })
    }

    /// How many pairs.
    pub fn pairs(&self) -> usize {
        self.near + self.far
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        for against in &self.against {
            let Some(Comparison { ours, theirs, ratio, near, far }) = against.comparison else {
                write!(f, "\n  {:<16} no two runs in the same steady state", against.name)?;
                continue;
            };
            let range = |Stats { median, min, max }| {
                let figure = self.figure;
                format!("{} ({} … {})", figure.show(median), figure.show(min), figure.show(max))
            };
            write!(f, "\n  {:<16} {}, ours {}", against.name, range(theirs), range(ours))?;
            write!(f, "\n  {:<16} {:.2} × ({:.2} … {:.2})", "", ratio.median, ratio.min, ratio.max)?;
            write!(f, " of {near} near pairs, {far} far")?;
            match (against.bound, against.met) {
                (Bound::AtLeast(least), Some(met)) => write!(f, "; at least {least}: {}", verdict(met))?,
                (Bound::AtMost(most), Some(met)) => write!(f, "; at most {most}: {}", verdict(met))?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// How a ratio did.
pub fn verdict(met: bool) -> &'static str {
    if met { "reached" } else { "missed" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs<const N: usize>(runs: [(f64, State); N]) -> Vec<Sample> {
        runs.map(|(value, state)| Sample { value, state }).to_vec()
    }

    #[test]
    fn no_ratio_is_formed_across_states() {
        let near = runs([(5.0, State::Near)]);
        let far = runs([(7.0, State::Far)]);
        assert!(Comparison::new(&near, &far).is_none());
    }

    #[test]
    fn runs_that_were_disturbed_or_changed_do_not_count() {
        let ours = runs([(5.0, State::Mixed), (5.0, State::Disturbed)]);
        assert!(Comparison::new(&ours, &ours).is_none());
    }

    #[test]
    fn runs_of_different_rounds_are_paired() {
        let ours = runs([(6.0, State::Near), (1.0, State::Far), (3.0, State::Mixed)]);
        let theirs = runs([(2.0, State::Far), (3.0, State::Mixed), (3.0, State::Near)]);
        let Comparison { ratio, near, far, .. } = Comparison::new(&ours, &theirs).unwrap();
        assert_eq!((ratio.min, ratio.max, near, far), (0.5, 2.0, 1, 1));
    }

    #[test]
    fn the_ratio_is_the_median_of_the_pairs() {
        let ours = runs([(6.0, State::Near), (10.0, State::Far), (9.0, State::Near), (1.0, State::Near)]);
        let theirs = runs([(5.0, State::Near), (8.0, State::Far), (9.0, State::Far), (3.0, State::Near)]);
        let Comparison { ratio, near, far, .. } = Comparison::new(&ours, &theirs).unwrap();
        assert!((ratio.median - 1.25).abs() < 1e-9 && (ratio.max - 3.0).abs() < 1e-9, "{}", ratio.median);
        assert_eq!((near, far), (2, 1));
    }
}
