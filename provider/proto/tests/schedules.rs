//! Readable schedules: each a rule of RC, or a symptom that once was seen.

use dmverbs_proto::testing::{End, Pair, Setup, Sge, Side, Wr};
use dmverbs_proto::{
    Access, Completion, Flags, Frame, Limits, MAX_CHUNK, Need, Op, Remote, SendFlags, SendOp, Status, Timing,
};

use End::{A, B};
use Status::{LocLen, LocProt, RemAccess, RemInvReq, RemOp, RetryExc, RnrRetryExc, Success, WrFlush};

#[test]
fn a_write_is_placed_and_completes_once() {
    let mut net = Pair::seeded(1);
    let target = net.b.target(64);
    net.a.send(0, SendOp::Write(at(target)), b"sixteen bytes ok");
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success)]);
    assert_eq!(net.b.bytes(target.part(0, 16)), b"sixteen bytes ok");
}

#[test]
fn a_message_of_several_chunks_is_one_completion() {
    let mut net = Pair::seeded(2);
    let data = pattern(2 * MAX_CHUNK as usize + 5);
    let room = net.b.receive_into(7, data.len() as u32);
    net.a.send(0, SendOp::SendImm(0xabcd), &data);
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success)]);
    assert_eq!(net.b.received(), [(7, Success)]);
    assert!(net.b.bytes(room) == data);
}

#[test]
fn a_header_may_arrive_byte_by_byte() {
    let mut net = Pair::seeded(3);
    let target = net.b.target(8);
    net.a.send(0, SendOp::FetchAdd { at: at(target), add: 5 }, &[0; 8]);
    net.a.transmit(usize::MAX);
    while net.deliver(A, 1) > 0 {}
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success)]);
    assert_eq!(net.b.bytes(target), 5u64.to_ne_bytes());
}

#[test]
fn a_qp_may_be_connected_to_itself() {
    let mut net = paired(Setup { looped: true, ..Setup::default() });
    let (target, room) = (net.a.target(16), net.a.receive_into(9, 16));
    net.a.send(0, SendOp::Write(at(target)), b"to myself");
    net.a.send(1, SendOp::Send, b"hello me");
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success), (1, Success)]);
    assert_eq!(net.a.received(), [(9, Success)]);
    assert_eq!(net.a.bytes(target.part(0, 9)), b"to myself");
    assert_eq!(net.a.bytes(room.part(0, 8)), b"hello me");
}

#[test]
fn a_qp_connected_to_itself_hears_why_it_refused_itself() {
    // Its own refusal could not reach it any more, and the request was merely flushed.
    let mut net = paired(Setup { looped: true, ..Setup::default() });
    let target = net.a.target(16);
    net.a.send(0, SendOp::Write(at(target)), b"fine");
    net.a.send(1, SendOp::Write(Remote { rkey: 0, ..at(target) }), b"bad");
    net.a.send(2, SendOp::Write(at(target)), b"behind");
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success), (1, RemAccess), (2, WrFlush)]);
}

#[test]
fn a_write_with_a_gap_breaks_the_protocol() {
    let mut net = Pair::seeded(3);
    let target = net.a.target(64);
    let first =
        Frame { flags: Flags::FIRST, len: 8, addr: target.addr, rkey: target.key, imm: 16, ..Frame::new(Op::Write) };
    let last = Frame { flags: Flags::LAST, addr: target.addr + 9, imm: 0, ..first };
    for frame in [first, last] {
        let (header, len) = frame.encode();
        net.a.receive(&header[..len]);
        net.a.receive(&[1; 8]);
    }
    assert!(net.a.fatal.is_some());
    assert_eq!(net.a.bytes(target.part(8, 56)), [0; 56]);
}

#[test]
fn counters_wrap() {
    let mut net = paired(Setup { counters: u32::MAX - 2, ..Setup::default() });
    for id in 0..8 {
        net.b.receive_into(id, 8);
        net.a.send(id, SendOp::Send, b"over");
        net.settle();
        assert_eq!(net.a.statuses(), [(id, Success)]);
        assert_eq!(net.b.received(), [(id, Success)]);
    }
}

