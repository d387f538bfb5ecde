//! The sending half of a connection: frames of the engine into a batch for the sockets.

use dmverbs_proto::{Flags, Frame, Handed, LANE, Op, Source, SourceGone, Transmit};

use super::conn::{Answer, Conn};
use super::lane::LaneOut;
use crate::mem::{AccessError, PdId, SlotRing, Span};
use crate::object::Traffic;
use crate::transport::{Batch, Bindings, COPY_MAX, OnDevice, Queue};

/// Fills a batch with what the engine wants to send.
pub(super) struct Filler<'a> {
    pub(super) batch: &'a mut Batch,
    pub(super) sends: &'a SlotRing,
    pub(super) reads: &'a [Option<Answer>],
    pub(super) traffic: &'a mut Traffic,
    pub(super) pd: PdId,
    /// The lane to the peer.
    pub(super) lane: Option<&'a LaneOut>,
    /// There is a lane from the peer, too.
    pub(super) answers_by_lane: bool,
    /// What of devices' memory may be sent without the host, by this interface; nothing within the process.
    pub(super) bindings: Option<&'a Bindings>,
    pub(super) ifindex: u32,
    /// Memory that the peer reads was no longer there.
    pub(super) gone: &'a mut bool,
}

impl Transmit for Filler<'_> {
    #[inline]
    fn frame(&mut self, mut frame: Frame, source: Source) -> Result<Handed, SourceGone> {
        match source {
            Source::None => self.batch.control.header(&frame),
            Source::Request { slot, offset } => {
                if frame.op == Op::Read
                    && self.answers_by_lane
                    && self.sends.region(slot as usize).is_some_and(|r| r.is_dmabuf())
                {
                    frame.flags |= Flags::LANE;
                }
                if self.lane.is_some_and(|lane| lane.takes(&frame)) {
                    frame.lane = LANE;
                }
                return self.request(&frame, slot, offset);
            }
            Source::Response { slot, offset } => {
                let answer = self.reads.get(slot as usize).and_then(Option::as_ref);
                let answer = answer.filter(|answer| answer.memory.is_live()).ok_or(SourceGone);
                let sent = answer.and_then(|Answer { memory, by_lane }| {
                    if *by_lane && self.lane.is_some_and(LaneOut::is_ready) {
                        frame.lane = LANE;
                    }
                    self.response(&frame, memory, offset)
                });
                *self.gone |= sent.is_err();
                return sent;
            }
        }
        self.batch.control.seal();
        Ok(Handed::Over)
    }

    fn room(&self) -> bool {
        self.batch.has_room()
    }

    fn invalidate(&mut self, key: u32) -> bool {
        Conn::invalidate(self.pd, key)
    }
}

impl Filler<'_> {
    /// A frame of the request in `slot`, with its payload from `offset` on.
    #[inline]
    fn request(&mut self, frame: &Frame, slot: u32, offset: u32) -> Result<Handed, SourceGone> {
        let (mark, counted) = (self.batch.mark(), self.traffic.sending());
        self.traffic.sent += u64::from(frame.len);
        let queue = self.batch.announce(frame);
        let index = slot as usize;
        let put = if self.sends.is_list(index) || self.sends.region(index).is_some_and(|region| region.is_dmabuf()) {
            let mut handed = Handed::Over;
            let (bindings, ifindex, traffic) = (self.bindings, self.ifindex, &mut *self.traffic);
            self.sends
                .parts(index, offset, frame.len, |span, offset, len| {
                    if put_device(queue, span, offset, len, bindings, ifindex, traffic) {
                        handed = Handed::Lent;
                        return Ok(());
                    }
                    put(queue, span, offset, len).map(drop)
                })
                .map(|()| handed)
        } else if frame.len as usize > COPY_MAX && !self.sends.must_copy(index) {
            queue.seal();
            let there = self.sends.iovs(index, offset, frame.len, |iov| queue.memory(iov));
            there.map(|()| Handed::Over).ok_or(AccessError::NoKey)
        } else {
            self.sends.copy_out(index, offset, frame.len, queue.stage()).map(|()| Handed::Over)
        };
        match put {
            Ok(handed) => {
                queue.seal();
                if handed == Handed::Lent {
                    queue.lend(slot);
                }
                Ok(handed)
            }
            Err(_) => {
                self.batch.unwind(mark);
                self.traffic.set_sending(counted);
                Err(SourceGone)
            }
        }
    }

    /// A frame of the answer to a READ of `memory`.
    fn response(&mut self, frame: &Frame, memory: &Span, offset: u32) -> Result<Handed, SourceGone> {
        let (offset, len) = (offset as usize, frame.len as usize);
        let (mark, counted) = (self.batch.mark(), self.traffic.sending());
        let queue = self.batch.announce(frame);
        self.traffic.sent += u64::from(frame.len);
        let on_device = put_device(queue, memory, offset, len, self.bindings, self.ifindex, self.traffic);
        let by_reference = if on_device { Ok(true) } else { put(queue, memory, offset, len) };
        let Ok(by_reference) = by_reference else {
            self.batch.unwind(mark);
            self.traffic.set_sending(counted);
            return Err(SourceGone);
        };
        queue.seal();
        if let Some(region) = memory.region().filter(|_| by_reference) {
            self.batch.borrow(region);
        }
        Ok(Handed::Over)
    }
}

/// Appends payload of a device, if the kernel may send it from there; says whether it did. Who sends what is counted.
fn put_device(
    queue: &mut Queue,
    span: &Span,
    offset: usize,
    len: usize,
    bindings: Option<&Bindings>,
    ifindex: u32,
    traffic: &mut Traffic,
) -> bool {
    let Some((region, at)) = span.on_device(offset, len) else { return false };
    let Some(binding) = bindings.and_then(|bindings| bindings.of(region, ifindex)) else {
        traffic.staged_sent += len as u64;
        return false;
    };
    traffic.device_sent += len as u64;
    queue.seal();
    queue.device(OnDevice { region: region.clone(), binding, at, len, ends: None });
    true
}

/// Appends payload in host memory: by reference, and then it gives true, if it is large and may be read there, else copied.
fn put(queue: &mut Queue, span: &Span, offset: usize, len: usize) -> Result<bool, AccessError> {
    match span.iov(offset, len) {
        Some(iov) if len > COPY_MAX => {
            queue.seal();
            queue.memory(iov);
            Ok(true)
        }
        _ => span.copy_out(offset, len, queue.stage()).map(|()| false),
    }
}

/// Takes nothing: there is no stream.
pub(super) struct Nowhere;

impl Transmit for Nowhere {
    fn frame(&mut self, _: Frame, _: Source) -> Result<Handed, SourceGone> {
        Err(SourceGone)
    }

    fn room(&self) -> bool {
        false
    }

    fn invalidate(&mut self, _: u32) -> bool {
        false
    }
}
