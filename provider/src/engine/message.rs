//! Messages that stay where they have come (include/dmverbs.h): in the memory of a NIC's queue, or, as far as they came
//! another way, in the host's.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Weak};

use super::conn::{Conn, Inner};
use crate::mem::{AccessError, Kind};
use crate::object::{MessagePiece, Place, Taken, Traffic};
use crate::sys::devmem::{Landing, Piece};
use crate::transport::{HeldBlocks, Intake, Receiver};

/// Those of a QP.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// The one whose frames arrive.
    arriving: Option<Arriving>,
    complete: VecDeque<Message>,
    taken: HashMap<u64, Message>,
    /// What is held of the memory of a queue, the last that brought any.
    own: Option<(Weak<Receiver>, Arc<HeldBlocks>)>,
    /// The handle of the one that was taken last.
    last: u64,
}

/// A message on its way.
#[derive(Debug)]
struct Arriving {
    /// Of its receive.
    id: u64,
    /// Those in host memory count from its begin.
    pieces: Vec<MessagePiece>,
    /// What came in host memory, or was copied there.
    host: Vec<u8>,
    held: Option<Held>,
}

/// A message, and the memory that it is in.
#[derive(Debug)]
struct Message {
    id: u64,
    pieces: Arc<[MessagePiece]>,
    _host: Vec<u8>,
    held: Option<Held>,
}

/// Memory that a NIC's queue lacks for a message, until this is dropped.
#[derive(Debug)]
struct Held {
    receiver: Arc<Receiver>,
    /// All that its QP holds there.
    own: Arc<HeldBlocks>,
    /// The lane by which it came: only through it can the memory be given back.
    lane: Arc<dyn Intake>,
    pieces: Vec<Piece>,
}

impl Messages {
    /// A message for the receive `id` begins.
    pub(super) fn begin(&mut self, id: u64) {
        self.arriving = Some(Arriving { id, pieces: Vec::new(), host: Vec::new(), held: None });
    }

    /// Bytes of the current message that came in host memory.
    pub(super) fn add_host(&mut self, bytes: &[u8]) -> Result<(), AccessError> {
        self.arriving.as_mut().ok_or(AccessError::OutOfRange)?.add_host(bytes)
    }

    /// The current message is complete.
    pub(super) fn finish(&mut self) {
        let Some(Arriving { id, mut pieces, host, held }) = self.arriving.take() else { return };
        let base = host.as_ptr().expose_provenance() as u64;
        for piece in pieces.iter_mut().filter(|piece| piece.place == Place::Host) {
            piece.at += base;
        }
        self.complete.push_back(Message { id, pieces: pieces.into(), _host: host, held });
    }

    /// What is held of this queue's memory.
    fn own(&mut self, receiver: &Arc<Receiver>) -> Arc<HeldBlocks> {
        self.own.take_if(|(of, _)| !std::ptr::eq(of.as_ptr(), Arc::as_ptr(receiver)));
        self.own.get_or_insert_with(|| (Arc::downgrade(receiver), Arc::default())).1.clone()
    }

    /// Gives all memory back. Handles are not given again.
    pub(super) fn clear(&mut self) {
        *self = Messages { last: self.last, ..Messages::default() };
    }

    /// What has come of the current message is of no use: the rest will not come.
    pub(super) fn abandon(&mut self) {
        self.arriving = None;
    }

    /// The oldest that is complete.
    pub(super) fn take(&mut self) -> Option<Taken> {
        let message = self.complete.pop_front()?;
        self.last += 1;
        let taken = Taken {
            id: message.id,
            handle: self.last,
            pieces: message.pieces.clone(),
            dmabuf: message.held.as_ref().and_then(Held::dmabuf),
        };
        self.taken.insert(self.last, message);
        Some(taken)
    }

    /// Gives a message's memory back; false if no such message has been taken.
    pub(super) fn give_back(&mut self, handle: u64, traffic: &mut Traffic) -> bool {
        let Some(message) = self.taken.remove(&handle) else { return false };
        traffic.token_returns += message.held.map_or(0, |mut held| held.give_back());
        true
    }
}

impl Arriving {
    fn add_host(&mut self, bytes: &[u8]) -> Result<(), AccessError> {
        // Nothing stands behind the length that was posted.
        self.host.try_reserve(bytes.len()).map_err(|_| AccessError::Fault)?;
        let at = self.host.len() as u64;
        self.host.extend_from_slice(bytes);
        self.add(Place::Host, at, bytes.len() as u32);
        Ok(())
    }

    fn add(&mut self, place: Place, at: u64, length: u32) {
        match self.pieces.last_mut() {
            Some(last) if last.place == place && last.at + u64::from(last.length) == at => last.length += length,
            _ if length > 0 => self.pieces.push(MessagePiece { at, length, place }),
            _ => {}
        }
    }

