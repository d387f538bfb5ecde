//! A schedule: what a seed makes two sides do, step by step, under the eyes of the oracle.

use dmverbs_proto::testing::{End, Pair, Rng, Setup, Sge, Wr};
use dmverbs_proto::{Access, Limits, MAX_CHUNK, Need, Remote, SendFlags, SendOp, Status, Timing, Window};

use crate::oracle::{Op, Oracle, Reception};

/// What besides ordinary work happens in a schedule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mishap {
    /// Nothing: every request succeeds.
    None,
    /// Some requests and receives are faulty.
    Faults,
    /// The stream breaks.
    Cut,
    /// The stream stands still.
    Stall,
    /// A side is told to fail.
    Close,
    /// Memory is deregistered.
    Revoke,
    /// Receives are missing.
    Starve,
}

struct Schedule {
    pair: Pair,
    oracle: Oracle,
    mishap: Mishap,
    /// Messages of several chunks.
    big: bool,
    /// Send requests still to post.
    budget: usize,
    paused: [bool; 2],
    stalled: bool,
}

/// Runs what `seed` says; panics where a promise is broken.
pub fn run(seed: u64) {
    let mut rng = Rng::seeded(seed);
    let mishap = match rng.within(0..20) {
        0..8 => Mishap::None,
        8..13 => Mishap::Faults,
        13 | 14 => Mishap::Cut,
        15 => Mishap::Stall,
        16 => Mishap::Close,
        17 => Mishap::Revoke,
        _ => Mishap::Starve,
    };
    let big = rng.one_in(100);
    let reads = rng.within(1..5) as u8;
    let setup = Setup {
        limits: Limits { send_wr: rng.within(1..17) as usize, recv_wr: rng.within(1..17) as usize },
        timing: Timing {
            retry: (mishap != Mishap::None || rng.one_in(2)).then_some(RETRY),
            rnr_retry: if mishap == Mishap::Starve { rng.within(0..3) as u8 } else { 7 },
            max_rd_atomic: rng.within(1..5) as u8,
            max_dest_rd_atomic: reads,
        },
        rnr_timer: 1_000_000,
        looped: rng.one_in(8),
        window: if rng.one_in(2) {
            Window::UNLIMITED
        } else {
            Window { bytes: rng.within(0..200), requests: rng.within(1..5) }
        },
        grain: rng.one_in(2).then(|| rng.within(1..200)),
        lanes: rng.one_in(2),
        counters: if rng.one_in(2) { 0 } else { (rng.within(0..40) as u32).wrapping_neg() },
    };
    let mut pair = Pair::unconnected(rng.bits(), setup);
    let size = if big { TARGET_BIG } else { TARGET };
    let targets = [End::A, End::B].map(|end| {
        let mut bytes = vec![0; size];
        rng.fill(&mut bytes);
        pair.side(end).memory.register(bytes, Access::all())
    });
    let mut oracle = Oracle::new(&mut pair, targets);
    if mishap == Mishap::Starve {
        oracle.excuses.starved = Some(u64::from(setup.timing.rnr_retry) * u64::from(setup.rnr_timer));
    }
    pair.rng = rng;
    let budget = if big { 8 } else { pair.rng.within(1..80) as usize };
    let mut schedule = Schedule { pair, oracle, mishap, big, budget, paused: [false; 2], stalled: false };
    schedule.play();
    schedule.finish();
}

impl Schedule {
    fn play(&mut self) {
        let steps = self.pair.rng.within(20..300);
        let connect_at = if self.pair.rng.one_in(4) { self.pair.rng.within(0..20) } else { 0 };
        let mishap_at = self.pair.rng.within(0..steps);
        for step in 0..steps {
            if step == connect_at {
                self.pair.connect();
            }
            if step == mishap_at {
                self.befall();
            }
            self.step();
            self.oracle.observe(&mut self.pair);
        }
        self.pair.connect();
    }

