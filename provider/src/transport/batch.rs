//! What goes out in one system call: headers and small payloads copied into one stage, large payloads by reference.

use std::io;
use std::sync::Arc;

use dmverbs_proto::{Frame, MAX_HEADER_LEN};
use parking_lot::Mutex;

use super::Stream;
use crate::mem::Region;
use crate::sys::socket::{self, Iov, Part};

/// Payload up to this size is copied behind its header: cheaper than another element of the I/O vector.
pub(crate) const COPY_MAX: usize = 8 << 10;
/// Bytes of headers and copied payload in one batch.
const STAGE: usize = 256 << 10;
/// Payload bytes in one batch; smaller batches cost system calls, larger ones let acks of the other direction wait.
const BATCH_BYTES: usize = 1 << 20;
/// Elements of an I/O vector that the kernel takes (UIO_MAXIOV), less what one more frame may add.
const SEGMENTS: usize = 1024 - 64;

#[derive(Clone, Copy, Debug)]
enum Segment {
    Stage { from: usize, to: usize },
    Memory(Iov),
}

/// Frames on their way into the socket.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    stage: Vec<u8>,
    segments: Vec<Segment>,
    /// Registered memory that the peer named; it must still be live when its bytes go out.
    borrowed: Vec<Arc<Region>>,
    bytes: usize,
    /// Room for the vector of one system call.
    iovs: Vec<Iov>,
    /// Segments wholly sent, and bytes sent of the next one.
    done: usize,
    skip: usize,
}

/// How far a batch got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Flushed {
    All,
    /// The socket takes no more now.
    Blocked,
    /// Memory that a frame announced has been deregistered; the stream cannot go on.
    Revoked,
}

impl Batch {
    pub(crate) fn has_room(&self) -> bool {
        self.bytes < BATCH_BYTES
            && self.segments.len() < SEGMENTS
            && self.stage.len() + MAX_HEADER_LEN + COPY_MAX <= STAGE
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The stage, to append copied payload to right after [`Batch::header`].
    pub(crate) fn stage(&mut self) -> &mut Vec<u8> {
        &mut self.stage
    }

    /// Where the stage ends now.
    pub(crate) fn mark(&self) -> usize {
        self.stage.len()
    }

    /// Takes back what was appended to the stage since `mark`, and not sealed.
    pub(crate) fn unwind(&mut self, mark: usize) {
        self.stage.truncate(mark);
    }

    /// Appends a frame's header.
    #[inline]
    pub(crate) fn header(&mut self, frame: &Frame) {
        if self.stage.capacity() == 0 {
            self.stage.reserve_exact(STAGE);
        }
        let (bytes, len) = frame.encode();
        self.stage.extend_from_slice(&bytes[..len]);
    }

    /// Closes what was appended to the stage since the last call into a segment.
    #[inline]
    pub(crate) fn seal(&mut self) {
        let to = self.stage.len();
        let from = match self.segments.last_mut() {
            Some(Segment::Stage { to: end, .. }) => {
                self.bytes += to - *end;
                *end = to;
                return;
            }
            _ => self.sealed(),
        };
        self.bytes += to - from;
        self.segments.push(Segment::Stage { from, to });
    }

    fn sealed(&self) -> usize {
        self.segments
            .iter()
            .rev()
            .find_map(|s| match s {
                Segment::Stage { to, .. } => Some(*to),
                Segment::Memory(_) => None,
            })
            .unwrap_or(0)
    }

    /// Appends payload by reference.
    pub(crate) fn memory(&mut self, iov: Iov) {
        self.bytes += iov.len();
        self.segments.push(Segment::Memory(iov));
    }

    /// Notes that `region`, which the peer named, is read when the batch goes out.
    pub(crate) fn borrow(&mut self, region: &Arc<Region>) {
        if !self.borrowed.last().is_some_and(|last| Arc::ptr_eq(last, region)) {
            self.borrowed.push(region.clone());
        }
    }

    /// Sends as much as the socket takes.
    pub(crate) fn flush(&mut self, stream: &Stream) -> io::Result<Flushed> {
        while self.done < self.segments.len() {
            if !self.borrowed.iter().all(|region| region.is_live()) {
                return Ok(Flushed::Revoked);
            }
            let (stage, skip) = (&self.stage, self.skip);
            let parts = self.segments[self.done..].iter().enumerate().map(|(i, segment)| {
                let skip = if i == 0 { skip } else { 0 };
                match *segment {
                    Segment::Stage { from, to } => Part::Bytes(&stage[from + skip..to]),
                    Segment::Memory(iov) => Part::Memory(iov.skip(skip)),
                }
            });
            let (n, all) = match socket::send_vectored(stream.tx(), &mut self.iovs, parts) {
                Ok(sent) => sent,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Flushed::Blocked),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.advance(n);
            if n < all {
                return Ok(Flushed::Blocked);
            }
        }
        Ok(Flushed::All)
    }

    fn advance(&mut self, n: usize) {
        let mut left = n + self.skip;
        while let Some(segment) = self.segments.get(self.done) {
            let len = match segment {
                Segment::Stage { from, to } => to - from,
                Segment::Memory(iov) => iov.len(),
            };
            if left < len {
                break;
            }
            left -= len;
            self.done += 1;
        }
        self.skip = left;
    }

    /// Empties it for reuse.
    pub(crate) fn clear(&mut self) {
        self.stage.clear();
        self.segments.clear();
        self.borrowed.clear();
        (self.bytes, self.done, self.skip) = (0, 0, 0);
    }
}

/// Batches not in use: a QP holds one only while bytes are on their way, so that idle QPs cost little memory.
#[derive(Debug, Default)]
pub(crate) struct BatchPool(Mutex<Vec<Batch>>);

impl BatchPool {
    pub(crate) fn take(&self) -> Batch {
        self.0.lock().pop().unwrap_or_default()
    }

    pub(crate) fn give(&self, mut batch: Batch) {
        /// More than this many batches lie idle only after a burst.
        const KEPT: usize = 16;
        batch.clear();
        let mut pool = self.0.lock();
        if pool.len() < KEPT {
            pool.push(batch);
        }
    }
}
