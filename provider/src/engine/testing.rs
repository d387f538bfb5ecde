//! What tests need of both ends of a connection: a QP of ours, and a peer that says what a test has it say.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dmverbs_proto::{
    Access, Flags, Frame, HEADER_LEN, HELLO_LEN, Hello, MAX_HEADER_LEN, Op, PROBE_LEN, SendFlags, SendOp, Verdict,
    probe,
};

use super::conn::Conn;
use crate::mem::{Region, keys};
use crate::object::{
    AhAttr, Completion, Context, Cq, Gid, Payload, Pd, Qp, QpCap, QpInit, QpModify, QpState, QpType, SendWr, Sge,
    devices,
};
use crate::transport::Binding;

/// Where the peer is.
const PEER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// That of the address handle.
pub(super) const TRAFFIC_CLASS: u8 = 104;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A QP that is ready to send.
pub(super) struct End {
    pub(super) pd: Arc<Pd>,
    pub(super) cq: Arc<Cq>,
    pub(super) qp: Arc<Qp>,
    pub(super) conn: Arc<Conn>,
}

/// Its peer: a stream, and what a test makes of it.
pub(super) struct Peer {
    pub(super) stream: TcpStream,
    /// Requests that it has acknowledged.
    acked: u32,
}

pub(super) fn end() -> End {
    end_with(256)
}

/// Its completion queue has so many places.
pub(super) fn end_with(cqe: usize) -> End {
    let device = devices().unwrap().into_iter().find(|d| d.ifname() == "lo").expect("the loopback interface is up");
    let pd = Pd::alloc(&Context::open(&device).unwrap()).unwrap();
    let cq = Cq::create(pd.context(), cqe, None, 0).unwrap();
    let cap = QpCap { send_wr: 64, recv_wr: 64, send_sge: 4, recv_sge: 4, inline: 64 };
    let init = QpInit { qp_type: QpType::Rc, send_cq: &cq, recv_cq: &cq, cap, sq_sig_all: true, cookie: 1 };
    let qp = Qp::create(&pd, init).unwrap();
    let conn = pd.context().progress().registry.find(qp.num()).unwrap();
    End { pd, cq, qp, conn }
}

impl End {
    pub(super) fn connect(&self, dgid: Gid, dest_qpn: u32) {
        let access = Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::REMOTE_READ;
        let (state, access) = (Some(QpState::Init), Some(access));
        let to_init = QpModify { state, pkey_index: Some(0), port: Some(1), access, ..QpModify::default() };
        let to_rtr = QpModify {
            state: Some(QpState::Rtr),
            ah: Some(AhAttr { dgid, port: 1, traffic_class: TRAFFIC_CLASS, ..AhAttr::default() }),
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
    pub(super) fn bind(&self, region: &Region) -> bool {
        let binding = Binding::unknown().inspect_err(|e| println!("skipped: {e}"));
        let ifindex = self.pd.context().device().ifindex();
        binding.map(|binding| self.conn.progress.bindings.set(region, ifindex, binding)).is_ok()
    }

    pub(super) fn post(&self, op: SendOp, sge: Sge) {
        let sges = [sge];
        let wr = SendWr { id: 1, op, flags: SendFlags::empty(), payload: Payload::Sges(&sges) };
        self.qp.post_send([wr]).unwrap();
    }

    /// As ibv_dereg_mr(3).
    pub(super) fn deregister(&self, region: Arc<Region>) {
        region.revoke();
        keys().remove(region.key());
        self.conn.progress.quiesce(&region);
    }

    pub(super) fn wait(&self) -> Completion {
        let mut found = None;
        until("a completion", || {
            self.cq.poll(1, |completion| found = Some(*completion)).unwrap();
            found.is_some()
        });
        found.unwrap()
    }
}

/// A QP, and the peer that it is connected with.
pub(super) fn connected() -> (End, Peer) {
    connected_by(end())
}

pub(super) fn connected_by(end: End) -> (End, Peer) {
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
    (end, Peer { stream, acked: 0 })
}

impl Peer {
    pub(super) fn say(&mut self, frame: Frame, payload: &[u8]) {
        let mut bytes = Vec::new();
        Frame { ack: self.acked, ..frame }.append(&mut bytes);
        bytes.extend_from_slice(payload);
        self.stream.write_all(&bytes).unwrap();
    }

    /// Acknowledges one more request.
    pub(super) fn acknowledge(&mut self) {
        self.acked += 1;
        self.say(Frame::new(Op::Ack), &[]);
    }

    /// A frame, and its payload if that is in-band.
    pub(super) fn hear(&mut self) -> (Frame, Vec<u8>) {
        let mut bytes = [0; MAX_HEADER_LEN];
        let mut have = HEADER_LEN;
        self.stream.read_exact(&mut bytes[..have]).unwrap();
        let frame = loop {
            if let Some((frame, _)) = Frame::decode(&bytes[..have]).unwrap() {
                break frame;
            }
            self.stream.read_exact(&mut bytes[have..have + 8]).unwrap();
            have += 8;
        };
        let mut payload = vec![0; if frame.lane == 0 { frame.len as usize } else { 0 }];
        self.stream.read_exact(&mut payload).unwrap();
        (frame, payload)
    }

    /// Offers a lane to this port for payload for this key.
    pub(super) fn offer(&mut self, port: u16, rkey: u32) {
        self.say(Frame { imm: u32::from(port), rkey, addr: 1, ..Frame::new(Op::LaneOffer) }, &[]);
    }

    /// A lane to here, for payload for these keys.
    pub(super) fn open_lane(&mut self, keys: impl IntoIterator<Item = u32> + Clone) -> TcpStream {
        let listener = TcpListener::bind((PEER, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        keys.clone().into_iter().for_each(|rkey| self.offer(port, rkey));
        let (mut lane, from) = listener.accept().unwrap();
        lane.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = [0; PROBE_LEN];
        lane.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, probe(1));
        assert_eq!(self.expect(Op::LaneOpen).imm, u32::from(from.port()));
        self.say(Frame::new(Op::LaneReady), &[]);
        keys.into_iter().for_each(|rkey| self.offer(port, rkey));
        lane
    }

    /// The next frame of this kind.
    pub(super) fn expect(&mut self, op: Op) -> Frame {
        loop {
            let (frame, _) = self.hear();
            if frame.op == op {
                return frame;
            }
        }
    }
}

/// A WRITE of one frame.
pub(super) fn write(addr: u64, rkey: u32, len: usize) -> Frame {
    Frame { addr, rkey, len: len as u32, flags: Flags::FIRST | Flags::LAST, ..Frame::new(Op::Write) }
}

pub(super) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