#[test]
fn a_send_without_a_receive_holds_up_no_answer() {
    let mut net = Pair::seeded(4);
    let (source, target) = (net.a.target(8), net.b.target(8));
    net.a.send(0, SendOp::Send, b"nobody waits");
    net.b.send(0, SendOp::Read(at(source)), &[0; 8]);
    net.b.send(1, SendOp::Write(at(source)), b"and more");
    net.a.send(1, SendOp::Write(at(target)), b"later");
    net.settle();
    assert_eq!(net.b.statuses(), [(0, Success), (1, Success)]);
    assert_eq!(net.a.statuses(), []);
    assert_eq!(net.b.bytes(target), [0; 8], "a request overtook another");
    net.b.receive_into(0, 64);
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success), (1, Success)]);
}

#[test]
fn acks_wait_for_company_but_not_for_ever() {
    let mut net = Pair::seeded(4);
    let target = net.b.target(1 << 20);
    for id in 0..16 {
        assert_eq!(net.b.engine.need(), if id == 0 { Need::Nothing } else { Need::Lazy });
        net.a.send(id, SendOp::Write(at(target)), b"small");
        net.a.transmit(usize::MAX);
        net.deliver(A, usize::MAX);
    }
    assert_eq!(net.b.engine.need(), Need::Now);
    net.settle();
    net.a.send(16, SendOp::Write(at(target)), &pattern(1 << 20));
    net.a.transmit(usize::MAX);
    net.deliver(A, usize::MAX);
    assert_eq!(net.b.engine.need(), Need::Now);
}

#[test]
fn a_receive_is_urgent_only_for_a_peer_that_knows_of_none() {
    let mut net = Pair::seeded(4);
    net.b.receive_into(0, 8);
    assert_eq!(net.b.engine.need(), Need::Now);
    net.settle();
    net.b.receive_into(1, 8);
    assert_eq!(net.b.engine.need(), Need::Nothing, "as many are known as are not");
    net.b.receive_into(2, 8);
    assert_eq!(net.b.engine.need(), Need::Lazy);
}

#[test]
fn a_fenced_request_waits_for_reads() {
    let mut net = Pair::seeded(5);
    let target = net.b.target(8);
    let landing = net.a.send(0, SendOp::Read(at(target)), &[9; 8]);
    net.a.send_with(1, SendOp::Write(at(target)), SendFlags::FENCE | SendFlags::SIGNALED, b"too soon");
    net.a.transmit(usize::MAX);
    while net.deliver(A, usize::MAX) > 0 {}
    assert_eq!(net.b.bytes(target), [0; 8]);
    net.settle();
    assert_eq!(net.a.bytes(landing), [0; 8]);
    assert_eq!(net.b.bytes(target), b"too soon");
}

#[test]
fn a_signaled_request_retires_unsignaled_ones() {
    let mut net = Pair::seeded(6);
    let target = net.b.target(8);
    net.a.send_with(0, SendOp::Write(at(target)), SendFlags::empty(), b"1");
    net.a.send_with(1, SendOp::Write(at(target)), SendFlags::empty(), b"2");
    net.a.send(2, SendOp::Write(at(target)), b"3");
    net.settle();
    assert_eq!(net.a.statuses(), [(2, Success)]);
    assert_eq!(net.a.engine.send_room(), 64);
}

#[test]
fn a_bad_key_is_a_remote_access_error_and_the_rest_is_flushed() {
    let mut net = Pair::seeded(7);
    let target = net.b.target(8);
    net.b.receive_into(0, 8);
    net.b.receive_into(1, 8);
    net.a.receive_into(0, 8);
    net.a.send_with(0, SendOp::Write(at(target)), SendFlags::empty(), b"fine");
    net.a.send(1, SendOp::Write(Remote { rkey: 0, ..at(target) }), b"bad");
    net.a.send_with(2, SendOp::Send, SendFlags::empty(), b"unsignaled");
    net.settle();
    assert_eq!(net.a.statuses(), [(1, RemAccess), (2, WrFlush)]);
    assert_eq!(net.a.received(), [(0, WrFlush)]);
    assert_eq!(net.b.received(), [(0, WrFlush), (1, WrFlush)]);
    assert_eq!(net.b.bytes(target.part(0, 4)), b"fine");
}

