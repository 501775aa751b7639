//! The built-in workspace: entities by type and id, each the raw JSON of its last event.

mod kind;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use workspace_lifecycle::Offset;
use workspace_status::WorkspaceId;

use self::kind::{Kind, Place, Value};
use crate::event::{EntityEvent, Event};
use crate::store::{Change, StoredEntry};
use crate::workspace::{Rejection, Workspace};

/// Entities of one workspace, ordered by type and, within a type, by id, bytewise.
#[derive(Debug, Default)]
pub struct Entities {
    /// Index of each type in `kinds`; a type keeps its index when its last entity is removed.
    places: BTreeMap<Arc<str>, usize>,
    kinds: Vec<Kind>,
    /// Entities changed since the last save, in the order of their first change, each with the index of its type.
    changed: Vec<(usize, Place)>,
    /// Approximate bytes of a save of these changes, with each value at the largest size it had since the last save.
    changed_bytes: u64,
    /// Bytes of a saved entity besides its type, its id and its value.
    entry_bytes: usize,
}

/// Bytes that a store adds to an entry: offset, checksum, lengths.
const ENTRY_BYTES: usize = 64;

/// One entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntityRef<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its value as raw JSON.
    pub data: &'a [u8],
    /// Offset of the event that set it.
    pub offset: Offset,
}

impl Entities {
    /// Number of entities of each type that has any, ordered by type.
    pub fn counts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.places
            .iter()
            .filter_map(|(kind, place)| Some((&**kind, self.kinds.get(*place)?.len())))
            .filter(|(_, count)| *count > 0)
    }

    /// At most `limit` entities of a type in id order, beginning after the id `after`.
    pub fn page<'a>(
        &'a self,
        kind: &str,
        after: Option<&str>,
        limit: usize,
    ) -> impl Iterator<Item = EntityRef<'a>> + use<'a> {
        self.kind(kind)
            .map(|entities| entities.page(after, limit))
            .into_iter()
            .flatten()
    }

    /// One entity.
    pub fn get(&self, kind: &str, id: &str) -> Option<EntityRef<'_>> {
        self.kind(kind)?.get(id)
    }

    fn kind(&self, kind: &str) -> Option<&Kind> {
        self.kinds.get(*self.places.get(kind)?)
    }

    /// The index and the entities of a type; a new type is added without entities.
    fn kind_mut(&mut self, kind: &str) -> (usize, &mut Kind) {
        let place = self.places.get(kind).copied().unwrap_or_else(|| {
            self.kinds.push(Kind::default());
            let place = self.kinds.len() - 1;
            self.places.insert(kind.into(), place);
            place
        });
        #[expect(
            clippy::indexing_slicing,
            reason = "a place is given with a kind and stays"
        )]
        (place, &mut self.kinds[place])
    }

    fn set(&mut self, kind: &str, id: &str, data: &str, offset: Offset) -> Result<(), Rejection> {
        let (place, entities) = self.kind_mut(kind);
        let data = Bytes::copy_from_slice(data.as_bytes());
        let set = entities.set(id, Value { data, offset })?;
        self.changed_bytes += set.grown;
        if let Some(entity) = set.first_change {
            self.note_change(place, entity, kind, id);
        }
        Ok(())
    }

    fn unset(&mut self, kind: &str, id: &str) {
        let Some(place) = self.places.get(kind).copied() else {
            return;
        };
        let first_change = self
            .kinds
            .get_mut(place)
            .and_then(|entities| entities.unset(id));
        if let Some(entity) = first_change {
            self.note_change(place, entity, kind, id);
        }
    }

    fn note_change(&mut self, place: usize, entity: Place, kind: &str, id: &str) {
        self.changed.push((place, entity));
        let bytes = self.entry_bytes + kind.len() + id.len();
        self.changed_bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }
}

impl Workspace for Entities {
    fn new(id: &WorkspaceId) -> Self {
        Self {
            entry_bytes: ENTRY_BYTES + id.as_str().len(),
            ..Self::default()
        }
    }

    fn restore(&mut self, entry: StoredEntry) -> Result<(), Rejection> {
        let StoredEntry {
            kind,
            id,
            data,
            offset,
        } = entry;
        let (_, entities) = self.kind_mut(&kind);
        entities.restore(id, Value { data, offset })
    }

    fn check(event: &Event<'_>) -> Result<(), Rejection> {
        entity(event).map(|_| ())
    }

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Rejection> {
        match entity(event)? {
            EntityEvent::Set { kind, id, data } => self.set(kind, &id, data, event.offset())?,
            EntityEvent::Unset { kind, id } => self.unset(kind, &id),
        }
        Ok(())
    }

    fn take_changes(&mut self) -> Vec<Change> {
        let changed = std::mem::take(&mut self.changed);
        self.changed_bytes = 0;
        let mut names: Vec<Arc<str>> = vec![Arc::default(); self.kinds.len()];
        for (kind, place) in &self.places {
            if let Some(name) = names.get_mut(*place) {
                *name = Arc::clone(kind);
            }
        }
        let mut changes = Vec::with_capacity(changed.len());
        for (place, entity) in changed {
            let (Some(name), Some(entities)) = (names.get(place), self.kinds.get_mut(place)) else {
                continue;
            };
            let Some((id, value)) = entities.take_change(entity) else {
                continue;
            };
            let kind = Arc::clone(name);
            changes.push(match value {
                Some(Value { data, offset }) => Change::Set(StoredEntry {
                    kind,
                    id,
                    data,
                    offset,
                }),
                None => Change::Unset { kind, id },
            });
        }
        for entities in &mut self.kinds {
            entities.tidy();
        }
        changes
    }

