//! Readable schedules: each a rule of RC, or a symptom that once was seen.

use dmverbs_proto::testing::{End, Pair, Setup, Sge, Side, Wr};
use dmverbs_proto::{
    Access, Completion, Flags, Frame, HEADER_LEN, Limits, MAX_CHUNK, Need, Op, Remote, SendFlags, SendOp, Status,
    Timing, Window,
};

use End::{A, B};
use Status::{LocLen, LocProt, RemAccess, RemInvReq, RemOp, RetryExc, RnrRetryExc, Success, WrFlush};

mod failure;
mod patience;
mod work;

const MS: u64 = 1_000_000;

fn paired(setup: Setup) -> Pair {
    let mut pair = Pair::unconnected(0, setup);
    pair.connect();
    pair
}

fn at(sge: Sge) -> Remote {
    Remote { addr: sge.addr, rkey: sge.key }
}

fn wr(id: u64, op: SendOp, flags: SendFlags, sge: Sge) -> Wr {
    Wr { id, op, flags, sges: vec![sge] }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 + 1).collect()
}

/// What the schedules above say in one word.
trait Words {
    /// Fresh memory that peers may use.
    fn target(&mut self, len: u32) -> Sge;
    /// Posts a signaled request with this payload, or, for READs and atomics, this landing place; gives its memory.
    fn send(&mut self, id: u64, op: SendOp, payload: &[u8]) -> Sge;
    fn send_with(&mut self, id: u64, op: SendOp, flags: SendFlags, payload: &[u8]) -> Sge;
    /// Posts a receive of fresh memory.
    fn receive_into(&mut self, id: u64, len: u32) -> Sge;
    fn bytes(&self, sge: Sge) -> &[u8];
    fn statuses(&mut self) -> Vec<(u64, Status)>;
    fn received(&mut self) -> Vec<(u64, Status)>;
}

impl Words for Side {
    fn target(&mut self, len: u32) -> Sge {
        self.memory.register(vec![0; len as usize], Access::all())
    }

    fn send(&mut self, id: u64, op: SendOp, payload: &[u8]) -> Sge {
        self.send_with(id, op, SendFlags::SIGNALED, payload)
    }

    fn send_with(&mut self, id: u64, op: SendOp, flags: SendFlags, payload: &[u8]) -> Sge {
        let sge = self.memory.register(payload.to_vec(), Access::LOCAL_WRITE);
        self.post(wr(id, op, flags, sge));
        sge
    }

    fn receive_into(&mut self, id: u64, len: u32) -> Sge {
        let sge = self.memory.register(vec![0; len as usize], Access::LOCAL_WRITE);
        self.post_receive(id, vec![sge]);
        sge
    }

    fn bytes(&self, sge: Sge) -> &[u8] {
        self.memory.read(sge, Access::empty()).unwrap()
    }

    fn statuses(&mut self) -> Vec<(u64, Status)> {
        self.completions().iter().map(|Completion { id, status, .. }| (*id, *status)).collect()
    }

    fn received(&mut self) -> Vec<(u64, Status)> {
        self.receptions().iter().map(|Completion { id, status, .. }| (*id, *status)).collect()
    }
}
