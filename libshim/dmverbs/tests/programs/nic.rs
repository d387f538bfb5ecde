//! `dmverbs nic` and `dmverbs doctor` on what is no NIC: they say what is missing, and change nothing.

use std::fs::File;

use crate::support::{Installation, failure, is_root, stdout};

#[test]
fn an_interface_without_header_split_is_refused_with_what_it_lacks() {
    let dmverbs = Installation::new();
    let (status, why) = failure(dmverbs.command(&["nic", "plan", "lo"]));
    assert_eq!(status, 1, "{why}");
    assert!(why.starts_with("dmverbs: lo cannot be prepared for device memory\n  missing  header split: "), "{why}");
    for part in ["RX queues", "RSS table", "steering rules"] {
        assert!(why.contains(&format!("\n  missing  {part}: ")), "{part}: {why}");
    }
}

#[test]
fn setup_of_such_an_interface_leaves_no_record() {
    const NAME: &str = "setup_of_such_an_interface_leaves_no_record";
    if !is_root(NAME) {
        return;
    }
    let dmverbs = Installation::new();
    let (status, why) = failure(dmverbs.command(&["nic", "setup", "lo"]));
    assert_eq!(status, 1, "{why}");
    assert!(why.contains("\n  missing  header split: "), "{why}");
    let restored = stdout(dmverbs.command(&["nic", "restore", "lo"]));
    assert_eq!(restored, "nothing to restore: in this network namespace, lo has not been set up\n");
}

#[test]
fn a_virtual_link_with_channels_lacks_the_rest() {
    const NAME: &str = "a_virtual_link_with_channels_lacks_the_rest";
    if !is_root(NAME) {
        return;
    }
    let dmverbs = Installation::new();
    let script = "ip link add a0 type veth peer name a1 && exec \"$0\" nic setup a0";
    let program = dmverbs.dmverbs();
    let (status, why) = failure(dmverbs.plain("unshare", ["-n", "sh", "-c", script, program.to_str().unwrap()]));
    assert_eq!(status, 1, "{why}");
    assert!(why.contains("\n  missing  header split: ") && !why.contains("RX queues"), "{why}");
}

#[test]
fn setup_without_the_privilege_names_it() {
    const NAME: &str = "setup_without_the_privilege_names_it";
    if !is_root(NAME) {
        return;
    }
    let dmverbs = Installation::new();
    let program = dmverbs.dmverbs();
    let program = program.to_str().unwrap();
    let drop = ["--reuid", "65534", "--clear-groups", program, "nic", "setup", "lo"];
    let (status, why) = failure(dmverbs.plain("setpriv", drop));
    assert_eq!(status, 1, "{why}");
    assert!(why.contains("CAP_NET_ADMIN"), "{why}");
}

#[test]
fn an_interface_that_does_not_exist_is_named() {
    let dmverbs = Installation::new();
    for ifname in ["dmverbs-none", "a/../b", "much-too-long-for-an-interface"] {
        let (status, why) = failure(dmverbs.command(&["nic", "plan", ifname]));
        assert!(status == 1 && why.contains(&format!("cannot find an interface {ifname}: ")), "{why}");
        assert_eq!(failure(dmverbs.command(&["nic", "restore", ifname])), (status, why));
    }
    assert_eq!(failure(dmverbs.command(&["nic", "plan", "lo", "--queues", "0"])).0, 2);
}

#[test]
fn an_interface_is_called_by_its_own_name_whichever_was_given() {
    const NAME: &str = "an_interface_is_called_by_its_own_name_whichever_was_given";
    let dmverbs = Installation::new();
    assert!(failure(dmverbs.command(&["nic", "plan", "lo:1"])).1.starts_with("dmverbs: lo cannot be prepared"));
    assert_eq!(
        stdout(dmverbs.command(&["nic", "restore", "lo:1"])),
        "nothing to restore: in this network namespace, lo has not been set up\n"
    );
    assert!(stdout(dmverbs.command(&["doctor", "lo:1"])).contains("missing  lo, header split: "));
    if !is_root(NAME) {
        return;
    }
    let script = "ip link add a0 type veth peer name a1 && ip link property add dev a0 altname front0 &&
                  exec \"$0\" nic plan front0";
    let program = dmverbs.dmverbs();
    let (_, why) = failure(dmverbs.plain("unshare", ["-n", "sh", "-c", script, program.to_str().unwrap()]));
    assert!(why.starts_with("dmverbs: a0 cannot be prepared"), "{why}");
}

#[test]
fn the_doctor_tells_of_lo_in_text_and_in_json() {
    let dmverbs = Installation::new();
    let text = stdout(dmverbs.command(&["doctor", "lo"]));
    assert!(text.lines().all(|line| line.starts_with("ok       ") || line.starts_with("missing  ")), "{text}");
    assert!(text.contains("missing  lo, header split: the driver has none\n"), "{text}");
    assert!(text.contains("ok       devices: "), "{text}");
    let json: serde_json::Value = serde_json::from_str(&stdout(dmverbs.command(&["doctor", "--json", "lo"]))).unwrap();
    assert_eq!(json["usable"], true);
    let checks = json["checks"].as_array().unwrap();
    assert_eq!(checks.len(), text.lines().count());
    let split = checks.iter().find(|check| check["what"] == "lo, header split").unwrap();
    assert_eq!((&split["status"], &split["essential"]), (&"missing".into(), &false.into()));
}

#[test]
fn the_doctor_fails_where_something_essential_is_missing() {
    let dmverbs = Installation::new();
    std::fs::remove_file(dmverbs.verbs()).unwrap();
    let output = dmverbs.command(&["doctor"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("missing  libraries: "), "{text}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn the_doctor_fails_where_there_are_few_descriptors() {
    let dmverbs = Installation::new();
    let program = dmverbs.dmverbs();
    let script = "ulimit -n $1 && exec \"$0\" doctor lo";
    for (files, status) in [("1023", 1), ("1024", 0)] {
        let output = dmverbs.plain("sh", ["-c", script, program.to_str().unwrap(), files]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(status), "{text}");
    }
}

#[test]
fn what_cannot_be_printed_is_told() {
    let dmverbs = Installation::new();
    for words in [&["doctor"][..], &["doctor", "--json"], &["devices"], &["libdir"], &["nic", "restore", "lo"]] {
        let mut command = dmverbs.command(words);
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let (status, why) = failure(command);
        assert_eq!((status, why.as_str()), (125, "dmverbs: No space left on device (os error 28)\n"), "{words:?}");
    }
}
