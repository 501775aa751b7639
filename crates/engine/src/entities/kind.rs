//! The entities of one type: found by id in a step, and listed in the order of their ids.
//!
//! Events look entities up by a hash of their id, because most of a replay's time would be comparing ids on the way
//! down a tree. Readers page through them in order, so their places are kept sorted too: a long list, and a short one
//! of those that came since, which is merged into the long one when it has grown. What is restored comes in order, and
//! is hashed only when the first event comes.

use std::hash::BuildHasher;

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use workspace_lifecycle::Offset;

use super::EntityRef;
use crate::workspace::Rejection;

/// Place of an entity among the slots.
pub(super) type Place = u32;

/// The short list is merged when it has this many places, and one more for each [`FRESH_SHARE`] of the long one: moving
/// within the one and copying the other cost about the same then.
const FRESH_LEAST: usize = 64;
const FRESH_SHARE: usize = 256;

/// So many slots of entities that are gone are kept after a save, and one for each [`GONE_SHARE`] that are there.
const GONE_LEAST: usize = 64;
const GONE_SHARE: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Kind {
    slots: Vec<Slot>,
    /// Places of the first `indexed` slots, by their ids.
    table: HashTable<Place>,
    indexed: usize,
    hasher: RandomState,
    /// Places in the order of their ids: each slot is in one of the two.
    order: Vec<Place>,
    fresh: Vec<Place>,
    /// Slots whose entity is there.
    live: usize,
}

/// An entity, or the id of one that is gone.
#[derive(Debug)]
struct Slot {
    id: Box<str>,
    value: Option<Value>,
    /// Since the last save.
    changed: bool,
}

/// What an entity is.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) data: Bytes,
    pub(super) offset: Offset,
}

impl Kind {
    /// How many entities there are.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// Takes an entity as it was saved.
    pub(super) fn restore(&mut self, id: Box<str>, value: Value) -> Result<(), Rejection> {
        let is_last = self.fresh.is_empty()
            && self.last().is_none_or(|last| *last < *id)
            && self.indexed == 0;
        if is_last {
            let place = self.next_place()?;
            self.push(id, value);
            self.order.push(place);
            return Ok(());
        }
        let place = self.put(&id, value)?;
        if let Some(slot) = self.slot_mut(place) {
            slot.changed = false;
        }
        Ok(())
    }

    /// Sets an entity. Tells its place where this is its first change since the last save.
    pub(super) fn set(&mut self, id: &str, value: Value) -> Result<Option<Place>, Rejection> {
        let place = self.put(id, value)?;
        Ok(self.change(place))
    }

    /// Removes an entity. Tells its place where this is its first change since the last save.
    pub(super) fn unset(&mut self, id: &str) -> Option<Place> {
        let place = self.find(id)?;
        self.slot_mut(place)?.value.take()?;
        self.live -= 1;
        self.change(place)
    }

    /// What became of an entity that has changed: its value, or none where it is gone.
    pub(super) fn take_change(&mut self, place: Place) -> Option<(Box<str>, Option<Value>)> {
        let slot = self.slot_mut(place)?;
        slot.changed = false;
        Some((slot.id.clone(), slot.value.clone()))
    }

    /// Lets go of entities that are gone, once they are many. Places change: nobody may hold one.
    pub(super) fn tidy(&mut self) {
        let gone = self.slots.len() - self.live;
        let few = self.live > 0 && gone <= GONE_LEAST + self.live / GONE_SHARE;
        if gone == 0 || few {
            return;
        }
        self.merge();
        let mut before: Vec<_> = std::mem::take(&mut self.slots)
            .into_iter()
            .map(Some)
            .collect();
        let slots = std::mem::take(&mut self.order)
            .into_iter()
            .filter_map(|place| before.get_mut(index(place))?.take())
            .filter(|slot| slot.value.is_some());
        self.slots = slots.collect();
        self.order = (0..).take(self.slots.len()).collect();
        self.table = HashTable::new();
        self.indexed = 0;
    }

