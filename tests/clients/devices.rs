//! The programs that only look: ibv_devices and ibv_devinfo.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use dmverbs_tests::net::{Kind, Net};
use dmverbs_tests::process::{Finished, run};
use dmverbs_tests::{Side, net, programs};
use libtest_mimic::Trial;

use crate::row;

pub fn rows() -> Vec<Trial> {
    vec![
        row("ibv_devices lists every interface with an address", Kind::Veth, |net| {
            let listed = listed(net.server())?;
            ensure!(listed == ["dmv_lo", "dmv_eth0"], "listed are {listed:?}");
            Ok(())
        }),
        row("an interface without an address is no device", Kind::Veth, |net| {
            net.server().ip(&["addr flush dev eth0"])?;
            let listed = listed(net.server())?;
            ensure!(listed == ["dmv_lo"], "listed are {listed:?}");
            Ok(())
        }),
        row("ibv_devinfo -v shows an active Ethernet port and its GIDs", Kind::Veth, devinfo),
        row("ibv_devinfo shows the port down when the link is", Kind::Veth, |net| {
            net.client().ip(&["link set eth0 down"])?;
            let shown = look(net.server(), &["ibv_devinfo", "-d", "dmv_eth0"])?;
            shown.succeeded()?.says("PORT_DOWN")?;
            Ok(())
        }),
        row("DMVERBS_IFNAMES chooses the devices", Kind::Veth, |net| {
            let mut command = command(net.server(), &["ibv_devices"])?;
            command.env("DMVERBS_IFNAMES", "eth0");
            let shown = run(command, LIMIT)?;
            let listed = names(shown.succeeded()?);
            ensure!(listed == ["dmv_eth0"], "listed are {listed:?}:\n{shown}");
            Ok(())
        }),
        row("LD_LIBRARY_PATH alone is enough", Kind::Loopback, |net| {
            let mut libdir = net.server().command(programs::dmverbs()?);
            libdir.arg("libdir");
            let folder = run(libdir, LIMIT)?;
            let mut command = net.server().command("ibv_devices");
            command.env("LD_LIBRARY_PATH", folder.succeeded()?.stdout.trim());
            let shown = run(command, LIMIT)?;
            let listed = names(shown.succeeded()?);
            ensure!(listed == ["dmv_lo"], "listed are {listed:?}:\n{shown}");
            Ok(())
        }),
        row("LD_PRELOAD alone is enough", Kind::Loopback, |net| {
            let mut command = net.server().command("ibv_devices");
            command.env("LD_PRELOAD", programs::dmverbs()?.with_file_name("libdmverbs_verbs.so"));
            let shown = run(command, LIMIT)?;
            let listed = names(shown.succeeded()?);
            ensure!(listed == ["dmv_lo"], "listed are {listed:?}:\n{shown}");
            Ok(())
        }),
    ]
}

fn devinfo(net: &Net) -> Result<()> {
    let shown = look(net.server(), &["ibv_devinfo", "-v", "-d", "dmv_eth0"])?;
    shown.succeeded()?.says("PORT_ACTIVE")?.says("Ethernet")?;
    shown.says("::ffff:10.77.0.1")?;
    if net::ipv6_available() {
        shown.says("fd77::1")?;
    }
    Ok(())
}

fn listed(side: &Side) -> Result<Vec<String>> {
    Ok(names(look(side, &["ibv_devices"])?.succeeded()?))
}

/// The first column of ibv_devices' table, below its two lines of heading.
fn names(shown: &Finished) -> Vec<String> {
    let lines = shown.stdout.lines().skip(2);
    lines.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

fn look(side: &Side, words: &[&str]) -> Result<Finished> {
    run(command(side, words)?, LIMIT)
}

fn command(side: &Side, words: &[&str]) -> Result<Command> {
    let mut command = side.command(programs::dmverbs()?);
    command.args(["run", "--"]).args(words);
    Ok(command)
}

const LIMIT: Duration = Duration::from_secs(20);
