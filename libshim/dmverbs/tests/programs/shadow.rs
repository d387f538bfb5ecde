//! Programs that look into /sys/class/infiniband and /dev/infiniband themselves see dmverbs' devices there.

use std::process::{Child, Stdio};

use crate::support::{Installation, failure, is_root, stdout};

#[test]
fn shells_and_their_tools_see_the_devices() {
    let dmverbs = Installation::new();
    assert!(stdout(dmverbs.run(&["ls", "/sys/class/infiniband"])).lines().any(|name| name == "dmv_lo"));
    let at = "/sys/class/infiniband/dmv_lo";
    assert_eq!(stdout(dmverbs.run(&["cat", &format!("{at}/ports/1/link_layer")])), "Ethernet\n");
    assert_eq!(stdout(dmverbs.run(&["cat", &format!("{at}/ports/1/gid_attrs/types/0")])), "RoCE v2\n");
    assert_eq!(stdout(dmverbs.run(&["cat", &format!("{at}/ports/1/gid_attrs/ndevs/0")])), "lo\n");
    let loopback = "0000:0000:0000:0000:0000:ffff:7f00:0001\n";
    assert_eq!(stdout(dmverbs.run(&["cat", &format!("{at}/ports/1/gids/0")])), loopback);
    let uverbs = format!("uverbs{}", loopback_index());
    assert_eq!(stdout(dmverbs.run(&["cat", &format!("/sys/class/infiniband_verbs/{uverbs}/ibdev")])), "dmv_lo\n");
    stdout(dmverbs.run(&["sh", "-c", &format!("test -c /dev/infiniband/{uverbs} && cd {at} && test -r node_guid")]));
    assert!(stdout(dmverbs.run(&["ls", "-l", "/dev/infiniband"])).contains("\ncrw-rw-rw- "));
    assert!(stdout(dmverbs.run(&["find", "/sys/class/infiniband", "-name", "link_layer"])).contains(at));
    let live = format!("{at}/ports/1/counters/port_rcv_packets");
    assert!(stdout(dmverbs.run(&["cat", &live])).trim().parse::<u64>().is_ok());
}

#[test]
fn the_table_of_devices_names_what_programs_see() {
    let dmverbs = Installation::new();
    let mut command = dmverbs.command(&["devices"]);
    command.env("DMVERBS_IFNAMES", "lo");
    let table = stdout(command);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["DEVICE", "INTERFACE", "STATE", "SPEED", "MTU", "ADDRESSES"]);
    assert_eq!(rows.len(), 2);
    assert!(rows[1].starts_with(&["dmv_lo", "lo", "active"]) && rows[1].contains(&"127.0.0.1"), "{table}");

    let mut refused = dmverbs.command(&["devices"]);
    refused.env("DMVERBS_IFNAMES", "a,,b");
    let (status, why) = failure(refused);
    assert!(status == 125 && why.contains("DMVERBS_IFNAMES"), "{status}: {why}");
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let dmverbs = Installation::new();
    let mut command = dmverbs.command(&["devices"]);
    let output = command.env("DMVERBS_IFNAMES", "lo,nowhere0").output().unwrap();
    assert!(output.status.success());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("DMVERBS_IFNAMES names nowhere0"), "{told}");
}

#[test]
fn python_sees_the_devices() {
    let dmverbs = Installation::new();
    let script = "import os, stat, sys
name, number = sys.argv[1:]
folder, node = '/sys/class/infiniband/' + name, '/dev/infiniband/uverbs' + number
assert name in os.listdir('/sys/class/infiniband'), os.listdir('/sys/class/infiniband')
assert name in [entry.name for entry in os.scandir('/sys/class/infiniband')]
assert os.path.realpath(folder) == folder
assert os.path.realpath(node) == node
assert stat.S_ISCHR(os.stat(node).st_mode) and stat.S_ISCHR(os.lstat(node).st_mode)
assert open(folder + '/node_type').read() == '1: CA\\n'
inside = os.open(folder, os.O_RDONLY)
assert open(os.open('node_type', os.O_RDONLY, dir_fd=inside)).read() == '1: CA\\n'
assert not os.path.exists('/dev/infiniband/rdma_cm')
";
    stdout(dmverbs.run(&["python3", "-c", script, "dmv_lo", &loopback_index()]));
}

