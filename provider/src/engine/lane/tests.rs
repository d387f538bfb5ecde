use dmverbs_proto::{IN_BAND, LANE, Op, Remote, SendOp};

use super::*;
use crate::engine::testing::{End, Peer, connected, until, write};
use crate::mem::stub::Memory;
use crate::object::Sge;
use crate::transport::Receiver;

/// A queue for memory like this one's, which is ours until the socket is dropped, and its port.
fn queue(end: &End, memory: &Arc<Memory>) -> (Socket, u32) {
    let (ours, broker) = socket::pair().unwrap();
    let (listener, port) = socket::listen(None).unwrap();
    let ifindex = end.pd.context().device().ifindex();
    let receiver = Receiver::of_no_queue(ifindex, memory.device(), ours, listener);
    end.conn.progress.lanes.set(ifindex, receiver);
    (broker, u32::from(port))
}

fn lane_out<T>(end: &End, look: impl FnOnce(&LaneOut) -> T) -> Option<T> {
    end.conn.lock().link.as_ref().and_then(|link| link.lane_out.as_ref()).map(look)
}

#[test]
fn a_peer_can_have_more_regions_served_by_a_lane_than_are_remembered() {
    let (end, mut peer) = connected();
    let keys = 1..=KEYS as u32 + 1;
    let lane = peer.open_lane(keys.clone());
    until("the lane", || lane_out(&end, |lane| lane.takes(&self::write(0, *keys.end(), 1))) == Some(true));
    let memory = Memory::new(1);
    let region = memory.register(end.pd.id());
    let write = |peer: &mut Peer, rkey| {
        end.post(SendOp::Write(Remote { addr: 0, rkey }), Sge { addr: 0, length: 1, lkey: region.key() });
        let lane = peer.expect(Op::Write).lane;
        peer.acknowledge();
        // The next would wait for the answer.
        end.wait();
        lane
    };
    assert_eq!(write(&mut peer, *keys.end()), LANE);
    assert_eq!(write(&mut peer, 1), IN_BAND, "it was forgotten, as at the peer");
    peer.offer(lane.local_addr().unwrap().port(), 1);
    until("the offer", || lane_out(&end, |lane| lane.keys.0.contains(&1)) == Some(true));
    assert_eq!(write(&mut peer, 1), LANE);
}

#[test]
fn a_peer_that_changes_its_mind_about_a_lane_costs_a_port_each_half_second_at_most() {
    let (end, mut peer) = connected();
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::new(127, 0, 0, 2), 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = u32::from(listener.local_addr().unwrap().port());
    let mut offer = |challenge: u64| {
        let rkey = challenge as u32;
        peer.say(Frame { imm: port, rkey, addr: challenge, ..Frame::new(Op::LaneOffer) }, &[]);
        // What is said after it is answered after it, by whichever frame comes next.
        peer.say(write(0, 0, 0), &[]);
        while peer.hear().0.ack < challenge as u32 {}
    };
    let known = || lane_out(&end, |lane| lane.challenge);
    offer(1);
    offer(2);
    assert_eq!(known(), Some(1), "it came too soon");
    if let Some(lane) = end.conn.lock().link.as_mut().and_then(|link| link.lane_out.as_mut()) {
        lane.begun = 0;
    }
    offer(3);
    assert_eq!(known(), Some(3));
    assert!((0..3).map(|_| listener.accept().is_ok()).eq([true, true, false]));
}

#[test]
fn more_regions_can_be_served_by_a_lane_than_are_remembered() {
    let (end, mut peer) = connected();
    let memory = Memory::new(1);
    let _broker = queue(&end, &memory);
    let regions: Vec<_> = (0..=KEYS).map(|_| memory.register(end.pd.id())).collect();
    // The first has been forgotten when all have been offered.
    for region in regions.iter().chain(&regions[..1]) {
        peer.say(write(0, region.key(), 1), &[1]);
        assert_eq!(peer.expect(Op::LaneOffer).rkey, region.key());
    }
}

#[test]
fn a_queue_that_is_gone_before_the_peer_has_come_to_it_has_a_successor_for_the_same_regions() {
    let (end, mut peer) = connected();
    let memory = Memory::new(1);
    let regions: [_; 2] = std::array::from_fn(|_| memory.register(end.pd.id()));
    let keys = HashSet::from([regions[0].key(), regions[1].key()]);
    let offers = |peer: &mut Peer, port| -> HashSet<u32> {
        let offers = [peer.expect(Op::LaneOffer), peer.expect(Op::LaneOffer)];
        assert!(offers.iter().all(|offer| offer.imm == port));
        offers.iter().map(|offer| offer.rkey).collect()
    };
    let (first, port) = queue(&end, &memory);
    regions.iter().for_each(|region| peer.say(write(0, region.key(), 1), &[1]));
    assert_eq!(offers(&mut peer, port), keys);
    let (_there, here) = socket::pair().unwrap();
    if let Some(lane) = end.conn.lock().link.as_mut().and_then(|link| link.lane_in.as_mut()) {
        (lane.stream, lane.state) = (lane.receiver.intake(here).ok(), In::Ready);
    }
    let mut lost = first;
    for i in 2..4 {
        let (broker, port) = queue(&end, &memory);
        drop(std::mem::replace(&mut lost, broker));
        // As if that long had passed since somebody looked.
        if let Some(link) = &mut end.conn.lock().link {
            [&mut link.lane_in, &mut link.next_in].into_iter().flatten().for_each(|lane| lane.looked = 0);
        }
        // Payload for one of them tells of it, and both are offered.
        peer.say(write(0, regions[0].key(), 1), &[i]);
        assert_eq!(offers(&mut peer, port), keys);
    }
}

