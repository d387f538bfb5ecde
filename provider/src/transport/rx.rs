//! Queues of NICs that put payload into the memory of a device.

use std::error::Error;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use dmverbs_netdev::broker::{self, Loan, NoLoan, Request};
use dmverbs_netdev::{Ethtool, LARGE, Lease, Netdev, Protocol, RxQueue, Turns, Vacancy, bind_to_interface};

use parking_lot::Mutex;

use super::intake::{Both, Each, Intake};
use super::tx::netdev;
use super::zcrx::{BINDING, Feeder};
use crate::config::Devmem;
use crate::mem::{Device, Kind};
use crate::sys::fork::Unshared;
use crate::sys::socket::{self, Socket};
use crate::sys::uring::Uring;
use crate::sys::zcrx::Ring;

/// A queue of an interface, bound to memory of a device, and the TCP port from which payload is steered there.
#[derive(Debug)]
pub(crate) struct Receiver {
    hold: Mutex<Option<Hold>>,
    ifindex: u32,
    kind: Kind,
    memory: Box<dyn Device>,
    binding: u32,
    listener: Socket,
    port: u16,
    held: HeldBlocks,
    engine: RxEngine,
    /// When another was last asked for in its place; 0 for never.
    pub(crate) asked: AtomicU64,
}

/// What lanes are read by.
#[derive(Debug)]
enum RxEngine {
    RecvMsg,
    IoUring(Arc<Mutex<Uring>>),
    Zcrx(Feeder),
}

impl RxEngine {
    /// Whether somebody reads, if that is not up to the lanes.
    fn is_live(&self) -> bool {
        match self {
            RxEngine::RecvMsg | RxEngine::IoUring(_) => true,
            RxEngine::Zcrx(feeder) => feeder.is_live(),
        }
    }
}

/// What the queue is ours by.
#[derive(Debug)]
enum Hold {
    Own {
        lease: Lease<Option<Unshared<Netdev>>>,
    },
    /// The connection to the broker: the queue is ours as long as it, and as long as the broker lives.
    Lent {
        broker: Socket,
    },
}

/// Bytes of memory that are bound: all connections of the process together have no more in the queue at a time.
const BOUND: u64 = 32 << 20;

