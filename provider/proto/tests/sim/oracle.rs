//! What must happen: a flat-memory model of two QPs that knows what was posted, and RC's rules, and nothing else.
//!
//! Every change of memory must be the next bytes of the oldest request not yet executed (so a later message is never
//! visible before an earlier one); every completion must be the next of its queue, and true.

use std::collections::VecDeque;

use dmverbs_proto::testing::{End, Origin, Pair, Placed, Sge, Wr};
use dmverbs_proto::{Access, Completion, Extra, MAX_CHUNK, SendFlags, SendOp, Status, Tick, WcOpcode};

/// A posted send request.
#[derive(Debug)]
pub struct Op {
    pub wr: Wr,
    pub len: u32,
    /// What SEND and WRITE carry.
    pub data: Vec<u8>,
    /// How it has to fail, if it reaches the head of its queue.
    pub fault: Option<Status>,
    pub posted_at: Tick,
    /// What an atomic found.
    before: Option<u64>,
}

impl Op {
    pub fn new(wr: Wr, data: Vec<u8>, fault: Option<Status>, posted_at: Tick) -> Op {
        let len = wr.sges.iter().map(|sge| sge.len).sum();
        Op { wr, len, data, fault, posted_at, before: None }
    }

    fn is_atomic(&self) -> bool {
        matches!(self.wr.op, SendOp::CompareSwap { .. } | SendOp::FetchAdd { .. })
    }

    fn places_at_peer(&self) -> u32 {
        match self.wr.op {
            SendOp::Read(_) | SendOp::LocalInv(_) => 0,
            _ => self.len,
        }
    }

    fn places_here(&self) -> u32 {
        if self.wr.op.has_response() { self.len } else { 0 }
    }
}

/// A posted receive.
#[derive(Debug)]
pub struct Reception {
    pub sges: Vec<Sge>,
    pub len: u32,
    /// Its memory may not be written.
    pub bad: bool,
}

/// How one queue has fared.
#[derive(Debug, Default)]
struct Queue {
    completed: usize,
    failed: Option<(usize, Status)>,
}

/// The requests of one side, and the receives of its peer that they consume.
#[derive(Debug, Default)]
pub struct Direction {
    pub ops: Vec<Op>,
    pub receives: Vec<Reception>,
    /// The receive that each request consumes.
    consumes: Vec<Option<usize>>,
    consumers: Vec<usize>,
    sends: Queue,
    receptions: Queue,
    /// The request whose bytes come next at the peer, and how many of them are there.
    executing: usize,
    placed: u32,
    /// The same for responses here.
    answering: usize,
    answered: u32,
    /// What was overwritten in the peer's target, by which request.
    journal: VecDeque<(usize, u64, Vec<u8>)>,
}

/// What of the unusual has been done to a pair, and so may be seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Excuses {
    /// The stream was cut, or stands still.
    pub lost: bool,
    /// Memory was deregistered.
    pub revoked: bool,
    /// This side's QP was told to fail.
    pub closed: [bool; 2],
    /// Receives may be missing for this long.
    pub starved: Option<Tick>,
}

#[derive(Debug)]
pub struct Oracle {
    pub directions: [Direction; 2],
    pub targets: [Sge; 2],
    pub mirrors: [Vec<u8>; 2],
    pub excuses: Excuses,
}

impl Oracle {
    pub fn new(pair: &mut Pair, targets: [Sge; 2]) -> Oracle {
        let mirrors = [(End::A, 0), (End::B, 1)]
            .map(|(end, i)| pair.side(end).memory.read(targets[i], Access::empty()).unwrap().to_vec());
        Oracle { directions: Default::default(), targets, mirrors, excuses: Excuses::default() }
    }

