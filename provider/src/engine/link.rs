//! A connected stream, its lanes, and what is half sent and half received; how much may be on its way.

use std::io;

use dmverbs_proto as proto;
use proto::Engine;

use super::lane::{LaneIn, LaneOut};
use super::receive::Inbox;
use super::{LANE_OUT, LANE_PAST, Progress};
use crate::object::Traffic;
use crate::sys::epoll::Epoll;
use crate::sys::socket;
use crate::transport::{Batch, Flushed, Notices, Outlet, Stream, Wait};

/// What a connection has on its way: what is more would wait in the kernel, and be out of the processors' caches when
/// its turn comes. A path that holds more gets twice as much as it holds, which is looked at when so many windows have
/// been sent and one is full.
pub(super) const WINDOW: proto::Window = proto::Window { bytes: 3 << 20, requests: 3 };
const LOOK_WINDOWS: u64 = 4;
/// With a lane: what waits for the peer is in memory of a device, and in no cache. All connections of the process together
/// do not have more than half of what a peer binds on that account.
const LANE_WINDOW: u64 = 8 << 20;
const LANE_WINDOWS: u64 = 16 << 20;
/// What the connections of a process have on their way together at most, a request of each aside: a third of what the
/// kernel lets wait in all sockets, and no less than this.
const ALL_WINDOWS: u64 = 256 << 20;
/// More connections than this take turns (see [`super::visits`]), with so much each, while that is little together: more
/// would not stay in the caches, and less would cost more visits.
const MANY: usize = 128;
const VISIT: proto::Window = proto::Window { bytes: 1 << 20, requests: 1 };

/// What a connection may have on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) window: proto::Window,
    /// While others wait, it begins again only when all of that is acknowledged, and in its turn.
    takes_turns: bool,
}

/// What a connection's payload takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Path {
    /// Bytes that it was seen to hold.
    pub(super) capacity: u64,
    pub(super) has_lane: bool,
}

/// A connected stream with what is half sent and half received.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: Stream,
    pub(super) notices: Notices,
    pub(super) lane_out: Option<LaneOut>,
    /// The one that it has taken the place of, with what was announced before.
    pub(super) past_out: Option<LaneOut>,
    pub(super) lane_in: Option<LaneIn>,
    /// The one that the peer is to use instead.
    pub(super) next_in: Option<LaneIn>,
    pub(super) batch: Option<Box<Batch>>,
    pub(super) inbox: Inbox,
    share: Share,
    /// What had been sent when its turn began.
    begun: u64,
    /// What had been sent when it was last chosen.
    chosen: u64,
    /// Our direction has ended.
    pub(super) finished: bool,
    /// Our direction has failed; the peer's may still bring what was on its way.
    pub(super) broken: bool,
}

impl Link {
    /// Over a stream whose handshake is done.
    pub(super) fn new(stream: Stream, share: Share) -> Link {
        Link {
            stream,
            notices: Notices::default(),
            lane_out: None,
            past_out: None,
            lane_in: None,
            next_in: None,
            batch: None,
            inbox: Inbox::default(),
            share,
            begun: 0,
            chosen: 0,
            finished: false,
            broken: false,
        }
    }

    /// Sends as much of the batch as the streams take, and waits for them to take more.
    pub(super) fn flush(&mut self, traffic: &mut Traffic, epoll: &Epoll, token: u64) -> io::Result<Flushed> {
        let Link { stream, notices, lane_out, past_out, batch: Some(batch), .. } = self else {
            return Ok(Flushed::All);
        };
        // Until a lane is ready, what is announced there is on the one before.
        let (mut lane_out, lane_token) = match lane_out {
            Some(lane) if lane.is_ready() => (Some(lane), LANE_OUT | token),
            _ => (past_out.as_mut(), LANE_PAST | token),
        };
        let mut control = Outlet { socket: stream.tx(), notices, wait: Wait::Nothing };
        let mut lane = lane_out.as_mut().map(|lane| Outlet {
            socket: lane.stream.tx(),
            notices: &mut lane.notices,
            wait: Wait::Nothing,
        });
        let flushed = batch.flush(&mut control, lane.as_mut());
        // What the kernel would not take from a device counts as what it is.
        let (rescued, sends) = batch.take_counts();
        traffic.device_sends += sends;
        traffic.device_sent -= rescued;
        traffic.staged_sent += rescued;
        let flushed = flushed?;
        let (wait, lane_wait) = (control.wait, lane.map(|lane| lane.wait));
        if flushed == Flushed::All {
            batch.clear();
        }
        stream.set_wait(wait, epoll, token)?;
        if let (Some(lane), Some(wait)) = (lane_out, lane_wait) {
            lane.stream.set_wait(wait, epoll, lane_token)?;
        }
        Ok(flushed)
    }

    /// Of a batch that is empty: more is to be sent, but not now, as if the stream were full, of which epoll tells at the
    /// next turn that it is not; or nothing is.
    pub(super) fn rest(&mut self, wait: Wait, epoll: &Epoll, token: u64) -> io::Result<()> {
        self.stream.set_wait(wait, epoll, token)
    }

