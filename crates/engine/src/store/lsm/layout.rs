//! Layout of workspaces in the keyspaces of the database.
//!
//! | keyspace | key | value, sealed with a checksum |
//! |---|---|---|
//! | `store-entries` | workspace `\0` kind `\0` entity | offset, data |
//! | `store-workspaces` | workspace | everything of [`StoredWorkspace`], and whether it is being erased |
//! | the same | workspace `\0` | the deletion mark, a [`Deletion`] |
//! | `store-history` | workspace `\0` epoch, begin of the load, first sequence, big endian | a part of the history: owner, transitions |
//! | `store-committed` | partition, big endian | offset |
//! | the same | partition, big endian, `@` | position up to which a [copy](super::CopyPosition) is complete |
//!
//! A kind may contain `\0`, written as `\0 0xff`. UTF-8 has no byte `0xff`, so keys keep the order of the texts, and
//! the end of the kind is never ambiguous.

use super::super::{
    Deletion, HistoryPart, HistoryPlace, StoredEntry, StoredTransition, StoredWorkspace,
};
use crate::disk::codec::{Damage, Reader, Writer};
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;
use workspace_lifecycle::{Offset, PartitionId, Residence};
use workspace_status::{Epoch, State, WorkspaceId};

/// The damage of a copied value that was damaged in its source: reading the source again does not help.
pub(in crate::store) const DAMAGED_AT_SOURCE: &str = "it was damaged where it was copied from";

/// Stored in place of such a value: it has no valid checksum.
pub(super) const DAMAGED: &[u8] = b"damaged where it came from";

const SEPARATOR: u8 = 0;
const ESCAPE: u8 = 0xff;

/// Prefix of the keys of a workspace's entries and history; no key of another workspace begins with it.
pub(super) fn workspace_prefix(id: &WorkspaceId) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(id.as_str().len() + 1);
    prefix.extend_from_slice(id.as_str().as_bytes());
    prefix.push(SEPARATOR);
    prefix
}

/// The key of an entry.
pub(super) fn entry_key(id: &WorkspaceId, kind: &str, entity: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(id.as_str().len() + kind.len() + entity.len() + 2);
    key.extend_from_slice(id.as_str().as_bytes());
    key.push(SEPARATOR);
    for byte in kind.bytes() {
        key.push(byte);
        if byte == SEPARATOR {
            key.push(ESCAPE);
        }
    }
    key.push(SEPARATOR);
    key.extend_from_slice(entity.as_bytes());
    key
}

/// Kind and id of an entry, from what follows the prefix of its workspace.
pub(super) fn entry_name(rest: &[u8]) -> Result<(Cow<'_, str>, &str), Damage> {
    const NOT_TEXT: Damage = "its key is not UTF-8";
    let mut from = 0;
    let mut escaped = false;
    loop {
        let tail = rest.get(from..).ok_or("its key has no kind")?;
        let at = tail
            .iter()
            .position(|byte| *byte == SEPARATOR)
            .ok_or("its key has no kind")?
            + from;
        if rest.get(at + 1) == Some(&ESCAPE) {
            escaped = true;
            from = at + 2;
            continue;
        }
        let (kind, entity) = rest.split_at_checked(at).ok_or("its key has no kind")?;
        let entity =
            std::str::from_utf8(entity.get(1..).unwrap_or_default()).map_err(|_| NOT_TEXT)?;
        let kind = if escaped {
            Cow::Owned(unescape(kind)?)
        } else {
            Cow::Borrowed(std::str::from_utf8(kind).map_err(|_| NOT_TEXT)?)
        };
        return Ok((kind, entity));
    }
}

fn unescape(kind: &[u8]) -> Result<String, Damage> {
    let plain: Vec<u8> = kind
        .iter()
        .copied()
        .filter(|byte| *byte != ESCAPE)
        .collect();
    String::from_utf8(plain).map_err(|_| "its key is not UTF-8")
}

/// Opens a value, or returns what is wrong with it.
fn open(key: &[u8], sealed: Bytes) -> Result<Reader, Damage> {
    if &*sealed == DAMAGED {
        return Err(DAMAGED_AT_SOURCE);
    }
    Reader::open(key, sealed)
}

pub(super) fn encode_entry(key: &[u8], entry: &StoredEntry) -> Vec<u8> {
    Writer::with_capacity(entry.data.len() + 12)
        .u64(entry.offset.0)
        .raw(&entry.data)
        .seal(key)
}

/// Decodes an entry without copying its data. `last_kind` is the kind of the previous entry, which most entries share.
pub(super) fn decode_entry(
    key: &[u8],
    prefix_bytes: usize,
    sealed: Bytes,
    last_kind: &mut Arc<str>,
) -> Result<StoredEntry, Damage> {
    let mut reader = open(key, sealed)?;
    let offset = Offset(reader.u64()?);
    let (kind, id) = entry_name(key.get(prefix_bytes..).unwrap_or_default())?;
    if **last_kind != *kind {
        *last_kind = kind.into();
    }
    Ok(StoredEntry {
        kind: Arc::clone(last_kind),
        id: id.into(),
        data: reader.rest(),
        offset,
    })
}

