//! Plain data that verbs calls take and give: no behaviour, no handles.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

pub use dmverbs_proto::{Access, Completion, Extra, Remote, SendFlags, SendOp, Status, WcOpcode};

/// A scatter/gather element; laid out as `struct ibv_sge`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sge {
    /// Virtual address (or offset, in a zero-based region).
    pub addr: u64,
    /// Bytes.
    pub length: u32,
    /// Key of the memory region that holds it.
    pub lkey: u32,
}

/// Where a send request's payload is.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// In registered memory.
    Sges(&'a [Sge]),
    /// Copied at posting time; needs no key (IBV_SEND_INLINE).
    Inline(&'a [u8]),
}

/// A request for [`crate::object::Qp::post_send`].
#[derive(Clone, Copy, Debug)]
pub struct SendWr<'a> {
    /// Returned in the completion.
    pub id: u64,
    /// The operation.
    pub op: SendOp,
    /// Its flags.
    pub flags: SendFlags,
    /// Its data.
    pub payload: Payload<'a>,
}

/// A request for [`crate::object::Qp::post_recv`].
#[derive(Clone, Copy, Debug)]
pub struct RecvWr<'a> {
    /// Returned in the completion.
    pub id: u64,
    /// Where the message goes.
    pub sges: &'a [Sge],
}

/// Bytes of a message that follow each other in memory; `struct dmv_piece` of include/dmverbs.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MessagePiece {
    /// Where they begin.
    pub at: u64,
    /// How many there are.
    pub length: u32,
    /// How `at` counts.
    pub place: Place,
}

/// Where bytes of a message are; `enum dmv_where`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// At an offset in the dma-buf of the message.
    Pool,
    /// At an address of the process.
    Host,
}

/// A message that [`crate::object::Qp::take_message`] has given out.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Of its receive.
    pub id: u64,
    /// By which it is returned.
    pub handle: u64,
    /// Its pieces, which the QP keeps until then.
    pub pieces: Arc<[MessagePiece]>,
    /// The dma-buf of those that are in one.
    pub dmabuf: Option<RawFd>,
}

/// The kinds of queue pair.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum QpType {
    /// Reliable connected.
    Rc,
}

/// States of a queue pair; the values are `enum ibv_qp_state`'s.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum QpState {
    /// Created or reset.
    Reset = 0,
    /// Receives may be posted.
    Init = 1,
    /// Ready to receive.
    Rtr = 2,
    /// Ready to send.
    Rts = 3,
    /// Send queue drained.
    Sqd = 4,
    /// Send queue error (never entered by RC).
    Sqe = 5,
    /// Error: everything is flushed.
    Err = 6,
}

/// Queue sizes of a QP; `struct ibv_qp_cap`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct QpCap {
    /// Outstanding send requests.
    pub send_wr: u32,
    /// Outstanding receive requests.
    pub recv_wr: u32,
    /// Elements per send request.
    pub send_sge: u32,
    /// Elements per receive request.
    pub recv_sge: u32,
    /// Inline bytes per send request.
    pub inline: u32,
}

/// The address of a peer: `struct ibv_ah_attr` with its GRH; RoCE knows no LIDs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AhAttr {
    /// The peer's GID.
    pub dgid: Gid,
    /// Index of our GID.
    pub sgid_index: u8,
    /// Flow label, kept for ibv_query_qp(3).
    pub flow_label: u32,
    /// Hop limit, kept for ibv_query_qp(3).
    pub hop_limit: u8,
    /// Traffic class of what is sent to the peer.
    pub traffic_class: u8,
    /// Service level, kept for ibv_query_qp(3).
    pub sl: u8,
    /// Port number.
    pub port: u8,
}

/// What ibv_modify_qp(3) changes: `None` leaves an attribute as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct QpModify {
    /// The state to go to.
    pub state: Option<QpState>,
    /// The state the caller believes it is in.
    pub cur_state: Option<QpState>,
    /// Remote rights of the QP.
    pub access: Option<Access>,
    /// Partition key index: only 0 exists.
    pub pkey_index: Option<u16>,
    /// Port: only 1 exists.
    pub port: Option<u8>,
    /// The peer's address.
    pub ah: Option<AhAttr>,
    /// Path MTU code, 1 (256 B) to 5 (4096 B); kept for ibv_query_qp(3).
    pub path_mtu: Option<u32>,
    /// Local ack timeout, 0..=31.
    pub timeout: Option<u8>,
    /// Retries, 0..=7.
    pub retry_cnt: Option<u8>,
    /// Receiver-not-ready retries, 0..=7; 7 means for ever.
    pub rnr_retry: Option<u8>,
    /// First PSN expected.
    pub rq_psn: Option<u32>,
    /// READs and atomics outstanding as requester.
    pub max_rd_atomic: Option<u8>,
    /// Minimum receiver-not-ready timer code, 0..=31.
    pub min_rnr_timer: Option<u8>,
    /// First PSN sent.
    pub sq_psn: Option<u32>,
    /// READs and atomics accepted as responder.
    pub max_dest_rd_atomic: Option<u8>,
    /// The peer's QP number.
    pub dest_qpn: Option<u32>,
    /// Ask for an SQ_DRAINED event.
    pub sqd_async_notify: bool,
}

