//! The sending half of a connection: frames of the engine into a batch for the socket.

use dmverbs_proto::{Frame, Source, SourceGone, Transmit};

use super::conn::Conn;
use crate::mem::{PdId, SlotRing, Span};
use crate::transport::{Batch, COPY_MAX};

/// Fills a batch with what the engine wants to send.
pub(super) struct Filler<'a> {
    pub(super) batch: &'a mut Batch,
    pub(super) sends: &'a SlotRing,
    pub(super) reads: &'a [Option<Span>],
    pub(super) pd: PdId,
}

impl Transmit for Filler<'_> {
    #[inline]
    fn frame(&mut self, frame: &Frame, source: Source) -> Result<(), SourceGone> {
        let len = frame.len as usize;
        let mark = self.batch.mark();
        match source {
            Source::None => self.batch.header(frame),
            Source::Request { slot, offset } => {
                let slot = slot as usize;
                if len <= COPY_MAX || self.sends.must_copy(slot) {
                    self.batch.header(frame);
                    if self.sends.copy_out(slot, offset, frame.len, self.batch.stage()).is_err() {
                        self.batch.unwind(mark);
                        return Err(SourceGone);
                    }
                } else {
                    self.batch.header(frame);
                    self.batch.seal();
                    let batch = &mut *self.batch;
                    let there = self.sends.iovs(slot, offset, frame.len, |iov| batch.memory(iov));
                    return there.ok_or(SourceGone);
                }
            }
            Source::Response { slot, offset } => {
                let span = self
                    .reads
                    .get(slot as usize)
                    .and_then(Option::as_ref)
                    .filter(|span| span.is_live())
                    .ok_or(SourceGone)?;
                self.batch.header(frame);
                match span.iov(offset as usize, len) {
                    Some(iov) if len > COPY_MAX => {
                        self.batch.seal();
                        if let Some(region) = span.region() {
                            self.batch.borrow(region);
                        }
                        self.batch.memory(iov);
                        return Ok(());
                    }
                    _ => {
                        if span.copy_out(offset as usize, len, self.batch.stage()).is_err() {
                            self.batch.unwind(mark);
                            return Err(SourceGone);
                        }
                    }
                }
            }
        }
        self.batch.seal();
        Ok(())
    }

    fn room(&self) -> bool {
        self.batch.has_room()
    }

    fn invalidate(&mut self, key: u32) -> bool {
        Conn::invalidate(self.pd, key)
    }
}

/// Takes nothing: there is no stream.
pub(super) struct Nowhere;

impl Transmit for Nowhere {
    fn frame(&mut self, _: &Frame, _: Source) -> Result<(), SourceGone> {
        Err(SourceGone)
    }

    fn room(&self) -> bool {
        false
    }

    fn invalidate(&mut self, _: u32) -> bool {
        false
    }
}
