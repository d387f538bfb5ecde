//! Connections with a peer that says what a test has it say, and memory of a device that is none.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dmverbs_proto::{
    Access, Flags, Frame, HEADER_LEN, HELLO_LEN, Hello, MAX_HEADER_LEN, Op, Refusal, Remote, SendFlags, SendOp, Status,
    Verdict,
};

use super::conn::Conn;
use crate::mem::stub::Memory;
use crate::mem::{Region, keys, register};
use crate::object::{
    AhAttr, Completion, Context, Cq, Gid, Payload, Pd, Qp, QpCap, QpInit, QpModify, QpState, QpType, SendWr, Sge,
    devices,
};
use crate::sys::devmem::{Landing, Piece};
use crate::sys::socket;
use crate::transport::{Batch, Binding, OnDevice, Receiver};

/// Where the peer is.
const PEER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A QP that is ready to send.
struct End {
    pd: Arc<Pd>,
    cq: Arc<Cq>,
    qp: Arc<Qp>,
    conn: Arc<Conn>,
}

/// Its peer: a stream, and what a test makes of it.
struct Peer(TcpStream);

fn end() -> End {
    let device = devices().unwrap().into_iter().find(|d| d.ifname() == "lo").expect("the loopback interface is up");
    let pd = Pd::alloc(&Context::open(&device).unwrap()).unwrap();
    let cq = Cq::create(pd.context(), 256, None, 0).unwrap();
    let cap = QpCap { send_wr: 64, recv_wr: 64, send_sge: 4, recv_sge: 4, inline: 64 };
    let init = QpInit { qp_type: QpType::Rc, send_cq: &cq, recv_cq: &cq, cap, sq_sig_all: true, cookie: 1 };
    let qp = Qp::create(&pd, init).unwrap();
    let conn = pd.context().progress().registry.find(qp.num()).unwrap();
    End { pd, cq, qp, conn }
}

impl End {
    fn connect(&self, dgid: Gid, dest_qpn: u32) {
        let access = Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::REMOTE_READ;
        let (state, access) = (Some(QpState::Init), Some(access));
        let to_init = QpModify { state, pkey_index: Some(0), port: Some(1), access, ..QpModify::default() };
        let to_rtr = QpModify {
            state: Some(QpState::Rtr),
            ah: Some(AhAttr { dgid, port: 1, ..AhAttr::default() }),
            path_mtu: Some(5),
            dest_qpn: Some(dest_qpn),
            rq_psn: Some(0),
            max_dest_rd_atomic: Some(4),
            min_rnr_timer: Some(12),
            ..QpModify::default()
        };
        let to_rts = QpModify {
            state: Some(QpState::Rts),
            sq_psn: Some(0),
            timeout: Some(0),
            retry_cnt: Some(7),
            rnr_retry: Some(7),
            max_rd_atomic: Some(4),
            ..QpModify::default()
        };
        for modify in [to_init, to_rtr, to_rts] {
            self.qp.modify(&modify).unwrap();
        }
    }

    /// Has the kernel be asked to send from `region`, which it will refuse; false where it cannot be asked.
    fn bind(&self, region: &Region) -> bool {
        let binding = Binding::unknown().inspect_err(|e| println!("skipped: {e}"));
        let ifindex = self.pd.context().device().ifindex();
        binding.map(|binding| self.conn.progress.bindings.set(region, ifindex, binding)).is_ok()
    }

    fn post(&self, op: SendOp, sge: Sge) {
        let wr = SendWr { id: 1, op, flags: SendFlags::empty(), payload: Payload::Sges(&[sge]) };
        self.qp.post_send([wr]).unwrap();
    }

    /// As ibv_dereg_mr(3).
    fn deregister(&self, region: Arc<Region>) {
        region.revoke();
        keys().remove(region.key());
        self.conn.progress.quiesce(&region);
    }

    fn wait(&self) -> Completion {
        let mut found = None;
        until("a completion", || {
            self.cq.poll(1, |completion| found = Some(*completion)).unwrap();
            found.is_some()
        });
        found.unwrap()
    }
}

