//! `dmverbs broker`: takes RX queues for processes that may not.
//!
//! `request` judges what a client sends, `port` sees to it that a port is one user's alone, `serve` keeps the clients and
//! what they are lent, `confine` gives up what the broker does not need. What is said on the socket is in `dmverbs_netdev::broker`.
//!
//! A client can make it last for ever to look at what it sends, or to close that. `pool` has threads for it, so that
//! no other user waits, unless as many users as there are threads do so, or one leaves half as many descriptors as the
//! broker may have in connections that are refused; `report` is how they tell `serve` what they have heard.

mod confine;
mod pool;
mod port;
mod report;
mod request;
mod serve;
#[cfg(test)]
mod testing;

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use clap::Args;
use dmverbs_netdev::{Ethtool, Turns, broker};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use crate::failure::Failure;
use crate::{privilege, state};
use pool::Helpers;
use serve::{Limits, Server};

/// Let unprivileged processes receive into device memory.
///
/// Programs on dmverbs that have no CAP_NET_ADMIN ask the broker of their network namespace for an RX queue of an
/// interface. It takes one that is free and that RSS spreads nothing to, binds the program's dma-buf to it, has the
/// program's TCP socket listen at a port that nobody else can bind from then on, and steers that one there. The socket has
/// to be of the broker's network namespace, bound to the interface, and not yet to a port. The queue goes back when the
/// program closes its connection, stops listening, asks twice or ends, or the broker does.
///
/// Interfaces have such queues when `dmverbs nic setup` has prepared them; the broker changes no settings. It needs
/// CAP_NET_ADMIN and gives up all else; it runs until SIGTERM or SIGINT. Who may use it is a matter of who can reach the
/// socket: everybody on this machine, unless --mode says less.
///
/// A rule steers its TCP port for everybody whose packets come by the interface, be they for guests on a bridge, for a
/// macvlan or VLAN, or for containers behind NAT: a host that forwards for others should run no broker for that interface.
/// Queues that have been leased to a netkit interface are not lent.
#[derive(Debug, Args)]
pub struct Broker {
    /// Where to listen, instead of /run/dmverbs/broker-NAMESPACE.sock
    ///
    /// Programs look there only; NAMESPACE is the number that `readlink /proc/self/ns/net` shows.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// The socket's mode; its group is that of the broker
    #[arg(long, value_name = "OCTAL", default_value = "0666", value_parser = mode)]
    mode: u32,

    /// How many queues a user may have at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    leases_per_user: u32,
}

impl Broker {
    /// Serves until it is told to stop.
    pub fn run(&self) -> Result<(), Failure> {
        if !privilege::has_net_admin() {
            return Err(Failure::refused("the broker takes queues, which needs CAP_NET_ADMIN: run it as root"));
        }
        dmverbs_ffi::log::start().map_err(Failure::ours)?;
        let path = match &self.socket {
            Some(path) => path.clone(),
            None => {
                state::create().map_err(|e| Failure::refused(format!("{}: {e}", state::FOLDER)))?;
                broker::path().map_err(Failure::ours)?
            }
        };
        let namespace = Ethtool::open().and_then(|ethtool| ethtool.namespace()).map_err(Failure::ours)?;
        let stop = stop().map_err(Failure::ours)?;
        // Later it opens no more files.
        let turns = Turns::open();
        let listener = {
            // Else another that starts now takes ours for one that a killed one has left.
            let _turn = turns.wait();
            self.listen(&path)?
        };
        let ours = identity(&path).map_err(Failure::ours)?;
        let limits = Limits { leases_per_user: self.leases_per_user as usize, waiting: descriptors() / 2 };
        confine::capabilities().map_err(Failure::ours)?;
        let helpers = Helpers::start().map_err(Failure::ours)?;
        let mut server = Server::new(listener, stop, namespace, limits, helpers, turns).map_err(Failure::ours)?;
        confine::system_calls().map_err(Failure::ours)?;
        serve::say(format_args!("listening at {}", path.display()));
        let served = server.run();
        // While it still listens no other takes its place, unless somebody has removed it.
        if identity(&path).is_ok_and(|there| there == ours) {
            let _ = fs::remove_file(&path);
        }
        served.map_err(Failure::ours)
    }

    fn listen(&self, path: &Path) -> Result<OwnedFd, Failure> {
        let at = |e: io::Error| Failure::refused(format!("{}: {e}", path.display()));
        let address = SocketAddrUnix::new(path).map_err(|e| at(e.into()))?;
        let kind = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = || socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, kind, None);
        let listener = socket().map_err(Failure::ours)?;
        match bind(&listener, &address) {
            Err(rustix::io::Errno::ADDRINUSE) => {
                // One that was killed leaves its socket.
                if !fs::symlink_metadata(path).map_err(at)?.file_type().is_socket() {
                    return Err(Failure::refused(format!("{}: something else is there", path.display())));
                }
                if connect(socket().map_err(Failure::ours)?, &address) != Err(rustix::io::Errno::CONNREFUSED) {
                    return Err(Failure::refused(format!("{}: another broker listens there", path.display())));
                }
                fs::remove_file(path).map_err(at)?;
                bind(&listener, &address).map_err(|e| at(e.into()))?;
            }
            done => done.map_err(|e| at(e.into()))?,
        }
        // Nobody can connect before it listens.
        fs::set_permissions(path, Permissions::from_mode(self.mode)).map_err(at)?;
        listen(&listener, BACKLOG).map_err(|e| at(e.into()))?;
        Ok(listener)
    }
}

const BACKLOG: i32 = 64;

/// Which file it is.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// What becomes readable when the broker is to stop.
fn stop() -> io::Result<UnixStream> {
    let (stop, tell) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        pipe::register(signal, tell.try_clone()?)?;
    }
    Ok(stop)
}

/// How many descriptors there can be, now that there can be as many as this process may ask for.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // Else it stays as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    getrlimit(Resource::Nofile).current.and_then(|limit| limit.try_into().ok()).unwrap_or(usize::MAX)
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("an octal number up to 0777 is wanted".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        broker: Broker,
    }

    #[test]
    fn a_user_has_four_queues_and_everybody_may_ask_unless_it_is_said_otherwise() {
        let broker = Line::parse_from(["broker"]).broker;
        assert_eq!((broker.leases_per_user, broker.mode), (4, 0o666));
        let broker = Line::parse_from(["broker", "--leases-per-user", "2", "--mode", "660"]).broker;
        assert_eq!((broker.leases_per_user, broker.mode), (2, 0o660));
        for bad in ["8", "1000", "0o660", ""] {
            assert!(Line::try_parse_from(["broker", "--mode", bad]).is_err(), "{bad}");
        }
    }
}
