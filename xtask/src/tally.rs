//! Counting what the test programs of a group say about themselves.

use std::ops::AddAssign;

/// How many tests passed, failed, and were skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that ran and found nothing wrong.
    pub passed: u64,
    /// Those that ran and found something wrong.
    pub failed: u64,
    /// Those that did not run.
    pub skipped: u64,
    /// The names of those that failed, as far as their programs tell them.
    pub failures: Vec<String>,
    /// What they want to be read at the end.
    pub notes: Vec<String>,
}

impl Tally {
    /// One test that passed, or failed.
    pub fn one(passed: bool) -> Tally {
        if passed { Tally { passed: 1, ..Tally::default() } } else { Tally { failed: 1, ..Tally::default() } }
    }

    /// Reads one line of a test program's output.
    pub fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some(found) = result(line).or_else(|| summary(line)) {
            *self += found;
        } else if let Some(name) = failed(line) {
            self.failures.push(name.to_owned());
        } else if let Some(note) = line.strip_prefix(NOTE) {
            self.notes.push(note.to_owned());
        }
    }

    /// True when there was no test at all.
    pub fn is_empty(&self) -> bool {
        self.passed + self.failed + self.skipped == 0 && self.failures.is_empty()
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
        self.notes.extend(other.notes);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Begins a line that is shown also when its test passes, and again at the end.
const NOTE: &str = "summary: ";

/// Picks the lines that somebody wants to see of those that Rust's test programs print: all but what tests print that
/// passed, unless they say that they could not run.
#[derive(Debug, Default)]
pub struct Digest {
    in_successes: bool,
}

impl Digest {
    /// True for a line to be shown; the lines come in their order.
    pub fn keeps(&mut self, line: &str) -> bool {
        if line == "successes:" {
            self.in_successes = true;
        } else if line == "failures:" || line.starts_with("test result: ") {
            self.in_successes = false;
        }
        let passed = line.starts_with("test ") && line.ends_with(" ... ok");
        let empty =
            line.is_empty() || line.starts_with("running ") || line.starts_with("test result: ok. 0 passed; 0 ");
        line.starts_with("skipped: ") || line.starts_with(NOTE) || !(self.in_successes || passed || empty)
    }
}

/// The name and the reason, when a test program says on this line that a test did not run.
pub fn skipped(line: &str) -> Option<(&str, &str)> {
    if let Some(skipped) = line.strip_prefix("skipped ") {
        // As tests/c/run.sh says it.
        return skipped.split_once(": ").map(|(name, reason)| (name, reason.trim()));
    }
    let (name, outcome) = line.trim().strip_prefix("test ")?.split_once(" ... ")?;
    let reason = outcome.strip_prefix("ignored")?;
    Some((name.trim(), reason.trim_start_matches([',', ' '])))
}

/// The name of a test that failed, when a test program says so on this line.
fn failed(line: &str) -> Option<&str> {
    let name = line.strip_prefix("FAILED ").and_then(|rest| rest.split(' ').next());
    name.or_else(|| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"))
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s`
fn result(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |of: &str| {
        let field = counts.split("; ").find_map(|field| field.strip_suffix(of))?;
        field.trim().parse().ok()
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")?, ..Tally::default() })
}

/// `3 passed, 0 failed, 1 skipped`, of the programs that aren't Rust's.
fn summary(line: &str) -> Option<Tally> {
    let mut counts = line.split(", ");
    let mut count = |of: &str| counts.next()?.strip_suffix(of)?.parse().ok();
    Some(Tally {
        passed: count(" passed")?,
        failed: count(" failed")?,
        skipped: count(" skipped")?,
        ..Tally::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_the_results_of_several_programs() {
        let mut tally = Tally::default();

        for line in [
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
            "7 passed, 0 failed, 1 skipped",
            "12 passed through here",
        ] {
            tally.read(line);
        }

        assert_eq!(tally, Tally { passed: 11, failed: 2, skipped: 2, ..Tally::default() });
    }

    #[test]
    fn finds_the_reason_of_a_skipped_test() {
        let reason = "network namespaces need root";
        assert_eq!(skipped(&format!("test a row ... ignored, {reason}")), Some(("a row", reason)));
        assert_eq!(skipped("test a row ... ignored"), Some(("a row", "")));
        assert_eq!(skipped("test a row ... ok"), None);
        assert_eq!(skipped("skipped mr: no dma-buf here"), Some(("mr", "no dma-buf here")));
    }

    #[test]
    fn a_digest_is_what_did_not_pass() {
        let printed = "
running 3 tests
test one ... ok
test two                 ... ok
test three ... FAILED

successes:

---- one stdout ----
1000 schedules
skipped: no /dev/udmabuf

successes:
    one

failures:

---- three stdout ----
it broke

failures:
    three

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.97s
test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

        let mut digest = Digest::default();
        let kept: Vec<&str> = printed.lines().filter(|line| digest.keeps(line)).collect();

        assert_eq!(
            kept,
            [
                "test three ... FAILED",
                "skipped: no /dev/udmabuf",
                "failures:",
                "---- three stdout ----",
                "it broke",
                "failures:",
                "    three",
                "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.97s",
            ]
        );
    }

    #[test]
    fn keeps_the_names_of_what_failed() {
        let mut tally = Tally::default();

        for line in ["test a row over veth ... FAILED", "test another ... ok", "FAILED cycles (status 1, 3 s)"] {
            tally.read(line);
        }

        assert_eq!(tally.failures, ["a row over veth", "cycles"]);
    }

    #[test]
    fn keeps_what_is_to_be_read_at_the_end() {
        let mut tally = Tally::default();

        for line in ["ok untouched (65 s)", "summary: the host touched 0 bytes", "1 passed, 0 failed, 0 skipped"] {
            tally.read(line);
        }

        assert_eq!(tally, Tally { passed: 1, notes: vec!["the host touched 0 bytes".into()], ..Tally::default() });
    }

    #[test]
    fn reads_what_it_prints() {
        let printed = Tally { passed: 1, failed: 2, skipped: 3, ..Tally::default() };

        let mut read = Tally::default();
        read.read(&printed.to_string());

        assert_eq!(read, printed);
    }
}