/// Whether the stored data of a workspace matches its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    Whole,
    /// Its entries and its history are being removed; it counts as removed.
    Deleting,
    /// Its earlier entries are being removed; it counts as empty.
    Resetting,
}

impl Condition {
    /// Whether the workspace counts as stored.
    pub(super) fn is_there(self) -> bool {
        match self {
            Self::Whole | Self::Resetting => true,
            Self::Deleting => false,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Whole => 0,
            Self::Deleting => 1,
            Self::Resetting => 2,
        }
    }

    fn of(code: u8) -> Result<Self, Damage> {
        match code {
            0 => Ok(Self::Whole),
            1 => Ok(Self::Deleting),
            2 => Ok(Self::Resetting),
            _ => Err("its condition is not known here"),
        }
    }
}

pub(super) fn encode_workspace(workspace: &StoredWorkspace, condition: Condition) -> Vec<u8> {
    Writer::with_capacity(64 + workspace.owner.len())
        .u8(condition.code())
        .u32(workspace.partition.0)
        .u64(workspace.epoch.get())
        .u64(workspace.next_offset.0)
        .u64(workspace.events_applied)
        .u64(workspace.entries)
        .u8(workspace.residence.code())
        .optional_u64(workspace.last_load_ms)
        .block(workspace.owner.as_bytes())
        .u64(workspace.first_offset.0)
        .seal(workspace.id.as_str().as_bytes())
}

pub(super) fn decode_workspace(
    key: &[u8],
    sealed: Bytes,
) -> Result<(Condition, StoredWorkspace), Damage> {
    let mut reader = open(key, sealed)?;
    let id = id_of(key).ok_or("its id is not valid")?;
    let condition = Condition::of(reader.u8()?)?;
    let workspace = StoredWorkspace {
        id,
        partition: PartitionId(reader.u32()?),
        epoch: Epoch::new(reader.u64()?),
        next_offset: Offset(reader.u64()?),
        events_applied: reader.u64()?,
        entries: reader.u64()?,
        residence: Residence::of_code(reader.u8()?).ok_or("its residence is not known here")?,
        last_load_ms: reader.optional_u64()?,
        owner: reader.text()?,
        first_offset: Offset(reader.u64()?),
    };
    Ok((condition, workspace))
}

/// The workspace of a key that is an id.
pub(super) fn id_of(key: &[u8]) -> Option<WorkspaceId> {
    WorkspaceId::new(std::str::from_utf8(key).ok()?).ok()
}

/// The key of a deletion mark; no workspace id contains its last byte.
pub(super) fn deletion_key(id: &WorkspaceId) -> Vec<u8> {
    workspace_prefix(id)
}

/// The workspace of a key of [`deletion_key`]; `None` for any other key.
pub(super) fn deleted_workspace(key: &[u8]) -> Option<&[u8]> {
    key.strip_suffix(&[SEPARATOR])
}

pub(super) fn encode_deletion(deletion: &Deletion) -> Vec<u8> {
    Writer::with_capacity(24)
        .u32(deletion.partition.0)
        .u64(deletion.epoch.get())
        .u64(deletion.next_offset.0)
        .seal(&deletion_key(&deletion.id))
}

pub(super) fn decode_deletion(id: WorkspaceId, sealed: Bytes) -> Result<Deletion, Damage> {
    let mut reader = Reader::open(&deletion_key(&id), sealed)?;
    Ok(Deletion {
        partition: PartitionId(reader.u32()?),
        epoch: Epoch::new(reader.u64()?),
        next_offset: Offset(reader.u64()?),
        id,
    })
}

/// The key of a part of a history: the prefix of its workspace, and its place.
pub(super) fn history_key(id: &WorkspaceId, place: HistoryPlace) -> Vec<u8> {
    let HistoryPlace {
        epoch,
        begun_ms,
        sequence,
    } = place;
    let mut key = Vec::with_capacity(id.as_str().len() + 1 + 3 * size_of::<u64>());
    key.extend_from_slice(id.as_str().as_bytes());
    key.push(SEPARATOR);
    for number in [epoch.get(), begun_ms, sequence] {
        key.extend_from_slice(&number.to_be_bytes());
    }
    key
}