    fn step(&mut self) {
        let ends = self.pair.ends();
        let end = self.pair.rng.pick(ends);
        match self.pair.rng.within(0..16) {
            0..4 => {
                for _ in 0..self.pair.rng.within(1..4) {
                    self.post(end);
                }
            }
            4 | 5 => {
                if self.mishap != Mishap::Starve || self.pair.rng.one_in(3) {
                    for _ in 0..self.pair.rng.within(1..6) {
                        self.post_receive(end);
                    }
                }
            }
            6..9 => {
                let limit = 1 << self.pair.rng.within(0..22);
                let (closed, followed) = (self.pair.rng.one_in(8), self.pair.rng.one_in(2));
                self.pair.side(end).engine.set_followed(followed);
                self.pair.side(end).engine.set_closed(closed);
                self.pair.side(end).transmit(limit);
                self.pair.side(end).engine.set_closed(false);
            }
            9 => {
                let side = self.pair.side(end);
                side.transmit(usize::MAX);
                assert_eq!(side.engine.need(), Need::Nothing, "{end:?} needs what it has just had");
            }
            10..14 => self.deliver(end),
            14 => {
                let by = self.pair.rng.within(0..1_000_000);
                self.pair.tick(by);
            }
            _ => {
                if self.pair.rng.one_in(4) {
                    let paused = &mut self.paused[end as usize];
                    *paused = !*paused;
                    let paused = *paused;
                    self.pair.side(end).engine.set_paused(paused);
                }
            }
        }
    }

    fn deliver(&mut self, from: End) {
        if self.stalled {
            return;
        }
        let rng = &mut self.pair.rng;
        let n = match rng.within(0..3) {
            0 => rng.within(0..100),
            1 => rng.within(0..2000),
            _ => 1 << 30,
        };
        let n = if self.big { n * 300 } else { n };
        self.pair.deliver(from, n as usize);
    }

    fn befall(&mut self) {
        let ends = self.pair.ends();
        let end = self.pair.rng.pick(ends);
        match self.mishap {
            Mishap::None | Mishap::Faults | Mishap::Starve => {}
            Mishap::Cut => {
                self.pair.connect();
                self.oracle.excuses.lost = true;
                let n = self.pair.rng.within(0..4096) as usize;
                self.pair.cut(n);
            }
            Mishap::Stall => {
                self.oracle.excuses.lost = true;
                self.stalled = true;
            }
            Mishap::Close => {
                self.oracle.excuses.closed[end as usize] = true;
                self.pair.side(end).engine.fail(None);
            }
            Mishap::Revoke => {
                self.oracle.excuses.revoked = true;
                let target = self.oracle.targets[end as usize];
                // Of all that was registered so far, one region goes.
                let key = target.key + self.pair.rng.within(0..40) as u32;
                let key = if self.pair.rng.one_in(2) { target.key } else { key };
                self.pair.side(end).memory.revoke(key);
            }
        }
    }

