//! Two sides, the streams between them, a clock and a seed.

use alloc::vec::Vec;

use super::rng::Rng;
use super::side::Side;
use crate::Tick;
use crate::driver::Need;
use crate::engine::{Limits, Timing};
use crate::hello::{HELLO_LEN, Hello, Verdict};
use crate::work::Window;

/// Names a side.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The first.
    A,
    /// The second.
    B,
}

impl End {
    /// The other side.
    #[must_use]
    pub fn other(self) -> End {
        match self {
            End::A => End::B,
            End::B => End::A,
        }
    }
}

/// What ibv_create_qp(3) and ibv_modify_qp(3) are told; the same for both sides.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Queue sizes.
    pub limits: Limits,
    /// Patience.
    pub timing: Timing,
    /// The receiver-not-ready timer in nanoseconds.
    pub rnr_timer: u32,
    /// One QP, connected to itself: everything goes to and comes from [`End::A`].
    pub looped: bool,
    /// What may be on its way.
    pub window: Window,
    /// In what pieces the sides tell each other how far they have come, where that is smaller than in life.
    pub grain: Option<u64>,
    /// Payload goes on the lane or in-band, by chance.
    pub lanes: bool,
    /// Where the wire's counters begin; 0 in life, near their end to see them wrap.
    pub counters: u32,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            limits: Limits { send_wr: 64, recv_wr: 64 },
            timing: Timing { retry: Some(1_000_000_000), rnr_retry: 7, max_rd_atomic: 4, max_dest_rd_atomic: 4 },
            rnr_timer: 640_000,
            looped: false,
            window: Window::UNLIMITED,
            grain: None,
            lanes: false,
            counters: 0,
        }
    }
}

/// Two engines, two streams, a clock, a seed.
#[derive(Debug)]
pub struct Pair {
    /// One side.
    pub a: Side,
    /// The other, idle if the first is connected to itself.
    pub b: Side,
    /// The clock.
    pub now: Tick,
    /// Chance.
    pub rng: Rng,
    setup: Setup,
    connected: bool,
}

impl Pair {
    /// A connected pair with the usual setup.
    #[must_use]
    pub fn seeded(seed: u64) -> Pair {
        let mut pair = Pair::unconnected(seed, Setup::default());
        pair.connect();
        pair
    }

    /// A pair that has yet to connect.
    #[must_use]
    pub fn unconnected(seed: u64, setup: Setup) -> Pair {
        let side = |qpn| {
            let mut side = Side::new(qpn, setup.limits);
            side.lane = setup.lanes.then(|| Rng::seeded(seed ^ u64::from(qpn)));
            side.engine.set_timing(setup.timing);
            side.engine.set_window(setup.window);
            if let Some(grain) = setup.grain {
                side.engine.set_grain(grain);
            }
            side
        };
        Pair { a: side(QPN[0]), b: side(QPN[1]), now: 0, rng: Rng::seeded(seed), setup, connected: false }
    }

    /// Shakes hands; each side knows of the receives posted at the other so far.
    pub fn connect(&mut self) {
        if self.connected {
            return;
        }
        self.connected = true;
        let [a, b] = [End::A, End::B].map(|end| self.hello(end).encode());
        if self.setup.looped {
            self.meet(End::A, &a, &a);
        } else {
            self.meet(End::A, &a, &b);
            self.meet(End::B, &b, &a);
        }
    }

    fn hello(&mut self, end: End) -> Hello {
        let peer = self.peer(end);
        Hello {
            verdict: Verdict::Accept,
            src_qpn: QPN[end as usize],
            dst_qpn: QPN[peer as usize],
            src_gid: [end as u8; 16],
            dst_gid: [peer as u8; 16],
            sq_psn: 0,
            rq_psn: 0,
            nonce: self.rng.bits(),
            credit: self.side(end).engine.credit(),
            rnr_timer: self.setup.rnr_timer,
            max_dest_rd_atomic: self.setup.timing.max_dest_rd_atomic,
        }
    }