    /// Looks at everything that has happened since the last call.
    pub fn observe(&mut self, pair: &mut Pair) {
        for &end in pair.ends() {
            assert_eq!(pair.side(end).fatal, None, "{end:?} says its honest peer broke the protocol");
            for placed in std::mem::take(&mut pair.side(end).placed) {
                match placed.by {
                    Origin::Peer => self.on_executed(pair.peer(end), end, &placed),
                    Origin::Response => self.directions[end as usize].on_answered(&placed),
                }
            }
        }
        for &end in pair.ends() {
            for completion in pair.side(end).completions() {
                self.on_completion(pair, end, &completion);
            }
            for completion in pair.side(end).receptions() {
                let from = pair.peer(end);
                let revoked = self.excuses.revoked;
                self.directions[from as usize].on_reception(pair, end, &completion, revoked);
            }
        }
    }

    fn on_executed(&mut self, requester: End, responder: End, placed: &Placed) {
        let direction = &mut self.directions[requester as usize];
        let target = self.targets[responder as usize];
        let mirror = &mut self.mirrors[responder as usize];
        let (mut addr, mut bytes) = (placed.addr, &placed.bytes[..]);
        while !bytes.is_empty() {
            while direction.step() {}
            let i = direction.executing;
            let op = direction.ops.get(i).expect("the peer executes more than was posted");
            let done_by_then = direction.placed == op.places_at_peer();
            assert!(!done_by_then, "{op:?} of {requester:?} is executed beyond its fault");
            let at = direction.destination(i).expect("a message is placed without a receive");
            let n = at.len.min(bytes.len() as u32);
            assert_eq!(addr, at.addr, "bytes of {:?} go elsewhere", direction.ops[i].wr);
            let (now, later) = bytes.split_at(n as usize);
            let here = addr.wrapping_sub(target.addr) as usize;
            if here < mirror.len() {
                let old = &mut mirror[here..here + n as usize];
                direction.journal.push_back((i, addr, old.to_vec()));
                let op = &mut direction.ops[i];
                if op.is_atomic() {
                    op.execute(old);
                    assert_eq!(old, now, "{op:?} computes otherwise");
                }
                old.copy_from_slice(now);
            }
            let op = &direction.ops[i];
            let from = direction.placed as usize;
            assert!(op.is_atomic() || op.data[from..from + n as usize] == *now, "wrong bytes of {:?}", op.wr);
            direction.placed += n;
            (addr, bytes) = (addr + u64::from(n), later);
        }
    }

    fn on_completion(&mut self, pair: &mut Pair, end: End, completion: &Completion) {
        let i = completion.id as usize;
        let peer = pair.peer(end);
        let direction = &mut self.directions[end as usize];
        let from = direction.sends.completed;
        assert!(i >= from && i < direction.ops.len(), "{completion:?} at {end:?} came twice, or was never posted");
        let flushing = direction.sends.failed.is_some();
        assert!(!flushing || i == from, "{completion:?} at {end:?} overtakes another while flushing");
        let failed = completion.status != Status::Success;
        for k in from..i + usize::from(!failed) {
            let op = &self.directions[end as usize].ops[k];
            assert!(k == i || !op.wr.flags.contains(SendFlags::SIGNALED), "{op:?} of {end:?} is left out");
            self.check_success(pair, end, k);
        }
        let direction = &mut self.directions[end as usize];
        direction.sends.completed = i + 1;
        let op = &direction.ops[i];
        assert_eq!(completion.opcode, op.wr.op.wc_opcode());
        if !failed {
            assert!(!flushing, "{completion:?} at {end:?} succeeds after an error");
            assert!(op.wr.flags.contains(SendFlags::SIGNALED), "{completion:?} at {end:?} was not asked for");
            assert_eq!(completion.len, op.len);
            return;
        }
        if flushing {
            assert_eq!(completion.status, Status::WrFlush, "{completion:?} at {end:?} is no flush");
            return;
        }
        direction.sends.failed = Some((i, completion.status));
        let fault = direction.fault(i);
        let excuses = self.excuses;
        let gone = pair.side(peer).engine.has_failed() && peer != end;
        let refused = pair.side(end).refused.is_some();
        let allowed = match completion.status {
            status if fault == Some(status) => true,
            Status::RetryExc => gone || excuses.lost,
            Status::WrFlush => refused || excuses.closed[end as usize] || excuses.revoked,
            Status::RemAccess | Status::RemOp => excuses.revoked,
            Status::LocProt if matches!(op.wr.op, SendOp::LocalInv(_)) => excuses.revoked,
            Status::LocProt => {
                let memory = &pair.side(end).memory;
                op.wr.sges.iter().any(|&sge| memory.check(sge, Access::empty()).is_err())
            }
            Status::RnrRetryExc => {
                op.wr.op.consumes_receive()
                    && excuses.starved.is_some_and(|patience| pair.now - op.posted_at >= patience)
            }
            _ => false,
        };
        assert!(allowed, "{completion:?} at {end:?} for {op:?}, which should have ended with {fault:?}");
    }

