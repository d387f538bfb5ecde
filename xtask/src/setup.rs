//! The Debian packages that building, testing and measuring need.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;

/// Installs what is missing as root, of what everything needs and of these. Anybody else is told the command to give.
pub fn run(more: &[&'static str]) -> Result<()> {
    let missing = missing(&[&PACKAGES, more].concat())?;
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !geteuid().is_root() {
        bail!("these Debian packages are missing, and only root can install them:\n  {install}");
    }
    println!("Installing {}", missing.join(" "));
    apt(&["update"])?;
    let words: Vec<&str> = install.split(' ').skip(1).collect();
    apt(&words)
}

fn apt(words: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-q"]).args(words).env("DEBIAN_FRONTEND", "noninteractive");
    let status = command.status().context("apt-get: this needs Debian 12 or later")?;
    ensure!(status.success(), "apt-get {} ended with {status}", words.join(" "));
    Ok(())
}

fn missing(packages: &[&'static str]) -> Result<Vec<&'static str>> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f=${Package} ${db:Status-Status}\n"]).args(packages);
    // The status tells only that some package is unknown.
    let shown = query.output().context("dpkg-query: this needs Debian 12 or later")?;
    let shown = String::from_utf8_lossy(&shown.stdout);
    let installed: BTreeSet<&str> = shown.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(packages.iter().copied().filter(|package| !installed.contains(package)).collect())
}

/// The compiler's tools, the headers that the bindings are checked against, and the programs that the tests run.
const PACKAGES: [&str; 19] = [
    "binutils",
    "gcc",
    "libc6-dev",
    "libclang-dev",
    "make",
    "mount",
    "pkg-config",
    "libibverbs-dev",
    "librdmacm-dev",
    "rdma-core",
    "ibverbs-providers",
    "ibverbs-utils",
    "perftest",
    "rdmacm-utils",
    "iproute2",
    "procps",
    "python3",
    "strace",
    "util-linux",
];
