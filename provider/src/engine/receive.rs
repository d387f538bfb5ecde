//! The receiving half of a connection: bytes from the stream into frames, and payload into its place.
//!
//! Headers and small payloads are read into a staging area shared by all connections; the rest of a large payload is
//! read directly into its place, together with the next header. Nothing is read that has no destination.

use std::io;
use std::sync::Arc;

use dmverbs_proto::{
    Access, AtomicOp, Destination, Fatal, Flags, Frame, HEADER_LEN, IN_BAND, Incoming, LANE, MAX_CHUNK, MAX_HEADER_LEN,
    Op, Refusal, Status,
};

use super::conn::{Answer, Conn, Inner, RECEIVES};
use super::lane::{LaneIn, on_device};
use crate::mem::{self, AccessError, Copier, Device, Kind, Piece as Copy, Region, Span};
use crate::sys::devmem::{Landing, Piece};
use crate::sys::socket::{self, Iov};
use crate::transport::Receiver;

/// Where bytes are read to before it is known what they are, [`STAGED`] at most. They begin at a page: the kernel
/// copies to other addresses at half the speed. Before them is room for the front of a header.
#[derive(Debug)]
pub(super) struct Staging {
    bytes: Vec<u8>,
    /// For what lanes bring.
    lanes: Option<Landing>,
}

impl Staging {
    pub(super) fn new() -> Staging {
        Staging { bytes: vec![0; FRONT + PAGE + STAGED], lanes: None }
    }

    /// [`FRONT`] bytes, and those that begin at a page.
    fn bytes(&mut self) -> &mut [u8] {
        let before = self.bytes.as_ptr().wrapping_add(FRONT).align_offset(PAGE);
        &mut self.bytes[before..before + FRONT + STAGED]
    }

    /// Where what a lane brings beside the memory of its device goes.
    pub(super) fn lane(&mut self) -> &mut Landing {
        self.lanes.get_or_insert_with(|| Landing::new(MAX_CHUNK as usize))
    }
}

const STAGED: usize = 64 << 10;
const FRONT: usize = MAX_HEADER_LEN;
const PAGE: usize = 4096;
/// Payload that is still to come is read directly into its place if it is larger than this.
const DIRECT_MIN: usize = 16 << 10;
/// What is read behind a direct payload: the next header.
const DIRECT_TAIL: usize = HEADER_LEN;

/// What is half received.
#[derive(Debug)]
pub(super) struct Inbox {
    /// The front of a header.
    partial: [u8; MAX_HEADER_LEN],
    partial_len: usize,
    placing: Option<Placing>,
    /// What was read behind a frame whose payload is still to come by its lane.
    held: Vec<u8>,
    /// The last payload was a large one. The next will be too: only up to its header is read, so that it can be read
    /// directly into its place.
    large: bool,
    /// The QP has failed: what still comes is read and dropped, so that our last words are not lost to a reset.
    discard: bool,
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox {
            partial: [0; MAX_HEADER_LEN],
            partial_len: 0,
            placing: None,
            held: Vec::new(),
            large: false,
            discard: false,
        }
    }
}

/// Payload on its way into memory.
#[derive(Debug)]
struct Placing {
    to: Place,
    /// Bytes placed and bytes to come of this frame.
    done: u32,
    left: u32,
    /// It comes on the lane.
    by_lane: bool,
    invalidates: Option<u32>,
}

impl Inbox {
    /// Payload of the current frame that is still to come.
    pub(super) fn awaited(&self) -> usize {
        self.placing.as_ref().map_or(0, |placing| placing.left as usize)
    }