    fn changed_bytes(&self) -> Option<u64> {
        Some(self.changed_bytes)
    }

    fn entries(&self) -> u64 {
        let count: usize = self.kinds.iter().map(Kind::len).sum();
        u64::try_from(count).unwrap_or(u64::MAX)
    }
}

fn entity<'a>(event: &'a Event<'_>) -> Result<EntityEvent<'a>, Rejection> {
    event.entity().map_err(|error| Rejection(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(
        entities: &mut Entities,
        offset: u64,
        event_type: &str,
        data: &str,
    ) -> Result<(), Rejection> {
        let json = format!(r#"{{"eventType":"{event_type}","workspaceId":"w","data":{data}}}"#);
        entities.apply(&Event::parse(Offset(offset), "w", Some(json.as_bytes())).unwrap())
    }

    fn shown(changes: &[Change]) -> Vec<String> {
        changes
            .iter()
            .map(|change| match change {
                Change::Set(entry) => format!("{}/{}@{}", entry.kind, entry.id, entry.offset),
                Change::Unset { kind, id } => format!("-{kind}/{id}"),
            })
            .collect()
    }

    #[test]
    fn changes_are_the_latest_values_since_the_last_save() {
        let mut entities = Entities::default();
        apply(&mut entities, 0, "r.created", r#"{"id":"a"}"#).unwrap();
        apply(&mut entities, 1, "r.updated", r#"{"id":"a","v":1}"#).unwrap();
        apply(&mut entities, 2, "r.created", r#"{"id":"b"}"#).unwrap();
        assert_eq!(shown(&entities.take_changes()), ["r/a@1", "r/b@2"]);
        apply(&mut entities, 3, "r.deleted", r#"{"id":"a"}"#).unwrap();
        apply(&mut entities, 4, "r.deleted", r#"{"id":"never"}"#).unwrap();
        assert_eq!(shown(&entities.take_changes()), ["-r/a"]);
        assert!(entities.take_changes().is_empty());
    }

    #[test]
    fn an_entity_that_is_set_again_counts_once_among_the_unsaved_bytes() {
        let mut entities = Entities::new(&WorkspaceId::new("acme").unwrap());
        let mut after = |offset, event_type, data: &str| {
            apply(&mut entities, offset, event_type, data).unwrap();
            entities.changed_bytes().unwrap()
        };
        let entry = 64 + 4 + 1 + 1;
        assert_eq!(after(0, "r.created", r#"{"id":"a"}"#), entry + 10);
        assert_eq!(after(1, "r.updated", r#"{"id":"a","v":1}"#), entry + 16);
        assert_eq!(after(2, "r.updated", r#"{"id":"a"}"#), entry + 16);
        assert_eq!(after(3, "r.deleted", r#"{"id":"a"}"#), entry + 16);
        // The previous value may be in a save under way.
        assert_eq!(after(4, "r.created", r#"{"id":"a"}"#), entry + 16 + 10);
        entities.take_changes();
        assert_eq!(entities.changed_bytes(), Some(0));
        apply(&mut entities, 5, "r.deleted", r#"{"id":"a"}"#).unwrap();
        assert_eq!(entities.changed_bytes(), Some(entry));
    }

    #[test]
    fn an_entity_deleted_and_made_anew_is_saved_as_it_is_now() {
        let mut entities = Entities::default();
        apply(&mut entities, 0, "r.created", r#"{"id":"a"}"#).unwrap();
        entities.take_changes();
        apply(&mut entities, 1, "r.deleted", r#"{"id":"a"}"#).unwrap();
        apply(&mut entities, 2, "r.created", r#"{"id":"a","v":2}"#).unwrap();
        let changes = shown(&entities.take_changes());
        assert_eq!(changes, ["r/a@2"]);
    }

    #[test]
    fn a_poison_event_changes_nothing() {
        let mut entities = Entities::default();
        for (event_type, data) in [
            ("r.exploded", r#"{"id":"a"}"#),
            ("r.created", r#"{"noid":1}"#),
        ] {
            let applied = apply(&mut entities, 0, event_type, data);
            let json = format!(r#"{{"eventType":"{event_type}","workspaceId":"w","data":{data}}}"#);
            let event = Event::parse(Offset(0), "w", Some(json.as_bytes())).unwrap();
            assert_eq!(
                Entities::check(&event),
                applied,
                "the door refuses what is poison"
            );
            applied.unwrap_err();
        }
        assert_eq!(entities.counts().count(), 0);
        assert!(entities.take_changes().is_empty());
    }

    #[test]
    fn pages_are_ordered_bytewise_and_begin_after_an_id() {
        let mut entities = Entities::default();
        for id in ["b", "a", "ä", "B"] {
            apply(
                &mut entities,
                0,
                "r.created",
                &format!(r#"{{"id":"{id}"}}"#),
            )
            .unwrap();
        }
        let ids = |after, limit| {
            entities
                .page("r", after, limit)
                .map(|entity| entity.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(None, 10), ["B", "a", "b", "ä"]);
        assert_eq!(ids(Some("a"), 1), ["b"]);
    }

    #[test]
    fn restored_entries_are_not_changes() {
        let mut entities = Entities::default();
        for (kind, id) in [("a", "1"), ("a", "2"), ("b", "1")] {
            entities
                .restore(StoredEntry {
                    kind: kind.into(),
                    id: id.into(),
                    data: Bytes::from_static(b"{}"),
                    offset: Offset(1),
                })
                .unwrap();
        }
        entities.restored();
        assert_eq!(entities.counts().collect::<Vec<_>>(), [("a", 2), ("b", 1)]);
        assert!(entities.take_changes().is_empty());
    }
}
