//! `cargo xtask regen`: makes the files that come from C headers anew, or checks that they are what would be made.
//!
//! They are the Rust bindings of `infiniband/verbs.h`, of `dmverbs.h` and of `uapi/softaccel.h`, the table that the
//! layout test compares with a C compiler, and the list of the symbols that the drop-in library must export.

mod bindings;
mod exports;
mod table;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::debian::Tree;
use crate::root;

/// Writes the generated files, or with `check` fails if those in the tree differ from what would be written.
pub fn run(check: bool) -> Result<()> {
    let root = root()?;
    let rdma_core = RDMA_CORE.unpack()?;
    let headers = rdma_core.join("usr/include");
    let bindings = rustfmt(&root, &bindings::verbs(&headers)?)?;
    let files = [
        ("include/tests/layout/table.rs", rustfmt(&root, &table::make(&bindings)?)?),
        ("include/src/dmverbs.rs", rustfmt(&root, &bindings::dmverbs(&root.join("include"), &headers)?)?),
        ("include/src/softaccel.rs", rustfmt(&root, &bindings::softaccel(&root.join("include/uapi"))?)?),
        ("include/src/verbs.rs", bindings),
        ("libshim/verbs/exports.txt", exports::make(&library(&rdma_core)?)?),
    ];
    let mut stale = Vec::new();
    for (path, made) in &files {
        let present = fs::read_to_string(root.join(path)).unwrap_or_default();
        if present == *made {
            continue;
        }
        if check {
            stale.push(format!("{path} {}", first_difference(&present, made)));
        } else {
            fs::write(root.join(path), made).with_context(|| format!("writing {path}"))?;
            println!("wrote {path}");
        }
    }
    ensure!(stale.is_empty(), "run `cargo xtask regen`:\n  {}", stale.join("\n  "));
    Ok(())
}

/// The library lies in a folder named for the architecture.
fn library(unpacked: &Path) -> Result<PathBuf> {
    for folder in fs::read_dir(unpacked.join("usr/lib"))? {
        let library = folder?.path().join("libibverbs.so.1");
        if library.exists() {
            return Ok(library);
        }
    }
    bail!("no libibverbs.so.1 in {}", unpacked.display())
}

/// Debian 12 has rdma-core 44; its own headers would lack what later programs are compiled with. rdma-core only
/// ever appends to its structures, so one set of bindings, made from the later headers, serves both.
const RDMA_CORE: Tree =
    Tree { name: "rdma-core", packages: &["libibverbs-dev=56.*", "libibverbs1=56.*"], dependencies: false };

/// Formats Rust source by the tree's own rules, so that `cargo fmt` finds nothing to change.
fn rustfmt(root: &Path, source: &str) -> Result<String> {
    let mut command = Command::new("rustfmt");
    command.args(["--edition=2024", "--emit=stdout", "--quiet"]).arg("--config-path").arg(root);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("rustfmt does not start (rustup component add rustfmt)")?;
    // rustfmt reads all of its input before it writes, so the two pipes cannot block each other.
    child.stdin.take().expect("stdin was asked for").write_all(source.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "rustfmt ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn first_difference(present: &str, made: &str) -> String {
    let same = present.lines().zip(made.lines()).take_while(|(a, b)| a == b).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("the end of the file").to_owned();
    format!("differs from line {} on: {:?} would be {:?}", same + 1, line(present), line(made))
}

#[cfg(test)]
mod tests {
    use super::first_difference;

    #[test]
    fn the_first_difference_is_named_by_its_line() {
        let told = first_difference("a\nb\nc\n", "a\nx\nc\n");
        assert_eq!(told, r#"differs from line 2 on: "b" would be "x""#);
    }

    #[test]
    fn a_file_that_is_cut_short_differs_at_its_end() {
        let told = first_difference("a\n", "a\nb\n");
        assert_eq!(told, r#"differs from line 2 on: "the end of the file" would be "b""#);
    }
}
