//! Replays the fuzzers' corpus, and keeps its seeds what the code encodes.
//!
//! Files named `seed-…` are made here; `DMVERBS_BLESS=1` writes them anew. All others, if there are any, were found by fuzzing.

use std::path::{Path, PathBuf};
use std::{env, fs};

use dmverbs_proto::testing::{End, Pair, Wr, fuzz};
use dmverbs_proto::{Access, Flags, Frame, Hello, Op, Remote, SendFlags, SendOp, Verdict};

#[test]
fn the_corpus_breaks_nothing() {
    for name in ["engine", "frame", "hello"] {
        let run = match name {
            "engine" => fuzz::engine,
            "frame" => fuzz::frame,
            _ => fuzz::hello,
        };
        let mut files = 0;
        for entry in fs::read_dir(corpus().join(name)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            run(&fs::read(&path).unwrap());
            files += 1;
        }
        assert!(files >= seeds().iter().filter(|seed| seed.0 == name).count(), "{name} lacks its seeds");
    }
}

#[test]
fn the_seeds_are_what_the_code_encodes() {
    for (target, name, bytes) in seeds() {
        let path = corpus().join(target).join(format!("seed-{name}"));
        if env::var_os("DMVERBS_BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let there = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(there == bytes, "{} is stale", path.display());
    }
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

type Seed = (&'static str, String, Vec<u8>);

fn seeds() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = Vec::new();
    for op in OPS {
        seeds.push(("frame", format!("{op:?}").to_lowercase(), fuzz::smallest(op)));
    }
    let full = Frame {
        flags: Flags::FIRST | Flags::LAST | Flags::IMM,
        len: 1,
        imm: 9,
        ack: 7,
        credit: 3,
        ..Frame::new(Op::Send)
    };
    seeds.push(("frame", "every-field".into(), full.encode().0.to_vec()));
    for verdict in [Verdict::Accept, Verdict::NotThere, Verdict::Mismatch, Verdict::Version] {
        let mut bytes = hello(verdict).encode().to_vec();
        bytes.extend(fuzz::smallest(Op::Ack));
        seeds.push(("hello", format!("{verdict:?}").to_lowercase(), bytes));
    }
    for (i, (name, ops)) in conversations().into_iter().enumerate() {
        seeds.push(("engine", name.into(), stream(i as u8, &ops)));
    }
    seeds.push(("engine", "answers".into(), answers()));
    seeds.push(("engine", "write-two-frames".into(), two_frames(Op::Write)));
    seeds.push(("engine", "send-two-frames".into(), two_frames(Op::Send)));
    for op in OPS {
        let name = format!("lone-{op:?}").to_lowercase();
        seeds.push(("engine", name, [vec![5], fuzz::smallest(op)].concat()));
    }
    seeds
}

/// What a peer may ask of the subject; the offsets are within the memory it offers.
fn conversations() -> Vec<(&'static str, Vec<(Ask, usize)>)> {
    vec![
        ("write", vec![(Ask::Write, 64), (Ask::Write, 0)]),
        ("write-imm", vec![(Ask::WriteImm, 16), (Ask::WriteImm, 0)]),
        ("send", vec![(Ask::Send, 40), (Ask::SendImm, 0), (Ask::SendInv, 8)]),
        ("send-too-long", vec![(Ask::Send, 65)]),
        ("read", vec![(Ask::Read, 512), (Ask::Read, 0)]),
        ("atomics", vec![(Ask::CompareSwap, 8), (Ask::FetchAdd, 8)]),
        ("mixture", vec![(Ask::Read, 100), (Ask::Write, 10), (Ask::FetchAdd, 8), (Ask::Send, 3), (Ask::WriteImm, 1)]),
    ]
}

#[derive(Clone, Copy)]
enum Ask {
    CompareSwap,
    FetchAdd,
    Read,
    Send,
    SendImm,
    SendInv,
    Write,
    WriteImm,
}

/// The peer's stream, behind the byte that says how to cut it.
fn stream(pieces: u8, asks: &[(Ask, usize)]) -> Vec<u8> {
    let mut pair = fuzz::subject();
    let offered = fuzz::offered(&pair);
    let at = Remote { addr: offered.addr, rkey: offered.key };
    for (id, &(ask, len)) in (0..).zip(asks) {
        let op = match ask {
            Ask::CompareSwap => SendOp::CompareSwap { at, compare: 0, swap: 1 },
            Ask::FetchAdd => SendOp::FetchAdd { at, add: 1 },
            Ask::Read => SendOp::Read(at),
            Ask::Send => SendOp::Send,
            Ask::SendImm => SendOp::SendImm(4),
            Ask::SendInv => SendOp::SendInv(offered.key),
            Ask::Write => SendOp::Write(at),
            Ask::WriteImm => SendOp::WriteImm(at, 5),
        };
        // Long runs of one byte compress well.
        let sge = pair.b.memory.register(vec![2; len], Access::LOCAL_WRITE);
        pair.b.post(Wr { id, op, flags: SendFlags::SIGNALED, sges: vec![sge] });
    }
    pair.b.transmit(usize::MAX);
    [vec![pieces], pair.b.take_stream()].concat()
}

/// A message in two frames, the second with immediate data.
fn two_frames(op: Op) -> Vec<u8> {
    let offered = fuzz::offered(&fuzz::subject());
    let addr = if op == Op::Write { offered.addr } else { 0 };
    let first = Frame { flags: Flags::FIRST, len: 8, addr, rkey: offered.key, imm: 12, ..Frame::new(op) };
    let last =
        Frame { flags: Flags::LAST | Flags::IMM, len: 4, addr: addr + 8, rkey: offered.key, imm: 6, ..Frame::new(op) };
    let mut bytes = vec![3];
    for frame in [first, last] {
        let (header, len) = frame.encode();
        bytes.extend(&header[..len]);
        bytes.resize(bytes.len() + frame.len as usize, 2);
    }
    bytes
}

/// The peer's answers to everything that the subject asks.
fn answers() -> Vec<u8> {
    let mut pair: Pair = fuzz::subject();
    pair.a.transmit(usize::MAX);
    pair.deliver(End::A, usize::MAX);
    pair.b.transmit(usize::MAX);
    pair.b.engine.fail(None);
    pair.b.transmit(usize::MAX);
    [vec![15], pair.b.take_stream()].concat()
}

fn hello(verdict: Verdict) -> Hello {
    Hello {
        verdict,
        src_qpn: 0x12_3456,
        dst_qpn: 0x65_4321,
        src_gid: [1; 16],
        dst_gid: [2; 16],
        sq_psn: 3,
        rq_psn: 4,
        nonce: 5,
        credit: 6,
        rnr_timer: 640_000,
        max_dest_rd_atomic: 16,
    }
}

const OPS: [Op; 13] = [
    Op::Write,
    Op::Send,
    Op::Read,
    Op::ReadResponse,
    Op::CompareSwap,
    Op::FetchAdd,
    Op::AtomicResponse,
    Op::Ack,
    Op::Nak,
    Op::Bye,
    Op::LaneOffer,
    Op::LaneOpen,
    Op::LaneReady,
];