#[test]
fn a_range_is_checked_before_its_first_byte_is_placed() {
    let mut net = Pair::seeded(8);
    let target = net.b.target(MAX_CHUNK);
    net.a.send(0, SendOp::Write(at(target)), &pattern(MAX_CHUNK as usize + 1));
    net.settle();
    assert_eq!(net.a.statuses(), [(0, RemAccess)]);
    assert!(net.b.bytes(target).iter().all(|&byte| byte == 0));
}

#[test]
fn a_receive_too_short_is_a_length_error_here_and_an_invalid_request_there() {
    let mut net = Pair::seeded(9);
    net.b.receive_into(0, 4);
    net.b.receive_into(1, 64);
    net.a.send(0, SendOp::Send, b"five!");
    net.settle();
    assert_eq!(net.b.received(), [(0, LocLen), (1, WrFlush)]);
    assert_eq!(net.a.statuses(), [(0, RemInvReq)]);
}

#[test]
fn a_receive_with_a_bad_key_is_a_protection_error_here_and_an_operation_error_there() {
    let mut net = Pair::seeded(10);
    net.b.post_receive(0, vec![Sge { addr: 0, len: 64, key: 0 }]);
    net.a.send(0, SendOp::Send, b"hello");
    net.settle();
    assert_eq!(net.b.received(), [(0, LocProt)]);
    assert_eq!(net.a.statuses(), [(0, RemOp)]);
}

#[test]
fn a_misaligned_atomic_is_an_invalid_request() {
    let mut net = Pair::seeded(11);
    let target = net.b.target(16);
    net.a.send(0, SendOp::FetchAdd { at: at(target.part(4, 8)), add: 1 }, &[0; 8]);
    net.settle();
    assert_eq!(net.a.statuses(), [(0, RemInvReq)]);
}

#[test]
fn what_came_before_a_refused_request_is_still_answered() {
    let mut net = Pair::seeded(12);
    let target = net.b.target(8);
    net.a.send(0, SendOp::FetchAdd { at: at(target), add: 1 }, &[0; 8]);
    net.a.send(1, SendOp::Read(at(target)), &[0; 8]);
    net.a.send(2, SendOp::Write(Remote { rkey: 0, ..at(target) }), b"bad");
    net.a.transmit(usize::MAX);
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success), (1, Success), (2, RemAccess)]);
}

#[test]
fn memory_deregistered_under_a_read_is_a_remote_access_error() {
    let mut net = Pair::seeded(13);
    let target = net.b.target(8);
    net.a.send(0, SendOp::Read(at(target)), &[0; 8]);
    net.a.transmit(usize::MAX);
    net.deliver(A, usize::MAX);
    net.b.memory.revoke(target.key);
    net.settle();
    assert_eq!(net.a.statuses(), [(0, RemAccess)]);
}

#[test]
fn memory_deregistered_under_an_answer_is_a_local_protection_error() {
    // The atomic succeeded, and the request behind it took the blame.
    for op in [|at| SendOp::FetchAdd { at, add: 1 }, SendOp::Read] {
        let mut net = Pair::seeded(13);
        let target = net.b.target(8);
        let landing = net.a.send(0, op(at(target)), &[0; 8]);
        net.a.send(1, SendOp::Write(at(target)), b"behind");
        net.a.transmit(usize::MAX);
        net.a.memory.revoke(landing.key);
        net.settle();
        assert_eq!(net.a.statuses(), [(0, LocProt), (1, WrFlush)]);
    }
}

#[test]
fn one_call_of_transmit_says_all_there_is_to_say() {
    // The driver was not asked again, and the refusal stayed unsaid.
    let mut net = Pair::seeded(13);
    let target = net.b.target(8);
    net.a.send(0, SendOp::Read(at(target)), &[0; 8]);
    net.a.transmit(usize::MAX);
    net.deliver(A, usize::MAX);
    net.b.memory.revoke(target.key);
    net.b.transmit(usize::MAX);
    assert_eq!(net.b.engine.need(), Need::Nothing);
    assert!(net.b.engine.has_said_goodbye());
}