impl Receiver {
    /// Takes a queue to which nothing is spread (`dmverbs nic setup` sees to that), binds memory of `device`'s kind to
    /// it, and steers a port there; `steered` is the one that leads to a queue that has been leased, where `left`, of an
    /// interface that is gone, may listen still. What this process may not do, it asks the broker for.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn open(
        ifindex: u32,
        device: &dyn Device,
        devmem: Devmem,
        ports: Option<RangeInclusive<u16>>,
        steered: Option<u16>,
        left: Option<&Receiver>,
    ) -> Result<Receiver, Box<dyn Error + Send + Sync>> {
        let vacancy = vacancy(ifindex, devmem == Devmem::Zcrx)?;
        let memory = device.sibling(BOUND)?;
        let dmabuf = memory.dmabuf().ok_or("the memory has no dma-buf")?;
        let (mut listener, mut port) = match vacancy {
            Vacancy::Own => socket::listen_alone(ports.clone())?,
            Vacancy::Leased => {
                let port =
                    steered.ok_or("DMVERBS_LANE_PORT does not say which port leads to the queue that was leased")?;
                match left.filter(|left| left.port == port) {
                    Some(left) => (Socket::adopt(|| left.listener().try_clone_to_owned())?, port),
                    None => socket::listen_again(port).map_err(|e| format!("DMVERBS_LANE_PORT={port}: {e}"))?,
                }
            }
        };
        let mut feeder = None;
        let bind = |queue| {
            feeder = (devmem == Devmem::Zcrx).then(|| fed(ifindex, queue, dmabuf)).flatten();
            if feeder.is_some() {
                return Ok((BINDING, None));
            }
            let netdev = netdev()?;
            Ok((netdev.get().bind_queue(ifindex, dmabuf, queue)?, Some(netdev)))
        };
        let protocols = &[Protocol::Tcp4, Protocol::Tcp6];
        let mut engine = RxEngine::RecvMsg;
        let taken = Lease::take_by(&Turns::open(), ifindex, port, protocols, bind);
        let (binding, hold) = match taken {
            Ok(lease) => {
                engine = feeder.map_or(engine, RxEngine::Zcrx);
                (lease.binding(), Hold::Own { lease })
            }
            Err(denied) if denied.is_denied() => {
                listener = socket::unbound_as(listener)?;
                bind_to_interface(&listener.as_fd(), ifindex)?;
                let ports = ports.map_or(0..=0, |ports| port..=*ports.end());
                let lent = borrow(ifindex, ports, dmabuf, listener.as_fd());
                let (loan, broker) = lent.map_err(|why| both(&denied, &why))?;
                port = socket::local_address(listener.as_fd())?.port();
                tracing::debug!(queue = loan.queue, "the broker has lent a queue");
                (loan.binding, Hold::Lent { broker })
            }
            Err(e) => return Err(e.into()),
        };
        if devmem == Devmem::IoUring {
            engine = ring().map_or(engine, RxEngine::IoUring);
        }
        Ok(Receiver {
            hold: Mutex::new(Some(hold)),
            ifindex,
            kind: memory.kind(),
            memory,
            binding,
            listener,
            port,
            held: HeldBlocks::default(),
            engine,
            asked: AtomicU64::new(0),
        })
    }

    /// One of no NIC, which is ours while the other end of `broker` is open.
    #[cfg(test)]
    pub(crate) fn of_no_queue(ifindex: u32, memory: Box<dyn Device>, broker: Socket, listener: Socket) -> Receiver {
        Receiver {
            hold: Mutex::new(Some(Hold::Lent { broker })),
            ifindex,
            kind: memory.kind(),
            memory,
            binding: 1,
            port: socket::local_address(listener.as_fd()).map_or(0, |address| address.port()),
            listener,
            held: HeldBlocks::default(),
            engine: RxEngine::RecvMsg,
            asked: AtomicU64::new(0),
        }
    }

    /// Whether the queue is still ours.
    pub(crate) fn is_live(&self) -> bool {
        match &*self.hold.lock() {
            Some(Hold::Own { .. }) => self.engine.is_live(),
            Some(Hold::Lent { broker }) => socket::is_open(broker.as_fd()),
            None => false,
        }
    }

    /// Whether it is for memory of `kind`, and the interface, or who read its lanes, is gone. (What is our own knows in which network namespace.)
    pub(crate) fn is_left(&self, kind: Kind) -> bool {
        let is_gone = || Ethtool::open().is_ok_and(|ethtool| ethtool.ifname(self.ifindex).is_err());
        self.kind == kind
            && match &*self.hold.lock() {
                Some(Hold::Own { lease }) => !lease.is_there() || !self.engine.is_live(),
                Some(Hold::Lent { broker }) => !socket::is_open(broker.as_fd()) && is_gone(),
                None => true,
            }
    }

    /// The receiving end of a lane that has come to the port.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn intake(&self, socket: Socket) -> io::Result<Arc<dyn Intake>> {
        Ok(match &self.engine {
            RxEngine::RecvMsg => Arc::new(Each::new(socket)),
            RxEngine::IoUring(ring) => Arc::new(Both::new(socket, ring.clone())),
            RxEngine::Zcrx(feeder) => Arc::new(feeder.feed(socket)?),
        })
    }

    /// Why what has come by a lane's `socket` is not in the memory that is bound, as far as the kernel tells; of what zcrx
    /// receives it does not.
    pub(crate) fn astray(&self, socket: BorrowedFd<'_>) -> String {
        let napi_id = socket::incoming_napi_id(socket).ok().filter(|&id| id != 0);
        let queues = netdev().and_then(|netdev| netdev.get().rx_queues(self.ifindex)).unwrap_or_default();
        let mut came_by = queues.iter().filter(|queue| queue.napi_id.is_some() && queue.napi_id == napi_id);
        match came_by.clone().find(|queue| queue.dmabuf == Some(self.binding)).or_else(|| came_by.next()) {
            Some(RxQueue { id, dmabuf, .. }) if *dmabuf == Some(self.binding) => {
                format!("it arrives by RX queue {id}, but in the host's memory: its header is not split off")
            }
            Some(RxQueue { id, .. }) => {
                format!("it arrives by RX queue {id}: it is not steered to the one that is bound")
            }
            None => "it does not arrive in the memory of the device".to_owned(),
        }
    }

    /// Takes a piece of the memory that is bound out of use, for a connection that has `own` out of use; false if the
    /// queue needs what is left, or other connections do.
    pub(crate) fn spare(&self, own: &HeldBlocks, at: u64, len: u32) -> bool {
        let spare = SPARE.saturating_sub(self.held.blocks());
        if spare == 0 || own.blocks() >= SHARE * spare {
            return false;
        }
        self.held.hold(at, len);
        own.hold(at, len);
        true
    }

    /// A piece of the memory is of use again.
    pub(crate) fn recover(&self, own: &HeldBlocks, at: u64, len: u32) {
        self.held.release(at, len);
        own.release(at, len);
    }

    /// Whether it is for memory of `kind` behind this interface.
    pub(crate) fn serves(&self, ifindex: u32, kind: Kind) -> bool {
        (self.ifindex, self.kind) == (ifindex, kind)
    }

    /// Gives the queue back, also if somebody still has this: what comes now is of no use to anybody.
    pub(crate) fn close(&self) {
        drop(self.hold.lock().take());
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The memory that is bound, and the number of its binding.
    pub(crate) fn memory(&self) -> (&dyn Device, u32) {
        (self.memory.as_ref(), self.binding)
    }
}

