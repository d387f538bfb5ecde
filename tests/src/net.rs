//! Private networks: a veth pair between two network namespaces, or one namespace with only its loopback.
//!
//! A namespace takes the number of this process and a counter into its name, so that networks don't meet. It goes
//! when the [`Net`] is dropped, when a signal ends the process (`interrupt`), or, after a `kill -9`, as soon as
//! the next test process starts.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::interrupt::{self, Made};
use crate::wait;

const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Two ends between which a server and a client talk.
pub struct Net {
    server: Side,
    client: Side,
    // Dropped last: the sides only name the namespaces.
    namespaces: Vec<Namespace>,
}

/// What joins the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One namespace; both ends are its loopback interface.
    Loopback,
    /// Two namespaces and a veth pair, `eth0` on both sides.
    Veth,
}

/// One end: the namespace programs run in, and how the other end reaches it.
#[derive(Clone, Debug)]
pub struct Side {
    /// The namespace's name.
    pub namespace: String,
    /// The interface that leads to the other end.
    pub interface: &'static str,
    /// The address that the other end connects to.
    pub ipv4: &'static str,
    /// The same by IPv6.
    pub ipv6: &'static str,
}

impl Net {
    /// One namespace with a loopback interface.
    pub fn loopback() -> Result<Net> {
        let namespace = Namespace::create()?;
        namespace.ip(&["link set lo up"])?;
        let side = Side { namespace: namespace.name.clone(), interface: "lo", ipv4: "127.0.0.1", ipv6: "::1" };
        Ok(Net { server: side.clone(), client: side, namespaces: vec![namespace] })
    }

    /// Two namespaces joined by a veth pair, with an IPv4 and an IPv6 address each.
    pub fn veth() -> Result<Net> {
        let (one, two) = (Namespace::create()?, Namespace::create()?);
        let side = |n: &Namespace, ipv4, ipv6| Side { namespace: n.name.clone(), interface: "eth0", ipv4, ipv6 };
        let server = side(&one, "10.77.0.1", "fd77::1");
        let client = side(&two, "10.77.0.2", "fd77::2");
        one.ip(&[&format!("link add eth0 type veth peer name eth0 netns {}", two.name)])?;
        for (namespace, side) in [(&one, &server), (&two, &client)] {
            namespace.ip(&["link set lo up", &format!("addr add {}/24 dev eth0", side.ipv4)])?;
            if ipv6_available() {
                // Without `nodad` the address could not be bound until duplicate address detection is through.
                namespace.ip(&[&format!("addr add {}/64 dev eth0 nodad", side.ipv6)])?;
            }
            namespace.ip(&["link set eth0 up"])?;
        }
        for side in [&server, &client] {
            side.wait_for_link()?;
        }
        Ok(Net { server, client, namespaces: vec![one, two] })
    }

    /// Makes a network of the kind.
    pub fn new(kind: Kind) -> Result<Net> {
        match kind {
            Kind::Loopback => Net::loopback(),
            Kind::Veth => Net::veth(),
        }
    }

    /// The end that listens.
    pub fn server(&self) -> &Side {
        &self.server
    }

    /// The end that connects.
    pub fn client(&self) -> &Side {
        &self.client
    }

    /// The TCP congestion control of the sockets that the client's end makes.
    pub fn congestion_control(&self) -> Result<String> {
        let name = self.client.inside(|| fs::read_to_string(CONGESTION_CONTROL))?.context(CONGESTION_CONTROL)?;
        Ok(name.trim().to_owned())
    }

