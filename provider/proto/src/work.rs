//! Requests and completions, in the terms of libibverbs(3).

bitflags::bitflags! {
    /// Per-request flags of ibv_post_send(3).
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub struct SendFlags: u32 {
        /// Wait for earlier READs and atomics.
        const FENCE = 1;
        /// Ask for a completion.
        const SIGNALED = 1 << 1;
        /// Wake a receiver that waits for solicited completions.
        const SOLICITED = 1 << 2;
    }
}

bitflags::bitflags! {
    /// What may be done to a memory region; the values are ibv_reg_mr(3)'s.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub struct Access: u32 {
        /// The local device may write (receive, READ response, atomic result).
        const LOCAL_WRITE = 1;
        /// Peers may write.
        const REMOTE_WRITE = 1 << 1;
        /// Peers may read.
        const REMOTE_READ = 1 << 2;
        /// Peers may perform atomics.
        const REMOTE_ATOMIC = 1 << 3;
        /// Memory windows may be bound to it.
        const MW_BIND = 1 << 4;
        /// Addresses count from 0.
        const ZERO_BASED = 1 << 5;
        /// Pages need not be present.
        const ON_DEMAND = 1 << 6;
        /// Backed by huge pages (a hint).
        const HUGETLB = 1 << 7;
        /// Writes may be reordered (a hint).
        const RELAXED_ORDERING = 1 << 20;
    }
}

/// What the slots of a queue are numbered by: the position of a request among all that were ever posted, in a ring of a
/// power of two of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    mask: u64,
}

impl Slots {
    pub(crate) fn new(capacity: usize) -> Slots {
        Slots { mask: slots(capacity) as u64 - 1 }
    }

    /// The slot of the request at `position`.
    #[inline]
    pub(crate) fn at(self, position: u64) -> u32 {
        (position & self.mask) as u32
    }

    /// How far behind the request at `position` the one in `slot` is.
    pub(crate) fn distance(self, position: u64, slot: u32) -> u64 {
        u64::from(slot).wrapping_sub(position) & self.mask
    }
}

/// How many slots a queue of `capacity` requests has: what numbers them stays below this.
#[must_use]
pub fn slots(capacity: usize) -> usize {
    capacity.next_power_of_two()
}

/// Where a one-sided request goes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Remote {
    /// Address in the peer's memory region.
    pub addr: u64,
    /// The region's remote key.
    pub rkey: u32,
}

/// What may be on its way to the peer, from the first frame of a request to its acknowledgement: with at least so many
/// bytes of payload, and so many requests, no further request is begun. Payload of any kind is held back with so many
/// bytes on its way, unless they are less than 4 MiB (WIRE §4.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// Payload in bytes.
    pub bytes: u64,
    /// Requests; at least 1.
    pub requests: u64,
}

impl Window {
    /// Nothing is held back.
    pub const UNLIMITED: Window = Window { bytes: u64::MAX, requests: u64::MAX };
}

/// What a send request does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SendOp {
    /// RDMA WRITE.
    Write(Remote),
    /// RDMA WRITE that consumes a receive and delivers the value (network byte order, as in `ibv_wc`).
    WriteImm(Remote, u32),
    /// SEND.
    Send,
    /// SEND with immediate data (network byte order).
    SendImm(u32),
    /// SEND that invalidates the peer's key.
    SendInv(u32),
    /// RDMA READ.
    Read(Remote),
    /// Compare and swap on 8 aligned bytes.
    CompareSwap {
        /// The 8 bytes.
        at: Remote,
        /// Swapped in if equal to this.
        compare: u64,
        /// The new value.
        swap: u64,
    },
    /// Fetch and add on 8 aligned bytes.
    FetchAdd {
        /// The 8 bytes.
        at: Remote,
        /// Added.
        add: u64,
    },
    /// Invalidate a local key.
    LocalInv(u32),
}

