//! How the changelog stores workspaces: one record per entity. The latest record counts; one without a value is a
//! removal.
//!
//! | key | value, after a version byte |
//! |---|---|
//! | `a` | the ownership record, as JSON |
//! | `w` workspace | epoch, next offset, events applied, entries, residence, last load, owner, first offset |
//! | `d` workspace | the mark of a deletion: epoch, next offset |
//! | `e` workspace, kind, entity | offset, data |
//! | `h` workspace, epoch, begin of the load, first sequence | a part of the history: owner, transitions |
//!
//! Numbers are big endian. A workspace's id has a length of 1 byte before it, other texts one of 4 bytes; an entity's
//! id and its data end the key and the value, without a length. There is no checksum: a record batch of Kafka has one,
//! and readers check it.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use workspace_engine_core::store::{
    Deletion, HistoryPart, HistoryPlace, Key, Mutation, StoredEntry, StoredTransition,
    StoredWorkspace,
};
use workspace_lifecycle::{Offset, PartitionId, Residence};
use workspace_status::{Epoch, State, WorkspaceId};

use super::ownership::OwnershipRecord;

/// Version of the values; a reader accepts no other one.
const VERSION: u8 = 2;

/// The longest record that is written: the topic's largest batch less the overhead of a batch.
pub(super) const MAX_RECORD_BYTES: usize = 16 * 1024 * 1024 - 64 * 1024;

const OWNERSHIP: u8 = b'a';
const WORKSPACE: u8 = b'w';
const DELETION: u8 = b'd';
const ENTRY: u8 = b'e';
const HISTORY: u8 = b'h';

/// What is wrong with a record, as text for the operator.
type Damage = &'static str;

const SHORT: Damage = "it ends too early";
const NEWER: Damage = "a newer version of the engine wrote it; start that version, or the engines with another --group";
const OLDER: Damage =
    "it has version 1, this engine reads version 2; start the engines with another --group";

/// The contents of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DecodedRecord {
    Ownership(OwnershipRecord),
    Mutation(Mutation),
    /// An ownership record of another version: this engine cannot read the changelog. What to do.
    OtherVersion(Damage),
    /// The reason why the record is skipped.
    Skipped(Damage),
}

/// The key of a partition's ownership record.
pub(super) const OWNERSHIP_KEY: &[u8] = &[OWNERSHIP];

pub(super) fn encode_ownership(record: &OwnershipRecord) -> Vec<u8> {
    let mut value = vec![VERSION];
    value.extend(serde_json::to_vec(record).unwrap_or_default());
    value
}

/// Key and value of the record of a mutation.
pub(super) fn encode(mutation: &Mutation) -> (Vec<u8>, Option<Vec<u8>>) {
    match mutation {
        Mutation::Workspace(workspace) => (
            workspace_key(&workspace.id),
            Some(encode_workspace(workspace)),
        ),
        Mutation::Deletion(deletion) => {
            let mut value = vec![VERSION];
            value.put_u64(deletion.epoch.get());
            value.put_u64(deletion.next_offset.0);
            (key_of(DELETION, &deletion.id, 0), Some(value))
        }
        Mutation::Entry(id, entry) => {
            let mut value = Vec::with_capacity(entry.data.len() + 9);
            value.put_u8(VERSION);
            value.put_u64(entry.offset.0);
            value.put_slice(&entry.data);
            (entry_key(id, &entry.kind, &entry.id), Some(value))
        }
        Mutation::History(part) => (
            history_key(&part.id, part.place()),
            Some(encode_history(part)),
        ),
        // Damage is never written: the damaged record is removed.
        Mutation::Removed(key) | Mutation::Damaged(_, key) => {
            let key = match key {
                Key::Workspace(id) => workspace_key(id),
                Key::Deletion(id) => key_of(DELETION, id, 0),
                Key::Entry { id, kind, entity } => entry_key(id, kind, entity),
                Key::History { id, place } => history_key(id, *place),
            };
            (key, None)
        }
    }
}