/// What ibv_query_qp(3) gives.
#[derive(Clone, Copy, Debug)]
pub struct QpAttr {
    /// Present state.
    pub state: QpState,
    /// In SQD, requests are still being executed.
    pub draining: bool,
    /// Remote rights.
    pub access: Access,
    /// Partition key index.
    pub pkey_index: u16,
    /// Port.
    pub port: u8,
    /// The peer's address.
    pub ah: AhAttr,
    /// Path MTU code.
    pub path_mtu: u32,
    /// Local ack timeout.
    pub timeout: u8,
    /// Retries.
    pub retry_cnt: u8,
    /// Receiver-not-ready retries.
    pub rnr_retry: u8,
    /// First PSN expected.
    pub rq_psn: u32,
    /// READs and atomics outstanding as requester.
    pub max_rd_atomic: u8,
    /// Minimum receiver-not-ready timer code.
    pub min_rnr_timer: u8,
    /// First PSN sent.
    pub sq_psn: u32,
    /// READs and atomics accepted as responder.
    pub max_dest_rd_atomic: u8,
    /// The peer's QP number.
    pub dest_qpn: u32,
    /// Queue sizes.
    pub cap: QpCap,
}

/// A 128-bit port address: an IPv6 address, or an IPv4-mapped one.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Gid(pub [u8; 16]);

impl Gid {
    /// An empty place of a table.
    pub const ZERO: Gid = Gid([0; 16]);

    /// The IP address it stands for; IPv4-mapped ones come out as IPv4.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        std::net::Ipv6Addr::from(self.0).to_canonical()
    }
}

impl From<IpAddr> for Gid {
    fn from(ip: IpAddr) -> Self {
        Gid(match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        })
    }
}

/// What went wrong asynchronously; ibv_get_async_event(3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AsyncEvent {
    /// A completion queue overflowed and is dead.
    CqErr(Cookie),
    /// A completion queue of the QP is dead, and so is the QP.
    QpFatal(Cookie),
    /// The peer sent a malformed or unsupported request.
    QpReqErr(Cookie),
    /// The peer asked for memory it may not touch.
    QpAccessErr(Cookie),
    /// The send queue has drained (SQD).
    SqDrained(Cookie),
    /// The link came up; port number.
    PortActive(u8),
    /// The link went down; port number.
    PortErr(u8),
    /// The port's GID table changed; port number.
    GidChange(u8),
}

/// What is to be done with pages of on-demand regions before a request touches them; ibv_advise_mr(3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Advice {
    /// Have them mapped.
    Prefetch,
    /// Have them mapped for writing.
    PrefetchWrite,
    /// Take notice of those that are mapped: nothing, here.
    PrefetchNoFault,
}

/// An opaque word that the creator of an object gets back in its events (libshim: the C object's address).
pub type Cookie = usize;

/// Why a verb failed. It has then done nothing.
#[derive(Debug)]
pub enum Error {
    /// An environment variable makes no sense (EINVAL).
    Config(&'static crate::config::ConfigError),
    /// An argument makes no sense; says which (EINVAL).
    Invalid(&'static str),
    /// A state does not allow the call, or a limit is exceeded; says which (EINVAL).
    State(&'static str),
    /// Not enough memory or queue room (ENOMEM).
    NoMemory,
    /// dmverbs does not do this (EOPNOTSUPP).
    NotSupported,
    /// Others still use the object (EBUSY).
    Busy,
    /// The memory is not mapped with these rights (EFAULT).
    Fault,
    /// A system call failed.
    Io(std::io::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Config(e) => e.fmt(f),
            Error::Invalid(what) | Error::State(what) => f.write_str(what),
            Error::NoMemory => f.write_str("no room left"),
            Error::NotSupported => f.write_str("not supported"),
            Error::Busy => f.write_str("still in use"),
            Error::Fault => f.write_str("memory is not mapped with these rights"),
            Error::Io(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<&'static crate::config::ConfigError> for Error {
    fn from(e: &'static crate::config::ConfigError) -> Self {
        Error::Config(e)
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error::Io(e)
    }
}