    /// Whether frames have been read that can be looked at now.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty() && !self.waits_for_lane()
    }

    /// Lets go of a region that is no longer live: what still comes for it is refused.
    pub(super) fn forget_revoked(&mut self) {
        if let Some(Placing { to: Place::Memory(span), .. }) = &mut self.placing
            && !span.is_live()
        {
            *span = Span::empty();
        }
    }

    /// Whether a frame that waits for its payload on the lane has another such one behind it.
    fn is_followed(&self) -> bool {
        let next = || Frame::decode(&self.held).ok().flatten();
        self.waits_for_lane() && next().is_some_and(|(frame, _)| frame.lane == LANE)
    }

    pub(super) fn waits_for_lane(&self) -> bool {
        self.placing.as_ref().is_some_and(|placing| placing.by_lane)
    }
}

#[derive(Debug)]
enum Place {
    Memory(Span),
    Receive {
        slot: u32,
        offset: u32,
    },
    Response {
        slot: u32,
        offset: u32,
    },
    /// It stays where it comes; the device that it is for, if it is for one, and whether it ends its message.
    Message {
        device: Option<Kind>,
        ends: bool,
    },
}

/// What one read brought.
#[derive(Clone, Copy, Debug)]
pub(super) enum Received {
    /// Nothing is there.
    Nothing,
    /// Some bytes; `drained` if that was all.
    Some { drained: bool },
    /// The peer has closed the stream.
    End,
}

impl Inner {
    /// Tells the engine whether more has been announced than waits for its payload; before the stream has been looked at,
    /// it may have.
    pub(super) fn mind_followed(&mut self, unseen: bool) {
        let followed = self.link.as_ref().is_some_and(|link| link.inbox.is_followed());
        self.engine.set_followed(unseen || followed);
    }

    fn waits_for_lane(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.inbox.waits_for_lane())
    }
}

impl Conn {
    /// Reads once and handles what came.
    pub(super) fn receive(
        self: &Arc<Self>,
        inner: &mut Inner,
        staging: &mut Staging,
        iovs: &mut Vec<Iov>,
    ) -> io::Result<Received> {
        let waited = inner.waits_for_lane();
        let received = self.read(inner, staging, iovs)?;
        let ended = waited && !inner.waits_for_lane();
        inner.mind_followed(ended);
        Ok(received)
    }

