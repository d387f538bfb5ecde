//! The programs that only look: ibv_devices, ibv_devinfo and ibv_asyncwatch; and ways to the library.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use dmverbs_tests::net::{Kind, Net};
use dmverbs_tests::pair::DEFAULT_PORT;
use dmverbs_tests::process::{Finished, run};
use dmverbs_tests::{Running, Side, net, programs, wait};
use libtest_mimic::Trial;

use crate::row;

pub fn rows() -> Vec<Trial> {
    vec![
        row("ibv_devices lists every interface with an address", Kind::Veth, |net| {
            let listed = listed(net.server())?;
            ensure!(listed == ["dmv_eth0", "dmv_lo"], "listed are {listed:?}");
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
        row("ibv_asyncwatch hears of a link that goes and comes, and of addresses", Kind::Veth, watched),
        row("an interface that is made anew is another device", Kind::Loopback, |net| {
            look(net.server(), &["python3", "-c", MADE_ANEW])?.succeeded()?;
            Ok(())
        }),
        row("LD_LIBRARY_PATH alone is enough", Kind::Loopback, |net| {
            let mut libdir = net.server().command(programs::dmverbs()?);
            libdir.arg("libdir");
            let folder = run(libdir, LIMIT)?;
            is_enough(net, "LD_LIBRARY_PATH", folder.succeeded()?.stdout.trim().as_ref())
        }),
        row("LD_PRELOAD alone is enough", Kind::Loopback, |net| {
            is_enough(net, "LD_PRELOAD", &programs::dmverbs()?.with_file_name("libdmverbs_verbs.so"))
        }),
    ]
}

/// With this variable set so, programs find devices, and exchange data.
fn is_enough(net: &Net, variable: &str, value: &Path) -> Result<()> {
    let command = |words: &[&str]| {
        let mut command = net.server().command(words[0]);
        command.args(&words[1..]).env(variable, value);
        command
    };
    let shown = run(command(&["ibv_devices"]), LIMIT)?;
    let listed = names(shown.succeeded()?);
    ensure!(listed == ["dmv_lo"], "listed are {listed:?}:\n{shown}");

    let pingpong = ["ibv_rc_pingpong", "-c", "-g", "0"];
    let server = Running::spawn(command(&pingpong))?;
    wait::until("the server to listen", LIMIT, || {
        Ok(net.server().listening(server.id()).contains(&DEFAULT_PORT).then_some(()))
    })?;
    let client = run(command(&[&pingpong[..], &["127.0.0.1"]].concat()), LIMIT)?;
    let server = server.wait(LIMIT)?;
    for end in [&client, &server] {
        end.succeeded()?.says("1000 iters in ")?;
        ensure!(!end.stdout.contains("invalid data"), "{end}");
    }
    Ok(())
}

fn watched(net: &Net) -> Result<()> {
    // It flushes nothing by itself.
    let watch = Running::spawn(command(net.server(), &["stdbuf", "-oL", "ibv_asyncwatch", "-d", "dmv_eth0"])?)?;
    let says = |text: &str| wait::until(text, LIMIT, || Ok(watch.stdout_so_far().contains(text).then_some(())));
    says("async event FD")?;
    net.client().ip(&["link set eth0 down"])?;
    says("IBV_EVENT_PORT_ERR")?;
    net.client().ip(&["link set eth0 up"])?;
    says("IBV_EVENT_PORT_ACTIVE")?;
    let told = || watch.stdout_so_far().matches("IBV_EVENT_GID_CHANGE").count();
    for change in ["add", "delete"] {
        let before = told();
        net.server().ip(&[&format!("address {change} 10.77.9.1/24 dev eth0")])?;
        wait::until("IBV_EVENT_GID_CHANGE", LIMIT, || Ok((told() > before).then_some(())))?;
    }
    Ok(())
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

/// UCX and others look into /dev/infiniband for `dev_name`.
const MADE_ANEW: &str = "
import ctypes, os, socket

class Device(ctypes.Structure):
    _fields_ = [('ops', ctypes.c_void_p * 2), ('types', ctypes.c_int * 2),
                ('name', ctypes.c_char * 64), ('dev_name', ctypes.c_char * 64)]

verbs = ctypes.CDLL('libibverbs.so.1')
verbs.ibv_get_device_list.restype = ctypes.POINTER(ctypes.POINTER(Device))

for time in range(2):
    assert os.system('ip link add v0 type veth peer v1 && ip address add 10.9.0.1/24 dev v0') == 0
    count = ctypes.c_int()
    devices = verbs.ibv_get_device_list(ctypes.byref(count))
    names = {device.contents.name: device.contents.dev_name for device in devices[:count.value]}
    assert names[b'dmv_v0'] == b'uverbs%d' % socket.if_nametoindex('v0'), names
    os.system('ip link delete v0')
";

const LIMIT: Duration = Duration::from_secs(20);