    /// Bytes in the memory of a queue, of which its QP holds `own`; false if that cannot be spared, or others of the
    /// message are in that of another.
    fn hold(&mut self, receiver: &Arc<Receiver>, own: &Arc<HeldBlocks>, lane: &Arc<dyn Intake>, piece: Piece) -> bool {
        let Piece::Device { at, len, .. } = piece else { return false };
        if self.held.as_ref().is_some_and(|held| !Arc::ptr_eq(&held.lane, lane)) || !receiver.spare(own, at, len) {
            return false;
        }
        let held = self.held.get_or_insert_with(|| Held {
            receiver: receiver.clone(),
            own: own.clone(),
            lane: lane.clone(),
            pieces: Vec::new(),
        });
        held.pieces.push(piece);
        self.add(Place::Pool, at, len);
        true
    }
}

impl Held {
    fn dmabuf(&self) -> Option<RawFd> {
        Some(self.receiver.memory().0.dmabuf()?.as_raw_fd())
    }

    /// Says in how many calls.
    fn give_back(&mut self) -> u64 {
        let pieces = std::mem::take(&mut self.pieces);
        for piece in &pieces {
            if let Piece::Device { at, len, .. } = *piece {
                self.receiver.recover(&self.own, at, len);
            }
        }
        self.lane.give_back(&pieces).unwrap_or_else(|e| {
            tracing::warn!(error = %e, "the memory of a message does not go back to its queue");
            0
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Conn {
    /// Leaves what a lane has brought of the current message, which is for `device`, where it is, and its pieces out of
    /// those that go back. What is in the memory of another device is copied to the host.
    ///
    /// # Errors
    /// The device's, of what has to be copied.
    pub(super) fn keep_pieces(
        &self,
        inner: &mut Inner,
        device: Option<Kind>,
        receiver: &Arc<Receiver>,
        landing: &mut Landing,
    ) -> Result<(), AccessError> {
        let lane = inner.link.as_ref().and_then(|link| link.lane_in.as_ref()?.stream()).cloned();
        let own = inner.messages.own(receiver);
        let (Some(lane), Some(message)) = (lane, inner.messages.arriving.as_mut()) else {
            return Err(AccessError::OutOfRange);
        };
        let mut host = 0;
        let mut result = Ok(());
        let mut left = Vec::new();
        for &piece in &landing.pieces {
            match piece {
                Piece::Host { len } => {
                    inner.traffic.linear_received += u64::from(len);
                    result = result.and(message.add_host(&landing.bytes()[host..host + len as usize]));
                    host += len as usize;
                }
                Piece::Device { at, len, .. } => {
                    inner.traffic.device_received += u64::from(len);
                    if device == Some(receiver.memory().0.kind()) && message.hold(receiver, &own, &lane, piece) {
                        inner.traffic.in_place_received += u64::from(len);
                        continue;
                    }
                    left.push(piece);
                    // Copied out for memory of a device, or to its place, which is the host's.
                    let traffic = &mut inner.traffic;
                    let copied = if device.is_some() { &mut traffic.staged_received } else { &mut traffic.host_copied };
                    *copied += u64::from(len);
                    let mut bytes = Vec::with_capacity(len as usize);
                    let read = receiver.memory().0.read(at, len as usize, &mut bytes).map_err(|_| AccessError::Fault);
                    result = result.and(read).and_then(|()| message.add_host(&bytes));
                }
            }
        }
        // Also if it has failed: what is held goes back with the message, and nothing twice.
        landing.pieces = left;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_follow_each_other_are_one_piece() {
        let mut messages = Messages::default();
        messages.begin(7);
        messages.add_host(b"one ").unwrap();
        messages.add_host(b"").unwrap();
        messages.add_host(b"piece").unwrap();
        assert!(messages.take().is_none(), "taken before it was complete");
        messages.finish();
        let taken = messages.take().unwrap();
        let host = &messages.taken[&taken.handle]._host;
        assert_eq!(host, b"one piece");
        let piece = MessagePiece { at: host.as_ptr().addr() as u64, length: 9, place: Place::Host };
        assert_eq!((taken.id, taken.dmabuf, &*taken.pieces), (7, None, [piece].as_slice()));
    }

    #[test]
    fn a_message_goes_back_once_and_in_any_order() {
        let (mut messages, mut traffic) = (Messages::default(), Traffic::default());
        for id in 0..3 {
            messages.begin(id);
            messages.finish();
        }
        let handles: Vec<u64> = std::iter::from_fn(|| messages.take()).map(|taken| taken.handle).collect();
        for handle in [handles[2], handles[0], handles[1]] {
            assert!(messages.give_back(handle, &mut traffic));
            assert!(!messages.give_back(handle, &mut traffic));
        }
    }

    #[test]
    fn half_a_message_is_dropped() {
        let mut messages = Messages::default();
        messages.begin(1);
        messages.add_host(b"half").unwrap();
        messages.abandon();
        messages.finish();
        assert!(messages.take().is_none());
        assert_eq!(messages.add_host(b"more"), Err(AccessError::OutOfRange));
    }
}
