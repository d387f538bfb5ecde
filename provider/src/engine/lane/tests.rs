use dmverbs_proto::{IN_BAND, LANE, Op, Remote, SendOp};

use super::*;
use crate::engine::testing::{End, Peer, connected, until, write};
use crate::mem::stub::Memory;
use crate::object::Sge;
use crate::transport::Receiver;

/// A queue for memory like this one's, which is ours until the socket is dropped.
fn queue(end: &End, memory: &Arc<Memory>) -> Socket {
    let (ours, broker) = socket::pair().unwrap();
    let (listener, _) = socket::listen(None).unwrap();
    let ifindex = end.pd.context().device().ifindex();
    let receiver = Receiver::of_no_queue(ifindex, memory.device(), ours, listener);
    end.conn.progress.lanes.set(ifindex, receiver);
    broker
}

fn lane_out<T>(end: &End, look: impl FnOnce(&LaneOut) -> T) -> Option<T> {
    end.conn.lock().link.as_ref().and_then(|link| link.lane_out.as_ref()).map(look)
}

fn is_ready(end: &End) -> bool {
    lane_out(end, LaneOut::is_ready) == Some(true)
}

#[test]
fn a_peer_can_have_more_regions_served_by_a_lane_than_are_remembered() {
    let (end, mut peer) = connected();
    let keys = 1..=KEYS as u32 + 1;
    let lane = peer.open_lane(keys.clone());
    until("the lane", || is_ready(&end));
    let memory = Memory::new(1);
    let region = memory.register(end.pd.id());
    let write = |peer: &mut Peer, rkey| {
        end.post(SendOp::Write(Remote { addr: 0, rkey }), Sge { addr: 0, length: 1, lkey: region.key() });
        peer.expect(Op::Write).lane
    };
    assert_eq!(write(&mut peer, *keys.end()), LANE);
    assert_eq!(write(&mut peer, 1), IN_BAND, "it was forgotten, as at the peer");
    peer.offer(lane.local_addr().unwrap().port(), 1);
    until("the offer", || lane_out(&end, |lane| lane.keys.0.contains(&1)) == Some(true));
    assert_eq!(write(&mut peer, 1), LANE);
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