    /// Posts a request that is correct, or, where faults are wanted, now and then is not.
    fn post(&mut self, end: End) {
        if self.budget == 0 || self.pair.side(end).engine.send_room() == 0 {
            return;
        }
        self.budget -= 1;
        let faulty = self.mishap == Mishap::Faults && self.pair.rng.one_in(25);
        let peer = self.pair.peer(end);
        let target = self.oracle.targets[peer as usize];
        let kind = self.pair.rng.within(0..9);
        let atomic = matches!(kind, 6 | 7);
        let (mut len, mut fault) = (self.length(), None);
        if atomic {
            len = 8;
        }
        if kind == 8 {
            len = 0;
        }
        // Where one-sided requests go.
        let room = u64::from(target.len - len) + 1;
        let offset = self.pair.rng.within(0..room);
        let offset = if atomic { offset & !7 } else { offset };
        let mut at = Remote { addr: target.addr + offset, rkey: target.key };
        if faulty && matches!(kind, 0 | 1 | 5 | 6 | 7) && len > 0 {
            fault = Some(Status::RemAccess);
            match self.pair.rng.within(0..if atomic { 6 } else { 5 }) {
                0 => at.rkey ^= 0x8000,
                1 => at.addr = target.addr + u64::from(target.len) - u64::from(len) + 8,
                2 => at.addr = target.addr - 8,
                3 => at.addr = u64::MAX - 7,
                4 => at = self.forbidden(peer, len),
                _ => {
                    at.addr += 4;
                    fault = Some(Status::RemInvReq);
                }
            }
        }
        let imm = self.pair.rng.bits() as u32;
        let op = match kind {
            0 => SendOp::Write(at),
            1 => SendOp::WriteImm(at, imm),
            2 => SendOp::Send,
            3 => SendOp::SendImm(imm),
            4 => SendOp::SendInv(self.spare_key(peer, faulty, Status::RemAccess, &mut fault)),
            5 => SendOp::Read(at),
            6 => {
                let mirror = &self.oracle.mirrors[peer as usize];
                let held = offset as usize..offset as usize + 8;
                let held = mirror.get(held).map_or(0, |bytes| u64::from_ne_bytes(bytes.try_into().unwrap()));
                let compare = if self.pair.rng.one_in(2) { held } else { self.pair.rng.bits() };
                SendOp::CompareSwap { at, compare, swap: self.pair.rng.bits() }
            }
            7 => SendOp::FetchAdd { at, add: self.pair.rng.bits() },
            _ => SendOp::LocalInv(self.spare_key(end, faulty, Status::LocProt, &mut fault)),
        };
        let rights = if op.has_response() { Access::LOCAL_WRITE } else { Access::empty() };
        let (mut sges, data) = self.register(end, len, rights);
        if faulty && fault.is_none() && len > 0 {
            fault = Some(Status::LocProt);
            // Nobody looks at a piece without bytes.
            let sge = sges.iter_mut().find(|sge| sge.len > 0).unwrap();
            match self.pair.rng.within(0..3) {
                0 => sge.key ^= 0x8000,
                1 => sge.addr -= 8,
                _ if op.has_response() => sges = self.register(end, len, Access::empty()).0,
                _ => sge.addr = u64::MAX,
            }
        }
        let mut flags = SendFlags::empty();
        flags.set(SendFlags::SIGNALED, !self.pair.rng.one_in(3));
        flags.set(SendFlags::FENCE, self.pair.rng.one_in(5));
        flags.set(SendFlags::SOLICITED, self.pair.rng.one_in(4));
        let direction = &mut self.oracle.directions[end as usize];
        let wr = Wr { id: direction.ops.len() as u64, op, flags, sges };
        direction.post(Op::new(wr.clone(), data, fault, self.pair.now));
        self.pair.side(end).post(wr);
    }

    /// A key that may be invalidated, or one that is none.
    fn spare_key(&mut self, end: End, faulty: bool, status: Status, fault: &mut Option<Status>) -> u32 {
        let key = self.pair.side(end).memory.register(vec![0; 8], Access::all()).key;
        if !faulty {
            return key;
        }
        *fault = Some(status);
        key ^ 0x8000
    }

    /// Memory that peers have no right to.
    fn forbidden(&mut self, end: End, len: u32) -> Remote {
        let sge = self.pair.side(end).memory.register(vec![0; len as usize], Access::LOCAL_WRITE);
        Remote { addr: sge.addr, rkey: sge.key }
    }

    fn post_receive(&mut self, end: End) {
        if self.pair.side(end).engine.recv_room() == 0 {
            return;
        }
        let faulty = self.mishap == Mishap::Faults && self.pair.rng.one_in(25);
        let (mut len, mut rights) = (if self.big { LONGEST_BIG } else { LONGEST }, Access::LOCAL_WRITE);
        if faulty && self.pair.rng.one_in(2) {
            rights = Access::empty();
        } else if faulty {
            len = self.pair.rng.within(0..u64::from(len)) as u32;
        }
        let (sges, _) = self.register(end, len, rights);
        let direction = &mut self.oracle.directions[self.pair.peer(end) as usize];
        let id = direction.receives.len() as u64;
        direction.receives.push(Reception { sges: sges.clone(), len, bad: rights.is_empty() });
        self.pair.side(end).post_receive(id, sges);
    }