#[test]
fn a_goodbye_fails_what_is_outstanding_and_leaves_receives_posted() {
    let mut net = Pair::seeded(14);
    net.a.receive_into(0, 8);
    net.a.send(0, SendOp::Send, b"in vain");
    net.a.send(1, SendOp::Send, b"as well");
    net.b.engine.fail(None);
    net.settle();
    assert_eq!(net.a.statuses(), [(0, RetryExc), (1, WrFlush)]);
    let mut net = Pair::seeded(14);
    net.a.receive_into(0, 8);
    net.b.engine.fail(None);
    net.settle();
    assert!(!net.a.engine.has_failed() && net.a.received().is_empty());
    net.a.send(0, SendOp::Send, b"too late");
    net.settle();
    assert_eq!((net.a.statuses(), net.a.received()), (vec![(0, RetryExc)], vec![(0, WrFlush)]));
}

#[test]
fn what_was_acknowledged_before_the_peer_was_lost_has_succeeded() {
    let mut net = Pair::seeded(15);
    let target = net.b.target(8);
    net.a.send(0, SendOp::Write(at(target)), b"there");
    net.a.transmit(usize::MAX);
    net.deliver(A, usize::MAX);
    net.b.transmit(usize::MAX);
    net.a.send(1, SendOp::Write(at(target)), b"not");
    net.cut(usize::MAX);
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success), (1, RetryExc)]);
}

#[test]
fn a_success_not_yet_polled_when_the_peer_is_lost_is_no_failure() {
    // The next request was flushed, and nobody ever heard of the lost peer.
    let mut net = Pair::seeded(15);
    let target = net.b.target(8);
    net.a.receive_into(0, 8);
    net.a.send(0, SendOp::Write(at(target)), b"there");
    net.a.transmit(usize::MAX);
    net.deliver(A, usize::MAX);
    net.b.transmit(usize::MAX);
    net.cut(usize::MAX);
    assert_eq!((net.a.statuses(), net.a.received()), (vec![(0, Success)], vec![]));
    net.a.send(1, SendOp::Write(at(target)), b"not");
    net.a.transmit(usize::MAX);
    assert_eq!((net.a.statuses(), net.a.received()), (vec![(1, RetryExc)], vec![(0, WrFlush)]));
}

#[test]
fn a_failed_engine_whose_stream_is_gone_needs_nothing() {
    // The driver was sent round and round for a goodbye that nobody could hear.
    let mut net = Pair::seeded(16);
    net.a.engine.fail(None);
    net.a.end_of_stream();
    assert_eq!(net.a.engine.need(), Need::Nothing);
}

#[test]
fn a_local_fault_waits_for_earlier_requests_but_not_for_a_poll() {
    // The request stayed in the queue when the driver polled after it had transmitted.
    let mut net = Pair::seeded(17);
    let target = net.b.target(8);
    net.a.send(0, SendOp::Write(at(target)), b"fine");
    net.a.post(wr(1, SendOp::Write(at(target)), SendFlags::SIGNALED, Sge { key: 0, ..target }));
    net.a.transmit(usize::MAX);
    assert!(!net.a.engine.has_failed());
    net.deliver(A, usize::MAX);
    net.b.transmit(usize::MAX);
    net.deliver(B, usize::MAX);
    net.a.transmit(usize::MAX);
    assert_eq!(net.a.statuses(), [(0, Success), (1, LocProt)]);
}

#[test]
fn a_key_is_invalidated_in_its_turn() {
    let mut net = Pair::seeded(18);
    let (target, spare) = (net.b.target(8), net.a.target(8));
    net.a.send(0, SendOp::Write(at(target)), b"first");
    net.a.send(1, SendOp::LocalInv(spare.key), &[]);
    net.a.send(2, SendOp::Write(at(target)), b"last");
    net.a.send(3, SendOp::LocalInv(spare.key), &[]);
    net.a.transmit(usize::MAX);
    assert!(net.a.memory.check(spare, Access::empty()).is_ok(), "invalidated before its turn");
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success), (1, Success), (2, Success), (3, LocProt)]);
}

#[test]
fn a_request_before_the_connection_waits_for_it() {
    // It counted as starved of receives, and failed as such within milliseconds.
    let timing = Timing { rnr_retry: 0, ..Setup::default().timing };
    let mut net = Pair::unconnected(19, Setup { timing, ..Setup::default() });
    net.b.receive_into(0, 8);
    net.a.send(0, SendOp::Send, b"early");
    net.a.transmit(usize::MAX);
    for _ in 0..90 {
        net.tick(10 * MS);
    }
    assert_eq!(net.a.statuses(), []);
    net.connect();
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success)]);
}

