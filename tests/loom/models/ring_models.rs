//! The completion ring.

use std::mem::MaybeUninit;

use loom::sync::Arc;
use loom::thread;

use crate::Model;
use crate::ring::{Notify, Pushed, Ring};

pub(crate) const ALL: &[Model] = &[
    ("items_of_two_producers_come_out_once_and_in_order", two_producers),
    ("two_consumers_share_what_there_is", two_consumers),
    ("resizing_disturbs_nobody", resize),
    ("slots_are_reused_only_when_they_have_been_read", reuse),
    ("what_fitted_before_an_overflow_is_found", overflow),
    ("who_arms_and_then_polls_misses_nothing", arm_then_poll),
    ("two_pushes_tell_an_armed_consumer_once", told_once),
];

fn two_producers() {
    let ring = ring(4);
    let producers = [10, 20].map(|base| {
        let ring = ring.clone();
        thread::spawn(move || {
            push(&ring, &[base]);
            push(&ring, &[base + 1]);
        })
    });
    let mut popped = [pop(&ring, 1), pop(&ring, 4)].concat();
    producers.into_iter().for_each(|producer| producer.join().unwrap());
    popped.extend(pop(&ring, 4));
    assert_each_in_order(&popped, &[&[10, 11], &[20, 21]]);
}

fn two_consumers() {
    let ring = ring(4);
    let consumers = [1, 2].map(|max| {
        let ring = ring.clone();
        thread::spawn(move || pop(&ring, max))
    });
    push(&ring, &[1]);
    push(&ring, &[2, 3]);
    let [a, b] = consumers.map(|consumer| consumer.join().unwrap());
    assert!(a.is_sorted() && b.is_sorted());
    let mut all = [a, b, pop(&ring, 4)].concat();
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3]);
}

fn resize() {
    let ring = ring(2);
    push(&ring, &[1]);
    let producer = {
        let ring = ring.clone();
        thread::spawn(move || push(&ring, &[2]))
    };
    let resizer = {
        let ring = ring.clone();
        thread::spawn(move || ring.resize(4).unwrap())
    };
    let first = pop(&ring, 4);
    producer.join().unwrap();
    resizer.join().unwrap();
    push(&ring, &[3, 4]);
    assert_eq!([first, pop(&ring, 4)].concat(), [1, 2, 3, 4]);
}

fn reuse() {
    let ring = ring(2);
    push(&ring, &[1, 2]);
    let consumer = {
        let ring = ring.clone();
        thread::spawn(move || [pop(&ring, 1), pop(&ring, 2)].concat())
    };
    let pushed = ring.push(&[3], |_| false);
    let mut popped = consumer.join().unwrap();
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
    let producer = {
        let ring = ring.clone();
        thread::spawn(move || assert!(ring.push(&[2, 3], |_| false).overflowed))
    };
    // As Cq::poll does: the queue is looked at after its death is known.
    if ring.is_dead() {
        assert_eq!(pop(&ring, 4), [1, 2]);
    }
    producer.join().unwrap();
    assert_eq!(ring.push(&[4], |_| false), Pushed::default());
}

fn arm_then_poll() {
    let ring = ring(4);
    let producer = {
        let ring = ring.clone();
        thread::spawn(move || [ring.push(&[1], |_| false), ring.push(&[2], |_| false)].map(|pushed| pushed.notify))
    };
    let before = pop(&ring, 4);
    ring.notify(Notify::Next);
    let after = pop(&ring, 4);
    let told = producer.join().unwrap();
    let seen = before.len() + after.len();
    let told = told.into_iter().filter(|told| *told).count();
    assert!(told == 1 || (told == 0 && seen == 2), "{seen} seen, {told} told");
}

fn told_once() {
    let ring = ring(4);
    ring.notify(Notify::Solicited);
    let producers = [1, 2].map(|item| {
        let ring = ring.clone();
        thread::spawn(move || ring.push(&[item], |_| true).notify)
    });
    let told = producers.map(|producer| producer.join().unwrap());
    assert_eq!(told.into_iter().filter(|told| *told).count(), 1);
}

/// A ring whose window has to grow.
fn ring(capacity: usize) -> Arc<Ring<u8>> {
    Arc::new(Ring::with_window(capacity, 1).unwrap())
}

fn push(ring: &Ring<u8>, items: &[u8]) {
    assert!(!ring.push(items, |_| false).overflowed);
}

fn pop(ring: &Ring<u8>, max: usize) -> Vec<u8> {
    let mut room = [const { MaybeUninit::uninit() }; 4];
    ring.pop(&mut room[..max]).to_vec()
}

fn assert_each_in_order(popped: &[u8], pushed: &[&[u8]]) {
    for items in pushed {
        let own: Vec<_> = popped.iter().copied().filter(|item| items.contains(item)).collect();
        assert_eq!(own, *items);
    }
    assert_eq!(popped.len(), pushed.concat().len());
}