    /// Fresh memory in one to three pieces, and what it holds.
    fn register(&mut self, end: End, len: u32, rights: Access) -> (Vec<Sge>, Vec<u8>) {
        let mut data = vec![0; len as usize];
        self.pair.rng.fill(&mut data);
        let mut cuts = [0, self.pair.rng.within(0..u64::from(len) + 1), self.pair.rng.within(0..u64::from(len) + 1)];
        cuts.sort_unstable();
        let cuts = if self.pair.rng.one_in(2) { [0, 0, 0] } else { cuts };
        let mut sges = Vec::new();
        for (i, &from) in cuts.iter().enumerate() {
            let to = cuts.get(i + 1).map_or(len as usize, |&to| to as usize);
            let bytes = data[from as usize..to].to_vec();
            if !bytes.is_empty() || self.pair.rng.one_in(8) {
                sges.push(self.pair.side(end).memory.register(bytes, rights));
            }
        }
        (sges, data)
    }

    fn length(&mut self) -> u32 {
        let rng = &mut self.pair.rng;
        if self.big {
            return rng.pick(&[0, 1, MAX_CHUNK - 1, MAX_CHUNK, MAX_CHUNK + 1, 2 * MAX_CHUNK, 2 * MAX_CHUNK + 7]);
        }
        match rng.within(0..4) {
            0 => rng.pick(&[0, 1, 8]),
            1 | 2 => rng.within(0..65) as u32,
            _ => rng.within(0..u64::from(LONGEST) + 1) as u32,
        }
    }

    /// Lets everything come to its end, and looks whether it is the right one.
    fn finish(&mut self) {
        for &end in self.pair.ends() {
            self.pair.side(end).engine.set_paused(false);
        }
        if !self.stalled {
            self.settle();
        }
        let clean = matches!(self.mishap, Mishap::None | Mishap::Faults);
        assert!(!clean || self.is_at_rest(), "requests hang, although nobody is missing: {:#?}", self.pair);
        self.stalled = false;
        for _ in 0..20 {
            if self.is_at_rest() {
                break;
            }
            self.pair.tick(RETRY / 4);
            for &end in self.pair.ends() {
                let side = self.pair.side(end);
                side.transmit_if_needed(usize::MAX);
                // Also where nothing moves any more, what had arrived before is free some day.
                while side.give_back() {}
            }
            self.oracle.observe(&mut self.pair);
            if self.mishap != Mishap::Stall {
                self.settle();
            }
        }
        if self.mishap == Mishap::Stall {
            // Who waits for a receive has no deadline where it waits for ever; the stream's own keep-alive ends that.
            for &end in self.pair.ends() {
                let engine = &self.pair.side(end).engine;
                assert!(
                    engine.is_starved() || engine.unsent() + engine.in_flight() == 0,
                    "no deadline: {:#?}",
                    self.pair
                );
            }
            self.pair.cut(0);
            self.settle();
        }
        assert!(self.is_at_rest(), "requests hang for ever: {:#?}", self.pair);
        for &end in self.pair.ends() {
            self.oracle.excuses.closed[end as usize] = true;
            self.pair.side(end).engine.fail(None);
        }
        self.settle();
        self.oracle.conclude(&mut self.pair);
        if clean {
            self.oracle.conclude_exactly(&self.pair);
        }
    }

    /// Delivers everything; where receives are missing by chance only, posts them.
    fn settle(&mut self) {
        loop {
            self.pair.settle();
            self.oracle.observe(&mut self.pair);
            let mut posted = false;
            for &end in self.pair.ends() {
                let from = self.pair.peer(end);
                let wanted = self.oracle.directions[from as usize].receives_wanted();
                let n = wanted.min(self.pair.side(end).engine.recv_room());
                for _ in 0..if self.mishap == Mishap::Starve { 0 } else { n } {
                    self.post_receive(end);
                    posted = true;
                }
            }
            if !posted {
                return;
            }
        }
    }

    /// Nobody waits for a send request.
    fn is_at_rest(&mut self) -> bool {
        self.pair.ends().iter().all(|&end| {
            let engine = &self.pair.side(end).engine;
            engine.unsent() == 0 && engine.in_flight() == 0
        })
    }
}

const RETRY: u64 = 1_000_000_000;
const TARGET: usize = 1024;
const TARGET_BIG: usize = 3 * MAX_CHUNK as usize;
const LONGEST: u32 = 600;
const LONGEST_BIG: u32 = 3 * MAX_CHUNK;
