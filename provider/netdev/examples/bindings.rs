//! Every call of the crate, on an interface with header split that nobody else uses: `bindings IFNAME`.
//!
//! `kernel/vm/tests/netdev` runs it on the virtual NIC.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use dmverbs_netdev::{
    ChannelsChange, DataSplit, Error, Ethtool, Netdev, Protocol, RingsChange, Rule, RuleSpec, RxQueue,
};

const NTUPLE: &str = "rx-ntuple-filter";
const SIZE: u64 = 4 << 20;

fn main() {
    let ifname = std::env::args().nth(1).expect("an interface");
    let ethtool = Ethtool::open().unwrap();
    let ifindex = ethtool.ifindex(&ifname).unwrap();
    let memory = udmabuf().expect("a udmabuf");
    rings(&ethtool, ifindex, &memory);
    let last = ethtool.channels(ifindex).unwrap().rx_queues() - 1;
    receiving(ifindex, &memory, last);
    sending(ifindex, &memory);
    channels(&ethtool, ifindex);
    table(&ethtool, ifindex, last);
    rules(&ethtool, ifindex, last);
    println!("all is well");
}

/// Memory is refused while headers are not split.
fn rings(ethtool: &Ethtool, ifindex: u32, memory: &OwnedFd) {
    let set = |split| {
        let change = RingsChange { tcp_data_split: Some(split), ..RingsChange::default() };
        ethtool.set_rings(ifindex, &change).unwrap();
        assert_eq!(ethtool.rings(ifindex).unwrap().tcp_data_split, Some(split));
    };
    set(DataSplit::Disabled);
    let refused = Netdev::open().unwrap().bind_rx(ifindex, memory.as_fd(), &[0], None).unwrap_err();
    println!("{refused}");
    set(DataSplit::Enabled);
    let rings = ethtool.rings(ifindex).unwrap();
    println!("{rings:?}");
    if rings.hds_thresh.is_some() {
        let most = rings.hds_thresh_max.unwrap();
        for size in [most, 0] {
            ethtool.set_rings(ifindex, &RingsChange { hds_thresh: Some(size), ..RingsChange::default() }).unwrap();
            assert_eq!(ethtool.rings(ifindex).unwrap().hds_thresh, Some(size));
        }
        let wrong = RingsChange { hds_thresh: Some(most + 1), ..RingsChange::default() };
        says_why(&ethtool.set_rings(ifindex, &wrong).unwrap_err());
    }
}

/// A binding lives as long as its socket.
fn receiving(ifindex: u32, memory: &OwnedFd, queue: u32) {
    let (netdev, other) = (Netdev::open().unwrap(), Netdev::open().unwrap());
    let bound = || other.rx_queues(ifindex).unwrap().into_iter().find(|found| found.id == queue).unwrap().dmabuf;
    assert_eq!(bound(), None);
    let id = netdev.bind_rx(ifindex, memory.as_fd(), &[queue], None).unwrap();
    assert_eq!(bound(), Some(id));
    let queues: Vec<RxQueue> = other.rx_queues(ifindex).unwrap();
    println!("{queues:?}");
    assert!(queues.iter().all(|queue| queue.napi_id.is_some()));
    println!("{}", other.bind_rx(ifindex, memory.as_fd(), &[queue], None).unwrap_err());
    let nothing = File::open("/dev/null").unwrap();
    println!("{}", other.bind_rx(ifindex, nothing.as_fd(), &[0], None).unwrap_err());
    drop(netdev);
    assert_eq!(bound(), None);
    other.bind_rx(ifindex, memory.as_fd(), &[queue], None).unwrap();
}

fn sending(ifindex: u32, memory: &OwnedFd) {
    let netdev = Netdev::open().unwrap();
    let can = netdev.can_bind_tx(ifindex).unwrap();
    let bound = netdev.bind_tx(ifindex, memory.as_fd());
    println!("sending: {can}, {bound:?}");
    assert_eq!(bound.is_ok(), can);
}

