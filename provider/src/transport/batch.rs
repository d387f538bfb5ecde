//! What goes out together: headers and small payloads copied into a stage, large payloads by reference, those of device
//! memory without passing through the host.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use dmverbs_proto::{Frame, LANE, MAX_HEADER_LEN};
use parking_lot::Mutex;

use super::notices::Notices;
use super::stream::Wait;
use super::tx::Binding;
use crate::mem::Region;
use crate::sys::cancel::Uncancelled;
use crate::sys::devmem;
use crate::sys::mman;
use crate::sys::socket::{self, Iov, Part};

/// Payload up to this size is copied behind its header: cheaper than another element of the I/O vector.
pub(crate) const COPY_MAX: usize = 8 << 10;
/// Bytes of headers and copied payload in one batch.
const STAGE: usize = 256 << 10;
/// Payload bytes in one batch; smaller batches cost system calls, larger ones let acks of the other direction wait.
const BATCH_BYTES: usize = 1 << 20;
/// Elements of an I/O vector that the kernel takes (UIO_MAXIOV), less what one more frame may add.
const SEGMENTS: usize = 1024 - 64;

#[derive(Clone, Debug)]
enum Segment {
    Stage { from: usize, to: usize },
    Memory(Iov),
    Device(OnDevice),
}

impl Segment {
    fn is_on_device(&self, region: &Region) -> bool {
        matches!(self, Segment::Device(payload) if payload.region.key() == region.key())
    }
}

/// Payload in device memory that is bound for sending.
#[derive(Clone, Debug)]
pub(crate) struct OnDevice {
    pub(crate) region: Arc<Region>,
    pub(crate) binding: Arc<Binding>,
    /// Where in the dma-buf.
    pub(crate) at: u64,
    pub(crate) len: usize,
    /// The request of whose frame this is the last payload of a device: a socket's calls are done with in order.
    pub(crate) ends: Option<u32>,
}

/// When something may go on a lane: when so many bytes have gone on the control stream, which announce it. Otherwise the
/// peer would have to wait for frames that may be held back for long.
type Turn = usize;

/// Bytes on their way into one stream.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    stage: Vec<u8>,
    segments: Vec<(Segment, Turn)>,
    bytes: usize,
    /// Whose turn what is appended has to wait for.
    turn: Turn,
    /// Bytes sent: segments wholly, and bytes of the next one.
    sent: usize,
    done: usize,
    skip: usize,
    /// Bytes of devices that the host had to send, and system calls that sent others.
    counts: (u64, u64),
}

/// How full a batch was, control and lane.
pub(crate) type Mark = [QueueMark; 2];

/// How full a queue was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueMark {
    stage: usize,
    segments: usize,
    bytes: usize,
    /// Where the last segment ended, if it is of the stage.
    to: usize,
}

/// Where a queue is sent: a socket, and the calls whose memory it still reads.
pub(crate) struct Outlet<'a> {
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) notices: &'a mut Notices,
    /// What the rest of the queue waits for.
    pub(crate) wait: Wait,
}

/// Frames on their way into the sockets.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Headers, and payload in-band.
    pub(crate) control: Queue,
    /// Payload for the lane.
    pub(crate) lane: Queue,
    borrowed: Vec<Borrowed>,
    /// Room for the vector of one system call.
    iovs: Vec<Iov>,
}

/// Registered memory that the peer named; it must still be live when its bytes go out, the last of which are in these
/// segments, counted from 1.
#[derive(Debug)]
struct Borrowed {
    region: Arc<Region>,
    control: usize,
    lane: usize,
}

/// How far a batch got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Flushed {
    All,
    /// A socket takes no more now.
    Blocked,
    /// Memory that a frame announced has been deregistered; the stream cannot go on.
    Revoked,
}

impl Batch {
    pub(crate) fn has_room(&self) -> bool {
        self.len() < BATCH_BYTES
            && self.control.segments.len().max(self.lane.segments.len()) < SEGMENTS
            && self.control.stage.len() + MAX_HEADER_LEN + COPY_MAX <= STAGE
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.control.bytes == 0
    }

    /// Bytes of it, sent or not.
    pub(crate) fn len(&self) -> usize {
        self.control.bytes + self.lane.bytes
    }

    /// Whether something of it is still to be sent on a lane.
    pub(crate) fn wants_lane(&self) -> bool {
        !self.lane.is_sent()
    }