#[test]
fn all_of_c_sees_the_devices() {
    let dmverbs = Installation::new();
    for fortified in [&[][..], &["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]] {
        let looks = dmverbs.compile("looks.c", fortified);
        stdout(dmverbs.run(&[&looks, "dmv_lo", &loopback_index()]));
    }
}

#[test]
fn everything_else_is_as_it_was() {
    let dmverbs = Installation::new();
    let looks = [
        "-c",
        "ls /sys/class; cat /sys/class/net/lo/mtu; ls -l /dev/null; realpath /proc/self/exe; test -e ./infiniband",
    ];
    let outside = dmverbs.plain("sh", looks).output().unwrap();
    let inside = dmverbs.run(&[&["sh"], looks.as_slice()].concat()).output().unwrap();
    assert_eq!(inside, outside);
}

#[test]
fn the_interfaces_asked_for_are_the_ones_shown() {
    let dmverbs = Installation::new();
    let list = ["ls", "/sys/class/infiniband"];
    assert_eq!(stdout(dmverbs.command(&[&["run", "--ifnames", "lo"], list.as_slice()].concat())), "dmv_lo\n");
    assert!(!stdout(dmverbs.command(&[&["run", "--ifnames", "^lo"], list.as_slice()].concat())).contains("dmv_lo\n"));
}

#[test]
fn a_process_sees_its_own_network_namespace() {
    if !is_root("a_process_sees_its_own_network_namespace") {
        return;
    }
    let dmverbs = Installation::new();
    let inside = "ip link set lo up && ip addr add 10.78.0.1/32 dev lo && ls /sys/class/infiniband && \
                  cat /sys/class/infiniband/dmv_lo/ports/1/gids/*";
    let output = stdout(dmverbs.run(&["unshare", "-n", "sh", "-c", inside]));
    assert!(output.starts_with("dmv_lo\n") && output.contains(":0a4e:0001\n"), "{output}");
}

#[test]
fn a_process_that_gives_up_its_user_still_sees_the_devices() {
    if !is_root("a_process_that_gives_up_its_user_still_sees_the_devices") {
        return;
    }
    let dmverbs = Installation::new();
    let script = "import os
os.umask(0o077)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print('dmv_lo' in os.listdir('/sys/class/infiniband'))";
    assert_eq!(stdout(dmverbs.run(&["python3", "-c", script])), "True\n");
}

#[test]
fn a_process_that_clears_its_environment_still_finds_all() {
    let dmverbs = Installation::new();
    let script = "import ctypes, os
os.environ.clear()
print('dmv_lo' in os.listdir('/sys/class/infiniband'))
ctypes.CDLL('libibverbs.so')
print({line.split()[5] for line in open('/proc/self/maps') if 'verbs.so' in line})";
    let expected = format!("True\n{{'{}'}}\n", dmverbs.verbs().canonicalize().unwrap().display());
    assert_eq!(stdout(dmverbs.run(&["python3", "-c", script])), expected);
}

#[test]
fn files_that_somebody_cleaned_away_are_there_again() {
    let dmverbs = Installation::new();
    let words = ["run", "--ifnames", "lo", "cat", "/sys/class/infiniband/dmv_lo/node_type"];
    assert_eq!(stdout(dmverbs.command(&words)), "1: CA\n");
    stdout(dmverbs.plain("sh", ["-c", "rm dmverbs-*/shadow-*/sys/class/infiniband/dmv_lo/node_type"]));
    assert_eq!(stdout(dmverbs.command(&words)), "1: CA\n");
    assert_eq!(left(&dmverbs), "1\n");
}

#[test]
fn many_processes_may_be_the_first_at_once() {
    let dmverbs = Installation::new();
    // Only lo: other interfaces may change in between.
    let list = ["run", "--ifnames", "lo", "ls", "/sys/class/infiniband"];
    let start = |_| dmverbs.command(&list).stdout(Stdio::piped()).spawn().unwrap();
    let children: Vec<Child> = (0..16).map(start).collect();
    let outputs: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    assert!(outputs.iter().all(|output| output.status.success() && output.stdout == outputs[0].stdout));
    assert_eq!(left(&dmverbs), "1\n");
}

/// How many shadows there are, whole or not.
fn left(dmverbs: &Installation) -> String {
    stdout(dmverbs.plain("sh", ["-c", "ls -d dmverbs-*/shadow-* dmverbs-*/new-* 2>/dev/null | wc -l"]))
}

fn loopback_index() -> String {
    // SAFETY: a C string.
    unsafe { libc::if_nametoindex(c"lo".as_ptr()) }.to_string()
}