    /// Request `i` of `end` is said to be a success: is it?
    fn check_success(&mut self, pair: &mut Pair, end: End, i: usize) {
        let peer = pair.peer(end);
        let direction = &mut self.directions[end as usize];
        assert_eq!(direction.fault(i), None, "{:?} of {end:?} succeeded", direction.ops[i]);
        while direction.executing <= i && direction.step() {}
        assert!(direction.executing > i, "{:?} of {end:?} succeeded before it was executed", direction.ops[i].wr);
        while direction.answering <= i && direction.step_answer() {}
        assert!(direction.answering > i, "{:?} of {end:?} succeeded before it was answered", direction.ops[i].wr);
        let op = &direction.ops[i];
        if op.wr.op.has_response() && !self.excuses.revoked {
            let memory = &pair.side(end).memory;
            let got: Vec<u8> =
                op.wr.sges.iter().flat_map(|&sge| memory.read(sge, Access::empty()).unwrap()).copied().collect();
            match op.wr.op {
                SendOp::Read(from) => {
                    let here = from.addr.wrapping_sub(self.targets[peer as usize].addr) as usize;
                    let now =
                        if op.len == 0 { &[] } else { &self.mirrors[peer as usize][here..here + op.len as usize] };
                    direction.check_read(i, from.addr, &got, now);
                }
                _ => assert_eq!(got, op.before.unwrap().to_ne_bytes(), "{op:?} of {end:?} got something else"),
            }
        }
    }

    /// Nothing more can happen: everything must have completed, and memory be what the model says.
    pub fn conclude(&mut self, pair: &mut Pair) {
        for &end in pair.ends() {
            let ops = self.directions[end as usize].ops.len();
            for i in self.directions[end as usize].sends.completed..ops {
                let direction = &self.directions[end as usize];
                let op = &direction.ops[i];
                assert!(direction.sends.failed.is_none(), "{op:?} of {end:?} was never flushed");
                assert!(!op.wr.flags.contains(SendFlags::SIGNALED), "{op:?} of {end:?} never completed");
                self.check_success(pair, end, i);
            }
            let direction = &self.directions[end as usize];
            assert_eq!(
                direction.receptions.completed,
                direction.receives.len(),
                "receives for {end:?} never completed"
            );
            let memory = pair.side(end).memory.read(self.targets[end as usize], Access::empty());
            if let Ok(memory) = memory {
                assert!(memory == self.mirrors[end as usize], "memory of {end:?} is not what the model says");
            }
        }
    }

    /// In a run where nothing unusual was done, and only one side made a mistake, its requests end exactly as they have to.
    pub fn conclude_exactly(&self, pair: &Pair) {
        for &end in pair.ends() {
            let (this, other) = (&self.directions[end as usize], &self.directions[pair.peer(end) as usize]);
            let first = (0..this.ops.len()).find_map(|i| this.fault(i).map(|status| (i, status)));
            let other_is_clean = (0..other.ops.len()).all(|i| other.fault(i).is_none());
            if pair.peer(end) == end || !other_is_clean {
                continue;
            }
            assert_eq!(this.sends.failed, first, "requests of {end:?}");
            let Some((i, _)) = first else { continue };
            let Some(n) = this.consumes[i] else { continue };
            if let Some((_, Some(status))) = this.reception_fault(i) {
                assert_eq!(this.receptions.failed, Some((n, status)), "receives for {end:?}");
            }
        }
    }
}