    /// Whether all that the peer named, and has not been sent, is still registered.
    pub(crate) fn is_live(&self) -> bool {
        let is_sent = |b: &Borrowed| b.control <= self.control.done && b.lane <= self.lane.done;
        self.borrowed.iter().all(|borrowed| borrowed.region.is_live() || is_sent(borrowed))
    }

    /// Where it ends now; all that was appended before has been sealed.
    #[inline]
    pub(crate) fn mark(&self) -> Mark {
        [self.control.mark(), self.lane.mark()]
    }

    /// Takes back what was appended since `mark`.
    pub(crate) fn unwind(&mut self, [control, lane]: Mark) {
        self.control.unwind(control);
        self.lane.unwind(lane);
    }

    /// Appends a frame's header; its payload goes to the queue that this gives.
    #[inline]
    pub(crate) fn announce(&mut self, frame: &Frame) -> &mut Queue {
        self.control.header(frame);
        if frame.lane != LANE {
            return &mut self.control;
        }
        self.control.seal();
        self.lane.turn = self.control.bytes;
        &mut self.lane
    }

    /// Notes that `region`, which the peer named, is read when what has just been appended goes out.
    pub(crate) fn borrow(&mut self, region: &Arc<Region>) {
        let (control, lane) = (self.control.segments.len(), self.lane.segments.len());
        match self.borrowed.last_mut().filter(|last| Arc::ptr_eq(&last.region, region)) {
            Some(last) => (last.control, last.lane) = (control, lane),
            None => self.borrowed.push(Borrowed { region: region.clone(), control, lane }),
        }
    }

    /// Sends as much as the sockets take, and on the lane no more than has been announced: that the receiver may wait for
    /// before it reads on in the control stream.
    pub(crate) fn flush(&mut self, control: &mut Outlet<'_>, lane: Option<&mut Outlet<'_>>) -> io::Result<Flushed> {
        if !self.is_live() {
            return Ok(Flushed::Revoked);
        }
        let mut all = self.control.flush(0, control, &mut self.iovs)?;
        if self.wants_lane() {
            let turn = self.control.sent;
            all &= self.lane.flush(turn, lane.ok_or(io::ErrorKind::NotConnected)?, &mut self.iovs)?;
        }
        Ok(if all { Flushed::All } else { Flushed::Blocked })
    }

    /// Copies what is still to be sent and lies in memory of the program, or of a device: it is the program's again, and no
    /// notice of the kernel's is waited for.
    ///
    /// # Errors
    /// EFAULT: it is not mapped any more, or its device does not copy. Some of it may have been copied.
    pub(crate) fn keep(&mut self) -> io::Result<()> {
        let all = |segment: &Segment| !matches!(segment, Segment::Stage { .. });
        // Nobody else may have the regions and bindings of devices.
        let _uncancelled = [&self.control, &self.lane].iter().any(|q| q.is_of_devices()).then(Uncancelled::begin);
        self.control.keep(all)?;
        self.lane.keep(all)?;
        self.borrowed.clear();
        Ok(())
    }

    /// The same for what lies in memory of the program alone.
    pub(crate) fn keep_host(&mut self) -> io::Result<()> {
        let of_host = |segment: &Segment| matches!(segment, Segment::Memory(_));
        self.control.keep(of_host)?;
        self.lane.keep(of_host)
    }

    /// The same for what lies in `region` alone, which is let go of.
    ///
    /// # Errors
    /// As of [`keep`](Self::keep), and also if it is a device's: nobody but the kernel gives back what was lent for that.
    pub(crate) fn keep_of(&mut self, region: &Region) -> io::Result<()> {
        let of_device = |segment: &Segment| segment.is_on_device(region);
        if [&self.control, &self.lane]
            .iter()
            .any(|queue| queue.segments[queue.done..].iter().any(|(s, _)| of_device(s)))
        {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        self.control.forget_sent(region);
        self.lane.forget_sent(region);
        self.borrowed.retain(|borrowed| borrowed.region.key() != region.key());
        let (from, to) = (region.base(), region.base() + region.len());
        let of_region = |segment: &Segment| match segment {
            Segment::Memory(iov) => iov.addr() < to && from < iov.addr() + iov.len() as u64,
            Segment::Stage { .. } | Segment::Device(_) => false,
        };
        self.control.keep(of_region)?;
        self.lane.keep(of_region)
    }

    /// Bytes of devices that the host had to send since the last call of this, and system calls that sent others.
    pub(crate) fn take_counts(&mut self) -> (u64, u64) {
        let [(a, b), (c, d)] = [&mut self.control, &mut self.lane].map(|queue| std::mem::take(&mut queue.counts));
        (a + c, b + d)
    }

    /// Empties it for reuse.
    pub(crate) fn clear(&mut self) {
        self.control.clear();
        self.lane.clear();
        self.borrowed.clear();
    }
}

impl Queue {
    #[inline]
    fn mark(&self) -> QueueMark {
        let to = self.sealed();
        QueueMark { stage: self.stage.len(), segments: self.segments.len(), bytes: self.bytes, to }
    }