/// Decodes a record of a partition.
pub(super) fn decode(partition: PartitionId, key: &[u8], value: Option<&[u8]>) -> DecodedRecord {
    let Some((kind, mut rest)) = key.split_first() else {
        return DecodedRecord::Skipped("it has no key");
    };
    if *kind == OWNERSHIP {
        let record = value.ok_or("it was removed").and_then(decode_ownership);
        return record.map_or_else(
            |damage| match damage {
                OLDER | NEWER => DecodedRecord::OtherVersion(damage),
                _ => DecodedRecord::Skipped(damage),
            },
            DecodedRecord::Ownership,
        );
    }
    let key = match decode_key(*kind, &mut rest) {
        Ok(key) => key,
        Err(damage) => return DecodedRecord::Skipped(damage),
    };
    let Some(value) = value else {
        return DecodedRecord::Mutation(Mutation::Removed(key));
    };
    let decoded = match &key {
        Key::Workspace(id) => decode_workspace(id, partition, value).map(Mutation::Workspace),
        Key::Deletion(id) => decode_deletion(id, partition, value).map(Mutation::Deletion),
        Key::Entry { id, kind, entity } => {
            decode_entry(kind, entity, value).map(|entry| Mutation::Entry(id.clone(), entry))
        }
        Key::History { id, place } => decode_history(id, *place, value).map(Mutation::History),
    };
    DecodedRecord::Mutation(decoded.unwrap_or_else(|damage| {
        tracing::error!(%partition, workspace = %key.workspace(), damage, "a record of the changelog is damaged");
        Mutation::Damaged(partition, key)
    }))
}

/// The epoch in a record.
pub(super) fn epoch_of(decoded_record: &DecodedRecord) -> Option<Epoch> {
    match decoded_record {
        DecodedRecord::Ownership(record) => Some(record.first_epoch),
        DecodedRecord::Mutation(mutation) => epoch_of_mutation(mutation),
        DecodedRecord::OtherVersion(_) | DecodedRecord::Skipped(_) => None,
    }
}

pub(super) fn epoch_of_mutation(mutation: &Mutation) -> Option<Epoch> {
    match mutation {
        Mutation::Workspace(workspace) => Some(workspace.epoch),
        Mutation::Deletion(deletion) => Some(deletion.epoch),
        Mutation::History(part) => Some(part.epoch),
        Mutation::Removed(Key::History { place, .. })
        | Mutation::Damaged(_, Key::History { place, .. }) => Some(place.epoch),
        Mutation::Entry(..) | Mutation::Removed(_) | Mutation::Damaged(..) => None,
    }
}

fn key_of(kind: u8, id: &WorkspaceId, more: usize) -> Vec<u8> {
    let id = id.as_str().as_bytes();
    let mut key = Vec::with_capacity(id.len() + more + 2);
    key.put_u8(kind);
    // An id has 255 bytes at most.
    key.put_u8(u8::try_from(id.len()).unwrap_or(u8::MAX));
    key.put_slice(id);
    key
}

fn workspace_key(id: &WorkspaceId) -> Vec<u8> {
    key_of(WORKSPACE, id, 0)
}

fn entry_key(id: &WorkspaceId, kind: &str, entity: &str) -> Vec<u8> {
    let mut key = key_of(ENTRY, id, kind.len() + entity.len() + 4);
    put_text(&mut key, kind);
    key.put_slice(entity.as_bytes());
    key
}

fn history_key(id: &WorkspaceId, place: HistoryPlace) -> Vec<u8> {
    let mut key = key_of(HISTORY, id, 24);
    key.put_u64(place.epoch.get());
    key.put_u64(place.begun_ms);
    key.put_u64(place.sequence);
    key
}

fn decode_key(kind: u8, rest: &mut &[u8]) -> Result<Key, Damage> {
    let length = usize::from(rest.try_get_u8().map_err(|_| SHORT)?);
    let id = std::str::from_utf8(take(rest, length)?)
        .ok()
        .and_then(|id| WorkspaceId::new(id).ok());
    let id = id.ok_or("its workspace has no valid id")?;
    let key = match kind {
        WORKSPACE => Key::Workspace(id),
        DELETION => Key::Deletion(id),
        ENTRY => {
            let kind = text(rest)?.into();
            let entity = std::mem::take(rest);
            Key::Entry {
                id,
                kind,
                entity: std::str::from_utf8(entity).map_err(|_| NOT_TEXT)?.into(),
            }
        }
        HISTORY => Key::History {
            id,
            place: HistoryPlace {
                epoch: Epoch::new(number(rest)?),
                begun_ms: number(rest)?,
                sequence: number(rest)?,
            },
        },
        _ => return Err("its kind is not known here"),
    };
    if rest.is_empty() {
        Ok(key)
    } else {
        Err("its key is too long")
    }
}

fn decode_ownership(mut value: &[u8]) -> Result<OwnershipRecord, Damage> {
    version(&mut value)?;
    serde_json::from_slice(value).map_err(|_| "it is no ownership record")
}

fn encode_workspace(workspace: &StoredWorkspace) -> Vec<u8> {
    let mut value = Vec::with_capacity(64 + workspace.owner.len());
    value.put_u8(VERSION);
    value.put_u64(workspace.epoch.get());
    value.put_u64(workspace.next_offset.0);
    value.put_u64(workspace.events_applied);
    value.put_u64(workspace.entries);
    value.put_u8(workspace.residence.code());
    value.put_u8(u8::from(workspace.last_load_ms.is_some()));
    value.put_u64(workspace.last_load_ms.unwrap_or_default());
    put_text(&mut value, &workspace.owner);
    value.put_u64(workspace.first_offset.0);
    value
}