/// How much of the memory that is bound its queue must do without, in all or because of one connection: counted by
/// blocks as large as the pages that the memory is bound in if the NIC can do that, as one byte held is a page less.
#[derive(Debug)]
pub(crate) struct HeldBlocks {
    /// Pieces held of each block.
    pieces: Box<[AtomicU32]>,
    /// Blocks of which some are.
    blocks: AtomicU32,
}

const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = BOUND / BLOCK;
/// Blocks that the queue can do without.
const SPARE: u64 = BLOCKS / 2;
/// A connection has as many times what is left for others, at most: one alone three quarters, another then three
/// quarters of the rest.
const SHARE: u64 = 3;

impl Default for HeldBlocks {
    fn default() -> HeldBlocks {
        HeldBlocks { pieces: (0..BLOCKS).map(|_| AtomicU32::new(0)).collect(), blocks: AtomicU32::new(0) }
    }
}

impl HeldBlocks {
    fn of(&self, at: u64, len: u32) -> &[AtomicU32] {
        let (first, last) = (at / BLOCK, (at + u64::from(len).max(1) - 1) / BLOCK);
        self.pieces.get(first as usize..=last as usize).unwrap_or_default()
    }

    fn blocks(&self) -> u64 {
        // Relaxed, here and below: the numbers stand for nothing but themselves.
        u64::from(self.blocks.load(Relaxed))
    }

    fn hold(&self, at: u64, len: u32) {
        for block in self.of(at, len) {
            if block.fetch_add(1, Relaxed) == 0 {
                self.blocks.fetch_add(1, Relaxed);
            }
        }
    }

    fn release(&self, at: u64, len: u32) {
        for block in self.of(at, len) {
            if block.fetch_sub(1, Relaxed) == 1 {
                self.blocks.fetch_sub(1, Relaxed);
            }
        }
    }
}

/// Asks the broker for a queue, and to have the socket listen on the first port of these that is free (any, if it is 0), as
/// nobody else can have that one then.
fn borrow(
    ifindex: u32,
    ports: RangeInclusive<u16>,
    dmabuf: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
) -> Result<(Loan, Socket), NoLoan> {
    let ask = |port| {
        let connection = Socket::adopt(broker::socket).map_err(NoLoan::NoBroker)?;
        broker::path().and_then(|path| broker::connect(connection.as_fd(), &path)).map_err(NoLoan::NoBroker)?;
        let loan = Loan::ask(connection.as_fd(), Request { ifindex, port }, dmabuf, socket)?;
        Ok((loan, connection))
    };
    let mut asked = ask(*ports.start());
    for port in ports.skip(1) {
        if !matches!(asked, Err(NoLoan::Refused { errno: libc::EADDRINUSE, .. })) {
            break;
        }
        asked = ask(port);
    }
    asked
}

