//! Events that an operator skipped, stored beside the log.
//!
//! The key is partition and offset, both big endian, and the workspace id: every workspace of a partition stops at a
//! damaged record, and each skips it.

use super::partitions::{OpenLog, append_error};
use super::{AppendError, DeadLetter, DeletedDeadLetters, ReadError};
use crate::disk::codec::{Damage, Reader, Writer};
use crate::disk::describe;
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::Bound;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

const ADDRESS_BYTES: usize = 12;

/// Greater than every byte of a workspace id.
const BEHIND_ALL_IDS: u8 = 0xff;

/// Stores a dead letter durably; an existing one of the same workspace and address is kept unchanged.
pub(super) fn append(shared: &OpenLog, dead_letter: &DeadLetter) -> Result<(), AppendError> {
    let address = address_key(dead_letter.partition, dead_letter.offset);
    let key = [&address[..], dead_letter.workspace_id.as_str().as_bytes()].concat();
    let is_kept = shared.dead_letters.contains_key(&key);
    if is_kept.map_err(|error| AppendError::Unavailable(describe(&error)))? {
        return Ok(());
    }
    let value = encode(&key, dead_letter);
    let bytes = value.len() + key.len();
    let mut batch = shared.dir.database().batch();
    batch.insert(&shared.dead_letters, key, value);
    shared.dir.commit(batch, bytes, &[]).map_err(append_error)
}

/// Dead letters after an address, ordered by partition, offset and workspace. If one of an address is returned, all of
/// them are, even beyond `limit`, because the next page begins after the address.
pub(super) fn list(
    shared: &OpenLog,
    workspace: Option<&WorkspaceId>,
    after: Option<(PartitionId, Offset)>,
    limit: usize,
) -> Result<Vec<DeadLetter>, ReadError> {
    let from = after.map_or(Bound::Unbounded, |(partition, offset)| {
        let address = address_key(partition, offset);
        Bound::Excluded([&address[..], &[BEHIND_ALL_IDS]].concat())
    });
    let mut dead_letters: Vec<DeadLetter> = Vec::new();
    for entry in shared.dead_letters.range((from, Bound::Unbounded)) {
        let (key, value) = entry
            .into_inner()
            .map_err(|error| ReadError::Unavailable(describe(&error)))?;
        let (partition, offset) = address(&key);
        let same_address = |last: &DeadLetter| (last.partition, last.offset) == (partition, offset);
        if dead_letters.len() >= limit && !dead_letters.last().is_some_and(same_address) {
            break;
        }
        let dead_letter = decode(&key, value.into()).map_err(|reason| ReadError::Corrupt {
            partition,
            offset,
            reason: format!("its dead letter: {reason}"),
        })?;
        if workspace.is_none_or(|workspace| *workspace == dead_letter.workspace_id) {
            dead_letters.push(dead_letter);
        }
    }
    Ok(dead_letters)
}

/// Removes dead letters of deleted workspaces, in one pass over all dead letters, however many workspaces there are.
pub(super) fn delete(shared: &OpenLog, deleted: &[DeletedDeadLetters]) -> Result<(), AppendError> {
    let unreadable = |error: &fjall::Error| AppendError::Unavailable(describe(error));
    let by_place: HashMap<(PartitionId, &WorkspaceId), Offset> = deleted
        .iter()
        .map(|of| ((of.partition, &of.workspace_id), of.below))
        .collect();
    let mut batch = shared.dir.database().batch();
    for entry in shared.dead_letters.iter() {
        let key = entry.key().map_err(|error| unreadable(&error))?;
        let (partition, offset) = address(&key);
        let id = key
            .get(ADDRESS_BYTES..)
            .and_then(|id| WorkspaceId::new(std::str::from_utf8(id).ok()?).ok());
        let below = id.and_then(|id| by_place.get(&(partition, &id)).copied());
        if below.is_some_and(|below| offset < below) {
            batch.remove(&shared.dead_letters, key);
        }
    }
    if batch.is_empty() {
        return Ok(());
    }
    shared.dir.commit_removal(batch).map_err(append_error)
}

fn address_key(partition: PartitionId, offset: Offset) -> [u8; ADDRESS_BYTES] {
    let [p0, p1, p2, p3] = partition.0.to_be_bytes();
    let [o0, o1, o2, o3, o4, o5, o6, o7] = offset.0.to_be_bytes();
    [p0, p1, p2, p3, o0, o1, o2, o3, o4, o5, o6, o7]
}

fn address(key: &[u8]) -> (PartitionId, Offset) {
    let (partition, offset) = key.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
    let offset = offset.first_chunk::<8>().unwrap_or(&[0; 8]);
    (
        PartitionId(u32::from_be_bytes(*partition)),
        Offset(u64::from_be_bytes(*offset)),
    )
}

fn encode(key: &[u8], dead_letter: &DeadLetter) -> Vec<u8> {
    Writer::default()
        .u64(dead_letter.skipped_at_ms)
        .block(dead_letter.topic.as_bytes())
        .block(dead_letter.workspace_id.as_str().as_bytes())
        .block(dead_letter.reason.as_bytes())
        .optional_block(dead_letter.key.as_deref())
        .optional_block(dead_letter.value.as_deref())
        .seal(key)
}

fn decode(key: &[u8], sealed: Bytes) -> Result<DeadLetter, Damage> {
    let (partition, offset) = address(key);
    let mut reader = Reader::open(key, sealed)?;
    Ok(DeadLetter {
        partition,
        offset,
        skipped_at_ms: reader.u64()?,
        topic: reader.text()?,
        workspace_id: WorkspaceId::new(&reader.text()?)
            .map_err(|_| "its workspace id is not valid")?,
        reason: reader.text()?,
        key: reader.optional_block()?,
        value: reader.optional_block()?,
    })
}