impl Op {
    /// What the peer's memory becomes.
    fn execute(&mut self, memory: &mut [u8]) {
        let before = u64::from_ne_bytes((&*memory).try_into().unwrap());
        self.before = Some(before);
        let after = match self.wr.op {
            SendOp::CompareSwap { compare, swap, .. } if compare == before => swap,
            SendOp::FetchAdd { add, .. } => before.wrapping_add(add),
            _ => before,
        };
        memory.copy_from_slice(&after.to_ne_bytes());
    }
}

impl Direction {
    pub fn post(&mut self, op: Op) {
        let i = self.ops.len();
        self.consumes.push(op.wr.op.consumes_receive().then_some(self.consumers.len()));
        if op.wr.op.consumes_receive() {
            self.consumers.push(i);
        }
        self.ops.push(op);
    }

    /// Receives that the posted requests still lack.
    pub fn receives_wanted(&self) -> usize {
        self.consumers.len().saturating_sub(self.receives.len())
    }

    /// How request `i` has to fail, at its requester.
    fn fault(&self, i: usize) -> Option<Status> {
        self.reception_fault(i).map(|(status, _)| status).or(self.ops[i].fault)
    }

    /// How request `i` has to fail for its receive's sake: at the requester, and at the receiver.
    fn reception_fault(&self, i: usize) -> Option<(Status, Option<Status>)> {
        let op = &self.ops[i];
        let never_sent = matches!(op.fault, Some(Status::LocProt | Status::LocLen));
        if never_sent || matches!(op.wr.op, SendOp::WriteImm(..)) {
            return None;
        }
        let receive = self.receives.get(self.consumes[i]?)?;
        if op.len > receive.len {
            Some((Status::RemInvReq, Some(Status::LocLen)))
        } else if receive.bad && op.len > 0 {
            Some((Status::RemOp, Some(Status::LocProt)))
        } else {
            None
        }
    }

    /// A key to invalidate is looked at when the payload is in its place.
    fn fails_late(&self, i: usize) -> bool {
        matches!(self.ops[i].wr.op, SendOp::SendInv(_))
            && self.reception_fault(i).is_none()
            && self.fault(i) == Some(Status::RemAccess)
    }

    /// Goes on to the next request, if this one is executed as far as memory tells.
    fn step(&mut self) -> bool {
        let Some(op) = self.ops.get(self.executing) else { return false };
        let done = self.placed == op.places_at_peer() && self.fault(self.executing).is_none();
        if done {
            self.executing += 1;
            self.placed = 0;
        }
        done
    }

    fn step_answer(&mut self) -> bool {
        let Some(op) = self.ops.get(self.answering) else { return false };
        let done = self.answered == op.places_here();
        if done {
            self.answering += 1;
            self.answered = 0;
        }
        done
    }

    /// Where the next bytes of request `i` go.
    fn destination(&self, i: usize) -> Option<Sge> {
        let op = &self.ops[i];
        assert!(self.fault(i).is_none() || self.fails_late(i), "{op:?} is executed in spite of its fault");
        let whole = |remote: dmverbs_proto::Remote| Sge { addr: remote.addr, len: op.len, key: remote.rkey };
        match op.wr.op {
            SendOp::Write(to) | SendOp::WriteImm(to, _) => piece(&[whole(to)], self.placed),
            SendOp::CompareSwap { at, .. } | SendOp::FetchAdd { at, .. } => piece(&[whole(at)], self.placed),
            _ => piece(&self.receives.get(self.consumes[i]?)?.sges, self.placed),
        }
    }

    fn on_answered(&mut self, placed: &Placed) {
        let (mut addr, mut left) = (placed.addr, placed.bytes.len() as u32);
        while left > 0 {
            while self.step_answer() {}
            let op = self.ops.get(self.answering).expect("a response to nothing");
            let at = piece(&op.wr.sges, self.answered).unwrap();
            assert_eq!(addr, at.addr, "a response to {op:?} goes elsewhere");
            let n = at.len.min(left);
            self.answered += n;
            (addr, left) = (addr + u64::from(n), left - n);
        }
    }

