//! Reliable connected QPs of one process, through the public interface.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dmverbs_provider::object::{
    Access, Advice, AhAttr, Completion, Context, Cq, Error, Mr, Payload, Pd, Qp, QpCap, QpInit, QpModify, QpState,
    QpType, RecvWr, Remote, SendFlags, SendOp, SendWr, Sge, Status, WcOpcode, devices,
};

struct End {
    cq: Arc<Cq>,
    qp: Arc<Qp>,
    mr: Arc<Mr>,
    memory: Box<[u8]>,
}

const ALL: Access =
    Access::LOCAL_WRITE.union(Access::REMOTE_WRITE).union(Access::REMOTE_READ).union(Access::REMOTE_ATOMIC);

fn pd() -> Arc<Pd> {
    let device = devices().unwrap().into_iter().find(|d| d.ifname() == "lo").expect("the loopback interface is up");
    Pd::alloc(&Context::open(&device).unwrap()).unwrap()
}

impl End {
    fn new(pd: &Arc<Pd>, size: usize) -> End {
        let mut memory = vec![0; size].into_boxed_slice();
        let addr = memory.as_mut_ptr().expose_provenance() as u64;
        let mr = Mr::register(pd, addr, size as u64, addr, ALL).unwrap();
        let cq = Cq::create(pd.context(), 256, None, 0).unwrap();
        let cap = QpCap { send_wr: 64, recv_wr: 64, send_sge: 4, recv_sge: 4, inline: 64 };
        let init = QpInit { qp_type: QpType::Rc, send_cq: &cq, recv_cq: &cq, cap, sq_sig_all: true, cookie: 1 };
        let qp = Qp::create(pd, init).unwrap();
        let modify = QpModify {
            state: Some(QpState::Init),
            pkey_index: Some(0),
            port: Some(1),
            access: Some(ALL),
            ..QpModify::default()
        };
        qp.modify(&modify).unwrap();
        End { cq, qp, mr, memory }
    }

    fn connect(&self, peer: &End, pd: &Pd) {
        let ah = AhAttr { dgid: pd.context().device().gids().unwrap()[0], port: 1, ..AhAttr::default() };
        let to_rtr = QpModify {
            state: Some(QpState::Rtr),
            ah: Some(ah),
            path_mtu: Some(5),
            dest_qpn: Some(peer.qp.num()),
            rq_psn: Some(0),
            max_dest_rd_atomic: Some(4),
            min_rnr_timer: Some(12),
            ..QpModify::default()
        };
        self.qp.modify(&to_rtr).unwrap();
        let to_rts = QpModify {
            state: Some(QpState::Rts),
            sq_psn: Some(0),
            timeout: Some(14),
            retry_cnt: Some(7),
            rnr_retry: Some(7),
            max_rd_atomic: Some(4),
            ..QpModify::default()
        };
        self.qp.modify(&to_rts).unwrap();
    }

    fn sge(&self, at: usize, length: u32) -> Sge {
        Sge { addr: self.memory.as_ptr().addr() as u64 + at as u64, length, lkey: self.mr.lkey() }
    }

    fn remote(&self, at: usize) -> Remote {
        Remote { addr: self.memory.as_ptr().addr() as u64 + at as u64, rkey: self.mr.rkey() }
    }

    fn post(&self, id: u64, op: SendOp, sge: Sge) {
        let sges = [sge];
        let wr = SendWr { id, op, flags: SendFlags::empty(), payload: Payload::Sges(&sges) };
        self.qp.post_send([wr]).unwrap();
    }

    fn wait(&self) -> Completion {
        let end = Instant::now() + Duration::from_secs(10);
        let mut found = None;
        while found.is_none() {
            self.cq.poll(1, |completion| found = Some(*completion)).unwrap();
            assert!(Instant::now() < end, "no completion");
        }
        found.unwrap()
    }
}

