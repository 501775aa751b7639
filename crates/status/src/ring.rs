//! A bounded ring of numbered items: many writers, any number of readers with their own
//! positions. No writer waits for a reader.
//!
//! A writer takes a number, then writes the slot of that number under the slot's own
//! lock. So writers only contend if the ring wraps around within one write. Until the
//! first reader begins, writers only take numbers and there are no slots.

use std::cmp::Ordering as Order;
use std::sync::OnceLock;

use crate::sync::{AtomicU64, Mutex, Ordering};

pub(crate) struct Ring<T> {
    /// Twice the last number given out, plus one since items are kept. So each writer learns
    /// together with its number whether to keep its item.
    head: AtomicU64,
    /// The last number whose item was not kept.
    floor: OnceLock<u64>,
    slots: OnceLock<Box<[Mutex<RingSlot<T>>]>>,
    capacity: usize,
}

struct RingSlot<T> {
    number: u64,
    item: Option<T>,
}

/// The item of a number, as a reader finds it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<T> {
    Item(T),
    /// Not written yet.
    Later,
    /// Overwritten, or never kept.
    Gone,
}

const KEPT: u64 = 1;

impl<T: Clone> Ring<T> {
    /// A ring of at least one slot.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            head: AtomicU64::new(0),
            floor: OnceLock::new(),
            slots: OnceLock::new(),
            capacity: capacity.max(1),
        }
    }

    /// The last number given out; 0 before the first.
    pub(crate) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire) >> 1
    }

    /// Keeps items from now on.
    pub(crate) fn keep(&self) {
        // The slots first: a writer that sees the flag in the head must find them.
        let empty = || RingSlot {
            number: 0,
            item: None,
        };
        self.slots
            .get_or_init(|| (0..self.capacity).map(|_| Mutex::new(empty())).collect());
        self.floor
            .get_or_init(|| self.head.fetch_or(KEPT, Ordering::AcqRel) >> 1);
    }

    /// Takes the next number, from 1, and keeps the item under it if there has been a reader.
    #[inline]
    pub(crate) fn push(&self, item: impl FnOnce() -> T) -> u64 {
        // AcqRel: a thread that reads this number or a later one sees everything done before it.
        let head = self.head.fetch_add(2, Ordering::AcqRel);
        let number = (head >> 1) + 1;
        if head & KEPT != 0
            && let Some(slot) = self.slot(number)
        {
            let mut slot = slot.lock();
            // A writer that a whole round has overtaken must not replace the newer item.
            if slot.number < number {
                slot.number = number;
                let old = slot.item.replace(item());
                drop(slot);
                drop(old);
            }
        }
        number
    }

    /// The item of a number, from 1. Call [`Ring::keep`] before.
    pub(crate) fn get(&self, number: u64) -> Found<T> {
        if self.floor.get().is_none_or(|floor| number <= *floor) {
            return Found::Gone;
        }
        let Some(slot) = self.slot(number) else {
            return Found::Gone;
        };
        let slot = slot.lock();
        match (slot.number.cmp(&number), &slot.item) {
            (Order::Equal, Some(item)) => Found::Item(item.clone()),
            (Order::Greater, _) => Found::Gone,
            (Order::Equal | Order::Less, _) => Found::Later,
        }
    }

    fn slot(&self, number: u64) -> Option<&Mutex<RingSlot<T>>> {
        let place = number % self.capacity as u64;
        self.slots.get()?.get(usize::try_from(place).ok()?)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Found::{Gone, Item, Later};
    use super::*;

    #[test]
    fn a_reader_gets_what_exists_and_learns_what_was_overwritten() {
        let ring = Ring::new(4);
        assert_eq!((ring.push(|| 1), ring.push(|| 2)), (1, 2));
        ring.keep();
        let found: Vec<_> = (1..=3).map(|n| ring.get(n)).collect();
        assert_eq!(found, [Gone, Gone, Later]);
        for n in 3..=8 {
            assert_eq!(ring.push(|| n), n);
        }
        let found: Vec<_> = (1..=9).map(|n| ring.get(n)).collect();
        let kept = [Item(5), Item(6), Item(7), Item(8)];
        assert_eq!(found[..4], [Gone, Gone, Gone, Gone]);
        assert_eq!(found[4..8], kept);
        assert_eq!(found[8], Later);
        assert_eq!(ring.head(), 8);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    fn kept(capacity: usize) -> Arc<Ring<u64>> {
        let ring = Ring::new(capacity);
        ring.keep();
        Arc::new(ring)
    }

    #[test]
    fn loom_two_writers_lose_nothing_in_a_ring_with_room() {
        loom::model(|| {
            let ring = kept(2);
            let other = Arc::clone(&ring);
            let writer = thread::spawn(move || other.push(|| 10));
            let mine = ring.push(|| 11);
            let theirs = writer.join().unwrap();
            assert_eq!(mine + theirs, 3);
            assert_eq!(ring.get(mine), Found::Item(11));
            assert_eq!(ring.get(theirs), Found::Item(10));
        });
    }

    #[test]
    fn loom_an_overtaken_writer_never_hides_a_newer_item() {
        loom::model(|| {
            let ring = kept(1);
            let other = Arc::clone(&ring);
            let writer = thread::spawn(move || other.push(|| 10));
            let mine = ring.push(|| 11);
            let theirs = writer.join().unwrap();
            let newest = if mine > theirs { 11 } else { 10 };
            assert_eq!(ring.get(2), Found::Item(newest));
            assert_eq!(ring.get(1), Found::Gone);
        });
    }

    #[test]
    fn loom_a_reader_beside_a_writer_sees_items_in_order_and_all_gaps() {
        loom::model(|| {
            let ring = kept(1);
            let other = Arc::clone(&ring);
            let writer = thread::spawn(move || {
                other.push(|| 1);
                other.push(|| 2);
            });
            let mut next = 1;
            for _ in 0..2 {
                match ring.get(next) {
                    Found::Item(item) => {
                        assert_eq!(item, next);
                        next += 1;
                    }
                    Found::Later => {}
                    Found::Gone => {
                        assert_eq!(next, 1);
                        next = 2;
                    }
                }
            }
            writer.join().unwrap();
            assert_eq!(ring.get(1), Found::Gone);
            assert_eq!(ring.get(2), Found::Item(2));
        });
    }

    #[test]
    fn loom_from_the_first_reader_on_every_item_is_kept() {
        loom::model(|| {
            let ring = Arc::new(Ring::new(2));
            let other = Arc::clone(&ring);
            let writer = thread::spawn(move || {
                other.push(|| 1);
                other.push(|| 2);
            });
            ring.keep();
            let begun = ring.head();
            writer.join().unwrap();
            for number in 1..=2 {
                match ring.get(number) {
                    Found::Item(item) => assert_eq!(item, number),
                    Found::Gone => assert!(number <= begun),
                    Found::Later => panic!("written before the join"),
                }
            }
        });
    }
}
