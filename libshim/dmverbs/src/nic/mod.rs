//! `dmverbs nic`: what devmem TCP needs of an interface, and how it was before.
//!
//! `settings` reads and applies, `record` keeps what was there before. A command computes the settings that it wants,
//! and goes there as a whole or not at all.

mod record;
mod settings;

use std::num::NonZero;

use clap::{Args, Subcommand};
use dmverbs_netdev::{Ethtool, Leased, Netdev, Protocol, Rule, RxQueue, Turns, left_behind};

use crate::failure::{self, Failure};
use crate::privilege;
use record::Record;
use settings::{Found, Settings};

pub use settings::NTUPLE;

/// Prepare an interface for device memory, and put it back.
///
/// Payload goes between a NIC and device memory only where the NIC splits headers off, whatever the packet's size, and
/// where some of its RX queues get nothing but what is steered to them. All changes are made in the network namespace
/// of the caller: by netlink, and by ethtool's ioctl where netlink cannot say it (steering rules; the table of RSS
/// before Linux 6.17).
#[derive(Debug, Args)]
pub struct Nic {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what `setup` would change, a line each; `nothing to change` if the interface is ready
    Plan(Prepare),
    /// Prepare the interface, and record how it was before
    ///
    /// All of it is done or nothing. The record is a file in /run/dmverbs. A second call adds to what the first did;
    /// the record stays that of the first. Calls at the same time take turns.
    Setup(Prepare),
    /// Lease a queue that `setup` keeps free to a netkit interface, for a container that has no say over the NIC
    ///
    /// The container's processes bind device memory to the queue by CAP_NET_ADMIN of their own user namespace, and are
    /// told of the port by DMVERBS_LANE_PORT. The queue is leased until the netkit interface is deleted; the rules that
    /// steer the port stay until somebody takes the queue, or the port for another one, or `restore` deletes them.
    Lease(Guest),

    /// Put back what `setup` found
    ///
    /// It is refused while the interface is down, device memory is bound to it, or io_uring, AF_XDP or a lease has a
    /// queue of it. Steering rules of programs that were killed are deleted: those for a TCP port, to a queue to which
    /// RSS spreads nothing. What the interface was called when it was set up does not matter.
    Restore {
        /// The interface
        ifname: String,
    },
}

#[derive(Debug, Args)]
struct Prepare {
    /// The interface
    ifname: String,

    /// How many RX queues to keep free for device memory: the last ones
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    queues: u32,
}

#[derive(Debug, Args)]
struct Guest {
    /// The interface
    ifname: String,

    /// The peer of a pair of netkit interfaces, made with room for a queue more (`numrxqueues 2`), in this network
    /// namespace; it can go to the container's when this is done
    guest: String,

    /// The TCP port to be steered to the queue
    #[arg(long, value_name = "PORT")]
    port: NonZero<u16>,
}

impl Nic {
    /// Does it.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::Plan(prepare) => prepare.plan(),
            Command::Setup(prepare) => prepare.setup(),
            Command::Lease(guest) => guest.lease(),
            Command::Restore { ifname } => restore(ifname),
        }
    }
}

impl Prepare {
    fn plan(&self) -> Result<(), Failure> {
        let (_, _, found, wanted) = self.wanted()?;
        print(&found.settings, &wanted)
    }

    fn setup(&self) -> Result<(), Failure> {
        require_privilege("setup")?;
        let _turn = record::turn()?;
        let (ethtool, ifindex, found, wanted) = self.wanted()?;
        let new = Record::new(&ethtool, ifindex, found.settings.clone())?;
        let older = Record::load(&ethtool, ifindex)?;
        let record = older.clone().unwrap_or(new);
        // It is written before anything changes: whatever becomes of this process, `restore` finds it.
        record.save()?;
        if let Err(failure) = go(&ethtool, ifindex, &found.settings, &wanted) {
            if older.is_none() && Found::read(&ethtool, ifindex).is_ok_and(|now| now == found) {
                record.remove()?;
            }
            return Err(failure);
        }
        print(&found.settings, &wanted)
    }

    fn wanted(&self) -> Result<(Ethtool, u32, Found, Settings), Failure> {
        let ethtool = Ethtool::open().map_err(Failure::ours)?;
        let (ifindex, ifname) = find(&ethtool, &self.ifname)?;
        let wanted = Found::read(&ethtool, ifindex).and_then(|found| {
            let wanted = found.prepared(self.queues)?;
            Ok((found, wanted))
        });
        let (found, wanted) = wanted.map_err(|missing| {
            let missing: String = missing.iter().map(|what| format!("\n  missing  {what}")).collect();
            Failure::refused(format!("{ifname} cannot be prepared for device memory{missing}"))
        })?;
        Ok((ethtool, ifindex, found, wanted))
    }
}

