//! A connected stream, its lanes, and what is half sent and half received; how much may be on its way.

use std::io;
use std::ops::RangeInclusive;

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
const WINDOW: proto::Window = proto::Window { bytes: 2 << 20, requests: 3 };
const LOOK_WINDOWS: u64 = 4;
/// Bytes that the connections of a process have on their way together, where that is enough for a request of each: a
/// third of what the kernel lets wait in all sockets, within these bounds. With less, each visit of a connection moves
/// less; with more, less of it is in the caches.
const ALL_WINDOWS: RangeInclusive<u64> = 256 << 20..=512 << 20;

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
    /// What had been sent when the window was last chosen, and the window.
    chosen: (u64, proto::Window),
    /// Our direction has ended.
    pub(super) finished: bool,
    /// Our direction has failed; the peer's may still bring what was on its way.
    pub(super) broken: bool,
}

impl Link {
    /// Over a stream whose handshake is done.
    pub(super) fn new(stream: Stream, window: proto::Window) -> Link {
        Link {
            stream,
            notices: Notices::default(),
            lane_out: None,
            past_out: None,
            lane_in: None,
            next_in: None,
            batch: None,
            inbox: Inbox::default(),
            chosen: (0, window),
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

    /// Whether there is more to look at than the stream: lanes, or memory that the kernel still reads.
    pub(super) fn has_lanes(&self) -> bool {
        self.lane_in.is_some() || self.lane_out.is_some() || self.past_out.is_some() || self.notices.is_waiting()
    }

    pub(super) fn is_blocked(&self) -> bool {
        let lanes = [&self.lane_out, &self.past_out];
        self.stream.is_blocked() || lanes.into_iter().flatten().any(LaneOut::is_blocked)
    }

    /// The window is full: sees now and then whether the path holds more.
    pub(super) fn choose_window(&mut self, engine: &mut Engine, progress: &Progress) {
        let (flown, window) = self.chosen;
        if engine.flown() - flown < window.bytes.saturating_mul(LOOK_WINDOWS) {
            return;
        }
        let lane = self.lane_out.as_ref().filter(|lane| lane.is_ready()).map(|lane| lane.stream.tx());
        // Only the streams of TCP leave the host.
        let capacities = [Some(self.stream.tx()), lane].into_iter().flatten().map(socket::path_capacity);
        // What one of them was seen to hold it may no longer; the other then holds it.
        let capacity = capacities.map(Result::unwrap_or_default).max().unwrap_or(0);
        self.chosen = (engine.flown(), fair_window(progress, capacity));
        engine.set_window(self.chosen.1);
    }
}

/// The window of one of the process's connections, whose path holds so many bytes.
pub(super) fn fair_window(progress: &Progress, path: u64) -> proto::Window {
    let all = (progress.tcp_memory / 3).clamp(*ALL_WINDOWS.start(), *ALL_WINDOWS.end());
    let share = all / progress.registry().len().max(1) as u64;
    if share < WINDOW.bytes {
        return proto::Window { bytes: share, requests: 1 };
    }
    proto::Window { bytes: path.saturating_mul(2).clamp(WINDOW.bytes, share), ..WINDOW }
}
