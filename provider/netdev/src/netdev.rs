//! The family `netdev`: dma-bufs and queues.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::error::{Error, Refusal};
use crate::genl::{Attributes, Family, attributes, find_u32};

/// A socket of the family `netdev`, and the bindings made through it: they live exactly as long as it.
///
/// A child that fork(2) makes shares the socket, and with it the bindings, until it ends, becomes another program, or closes
/// the descriptor.
#[derive(Debug)]
pub struct Netdev(Family);

impl AsFd for Netdev {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket().as_fd()
    }
}

/// Bytes of a buffer of a queue, where the NIC has more to offer than a page: fewer pieces to copy.
pub const LARGE: u32 = 64 << 10;

/// An RX queue of an interface that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RxQueue {
    /// Its number.
    pub id: u32,
    /// What SO_INCOMING_NAPI_ID says of a connection whose packets come by this queue.
    pub napi_id: Option<u32>,
    /// The binding whose memory it fills.
    pub dmabuf: Option<u32>,
    /// Whether io_uring or AF_XDP has it, or a netkit interface has leased it.
    pub taken: bool,
}

impl Netdev {
    /// Opens a socket in this thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Family::open(NAME).map(Self)
    }

    /// The same in two steps, for who wants to do something about the socket first: this opens it, and allocates nothing.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn socket_alone() -> io::Result<Self> {
        Family::socket_alone().map(Self)
    }

    /// The second step.
    pub fn reach(&mut self) -> Result<(), Error> {
        self.0.reach(NAME)
    }

    /// Has these RX queues put payload into the dma-buf, in pieces of `page_size` if it is given; returns the binding's
    /// number.
    ///
    /// It needs CAP_NET_ADMIN, header split switched on, and a header split threshold of 0.
    pub fn bind_rx(
        &self,
        ifindex: u32,
        dmabuf: BorrowedFd,
        queues: &[u32],
        page_size: Option<u32>,
    ) -> Result<u32, Error> {
        let mut request = binding(ifindex, dmabuf.as_raw_fd());
        for id in queues {
            let queue = Attributes::new().u32(A_QUEUE_ID, *id).u32(A_QUEUE_TYPE, QUEUE_TYPE_RX);
            request = request.nested(A_DMABUF_QUEUES, queue);
        }
        let request = request.maybe(page_size, |request, size| request.u32(A_DMABUF_RX_PAGE_SIZE, size));
        self.bind(CMD_BIND_RX, request).map_err(|refusal| {
            refusal.of(format!("bind a dma-buf to RX queues {queues:?} of {}", self.0.interface(ifindex)))
        })
    }

    /// The same for one queue, in pieces of [`LARGE`] where the NIC can do that.
    pub fn bind_queue(&self, ifindex: u32, dmabuf: BorrowedFd, queue: u32) -> Result<u32, Error> {
        let bind = |page_size| self.bind_rx(ifindex, dmabuf, &[queue], page_size);
        bind(Some(LARGE)).or_else(|_| bind(None))
    }

    /// Makes the dma-buf one that connections over this interface can send from; returns the binding's number.
    pub fn bind_tx(&self, ifindex: u32, dmabuf: BorrowedFd) -> Result<u32, Error> {
        self.bind(CMD_BIND_TX, binding(ifindex, dmabuf.as_raw_fd()))
            .map_err(|refusal| refusal.of(format!("bind a dma-buf for sending by {}", self.0.interface(ifindex))))
    }

    /// Whether the kernel and the interface's driver can send from dma-bufs.
    ///
    /// The kernel does not tell; but it looks at the driver before it looks at the descriptor, so this asks for what it
    /// must refuse.
    pub fn can_bind_tx(&self, ifindex: u32) -> Result<bool, Error> {
        match self.bind(CMD_BIND_TX, binding(ifindex, NO_DESCRIPTOR)) {
            Err(Refusal { errno: libc::EBADF, .. }) => Ok(true),
            Err(Refusal { errno: libc::EOPNOTSUPP, .. }) => Ok(false),
            Ok(_) => Err(Refusal::malformed()),
            Err(refusal) => Err(refusal),
        }
        .map_err(|refusal| refusal.of(format!("ask whether {} sends from dma-bufs", self.0.interface(ifindex))))
    }

    /// Leases an RX queue of `lender` to `guest`, the peer of a pair of netkit interfaces that was made with room for one
    /// queue more; returns the number that the queue has there. It is leased until `guest` is deleted.
    ///
    /// It needs CAP_NET_ADMIN, and both interfaces in this network namespace; `guest` may then go to another.
    pub fn lease(&self, lender: u32, queue: u32, guest: u32) -> Result<u32, Error> {
        let leased = Attributes::new().u32(A_QUEUE_ID, queue).u32(A_QUEUE_TYPE, QUEUE_TYPE_RX);
        let lease = Attributes::new().u32(A_LEASE_IFINDEX, lender).nested(A_LEASE_QUEUE, leased);
        let request =
            Attributes::new().u32(A_QUEUE_IFINDEX, guest).u32(A_QUEUE_TYPE, QUEUE_TYPE_RX).nested(A_QUEUE_LEASE, lease);
        let made = self.0.ask(CMD_QUEUE_CREATE, request);
        made.and_then(|made| find_u32(&made, A_QUEUE_ID).ok_or_else(Refusal::malformed)).map_err(|refusal| {
            let (lender, guest) = (self.0.interface(lender), self.0.interface(guest));
            refusal.of(format!("lease RX queue {queue} of {lender} to {guest}"))
        })
    }

    /// The RX queues, by number; none while the interface is down.
    pub fn rx_queues(&self, ifindex: u32) -> Result<Vec<RxQueue>, Error> {
        let found = self
            .0
            .list(CMD_QUEUE_GET, Attributes::new().u32(A_QUEUE_IFINDEX, ifindex))
            .map_err(|refusal| refusal.of(format!("list the queues of {}", self.0.interface(ifindex))))?;
        let mut queues: Vec<RxQueue> = found.iter().filter_map(|queue| rx_queue(queue)).collect();
        queues.sort_by_key(|queue| queue.id);
        Ok(queues)
    }

    fn bind(&self, command: u8, request: Attributes) -> Result<u32, Refusal> {
        find_u32(&self.0.ask(command, request)?, A_DMABUF_ID).ok_or_else(Refusal::malformed)
    }
}