    fn read(self: &Arc<Self>, inner: &mut Inner, staging: &mut Staging, iovs: &mut Vec<Iov>) -> io::Result<Received> {
        let Inner { engine, link, sends, receives, messages, traffic, .. } = inner;
        let Some(link) = link else { return Ok(Received::Nothing) };
        let inbox = &mut link.inbox;
        if engine.has_failed() {
            inbox.discard = true;
            messages.abandon();
            link.stream.set_deaf(false, self.progress.epoll(), self.token())?;
            if let Some(lane) = &mut link.lane_in {
                lane.discard(staging.lane(), traffic);
            }
        }
        if !inbox.discard {
            if inbox.waits_for_lane() {
                return self.receive_lane(inner, staging.lane());
            }
            if !inbox.held.is_empty() {
                let held = std::mem::take(&mut inbox.held);
                self.parse_all(inner, &held);
                return Ok(Received::Some { drained: false });
            }
        }
        let mut direct = 0;
        let mut kept = 0;
        if let (Some(placing), false) = (&inbox.placing, inbox.discard)
            && placing.left as usize > DIRECT_MIN
        {
            let ok = match &placing.to {
                Place::Memory(span) => span.iov(placing.done as usize, placing.left as usize).map(|iov| iovs.push(iov)),
                Place::Receive { slot, offset } => {
                    receives.iovs(*slot as usize, *offset + placing.done, placing.left, |iov| iovs.push(iov))
                }
                Place::Response { slot, offset } => {
                    sends.iovs(*slot as usize, *offset + placing.done, placing.left, |iov| iovs.push(iov))
                }
                Place::Message { .. } => None,
            };
            // A place that cannot be read into directly is filled from the staging area.
            if ok.is_some() {
                direct = placing.left as usize;
            } else {
                iovs.clear();
            }
        }
        let bytes = staging.bytes();
        let room = if direct > 0 {
            DIRECT_TAIL
        } else {
            kept = inbox.partial_len;
            bytes[FRONT - kept..FRONT].copy_from_slice(&inbox.partial[..kept]);
            let left = inbox.placing.as_ref().map_or(0, |placing| placing.left as usize);
            if inbox.large { (left + DIRECT_TAIL).min(STAGED) } else { STAGED }
        };
        let n = match socket::recv_vectored(link.stream.rx(), iovs, &mut bytes[FRONT..FRONT + room]) {
            Ok(0) => return Ok(Received::End),
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(Received::Nothing);
            }
            // The program has taken away what it had registered; nothing is read.
            Err(e) if e.raw_os_error() == Some(libc::EFAULT) && direct > 0 => {
                self.misplaced(inner);
                return Ok(Received::Some { drained: false });
            }
            Err(e) => return Err(e),
        };
        let drained = n < direct + room;
        if inbox.discard {
            return Ok(Received::Some { drained });
        }
        inbox.partial_len = 0;
        engine.on_moved();
        let placed = n.min(direct);
        inner.traffic.received += placed as u64;
        if placed > 0 && !self.advance(inner, placed) {
            return Ok(Received::Some { drained });
        }
        self.parse_all(inner, &bytes[FRONT - kept..FRONT + n - placed]);
        // What is held back goes on when the lane has brought what it waits for.
        Ok(Received::Some { drained: drained && !inner.link.as_ref().is_some_and(|link| link.inbox.waits_for_lane()) })
    }

    fn parse_all(self: &Arc<Self>, inner: &mut Inner, bytes: &[u8]) {
        if let Err(fatal) = self.parse(inner, bytes) {
            self.break_off(inner, &fatal.to_string());
        }
    }

    /// Handles staged bytes: payload of the current frame, then frames.
    #[inline]
    fn parse(self: &Arc<Self>, inner: &mut Inner, mut bytes: &[u8]) -> Result<(), Fatal> {
        let mut frame = Frame::new(Op::Ack);
        while !bytes.is_empty() {
            let Some(link) = &mut inner.link else { return Ok(()) };
            if link.inbox.discard {
                return Ok(());
            }
            if link.inbox.waits_for_lane() {
                link.inbox.held = bytes.to_vec();
                return Ok(());
            }
            if let Some(placing) = &link.inbox.placing {
                let n = bytes.len().min(placing.left as usize);
                inner.traffic.received += n as u64;
                if !self.place(inner, &bytes[..n]) || !self.advance(inner, n) {
                    return Ok(());
                }
                bytes = &bytes[n..];
                continue;
            }
            match frame.read(bytes)? {
                Some(len) => {
                    bytes = &bytes[len..];
                    bytes = &bytes[self.on_frame(inner, &frame, bytes)?..];
                }
                None => {
                    link.inbox.partial[..bytes.len()].copy_from_slice(bytes);
                    link.inbox.partial_len = bytes.len();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Handles a frame; `behind` it are these bytes. Gives how many of them were payload and are in their place.
    #[inline]
    fn on_frame(self: &Arc<Self>, inner: &mut Inner, frame: &Frame, behind: &[u8]) -> Result<usize, Fatal> {
        match inner.engine.on_frame(frame)? {
            Incoming::Done => {
                if inner.engine.has_failed() {
                    self.discard(inner);
                }
            }
            Incoming::Payload(destination) => {
                if frame.lane == IN_BAND
                    && frame.len > 0
                    && !frame.flags.contains(Flags::INV)
                    && let Some(payload) = behind.get(..frame.len as usize)
                    && self.put(inner, &destination, payload)
                {
                    inner.traffic.received += payload.len() as u64;
                    if let Some(link) = &mut inner.link {
                        link.inbox.large = payload.len() > DIRECT_MIN;
                    }
                    inner.engine.on_payload();
                    return Ok(payload.len());
                }
                let to = match destination {
                    Destination::Memory { addr, rkey, covers } => {
                        match self.target(inner, rkey, addr, covers, Access::REMOTE_WRITE) {
                            Ok(span) => {
                                if let (Some((device, _)), true) = (on_device(span.region()), frame.lane == IN_BAND) {
                                    self.want_lane(inner, device, rkey);
                                }
                                Place::Memory(span)
                            }
                            Err(refusal) => {
                                self.turn_down(inner, refusal);
                                return Ok(0);
                            }
                        }
                    }
                    Destination::Receive { slot, offset } => {
                        let in_place = inner.receives.in_place(slot as usize);
                        let (id, region) = (in_place.map(|(id, _)| id), in_place.map(|(_, region)| region));
                        let device = on_device(region.or(inner.receives.region(slot as usize))).map(|(kind, _)| kind);
                        if let (Some(device), true) = (device, frame.lane == IN_BAND) {
                            self.want_lane(inner, device, RECEIVES);
                        }
                        if let Some(id) = id {
                            if offset == 0 {
                                inner.messages.begin(id);
                            }
                            Place::Message { device, ends: frame.flags.contains(Flags::LAST) }
                        } else {
                            Place::Receive { slot, offset }
                        }
                    }
                    Destination::Response { slot, offset } => Place::Response { slot, offset },
                };
                let invalidates = frame.flags.contains(Flags::INV).then_some(frame.imm);
                let by_lane = frame.lane == LANE;
                if let Some(link) = &mut inner.link {
                    if by_lane && !link.lane_in.as_ref().is_some_and(LaneIn::is_ready) {
                        return Err(Fatal::Sequence("sends on a lane that is not there"));
                    }
                    link.inbox.large = !by_lane && frame.len as usize > DIRECT_MIN;
                    link.inbox.placing = Some(Placing { to, done: 0, left: frame.len, by_lane, invalidates });
                }
                if by_lane {
                    self.hear_lane(inner);
                }
                if frame.len == 0 {
                    self.advance(inner, 0);
                }
            }
            Incoming::Note(note) => self.on_note(inner, note),
            Incoming::Read { slot, addr, rkey, len, lane } => {
                if let Err(refusal) = self.take_read(inner, slot as usize, (addr, rkey, len), lane) {
                    self.turn_down(inner, refusal);
                } else {
                    inner.engine.on_read(len);
                }
            }
            Incoming::Atomic { op, addr, rkey } => {
                let before = self.target(inner, rkey, addr, 8, Access::REMOTE_ATOMIC).and_then(|span| {
                    let before = match op {
                        AtomicOp::CompareSwap { compare, swap } => span.compare_swap(0, compare, swap),
                        AtomicOp::FetchAdd { add } => span.fetch_add(0, add),
                    };
                    before.map_err(refusal)
                });
                match before {
                    Ok(before) => inner.engine.on_atomic(before),
                    Err(refusal) => self.turn_down(inner, refusal),
                }
            }
            Incoming::AtomicResult { slot, before } => {
                if inner.sends.copy_in(slot as usize, 0, &before.to_ne_bytes()).is_err() {
                    inner.engine.fault(Status::LocProt);
                    self.discard(inner);
                }
            }
            Incoming::Refused(refusal) => self.turn_down(inner, refusal),
        }
        Ok(0)
    }

    /// Puts all payload of a frame into its place, if that is in host memory. False if it is not, or if that fails: what
    /// is done by parts finds out why.
    #[inline]
    fn put(&self, inner: &mut Inner, destination: &Destination, payload: &[u8]) -> bool {
        match *destination {
            Destination::Memory { addr, rkey, covers } => {
                let put = |named| mem::put(named, rkey, addr, u64::from(covers), self.pd.id(), payload);
                inner.access.contains(Access::REMOTE_WRITE) && put(&mut inner.named).unwrap_or(false)
            }
            Destination::Receive { slot, offset } => {
                let (receives, slot) = (&inner.receives, slot as usize);
                receives.in_place(slot).is_none()
                    && !is_device(receives.region(slot))
                    && receives.copy_in(slot, offset, payload).is_ok()
            }
            Destination::Response { slot, offset } => {
                let (sends, slot) = (&inner.sends, slot as usize);
                !is_device(sends.region(slot)) && sends.copy_in(slot, offset, payload).is_ok()
            }
        }
    }

    /// Memory that the peer names. An operation that the QP does not allow is an invalid request, whatever its key;
    /// the rest is a matter of key, range and rights.
    fn target(&self, inner: &mut Inner, rkey: u32, addr: u64, len: u32, need: Access) -> Result<Span, Refusal> {
        if !inner.access.contains(need) {
            return Err(Refusal::Invalid);
        }
        let target = mem::target(&mut inner.named, rkey, addr, u64::from(len), need, self.pd.id());
        target.map_err(refusal)
    }

    /// Notes memory that the peer wants to read.
    fn take_read(
        &self,
        inner: &mut Inner,
        slot: usize,
        (addr, rkey, len): (u64, u32, u32),
        by_lane: bool,
    ) -> Result<(), Refusal> {
        if !inner.access.contains(Access::REMOTE_READ) {
            return Err(Refusal::Invalid);
        }
        if inner.reads.len() <= slot {
            inner.reads.resize_with(slot + 1, || None);
        }
        let answer = inner.reads[slot].get_or_insert_with(|| Answer { memory: Span::empty(), by_lane });
        answer.by_lane = by_lane;
        let (span, named) = (&mut answer.memory, &mut inner.named);
        mem::retarget(span, named, rkey, addr, len.into(), Access::REMOTE_READ, self.pd.id()).map_err(refusal)
    }

    /// Copies staged payload into its place. False if the place is gone: the request is refused.
    fn place(self: &Arc<Self>, inner: &mut Inner, bytes: &[u8]) -> bool {
        let Inner { link, sends, receives, messages, traffic, .. } = inner;
        let Some(Placing { to, done, .. }) = link.as_ref().and_then(|link| link.inbox.placing.as_ref()) else {
            return false;
        };
        let of_device = match to {
            Place::Memory(span) => is_device(span.region()),
            Place::Receive { slot, .. } => is_device(receives.region(*slot as usize)),
            Place::Response { slot, .. } => is_device(sends.region(*slot as usize)),
            Place::Message { device, .. } => device.is_some(),
        };
        if of_device {
            traffic.staged_received += bytes.len() as u64;
        }
        let result = match to {
            Place::Memory(span) => span.copy_in(*done as usize, bytes),
            Place::Receive { slot, offset } => receives.copy_in(*slot as usize, offset + done, bytes),
            Place::Response { slot, offset } => sends.copy_in(*slot as usize, offset + done, bytes),
            Place::Message { .. } => messages.add_host(bytes),
        };
        if result.is_err() {
            self.misplaced(inner);
        }
        result.is_ok()
    }

    /// Puts what a lane has brought into its place, in the order of the stream: copies between devices go to their
    /// engine together. Pieces that stay where they are are no longer of the landing then. False if the place is gone.
    pub(super) fn place_pieces(
        self: &Arc<Self>,
        inner: &mut Inner,
        receiver: &Arc<Receiver>,
        landing: &mut Landing,
    ) -> bool {
        let (from, binding) = receiver.memory();
        if landing.strays(binding) {
            tracing::error!(qpn = self.qpn, "a lane has brought what is in the memory of another queue");
            self.misplaced(inner);
            return false;
        }
        let to = inner.link.as_ref().and_then(|link| link.inbox.placing.as_ref()).map(|placing| &placing.to);
        if let Some(&Place::Message { device, .. }) = to {
            let kept = self.keep_pieces(inner, device, receiver, landing);
            if kept.is_err() {
                self.misplaced(inner);
            }
            return kept.is_ok();
        }
        let mut copies = Copies { from, pieces: Vec::new(), to: None, by_engine: 0, by_cpu: 0 };
        let placed = self.copy_pieces(inner, landing, &mut copies);
        inner.traffic.engine_copied += copies.by_engine;
        inner.traffic.host_copied += copies.by_cpu;
        if placed.is_err() {
            self.misplaced(inner);
        }
        placed.is_ok()
    }

    fn copy_pieces(&self, inner: &mut Inner, landing: &Landing, copies: &mut Copies<'_>) -> Result<(), AccessError> {
        let (mut host, mut done) = (0, 0);
        for piece in &landing.pieces {
            done += match *piece {
                Piece::Device { at, len, .. } => {
                    inner.traffic.device_received += u64::from(len);
                    self.spans(inner, done, len, |span, offset, skip, n| copies.add(span, offset, at + skip, n))?;
                    len
                }
                Piece::Host { len } => {
                    inner.traffic.linear_received += u64::from(len);
                    let bytes = &landing.bytes()[host as usize..(host + len) as usize];
                    host += len;
                    copies.run()?;
                    let copy_in =
                        |span: &Span, offset, skip: u64, n| span.copy_in(offset, &bytes[skip as usize..][..n]);
                    self.spans(inner, done, len, copy_in)?;
                    len
                }
            };
        }
        copies.run()
    }

    /// Calls `each` for the spans, and their offsets, that `len` bytes of payload from `offset` behind what is already in
    /// place belong to; also with what came before in these `len`, and the bytes that belong there.
    fn spans(
        &self,
        inner: &Inner,
        offset: u32,
        len: u32,
        mut each: impl FnMut(&Span, usize, u64, usize) -> Result<(), AccessError>,
    ) -> Result<(), AccessError> {
        let Some(Placing { to, done, .. }) = inner.link.as_ref().and_then(|link| link.inbox.placing.as_ref()) else {
            return Err(AccessError::OutOfRange);
        };
        let mut skip = 0;
        let part = |span: &Span, at: usize, n: usize| {
            let before = skip;
            skip += n as u64;
            each(span, at, before, n)
        };
        match to {
            Place::Memory(span) => {
                let mut part = part;
                part(span, (done + offset) as usize, len as usize)
            }
            Place::Receive { slot, offset: base } => {
                inner.receives.parts(*slot as usize, base + done + offset, len, part)
            }
            Place::Response { slot, offset: base } => {
                inner.sends.parts(*slot as usize, base + done + offset, len, part)
            }
            Place::Message { .. } => Err(AccessError::OutOfRange),
        }
    }

    /// The place of the current payload is gone: the request, ours or the peer's, fails.
    fn misplaced(self: &Arc<Self>, inner: &mut Inner) {
        let to = inner.link.as_ref().and_then(|link| link.inbox.placing.as_ref()).map(|placing| &placing.to);
        match to {
            Some(Place::Memory(_)) => self.turn_down(inner, Refusal::Access),
            Some(Place::Receive { .. } | Place::Message { .. }) => self.turn_down(inner, Refusal::Local),
            Some(Place::Response { .. }) => {
                inner.engine.fault(Status::LocProt);
                self.discard(inner);
            }
            None => {}
        }
    }

    /// `n` more bytes of payload are in place. False if the connection has failed.
    #[inline]
    pub(super) fn advance(self: &Arc<Self>, inner: &mut Inner, n: usize) -> bool {
        let Some(placing) = inner.link.as_mut().and_then(|link| link.inbox.placing.as_mut()) else { return false };
        placing.done += n as u32;
        placing.left -= n as u32;
        if placing.left > 0 {
            return true;
        }
        if let Some(key) = placing.invalidates
            && !Conn::invalidate(self.pd.id(), key)
        {
            self.turn_down(inner, Refusal::Access);
            return false;
        }
        let ends_message = matches!(placing.to, Place::Message { ends: true, .. });
        if let Some(link) = &mut inner.link {
            link.inbox.placing = None;
        }
        if ends_message {
            inner.messages.finish();
        }
        inner.engine.on_payload();
        true
    }

    fn turn_down(self: &Arc<Self>, inner: &mut Inner, refusal: Refusal) {
        self.refuse(inner, refusal);
        self.discard(inner);
    }

    fn discard(&self, inner: &mut Inner) {
        if let Some(link) = &mut inner.link {
            link.inbox.discard = true;
            link.inbox.placing = None;
            link.inbox.held = Vec::new();
        }
        inner.messages.abandon();
    }
}

/// Copies from the memory that a NIC has filled, which wait for more of their kind.
struct Copies<'a> {
    from: &'a dyn Device,
    pieces: Vec<Copy>,
    /// Whose memory they all go to.
    to: Option<Arc<Region>>,
    /// Bytes copied, and by whom.
    by_engine: u64,
    by_cpu: u64,
}

impl Copies<'_> {
    /// `n` bytes at `at` go to `offset` of `span`.
    fn add(&mut self, span: &Span, offset: usize, at: u64, n: usize) -> Result<(), AccessError> {
        let Some((region, dst)) = span.on_device(offset, n) else {
            self.run()?;
            let mut bytes = Vec::with_capacity(n);
            self.from.read(at, n, &mut bytes).map_err(|_| AccessError::Fault)?;
            self.by_cpu += n as u64;
            return span.copy_in(offset, &bytes);
        };
        if !self.to.as_ref().is_some_and(|to| Arc::ptr_eq(to, region)) {
            self.run()?;
            self.to = Some(region.clone());
        }
        match self.pieces.last_mut() {
            Some(last) if (last.src + last.len, last.dst + last.len) == (at, dst) => last.len += n as u64,
            _ => self.pieces.push(Copy { src: at, dst, len: n as u64 }),
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), AccessError> {
        let Some(to) = self.to.take() else { return Ok(()) };
        let device = to.device().filter(|_| to.is_live()).ok_or(AccessError::NoKey)?;
        let copier = device.gather(self.from, &self.pieces).map_err(|e| {
            tracing::error!(error = %e, "the memory of a device cannot be copied");
            AccessError::Fault
        });
        let bytes: u64 = self.pieces.drain(..).map(|piece| piece.len).sum();
        match copier? {
            Copier::Engine => self.by_engine += bytes,
            Copier::Cpu => self.by_cpu += bytes,
        }
        Ok(())
    }
}

fn is_device(region: Option<&Arc<Region>>) -> bool {
    region.is_some_and(|region| region.is_dmabuf())
}

/// What the peer hears of memory that it may not touch.
fn refusal(error: AccessError) -> Refusal {
    match error {
        AccessError::Unaligned => Refusal::Invalid,
        AccessError::Denied | AccessError::Fault | AccessError::NoKey | AccessError::OutOfRange => Refusal::Access,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_lane_brings_next_follows_a_frame_that_waits_for_it() {
        let frame = |op, lane| {
            let (bytes, len) = Frame { lane, len: u32::from(lane), ..Frame::new(op) }.encode();
            bytes[..len].to_vec()
        };
        let (announced, in_band, ack) = (frame(Op::Write, LANE), frame(Op::Write, IN_BAND), frame(Op::Ack, IN_BAND));
        let followed = |by_lane, held: &[&[u8]]| {
            let to = Place::Memory(Span::empty());
            let placing = Some(Placing { to, done: 0, left: 1, by_lane, invalidates: None });
            Inbox { placing, held: held.concat(), ..Inbox::default() }.is_followed()
        };
        assert!(followed(true, &[&announced]));
        assert!(followed(true, &[&announced, &ack]));
        assert!(!followed(false, &[&announced]));
        assert!(!followed(true, &[]));
        assert!(!followed(true, &[&announced[..HEADER_LEN - 1]]));
        assert!(!followed(true, &[&in_band]));
        assert!(!followed(true, &[&ack, &announced]));
    }
}
