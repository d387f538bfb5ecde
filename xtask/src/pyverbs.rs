//! rdma-core's own tests, which are written for its Python bindings, against the drop-in library.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use dmverbs_tests::{Net, net, programs};

use crate::build::{self, cargo};
use crate::debian::{Tree, loader};
use crate::tally::Tally;
use crate::test::count;
use crate::{output, root};

/// The bindings, with a Python of their release.
const PYVERBS: Tree = Tree { name: "pyverbs", packages: &["python3-pyverbs=56.*"], dependencies: true };

/// Runs `tests/pyverbs/run.py`.
pub fn run() -> Result<Tally> {
    build::release()?;
    let unpacked = PYVERBS.unpack()?;
    let python = unpacked.join("usr");
    let dmverbs = programs::dmverbs()?;
    let net = net::unavailable().is_none().then(Net::loopback).transpose()?;
    let mut run = net.as_ref().map_or_else(|| Command::new(&dmverbs), |net| net.server().command(&dmverbs));
    run.args(["run", "--log", "off", "--"]).args(loader(&unpacked)).arg(python.join("bin/python3"));
    run.env("PYTHONHOME", &python).arg(root()?.join("tests/pyverbs/run.py")).arg(tests()?).args(["dmv_lo", "lo"]);
    count(&mut run)
}

/// The tests, from where cargo keeps the source of the crate that carries them.
fn tests() -> Result<PathBuf> {
    let manifest = ["--locked", "--manifest-path", "tests/pyverbs/Cargo.toml"];
    let found = output(cargo()?.args(["metadata", "--format-version", "1"]).args(manifest))?;
    let found: serde_json::Value = serde_json::from_str(&found)?;
    let packages = found["packages"].as_array().into_iter().flatten();
    let carrier = packages.into_iter().find(|package| package["name"] == "ibverbs-sys");
    let manifest =
        carrier.and_then(|package| package["manifest_path"].as_str()).context("cargo found no ibverbs-sys")?;
    Ok(Path::new(manifest).with_file_name("vendor/rdma-core/tests"))
}
