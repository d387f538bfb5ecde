//! Link changes as port events, in a network namespace of its own.

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::{env, fs};

use dmverbs_provider::object::{AsyncEvent, Context, devices};

/// Set in the copy of this program that runs inside the namespace.
const INSIDE: &str = "LINK_TEST_INSIDE";

#[test]
fn a_port_follows_its_link() {
    if env::var_os(INSIDE).is_none() {
        let this = env::current_exe().unwrap();
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            println!("skipped: a network namespace needs root");
            return;
        }
        let mut again = Command::new("unshare");
        again.arg("--net").arg(this).args(["--exact", "a_port_follows_its_link", "--nocapture"]).env(INSIDE, "1");
        let again = again.output().expect("unshare of util-linux");
        let said = String::from_utf8_lossy(&again.stdout) + String::from_utf8_lossy(&again.stderr);
        assert!(again.status.success() && said.contains(" 1 passed"), "{said}");
        // All that it prints would be counted as a test more.
        said.lines().filter(|line| line.starts_with("skipped: ")).for_each(|line| println!("{line}"));
        return;
    }
    ip("link add dmvt0 type veth peer name dmvt1");
    ip("addr add 192.0.2.1/24 dev dmvt0");
    ip("link set dmvt0 up");
    ip("link set dmvt1 up");

    let device = devices().unwrap().into_iter().find(|device| device.ifname() == "dmvt0").unwrap();
    let context = Context::open(&device).unwrap();
    ip("link set dmvt1 down");
    assert_eq!(next(&context, AsyncEvent::PortErr(1)), AsyncEvent::PortErr(1));
    assert!(!device.port().is_active());
    ip("link set dmvt1 up");
    assert_eq!(next(&context, AsyncEvent::PortActive(1)), AsyncEvent::PortActive(1));
    assert!(device.port().is_active());

    if !try_ip("link add dmvbr type bridge") {
        println!("skipped: there are no bridges");
        return;
    }
    ip("link set dmvt0 master dmvbr");
    ip("link set dmvt0 nomaster");
    ip("addr add 192.0.2.2/24 dev dmvt0");
    assert_eq!(context.wait_event().unwrap(), AsyncEvent::GidChange(1), "it is no longer in a bridge, but still up");
}

/// The next event, past those of the link's own start-up that may come before `wanted`.
fn next(context: &Context, wanted: AsyncEvent) -> AsyncEvent {
    let event = context.wait_event().unwrap();
    if event == wanted { event } else { context.wait_event().unwrap() }
}

fn ip(words: &str) {
    assert!(try_ip(words), "ip {words}");
}

fn try_ip(words: &str) -> bool {
    Command::new("ip").args(words.split(' ')).status().expect("ip of iproute2").success()
}
