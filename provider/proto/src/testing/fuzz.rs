//! What a fuzzer feeds, and what must hold then; `fuzz/` and the replay of its corpus call these.

use alloc::vec;
use alloc::vec::Vec;

use super::memory::Sge;
use super::pair::Pair;
use super::side::Wr;
use crate::frame::{Frame, HEADER_LEN, MAX_HEADER_LEN};
use crate::hello::{HELLO_LEN, Hello};
use crate::work::{Access, SendFlags, SendOp};
use crate::{Op, Remote};

/// Bytes as a frame header: none of them panics, and what is a frame is encoded to the same bytes again.
pub fn frame(bytes: &[u8]) {
    let Ok(decoded) = Frame::decode(bytes) else { return };
    let Some((frame, len)) = decoded else {
        assert!(bytes.len() < MAX_HEADER_LEN, "a whole header is not enough");
        return;
    };
    assert!((HEADER_LEN..=MAX_HEADER_LEN).contains(&len));
    let (again, again_len) = frame.encode();
    assert_eq!(&again[..again_len], &bytes[..len]);
}

/// Bytes as a hello: none of them panics, and what is a hello survives being sent on.
pub fn hello(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first_chunk::<HELLO_LEN>() else { return };
    let Ok(hello) = Hello::decode(first) else { return };
    assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    let ours = Hello { src_qpn: hello.dst_qpn, dst_qpn: hello.src_qpn, ..hello };
    let _ = hello.answers(&ours);
    // Any hello may open a connection; what follows it is frames.
    let mut pair = Pair::unconnected(0, super::Setup::default());
    if pair.a.engine.connect(&hello, 0).is_ok() {
        pair.a.receive(rest);
        pair.a.transmit(usize::MAX);
    }
}

/// Bytes as what a peer sends to a QP at work; the first one says in what pieces. Whatever they are, the engine goes
/// on or fails; nothing without a right is touched; and in the end each request has completed once.
pub fn engine(bytes: &[u8]) {
    let Some((&pieces, stream)) = bytes.split_first() else { return };
    let mut pair = subject();
    let guard = pair.a.memory.register(vec![7; 64], Access::LOCAL_WRITE);
    pair.a.transmit(usize::MAX);
    for piece in stream.chunks(1 << (pieces % 16)) {
        pair.a.receive(piece);
        pair.a.transmit(1 << 20);
        pair.a.poll();
    }
    assert_eq!(pair.a.memory.read(guard, Access::empty()), Ok(&[7; 64][..]));
    if pair.a.fatal.is_some() {
        assert!(pair.a.engine.has_failed());
    }
    pair.a.engine.fail(None);
    pair.a.transmit(usize::MAX);
    let (sent, received) = (pair.a.completions(), pair.a.receptions());
    let ids = |completions: &[crate::Completion]| completions.iter().map(|c| c.id).collect::<Vec<_>>();
    assert_eq!(ids(&sent), (0..REQUESTS).collect::<Vec<_>>());
    assert_eq!(ids(&received), (0..RECEIVES).collect::<Vec<_>>());
    pair.a.end_of_stream();
    assert_eq!(pair.a.engine.need(), crate::Need::Nothing);
}

/// A connected pair whose first side has memory for its peer, receives, and requests of every kind that wait to be sent.
#[must_use]
pub fn subject() -> Pair {
    let mut pair = Pair::unconnected(0, super::Setup::default());
    let memory = [&mut pair.a, &mut pair.b].map(|side| side.memory.register(vec![0; 512], Access::all()));
    for id in 0..RECEIVES {
        let a = pair.a.memory.register(vec![0; 64], Access::LOCAL_WRITE);
        pair.a.post_receive(id, vec![a]);
        let b = pair.b.memory.register(vec![0; 64], Access::LOCAL_WRITE);
        pair.b.post_receive(id, vec![b]);
    }
    pair.connect();
    let at = Remote { addr: memory[1].addr, rkey: memory[1].key };
    let ops = [
        (SendOp::Read(at), 16),
        (SendOp::Write(at), 100),
        (SendOp::FetchAdd { at, add: 1 }, 8),
        (SendOp::Send, 5),
        (SendOp::CompareSwap { at, compare: 1, swap: 2 }, 8),
        (SendOp::WriteImm(at, 3), 0),
    ];
    for (id, (op, len)) in (0..).zip(ops) {
        let sge = pair.a.memory.register(vec![1; len], Access::LOCAL_WRITE);
        pair.a.post(Wr { id, op, flags: SendFlags::SIGNALED, sges: vec![sge] });
    }
    pair
}

/// The memory that [`subject`] offers to its peer.
#[must_use]
pub fn offered(pair: &Pair) -> Sge {
    pair.a.memory.first()
}

/// An operation's smallest frame, for a corpus.
#[must_use]
pub fn smallest(op: Op) -> Vec<u8> {
    let (bytes, len) = Frame::new(op).encode();
    bytes[..len].to_vec()
}

const REQUESTS: u64 = 6;
const RECEIVES: u64 = 4;