/// A QP, and the peer that it is connected with.
fn connected() -> (End, Peer) {
    let end = end();
    let listener = TcpListener::bind((PEER, 0)).unwrap();
    let qpn = u32::from(listener.local_addr().unwrap().port()) << 8 | 7;
    end.connect(Gid::from(IpAddr::from(PEER)), qpn);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut hello = [0; HELLO_LEN];
    stream.read_exact(&mut hello).unwrap();
    let theirs = Hello::decode(&hello).unwrap();
    let ours = Hello {
        verdict: Verdict::Accept,
        src_qpn: theirs.dst_qpn,
        dst_qpn: theirs.src_qpn,
        src_gid: theirs.dst_gid,
        dst_gid: theirs.src_gid,
        max_dest_rd_atomic: 4,
        ..theirs
    };
    stream.write_all(&ours.encode()).unwrap();
    until("the connection", || end.conn.lock().is_linked());
    (end, Peer(stream))
}

impl Peer {
    fn say(&mut self, frame: Frame, payload: &[u8]) {
        let mut bytes = Vec::new();
        frame.append(&mut bytes);
        bytes.extend_from_slice(payload);
        self.0.write_all(&bytes).unwrap();
    }

    /// A frame, and its payload if that is in-band.
    fn hear(&mut self) -> (Frame, Vec<u8>) {
        let mut bytes = [0; MAX_HEADER_LEN];
        let mut have = HEADER_LEN;
        self.0.read_exact(&mut bytes[..have]).unwrap();
        let frame = loop {
            if let Some((frame, _)) = Frame::decode(&bytes[..have]).unwrap() {
                break frame;
            }
            self.0.read_exact(&mut bytes[have..have + 8]).unwrap();
            have += 8;
        };
        let mut payload = vec![0; if frame.lane == 0 { frame.len as usize } else { 0 }];
        self.0.read_exact(&mut payload).unwrap();
        (frame, payload)
    }

    /// The next frame of this kind.
    fn expect(&mut self, op: Op) -> Frame {
        loop {
            let (frame, _) = self.hear();
            if frame.op == op {
                return frame;
            }
        }
    }
}

