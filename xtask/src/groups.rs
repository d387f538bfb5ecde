//! The groups of tests, in the order in which they run: the quick and the basic first.

use std::process::Command;

use anyhow::Result;
use dmverbs_tests::{Net, net, programs};

use crate::build::cargo;
use crate::regen;
use crate::tally::Tally;
use crate::test::{count, skip, verdict};
use crate::{build, pyverbs, root, vm};

/// A group: its name, what it is about, and how it runs.
pub struct Group {
    /// As given to `cargo xtask test`.
    pub name: &'static str,
    /// What it shows when it passes.
    pub about: &'static str,
    /// Runs it, printing as it goes.
    pub run: fn() -> Result<Tally>,
}

impl Group {
    /// The Debian packages that it needs besides those that everything does.
    pub fn packages(&self) -> &'static [&'static str] {
        if matches!(self.name, "vm" | "devmem") { &vm::HOST } else { &[] }
    }
}

/// All groups.
pub const GROUPS: [Group; 14] = [
    Group { name: "fmt", about: "the code is formatted", run: fmt },
    Group { name: "clippy", about: "no warning in any target", run: clippy },
    Group { name: "msrv", about: "every target compiles with the oldest Rust that Cargo.toml names", run: msrv },
    Group { name: "regen", about: "the checked-in bindings are what is generated", run: bindings },
    Group { name: "deny", about: "licences, advisories and sources of the dependencies", run: deny },
    Group { name: "unit", about: "every crate's own tests", run: unit },
    Group { name: "sim", about: "random schedules of two engines against a model", run: sim },
    Group {
        name: "loom",
        about: "the ring and the sleep/wake hand-off under all interleavings of up to three preemptions",
        run: loom,
    },
    Group { name: "c", about: "C programs against the drop-in library, a feature each", run: c },
    Group { name: "pyverbs", about: "rdma-core's own tests against the drop-in library", run: pyverbs::run },
    Group { name: "clients", about: "Debian's own verbs programs, unmodified", run: clients },
    Group {
        name: "gpu",
        about: "memory of a GPU under verbs: of a stand-in of CUDA's driver, and of CUDA's where there is one",
        run: gpu,
    },
    Group { name: "vm", about: "the kernel modules, and what needs them, in a virtual machine", run: vm::test },
    Group { name: "devmem", about: "memory of devices under verbs, in the virtual machine", run: vm::test_devmem },
];

/// The groups' names.
pub fn names() -> [&'static str; GROUPS.len()] {
    GROUPS.map(|group| group.name)
}

fn fmt() -> Result<Tally> {
    let mut tally = verdict(cargo()?.args(["fmt", "--all", "--check"]))?;
    for manifest in OTHER_WORKSPACES {
        tally += verdict(cargo()?.args(["fmt", "--check", "--manifest-path", manifest]))?;
    }
    Ok(tally)
}

fn clippy() -> Result<Tally> {
    let warnings = ["--", "-D", "warnings"];
    let mut tally = verdict(cargo()?.args(["clippy", "--quiet", "--workspace", "--all-targets"]).args(warnings))?;
    for manifest in OTHER_WORKSPACES {
        // Nothing is linked: the fuzz targets need not have the fuzzer's library built.
        tally += verdict(
            cargo()?
                .env("CUSTOM_LIBFUZZER_PATH", "/nonexistent/libFuzzer.a")
                .args(["clippy", "--quiet", "--locked", "--all-targets", "--manifest-path", manifest])
                .args(["--target-dir", "target/fuzz"])
                .args(warnings),
        )?;
    }
    Ok(tally)
}

fn msrv() -> Result<Tally> {
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    let asked = Command::new("rustup").args(["run", oldest, "cargo", "--version"]).output();
    if !asked.is_ok_and(|asked| asked.status.success()) {
        let why = format!("Rust {oldest} is not installed (rustup toolchain install --profile minimal {oldest})");
        return Ok(skip("cargo check", &why));
    }
    let mut check = Command::new("rustup");
    check.current_dir(root()?).args(["run", oldest, "cargo", "check", "--quiet", "--locked", "--workspace"]);
    verdict(check.args(["--all-targets", "--target-dir", "target/msrv"]))
}

/// What is built by itself.
const OTHER_WORKSPACES: [&str; 2] = ["provider/proto/fuzz/Cargo.toml", "tests/loom/Cargo.toml"];

fn bindings() -> Result<Tally> {
    let done = regen::run(true);
    if let Err(error) = &done {
        println!("regen --check: {error:#}");
    }
    Ok(Tally::one(done.is_ok()))
}

fn deny() -> Result<Tally> {
    let installed = cargo()?.args(["deny", "--version"]).output().is_ok_and(|asked| asked.status.success());
    if !installed {
        return Ok(skip("cargo deny check", "cargo-deny is not installed (cargo install cargo-deny)"));
    }
    let mut tally = verdict(cargo()?.args(["deny", "check"]))?;
    for manifest in OTHER_WORKSPACES {
        tally += verdict(cargo()?.args(["deny", "--manifest-path", manifest, "check"]))?;
    }
    Ok(tally)
}

fn unit() -> Result<Tally> {
    // Some tests start the release build, as users do; others load the libraries of their own profile, which cargo
    // does not build for them.
    build::release()?;
    build::libraries()?;
    // The output of tests that pass says which of them could not run here.
    count(cargo()?.args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]))
}

fn sim() -> Result<Tally> {
    count(cargo()?.args(["test", "--release", "--package=dmverbs-proto", "--test=sim", "--", "--show-output"]))
}

fn loom() -> Result<Tally> {
    let mut command = cargo()?;
    command.args(["test", "--release", "--manifest-path=tests/loom/Cargo.toml"]);
    count(&mut command)
}

fn c() -> Result<Tally> {
    build::release()?;
    let prefix = format!("{} run --", programs::dmverbs()?.display());
    on_loopback("tests/c/run.sh", |run| count(run.env("TESTS_C_PREFIX", prefix)))
}

fn gpu() -> Result<Tally> {
    build::release()?;
    build::c_programs()?;
    let mut tally = Tally::default();
    for driver in ["stand-in", "gpu"] {
        tally += on_loopback("tests/gpu/run.sh", |run| count(run.arg(driver)))?;
    }
    Ok(tally)
}

/// Runs a script on a loopback interface of its own, if there can be one.
fn on_loopback(script: &str, run: impl FnOnce(&mut Command) -> Result<Tally>) -> Result<Tally> {
    let script = root()?.join(script);
    let net = net::unavailable().is_none().then(Net::loopback).transpose()?;
    run(&mut net.as_ref().map_or_else(|| Command::new(&script), |net| net.server().command(&script)))
}

fn clients() -> Result<Tally> {
    build::release()?;
    count(cargo()?.args(["test", "--package=dmverbs-tests", "--test=clients"]))
}
