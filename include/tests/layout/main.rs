//! The bindings agree with a C compiler that reads rdma-core's headers.
//!
//! `table.rs` pairs C expressions (sizes, offsets, enumerators) with the values in the bindings. A C program made
//! from it prints the compiler's values. It is compiled against the installed headers, or against those in the
//! folder that `DMVERBS_HEADERS` names. Headers older than the bindings may lack, of all rows, those in `newer.txt`.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use table::{CONSTANTS, OFFSETS, SIZES};

/// A C expression and its value in the bindings.
type Row = (&'static str, u64);

#[test]
fn every_structure_is_as_large_as_in_c() {
    compare("sizes", SIZES, |ours, theirs| theirs < ours);
}

#[test]
fn every_member_is_where_it_is_in_c() {
    compare("offsets", OFFSETS, |_, _| false);
}

#[test]
fn every_constant_is_as_in_c() {
    compare("constants", CONSTANTS, |_, _| false);
}

#[test]
fn what_is_newer_is_in_the_table() {
    let table: BTreeSet<&str> = [SIZES, OFFSETS, CONSTANTS].concat().into_iter().map(|(c, _)| c).collect();
    let stray: Vec<&str> = newer().into_iter().filter(|c| !table.contains(c)).collect();
    assert_eq!(stray, Vec::<&str>::new(), "newer.txt names what the bindings do not have");
}

/// Fails unless C has the same value for each row, or the row is listed as newer than the headers and C lacks it;
/// `outgrown(ours, theirs)` tells whether a newer row may also have that smaller value.
fn compare(what: &str, rows: &'static [Row], outgrown: fn(u64, u64) -> bool) {
    let program = Program { what, rows };
    let theirs = program.values();
    let newer = newer();
    let (mut wrong, mut missing) = (Vec::new(), Vec::new());
    for (number, &(c, ours)) in rows.iter().enumerate() {
        match theirs.get(&number) {
            Some(&value) if value == ours => (),
            Some(&value) if newer.contains(c) && outgrown(ours, value) => missing.push(c),
            Some(value) => wrong.push(format!("{c}: {value} in C, {ours} in the bindings")),
            None if newer.contains(c) => missing.push(c),
            None => wrong.push(format!("{c}: C does not know it, and newer.txt does not list it")),
        }
    }
    println!("{} {what} agree with C; {} are newer than the headers:", rows.len() - missing.len(), missing.len());
    missing.iter().for_each(|c| println!("  {c}"));
    assert!(wrong.is_empty(), "{} of {} {what} differ:\n  {}", wrong.len(), rows.len(), wrong.join("\n  "));
}

/// The rows that rdma-core 44, the oldest version that we build against, lacks or has in a smaller form.
fn newer() -> BTreeSet<&'static str> {
    include_str!("newer.txt").lines().filter(|line| !line.starts_with('#')).collect()
}

/// A C program that prints the number and the value of each row.
struct Program<'a> {
    what: &'a str,
    rows: &'static [Row],
}

impl Program<'_> {
    /// The values of the rows that the compiler accepts, by the rows' numbers.
    fn values(&self) -> BTreeMap<usize, u64> {
        let mut left: BTreeSet<usize> = (0..self.rows.len()).collect();
        // A compiler may stop at some number of errors, so that it has to be asked again.
        loop {
            let compiled = self.compile(&left);
            if compiled.status.success() {
                return self.run();
            }
            let errors = String::from_utf8_lossy(&compiled.stderr).into_owned();
            let refused: BTreeSet<usize> = errors.lines().filter_map(row_of_error).collect();
            assert!(
                !refused.is_disjoint(&left),
                "cc (package gcc) cannot compile with infiniband/verbs.h (package libibverbs-dev):\n{errors}"
            );
            left = &left - &refused;
        }
    }

    fn compile(&self, rows: &BTreeSet<usize>) -> Output {
        fs::write(self.path("c"), self.source(rows)).expect("cargo gives tests a folder to write to");
        let mut cc = Command::new("cc");
        if let Some(folder) = env::var_os("DMVERBS_HEADERS") {
            let folder = PathBuf::from(folder);
            assert!(folder.join("infiniband/verbs.h").exists(), "DMVERBS_HEADERS has no infiniband/verbs.h");
            cc.arg("-I").arg(folder);
        }
        // The messages are read, so they must be in English.
        cc.env("LC_ALL", "C").args(["-w", "-o"]).arg(self.path("out")).arg(self.path("c"));
        cc.output().unwrap_or_else(|e| panic!("cc, of the package gcc, does not start: {e}"))
    }

    /// Each row is on the line of a file of its own name that has the row's number.
    fn source(&self, rows: &BTreeSet<usize>) -> String {
        let mut text = String::from("#include <stddef.h>\n#include <stdio.h>\n#include <infiniband/verbs.h>\n");
        text.push_str("int main(void) {\n");
        for &number in rows {
            let (c, _) = self.rows[number];
            writeln!(text, "#line {} \"{ROWS}\"", number + 1).expect("a String takes all");
            writeln!(text, "printf(\"{number} %llu\\n\", (unsigned long long)({c}));").expect("a String takes all");
        }
        text.push_str("return 0;\n}\n");
        text
    }

    fn run(&self) -> BTreeMap<usize, u64> {
        let run = Command::new(self.path("out")).output().expect("what was compiled starts");
        assert!(run.status.success(), "the compiled program ended with {}", run.status);
        let printed = String::from_utf8(run.stdout).expect("numbers are ASCII");
        let pair = |line: &str| {
            let (number, value) = line.split_once(' ')?;
            Some((number.parse().ok()?, value.parse().ok()?))
        };
        printed.lines().map(|line| pair(line).unwrap_or_else(|| panic!("not a row: {line:?}"))).collect()
    }

    fn path(&self, extension: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("layout-{}.{extension}", self.what))
    }
}

/// What the compiler is told to call the file of the rows.
const ROWS: &str = "rows";

/// The number of the row that a line of the compiler's messages finds an error in.
fn row_of_error(line: &str) -> Option<usize> {
    let place = line.strip_prefix(ROWS)?.strip_prefix(':')?;
    let (number, _) = place.split_once(": error:")?;
    let number: usize = number.split(':').next()?.parse().ok()?;
    number.checked_sub(1)
}
