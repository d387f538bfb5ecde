//! `dmverbs doctor`: what this machine has of what dmverbs can use.
//!
//! `machine` looks at the machine and the process, `interface` at a network interface.

mod interface;
mod machine;

use std::fmt::{self, Display, Formatter};

use clap::Args;
use serde::Serialize;

use crate::failure::{self, Failure};

/// Tell what this machine has for dmverbs, and what it lacks.
///
/// A line for each thing: `ok` or `missing`, what it is, what was found, and how to get it if there is a way. Most of it
/// is for device memory (devmem TCP). The exit status is 0 if nothing is missing that host memory needs: dmverbs' own
/// libraries, an interface with an address, and enough file descriptors. It is 1 if one of these is missing; its line
/// says `(essential)`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The interfaces to look at [default: all that are devices, but lo]
    ifnames: Vec<String>,

    /// Print one JSON object: `usable`, and `checks` with `what`, `status`, `detail`, `fix` and `essential`
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Looks, and prints.
    pub fn run(&self) -> Result<(), Failure> {
        let report = Report::new(self.checks());
        let text = if self.json {
            serde_json::to_string_pretty(&report).map_err(Failure::ours)? + "\n"
        } else {
            report.to_string()
        };
        failure::print(&text)?;
        if report.usable { Ok(()) } else { Err(Failure::told()) }
    }

    fn checks(&self) -> Vec<Check> {
        let (devices, found) = machine::devices();
        let mut checks = machine::essentials();
        checks.insert(1, devices);
        checks.extend(machine::kernel());
        checks.extend(machine::memory());
        checks.extend(machine::limits());
        let ifnames = if self.ifnames.is_empty() { &found } else { &self.ifnames };
        checks.extend(ifnames.iter().flat_map(|ifname| interface::checks(ifname)));
        checks
    }
}

/// What was found. The text and the JSON are made from it.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether nothing essential is missing.
    usable: bool,
    checks: Vec<Check>,
}

/// One thing that was looked for.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    what: String,
    status: Status,
    detail: String,
    /// A command or a step that makes it good.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
    /// Whether nothing works without it.
    essential: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Missing,
    Ok,
}

impl Report {
    fn new(checks: Vec<Check>) -> Self {
        let usable = !checks.iter().any(|check| check.essential && check.status == Status::Missing);
        Self { usable, checks }
    }
}

impl Check {
    fn ok(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { what: what.into(), status: Status::Ok, detail: detail.into(), fix: None, essential: false }
    }

    fn missing(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { status: Status::Missing, ..Self::ok(what, detail) }
    }

    /// It is ok if `good`, and else made so by `fix`.
    fn of(good: bool, what: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        if good { Self::ok(what, detail) } else { Self::missing(what, detail).fix(fix) }
    }

    fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    fn essential(self) -> Self {
        Self { essential: true, ..self }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        self.checks.iter().try_for_each(|check| writeln!(f, "{check}"))
    }
}

impl Display for Check {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let status = match self.status {
            Status::Missing => "missing",
            Status::Ok => "ok",
        };
        write!(f, "{status:7}  {}: {}", self.what, self.detail)?;
        if self.essential && self.status == Status::Missing {
            f.write_str("  (essential)")?;
        }
        match &self.fix {
            Some(fix) => write!(f, "  (fix: {fix})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_essential_makes_the_machine_unusable() {
        let good = || vec![Check::ok("a", "1").essential(), Check::missing("b", "2")];
        assert!(Report::new(good()).usable);
        let bad = vec![Check::ok("a", "1"), Check::missing("b", "2").essential()];
        assert!(!Report::new(bad).usable);
    }

    #[test]
    fn a_check_is_a_line_and_a_json_object() {
        let report = Report::new(vec![
            Check::ok("kernel for receiving", "7.3"),
            Check::of(false, "descriptors", "4", "ulimit -n 1024").essential(),
        ]);
        assert_eq!(
            report.to_string(),
            "ok       kernel for receiving: 7.3\nmissing  descriptors: 4  (essential)  (fix: ulimit -n 1024)\n"
        );
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            "{\"usable\":false,\"checks\":[\
             {\"what\":\"kernel for receiving\",\"status\":\"ok\",\"detail\":\"7.3\",\"essential\":false},\
             {\"what\":\"descriptors\",\"status\":\"missing\",\"detail\":\"4\",\"fix\":\"ulimit -n 1024\",\
             \"essential\":true}]}"
        );
    }
}
