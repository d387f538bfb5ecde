//! Connections with a peer that says what a test has it say, and memory of a device that is none.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dmverbs_proto::{Access, Frame, Hello, LANE, MAX_CHUNK, Note, Op, Refusal, Remote, SendOp, Status, Window};
use nix::sched::CpuSet;
use nix::unistd::Pid;

use super::conn::Conn;
use super::link::WINDOW;
use super::testing::{End, TRAFFIC_CLASS, connected, connected_by, end, end_with, until, write};
use crate::mem::register;
use crate::mem::stub::Memory;
use crate::object::{AhAttr, AsyncEvent, Completion, Error, Gid, Qp, QpModify, QpState, RecvWr, Sge, Traffic};
use crate::sys::devmem::{Landing, Piece};
use crate::sys::mman::Mapping;
use crate::sys::socket;
use crate::transport::{Batch, Binding, OnDevice, Receiver, Stream};

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
fn a_stream_and_a_lane_have_the_traffic_class_of_the_address_handle() {
    let (end, mut peer) = connected();
    let _lane = peer.open_lane([1]);
    let inner = end.conn.lock();
    let link = inner.link.as_ref().unwrap();
    for stream in [&link.stream, &link.lane_out.as_ref().unwrap().stream] {
        assert_eq!(socket::option(stream.tx(), libc::IPPROTO_IP, libc::IP_TOS).unwrap(), i32::from(TRAFFIC_CLASS));
    }
}