    fn meet(&mut self, end: End, ours: &[u8; HELLO_LEN], theirs: &[u8; HELLO_LEN]) {
        let [ours, theirs] = [ours, theirs].map(|hello| Hello::decode(hello).expect("one of ours"));
        assert!(theirs.answers(&ours), "{theirs:?} is no answer to {ours:?}");
        let counters = self.setup.counters;
        let engine = &mut self.side(end).engine;
        engine.connect(&theirs, ours.credit).expect("a fresh engine believes a hello");
        engine.renumber(counters);
    }

    /// A side.
    pub fn side(&mut self, end: End) -> &mut Side {
        match end {
            End::A => &mut self.a,
            End::B => &mut self.b,
        }
    }

    /// Where what `end` sends arrives.
    #[must_use]
    pub fn peer(&self, end: End) -> End {
        if self.setup.looped { end } else { end.other() }
    }

    /// The sides that take part.
    #[must_use]
    pub fn ends(&self) -> &'static [End] {
        if self.setup.looped { &[End::A] } else { &[End::A, End::B] }
    }

    /// Delivers at most `n` bytes of each stream of what `from` has sent, the one or the other first, and then its
    /// goodbye, if that was all; gives the number. Memory that it lent comes back by and by.
    pub fn deliver(&mut self, from: End, n: usize) -> usize {
        let mut moved = 0;
        let lane_first = self.rng.one_in(2);
        for by_lane in [lane_first, !lane_first] {
            moved += self.deliver_stream(from, n, by_lane);
        }
        if self.rng.one_in(2) {
            moved += usize::from(self.side(from).give_back());
        }
        moved
    }

    fn deliver_stream(&mut self, from: End, n: usize, by_lane: bool) -> usize {
        let to = self.peer(from);
        let side = self.side(from);
        let stream = if by_lane { &mut side.lane_out } else { &mut side.out };
        let n = n.min(stream.len());
        let bytes: Vec<u8> = stream.drain(..n).collect();
        let ended = side.under_way() == 0 && (side.engine.has_said_goodbye() || side.closed);
        let finished = ended && !core::mem::replace(&mut side.finished, true);
        let side = self.side(to);
        if !side.closed {
            if by_lane {
                side.receive_lane(&bytes);
            } else {
                side.receive(&bytes);
            }
        }
        if finished {
            self.side(to).end_of_stream();
        }
        n + usize::from(finished)
    }

    /// Lets both sides work, and delivers what they send in pieces of random size, until nothing moves any more. A side
    /// is asked to transmit only when its engine says that it needs to be: who is silent then is silent for ever.
    pub fn settle(&mut self) {
        loop {
            let mut moved = false;
            for &end in self.ends() {
                let limit = 1 << self.rng.within(0..21);
                self.side(end).transmit_if_needed(limit);
                self.side(end).poll();
                let n = 1 << self.rng.within(4..21);
                moved |= self.deliver(end, n) > 0 || self.side(end).give_back();
            }
            if !moved {
                break;
            }
        }
        for &end in self.ends() {
            let side = self.side(end);
            assert_eq!(side.engine.need(), Need::Nothing, "an engine at rest wants to send");
        }
    }

    /// `by` nanoseconds pass.
    pub fn tick(&mut self, by: Tick) {
        self.now += by;
        let now = self.now;
        for &end in self.ends() {
            let side = self.side(end);
            if side.engine.wants_tick() {
                side.engine.on_tick(now);
            }
        }
    }

    /// The network breaks: at most `n` of the bytes under way still arrive at each side.
    pub fn cut(&mut self, n: usize) {
        for &end in self.ends() {
            self.deliver(end, n);
        }
        for &end in self.ends() {
            self.side(end).end_of_stream();
        }
    }
}

const QPN: [u32; 2] = [0x12_3401, 0x12_3502];
