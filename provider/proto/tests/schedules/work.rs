//! What works: every operation, in order, once.

use super::*;

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
fn a_queue_of_no_length_takes_nothing() {
    // The question for the next slot divided by zero.
    let mut net = paired(Setup { limits: Limits { send_wr: 0, recv_wr: 0 }, ..Setup::default() });
    assert_eq!((net.a.engine.send_room(), net.a.engine.recv_room()), (0, 0));
    assert_eq!((net.a.engine.next_send_slot(), net.a.engine.next_recv_slot()), (0, 0));
    net.settle();
}

#[test]
fn a_full_window_lets_no_request_begin() {
    let mut net = paired(Setup { window: Window { bytes: 24, requests: 2 }, ..Setup::default() });
    let target = net.b.target(64);
    for id in 0..4 {
        net.a.send(id, SendOp::Write(at(target)), &[id as u8; 16]);
    }
    assert!(!net.a.engine.is_full());
    net.a.transmit(usize::MAX);
    assert_eq!((net.a.engine.unsent(), net.a.engine.flown()), (2, 32));
    assert!(net.a.engine.is_full());
    // A wider window takes effect at once, and so does an acknowledgement.
    net.a.engine.set_window(Window { bytes: 24, requests: 3 });
    net.a.transmit(usize::MAX);
    assert_eq!((net.a.engine.unsent(), net.a.engine.flown()), (1, 48));
    assert!(net.a.engine.is_full());
    net.a.engine.set_window(Window { bytes: 49, requests: 1 });
    assert!(!net.a.engine.is_full());
    net.a.engine.set_window(Window { bytes: 48, requests: 3 });
    while net.deliver(A, usize::MAX) > 0 {}
    net.b.transmit(usize::MAX);
    while net.deliver(B, usize::MAX) > 0 {}
    assert!(!net.a.engine.is_full());
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success), (1, Success), (2, Success), (3, Success)]);
    assert_eq!(net.b.bytes(target.part(0, 16)), [3; 16]);
}

#[test]
fn of_a_long_message_no_more_than_the_window_is_on_its_way() {
    // What its sender was ahead by filled both sockets, and was out of the caches when it was read.
    const WINDOW: usize = 5 << 20;
    let data = pattern(16 << 20);
    for reads in [false, true] {
        let mut net = paired(Setup { window: Window { bytes: WINDOW as u64, requests: 1 }, ..Setup::default() });
        let (source, target) = if reads {
            let source = net.a.memory.register(data.clone(), Access::all());
            let target = net.b.send(0, SendOp::Read(at(source)), &vec![0; data.len()]);
            net.b.transmit(usize::MAX);
            net.deliver(B, usize::MAX);
            (source, target)
        } else {
            let target = net.b.target(data.len() as u32);
            (net.a.send(0, SendOp::Write(at(target)), &data), target)
        };
        let mut most = 0;
        while {
            net.a.transmit_if_needed(usize::MAX);
            most = most.max(net.a.under_way());
            net.deliver(A, 300_000) > 0
        } {
            net.b.transmit_if_needed(usize::MAX);
            net.deliver(B, usize::MAX);
        }
        let frame = MAX_CHUNK as usize + HEADER_LEN;
        assert!((WINDOW - frame..WINDOW + 2 * frame).contains(&most), "{most} bytes, reads: {reads}");
        assert!(net.b.bytes(target) == net.a.bytes(source));
        let requester = if reads { &mut net.b } else { &mut net.a };
        assert_eq!(requester.statuses(), [(0, Success)]);
    }
}

#[test]
fn who_is_closed_begins_nothing_but_goes_on_and_answers() {
    let mut net = paired(Setup::default());
    let target = net.b.target(64);
    let long = vec![1; 2 * MAX_CHUNK as usize];
    let whole = net.b.target(long.len() as u32);
    net.a.send(0, SendOp::Write(at(whole)), &long);
    net.a.transmit(1);
    assert_eq!(net.a.engine.on_way(), u64::from(MAX_CHUNK));
    net.a.engine.set_closed(true);
    net.a.send(1, SendOp::Write(at(target)), &[5; 16]);
    let here = net.a.target(8);
    net.b.send(2, SendOp::Read(at(here)), &[0; 8]);
    net.settle();
    assert!(net.a.engine.is_full());
    assert_eq!((net.a.statuses(), net.b.statuses()), (vec![(0, Success)], vec![(2, Success)]));
    assert_eq!((net.a.engine.unsent(), net.a.engine.on_way()), (1, 0));
    net.a.engine.set_closed(false);
    net.settle();
    assert_eq!(net.a.statuses(), [(1, Success)]);
    assert_eq!(net.b.bytes(target.part(0, 16)), [5; 16]);
}

#[test]
fn a_request_completes_when_its_memory_is_given_back() {
    let (mut net, lent) = eight_writes_arrived();
    net.b.transmit(usize::MAX);
    while net.deliver(B, usize::MAX) > 0 {}
    let mut completed = net.a.completions();
    for returned in 0..lent {
        assert!(completed.len() < 8, "a request completes while {returned} are still to be given back");
        assert!(net.a.give_back());
        completed.extend(net.a.completions());
    }
    assert_eq!(
        completed.iter().map(|c| (c.id, c.status)).collect::<Vec<_>>(),
        (0..8).map(|id| (id, Status::Success)).collect::<Vec<_>>()
    );
}

#[test]
fn frames_behind_a_payload_that_is_still_on_the_lane_wait_for_it() {
    let mut net = paired(Setup { lanes: true, ..Setup::default() });
    let target = net.b.target(64);
    for id in 0..8 {
        net.a.send(id, SendOp::Write(at(target)), &[id as u8 + 1; 8]);
    }
    net.a.transmit(usize::MAX);
    let (bytes, lane) = (net.a.take_stream(), net.a.take_lane());
    net.b.receive(&bytes);
    let first = lane[0];
    assert!(
        net.b.placed.iter().all(|placed| placed.bytes[0] < first),
        "a later write is seen before the first on the lane"
    );
    net.b.receive_lane(&lane);
    let order: Vec<u8> = net.b.placed.iter().map(|placed| placed.bytes[0]).collect();
    assert_eq!(order, (1..=8).collect::<Vec<u8>>());
}

#[test]
fn nobody_waits_for_memory_of_a_connection_whose_peer_has_gone() {
    let (mut net, _) = eight_writes_arrived();
    net.b.transmit(usize::MAX);
    net.b.engine.fail(None);
    net.b.transmit(usize::MAX);
    while net.deliver(B, usize::MAX) > 0 {}
    let completed: Vec<_> = net.a.completions().iter().map(|c| (c.id, c.status)).collect();
    assert_eq!(completed, (0..8).map(|id| (id, Status::Success)).collect::<Vec<_>>());
}

/// Eight writes have come to the other side, some of them by the lane: the memory of so many is lent, and none given back.
fn eight_writes_arrived() -> (Pair, usize) {
    let mut net = paired(Setup { lanes: true, ..Setup::default() });
    let target = net.b.target(64);
    for id in 0..8 {
        net.a.send(id, SendOp::Write(at(target)), &[id as u8; 16]);
    }
    net.a.transmit(usize::MAX);
    let (bytes, lane) = (net.a.take_stream(), net.a.take_lane());
    assert!(!lane.is_empty() && lane.len() % 16 == 0 && lane.len() < 8 * 16, "the dice of the seed are all alike");
    net.b.receive(&bytes);
    net.b.receive_lane(&lane);
    (net, lane.len() / 16)
}
