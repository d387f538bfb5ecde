//! Where the release build's programs are.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// The `dmverbs` command.
pub fn dmverbs() -> Result<PathBuf> {
    release("dmverbs")
}

/// A program of the release build of the tree that this program was built from.
pub fn release(name: &str) -> Result<PathBuf> {
    let own = env::current_exe()?;
    // This program is <target>/<profile>/[deps/]<name>.
    let mut folders = own.ancestors().skip(1);
    let mut profile = folders.next().context("this program has no folder")?;
    if profile.ends_with("deps") {
        profile = folders.next().context("deps has no parent")?;
    }
    let target = profile.parent().context("the profile's folder has no parent")?;
    let found = target.join("release").join(name);
    ensure!(found.exists(), "{} is missing: run `cargo build --release`", found.display());
    Ok(found)
}
