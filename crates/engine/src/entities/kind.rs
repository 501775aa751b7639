//! The entities of one type: found by id in one step, and listed in id order.
//!
//! Events find entities by a hash of their id, because comparing ids down a tree would take most of a replay's time.
//! Only readers need the order, so a list request sorts what was added since the last one: a million new entities take
//! that reader about a second. Restored entries arrive in order, and are hashed only when the first event arrives.

use std::borrow::Cow;
use std::hash::BuildHasher;

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use workspace_lifecycle::Offset;

use crate::workspace::{EntityRef, Rejection};

/// Index of an entity's slot. A `u32`, because that takes half the memory of a `usize`.
type SlotIndex = u32;

/// Slots of deleted entities that are kept after a save: this many, and one for every [`LIVE_PER_DELETED_SLOT`] live
/// entities.
const MIN_DELETED_SLOTS: usize = 64;
const LIVE_PER_DELETED_SLOT: usize = 4;

/// What an allocator adds to the id and the value of an entity, which are rounded up, and to the value's shared count.
const ALLOCATED_BYTES: usize = 48;

/// Up to this many slots take no more memory than they need.
const MAX_EXACT: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Kind {
    slots: Vec<EntitySlot>,
    /// Places of all slots by the hash of their id. Empty while all slots were restored in id order and no event has
    /// arrived.
    table: HashTable<SlotIndex>,
    hasher: RandomState,
    /// Places of the first `order.len()` slots, in id order; later slots were added since it was sorted.
    order: RwLock<Vec<SlotIndex>>,
    /// Slots whose entity exists.
    live: usize,
    /// Bytes of the ids and values of all slots.
    content_bytes: usize,
    /// Slots that changed since the last save, in the order of their first change.
    changed: Vec<SlotIndex>,
}

/// An entity, or the id of a deleted one.
#[derive(Debug)]
struct EntitySlot {
    id: Box<str>,
    value: Option<Value>,
    /// Of the id; set when the slot enters the table.
    hash: Hash,
    /// Since the last save: its place is in `changed`.
    is_changed: bool,
}

/// The value of an entity.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) data: Bytes,
    pub(super) offset: Offset,
}

/// How a change of an entity changed the next save.
#[derive(Debug)]
pub(super) struct Changed {
    /// Whether the entity had no change since the last save.
    pub(super) is_first: bool,
    /// Bytes of values by which the save grew.
    pub(super) grown_bytes: u64,
}

/// Half of a hash. It is kept, because hashing an id again when the table grows would fetch the id from memory again.
#[derive(Debug, Clone, Copy, Default)]
struct Hash(u32);

impl Hash {
    fn of(id: &str, hasher: &RandomState) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "half of it is enough")]
        Self(hasher.hash_one(id) as u32)
    }

    /// The hash for the table, which takes the bucket from the low bits and distinguishes entries in it by the high
    /// bits.
    fn whole(self) -> u64 {
        u64::from(self.0) << 32 | u64::from(self.0)
    }
}