/// The place of a part, from its [`history_key`].
pub(super) fn history_place(id: &WorkspaceId, key: &[u8]) -> Result<HistoryPlace, Damage> {
    const LENGTH: Damage = "its key has a wrong length";
    let place = key.get(id.as_str().len() + 1..).ok_or(LENGTH)?;
    let (numbers, []) = place.as_chunks() else {
        return Err(LENGTH);
    };
    let &[epoch, begun_ms, sequence] = numbers else {
        return Err(LENGTH);
    };
    Ok(HistoryPlace {
        epoch: Epoch::new(u64::from_be_bytes(epoch)),
        begun_ms: u64::from_be_bytes(begun_ms),
        sequence: u64::from_be_bytes(sequence),
    })
}

pub(super) fn encode_history(key: &[u8], part: &HistoryPart) -> Vec<u8> {
    let messages = part.transitions.iter().map(|one| one.message.len());
    let bytes = part.transitions.len() * 30 + messages.sum::<usize>();
    let mut writer = Writer::with_capacity(12 + part.owner.len() + bytes);
    writer.block(part.owner.as_bytes());
    writer.u32(u32::try_from(part.transitions.len()).unwrap_or(u32::MAX));
    for transition in &part.transitions {
        writer
            .u64(transition.sequence)
            .u64(transition.at_ms)
            .u64(transition.time_in_from_us)
            .u8(state_code(transition.from))
            .u8(state_code(transition.to))
            .block(transition.message.as_bytes());
    }
    writer.seal(key)
}

pub(super) fn decode_history(
    id: &WorkspaceId,
    key: &[u8],
    sealed: Bytes,
) -> Result<HistoryPart, Damage> {
    let HistoryPlace {
        epoch, begun_ms, ..
    } = history_place(id, key)?;
    let mut reader = open(key, sealed)?;
    let owner = reader.text()?;
    let count = reader.u32()?;
    let mut transitions = Vec::new();
    for _ in 0..count {
        transitions.push(StoredTransition {
            sequence: reader.u64()?,
            at_ms: reader.u64()?,
            time_in_from_us: reader.u64()?,
            from: state_of(reader.u8()?)?,
            to: state_of(reader.u8()?)?,
            message: reader.text()?,
        });
    }
    Ok(HistoryPart {
        id: id.clone(),
        epoch,
        begun_ms,
        owner,
        transitions,
    })
}

/// The number of transitions in a part.
pub(super) fn history_count(key: &[u8], sealed: Bytes) -> Result<u32, Damage> {
    let mut reader = open(key, sealed)?;
    reader.block()?;
    reader.u32()
}

fn state_code(state: State) -> u8 {
    match state {
        State::Unknown => 0,
        State::Initializing => 1,
        State::LoadingFromPersistence => 2,
        State::LoadingKafkaPartitions => 3,
        State::ReplayingEvents => 4,
        State::PopulatingInitialState => 5,
        State::RestoringFromSnapshot => 6,
        State::Ready => 7,
        State::Error => 8,
        State::Unloading => 9,
    }
}

fn state_of(code: u8) -> Result<State, Damage> {
    let state = State::ALL
        .into_iter()
        .find(|state| state_code(*state) == code);
    state.ok_or("it names a state that does not exist")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> WorkspaceId {
        WorkspaceId::new(text).expect("valid")
    }

    #[test]
    fn an_entry_reads_as_it_was_written_whatever_its_kind_and_id_hold() {
        let names = ["resource", "a\0b", "\0", "\0\0x", "", "ünï", "a\0"];
        for kind in names {
            for entity in names {
                let entry = StoredEntry {
                    kind: kind.into(),
                    id: entity.into(),
                    data: Bytes::from_static(b"{}"),
                    offset: Offset(7),
                };
                let key = entry_key(&id("acme"), kind, entity);
                let value = encode_entry(&key, &entry);
                assert_eq!(
                    decode_entry(&key, 5, value.into(), &mut Arc::default()),
                    Ok(entry),
                    "{kind:?} {entity:?}"
                );
            }
        }
    }

    #[test]
    fn keys_are_ordered_by_kind_then_by_entity() {
        let mut names = Vec::new();
        for kind in ["", "\0", "\0a", "a", "a\0", "a\0b", "aa", "b", "ü"] {
            for entity in ["", "\0", "1", "10", "2", "ü"] {
                names.push((kind, entity));
            }
        }
        names.sort_unstable();
        let keys: Vec<_> = names
            .iter()
            .map(|(kind, entity)| entry_key(&id("acme"), kind, entity))
            .collect();
        assert!(keys.is_sorted());
    }

    #[test]
    fn a_workspace_whose_id_begins_with_another_id_has_entries_of_its_own() {
        let key = entry_key(&id("acme-2"), "kind", "entity");
        assert!(!key.starts_with(&workspace_prefix(&id("acme"))));
    }

    #[test]
    fn every_state_has_a_code_of_its_own() {
        for state in State::ALL {
            assert_eq!(state_of(state_code(state)), Ok(state));
        }
        assert!(state_of(10).is_err());
    }
}
