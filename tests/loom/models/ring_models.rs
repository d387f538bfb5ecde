//! The completion ring.

use std::mem::MaybeUninit;

use loom::sync::Arc;
use loom::thread::{self, JoinHandle};

use crate::Model;
use crate::ring::{Notify, Pushed, Ring, Unpopped};

pub(crate) const ALL: &[Model] = &[
    ("items_of_two_producers_come_out_once_and_in_order", two_producers),
    ("two_consumers_share_what_there_is", two_consumers),
    ("resizing_disturbs_nobody", resize),
    ("slots_are_reused_only_when_they_have_been_read", reuse),
    ("what_fitted_before_an_overflow_is_found", overflow),
    ("what_is_discarded_is_gone_and_nothing_else_is", discard),
    ("what_is_discarded_makes_nothing_look_popped_that_is_queued", unpopped),
    ("who_arms_and_then_polls_misses_nothing", arm_then_poll),
    ("two_pushes_tell_an_armed_consumer_once", told_once),
];

fn two_producers() {
    let ring = ring(4);
    let [a, b] = [10, 20].map(|base| {
        beside(&ring, move |ring| {
            push(ring, &[base]);
            push(ring, &[base + 1]);
        })
    });
    let consumer = beside(&ring, |ring| [pop(ring, 1), pop(ring, 4)].concat());
    a.join().unwrap();
    b.join().unwrap();
    let popped = [consumer.join().unwrap(), pop(&ring, 4)].concat();
    for items in [[10, 11], [20, 21]] {
        let own: Vec<_> = popped.iter().copied().filter(|item| items.contains(item)).collect();
        assert_eq!(own, items);
    }
    assert_eq!(popped.len(), 4);
}

fn two_consumers() {
    let ring = ring(4);
    let consumers = [1, 2].map(|max| beside(&ring, move |ring| pop(ring, max)));
    let producer = beside(&ring, |ring| {
        push(ring, &[1]);
        push(ring, &[2, 3]);
    });
    let [a, b] = consumers.map(|consumer| consumer.join().unwrap());
    producer.join().unwrap();
    assert!(a.is_sorted() && b.is_sorted());
    let mut all = [a, b, pop(&ring, 4)].concat();
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3]);
}

fn resize() {
    let ring = ring(2);
    push(&ring, &[1]);
    let producer = beside(&ring, |ring| push(ring, &[2]));
    let resizer = beside(&ring, |ring| ring.resize(4).unwrap());
    let consumer = beside(&ring, |ring| pop(ring, 4));
    producer.join().unwrap();
    resizer.join().unwrap();
    push(&ring, &[3, 4]);
    assert_eq!([consumer.join().unwrap(), pop(&ring, 4)].concat(), [1, 2, 3, 4]);
}

fn reuse() {
    let ring = ring(2);
    push(&ring, &[1, 2]);
    let consumer = beside(&ring, |ring| [pop(ring, 1), pop(ring, 2)].concat());
    let producer = beside(&ring, |ring| ring.push([3], |_| false));
    let mut popped = consumer.join().unwrap();
    let pushed = producer.join().unwrap();
    popped.extend(pop(&ring, 4));
    if pushed.overflowed {
        assert_eq!(popped, [1, 2]);
    } else {
        assert_eq!(popped, [1, 2, 3]);
    }
}

fn overflow() {
    let ring = ring(2);
    push(&ring, &[1]);
    let producer = beside(&ring, |ring| ring.push([2, 3], |_| false));
    // As Cq::poll does: the queue is looked at after its death is known.
    let poller = beside(&ring, |ring| ring.is_dead().then(|| pop(ring, 4)));
    assert!(producer.join().unwrap().overflowed);
    if let Some(popped) = poller.join().unwrap() {
        assert_eq!(popped, [1, 2]);
    }
    assert_eq!(ring.push([4], |_| false), Pushed::default());
}

fn discard() {
    let ring = ring(2);
    push(&ring, &[1, 2]);
    let discarder = beside(&ring, |ring| ring.discard(|item| *item == 1));
    let producer = beside(&ring, |ring| ring.push([3], |_| false));
    let mut popped = pop(&ring, 1);
    discarder.join().unwrap();
    let pushed = producer.join().unwrap();
    popped.extend(pop(&ring, 4));
    popped.retain(|item| *item != 1);
    assert_eq!(popped, if pushed.overflowed { vec![2] } else { vec![2, 3] });
}

fn unpopped() {
    let ring = ring(4);
    let mut own = Unpopped::default();
    own.add(ring.push([1, 2], |_| false).run);
    push(&ring, &[3]);
    let discarder = beside(&ring, |ring| ring.discard(|item| *item == 3));
    let producer = beside(&ring, |ring| {
        own.update(ring);
        own
    });
    discarder.join().unwrap();
    let mut own = producer.join().unwrap();
    assert_eq!(own.len(), 2);
    assert_eq!(pop(&ring, 4), [1, 2]);
    own.update(&ring);
    assert_eq!(own.len(), 0);
}

fn arm_then_poll() {
    let ring = ring(4);
    let producer = beside(&ring, |ring| [1, 2].map(|item| ring.push([item], |_| false).notify));
    let consumer = beside(&ring, |ring| {
        let before = pop(ring, 4);
        ring.notify(Notify::Next);
        before.len() + pop(ring, 4).len()
    });
    let told = producer.join().unwrap().into_iter().filter(|told| *told).count();
    let seen = consumer.join().unwrap();
    assert!(told == 1 || (told == 0 && seen == 2), "{seen} seen, {told} told");
}

fn told_once() {
    let ring = ring(4);
    ring.notify(Notify::Solicited);
    let producers = [1, 2].map(|item| beside(&ring, move |ring| ring.push([item], |_| true).notify));
    let told = producers.map(|producer| producer.join().unwrap());
    assert_eq!(told.into_iter().filter(|told| *told).count(), 1);
}

/// Runs `f` in a thread of its own. All that takes part in a race is started so: what the first thread does after it
/// has started another, loom explores less thoroughly.
fn beside<R: 'static>(ring: &Arc<Ring<u8>>, f: impl FnOnce(&Ring<u8>) -> R + 'static) -> JoinHandle<R> {
    let ring = ring.clone();
    thread::spawn(move || f(&ring))
}

/// A ring whose window has to grow.
fn ring(capacity: usize) -> Arc<Ring<u8>> {
    Arc::new(Ring::with_window(capacity, 1).unwrap())
}

fn push(ring: &Ring<u8>, items: &[u8]) {
    assert!(!ring.push(items.iter().copied(), |_| false).overflowed);
}

fn pop(ring: &Ring<u8>, max: usize) -> Vec<u8> {
    let mut room = [const { MaybeUninit::uninit() }; 4];
    ring.pop(&mut room[..max]).to_vec()
}