    /// Chooses the TCP congestion control of all the sockets that will be made in this network.
    pub fn set_congestion_control(&self, name: &str) -> Result<()> {
        for namespace in &self.namespaces {
            let done =
                namespace.command("sh").args(["-c", "echo \"$0\" > \"$1\"", name, CONGESTION_CONTROL]).output()?;
            ensure!(done.status.success(), "congestion control {name}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }
}

impl Side {
    /// The verbs device of this end's interface.
    pub fn device(&self) -> String {
        format!("dmv_{}", self.interface)
    }

    /// A command that will run in this end's namespace, with a view of /sys that belongs to it.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program.as_ref());
        command
    }

    /// Runs `ip` commands in this end's namespace.
    pub fn ip(&self, commands: &[&str]) -> Result<()> {
        ip_batch(&self.namespace, commands)
    }

    /// Runs `body` on a thread that lives in this end's namespace: the sockets it makes are that namespace's.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = File::open(path(&self.namespace))?;
        thread::scope(|scope| {
            let thread = scope.spawn(|| -> Result<T> {
                setns(&namespace, CloneFlags::CLONE_NEWNET).context("setns")?;
                Ok(body())
            });
            thread.join().map_err(|_| anyhow!("the thread inside {} panicked", self.namespace))?
        })
    }

    /// True when the process lives in this end's namespace.
    pub fn holds(&self, pid: u32) -> bool {
        let inode = |path: PathBuf| fs::metadata(path).map(|found| found.ino()).ok();
        let ours = inode(path(&self.namespace));
        ours.is_some() && ours == inode(format!("/proc/{pid}/ns/net").into())
    }

    /// The TCP ports on which anybody listens in this end's namespace; `pid` is any process that lives there.
    pub fn listening(&self, pid: u32) -> Vec<u16> {
        if !self.holds(pid) {
            return Vec::new();
        }
        let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")));
        let mut ports: Vec<u16> = tables.iter().flatten().flat_map(|table| listening_ports(table)).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    fn wait_for_link(&self) -> Result<()> {
        wait::until(&format!("{} of {} to be up", self.interface, self.namespace), SETUP_LIMIT, || {
            let args = ["-n", &self.namespace, "-brief", "link", "show", "dev", self.interface];
            let shown = Command::new("ip").args(args).output()?;
            let state = String::from_utf8_lossy(&shown.stdout);
            Ok((state.split_whitespace().nth(1) == Some("UP")).then_some(()))
        })
    }
}

/// Why no private network can be made here, if so.
pub fn unavailable() -> Option<&'static str> {
    (!geteuid().is_root()).then_some("network namespaces need root")
}

/// True when this kernel speaks IPv6.
pub fn ipv6_available() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// Kills whatever still runs in the namespace, all of which somebody here started, and removes it.
pub(crate) fn remove(name: &str) {
    if let Ok(shown) = Command::new("ip").args(["netns", "pids", name]).stderr(Stdio::null()).output() {
        for pid in String::from_utf8_lossy(&shown.stdout).lines().filter_map(|line| line.trim().parse().ok()) {
            // The process may have ended by itself since.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let _ = Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status();
}

struct Namespace {
    name: String,
}

impl Namespace {
    fn create() -> Result<Namespace> {
        if let Some(why) = unavailable() {
            bail!("{why}");
        }
        SWEEP.call_once(sweep);
        let name = format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        interrupt::track(&Made::Namespace(name.clone()));
        let namespace = Namespace { name };
        let made = Command::new("ip").args(["netns", "add", &namespace.name]).output().context("ip netns add")?;
        ensure!(made.status.success(), "ip netns add {}: {}", namespace.name, String::from_utf8_lossy(&made.stderr));
        Ok(namespace)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    fn ip(&self, commands: &[&str]) -> Result<()> {
        ip_batch(&self.name, commands)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        interrupt::remove(&Made::Namespace(self.name.clone()));
    }
}

fn ip_batch(namespace: &str, commands: &[&str]) -> Result<()> {
    let mut script = String::new();
    for command in commands {
        writeln!(script, "{command}")?;
    }
    let mut ip = Command::new("ip")
        .args(["-n", namespace, "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("ip (package iproute2)")?;
    ip.stdin.take().expect("stdin was asked for").write_all(script.as_bytes())?;
    let done = ip.wait_with_output()?;
    ensure!(done.status.success(), "ip -n {namespace}: {script}{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Removes the namespaces that a process killed without a chance to tidy up has left.
fn sweep() {
    let Ok(entries) = fs::read_dir(NAMESPACES) else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        if maker.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}

/// The local ports in state LISTEN of a table in the format of /proc/net/tcp.
fn listening_ports(table: &str) -> Vec<u16> {
    let port = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next()?;
        let state = fields.nth(1)?;
        (state == LISTEN).then(|| u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok())?
    };
    table.lines().skip(1).filter_map(port).collect()
}

fn path(namespace: &str) -> PathBuf {
    Path::new(NAMESPACES).join(namespace)
}

const LISTEN: &str = "0A";
const NAMESPACES: &str = "/run/netns";
const PREFIX: &str = "dmvtest";
const SETUP_LIMIT: Duration = Duration::from_secs(10);

static NEXT: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_only_listening_ports() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n   \
             0: 0100007F:4853 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n   \
             1: 0100007F:B0C2 0100007F:4853 01 00000000:00000000 00:00000000 00000000     0\n   \
             2: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0 0:0 0\n";

        assert_eq!(listening_ports(table), [18515, 22]);
    }
}