#[test]
fn a_stream_has_room_for_what_its_peer_may_have_on_the_way() {
    let (end, _peer) = connected();
    let inner = end.conn.lock();
    let room = socket::option(inner.link.as_ref().unwrap().stream.tx(), libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap();
    let limits = fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").unwrap();
    let most: u64 = limits.split_whitespace().next_back().unwrap().parse().unwrap();
    let wanted = WINDOW.bytes.min(most / 2);
    assert!(room as u64 >= wanted, "{room} bytes instead of {wanted}");
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
    peer.acknowledge();
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
fn what_could_not_be_sent_is_not_counted() {
    let (end, _peer) = connected();
    let memory = Memory::new(1000);
    let region = memory.register(end.pd.id());
    memory.fail();
    end.post(SendOp::Write(Remote { addr: 0, rkey: 5 }), Sge { addr: 0, length: 1000, lkey: region.key() });
    assert_eq!(end.wait().status, Status::LocProt);
    assert_eq!(end.conn.report_traffic().traffic, Traffic::default());
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
    peer.stream.write_all(&[7; 50]).unwrap();
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
fn a_stream_that_cannot_be_waited_for_ends() {
    let (end, mut peer) = connected();
    let mut bytes = vec![0; 32 << 20];
    let addr = bytes.as_mut_ptr().expose_provenance() as u64;
    let region = register(addr, 32 << 20, addr, Access::REMOTE_READ, end.pd.id()).unwrap();
    end.conn.lock().link.as_ref().unwrap().stream.deregister(end.conn.progress.epoll());
    peer.say(Frame { addr, rkey: region.key(), imm: 32 << 20, ..Frame::new(Op::Read) }, &[]);
    until("what the stream does not take", || {
        end.conn.progress.poll_inline();
        end.conn.lock().link.as_ref().unwrap().broken
    });
    let come = io::copy(&mut peer.stream, &mut io::sink()).unwrap();
    assert!(come > 0);
    end.deregister(region);
}

#[test]
fn a_qp_whose_stream_cannot_be_waited_for_has_lost_its_peer() {
    let end = end();
    let (listener, progress) = (TcpListener::bind("127.0.0.1:0").unwrap(), end.conn.progress);
    let known = Stream::duplex(socket::connect(listener.local_addr().unwrap(), None, None).unwrap());
    // Not twice.
    known.register(progress.epoll(), 0).unwrap();
    progress.lock().attach(&end.conn, known, &Hello::default(), 0);
    assert!(!end.conn.lock().engine.is_unconnected() && !end.conn.lock().is_linked());
}

#[test]
fn who_is_gone_is_not_taken_for_who_has_its_number_now() {
    let (end, mut peer) = connected();
    let (progress, qpn) = (end.conn.progress, end.conn.qpn);
    let place = progress.reserve_place().unwrap();
    let before = Conn::new(qpn, &end.pd, (&end.cq, &end.cq), end.conn.cap(), true, 2, place);
    progress.unlink(&Arc::new(before));
    progress.poll_inline();
    peer.say(write(0, 5, 8), &[0; 8]);
    assert_eq!(peer.expect(Op::Nak).imm, Refusal::Access as u32);
}

/// Its timer, and the time that it may linger, kept its queues, their channels and all that it had named.
#[test]
fn nothing_is_kept_of_a_destroyed_qp_whose_peer_has_closed() {
    let (end, peer) = connected();
    let memory = Memory::new(100);
    let region = memory.register(end.pd.id());
    let sge = Sge { addr: 0, length: 100, lkey: region.key() };
    end.qp.post_recv([RecvWr { id: 1, sges: &[sge] }]).unwrap();
    end.conn.progress.start_timer(u64::MAX - 1, &end.conn);
    drop(region);
    let End { pd: _, cq, qp, conn } = end;
    Qp::destroy(qp).unwrap();
    assert!(!memory.is_let_go());
    drop(peer);
    until("the memory", || conn.lock().receives.region(0).is_none());
    drop(conn.progress.lock());
    assert_eq!(Arc::strong_count(&conn), 1);
    drop(conn);
    assert_eq!(Arc::strong_count(&cq), 1);
}

#[test]
fn a_qp_whose_completion_queue_has_overflowed_fails() {
    let (end, mut peer) = connected_by(end_with(2));
    let events = end.pd.context().events();
    for _ in 0..3 {
        end.post(SendOp::Write(Remote { addr: 0, rkey: 5 }), Sge { addr: 0, length: 0, lkey: 0 });
        peer.expect(Op::Write);
        peer.acknowledge();
    }
    peer.expect(Op::Bye);
    assert_eq!(end.qp.state(), QpState::Err);
    assert!(matches!(events.wait(), Ok(AsyncEvent::CqErr(0))));
    assert!(matches!(events.wait(), Ok(AsyncEvent::QpFatal(1))));
}

#[test]
fn a_connected_qp_takes_the_path_that_it_has() {
    let (end, _peer) = connected();
    let ah = end.qp.query().ah;
    let drained = |ah| QpModify { state: Some(QpState::Sqd), ah, ..QpModify::default() };
    end.qp.modify(&drained(None)).unwrap();
    end.qp.modify(&drained(Some(ah))).unwrap();
    let other = [AhAttr { traffic_class: 0, ..ah }, AhAttr { dgid: Gid::from(IpAddr::from([127, 0, 0, 9])), ..ah }];
    for ah in other {
        assert!(matches!(end.qp.modify(&drained(Some(ah))), Err(Error::NotSupported)));
    }
    let nowhere = AhAttr { sgid_index: 200, ..ah };
    assert!(matches!(end.qp.modify(&drained(Some(nowhere))), Err(Error::Invalid(_))));
    assert_eq!(end.qp.query().ah, ah);
}

/// A poller that waited for the thread to come and go kept the only processor from it, for milliseconds.
#[test]
fn a_poller_makes_way_for_the_thread_on_its_processor() {
    const TURNS: u64 = 20;
    let pin = || nix::sched::sched_setaffinity(Pid::from_raw(0), &first_processor()).unwrap();
    let (end, _peer) = connected();
    let (progress, polls, ended) = (end.conn.progress, AtomicU64::new(0), AtomicBool::new(false));
    let polls_in_vain = std::thread::scope(|scope| {
        scope.spawn(|| {
            pin();
            while !ended.load(Ordering::Relaxed) {
                progress.poll_inline();
                polls.fetch_add(1, Ordering::Relaxed);
            }
        });
        let thread = scope.spawn(|| {
            pin();
            until("the poller", || polls.load(Ordering::Relaxed) > 0);
            let waits = (0..TURNS).map(|_| {
                progress.thread_waits.store(true, Ordering::Relaxed);
                let before = polls.load(Ordering::Relaxed);
                // The poller comes, perhaps with others, and makes way.
                std::thread::yield_now();
                let in_vain = polls.load(Ordering::Relaxed) - before;
                drop(progress.thread_turn());
                in_vain
            });
            waits.sum::<u64>()
        });
        let polls_in_vain = thread.join();
        ended.store(true, Ordering::Relaxed);
        polls_in_vain.unwrap()
    });
    assert!(polls_in_vain < TURNS * 1000, "{polls_in_vain} polls while the thread waited {TURNS} times");
}

fn first_processor() -> CpuSet {
    let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut first = CpuSet::new();
    first.set((0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu).unwrap()).unwrap()).unwrap();
    first
}

#[test]
fn requests_gather_until_they_are_more_than_half_of_the_queue() {
    let (end, _peer) = connected();
    let mut bytes = [0; 8];
    let addr = bytes.as_mut_ptr().expose_provenance() as u64;
    let region = register(addr, 8, addr, Access::LOCAL_WRITE, end.pd.id()).unwrap();
    let _no_progress = end.conn.progress.turn.lock();
    let unsent: Vec<_> = (0..38)
        .map(|_| {
            end.post(SendOp::Write(Remote { addr: 0, rkey: 5 }), Sge { addr, length: 8, lkey: region.key() });
            end.conn.lock().engine.unsent()
        })
        .collect();
    // The first finds nothing on its way.
    let gathering: Vec<_> = (1..36).collect();
    assert_eq!(unsent, [&[0], &gathering[..], &[0, 1]].concat());
    end.deregister(region);
}

/// The stream takes all of it at once, as it would if the peer read as fast as we send.
#[test]
fn what_a_peer_has_asked_for_is_not_all_sent_in_one_turn() {
    const LEN: usize = 32 << 20;
    let (end, mut peer) = connected();
    end.conn.lock().engine.set_window(Window::UNLIMITED);
    let size: libc::c_int = 2 * LEN as libc::c_int;
    let fd = end.conn.lock().link.as_ref().unwrap().stream.tx().as_raw_fd();
    // SAFETY: `size` is readable for the length given.
    let forced = unsafe {
        let len = size_of_val(&size) as libc::socklen_t;
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, (&raw const size).cast(), len) == 0
    };
    if !forced {
        println!("skipped: {}", std::io::Error::last_os_error());
        return;
    }
    let mut bytes = vec![0; LEN];
    let addr = bytes.as_mut_ptr().expose_provenance() as u64;
    let region = register(addr, LEN as u64, addr, Access::REMOTE_READ, end.pd.id()).unwrap();
    // The last of the first ends with a turn.
    for len in [8 << 20, LEN] {
        let mut turn = end.conn.progress.turn.lock();
        let sent = end.conn.lock().traffic.sent;
        peer.say(Frame { addr, rkey: region.key(), imm: len as u32, ..Frame::new(Op::Read) }, &[]);
        until("the READ", || turn.desk.service(&end.conn, &mut end.conn.lock()));
        assert!(end.conn.lock().traffic.sent - sent <= 8 << 20, "others waited for all of it");
        drop(turn);
        let mut got = 0;
        while got < len {
            got += peer.hear().1.len();
        }
        until("its end", || !end.conn.lock().is_blocked());
    }
    end.deregister(region);
}

#[test]
fn a_program_is_told_that_a_peer_would_read_what_is_no_longer_registered() {
    let (end, mut peer) = connected();
    end.conn.lock().engine.set_window(Window::UNLIMITED);
    let mut bytes = vec![0; 32 << 20];
    let addr = bytes.as_mut_ptr().expose_provenance() as u64;
    let [stays, goes] = [(); 2].map(|()| register(addr, 32 << 20, addr, Access::REMOTE_READ, end.pd.id()).unwrap());
    for region in [&stays, &goes] {
        peer.say(Frame { addr, rkey: region.key(), imm: 32 << 20, ..Frame::new(Op::Read) }, &[]);
    }
    until("both READs", || end.conn.lock().is_blocked() && end.conn.lock().reads.len() == 2);
    end.deregister(goes);
    assert_eq!(peer.expect(Op::Nak).imm, Refusal::Access as u32);
    until("the event", || end.pd.context().claim_event() == Some(AsyncEvent::QpAccessErr(1)));
    end.deregister(stays);
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

/// A file that has been cut: half of what is mapped of it is not there any more.
#[test]
fn memory_that_is_not_there_any_more_is_a_fault_of_whoever_registered_it() {
    const LEN: usize = MAX_CHUNK as usize;
    let path = std::env::temp_dir().join(format!("dmverbs-cut-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    let (access, written) = (Access::LOCAL_WRITE | Access::REMOTE_WRITE, write(0, 0, LEN));
    for (frame, refusal) in [(written, Refusal::Access), (Frame { op: Op::Send, ..written }, Refusal::Local)] {
        file.set_len(LEN as u64).unwrap();
        let mapping = Mapping::new(file.as_fd(), 0, LEN, true).unwrap();
        let (end, mut peer) = connected();
        let region = register(mapping.addr(), LEN as u64, 0, access, end.pd.id()).unwrap();
        let sge = Sge { addr: 0, length: LEN as u32, lkey: region.key() };
        end.qp.post_recv([RecvWr { id: 1, sges: &[sge] }]).unwrap();
        file.set_len(LEN as u64 / 2).unwrap();
        peer.say(Frame { rkey: region.key(), ..frame }, &[7; LEN]);
        assert_eq!(peer.expect(Op::Nak).imm, refusal as u32);
        let status = if refusal == Refusal::Local { Status::LocProt } else { Status::WrFlush };
        assert_eq!((end.wait().status, end.qp.state()), (status, QpState::Err));
        end.deregister(region);
    }
}

#[test]
fn a_queue_that_fails_while_it_drains_is_not_drained() {
    let (end, mut peer) = connected();
    end.post(SendOp::Write(Remote { addr: 0, rkey: 1 }), Sge::default());
    end.qp.modify(&QpModify { state: Some(QpState::Sqd), sqd_async_notify: true, ..QpModify::default() }).unwrap();
    peer.expect(Op::Write);
    peer.say(Frame { imm: Refusal::Access as u32, ..Frame::new(Op::Nak) }, &[]);
    assert_eq!(end.wait().status, Status::RemAccess);
    until("the error state", || end.qp.state() == QpState::Err);
    assert_eq!(end.pd.context().claim_event(), None);
}

#[test]
fn nobody_finds_what_a_queue_pair_completed_before_it_was_reset_or_destroyed() {
    let (one, other) = (end(), end());
    let recv = |id| RecvWr { id, sges: &[] };
    let to = |qp: &Qp, state| qp.modify(&QpModify { state: Some(state), ..QpModify::default() }).unwrap();
    let flushed = |count| {
        one.connect(Gid::from(IpAddr::from(Ipv4Addr::new(127, 0, 0, 2))), 7);
        one.qp.post_recv((0..count).map(recv)).unwrap();
        to(&one.qp, QpState::Err);
    };
    flushed(3);
    assert_eq!(one.wait().id, 0);
    to(&one.qp, QpState::Reset);
    // Of the queue pair after that, and of another, all is found.
    flushed(1);
    assert_eq!((one.wait().id, one.cq.poll(1, |_| ()).unwrap()), (0, 0));

    to(&one.qp, QpState::Reset);
    flushed(2);
    one.cq.push([Completion { qpn: other.qp.num(), id: 9, ..one.wait() }]);
    let (qp, cq) = (one.qp.clone(), one.cq.clone());
    Qp::destroy(qp).unwrap();
    let mut left = Vec::new();
    cq.poll(8, |completion| left.push(completion.id)).unwrap();
    assert_eq!(left, [9]);
}

#[test]
fn what_is_to_be_said_is_said_although_nothing_comes() {
    let (end, mut peer) = connected();
    let mut turn = end.conn.progress.turn.lock();
    let mut inner = end.conn.lock();
    inner.engine.say(Note::Ready);
    assert!(!turn.desk.service(&end.conn, &mut inner));
    peer.expect(Op::LaneReady);
}

#[test]
fn a_request_that_was_acknowledged_before_a_lane_died_has_succeeded() {
    let (end, mut peer) = connected();
    let lane = peer.open_lane([5]);
    until("the lane", || {
        end.conn
            .lock()
            .link
            .as_ref()
            .is_some_and(|link| link.lane_out.as_ref().is_some_and(|lane| lane.takes(&write(0, 5, 1))))
    });
    let region = Memory::new(100).register(end.pd.id());
    end.post(SendOp::Write(Remote { addr: 0, rkey: 5 }), Sge { addr: 0, length: 100, lkey: region.key() });
    assert_eq!(peer.expect(Op::Write).lane, LANE);
    let progress = end.conn.progress;
    let mut turn = progress.turn.lock();
    turn.show();
    // It has not been read: the lane is reset.
    drop(lane);
    until("the end of the lane", || {
        let inner = end.conn.lock();
        let lane = inner.link.as_ref().and_then(|link| link.lane_out.as_ref());
        lane.is_some_and(|lane| !socket::is_open(lane.stream.tx()))
    });
    peer.acknowledge();
    until("the acknowledgement", || {
        let inner = end.conn.lock();
        inner.link.as_ref().is_some_and(|link| socket::unread(link.stream.rx()).is_ok_and(|unread| unread > 0))
    });
    progress.turn_epoll(&mut turn);
    drop(turn);
    until("the end of the connection", || !end.conn.lock().is_linked());
    assert_eq!(end.wait().status, Status::Success);
}