    /// One entity.
    pub(super) fn get(&self, id: &str) -> Option<EntityRef<'_>> {
        [&self.order, &self.fresh].into_iter().find_map(|places| {
            let at = places
                .binary_search_by(|place| self.id(*place).cmp(id))
                .ok()?;
            self.entity(*places.get(at)?)
        })
    }

    /// Entities in the order of their ids, beginning after one.
    pub(super) fn after<'a>(
        &'a self,
        id: Option<&str>,
    ) -> impl Iterator<Item = EntityRef<'a>> + use<'a> {
        let mut lists = [&self.order, &self.fresh].map(|places| {
            let at = places.partition_point(|place| id.is_some_and(|id| self.id(*place) <= id));
            places
                .get(at..)
                .unwrap_or_default()
                .iter()
                .copied()
                .peekable()
        });
        std::iter::from_fn(move || {
            let [order, fresh] = &mut lists;
            let from_fresh = match (order.peek(), fresh.peek()) {
                (Some(old), Some(new)) => self.id(*new) < self.id(*old),
                (old, _) => old.is_none(),
            };
            if from_fresh {
                fresh.next()
            } else {
                order.next()
            }
        })
        .filter_map(|place| self.entity(place))
    }

    fn entity(&self, place: Place) -> Option<EntityRef<'_>> {
        let slot = self.slots.get(index(place))?;
        let value = slot.value.as_ref()?;
        Some(EntityRef {
            id: &slot.id,
            data: &value.data,
            offset: value.offset,
        })
    }

    fn id(&self, place: Place) -> &str {
        self.slots.get(index(place)).map_or("", |slot| &slot.id)
    }

    fn last(&self) -> Option<&str> {
        self.order.last().map(|place| self.id(*place))
    }

    fn slot_mut(&mut self, place: Place) -> Option<&mut Slot> {
        self.slots.get_mut(index(place))
    }

    fn next_place(&self) -> Result<Place, Rejection> {
        Place::try_from(self.slots.len())
            .map_err(|_| Rejection(format!("a type has at most {} entities", Place::MAX)))
    }

    fn change(&mut self, place: Place) -> Option<Place> {
        let slot = self.slot_mut(place)?;
        let is_first = !std::mem::replace(&mut slot.changed, true);
        is_first.then_some(place)
    }

    fn push(&mut self, id: Box<str>, value: Value) {
        self.slots.push(Slot {
            id,
            value: Some(value),
            changed: false,
        });
        self.live += 1;
    }

    fn put(&mut self, id: &str, value: Value) -> Result<Place, Rejection> {
        if let Some(place) = self.find(id) {
            if let Some(slot) = self.slot_mut(place)
                && slot.value.replace(value).is_none()
            {
                self.live += 1;
            }
            return Ok(place);
        }
        let place = self.next_place()?;
        let is_last = self.fresh.is_empty() && self.last().is_none_or(|last| last < id);
        self.push(id.into(), value);
        if is_last {
            self.order.push(place);
        } else {
            let at = self.fresh.partition_point(|other| self.id(*other) < id);
            self.fresh.insert(at, place);
            if self.fresh.len() > FRESH_LEAST + self.order.len() / FRESH_SHARE {
                self.merge();
            }
        }
        Ok(place)
    }

    /// Brings the short list into the long one.
    fn merge(&mut self) {
        let mut merged = Vec::with_capacity(self.order.len() + self.fresh.len());
        let mut rest = self.order.as_slice();
        for place in &self.fresh {
            let at = rest.partition_point(|other| self.id(*other) < self.id(*place));
            let (before, behind) = rest.split_at(at);
            merged.extend_from_slice(before);
            merged.push(*place);
            rest = behind;
        }
        merged.extend_from_slice(rest);
        self.order = merged;
        self.fresh.clear();
    }

    fn find(&mut self, id: &str) -> Option<Place> {
        let Self {
            slots,
            table,
            indexed,
            hasher,
            ..
        } = self;
        let id_of = |place: &Place| slots.get(index(*place)).map_or("", |slot| &*slot.id);
        let hash_of = |place: &Place| hasher.hash_one(id_of(place));
        if *indexed < slots.len() {
            table.reserve(slots.len() - *indexed, hash_of);
            for (place, _) in (0..).zip(slots.iter()).skip(*indexed) {
                table.insert_unique(hash_of(&place), place, hash_of);
            }
            *indexed = slots.len();
        }
        table
            .find(hasher.hash_one(id), |place| id_of(place) == id)
            .copied()
    }
}