fn connected(size: usize) -> (Arc<Pd>, End, End) {
    let pd = pd();
    let (a, b) = (End::new(&pd, size), End::new(&pd, size));
    a.connect(&b, &pd);
    b.connect(&a, &pd);
    (pd, a, b)
}

#[test]
fn a_write_arrives_whatever_its_size() {
    for size in [1, 31, 4096, 20_000, 256 << 10, (1 << 20) + 3] {
        let (_pd, mut a, b) = connected(size);
        for (i, byte) in a.memory.iter_mut().enumerate() {
            *byte = (i * 7 + size) as u8;
        }
        a.post(9, SendOp::Write(b.remote(0)), a.sge(0, size as u32));
        let completion = a.wait();
        assert_eq!((completion.id, completion.status, completion.opcode), (9, Status::Success, WcOpcode::RdmaWrite));
        assert_eq!(a.memory, b.memory);
    }
}

#[test]
fn a_send_fills_the_receive_and_carries_its_immediate() {
    let (_pd, mut a, b) = connected(100);
    a.memory.fill(5);
    b.qp.post_recv([RecvWr { id: 3, sges: &[b.sge(10, 20), b.sge(40, 60)] }]).unwrap();
    a.post(1, SendOp::SendImm(0x0102_0304), a.sge(0, 50));
    let received = b.wait();
    assert_eq!((received.id, received.status, received.len), (3, Status::Success, 50));
    assert_eq!(received.extra, dmverbs_provider::object::Extra::Imm(0x0102_0304));
    assert_eq!(a.wait().status, Status::Success);
    assert_eq!(b.memory.iter().filter(|byte| **byte == 5).count(), 50);
    assert!(b.memory[40..70].iter().all(|byte| *byte == 5));
}

#[test]
fn a_read_brings_what_was_there_and_an_atomic_what_was_before() {
    let (_pd, a, mut b) = connected(1 << 20);
    b.memory.fill(8);
    b.memory[..8].copy_from_slice(&41_u64.to_ne_bytes());
    a.post(1, SendOp::Read(b.remote(0)), a.sge(0, 1 << 20));
    assert_eq!(a.wait().status, Status::Success);
    assert_eq!(a.memory, b.memory);
    a.post(2, SendOp::FetchAdd { at: b.remote(0), add: 1 }, a.sge(8, 8));
    assert_eq!(a.wait().status, Status::Success);
    assert_eq!(a.memory[8..16], 41_u64.to_ne_bytes());
    assert_eq!(b.memory[..8], 42_u64.to_ne_bytes());
}

#[test]
fn a_wrong_key_fails_the_request_and_flushes_the_rest() {
    let (_pd, a, b) = connected(64);
    let wrong = Remote { rkey: b.mr.rkey() ^ 1, ..b.remote(0) };
    a.post(1, SendOp::Write(wrong), a.sge(0, 8));
    a.post(2, SendOp::Write(b.remote(0)), a.sge(0, 8));
    assert_eq!((a.wait().status, a.wait().status), (Status::RemAccess, Status::WrFlush));
    assert_eq!(a.qp.state(), QpState::Err);
}

#[test]
fn a_qp_connected_to_itself_reads_its_own_memory() {
    let pd = pd();
    let mut a = End::new(&pd, 64);
    a.connect(&a, &pd);
    a.memory[..4].copy_from_slice(b"self");
    a.post(1, SendOp::Read(a.remote(0)), a.sge(32, 4));
    assert_eq!(a.wait().status, Status::Success);
    assert_eq!(&a.memory[32..36], b"self");
}