    fn unwind(&mut self, mark: QueueMark) {
        self.stage.truncate(mark.stage);
        self.segments.truncate(mark.segments);
        self.bytes = mark.bytes;
        if let Some((Segment::Stage { to, .. }, _)) = self.segments.last_mut() {
            *to = mark.to;
        }
    }

    /// Appends a frame's header.
    #[inline]
    pub(crate) fn header(&mut self, frame: &Frame) {
        if self.stage.capacity() == 0 {
            self.stage.reserve_exact(STAGE);
        }
        frame.append(&mut self.stage);
    }

    /// The stage, to append copied payload to; [`Queue::seal`] comes behind that.
    pub(crate) fn stage(&mut self) -> &mut Vec<u8> {
        &mut self.stage
    }

    /// Closes what was appended to the stage since the last call into a segment.
    #[inline]
    pub(crate) fn seal(&mut self) {
        let to = self.stage.len();
        let from = match self.segments.last_mut() {
            Some((Segment::Stage { to: end, .. }, turn)) if *turn == self.turn => {
                self.bytes += to - *end;
                *end = to;
                return;
            }
            _ => self.sealed(),
        };
        if to > from {
            self.bytes += to - from;
            self.segments.push((Segment::Stage { from, to }, self.turn));
        }
    }

    fn sealed(&self) -> usize {
        self.segments
            .iter()
            .rev()
            .find_map(|(segment, _)| match segment {
                Segment::Stage { to, .. } => Some(*to),
                Segment::Memory(_) | Segment::Device(_) => None,
            })
            .unwrap_or(0)
    }

    /// Appends payload by reference.
    pub(crate) fn memory(&mut self, iov: Iov) {
        self.bytes += iov.len();
        self.segments.push((Segment::Memory(iov), self.turn));
    }

    /// Appends payload of a device.
    pub(crate) fn device(&mut self, payload: OnDevice) {
        self.bytes += payload.len;
        self.segments.push((Segment::Device(payload), self.turn));
    }

    /// The request in `slot` has lent the payload of devices that was appended last.
    pub(crate) fn lend(&mut self, slot: u32) {
        let last = self.segments.iter_mut().rev().find_map(|(segment, _)| match segment {
            Segment::Device(payload) => Some(payload),
            Segment::Stage { .. } | Segment::Memory(_) => None,
        });
        if let Some(last) = last {
            last.ends = Some(slot);
        }
    }

    fn is_of_devices(&self) -> bool {
        self.segments.iter().any(|(segment, _)| matches!(segment, Segment::Device(_)))
    }

    fn is_sent(&self) -> bool {
        self.done == self.segments.len()
    }