impl Guest {
    fn lease(&self) -> Result<(), Failure> {
        require_privilege("lease")?;
        let _turn = record::turn()?;
        let (port, protocols) = (self.port.get(), [Protocol::Tcp4, Protocol::Tcp6]);
        let ethtool = Ethtool::open().map_err(Failure::ours)?;
        let (ifindex, ifname) = find(&ethtool, &self.ifname)?;
        let (peer, guest) = find(&ethtool, &self.guest)?;
        let leased = Leased::make(&Turns::open(), ifindex, peer, port, &protocols);
        let Leased { queue, there } = leased.map_err(Failure::refused)?;
        failure::print(&format!(
            "queue {queue} of {ifname} is queue {there} of {guest}, and TCP port {port} leads there\n"
        ))
    }
}

/// An interface, by any of its names: its index, and its name proper.
fn find(ethtool: &Ethtool, ifname: &str) -> Result<(u32, String), Failure> {
    let ifindex = ethtool.ifindex(ifname).map_err(Failure::refused)?;
    Ok((ifindex, ethtool.ifname(ifindex).map_err(Failure::refused)?))
}

fn restore(ifname: &str) -> Result<(), Failure> {
    let ethtool = Ethtool::open().map_err(Failure::ours)?;
    let (ifindex, ifname) = find(&ethtool, ifname)?;
    // Who may not restore hears of it only if there is something to be restored.
    let _turn = if Record::load(&ethtool, ifindex)?.is_some() {
        require_privilege("restore")?;
        Some(record::turn()?)
    } else {
        None
    };
    let Some(record) = Record::load(&ethtool, ifindex)? else {
        return failure::print(&format!(
            "nothing to restore: in this network namespace, {ifname} has not been set up\n"
        ));
    };
    let turns = Turns::open();
    // Nobody takes a queue before RSS spreads to it again.
    let _queues = turns.wait();
    refuse_used(&ifname, ifindex)?;
    // While a rule leads to a queue, that cannot be taken away.
    let mut deleted = String::new();
    for Rule { location, .. } in left_behind(&ethtool, ifindex).map_err(Failure::refused)? {
        ethtool.delete_rule(ifindex, location).map_err(|error| Failure::refused(error).and(&deleted))?;
        deleted += &format!("steering rule {location}, of who was killed: deleted\n");
    }
    let put_back = || {
        let found = Found::read(&ethtool, ifindex).map_err(|missing| Failure::refused(missing.join("\n")))?;
        go(&ethtool, ifindex, &found.settings, &record.settings)?;
        Ok(found)
    };
    let found = put_back().map_err(|failure: Failure| failure.and(&deleted))?;
    // Whoever reads what is printed may be gone, which ends this process.
    record.remove()?;
    failure::print(&deleted)?;
    print(&found.settings, &record.settings)
}

/// The kernel refuses as well, but not each one does, and not every change.
fn refuse_used(ifname: &str, ifindex: u32) -> Result<(), Failure> {
    let queues = Netdev::open().and_then(|netdev| netdev.rx_queues(ifindex)).map_err(Failure::refused)?;
    let list = |used: fn(&RxQueue) -> bool| {
        let used = queues.iter().filter(|queue| used(queue)).map(|queue| queue.id.to_string());
        used.collect::<Vec<_>>().join(", ")
    };
    if queues.is_empty() {
        return Err(Failure::refused(format!(
            "{ifname} is down, and the kernel does not say then who uses its queues"
        )));
    }
    let (bound, taken) = (list(|queue| queue.dmabuf.is_some()), list(|queue| queue.taken));
    if !bound.is_empty() {
        return Err(Failure::refused(format!("device memory is bound to {ifname}'s RX queues {bound}")));
    }
    if !taken.is_empty() {
        return Err(Failure::refused(format!(
            "{ifname}'s RX queues {taken} are leased, or io_uring or AF_XDP has them"
        )));
    }
    Ok(())
}

/// Whether `setup` would try.
pub fn can_be_prepared(ethtool: &Ethtool, ifindex: u32) -> bool {
    Found::read(ethtool, ifindex).and_then(|found| found.prepared(1)).is_ok()
}

/// From these settings to those, or back if one of them is refused.
fn go(ethtool: &Ethtool, ifindex: u32, from: &Settings, to: &Settings) -> Result<(), Failure> {
    let Err(refused) = to.apply(ethtool, ifindex, from) else { return Ok(()) };
    let now = Found::read(ethtool, ifindex);
    let undone = now
        .map_err(|missing| missing.join("; "))
        .and_then(|now| from.apply(ethtool, ifindex, &now.settings).map_err(|error| error.to_string()));
    let refused = match refused.is_denied() {
        true => format!("{refused}; it needs CAP_NET_ADMIN in the user namespace of this network namespace"),
        false => refused.to_string(),
    };
    Err(match undone {
        Ok(()) => Failure::refused(format!("{refused}; no setting has changed")),
        Err(why) => Failure::refused(format!("{refused}; and what had changed cannot be undone: {why}")),
    })
}

fn print(from: &Settings, to: &Settings) -> Result<(), Failure> {
    let mut changes = from.changes(to);
    if changes.is_empty() {
        changes.push("nothing to change".to_owned());
    }
    failure::print(&(changes.join("\n") + "\n"))
}

fn require_privilege(command: &str) -> Result<(), Failure> {
    if privilege::has_net_admin() {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "`dmverbs nic {command}` changes the interface, which needs CAP_NET_ADMIN, and this process does not have it: \
         run it as root"
    )))
}