#[test]
fn a_request_keeps_its_place_until_its_completion_has_been_polled() {
    let (_pd, a, b) = connected(8);
    a.cq.resize(64).unwrap();
    let sge = [a.sge(0, 8)];
    let send = |id| {
        let wr = SendWr { id, op: SendOp::Write(b.remote(0)), flags: SendFlags::empty(), payload: Payload::Sges(&sge) };
        a.qp.post_send([wr]).is_ok()
    };
    assert_eq!((0..100).take_while(|id| send(*id)).count(), 64);
    // They are executed in this time, or some of them: nothing is polled.
    let later = Instant::now() + Duration::from_millis(50);
    while Instant::now() < later {
        assert!(!send(64));
    }
    for id in 0..64 {
        let completion = a.wait();
        assert_eq!((completion.id, completion.status), (id, Status::Success));
        assert!(send(64 + id) && !send(1000));
    }

    let receive = |id| b.qp.post_recv([RecvWr { id, sges: &[] }]).is_ok();
    b.qp.modify(&QpModify { state: Some(QpState::Err), ..QpModify::default() }).unwrap();
    assert_eq!((0..100).take_while(|id| receive(*id)).count(), 64);
    for id in 0..64 {
        assert_eq!(b.wait().id, id);
        assert!(receive(64 + id) && !receive(1000));
    }
}

#[test]
fn pages_on_demand_are_there_when_that_was_advised() {
    const LEN: usize = 8 << 20;
    let (pd, other) = (pd(), pd());
    // Fresh pages, which nobody has touched.
    let memory = Vec::<u8>::with_capacity(LEN);
    let addr = memory.as_ptr().addr() as u64;
    let register = |access| Mr::register(&pd, addr, LEN as u64, addr, access).unwrap();
    let (mr, unwritable) = (register(Access::LOCAL_WRITE | Access::ON_DEMAND), register(Access::ON_DEMAND));
    let range = |mr: &Mr| Sge { addr: addr + 4096, length: LEN as u32 / 2, lkey: mr.lkey() };
    let advise = |pd, advice, range| Mr::advise(pd, advice, &[range]);
    let code = |done: Result<(), Error>| match done.unwrap_err() {
        Error::Io(e) => e.raw_os_error().unwrap(),
        Error::Fault => libc::EFAULT,
        Error::Invalid(_) => libc::EINVAL,
        e => panic!("{e}"),
    };
    assert!(resident(addr, LEN) < LEN / 4 / 4096);
    advise(&pd, Advice::PrefetchNoFault, range(&mr)).unwrap();
    assert!(resident(addr, LEN) < LEN / 4 / 4096);
    advise(&pd, Advice::PrefetchWrite, range(&mr)).unwrap();
    assert!(resident(addr, LEN) >= LEN / 2 / 4096);

    advise(&pd, Advice::Prefetch, range(&unwritable)).unwrap();
    assert_eq!(code(advise(&pd, Advice::PrefetchWrite, range(&unwritable))), libc::EPERM);
    assert_eq!(code(advise(&other, Advice::Prefetch, range(&mr))), libc::EPERM);
    let beyond = Sge { length: LEN as u32, ..range(&mr) };
    assert_eq!(code(advise(&pd, Advice::Prefetch, beyond)), libc::EFAULT);
    assert_eq!(code(advise(&pd, Advice::Prefetch, range(&register(Access::LOCAL_WRITE)))), libc::EINVAL);
    let gone = range(&mr);
    Mr::deregister(mr).unwrap();
    assert_eq!(code(advise(&pd, Advice::Prefetch, gone)), libc::ENOENT);
}

/// How many pages of these bytes are in memory; mincore(2).
fn resident(addr: u64, len: usize) -> usize {
    let start = addr & !4095;
    let mut pages = vec![0; len / 4096];
    // SAFETY: `pages` has a byte for each page asked about, which are mapped.
    let done = unsafe {
        libc::mincore(std::ptr::without_provenance_mut(start as usize), pages.len() * 4096, pages.as_mut_ptr())
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    pages.iter().filter(|page| **page & 1 == 1).count()
}

#[test]
fn what_is_in_use_cannot_be_destroyed() {
    let (pd, a, _b) = connected(8);
    let (cq, _) = Cq::destroy(a.cq).unwrap_err();
    assert!(Pd::dealloc(pd).is_err());
    Qp::destroy(a.qp).unwrap();
    Cq::destroy(cq).unwrap();
}