impl Kind {
    /// Number of entities that exist.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// Approximate bytes of memory that it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        let places = self.table.capacity() + self.changed.capacity() + self.slots.len();
        size_of::<Self>()
            + self.content_bytes
            + self.slots.capacity() * size_of::<EntitySlot>()
            + self.slots.len() * ALLOCATED_BYTES
            + places * size_of::<SlotIndex>()
    }

    /// Adds an entity as it was saved.
    pub(super) fn restore(&mut self, id: Box<str>, value: Value) -> Result<(), Rejection> {
        let is_last = self.slots.last().is_none_or(|last| *last.id < *id);
        if is_last && self.table.is_empty() {
            let place = self.push(id, value, Hash::default())?;
            self.order.get_mut().push(place);
            return Ok(());
        }
        let (place, _) = self.put(&id, value)?;
        if let Some(slot) = self.slot_mut(place) {
            slot.is_changed = false;
        }
        Ok(())
    }

    pub(super) fn set(&mut self, id: &str, value: Value) -> Result<Changed, Rejection> {
        let bytes = value.data.len();
        let (place, before) = self.put(id, value)?;
        let is_first = self.note_change(place);
        let grown = if is_first {
            bytes
        } else {
            bytes.saturating_sub(before)
        };
        Ok(Changed {
            is_first,
            grown_bytes: u64::try_from(grown).unwrap_or(u64::MAX),
        })
    }

    /// Removes an entity; `None` if it does not exist.
    pub(super) fn unset(&mut self, id: &str) -> Option<Changed> {
        self.fill_table();
        let place = self.find(id, Hash::of(id, &self.hasher))?;
        let before = self.slot_mut(place)?.value.take()?;
        self.content_bytes -= before.data.len();
        self.live -= 1;
        Some(Changed {
            is_first: self.note_change(place),
            grown_bytes: 0,
        })
    }

    /// The current values of the changed entities, `None` for removed ones; they count as saved from now on.
    pub(super) fn take_changes(&mut self) -> Vec<(Box<str>, Option<Value>)> {
        let mut changes = Vec::with_capacity(self.changed.len());
        for place in std::mem::take(&mut self.changed) {
            if let Some(slot) = self.slots.get_mut(index(place)) {
                slot.is_changed = false;
                changes.push((slot.id.clone(), slot.value.clone()));
            }
        }
        self.tidy();
        changes
    }

    /// Removes the slots of deleted entities once they are many. Places change, so none may be in `changed`.
    fn tidy(&mut self) {
        let deleted = self.slots.len() - self.live;
        let few = self.live > 0 && deleted <= MIN_DELETED_SLOTS + self.live / LIVE_PER_DELETED_SLOT;
        if deleted == 0 || few {
            return;
        }
        // New place of each slot that stays; they keep their order.
        let mut next = 0;
        let moved: Vec<Option<SlotIndex>> = self
            .slots
            .iter()
            .map(|slot| {
                slot.value.as_ref()?;
                next += 1;
                Some(next - 1)
            })
            .collect();
        self.slots.retain(|slot| slot.value.is_some());
        self.content_bytes = self.slots.iter().map(EntitySlot::content_bytes).sum();
        self.slots.shrink_to_fit();
        let order = std::mem::take(self.order.get_mut()).into_iter();
        *self.order.get_mut() = order
            .filter_map(|place| moved.get(index(place)).copied()?)
            .collect();
        self.table = table_of(&self.slots);
    }

    /// One entity.
    pub(super) fn get(&self, id: &str) -> Option<EntityRef<'_>> {
        if !self.table.is_empty() {
            return self.entity(self.find(id, Hash::of(id, &self.hasher))?);
        }
        let at = self.slots.binary_search_by(|slot| (*slot.id).cmp(id));
        self.slots.get(at.ok()?)?.entity()
    }

    /// At most `limit` entities in id order, beginning after the id `after`.
    pub(super) fn page(&self, after: Option<&str>, limit: usize) -> Vec<EntityRef<'_>> {
        let order = self.order();
        let at = order.partition_point(|place| after.is_some_and(|after| self.id(*place) <= after));
        let places = order.get(at..).unwrap_or_default().iter();
        places
            .filter_map(|place| self.entity(*place))
            .take(limit)
            .collect()
    }

    fn entity(&self, place: SlotIndex) -> Option<EntityRef<'_>> {
        self.slots.get(index(place))?.entity()
    }

    fn id(&self, place: SlotIndex) -> &str {
        self.slots.get(index(place)).map_or("", |slot| &slot.id)
    }

    fn slot_mut(&mut self, place: SlotIndex) -> Option<&mut EntitySlot> {
        self.slots.get_mut(index(place))
    }

    /// Returns whether it is the first change of the entity since the last save.
    fn note_change(&mut self, place: SlotIndex) -> bool {
        let slot = self.slots.get_mut(index(place));
        let is_first = slot.is_some_and(|slot| !std::mem::replace(&mut slot.is_changed, true));
        if is_first {
            self.changed.push(place);
        }
        is_first
    }

    fn push(&mut self, id: Box<str>, value: Value, hash: Hash) -> Result<SlotIndex, Rejection> {
        let place = SlotIndex::try_from(self.slots.len())
            .map_err(|_| Rejection(format!("a type has at most {} entities", SlotIndex::MAX)))?;
        if self.slots.len() < MAX_EXACT {
            // Most workspaces of a large population have few entities; a vector would begin with room for four.
            self.slots.reserve_exact(1);
        }
        let slot = EntitySlot {
            id,
            value: Some(value),
            hash,
            is_changed: false,
        };
        self.content_bytes += slot.content_bytes();
        self.slots.push(slot);
        self.live += 1;
        Ok(place)
    }

    /// Sets an entity. Returns its place, and the bytes of its previous value.
    fn put(&mut self, id: &str, value: Value) -> Result<(SlotIndex, usize), Rejection> {
        self.fill_table();
        let hash = Hash::of(id, &self.hasher);
        if let Some(place) = self.find(id, hash) {
            self.content_bytes += value.data.len();
            let before = self
                .slot_mut(place)
                .and_then(|slot| slot.value.replace(value));
            self.live += usize::from(before.is_none());
            let before = before.map_or(0, |before| before.data.len());
            self.content_bytes -= before;
            return Ok((place, before));
        }
        let place = self.push(id.into(), value, hash)?;
        let Self { slots, table, .. } = self;
        table.insert_unique(hash.whole(), place, |place| whole_hash(slots, *place));
        Ok((place, 0))
    }

    fn find(&self, id: &str, hash: Hash) -> Option<SlotIndex> {
        self.table
            .find(hash.whole(), |place| self.id(*place) == id)
            .copied()
    }

    /// Puts all slots into the table, if it is still empty.
    fn fill_table(&mut self) {
        if !self.table.is_empty() || self.slots.is_empty() {
            return;
        }
        for slot in &mut self.slots {
            slot.hash = Hash::of(&slot.id, &self.hasher);
        }
        self.table = table_of(&self.slots);
    }

    /// The places of all slots in id order; sorts those added since the last call.
    fn order(&self) -> RwLockReadGuard<'_, Vec<SlotIndex>> {
        let order = self.order.read();
        if order.len() == self.slots.len() {
            return order;
        }
        drop(order);
        let mut order = self.order.write();
        let mut new: Vec<SlotIndex> = (0..).take(self.slots.len()).skip(order.len()).collect();
        new.sort_unstable_by(|one, other| self.id(*one).cmp(self.id(*other)));
        let comes_last = match (order.last(), new.first()) {
            (Some(last), Some(first)) => self.id(*last) < self.id(*first),
            (None, _) | (_, None) => true,
        };
        if comes_last {
            order.append(&mut new);
        } else {
            *order = self.merged(&order, new);
        }
        RwLockWriteGuard::downgrade(order)
    }

    /// Merges two lists that are each in id order.
    fn merged(&self, old: &[SlotIndex], new: Vec<SlotIndex>) -> Vec<SlotIndex> {
        let mut merged = Vec::with_capacity(old.len() + new.len());
        let mut rest = old;
        for place in new {
            let at = rest.partition_point(|other| self.id(*other) < self.id(place));
            let (before, behind) = rest.split_at(at);
            merged.extend_from_slice(before);
            merged.push(place);
            rest = behind;
        }
        merged.extend_from_slice(rest);
        merged
    }
}