/// A place is an index that takes half the memory.
fn index(place: Place) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Set(String),
        Unset(String),
        Save,
    }

    fn value(offset: u64) -> Value {
        Value {
            data: Bytes::from(offset.to_string()),
            offset: Offset(offset),
        }
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let id =
            || (0..400_u32).prop_map(|number| format!("{:x}", number.wrapping_mul(2_654_435_761)));
        let step = prop_oneof![
            6 => id().prop_map(Step::Set),
            3 => id().prop_map(Step::Unset),
            1 => Just(Step::Save),
        ];
        prop::collection::vec(step, 0..1500)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_holds_what_a_map_would_hold_and_tells_each_change_once(
            restored in prop::collection::btree_set("[a-f0-9]{1,3}", 0..300),
            steps in steps(),
        ) {
            let mut kind = Kind::default();
            let mut model = BTreeMap::new();
            for id in restored {
                kind.restore(id.clone().into(), value(0)).unwrap();
                model.insert(id, 0);
            }
            let (mut places, mut changed) = (Vec::new(), BTreeSet::new());
            for (offset, step) in (1..).zip(steps) {
                match step {
                    Step::Set(id) => {
                        places.extend(kind.set(&id, value(offset)).unwrap());
                        model.insert(id.clone(), offset);
                        changed.insert(id);
                    }
                    Step::Unset(id) => {
                        places.extend(kind.unset(&id));
                        if model.remove(&id).is_some() {
                            changed.insert(id);
                        }
                    }
                    Step::Save => {
                        let taken: BTreeMap<String, Option<u64>> = places
                            .drain(..)
                            .map(|place| {
                                let (id, value) = kind.take_change(place).unwrap();
                                (id.into(), value.map(|value| value.offset.0))
                            })
                            .collect();
                        let expected = std::mem::take(&mut changed)
                            .into_iter()
                            .map(|id| { let now = model.get(&id).copied(); (id, now) })
                            .collect();
                        prop_assert_eq!(taken, expected);
                        kind.tidy();
                    }
                }
                prop_assert_eq!(kind.len(), model.len());
            }
            let held: Vec<_> = kind.after(None).map(|entity| (entity.id.to_owned(), entity.offset.0)).collect();
            prop_assert_eq!(&held, &model.clone().into_iter().collect::<Vec<_>>());
            if let Some((id, _)) = held.get(held.len() / 2) {
                let rest: Vec<_> = kind.after(Some(id)).map(|entity| entity.id.to_owned()).collect();
                let expected: Vec<_> = held.iter().skip(held.len() / 2 + 1).map(|(id, _)| id.clone()).collect();
                prop_assert_eq!(rest, expected);
                prop_assert_eq!(kind.get(id).map(|entity| entity.id), Some(id.as_str()));
            }
            prop_assert_eq!(kind.get("no such"), None);
        }
    }

    #[test]
    fn entities_that_are_gone_take_no_memory_for_long() {
        let mut kind = Kind::default();
        for number in 0..10_000 {
            let id = number.to_string();
            for place in [kind.set(&id, value(number)).unwrap(), kind.unset(&id)]
                .into_iter()
                .flatten()
            {
                kind.take_change(place).unwrap();
            }
            kind.tidy();
        }
        assert!(kind.slots.len() <= 2 * GONE_LEAST, "{}", kind.slots.len());
    }
}
