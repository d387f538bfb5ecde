//! What the broker does not need, it cannot do: it speaks with everybody.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;

use rustix::thread::{self, CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Gives up every capability but CAP_NET_ADMIN, for good. Threads that are there already keep theirs.
pub fn capabilities() -> io::Result<()> {
    thread::set_no_new_privs(true)?;
    for capability in (0..64).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
        match thread::capability_is_in_bounding_set(capability) {
            Ok(true) if capability != CapabilitySet::NET_ADMIN => {
                thread::remove_capability_from_bounding_set(capability)?;
            }
            Ok(_) => {}
            // The kernel knows no further ones.
            Err(_) => break,
        }
    }
    thread::clear_ambient_capability_set()?;
    let only = CapabilitySet::NET_ADMIN;
    let sets = CapabilitySets { effective: only, permitted: only, inheritable: CapabilitySet::empty() };
    Ok(thread::set_capabilities(None, sets)?)
}

/// Has the kernel refuse system calls that serving needs none of: EPERM. It is for all threads, and for good.
pub fn system_calls() -> io::Result<()> {
    let filter = filter().map_err(io::Error::other)?;
    seccompiler::apply_filter_all_threads(&filter).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALWAYS.into_iter().map(|call| (call, Vec::new())).collect();
    // No sockets but generic netlink's and TCP's, and no options of these but those that it sets: by others it could change
    // the host's routes and filters. No memory that can be run, and no signal to another process.
    let netlink = [is(0, libc::AF_NETLINK as u64)?, is(2, libc::NETLINK_GENERIC as u64)?];
    // TCP's connect nowhere: a `sockaddr_nl` is shorter than their addresses.
    let nl = size_of::<libc::sockaddr_nl>() as u64;
    rules.insert(libc::SYS_connect, vec![rule(2, SeccompCmpOp::Eq, nl)?]);
    let fast_open = libc::MSG_FASTOPEN as u64;
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2)] {
        rules.insert(call, vec![rule(flags, SeccompCmpOp::MaskedEq(fast_open), 0)?]);
    }
    let levels = [libc::SOL_SOCKET, libc::SOL_NETLINK].map(|level| rule(1, SeccompCmpOp::Eq, level as u64));
    let mut options = levels.into_iter().collect::<Result<Vec<_>, _>>()?;
    let v6only = [is(1, libc::IPPROTO_IPV6 as u64)?, is(2, libc::IPV6_V6ONLY as u64)?];
    options.push(SeccompRule::new(v6only.into())?);
    rules.insert(libc::SYS_setsockopt, options);
    let mut sockets = vec![SeccompRule::new(netlink.into())?];
    for family in [libc::AF_INET, libc::AF_INET6] {
        let stream = (libc::SOCK_STREAM | libc::SOCK_CLOEXEC) as u64;
        sockets.push(SeccompRule::new(vec![is(0, family as u64)?, is(1, stream)?, is(2, 0)?])?);
    }
    rules.insert(libc::SYS_socket, sockets);
    rules.insert(libc::SYS_tgkill, vec![rule(0, SeccompCmpOp::Eq, std::process::id().into())?]);
    let controls = [SIOCETHTOOL, libc::SIOCGIFNAME, libc::SIOCGIFINDEX];
    let controls: Result<_, _> = controls.into_iter().map(|control| rule(1, SeccompCmpOp::Eq, control)).collect();
    rules.insert(libc::SYS_ioctl, controls?);
    let executable = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule(2, SeccompCmpOp::MaskedEq(executable), 0)?]);
    }
    let (refuse, allow) = (SeccompAction::Errno(libc::EPERM.cast_unsigned()), SeccompAction::Allow);
    Ok(SeccompFilter::new(rules, refuse, allow, ARCH.try_into()?)?.try_into()?)
}

/// That this argument is so.
fn rule(argument: u8, how: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::Error> {
    Ok(SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)?])?)
}

/// This argument is this.
fn is(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?)
}

const SIOCETHTOOL: u64 = 0x8946;

/// Calls that are allowed whatever their arguments.
const ALWAYS: [i64; 37] = [
    // Clients, what helpers hear of them, and the signal to stop.
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    // Their descriptors.
    libc::SYS_close,
    libc::SYS_fcntl,
    // Netlink, ports, and turns.
    libc::SYS_bind,
    libc::SYS_flock,
    libc::SYS_listen,
    // The log, and the socket's end.
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    // Memory, locks, time, and the end of threads.
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
];

/// As `system_calls`, for this thread alone.
#[cfg(test)]
pub fn this_thread() {
    thread::set_no_new_privs(true).unwrap();
    seccompiler::apply_filter(&filter().unwrap()).unwrap();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::fs::{FlockOperation, flock};
    use rustix::io::Errno;
    use rustix::net::sockopt::set_tcp_keepidle;
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, connect, sendto, socket_with};

    use super::*;

    #[test]
    fn the_filter_fits_the_kernels_limit() {
        const BPF_MAXINSNS: usize = 4096;
        let filter = filter().unwrap();
        assert!((1..BPF_MAXINSNS).contains(&filter.len()), "{}", filter.len());
    }

    #[test]
    fn a_confined_thread_still_finds_interfaces_but_opens_no_file() {
        let confined = std::thread::spawn(|| {
            let turns = tempfile::tempfile().unwrap();
            this_thread();
            let ethtool = dmverbs_netdev::Ethtool::open();
            let index = ethtool.and_then(|ethtool| ethtool.ifindex("lo"));
            flock(&turns, FlockOperation::LockExclusive).unwrap();
            let file = std::fs::File::open("/dev/null").map(drop).map_err(|e| e.kind());
            let udp = std::net::UdpSocket::bind("127.0.0.1:0").map(drop).map_err(|e| e.kind());
            // SAFETY: no memory is passed.
            let routes = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE) };
            // SAFETY: as above; this signal does nothing.
            let others = unsafe { libc::syscall(libc::SYS_tgkill, libc::getppid(), libc::getppid(), 0) };
            let tcp = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| e.kind());
            let tcp = tcp.map(|tcp| {
                let to = tcp.local_addr().unwrap();
                let client =
                    || socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
                let connected = connect(client(), &to);
                let opened =
                    sendto(client(), b"x", SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned()), &to);
                let timed = set_tcp_keepidle(client(), Duration::from_secs(9));
                (connected, opened.map(drop), timed)
            });
            assert_eq!(tcp, Ok((Err(Errno::PERM), Err(Errno::PERM), Err(Errno::PERM))));
            (index.map_err(|e| e.to_string()), file, udp, routes, others)
        });
        let (index, file, udp, routes, others) = confined.join().unwrap();
        assert!(index.is_ok(), "{index:?}");
        assert_eq!((file, udp), (Err(io::ErrorKind::PermissionDenied), Err(io::ErrorKind::PermissionDenied)));
        assert_eq!((routes, others), (-1, -1));
    }
}