fn binding(ifindex: u32, descriptor: i32) -> Attributes {
    Attributes::new().u32(A_DMABUF_IFINDEX, ifindex).u32(A_DMABUF_FD, descriptor.cast_unsigned())
}

fn rx_queue(queue: &[u8]) -> Option<RxQueue> {
    if find_u32(queue, A_QUEUE_TYPE)? != QUEUE_TYPE_RX {
        return None;
    }
    Some(RxQueue {
        id: find_u32(queue, A_QUEUE_ID)?,
        napi_id: find_u32(queue, A_QUEUE_NAPI_ID),
        dmabuf: find_u32(queue, A_QUEUE_DMABUF),
        taken: attributes(queue).any(|(kind, _)| [A_QUEUE_IO_URING, A_QUEUE_XSK, A_QUEUE_LEASE].contains(&kind)),
    })
}

const NAME: &str = "netdev";
const NO_DESCRIPTOR: i32 = -1;

// linux/netdev.h
const CMD_QUEUE_GET: u8 = 10;
const CMD_BIND_RX: u8 = 13;
const CMD_BIND_TX: u8 = 15;
const CMD_QUEUE_CREATE: u8 = 16;
const QUEUE_TYPE_RX: u32 = 0;
const A_QUEUE_ID: u16 = 1;
const A_QUEUE_IFINDEX: u16 = 2;
const A_QUEUE_TYPE: u16 = 3;
const A_QUEUE_NAPI_ID: u16 = 4;
const A_QUEUE_DMABUF: u16 = 5;
const A_QUEUE_IO_URING: u16 = 6;
const A_QUEUE_XSK: u16 = 7;
const A_QUEUE_LEASE: u16 = 8;
const A_LEASE_IFINDEX: u16 = 1;
const A_LEASE_QUEUE: u16 = 2;
const A_DMABUF_IFINDEX: u16 = 1;
const A_DMABUF_QUEUES: u16 = 2;
const A_DMABUF_FD: u16 = 3;
const A_DMABUF_ID: u16 = 4;
const A_DMABUF_RX_PAGE_SIZE: u16 = 5;