/// A WRITE of one frame.
fn write(addr: u64, rkey: u32, len: usize) -> Frame {
    Frame { addr, rkey, len: len as u32, flags: Flags::FIRST | Flags::LAST, ..Frame::new(Op::Write) }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_comes_in_band_for_memory_of_a_device_is_put_there() {
    let (end, mut peer) = connected();
    let memory = Memory::new(1000);
    let region = memory.register(end.pd.id());
    let bytes: Vec<u8> = (0..100).collect();
    peer.say(write(10, region.key(), bytes.len()), &bytes);
    assert_eq!(peer.expect(Op::Ack).ack, 1);
    assert_eq!(memory.bytes()[10..110], bytes);
}

#[test]
fn what_is_sent_from_memory_of_a_device_comes() {
    let (end, mut peer) = connected();
    let memory = Memory::new(1000);
    let region = memory.register(end.pd.id());
    let to = Remote { addr: 0, rkey: 5 };
    end.post(SendOp::Write(to), Sge { addr: 0, length: 1000, lkey: region.key() });
    let (frame, payload) = peer.hear();
    assert_eq!((frame.op, payload), (Op::Write, vec![0; 1000]));
    assert_eq!(memory.asked(), 1);
    peer.say(Frame { ack: 1, ..Frame::new(Op::Ack) }, &[]);
    assert_eq!(end.wait().status, Status::Success);
}

#[test]
fn an_acknowledgement_goes_out_although_every_turn_brings_something_for_others() {
    let (end, mut peer) = connected();
    let progress = end.conn.progress;
    let memory = Memory::new(8);
    let region = memory.register(end.pd.id());
    let mut turn = progress.turn.lock();
    peer.say(write(0, region.key(), 8), &[1; 8]);
    until("the WRITE", || turn.desk.service(&end.conn, &mut end.conn.lock()));
    for _ in 0..64 {
        progress.housekeep(&mut turn, true);
    }
    assert_eq!(peer.expect(Op::Ack).ack, 1);
}

/// A socket pair takes no device's memory; its refusal would be held against the streams of TCP.
#[test]
fn what_is_sent_within_the_process_is_sent_by_the_host() {
    let end = end();
    let gid = end.pd.context().device().gids().unwrap()[0];
    end.connect(gid, end.qp.num());
    let (from, to) = (Memory::new(1000), Memory::new(1000));
    let [from_region, to_region] = [&from, &to].map(|memory| memory.register(end.pd.id()));
    let sge = Sge { addr: 0, length: 1000, lkey: to_region.key() };
    end.post(SendOp::Read(Remote { addr: 0, rkey: from_region.key() }), sge);
    assert_eq!(end.wait().status, Status::Success);
    end.post(SendOp::Write(Remote { addr: 0, rkey: from_region.key() }), sge);
    assert_eq!(end.wait().status, Status::Success);
    assert_eq!((from.asked(), to.asked()), (0, 0));
}

#[test]
fn memory_of_a_device_that_nobody_can_read_is_a_local_fault() {
    let (end, _peer) = connected();
    let memory = Memory::new(1000);
    let region = memory.register(end.pd.id());
    if !end.bind(&region) {
        return;
    }
    memory.fail();
    end.post(SendOp::Write(Remote { addr: 0, rkey: 5 }), Sge { addr: 0, length: 1000, lkey: region.key() });
    assert_eq!((end.wait().status, end.qp.state()), (Status::LocProt, QpState::Err));
}

#[test]
fn what_a_lane_brings_is_copied_from_the_memory_of_its_own_queue_alone() {
    let (end, mut peer) = connected();
    let [from, to] = [[7; 100], [0; 100]].map(|bytes| Memory::of(&bytes));
    let region = to.register(end.pd.id());
    let (broker, listener) = socket::pair().unwrap();
    let receiver = Arc::new(Receiver::of_no_queue(1, from.device(), broker, listener));
    let binding = receiver.memory().1;
    peer.say(write(0, region.key(), 100), &[]);
    let awaited = || end.conn.lock().link.as_ref().map_or(0, |link| link.inbox.awaited());
    until("the header", || awaited() == 100);
    let mut landing = Landing::new(16);
    let mut bring = |dmabuf| {
        landing.pieces = vec![Piece::Device { at: 0, len: 50, token: 1, dmabuf }];
        end.conn.place_pieces(&mut end.conn.lock(), &receiver, &mut landing)
    };
    assert!(bring(binding));
    assert_eq!(to.bytes(), [[7; 50], [0; 50]].concat());
    assert!(end.conn.advance(&mut end.conn.lock(), 50));
    assert!(!bring(binding + 1));
    assert_eq!(to.bytes(), [[7; 50], [0; 50]].concat());
    end.conn.flush(&mut end.conn.lock());
    assert_eq!(peer.expect(Op::Nak).imm, Refusal::Access as u32);
}

#[test]
fn a_device_has_its_memory_back_from_a_peer_that_stops_in_the_middle_of_a_write() {
    let (end, mut peer) = connected();
    let memory = Memory::new(100);
    let region = memory.register(end.pd.id());
    peer.say(write(0, region.key(), 100), &[7; 50]);
    until("half of the payload", || memory.bytes()[..50] == [7; 50]);
    end.deregister(region);
    assert!(memory.is_let_go());
    peer.0.write_all(&[7; 50]).unwrap();
    assert_eq!(peer.expect(Op::Nak).imm, Refusal::Access as u32);
    assert_eq!(memory.bytes()[50..], [0; 50]);
}

#[test]
fn a_device_has_its_memory_back_from_a_peer_that_does_not_read_it() {
    let (end, mut peer) = connected();
    let mut bytes = vec![0; 32 << 20];
    let addr = bytes.as_mut_ptr().expose_provenance() as u64;
    let host = register(addr, 32 << 20, addr, Access::REMOTE_READ, end.pd.id()).unwrap();
    peer.say(Frame { addr, rkey: host.key(), imm: 32 << 20, ..Frame::new(Op::Read) }, &[]);
    until("a full stream", || end.conn.lock().is_blocked());
    let memory = Memory::new(100);
    let region = memory.register(end.pd.id());
    let Ok(binding) = Binding::unknown().map(Arc::new).inspect_err(|e| println!("skipped: {e}")) else { return };
    let read = |batch: &mut Batch| {
        batch.control.device(OnDevice { region: region.clone(), binding, at: 0, len: 100, ends: None });
        batch.borrow(&region);
    };
    read(end.conn.lock().link.as_mut().unwrap().batch.as_mut().unwrap());
    end.deregister(region);
    assert!(memory.is_let_go());
    assert_eq!(end.qp.state(), QpState::Err);
}

#[test]
fn a_region_that_is_deregistered_while_somebody_binds_it_is_bound_no_longer() {
    let (end, _peer) = connected();
    let memory = Memory::new(100);
    let region = memory.register(end.pd.id());
    let key = region.key();
    memory.delay(200);
    let sge = Sge { addr: 0, length: 100, lkey: key };
    std::thread::scope(|scope| {
        scope.spawn(|| end.post(SendOp::Write(Remote { addr: 0, rkey: 5 }), sge));
        until("somebody who binds it", || memory.asked() > 0);
        end.deregister(region);
    });
    assert!(!end.conn.progress.bindings.know(key));
}