fn channels(ethtool: &Ethtool, ifindex: u32) {
    let before = ethtool.channels(ifindex).unwrap();
    println!("{before:?}");
    for combined in [1, before.combined] {
        ethtool.set_channels(ifindex, &ChannelsChange { combined: Some(combined), rx: None }).unwrap();
        assert_eq!(ethtool.channels(ifindex).unwrap().combined, combined);
    }
    assert_eq!(ethtool.channels(ifindex).unwrap(), before);
    let wrong = ChannelsChange { combined: Some(before.combined_max + 1), rx: None };
    says_why(&ethtool.set_channels(ifindex, &wrong).unwrap_err());
}

fn table(ethtool: &Ethtool, ifindex: u32, queue: u32) {
    let before = ethtool.rss_table(ifindex).unwrap();
    let all_to_one = vec![queue; before.len()];
    ethtool.set_rss_table(ifindex, &all_to_one).unwrap();
    assert_eq!(ethtool.rss_table(ifindex).unwrap(), all_to_one);
    let fewer = ethtool.set_channels(ifindex, &ChannelsChange { combined: Some(queue), rx: None });
    println!("{}", fewer.unwrap_err());
    ethtool.set_rss_table(ifindex, &[]).unwrap();
    assert_eq!(ethtool.rss_table(ifindex).unwrap(), before);
}

fn rules(ethtool: &Ethtool, ifindex: u32, queue: u32) {
    let before = ethtool.feature(ifindex, NTUPLE).unwrap().unwrap();
    for on in [false, true] {
        ethtool.set_feature(ifindex, NTUPLE, on).unwrap();
        assert_eq!(ethtool.feature(ifindex, NTUPLE).unwrap().unwrap().active, on);
    }
    println!("{}", ethtool.set_feature(ifindex, "loopback", true).unwrap_err());
    println!("{}", ethtool.set_feature(ifindex, "no-such-feature", true).unwrap_err());
    let mut made: Vec<Rule> = [Protocol::Tcp4, Protocol::Tcp6]
        .map(|protocol| {
            let spec = RuleSpec { protocol, dst_port: 7000 };
            let location = ethtool.insert_rule(ifindex, spec, queue).unwrap();
            Rule { location, spec: Some(spec), queue: Some(queue) }
        })
        .into();
    made.sort_by_key(|rule| rule.location);
    println!("{made:?}");
    assert_eq!(ethtool.rules(ifindex).unwrap(), made);
    for rule in &made {
        ethtool.delete_rule(ifindex, rule.location).unwrap();
    }
    assert_eq!(ethtool.rules(ifindex).unwrap(), []);
    println!("{}", ethtool.delete_rule(ifindex, made[0].location).unwrap_err());
    ethtool.set_feature(ifindex, NTUPLE, before.active).unwrap();
}

fn says_why(error: &Error) {
    println!("{error}");
    assert!(error.message().is_some(), "{error:?}");
}

/// Host memory as a dma-buf.
fn udmabuf() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string.
    let memory = owned(unsafe { libc::memfd_create(c"bindings".as_ptr(), libc::MFD_ALLOW_SEALING) })?;
    let memory = File::from(memory);
    memory.set_len(SIZE)?;
    // SAFETY: this operation takes a number.
    if unsafe { libc::fcntl(memory.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let device = File::options().read(true).write(true).open("/dev/udmabuf")?;
    let create = Create { memfd: memory.as_raw_fd(), flags: 0, offset: 0, size: SIZE };
    // SAFETY: UDMABUF_CREATE reads one `udmabuf_create`.
    owned(unsafe { libc::ioctl(device.as_raw_fd(), UDMABUF_CREATE, &raw const create) })
}

/// `struct udmabuf_create`
#[repr(C)]
struct Create {
    memfd: i32,
    flags: u32,
    offset: u64,
    size: u64,
}

const UDMABUF_CREATE: libc::Ioctl = libc::_IOW::<Create>('u' as u32, 0x42);

fn owned(descriptor: i32) -> io::Result<OwnedFd> {
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
