//! Running cargo.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{alone_in, root};

/// Builds the command and its libraries as users get them.
pub fn release() -> Result<()> {
    let mut command = cargo()?;
    command.args(["build", "--quiet", "--release"]).args(PRODUCTS.map(|product| format!("--package={product}")));
    let status = command.status().context("cargo build")?;
    ensure!(status.success(), "the release build failed");
    Ok(())
}

/// Builds the program that calls all of `provider/netdev`.
pub fn bindings() -> Result<()> {
    let words = ["build", "--quiet", "--release", "--package=dmverbs-netdev", "--example=bindings"];
    let status = cargo()?.args(words).status().context("cargo build")?;
    ensure!(status.success(), "the build of the example failed");
    Ok(())
}

/// Builds the libraries in the profile of tests.
pub fn libraries() -> Result<()> {
    let mut command = cargo()?;
    command.args(["build", "--quiet", "--package=dmverbs-verbs", "--package=dmverbs-preload"]);
    let status = command.status().context("cargo build")?;
    ensure!(status.success(), "the build of the libraries failed");
    Ok(())
}

/// Builds the benchmark's baseline.
pub fn baseline() -> Result<()> {
    let words = ["build", "--quiet", "--release", "--package=dmverbs-tests", "--bin=baseline"];
    let status = cargo()?.args(words).status().context("cargo build")?;
    ensure!(status.success(), "the baseline's build failed");
    Ok(())
}

/// Builds the programs of `tests/c` and `tests/devmem`.
pub fn c_programs() -> Result<()> {
    let root = root()?;
    let _alone = alone_in(&root.join("target/tests-c"))?;
    for folder in ["tests/c", "tests/devmem"] {
        let status =
            Command::new("make").arg("--silent").arg(format!("--directory={folder}")).current_dir(&root).status();
        ensure!(status.context("make")?.success(), "the build of {folder} failed");
    }
    Ok(())
}

/// A cargo command in the root of the tree.
pub fn cargo() -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root()?);
    Ok(command)
}

const PRODUCTS: [&str; 3] = ["dmverbs", "dmverbs-preload", "dmverbs-verbs"];
