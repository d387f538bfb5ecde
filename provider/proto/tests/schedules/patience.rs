//! What waits: for the peer, for receives, for acks and for deadlines.

use super::*;

#[test]
fn acks_wait_for_company_but_not_for_ever() {
    for (size, requests) in [(5, 64), (2 << 10, 16), (1 << 20, 1)] {
        let mut net = Pair::seeded(4);
        let target = net.b.target(1 << 20);
        for id in 0..requests {
            assert_eq!(net.b.engine.need(), if id == 0 { Need::Nothing } else { Need::Lazy });
            net.a.send(id, SendOp::Write(at(target)), &pattern(size));
            net.a.transmit(usize::MAX);
            net.deliver(A, usize::MAX);
        }
        assert_eq!(net.b.engine.need(), Need::Now, "{requests} requests of {size} bytes");
    }
}

#[test]
fn an_ack_that_more_is_known_to_follow_waits_for_twice_the_payload() {
    let mut net = Pair::seeded(4);
    let target = net.b.target(1 << 20);
    for id in 0..3 {
        net.b.engine.set_followed(id < 2);
        net.a.send(id, SendOp::Write(at(target)), &pattern(1 << 20));
        net.a.transmit(usize::MAX);
        net.deliver(A, usize::MAX);
        assert_eq!(net.b.engine.need(), if id == 0 { Need::Lazy } else { Need::Now });
        if id == 1 {
            net.b.transmit(usize::MAX);
            assert_eq!(net.b.engine.need(), Need::Nothing);
        }
    }
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
fn the_receivers_rnr_timer_may_change() {
    // It had been said in the hello only.
    let timing = Timing { rnr_retry: 2, ..Setup::default().timing };
    let mut net = paired(Setup { timing, rnr_timer: MS as u32, ..Setup::default() });
    net.b.engine.set_rnr_timer(10 * MS);
    assert_eq!(net.b.engine.need(), Need::Now);
    net.settle();
    assert_eq!(net.b.engine.need(), Need::Nothing);
    gives_up_after_twice_ten_ms(net);
}

/// A sender without a receive.
fn gives_up_after_twice_ten_ms(mut net: Pair) {
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
fn a_sender_without_receive_gives_up_after_its_rnr_budget() {
    let timing = Timing { rnr_retry: 2, ..Setup::default().timing };
    gives_up_after_twice_ten_ms(paired(Setup { timing, rnr_timer: 10 * MS as u32, ..Setup::default() }));
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
fn of_a_long_message_an_ack_may_wait_for_long() {
    // One of 1 MiB was acknowledged in its middle, which told its sender nothing.
    let mut net = Pair::seeded(24);
    let data = pattern(3 << 20);
    let target = net.b.target(data.len() as u32);
    net.a.send(0, SendOp::Write(at(target)), &data);
    net.a.transmit(usize::MAX);
    let needs: Vec<_> = (0..data.len())
        .step_by(512 << 10)
        .map(|_| {
            net.deliver(A, 512 << 10);
            net.b.engine.need()
        })
        .collect();
    // It is placed by the frame, and headers take some of what comes.
    assert_eq!(needs, [Need::Nothing, Need::Nothing, Need::Lazy, Need::Lazy, Need::Now, Need::Now]);
}

/// The peer is silent from now on, which fails the request between one and two budgets later.
fn expect_notice(net: &mut Pair) {
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
fn no_deadline_runs_for_what_may_not_be_begun() {
    let mut net = Pair::seeded(27);
    let target = net.b.target(8);
    net.a.engine.set_closed(true);
    net.a.send(0, SendOp::Write(at(target)), b"in line.");
    net.a.transmit(usize::MAX);
    for _ in 0..90 {
        net.tick(100 * MS);
    }
    assert_eq!(net.a.statuses(), []);
    net.a.engine.set_closed(false);
    net.a.transmit(usize::MAX);
    expect_notice(&mut net);
}

#[test]
fn a_silent_peer_is_noticed_within_twice_the_budget() {
    let mut net = Pair::seeded(25);
    let target = net.b.target(8);
    net.a.send(0, SendOp::Write(at(target)), b"into the");
    net.a.transmit(usize::MAX);
    expect_notice(&mut net);
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
    let data = pattern(4 * MAX_CHUNK as usize);
    let target = net.b.target(data.len() as u32);
    net.a.send(0, SendOp::Write(at(target)), &data);
    // The stream holds a chunk at most, and takes another now and then.
    for _ in 0..4 {
        net.a.transmit(MAX_CHUNK as usize);
        net.deliver(A, MAX_CHUNK as usize + HEADER_LEN);
        net.tick(900 * MS);
        assert_eq!(net.a.statuses(), []);
    }
    net.settle();
    assert_eq!(net.a.statuses(), [(0, Success)]);
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
