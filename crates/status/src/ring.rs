//! A bounded ring of numbered items: many writers, any number of readers with a place of
//! their own, and nobody waits for a reader.
//!
//! A writer takes a number, then writes the slot of that number under the slot's own
//! lock, so that writers meet only when the ring goes round within one write.

use crate::sync::{AtomicU64, Mutex, Ordering};

pub(crate) struct Ring<T> {
    /// The last number given out; 0 before the first.
    head: AtomicU64,
    slots: Box<[Mutex<Slot<T>>]>,
}

struct Slot<T> {
    number: u64,
    item: Option<T>,
}

/// What a reader finds under a number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<T> {
    Item(T),
    /// Not written yet.
    Later,
    /// Overwritten.
    Gone,
}

impl<T: Clone> Ring<T> {
    /// A ring of at least one slot.
    pub(crate) fn new(capacity: usize) -> Self {
        let empty = || Slot {
            number: 0,
            item: None,
        };
        Self {
            head: AtomicU64::new(0),
            slots: (0..capacity.max(1)).map(|_| Mutex::new(empty())).collect(),
        }
    }

    /// The last number given out.
    pub(crate) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Puts an item in and returns its number, from 1.
    pub(crate) fn push(&self, item: T) -> u64 {
        // AcqRel: who reads this number or a later one sees what was done before it.
        let number = self.head.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(slot) = self.slot(number) {
            let mut slot = slot.lock();
            // A writer that was overtaken by a whole round must not hide the newer item.
            if slot.number < number {
                slot.number = number;
                let old = slot.item.replace(item);
                drop(slot);
                drop(old);
            }
        }
        number
    }

    pub(crate) fn get(&self, number: u64) -> Found<T> {
        let Some(slot) = self.slot(number) else {
            return Found::Later;
        };
        let slot = slot.lock();
        match (slot.number.cmp(&number), &slot.item) {
            (std::cmp::Ordering::Equal, Some(item)) => Found::Item(item.clone()),
            (std::cmp::Ordering::Greater, _) => Found::Gone,
            (std::cmp::Ordering::Equal | std::cmp::Ordering::Less, _) => Found::Later,
        }
    }

    fn slot(&self, number: u64) -> Option<&Mutex<Slot<T>>> {
        let place = number % self.slots.len() as u64;
        self.slots.get(usize::try_from(place).ok()?)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_reader_finds_what_is_there_and_is_told_what_is_gone() {
        let ring = Ring::new(4);
        assert_eq!(ring.get(1), Found::Later);
        for n in 1..=6 {
            assert_eq!(ring.push(n), n);
        }
        let found: Vec<_> = (1..=7).map(|n| ring.get(n)).collect();
        use Found::{Gone, Item, Later};
        assert_eq!(
            found,
            [Gone, Gone, Item(3), Item(4), Item(5), Item(6), Later]
        );
        assert_eq!(ring.head(), 6);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Reads up to `last`, and checks that numbers grow, that items belong to them, and
    /// that nothing is missing but what the ring says is gone.
    fn read_to(ring: &Ring<u64>, last: u64) {
        let mut next = 1;
        while next <= last {
            match ring.get(next) {
                Found::Item(item) => {
                    assert!(item >= 10, "an item that was pushed");
                    next += 1;
                }
                Found::Later => thread::yield_now(),
                Found::Gone => next = ring.head() + 1,
            }
        }
    }

    #[test]
    fn loom_two_writers_and_a_reader_lose_nothing_in_a_ring_with_room() {
        loom::model(|| {
            let ring = Arc::new(Ring::new(2));
            let other = Arc::clone(&ring);
            let writer = thread::spawn(move || other.push(10));
            let mine = ring.push(11);
            let theirs = writer.join().unwrap();
            assert_eq!(mine + theirs, 3);
            assert_eq!(ring.get(mine), Found::Item(11));
            assert_eq!(ring.get(theirs), Found::Item(10));
        });
    }

    #[test]
    fn loom_an_overtaken_writer_never_hides_a_newer_item() {
        loom::model(|| {
            let ring = Arc::new(Ring::new(1));
            let other = Arc::clone(&ring);
            let writer = thread::spawn(move || other.push(10));
            let mine = ring.push(11);
            let theirs = writer.join().unwrap();
            let newest = if mine > theirs { 11 } else { 10 };
            assert_eq!(ring.get(2), Found::Item(newest));
            assert_eq!(ring.get(1), Found::Gone);
        });
    }

    #[test]
    fn loom_a_reader_beside_writers_reaches_the_end() {
        loom::model(|| {
            let ring = Arc::new(Ring::new(2));
            let other = Arc::clone(&ring);
            let writer = thread::spawn(move || {
                other.push(10);
                other.push(11);
                other.push(12);
            });
            // What is behind the head is written or on its way.
            let head = ring.head();
            if let Found::Item(item) = ring.get(head.max(1)) {
                assert!(item >= 10);
            }
            writer.join().unwrap();
            read_to(&ring, 3);
        });
    }
}