impl EntitySlot {
    fn content_bytes(&self) -> usize {
        let value = self.value.as_ref();
        self.id.len() + value.map_or(0, |value| value.data.len())
    }

    fn entity(&self) -> Option<EntityRef<'_>> {
        let value = self.value.as_ref()?;
        Some(EntityRef {
            id: &self.id,
            data: Cow::Borrowed(&value.data),
            offset: value.offset,
        })
    }
}

/// All slots by their hashes.
fn table_of(slots: &[EntitySlot]) -> HashTable<SlotIndex> {
    let mut table = HashTable::with_capacity(slots.len());
    for (place, slot) in (0..).zip(slots) {
        table.insert_unique(slot.hash.whole(), place, |place| whole_hash(slots, *place));
    }
    table
}

fn whole_hash(slots: &[EntitySlot], place: SlotIndex) -> u64 {
    slots.get(index(place)).map_or(0, |slot| slot.hash.whole())
}

fn index(place: SlotIndex) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::ops::Bound;

    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;
    use crate::testing::seed;

    #[derive(Debug, Clone)]
    enum Step {
        Set(String),
        Unset(String),
        Restore(String),
        Read(String),
        Save,
    }

    fn value(offset: u64) -> Value {
        Value {
            data: Bytes::from(offset.to_string()),
            offset: Offset(offset),
        }
    }

    fn ids() -> impl Strategy<Value = String> {
        (0..400_u32).prop_map(|number| format!("{:x}", number.wrapping_mul(2_654_435_761)))
    }

    /// Steps in which the entities mostly grow or mostly shrink, and a save after them.
    fn time() -> impl Strategy<Value = Vec<Step>> {
        let steps = |sets, unsets| {
            let step = prop_oneof![
                sets => ids().prop_map(Step::Set),
                unsets => ids().prop_map(Step::Unset),
                1 => ids().prop_map(Step::Restore),
                2 => ids().prop_map(Step::Read),
            ];
            prop::collection::vec(step, 0..900)
        };
        prop_oneof![steps(10, 1), steps(1, 14)].prop_map(|mut steps| {
            steps.push(Step::Save);
            steps
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(seed()), ..ProptestConfig::with_cases(64) })]

        #[test]
        fn it_holds_what_a_map_would_hold_and_saves_each_change_once(
            mut restored in prop::collection::vec(ids(), 0..300),
            in_order in any::<bool>(),
            times in prop::collection::vec(time(), 0..6),
        ) {
            let mut kind = Kind::default();
            let mut model = BTreeMap::new();
            if in_order {
                restored.sort();
                restored.dedup();
            }
            let restores = restored.into_iter().map(Step::Restore);
            let (mut first_changes, mut changed) = (0, BTreeSet::new());
            for (offset, step) in (1..).zip(restores.chain(times.into_iter().flatten())) {
                match step {
                    Step::Set(id) => {
                        first_changes += usize::from(kind.set(&id, value(offset)).unwrap().is_first);
                        model.insert(id.clone(), offset);
                        changed.insert(id);
                    }
                    Step::Unset(id) => {
                        first_changes += kind.unset(&id).map_or(0, |unset| usize::from(unset.is_first));
                        if model.remove(&id).is_some() {
                            changed.insert(id);
                        }
                    }
                    // What was restored counts as saved, so nothing is restored over a change.
                    Step::Restore(id) if changed.contains(&id) => {}
                    Step::Restore(id) => {
                        kind.restore(id.clone().into(), value(offset)).unwrap();
                        model.insert(id, offset);
                    }
                    Step::Read(id) => {
                        let entity = kind.get(&id).map(|entity| entity.offset.0);
                        prop_assert_eq!(entity, model.get(&id).copied());
                        let page = kind.page(Some(&id), 3).into_iter();
                        let rest: Vec<_> = page.map(|entity| entity.id.to_owned()).collect();
                        let behind = (Bound::Excluded(id), Bound::Unbounded);
                        let expected: Vec<_> = model.range(behind).take(3).map(|(id, _)| id.clone()).collect();
                        prop_assert_eq!(rest, expected);
                    }
                    Step::Save => {
                        let changes = kind.take_changes();
                        prop_assert_eq!(std::mem::take(&mut first_changes), changes.len());
                        let taken: BTreeMap<String, Option<u64>> = changes
                            .into_iter()
                            .map(|(id, value)| (id.into(), value.map(|value| value.offset.0)))
                            .collect();
                        let expected = std::mem::take(&mut changed)
                            .into_iter()
                            .map(|id| { let now = model.get(&id).copied(); (id, now) })
                            .collect();
                        prop_assert_eq!(taken, expected);
                        for (id, offset) in model.iter().step_by(7) {
                            prop_assert_eq!(kind.get(id).map(|entity| entity.offset.0), Some(*offset));
                        }
                    }
                }
                prop_assert_eq!(kind.len(), model.len());
                if kind.table.is_empty() {
                    prop_assert!(kind.slots.is_sorted_by(|one, other| one.id < other.id));
                } else {
                    prop_assert_eq!(kind.table.len(), kind.slots.len());
                }
            }
            let held = kind.page(None, usize::MAX).into_iter();
            let held: Vec<_> = held.map(|entity| (entity.id.to_owned(), entity.offset.0)).collect();
            prop_assert_eq!(held, model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn entities_that_are_gone_take_no_memory_for_long() {
        let mut kind = Kind::default();
        for number in 0..10_000 {
            let id = number.to_string();
            kind.set(&id, value(number)).unwrap();
            kind.unset(&id).unwrap();
            assert_eq!(kind.take_changes().len(), 1);
        }
        assert!(
            kind.slots.len() <= 2 * MIN_DELETED_SLOTS,
            "{}",
            kind.slots.len()
        );
    }
}