fn decode_workspace(
    id: &WorkspaceId,
    partition: PartitionId,
    mut value: &[u8],
) -> Result<StoredWorkspace, Damage> {
    let value = &mut value;
    version(value)?;
    let epoch = Epoch::new(number(value)?);
    let next_offset = Offset(number(value)?);
    let events_applied = number(value)?;
    let entries = number(value)?;
    let residence = value.try_get_u8().map_err(|_| SHORT)?;
    let residence = Residence::of_code(residence).ok_or("its residence is not known here")?;
    let was_loaded = value.try_get_u8().map_err(|_| SHORT)? != 0;
    let last_load_ms = number(value)?;
    let owner = text(value)?.to_owned();
    let first_offset = number(value)?;
    Ok(StoredWorkspace {
        id: id.clone(),
        partition,
        epoch,
        owner,
        first_offset: Offset(first_offset),
        next_offset,
        events_applied,
        entries,
        last_load_ms: was_loaded.then_some(last_load_ms),
        residence,
    })
}

fn decode_deletion(
    id: &WorkspaceId,
    partition: PartitionId,
    mut value: &[u8],
) -> Result<Deletion, Damage> {
    version(&mut value)?;
    Ok(Deletion {
        id: id.clone(),
        partition,
        epoch: Epoch::new(number(&mut value)?),
        next_offset: Offset(number(&mut value)?),
    })
}

fn decode_entry(kind: &Arc<str>, entity: &str, mut value: &[u8]) -> Result<StoredEntry, Damage> {
    version(&mut value)?;
    let offset = Offset(number(&mut value)?);
    Ok(StoredEntry {
        kind: Arc::clone(kind),
        id: entity.into(),
        data: Bytes::copy_from_slice(value),
        offset,
    })
}

fn encode_history(part: &HistoryPart) -> Vec<u8> {
    let messages = part.transitions.iter().map(|one| one.message.len());
    let bytes = part.transitions.len() * 72 + messages.sum::<usize>();
    let mut value = Vec::with_capacity(9 + part.owner.len() + bytes);
    value.put_u8(VERSION);
    put_text(&mut value, &part.owner);
    value.put_u32(u32::try_from(part.transitions.len()).unwrap_or(u32::MAX));
    for transition in &part.transitions {
        value.put_u64(transition.sequence);
        value.put_u64(transition.at_ms);
        value.put_u64(transition.time_in_from_us);
        put_text(&mut value, transition.from.as_str());
        put_text(&mut value, transition.to.as_str());
        put_text(&mut value, &transition.message);
    }
    value
}

fn decode_history(
    id: &WorkspaceId,
    place: HistoryPlace,
    mut value: &[u8],
) -> Result<HistoryPart, Damage> {
    let value = &mut value;
    version(value)?;
    let owner = text(value)?.to_owned();
    let count = value.try_get_u32().map_err(|_| SHORT)?;
    let mut transitions = Vec::new();
    for _ in 0..count {
        transitions.push(StoredTransition {
            sequence: number(value)?,
            at_ms: number(value)?,
            time_in_from_us: number(value)?,
            from: state(value)?,
            to: state(value)?,
            message: text(value)?.to_owned(),
        });
    }
    Ok(HistoryPart {
        id: id.clone(),
        epoch: place.epoch,
        begun_ms: place.begun_ms,
        owner,
        transitions,
    })
}

const NOT_TEXT: Damage = "a text in it is not UTF-8";

fn version(value: &mut &[u8]) -> Result<(), Damage> {
    match value.try_get_u8().map_err(|_| SHORT)? {
        VERSION => Ok(()),
        0 => Err("it has no version"),
        1 => Err(OLDER),
        _ => Err(NEWER),
    }
}

fn number(from: &mut &[u8]) -> Result<u64, Damage> {
    from.try_get_u64().map_err(|_| SHORT)
}

fn state(from: &mut &[u8]) -> Result<State, Damage> {
    let state = text(from)?.parse();
    state.map_err(|_| "it names a state that does not exist")
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    to.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    to.put_slice(text.as_bytes());
}

fn text<'a>(from: &mut &'a [u8]) -> Result<&'a str, Damage> {
    let length = from.try_get_u32().map_err(|_| SHORT)?;
    let text = take(from, usize::try_from(length).unwrap_or(usize::MAX))?;
    std::str::from_utf8(text).map_err(|_| NOT_TEXT)
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> Result<&'a [u8], Damage> {
    let (taken, rest) = from.split_at_checked(length).ok_or(SHORT)?;
    *from = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests;
