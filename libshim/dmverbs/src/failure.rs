//! How the command fails: with a sentence, and the exit status that env(1) and its like use.

use std::fmt::{self, Display, Formatter};
use std::io::{self, Write};

/// Why a command did not do what it should.
#[derive(Debug)]
pub struct Failure {
    why: String,
    status: i32,
}

/// The fault is ours, or the installation's.
pub const OURS: i32 = 125;
/// The kernel, or what is there, does not allow what the command is for.
const REFUSED: i32 = 1;
/// The program is there but cannot be run.
const NOT_RUNNABLE: i32 = 126;
/// There is no such program.
const NOT_FOUND: i32 = 127;

impl Failure {
    /// dmverbs itself cannot do it.
    pub fn ours(why: impl Display) -> Self {
        Self { why: why.to_string(), status: OURS }
    }

    /// The command is refused.
    pub fn refused(why: impl Display) -> Self {
        Self { why: why.to_string(), status: REFUSED }
    }

    /// The program cannot be run.
    pub fn not_runnable(why: impl Display) -> Self {
        Self { why: why.to_string(), status: NOT_RUNNABLE }
    }

    /// There is no such program.
    pub fn not_found(why: impl Display) -> Self {
        Self { why: why.to_string(), status: NOT_FOUND }
    }

    /// The command has done what it is for, and said itself what is wrong.
    pub fn told() -> Self {
        Self { why: String::new(), status: REFUSED }
    }

    /// With more that the user should know.
    pub fn and(mut self, more: &str) -> Self {
        self.why = format!("{}\n{more}", self.why).trim_end().to_owned();
        self
    }

    /// Tells the user, and gives the exit status.
    pub fn report(&self) -> i32 {
        if !self.why.is_empty() {
            eprintln!("dmverbs: {self}");
        }
        self.status
    }
}

/// Prints text that ends its line, or fails with what stands against that.
pub fn print(text: &str) -> Result<(), Failure> {
    io::stdout().write_all(text.as_bytes()).map_err(Failure::ours)
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(&self.why)
    }
}