    /// Whether there is more to look at than the stream: lanes, or memory that the kernel still reads.
    pub(super) fn has_lanes(&self) -> bool {
        self.lane_in.is_some() || self.lane_out.is_some() || self.past_out.is_some() || self.notices.is_waiting()
    }

    pub(super) fn is_blocked(&self) -> bool {
        let lanes = [&self.lane_out, &self.past_out];
        self.stream.is_blocked() || lanes.into_iter().flatten().any(LaneOut::is_blocked)
    }

    /// What of so many bytes counts, if it takes turns: no more than of a visit.
    pub(super) fn counts(&self, bytes: u64) -> u64 {
        if self.share.takes_turns { bytes.min(VISIT.bytes) } else { 0 }
    }

    /// Its turn begins: with `room`, it sends the bytes of a visit, also where its share is less.
    pub(super) fn open_window(&mut self, engine: &mut Engine, room: bool) {
        let least = if room { VISIT.bytes } else { 0 };
        engine.set_window(proto::Window { bytes: self.share.window.bytes.max(least), ..self.share.window });
        self.begun = engine.flown();
    }

    /// What it sends from now on is its share.
    pub(super) fn narrow_window(&self, engine: &mut Engine) {
        engine.set_window(self.share.window);
    }

    /// Whether what it sends next begins a turn.
    pub(super) fn has_to_begin(&self, engine: &Engine) -> bool {
        self.share.takes_turns && engine.on_way() == 0 && engine.next_payload() > 0
    }

    /// Frames are about to be sent. Requests are held back after its turn, and before the next unless that `begins`.
    pub(super) fn gate(&self, engine: &mut Engine, begins: bool) {
        let ended = engine.is_closed() && engine.on_way() > 0;
        engine.set_closed(self.share.takes_turns && !begins && (ended || self.has_to_begin(engine)));
    }

    /// Frames have been sent. A turn ends when others wait.
    pub(super) fn mind_window(&mut self, engine: &mut Engine, progress: &Progress, others: bool) {
        if engine.is_closed() {
            return;
        }
        if engine.is_full() {
            self.choose_window(engine, progress);
        }
        let ends = engine.is_full() || engine.flown() - self.begun >= VISIT.bytes;
        engine.set_closed(self.share.takes_turns && others && ends && engine.on_way() > 0);
    }

    /// Sees now and then whether the path holds more.
    fn choose_window(&mut self, engine: &mut Engine, progress: &Progress) {
        if engine.sent() - self.chosen < self.share.window.bytes.saturating_mul(LOOK_WINDOWS) {
            return;
        }
        let lane = self.lane_out.as_ref().filter(|lane| lane.is_ready()).map(|lane| lane.stream.tx());
        // Only the streams of TCP leave the host.
        let capacities = [Some(self.stream.tx()), lane].into_iter().flatten().map(socket::path_capacity);
        // What one of them was seen to hold it may no longer; the other then holds it.
        let capacity = capacities.map(Result::unwrap_or_default).max().unwrap_or(0);
        let path = Path { capacity, has_lane: lane.is_some() };
        (self.share, self.chosen) = (Share::of(progress, path), engine.sent());
        engine.set_window(self.share.window);
    }
}

impl Share {
    /// That of one of the process's connections, whose path is this one.
    pub(super) fn of(progress: &Progress, path: Path) -> Share {
        Share::among(progress.registry().len().max(1), progress.tcp_memory, path)
    }

    fn among(connections: usize, tcp_memory: u64, Path { capacity, has_lane }: Path) -> Share {
        let most = ALL_WINDOWS.max(tcp_memory / 3) / connections as u64;
        let takes_turns = connections > MANY;
        let least = if takes_turns { VISIT } else { WINDOW };
        let lane = if has_lane { LANE_WINDOW.min(LANE_WINDOWS / connections as u64) } else { 0 };
        let bytes = capacity.saturating_mul(2).max(least.bytes).max(lane).min(most);
        Share { window: proto::Window { bytes, ..least }, takes_turns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_lane_has_more_on_its_way_while_there_are_few() {
        let bytes = |connections, has_lane| Share::among(connections, 0, Path { capacity: 0, has_lane }).window.bytes;
        assert_eq!([1, 2, 4, 8].map(|n| bytes(n, true) / MIB), [8, 8, 4, 3]);
        assert_eq!([1, 8].map(|n| bytes(n, false) / MIB), [3, 3]);
    }

    #[test]
    fn a_path_has_twice_what_it_holds_unless_that_is_too_much_for_all() {
        let bytes =
            |connections, capacity| Share::among(connections, 0, Path { capacity, has_lane: true }).window.bytes;
        assert_eq!(bytes(1, 20 * MIB), 40 * MIB);
        assert_eq!(bytes(1, 200 * MIB), ALL_WINDOWS);
        assert_eq!(bytes(1000, 20 * MIB), ALL_WINDOWS / 1000);
    }

    #[test]
    fn those_that_take_turns_have_a_visit() {
        let share = |connections| Share::among(connections, 0, Path { capacity: 0, has_lane: true });
        assert!(!share(MANY).takes_turns);
        let share = share(MANY + 1);
        assert_eq!((share.takes_turns, share.window), (true, VISIT));
    }
}