#[test]
fn a_connection_that_never_comes_is_a_lost_peer() {
    let mut net = Pair::unconnected(20, Setup::default());
    net.a.send(0, SendOp::Send, b"nobody");
    for _ in 0..21 {
        net.tick(100 * MS);
    }
    assert_eq!(net.a.statuses(), [(0, RetryExc)]);
    net.settle();
}

#[test]
fn a_paused_qp_holds_back_what_has_not_begun_and_has_no_deadline() {
    // Requests held back counted as unanswered.
    let mut net = Pair::seeded(21);
    let target = net.b.target(8);
    net.a.send(0, SendOp::Write(at(target)), b"goes out");
    net.a.transmit(usize::MAX);
    net.a.engine.set_paused(true);
    net.a.send(1, SendOp::Write(at(target)), b"does not");
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success)]);
    assert!(net.a.engine.is_drained());
    for _ in 0..100 {
        net.tick(100 * MS);
    }
    assert_eq!(net.a.statuses(), []);
    net.a.engine.set_paused(false);
    net.settle();
    assert_eq!(net.a.statuses(), [(1, Success)]);
}

#[test]
fn a_sender_without_receive_gives_up_after_its_rnr_budget() {
    let timing = Timing { rnr_retry: 2, ..Setup::default().timing };
    let mut net = paired(Setup { timing, rnr_timer: 10 * MS as u32, ..Setup::default() });
    net.a.send(0, SendOp::Send, b"nobody waits");
    net.settle();
    for _ in 0..19 {
        net.tick(MS);
    }
    assert_eq!(net.a.statuses(), []);
    for _ in 0..19 {
        net.tick(MS);
    }
    assert_eq!(net.a.statuses(), [(0, RnrRetryExc)]);
}

#[test]
fn a_receive_now_and_then_keeps_a_sender_patient() {
    // The clock went on from the first shortage, although each was a short one.
    let timing = Timing { rnr_retry: 2, ..Setup::default().timing };
    let mut net = paired(Setup { timing, rnr_timer: 10 * MS as u32, ..Setup::default() });
    for id in 0..20 {
        net.a.send(id, SendOp::Send, b"one more");
    }
    for id in 0..20 {
        net.settle();
        for _ in 0..15 {
            net.tick(MS);
        }
        net.b.receive_into(id, 8);
        net.settle();
        assert_eq!(net.a.statuses(), [(id, Success)]);
    }
}

#[test]
fn a_slow_answer_does_not_count_as_a_missing_receive() {
    // The READ failed, with the status of the SEND behind it.
    let timing = Timing { rnr_retry: 0, ..Setup::default().timing };
    let mut net = paired(Setup { timing, ..Setup::default() });
    let target = net.b.target(8);
    net.a.send(0, SendOp::Read(at(target)), &[0; 8]);
    net.a.send(1, SendOp::Send, b"later");
    net.a.transmit(usize::MAX);
    for _ in 0..50 {
        net.tick(10 * MS);
    }
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success)]);
}

#[test]
fn a_long_message_is_acknowledged_on_its_way() {
    // The receiver of a long message over a slow link was taken for lost; and wanted to send an ack that it never sent.
    let mut net = Pair::seeded(24);
    let data = pattern(16 << 20);
    let target = net.b.target(data.len() as u32);
    net.a.send(0, SendOp::Write(at(target)), &data);
    net.a.transmit(usize::MAX);
    while net.deliver(A, 1 << 20) > 0 {
        net.b.transmit_if_needed(usize::MAX);
        assert_eq!(net.b.engine.need(), Need::Nothing);
        net.deliver(B, usize::MAX);
        net.tick(600 * MS);
    }
    assert_eq!(net.a.statuses(), [(0, Success)]);
}

#[test]
fn a_silent_peer_is_noticed_within_twice_the_budget() {
    let mut net = Pair::seeded(25);
    let target = net.b.target(8);
    net.a.send(0, SendOp::Write(at(target)), b"into the");
    net.a.transmit(usize::MAX);
    for _ in 0..9 {
        net.tick(100 * MS);
    }
    assert_eq!(net.a.statuses(), []);
    for _ in 0..12 {
        net.tick(100 * MS);
    }
    assert_eq!(net.a.statuses(), [(0, RetryExc)]);
}

