//! The built-in workspace: entities by type and id, each the raw JSON of its last event.

mod kind;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use workspace_status::WorkspaceId;

use self::kind::{Changed, Kind, Value};
use crate::event::{EntityEvent, Event};
use crate::store::{Change, StoredEntry};
use crate::workspace::{EntityRef, ReadEntities, Rejection, Workspace};

/// Entities of one workspace, ordered by type and, within a type, by id, bytewise.
#[derive(Debug, Default)]
pub struct Entities {
    /// A type stays when its last entity is removed. Boxed, because a node of the map has room for eleven.
    kinds: BTreeMap<Arc<str>, Box<Kind>>,
    /// Approximate bytes of a save of these changes, with each value at the largest size it had since the last save.
    changed_bytes: u64,
    /// Bytes of a saved entity besides its type, its id and its value.
    entry_bytes: usize,
}

/// Bytes that a store adds to an entry: offset, checksum, lengths.
const ENTRY_BYTES: usize = 64;

impl ReadEntities for Entities {
    fn counts(&self) -> Vec<(&str, usize)> {
        self.kinds
            .iter()
            .map(|(kind, entities)| (&**kind, entities.len()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    fn page(&self, kind: &str, after: Option<&str>, limit: usize) -> Vec<EntityRef<'_>> {
        let entities = self.kinds.get(kind);
        entities
            .map(|entities| entities.page(after, limit))
            .unwrap_or_default()
    }

    fn get(&self, kind: &str, id: &str) -> Option<EntityRef<'_>> {
        self.kinds.get(kind)?.get(id)
    }
}

impl Entities {
    /// Changes an entity of a type, which may be a new one.
    fn change<T>(&mut self, kind: &str, change: impl FnOnce(&mut Kind) -> T) -> T {
        if let Some(entities) = self.kinds.get_mut(kind) {
            return change(entities);
        }
        change(self.kinds.entry(kind.into()).or_default())
    }

    fn note_change(&mut self, changed: &Changed, kind: &str, id: &str) {
        self.changed_bytes += changed.grown_bytes;
        if changed.is_first {
            let bytes = self.entry_bytes + kind.len() + id.len();
            self.changed_bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        }
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
        self.change(&kind, |entities| {
            entities.restore(id, Value { data, offset })
        })
    }

    fn check(event: &Event<'_>) -> Result<(), Rejection> {
        entity(event).map(|_| ())
    }

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Rejection> {
        match entity(event)? {
            EntityEvent::Set { kind, id, data } => {
                let data = Bytes::copy_from_slice(data.as_bytes());
                let offset = event.offset();
                let value = Value { data, offset };
                let changed = self.change(kind, |entities| entities.set(&id, value))?;
                self.note_change(&changed, kind, &id);
            }
            EntityEvent::Unset { kind, id } => {
                let entities = self.kinds.get_mut(kind);
                if let Some(changed) = entities.and_then(|entities| entities.unset(&id)) {
                    self.note_change(&changed, kind, &id);
                }
            }
        }
        Ok(())
    }

    fn take_changes(&mut self) -> Vec<Change> {
        self.changed_bytes = 0;
        let mut changes = Vec::new();
        for (kind, entities) in &mut self.kinds {
            for (id, value) in entities.take_changes() {
                let kind = Arc::clone(kind);
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
        }
        changes
    }

    fn changed_bytes(&self) -> Option<u64> {
        Some(self.changed_bytes)
    }

    fn memory_bytes(&self) -> u64 {
        let bytes: usize = self
            .kinds
            .values()
            .map(|entities| entities.memory_bytes())
            .sum();
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    fn entries(&self) -> u64 {
        let count: usize = self.kinds.values().map(|entities| entities.len()).sum();
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    fn entities(&self) -> Option<&dyn ReadEntities> {
        Some(self)
    }
}

fn entity<'a>(event: &'a Event<'_>) -> Result<EntityEvent<'a>, Rejection> {
    event.entity().map_err(|error| Rejection(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use workspace_lifecycle::Offset;

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
    fn an_entity_deleted_and_created_again_is_saved_as_it_is_now() {
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
                "what is poison is refused before an append"
            );
            applied.unwrap_err();
        }
        assert!(entities.counts().is_empty());
        assert!(entities.take_changes().is_empty());
    }

    #[test]
    fn the_memory_estimate_follows_the_values() {
        let mut entities = Entities::default();
        let mut after = |offset, event_type: &str, text: &str| {
            let data = format!(r#"{{"id":"a","text":"{text}"}}"#);
            apply(&mut entities, offset, event_type, &data).unwrap();
            entities.memory_bytes()
        };
        let first = after(0, "r.created", "0123456789");
        assert_eq!(after(1, "r.updated", ""), first - 10);
        assert_eq!(after(2, "r.updated", "0123456789"), first);
        let deleted = after(3, "r.deleted", "");
        assert_eq!(
            deleted,
            first - r#"{"id":"a","text":"0123456789"}"#.len() as u64
        );
        entities.take_changes();
        assert!(entities.memory_bytes() < deleted);
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
                .into_iter()
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
        assert_eq!(entities.counts(), [("a", 2), ("b", 1)]);
        assert!(entities.take_changes().is_empty());
    }
}