    /// Each byte that a READ got must be one that the memory held after all earlier requests, and before any later one
    /// that was fenced. `now` is what it holds now.
    fn check_read(&self, i: usize, addr: u64, got: &[u8], now: &[u8]) {
        let fenced = |op: &Op| op.wr.flags.contains(SendFlags::FENCE);
        let end = (i + 1..self.ops.len()).find(|&k| fenced(&self.ops[k])).unwrap_or(self.ops.len());
        let mut held = now.to_vec();
        let mut seen = vec![false; got.len()];
        let compare = |held: &[u8], seen: &mut [bool]| {
            for (seen, (held, got)) in seen.iter_mut().zip(held.iter().zip(got)) {
                *seen |= held == got;
            }
        };
        let mut compared = false;
        for (by, at, old) in self.journal.iter().rev() {
            if *by < end && !compared {
                compare(&held, &mut seen);
                compared = true;
            }
            if *by < i {
                break;
            }
            for (k, byte) in old.iter().enumerate() {
                let here = at.wrapping_add(k as u64).wrapping_sub(addr);
                if here < held.len() as u64 {
                    held[here as usize] = *byte;
                    seen[here as usize] |= *by < end && *byte == got[here as usize];
                }
            }
        }
        compare(&held, &mut seen);
        assert!(seen.iter().all(|&seen| seen), "{:?} got what was never there in its time", self.ops[i].wr);
    }

    fn on_reception(&mut self, pair: &mut Pair, end: End, completion: &Completion, revoked: bool) {
        let n = self.receptions.completed;
        assert_eq!(completion.id as usize, n, "{completion:?} at {end:?} came out of turn");
        self.receptions.completed += 1;
        if completion.status == Status::WrFlush {
            self.receptions.failed.get_or_insert((n, Status::WrFlush));
            return;
        }
        assert_eq!(self.receptions.failed, None, "{completion:?} at {end:?} comes after an error");
        let &i = self.consumers.get(n).unwrap_or_else(|| panic!("{completion:?} at {end:?} for nothing"));
        if completion.status != Status::Success {
            self.receptions.failed = Some((n, completion.status));
            let fault = self.reception_fault(i).and_then(|(_, at_receiver)| at_receiver);
            let allowed = fault == Some(completion.status) || (revoked && completion.status == Status::LocProt);
            assert!(allowed, "{completion:?} at {end:?} for {:?}, which should have ended with {fault:?}", self.ops[i]);
            return;
        }
        while self.executing <= i && self.step() {}
        let op = &self.ops[i];
        assert!(self.executing > i, "{completion:?} at {end:?} before {op:?} is there");
        let (opcode, extra) = match op.wr.op {
            SendOp::WriteImm(_, imm) => (WcOpcode::RecvRdmaWithImm, Extra::Imm(imm)),
            SendOp::SendImm(imm) => (WcOpcode::Recv, Extra::Imm(imm)),
            SendOp::SendInv(key) => (WcOpcode::Recv, Extra::Invalidated(key)),
            _ => (WcOpcode::Recv, Extra::None),
        };
        let solicited = op.wr.flags.contains(SendFlags::SOLICITED);
        assert_eq!(
            (completion.opcode, completion.extra, completion.len, completion.solicited),
            (opcode, extra, op.len, solicited)
        );
        if opcode == WcOpcode::Recv && op.len <= MAX_CHUNK {
            let memory = &pair.side(end).memory;
            let sges = &self.receives[n].sges;
            // Of what has been deregistered since, nothing is seen.
            let got: Result<Vec<_>, _> = sges.iter().map(|&sge| memory.read(sge, Access::empty())).collect();
            let right = got.map_or(revoked, |got| got.concat()[..op.data.len()] == op.data);
            assert!(right, "{completion:?} shows wrong bytes");
        }
    }
}

/// What of `sges` lies at `offset`.
fn piece(sges: &[Sge], mut offset: u32) -> Option<Sge> {
    for sge in sges {
        if offset < sge.len {
            return Some(sge.part(u64::from(offset), sge.len - offset));
        }
        offset -= sge.len;
    }
    None
}