#[test]
fn a_silent_peer_is_noticed_though_requests_keep_coming() {
    // Each request that went into the black hole counted as progress.
    let mut net = Pair::seeded(26);
    let target = net.b.target(8);
    for id in 0..40 {
        net.a.send(id, SendOp::Write(at(target)), b"hole");
        net.a.transmit(usize::MAX);
        net.tick(100 * MS);
        if net.a.engine.has_failed() {
            assert!((10..22).contains(&id), "noticed after {id}00 ms");
            return;
        }
    }
    panic!("never noticed");
}

#[test]
fn a_slow_reader_is_no_lost_peer() {
    let mut net = Pair::seeded(27);
    let data = pattern(8 << 20);
    let target = net.b.target(data.len() as u32);
    net.a.send(0, SendOp::Write(at(target)), &data);
    // The stream holds a chunk at most, and takes a byte now and then.
    for _ in 0..20 {
        net.a.transmit(MAX_CHUNK as usize);
        net.deliver(A, 300 << 10);
        net.tick(900 * MS);
        assert_eq!(net.a.statuses(), []);
    }
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success)]);
}

#[test]
fn the_peers_limit_of_reads_outlives_a_later_modify() {
    // RTS came after the handshake, and more READs went out than the peer accepts.
    let timing = Timing { max_dest_rd_atomic: 1, max_rd_atomic: 8, ..Setup::default().timing };
    let mut net = paired(Setup { timing, ..Setup::default() });
    let target = net.b.target(8);
    net.a.engine.set_timing(timing);
    for id in 0..8 {
        net.a.send(id, SendOp::Read(at(target)), &[0; 8]);
    }
    net.settle();
    assert!(net.a.statuses().iter().all(|&(_, status)| status == Success));
}

#[test]
fn a_read_that_may_never_be_sent_fails_instead_of_waiting() {
    let timing = Timing { max_dest_rd_atomic: 0, retry: None, ..Setup::default().timing };
    let mut net = paired(Setup { timing, ..Setup::default() });
    let target = net.b.target(8);
    net.a.send(0, SendOp::Write(at(target)), b"fine");
    net.a.send(1, SendOp::Read(at(target)), &[0; 8]);
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success), (1, RemInvReq)]);
}

#[test]
fn nothing_succeeds_after_the_first_error() {
    // A WRITE behind a READ half answered was reported as done after the READ had failed.
    let mut net = Pair::seeded(30);
    let target = net.b.target(2 * MAX_CHUNK);
    net.a.send(0, SendOp::Read(at(target)), &pattern(2 * MAX_CHUNK as usize));
    net.a.send(1, SendOp::Write(at(target)), b"1");
    net.a.send(2, SendOp::Write(at(target)), b"2");
    net.a.transmit(usize::MAX);
    net.deliver(A, usize::MAX);
    net.b.transmit(1);
    net.deliver(B, usize::MAX);
    net.cut(0);
    net.settle();
    assert_eq!(net.a.statuses(), [(0, RetryExc), (1, WrFlush), (2, WrFlush)]);
}

#[test]
fn receives_posted_during_the_handshake_are_told() {
    let mut net = Pair::unconnected(31, Setup::default());
    net.b.receive_into(0, 8);
    net.connect();
    net.b.receive_into(1, 8);
    net.a.send(0, SendOp::Send, b"one");
    net.a.send(1, SendOp::Send, b"two");
    net.a.transmit(usize::MAX);
    net.deliver(A, usize::MAX);
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success), (1, Success)]);
}

#[test]
fn a_queue_of_no_length_takes_nothing() {
    // The question for the next slot divided by zero.
    let mut net = paired(Setup { limits: Limits { send_wr: 0, recv_wr: 0 }, ..Setup::default() });
    assert_eq!((net.a.engine.send_room(), net.a.engine.recv_room()), (0, 0));
    assert_eq!((net.a.engine.next_send_slot(), net.a.engine.next_recv_slot()), (0, 0));
    net.settle();
}

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
