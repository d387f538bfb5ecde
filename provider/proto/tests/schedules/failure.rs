//! What fails: with which status, and what becomes of the rest.

use super::*;

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
fn a_qp_connected_to_itself_does_not_blame_a_read_for_the_write_behind_it() {
    let mut net = paired(Setup { looped: true, ..Setup::default() });
    let target = net.a.target(16);
    net.a.send(0, SendOp::Read(at(target)), &[0; 8]);
    net.a.send(1, SendOp::Write(Remote { rkey: 0, ..at(target) }), b"bad");
    net.settle();
    assert_eq!(net.a.statuses(), [(0, WrFlush), (1, WrFlush)]);
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
fn payload_is_counted_neither_before_it_is_sent_nor_back() {
    for (counts, breaks) in [([3, 8], false), ([3, 3], false), ([8, 9], true), ([5, 4], true)] {
        let mut net = Pair::seeded(4);
        let target = net.b.target(8);
        net.a.send(0, SendOp::Write(at(target)), &[1; 8]);
        net.a.transmit(usize::MAX);
        for addr in counts {
            let (header, len) = Frame { addr, ..Frame::new(Op::Ack) }.encode();
            net.a.receive(&header[..len]);
        }
        assert_eq!(net.a.fatal.is_some(), breaks, "{counts:?}");
    }
}

#[test]
fn what_is_acknowledged_before_it_is_sent_completes_when_it_is() {
    let mut net = Pair::seeded(4);
    let target = net.b.target(64);
    let early = Frame { ack: 1, ..Frame::new(Op::Ack) }.encode().0;
    net.a.send(0, SendOp::Write(at(target)), &[1; 64]);
    net.a.holds = true;
    net.a.transmit(usize::MAX);
    net.a.receive(&early[..HEADER_LEN]);
    assert_eq!(net.a.statuses(), [], "its memory would be the program's again");
    assert!(net.a.fatal.is_none() && net.a.engine.is_only_unflushed());
    net.a.holds = false;
    net.a.transmit(usize::MAX);
    assert_eq!(net.a.statuses(), [(0, Success)]);
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
fn a_request_whose_memory_goes_while_it_waits_fails_in_its_turn() {
    // The one before it was said to have failed, although the peer had executed it.
    let mut net = Pair::seeded(18);
    let (target, source) = (net.b.target(8), net.a.target(8));
    net.a.send(0, SendOp::Write(at(target)), b"fine");
    net.a.transmit(usize::MAX);
    net.a.post(wr(1, SendOp::Write(at(target)), SendFlags::SIGNALED, source));
    assert!(net.a.memory.revoke(source.key));
    net.a.transmit(usize::MAX);
    assert!(!net.a.engine.has_failed());
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success), (1, LocProt)]);
}

#[test]
fn a_request_whose_memory_goes_when_half_is_out_fails_in_its_turn() {
    // Here, too, the one before it was said to have failed.
    let mut net = Pair::seeded(19);
    let (target, source) = (net.b.target(2 * MAX_CHUNK), net.a.target(2 * MAX_CHUNK));
    net.a.send(0, SendOp::Write(at(target)), b"fine");
    net.a.post(wr(1, SendOp::Write(at(target)), SendFlags::SIGNALED, source));
    net.a.send(2, SendOp::Write(at(target)), b"flushed");
    net.a.transmit(MAX_CHUNK as usize);
    assert!(net.a.memory.revoke(source.key));
    net.a.transmit(usize::MAX);
    assert!(!net.a.engine.has_failed());
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success), (1, LocProt), (2, WrFlush)]);
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
