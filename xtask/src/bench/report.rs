//! What was measured: the text and the JSON come from these structs.

use std::fmt;

use serde::Serialize;

use super::machine::State;
use super::plan::{Bound, Wanted, Which};

/// A whole benchmark.
#[derive(Serialize)]
pub struct Report {
    /// Of everybody's sockets.
    pub congestion_control: String,
    /// Undisturbed runs of each participant of a row that were asked for.
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
    /// The state of the machine that was compared in; absent when there was none that all have met.
    pub state: Option<State>,
    /// Ours.
    pub ours: Option<Stats>,
    /// The others.
    pub against: Vec<Against>,
    /// All runs of ours.
    pub samples: Vec<Sample>,
}

/// One peer of a comparison.
#[derive(Serialize)]
pub struct Against {
    /// Who.
    pub name: &'static str,
    /// What the ratio should be.
    pub bound: Bound,
    /// Theirs.
    pub stats: Option<Stats>,
    /// Ours divided by theirs.
    pub ratio: Option<Ratio>,
    /// Whether the ratio is as wanted.
    pub met: Option<bool>,
    /// All runs.
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

/// The runs in the state that was compared.
#[derive(Clone, Copy, Serialize)]
pub struct Stats {
    /// In the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// How many.
    pub runs: usize,
}

/// Ours divided by theirs.
#[derive(Clone, Copy, Serialize)]
pub struct Ratio {
    /// Of the medians.
    pub median: f64,
    /// Our least by their most.
    pub min: f64,
    /// Our most by their least.
    pub max: f64,
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
    /// Compares in the state that all participants have met most often.
    pub fn new(name: String, figure: Which, ours: Vec<Sample>, mut against: Vec<Against>) -> Row {
        let all: Vec<Vec<Sample>> =
            [&ours].into_iter().chain(against.iter().map(|against| &against.samples)).cloned().collect();
        let state = common_state(&all).map(|(state, _)| state);
        let stats = state.and_then(|state| Stats::of(&ours, state));
        for against in &mut against {
            against.compare(stats, state);
        }
        Row { name, figure, state, ours: stats, against, samples: ours }
    }
}

impl Against {
    /// Before the comparison.
    pub fn new(wanted: &Wanted, samples: Vec<Sample>) -> Against {
        let Wanted { name, bound, .. } = *wanted;
        Against { name, bound, stats: None, ratio: None, met: None, samples }
    }

    fn compare(&mut self, ours: Option<Stats>, state: Option<State>) {
        self.stats = state.and_then(|state| Stats::of(&self.samples, state));
        self.ratio = ours.zip(self.stats).map(|(ours, theirs)| Ratio {
            median: ours.median / theirs.median,
            min: ours.min / theirs.max,
            max: ours.max / theirs.min,
        });
        // A ratio of disturbed runs is shown, but decides nothing.
        let quiet = self.ratio.filter(|_| state != Some(State::Disturbed));
        self.met = quiet.and_then(|ratio| self.bound.met(ratio.median));
    }
}

impl Stats {
    fn of(samples: &[Sample], state: State) -> Option<Stats> {
        let mut values: Vec<f64> = samples.iter().filter(|run| run.state == state).map(|run| run.value).collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Stats { median, min, max, runs: values.len() })
    }
}

/// The state of which everybody has the most runs, and that number. Runs during which the state changed are not
/// compared at all, disturbed ones only when there is nothing else.
pub fn common_state(samples: &[Vec<Sample>]) -> Option<(State, usize)> {
    let runs = |state| samples.iter().map(|runs| runs.iter().filter(|run| run.state == state).count()).min();
    let count = |state| Some((state, runs(state)?)).filter(|(_, count)| *count > 0);
    // Of two equal counts the last wins: near.
    let quiet = [State::Far, State::Near].into_iter().filter_map(count).max_by_key(|(_, count)| *count);
    quiet.or_else(|| count(State::Disturbed))
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |stats: Option<Stats>| match stats {
            Some(Stats { median, min, max, runs }) => {
                let figure = self.figure;
                format!("{} ({} … {}, {runs} runs)", figure.show(median), figure.show(min), figure.show(max))
            }
            None => "no runs in a common state".to_owned(),
        };
        let state = self.state.map_or("–".to_owned(), |state| format!("{state:?}").to_lowercase());
        write!(f, "{} [{state}]\n  {:<16} {}", self.name, "ours", show(self.ours))?;
        for against in &self.against {
            write!(f, "\n  {:<16} {}", against.name, show(against.stats))?;
            if let Some(Ratio { median, min, max }) = against.ratio {
                write!(f, "\n  {:<16} {median:.2} × ({min:.2} … {max:.2})", "")?;
                match (against.bound, against.met) {
                    (Bound::AtLeast(least), Some(met)) => write!(f, ", at least {least}: {}", verdict(met))?,
                    (Bound::AtMost(most), Some(met)) => write!(f, ", at most {most}: {}", verdict(met))?,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn verdict(met: bool) -> &'static str {
    if met { "reached" } else { "missed" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::peers::Peer;

    fn raw() -> Wanted {
        Wanted { name: "raw", peer: Peer::Raw { words: "latency" }, bound: Bound::AtMost(1.25) }
    }

    fn runs(state: State, values: &[f64]) -> Vec<Sample> {
        values.iter().map(|value| Sample { value: *value, state }).collect()
    }

    #[test]
    fn no_ratio_is_formed_across_states() {
        let against = Against::new(&raw(), runs(State::Far, &[7.0, 7.0]));
        let row = Row::new("lat".to_owned(), Which::Latency, runs(State::Near, &[5.0, 5.0]), vec![against]);

        assert!(row.state.is_none() && row.against[0].ratio.is_none() && row.against[0].met.is_none());
    }

    #[test]
    fn the_ratio_is_that_of_the_medians_in_the_common_state() {
        let mut ours = runs(State::Near, &[6.0, 5.0, 9.0]);
        ours.extend(runs(State::Far, &[90.0]));

        let against = Against::new(&raw(), runs(State::Near, &[5.0, 4.0, 8.0]));
        let row = Row::new("lat".to_owned(), Which::Latency, ours, vec![against]);

        assert_eq!(row.state, Some(State::Near));
        let ratio = row.against[0].ratio.unwrap();
        assert!((ratio.median - 1.2).abs() < 1e-9, "{}", ratio.median);
        assert_eq!(row.against[0].met, Some(true));
    }

    #[test]
    fn a_ratio_of_disturbed_runs_decides_nothing() {
        let against = Against::new(&raw(), runs(State::Disturbed, &[5.0]));
        let row = Row::new("lat".to_owned(), Which::Latency, runs(State::Disturbed, &[5.0]), vec![against]);

        assert!(row.against[0].ratio.is_some() && row.against[0].met.is_none());
    }

    #[test]
    fn changing_states_are_not_compared() {
        assert_eq!(common_state(&[runs(State::Mixed, &[1.0]), runs(State::Mixed, &[1.0])]), None);
    }
}