impl SendOp {
    /// The opcode of its completion.
    #[must_use]
    pub fn wc_opcode(&self) -> WcOpcode {
        match self {
            SendOp::Write(_) | SendOp::WriteImm(..) => WcOpcode::RdmaWrite,
            SendOp::Send | SendOp::SendImm(_) | SendOp::SendInv(_) => WcOpcode::Send,
            SendOp::Read(_) => WcOpcode::RdmaRead,
            SendOp::CompareSwap { .. } => WcOpcode::CompSwap,
            SendOp::FetchAdd { .. } => WcOpcode::FetchAdd,
            SendOp::LocalInv(_) => WcOpcode::LocalInv,
        }
    }

    /// Whether it consumes a receive of the peer, hence a credit.
    #[must_use]
    pub fn consumes_receive(&self) -> bool {
        matches!(self, SendOp::WriteImm(..) | SendOp::Send | SendOp::SendImm(_) | SendOp::SendInv(_))
    }

    /// Whether the peer answers it with data (READ and atomics).
    #[must_use]
    pub fn has_response(&self) -> bool {
        matches!(self, SendOp::Read(_) | SendOp::CompareSwap { .. } | SendOp::FetchAdd { .. })
    }
}

/// A posted send request, as far as the protocol cares.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Returned in the completion.
    pub id: u64,
    /// The operation.
    pub op: SendOp,
    /// Its flags.
    pub flags: SendFlags,
    /// Payload bytes.
    pub len: u32,
    /// Set if the driver found a local fault: it completes with this status, in its turn.
    pub fault: Option<Status>,
}

impl Request {
    /// Bytes of payload that go to the peer.
    pub(crate) fn outgoing(&self) -> u64 {
        match self.op {
            SendOp::Write(_) | SendOp::WriteImm(..) | SendOp::Send | SendOp::SendImm(_) | SendOp::SendInv(_) => {
                u64::from(self.len)
            }
            SendOp::Read(_) | SendOp::CompareSwap { .. } | SendOp::FetchAdd { .. } | SendOp::LocalInv(_) => 0,
        }
    }
}

/// An atomic as the responder performs it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AtomicOp {
    /// Store `swap` if the memory equals `compare`.
    CompareSwap {
        /// Expected.
        compare: u64,
        /// Stored.
        swap: u64,
    },
    /// Add.
    FetchAdd {
        /// The addend.
        add: u64,
    },
}

/// How a request ended; the values are `enum ibv_wc_status`'s.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// Done.
    Success = 0,
    /// A receive was too short for its message, or a message too long for the device.
    LocLen = 1,
    /// A local QP operation error.
    LocQpOp = 2,
    /// A local key, range or right was wrong.
    LocProt = 4,
    /// Flushed: the QP was in, or went to, the error state.
    WrFlush = 5,
    /// The peer found the request invalid.
    RemInvReq = 9,
    /// The peer's key, range or rights did not allow it.
    RemAccess = 10,
    /// The peer could not complete the request.
    RemOp = 11,
    /// No answer within the retry budget.
    RetryExc = 12,
    /// The peer posted no receive within the receiver-not-ready budget.
    RnrRetryExc = 13,
}

/// What completed; the values are `enum ibv_wc_opcode`'s.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WcOpcode {
    /// A SEND, at the sender.
    Send = 0,
    /// A WRITE.
    RdmaWrite = 1,
    /// A READ.
    RdmaRead = 2,
    /// A compare and swap.
    CompSwap = 3,
    /// A fetch and add.
    FetchAdd = 4,
    /// A local invalidation.
    LocalInv = 6,
    /// A received SEND.
    Recv = 128,
    /// A received WRITE with immediate.
    RecvRdmaWithImm = 129,
}

/// What a receive completion carries beside its bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Extra {
    /// Nothing.
    #[default]
    None,
    /// Immediate data, network byte order.
    Imm(u32),
    /// The key that the sender invalidated.
    Invalidated(u32),
}

/// An entry of a completion queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Completion {
    /// The request's id.
    pub id: u64,
    /// How it ended. On failure only `id`, `status` and `qpn` mean anything.
    pub status: Status,
    /// What it was.
    pub opcode: WcOpcode,
    /// Bytes received (receives, READs, atomics).
    pub len: u32,
    /// The local QP's number.
    pub qpn: u32,
    /// Immediate data or an invalidated key.
    pub extra: Extra,
    /// A receive completion that asked for a solicited event, or any failure.
    pub solicited: bool,
}