/// A lane that is ready, and on which a byte has come that no frame has announced: epoll does not tell of it. With its memory
/// and a region of that, and what it lives as long as.
fn silent_lane() -> (End, Peer, Arc<Memory>, Arc<Region>, [Socket; 2]) {
    let (end, mut peer) = connected();
    let memory = Memory::new(1);
    let region = memory.register(end.pd.id());
    let broker = queue(&end, &memory).0;
    peer.say(write(0, region.key(), 1), &[1]);
    peer.expect(Op::LaneOffer);
    let (there, here) = socket::pair().unwrap();
    let mut here = Some(here);
    let ready = lane_in(&end, |lane| {
        lane.stream = here.take().and_then(|here| lane.receiver.intake(here).ok());
        lane.state = In::Ready;
        let (epoll, token) = (end.conn.progress.epoll(), end.conn.lane_token(LANE_IN));
        lane.stream.as_ref().is_some_and(|stream| epoll.add(stream.as_fd(), token, Interest::READ_OR_END).is_ok())
    });
    assert_eq!(ready, Some(true));
    socket::send(there.as_fd(), &[7]).unwrap();
    until("silence", || lane_in(&end, |lane| lane.deaf) == Some(true));
    (end, peer, memory, region, [broker, there])
}

fn lane_in<T>(end: &End, look: impl FnOnce(&mut LaneIn) -> T) -> Option<T> {
    end.conn.lock().link.as_mut().and_then(|link| link.lane_in.as_mut()).map(look)
}

#[test]
fn epoll_does_not_tell_for_long_of_what_no_frame_has_announced_yet() {
    let (end, mut peer, memory, region, _sockets) = silent_lane();
    peer.say(Frame { lane: LANE, ..write(0, region.key(), 1) }, &[]);
    until("the byte", || lane_in(&end, |lane| !lane.deaf && lane.read == 1) == Some(true));
    assert_eq!(memory.bytes()[0], 7);
}

#[test]
fn a_lane_is_heard_again_when_the_queue_pair_has_failed_and_when_nobody_has_looked_for_long() {
    let (end, _peer, _memory, _region, _sockets) = silent_lane();
    // As if this process had been stopped: silence sets in again.
    let since = lane_in(&end, |lane| std::mem::take(&mut lane.early).since);
    let again = |lane: &mut LaneIn| lane.deaf && Some(lane.early.since) > since;
    until("silence", || lane_in(&end, again) == Some(true));
    let later = lane_in(&end, |lane| lane.early.seen);
    until("a look", || lane_in(&end, |lane| lane.early.seen) > later);
    end.conn.refuse(&mut end.conn.lock(), dmverbs_proto::Refusal::Access);
    until("an open ear", || lane_in(&end, |lane| lane.deaf) != Some(true));
}

#[test]
fn what_a_peer_that_does_not_read_is_to_hear_of_lanes_is_bounded() {
    let (end, mut peer) = connected();
    let memory = Memory::new(1);
    let _broker = queue(&end, &memory);
    let regions: Vec<_> = (0..4 * KEYS).map(|_| memory.register(end.pd.id())).collect();
    let mut inner = end.conn.lock();
    for region in &regions {
        end.conn.want_lane(&mut inner, memory.device().kind(), region.key());
    }
    assert_eq!(inner.engine.unsaid(), KEYS + 1);
    drop(inner);
    // When it reads again, it is told of what it wants.
    peer.say(write(0, regions[0].key(), 1), &[1]);
    assert!((0..=KEYS).all(|i| peer.expect(Op::LaneOffer).rkey == regions[i].key()));
    peer.say(write(0, regions[3 * KEYS].key(), 1), &[1]);
    while peer.expect(Op::LaneOffer).rkey != regions[3 * KEYS].key() {}
}

#[test]
fn what_no_frame_has_announced_yet_may_wait_as_long_as_the_queue_pair_would_for_its_peer() {
    let seconds = |n: Tick| n * 1_000_000_000;
    let times = [Some(0), Some(seconds(20)), Some(seconds(3600)), None].map(early_time);
    assert_eq!(times, [5, 20, 40, 40].map(seconds));
}