    /// Sends as much as the socket takes of what has its `turn`; true if that is all.
    fn flush(&mut self, turn: Turn, outlet: &mut Outlet<'_>, iovs: &mut Vec<Iov>) -> io::Result<bool> {
        outlet.wait = Wait::Nothing;
        while let Some((segment, _)) = self.segments.get(self.done).filter(|(_, after)| *after <= turn) {
            let wait = match segment {
                Segment::Device(payload) => {
                    let payload = payload.clone();
                    self.send_device(&payload, outlet)
                }
                _ => self.send_host(turn, outlet.socket, iovs),
            };
            match wait {
                Ok(Wait::Nothing) => continue,
                Ok(wait) => outlet.wait = wait,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => outlet.wait = Wait::Room,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            return Ok(false);
        }
        Ok(self.is_sent())
    }

    /// Sends what lies in host memory, and has its `turn`, up to the next payload of a device.
    fn send_host(&mut self, turn: Turn, socket: BorrowedFd<'_>, iovs: &mut Vec<Iov>) -> io::Result<Wait> {
        let (stage, skip) = (&self.stage, self.skip);
        let parts = self.segments[self.done..].iter().enumerate().map_while(|(i, (segment, after))| {
            let skip = if i == 0 { skip } else { 0 };
            match *segment {
                _ if *after > turn => None,
                Segment::Stage { from, to } => Some(Part::Bytes(&stage[from + skip..to])),
                Segment::Memory(iov) => Some(Part::Memory(iov.skip(skip))),
                Segment::Device(_) => None,
            }
        });
        let (n, all) = socket::send_vectored(socket, iovs, parts)?;
        self.advance(n);
        Ok(if n == all { Wait::Nothing } else { Wait::Room })
    }

    /// Sends payload of a device, or what is left of it.
    fn send_device(&mut self, payload: &OnDevice, outlet: &mut Outlet<'_>) -> io::Result<Wait> {
        let (at, left) = (payload.at + self.skip as u64, payload.len - self.skip);
        match devmem::send(outlet.socket, payload.binding.id(), at, left) {
            Ok(n) => {
                outlet.notices.called();
                self.counts.1 += 1;
                self.advance(n);
                if n < left {
                    return Ok(Wait::Room);
                }
                payload.ends.into_iter().for_each(|slot| outlet.notices.lend(slot));
                Ok(Wait::Nothing)
            }
            // Notices will come, and with them room for more.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) && outlet.notices.will_come() => Ok(Wait::Notices),
            Err(e) if is_refusal(&e) => {
                if !is_of_the_route(&e) && e.raw_os_error() != Some(libc::ENOBUFS) {
                    payload.binding.refused(&e);
                }
                // The host sends it.
                self.copy(self.done)?;
                payload.ends.into_iter().for_each(|slot| outlet.notices.lend(slot));
                Ok(Wait::Nothing)
            }
            Err(e) => Err(e),
        }
    }

    /// Copies the segments still to be sent that are `wanted`. Nothing may be appended before they have been.
    fn keep(&mut self, wanted: impl Fn(&Segment) -> bool) -> io::Result<()> {
        for i in self.done..self.segments.len() {
            if wanted(&self.segments[i].0) {
                self.copy(i)?;
            }
        }
        Ok(())
    }

    /// What has been sent from `region`, a device's, is not remembered.
    fn forget_sent(&mut self, region: &Region) {
        for (segment, _) in self.segments[..self.done].iter_mut().filter(|(segment, _)| segment.is_on_device(region)) {
            *segment = Segment::Stage { from: 0, to: 0 };
        }
    }

    /// Copies a segment, or what is left of it, into the stage.
    ///
    /// # Errors
    /// EFAULT: it is not there.
    fn copy(&mut self, i: usize) -> io::Result<()> {
        let skip = if i == self.done { self.skip } else { 0 };
        let from = self.stage.len();
        match &self.segments[i].0 {
            Segment::Stage { .. } => return Ok(()),
            Segment::Memory(iov) => {
                let rest = iov.skip(skip);
                mman::copy_out(rest.addr(), rest.len(), &mut self.stage)?;
            }
            Segment::Device(payload) => {
                let device = payload.region.device().ok_or(io::ErrorKind::NotConnected)?;
                device.read(payload.at + skip as u64, payload.len - skip, &mut self.stage).map_err(|e| {
                    tracing::error!(error = %e, "the memory of a device cannot be copied");
                    io::Error::from_raw_os_error(libc::EFAULT)
                })?;
                self.counts.0 += (self.stage.len() - from) as u64;
            }
        }
        self.segments[i].0 = Segment::Stage { from, to: self.stage.len() };
        if i == self.done {
            self.skip = 0;
        }
        Ok(())
    }

    fn advance(&mut self, n: usize) {
        self.sent += n;
        let mut left = n + self.skip;
        while let Some((segment, _)) = self.segments.get(self.done) {
            let len = match segment {
                Segment::Stage { from, to } => to - from,
                Segment::Memory(iov) => iov.len(),
                Segment::Device(payload) => payload.len,
            };
            if left < len {
                break;
            }
            left -= len;
            self.done += 1;
        }
        self.skip = left;
    }

    fn clear(&mut self) {
        self.stage.clear();
        // Nobody else may have their regions and bindings.
        let _uncancelled = self.is_of_devices().then(Uncancelled::begin);
        self.segments.clear();
        (self.bytes, self.turn, self.sent, self.done, self.skip, self.counts) = (0, 0, 0, 0, 0, (0, 0));
        // A frame that had to be copied may have doubled it; a whole batch that was is seldom.
        self.stage.shrink_to(2 * STAGE);
    }
}

/// Whether the kernel does not take this payload from the device on this socket.
fn is_refusal(error: &io::Error) -> bool {
    is_of_the_route(error)
        || matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EFAULT | libc::ENOBUFS))
}