/// A ring to read lanes by, if this kernel has it.
fn ring() -> Option<Arc<Mutex<Uring>>> {
    let ring = Uring::new().inspect_err(|e| tracing::warn!(error = %e, "no io_uring: lanes are read by recvmsg"));
    Some(Arc::new(Mutex::new(ring.ok()?)))
}

/// Has io_uring have the queue, if this kernel and NIC can, and we may.
fn fed(ifindex: u32, queue: u32, dmabuf: BorrowedFd<'_>) -> Option<Feeder> {
    let open = |page_size| Ring::open(ifindex, queue, dmabuf, BOUND, page_size);
    let feeder = Feeder::start(|| open(LARGE).or_else(|_| open(0)));
    feeder.inspect_err(|e| tracing::warn!(error = %e, "no zero-copy receive: lanes are read by recvmsg")).ok()
}

/// What the interface has. A queue that io_uring had is free a moment after its process has ended: `patient` is who may come
/// that soon.
fn vacancy(ifindex: u32, patient: bool) -> Result<Vacancy, dmverbs_netdev::Error> {
    const TRIES: u32 = 50;
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 0..if patient { TRIES } else { 0 } {
        match Vacancy::find(ifindex) {
            Err(e) if e.errno() == libc::EBUSY => std::thread::sleep(PAUSE),
            found => return found,
        }
    }
    Vacancy::find(ifindex)
}

/// Why a queue cannot be taken, and why none is lent.
fn both(denied: &dmverbs_netdev::Error, why: &NoLoan) -> String {
    format!("{denied}; {why}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::stub::Memory;

    #[test]
    fn only_what_nobody_has_any_more_is_left_by_an_interface_that_is_gone() {
        let memory = Memory::new(1);
        let kind = memory.device().kind();
        let receiver = |ifindex| {
            let (ours, broker) = socket::pair().unwrap();
            let (listener, _) = socket::listen(None).unwrap();
            (Receiver::of_no_queue(ifindex, memory.device(), ours, listener), broker)
        };
        let (there, broker) = receiver(Ethtool::open().unwrap().ifindex("lo").unwrap());
        drop(broker);
        assert!(!there.is_left(kind));
        let (gone, broker) = receiver(i32::MAX as u32);
        assert!(!gone.is_left(kind));
        drop(broker);
        assert!(gone.is_left(kind));
    }

    #[test]
    fn half_of_the_memory_can_be_held_and_of_what_is_left_a_quarter_is_for_others() {
        let memory = Memory::new(1);
        let (ours, _broker) = socket::pair().unwrap();
        let (listener, _) = socket::listen(None).unwrap();
        let receiver = Receiver::of_no_queue(1, memory.device(), ours, listener);
        let mut next = 0..;
        let mut hoard = |own: &HeldBlocks| {
            let takes = |at: u64| receiver.spare(own, at * BLOCK, 100);
            next.by_ref().take_while(|&at| takes(at)).count() as u64
        };
        let owners: Vec<HeldBlocks> = (0..20).map(|_| HeldBlocks::default()).collect();
        let shares: Vec<u64> = owners.iter().map(&mut hoard).collect();
        assert_eq!(shares[..2], [SPARE * 3 / 4, SPARE * 3 / 16]);
        assert_eq!(shares.iter().sum::<u64>(), SPARE, "the last ones have all: {shares:?}");
        receiver.recover(&owners[0], 0, 100);
        assert_eq!((hoard(&owners[0]), hoard(&HeldBlocks::default())), (0, 1), "the first has more than the others");
    }

    #[test]
    fn a_block_is_held_until_its_last_piece_comes_back() {
        let held = HeldBlocks::default();
        held.hold(0, 10);
        held.hold(10, BLOCK as u32);
        assert_eq!(held.blocks(), 2);
        held.release(0, 10);
        assert_eq!(held.blocks(), 2);
        held.release(10, BLOCK as u32);
        assert_eq!(held.blocks(), 0);
        held.hold(BOUND - 1, 1);
        assert_eq!(held.blocks(), 1);
    }
}