/// Whether that is no matter of the device: another payload, or another socket, may well be taken. The route leads to
/// another interface (ENODEV), or nowhere as long as the link is down (EHOSTUNREACH; net_devmem_get_binding()).
fn is_of_the_route(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EHOSTUNREACH))
}

/// Batches not in use: a QP holds one only while bytes are on their way, so that idle QPs cost little memory.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "a QP takes and gives back one for each message: a pointer moves, not 300 bytes")]
pub(crate) struct BatchPool(Mutex<Vec<Box<Batch>>>);

impl BatchPool {
    pub(crate) fn take(&self) -> Box<Batch> {
        self.0.lock().pop().unwrap_or_default()
    }

    pub(crate) fn give(&self, mut batch: Box<Batch>) {
        /// More than this many batches lie idle only after a burst.
        const KEPT: usize = 16;
        if !batch.is_empty() {
            batch.clear();
        }
        let mut pool = self.0.lock();
        if pool.len() < KEPT {
            pool.push(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use dmverbs_proto::{Access, Op};

    use super::*;
    use crate::mem::stub::Memory;
    use crate::mem::{PdId, keys, register};

    const PD: PdId = PdId(3);

    fn region(bytes: &mut [u8]) -> Arc<Region> {
        let addr = bytes.as_mut_ptr().expose_provenance() as u64;
        register(addr, bytes.len() as u64, addr, Access::REMOTE_READ, PD).unwrap()
    }

    fn answer(batch: &mut Batch, region: &Arc<Region>) {
        let span = Region::span(region, region.base(), region.len(), Access::REMOTE_READ, PD).unwrap();
        batch.control.memory(span.iov(0, usize::try_from(region.len()).unwrap()).unwrap());
        batch.borrow(region);
    }

    #[test]
    fn a_region_matters_until_its_last_byte_is_sent() {
        let (mut first, mut second) = (vec![1; 64 << 10], vec![2; 16 << 20]);
        let (first, second) = (region(&mut first), region(&mut second));
        let (ours, theirs) = socket::pair().unwrap();
        let mut notices = Notices::default();
        let mut outlet = Outlet { socket: ours.as_fd(), notices: &mut notices, wait: Wait::Nothing };
        let mut batch = Batch::default();
        answer(&mut batch, &first);
        answer(&mut batch, &second);
        assert_eq!(batch.flush(&mut outlet, None).unwrap(), Flushed::Blocked);
        first.revoke();
        assert_eq!(batch.flush(&mut outlet, None).unwrap(), Flushed::Blocked, "its bytes are on their way");
        let mut came = 0;
        while batch.flush(&mut outlet, None).unwrap() == Flushed::Blocked {
            came += socket::recv(theirs.as_fd(), &mut vec![0; 1 << 20]).unwrap();
        }
        assert!(came > 8 << 20);

        batch.clear();
        answer(&mut batch, &second);
        assert_eq!(batch.flush(&mut outlet, None).unwrap(), Flushed::Blocked);
        second.revoke();
        assert_eq!(batch.flush(&mut outlet, None).unwrap(), Flushed::Revoked);
    }

    /// Payload of a device that the kernel does not take: it knows no such binding. Nothing where it knows none at all.
    fn on_device(region: &Arc<Region>) -> Option<OnDevice> {
        let binding = Binding::unknown().inspect_err(|e| println!("skipped: {e}")).ok()?;
        let len = region.len() as usize;
        Some(OnDevice { region: region.clone(), binding: Arc::new(binding), at: 0, len, ends: None })
    }

    #[test]
    fn what_neither_the_kernel_nor_the_host_can_read_of_a_device_is_a_fault_of_memory() {
        let memory = Memory::new(100);
        let region = memory.register(PD);
        let Some(payload) = on_device(&region) else { return };
        let (ours, theirs) = socket::pair().unwrap();
        let mut notices = Notices::default();
        let mut outlet = Outlet { socket: ours.as_fd(), notices: &mut notices, wait: Wait::Nothing };
        let mut batch = Batch::default();
        batch.control.device(payload.clone());
        assert_eq!(batch.flush(&mut outlet, None).unwrap(), Flushed::All);
        assert_eq!(socket::recv(theirs.as_fd(), &mut [0; 200]).unwrap(), 100);

        memory.fail();
        batch.clear();
        batch.control.device(payload);
        let failed = batch.flush(&mut outlet, None).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn a_device_has_back_what_has_been_sent_while_the_rest_of_its_batch_waits() {
        let (memory, mut rest) = (Memory::new(100), vec![0; 100]);
        let (sent, rest) = (memory.register(PD), region(&mut rest));
        let Some(payload) = on_device(&sent) else { return };
        let mut batch = Batch::default();
        batch.control.device(payload);
        batch.borrow(&sent);
        answer(&mut batch, &rest);
        assert!(batch.keep_of(&sent).is_err(), "it is still to be sent");
        batch.control.advance(100);
        sent.revoke();
        keys().remove(sent.key());
        assert!(batch.is_live() && batch.keep_of(&sent).is_ok());
        drop(sent);
        assert!(memory.is_let_go());
        let (ours, theirs) = socket::pair().unwrap();
        let mut notices = Notices::default();
        let mut outlet = Outlet { socket: ours.as_fd(), notices: &mut notices, wait: Wait::Nothing };
        assert_eq!(batch.flush(&mut outlet, None).unwrap(), Flushed::All);
        assert_eq!(socket::recv(theirs.as_fd(), &mut [0; 200]).unwrap(), 100);
    }

    #[test]
    fn a_lane_carries_what_has_been_announced_and_no_more() {
        let mut bytes = vec![1; 16 << 20];
        let whole = region(&mut bytes);
        let ends = [socket::pair().unwrap(), socket::pair().unwrap()];
        let [(ours, theirs), (lane, far)] = &ends;
        let mut notices = [Notices::default(), Notices::default()];
        let [control, on_lane] = &mut notices;
        let mut outlet = Outlet { socket: ours.as_fd(), notices: control, wait: Wait::Nothing };
        let mut lane = Outlet { socket: lane.as_fd(), notices: on_lane, wait: Wait::Nothing };
        let mut batch = Batch::default();
        let announce = |batch: &mut Batch, payload: &[u8]| {
            let len = u32::try_from(payload.len()).unwrap();
            let queue = batch.announce(&Frame { lane: LANE, len, ..Frame::new(Op::Write) });
            queue.stage().extend_from_slice(payload);
            queue.seal();
        };
        announce(&mut batch, &[1; 100]);
        answer(&mut batch, &whole);
        announce(&mut batch, &[2; 50]);
        let mut came = vec![0; 1 << 20];
        assert_eq!(batch.flush(&mut outlet, Some(&mut lane)).unwrap(), Flushed::Blocked);
        assert_eq!((outlet.wait, lane.wait), (Wait::Room, Wait::Nothing));
        assert_eq!(socket::recv(far.as_fd(), &mut came).unwrap(), 100);
        while batch.flush(&mut outlet, Some(&mut lane)).unwrap() == Flushed::Blocked {
            socket::recv(theirs.as_fd(), &mut came).unwrap();
        }
        assert_eq!(socket::recv(far.as_fd(), &mut came).unwrap(), 50);
        assert_eq!(came[..50], [2; 50]);
    }

    #[test]
    fn what_has_been_kept_is_sent_as_it_was() {
        let mut bytes = vec![1; 16 << 20];
        let whole = region(&mut bytes);
        let (ours, theirs) = socket::pair().unwrap();
        let mut notices = Notices::default();
        let mut outlet = Outlet { socket: ours.as_fd(), notices: &mut notices, wait: Wait::Nothing };
        let mut batch = Batch::default();
        answer(&mut batch, &whole);
        assert_eq!(batch.flush(&mut outlet, None).unwrap(), Flushed::Blocked);
        batch.keep_host().unwrap();
        bytes.fill(2);
        let (mut came, mut buffer) = (0, vec![0; 1 << 20]);
        while came < bytes.len() {
            batch.flush(&mut outlet, None).unwrap();
            let n = socket::recv(theirs.as_fd(), &mut buffer).unwrap();
            assert!(buffer[..n].iter().all(|&byte| byte == 1));
            came += n;
        }
    }
}
