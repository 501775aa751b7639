//! The LSM store: workspaces in the database of the data directory, beside the log.
//!
//! A save is written in batches of a few workspaces each. It survives a crash of the process at once, and a crash of
//! the machine after [`Store::sync`].

mod history;
mod layout;
mod places;

mod cache;
mod import;
mod import_batch;

pub use cache::{CacheChange, CacheKey, CachePlace};
pub(super) use layout::DAMAGED_AT_SOURCE;

use super::{
    Change, Claim, Deletion, EntrySink, Erase, HistoryCursor, HistoryRecord, Ownership, Save,
    SaveRefused, SoleOwner, Store, StoreError, StoredWorkspace, fence,
};
use crate::disk::codec::{Reader, Writer};
use crate::disk::{DataDir, DiskError, WriteError, describe, is_damage};
use bytes::Bytes;
use fjall::{Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, Readable};
use history::History;
use layout::{About, Condition, MAX_KEY_BYTES};
use parking_lot::{Mutex, MutexGuard};
use places::Places;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{Epoch, WorkspaceId};

/// Workspaces share this many locks: two that share one are saved one after the other.
const LOCKS: usize = 4096;

/// A save is written in batches of about this size, so that claims of other loads are written in between.
const PIECE_BYTES: usize = 512 * 1024;

/// Most entries removed in one batch when a workspace is erased; few enough for the space left on a full disk.
const REMOVALS_A_BATCH: usize = 2_000;

/// A store in a data directory.
pub struct LsmStore {
    dir: DataDir,
    entries: Keyspace,
    workspaces: Keyspace,
    committed: Keyspace,
    history: History,
    places: Mutex<Places>,
    locks: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl std::fmt::Debug for LsmStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LsmStore")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl LsmStore {
    /// Opens the store of a data directory.
    ///
    /// # Errors
    /// [`DiskError`] when the database cannot be read.
    pub fn open(dir: &DataDir) -> Result<Self, DiskError> {
        let plain = KeyspaceCreateOptions::default;
        let points = || plain().expect_point_read_hits(true);
        let entries =
            || plain().data_block_size_policy(fjall::config::BlockSizePolicy::all(16 * 1024));
        let store = Self {
            dir: dir.clone(),
            entries: dir.keyspace("store-entries", entries)?,
            workspaces: dir.keyspace("store-workspaces", points)?,
            committed: dir.keyspace("store-committed", plain)?,
            history: History::open(dir)?,
            places: Mutex::default(),
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            hasher: RandomState::new(),
        };
        store.read_places().map_err(|error| {
            let text = error.to_string();
            if matches!(error, StoreError::Corrupt { .. }) {
                dir.damaged(text)
            } else {
                dir.unreadable(text)
            }
        })?;
        Ok(store)
    }

    /// Path of its data directory.
    pub fn directory(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Locks the workspaces of one call, in the same order for all callers.
    fn lock<'a>(&self, ids: impl Iterator<Item = &'a WorkspaceId>) -> Vec<MutexGuard<'_, ()>> {
        let count = u64::try_from(LOCKS).unwrap_or(1);
        let places: BTreeSet<u64> = ids.map(|id| self.hasher.hash_one(id) % count).collect();
        let locks = places
            .into_iter()
            .filter_map(|place| self.locks.get(usize::try_from(place).ok()?));
        locks.map(Mutex::lock).collect()
    }

    fn about(&self, id: &WorkspaceId) -> Result<Option<About>, StoreError> {
        let key = id.as_str().as_bytes();
        let value = self
            .workspaces
            .get(key)
            .map_err(|error| read_error(&place_of(id), &error))?;
        let Some(value) = value else { return Ok(None) };
        About::decode(key, value.into())
            .map(Some)
            .map_err(|damage| corrupt(place_of(id), damage))
    }

    /// The stored workspace, unless it is being deleted.
    fn known(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        Ok(self
            .about(id)?
            .filter(|about| about.condition != Condition::Deleting)
            .map(|about| about.workspace))
    }

    /// The stored workspace, after finishing an interrupted erasure of it.
    fn settled(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        match self.about(id)? {
            Some(about) => self.finish(about),
            None => Ok(None),
        }
    }

    /// Finishes an erasure that was interrupted.
    fn finish(&self, about: About) -> Result<Option<StoredWorkspace>, StoreError> {
        match about.condition {
            Condition::Whole => Ok(Some(about.workspace)),
            Condition::Deleting => {
                self.remove(&about.workspace.id)?;
                Ok(None)
            }
            Condition::Resetting => {
                self.remove_below(&self.entries, &about.workspace.id)?;
                let whole = About {
                    condition: Condition::Whole,
                    ..about
                };
                let mut batch = self.dir.database().batch();
                let value = whole.encode();
                let bytes = value.len();
                batch.insert(&self.workspaces, whole.workspace.id.as_str(), value);
                self.dir.write_removal(batch, bytes).map_err(write_error)?;
                Ok(Some(whole.workspace))
            }
        }
    }

    /// Checks that no newer load forbids an erasure. If the record of the workspace cannot be read, returns the last
    /// epoch of its history.
    fn check_erasure(&self, erase: &Erase) -> Result<Option<Epoch>, StoreError> {
        let (stored, newest) = match self.known(&erase.id) {
            Ok(stored) => (stored, None),
            // An erasure is the way out of damage.
            Err(StoreError::Corrupt { .. }) => (None, self.history.newest_epoch(&erase.id)),
            Err(error) => return Err(error),
        };
        let deletion = self.places.lock().deletion(&erase.id);
        fence::erasable(stored.as_ref(), deletion.as_ref(), erase)?;
        Ok(newest)
    }

    /// Reads the partition of every workspace, and finishes interrupted erasures.
    fn read_places(&self) -> Result<(), StoreError> {
        for entry in self.workspaces.iter() {
            let (key, value) = entry
                .into_inner()
                .map_err(|error| read_error("the list of workspaces", &error))?;
            if let Some(id) = layout::deleted_workspace(&key) {
                self.read_deletion(id, value.into());
                continue;
            }
            match About::decode(&key, value.into()) {
                Ok(about) => {
                    let id = about.workspace.id.clone();
                    if about.condition != Condition::Deleting {
                        self.places.lock().put(&id, about.workspace.partition);
                    }
                    // Its record hides the remaining data, and a new claim retries.
                    if let Err(error) = self.finish(about) {
                        tracing::error!(workspace = %id, %error, "an erasure cannot be finished");
                    }
                }
                // The damage is reported when the workspace is queried; the key still identifies it.
                Err(damage) => {
                    tracing::error!(workspace = %key.escape_ascii(), %damage, "what the store knows of a workspace is damaged");
                    let id = std::str::from_utf8(&key).ok();
                    if let Some(id) = id.and_then(|id| WorkspaceId::new(id).ok()) {
                        let partition = self
                            .dir
                            .partitioner()
                            .partition_of(&id, self.dir.partitions());
                        self.places.lock().put(&id, partition);
                    }
                }
            }
        }
        Ok(())
    }

    fn read_deletion(&self, id: &[u8], value: Bytes) {
        let id = std::str::from_utf8(id).ok();
        let Some(id) = id.and_then(|id| WorkspaceId::new(id).ok()) else {
            return;
        };
        match layout::decode_deletion(id.clone(), value) {
            Ok(deletion) => self.places.lock().note_deletion(deletion),
            Err(damage) => {
                tracing::error!(workspace = %id, %damage, "the mark of a deletion is damaged: events that were deleted may be applied again where the log still has them");
            }
        }
    }

    /// Filters out transitions of loads before a deletion.
    fn not_deleted(&self, mut records: Vec<HistoryRecord>) -> Vec<HistoryRecord> {
        let places = self.places.lock();
        records.retain(|record| {
            let deletion = places.deletion(&record.id);
            deletion.is_none_or(|deletion| record.epoch > deletion.epoch)
        });
        records
    }

    /// Removes every key of a keyspace that begins with the prefix of a workspace.
    fn remove_below(&self, keyspace: &Keyspace, id: &WorkspaceId) -> Result<(), StoreError> {
        let prefix = layout::workspace_prefix(id);
        loop {
            let mut batch = self.dir.database().batch();
            let mut bytes = 0;
            for entry in keyspace.prefix(&prefix).take(REMOVALS_A_BATCH) {
                let key = entry
                    .key()
                    .map_err(|error| read_error(&place_of(id), &error))?;
                bytes += key.len();
                batch.remove(keyspace, key);
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.dir.write_removal(batch, bytes).map_err(write_error)?;
        }
    }

    /// Removes everything of a workspace except the mark of its deletion; its record is removed last.
    fn remove(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        for keyspace in [&self.entries, &self.history.transitions] {
            self.remove_below(keyspace, id)?;
        }
        let mut batch = self.dir.database().batch();
        batch.remove(&self.history.counts, id.as_str());
        batch.remove(&self.workspaces, id.as_str());
        self.dir
            .write_removal(batch, id.as_str().len())
            .map_err(write_error)
    }

    /// Removes everything of a workspace, and the mark of its deletion.
    fn remove_all(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        self.remove(id)?;
        let mut batch = self.dir.database().batch();
        let key = layout::deletion_key(id);
        let bytes = key.len();
        batch.remove(&self.workspaces, key);
        self.dir.write_removal(batch, bytes).map_err(write_error)?;
        self.places.lock().remove_deletion(id);
        Ok(())
    }
}

impl Store for LsmStore {
    fn is_durable(&self) -> bool {
        true
    }

    fn ownership(&self) -> &dyn Ownership {
        &SoleOwner
    }

    fn workspaces(&self, partition: PartitionId) -> Result<Vec<StoredWorkspace>, StoreError> {
        let listed = self.places.lock().of(partition);
        let mut found = Vec::with_capacity(listed.len());
        for id in listed {
            match self.known(&id) {
                Ok(workspace) => found.extend(workspace),
                Err(error @ (StoreError::NoSpace(_) | StoreError::Unavailable(_))) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::error!(workspace = %id, %error, "a workspace in the store is damaged");
                    found.push(super::damaged(id, partition));
                }
            }
        }
        Ok(found)
    }

    fn workspace(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        self.known(id)
    }

    fn committed(&self, partition: PartitionId) -> Result<Offset, StoreError> {
        let key = partition.0.to_be_bytes();
        let place = format!("the committed offset of partition {partition}");
        let value = self
            .committed
            .get(key)
            .map_err(|error| read_error(&place, &error))?;
        let Some(value) = value else {
            return Ok(Offset::ZERO);
        };
        let offset = Reader::open(&key, value.into()).and_then(|mut reader| reader.u64());
        offset.map(Offset).map_err(|damage| corrupt(place, damage))
    }

    fn claim(&self, claim: Claim) -> Result<StoredWorkspace, StoreError> {
        let _locks = self.lock(std::iter::once(&claim.id));
        let stored = self.settled(&claim.id)?;
        let deletion = self.places.lock().deletion(&claim.id);
        let workspace = fence::claimed(stored, deletion.as_ref(), claim)?;
        let about = About {
            workspace,
            condition: Condition::Whole,
        };
        let mut batch = self.dir.database().batch();
        let value = about.encode();
        let bytes = value.len();
        batch.insert(&self.workspaces, about.workspace.id.as_str(), value);
        self.dir.write(batch, bytes).map_err(write_error)?;
        let workspace = about.workspace;
        self.places.lock().put(&workspace.id, workspace.partition);
        Ok(workspace)
    }

    fn load(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<StoredWorkspace, StoreError> {
        // The workspace and its entries as of one moment, even if it is saved meanwhile.
        let snapshot = self.dir.database().snapshot();
        let place = place_of(id);
        let key = id.as_str().as_bytes();
        let value = snapshot
            .get(&self.workspaces, key)
            .map_err(|error| read_error(&place, &error))?;
        let value = value.ok_or_else(|| StoreError::UnknownWorkspace(id.clone()))?;
        let about = About::decode(key, value.into()).map_err(|damage| corrupt(place, damage))?;
        if about.condition == Condition::Deleting {
            return Err(StoreError::UnknownWorkspace(id.clone()));
        }
        let prefix = layout::workspace_prefix(id);
        let mut entries = 0;
        let mut kind = Arc::default();
        for entry in snapshot.prefix(&self.entries, &prefix) {
            let (key, value) = entry
                .into_inner()
                .map_err(|error| read_error(&entries_of(id, entries), &error))?;
            let entry = layout::decode_entry(&key, prefix.len(), value.into(), &mut kind)
                .map_err(|damage| corrupt(entry_place(id, &key, prefix.len()), damage))?;
            sink(entry).map_err(|reason| {
                let (kind, id) = layout::entry_name(key.get(prefix.len()..).unwrap_or_default())
                    .unwrap_or_default();
                super::refused(&kind, id, reason)
            })?;
            entries += 1;
        }
        super::check_entries(&about.workspace, entries, || {
            format!("the entries of workspace {id}")
        })?;
        Ok(about.workspace)
    }

    fn save(
        &self,
        saves: &[Save],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<SaveRefused>, StoreError> {
        let _locks = self.lock(saves.iter().map(|save| &save.id));
        let mut draft = Draft::new(self);
        let mut refused = Vec::new();
        for save in saves {
            match draft.take(save) {
                Ok(()) => {}
                Err(error @ (StoreError::NoSpace(_) | StoreError::Unavailable(_))) => {
                    return Err(error);
                }
                Err(error) => refused.push(SaveRefused {
                    id: save.id.clone(),
                    epoch: save.epoch,
                    error,
                }),
            }
            if draft.bytes >= PIECE_BYTES {
                std::mem::replace(&mut draft, Draft::new(self)).write()?;
            }
        }
        for (partition, offset) in committed {
            let key = partition.0.to_be_bytes();
            let value = Writer::default().u64(offset.0).seal(&key);
            draft.batch.insert(&self.committed, key, value);
        }
        draft.write()?;
        Ok(refused)
    }

    fn reset(&self, erase: Erase) -> Result<StoredWorkspace, StoreError> {
        let _locks = self.lock(std::iter::once(&erase.id));
        let newest = self.check_erasure(&erase)?;
        let deletion = self.places.lock().deletion(&erase.id);
        let about = About {
            workspace: fence::emptied(erase, newest, deletion.as_ref()),
            condition: Condition::Resetting,
        };
        // Recorded first: a workspace with only some of its entries must never be loaded. From here on it is reset,
        // whatever happens.
        let mut batch = self.dir.database().batch();
        let id = about.workspace.id.clone();
        batch.insert(&self.workspaces, id.as_str(), about.encode());
        self.dir.commit_removal(batch).map_err(write_error)?;
        self.places.lock().put(&id, about.workspace.partition);
        let workspace = about.workspace.clone();
        self.finish(about)?;
        Ok(workspace)
    }

    fn delete(&self, erase: Erase) -> Result<Deletion, StoreError> {
        let _locks = self.lock(std::iter::once(&erase.id));
        let newest = self.check_erasure(&erase)?;
        let about = About {
            workspace: fence::emptied(erase.clone(), newest, None),
            condition: Condition::Deleting,
        };
        let deletion = fence::deletion(erase, newest);
        let id = deletion.id.clone();
        // Both in one batch: from here on it is deleted, whatever happens.
        let mut batch = self.dir.database().batch();
        batch.insert(&self.workspaces, id.as_str(), about.encode());
        let mark = layout::encode_deletion(&deletion);
        batch.insert(&self.workspaces, layout::deletion_key(&id), mark);
        self.dir.commit_removal(batch).map_err(write_error)?;
        {
            let mut places = self.places.lock();
            places.remove(&id);
            places.note_deletion(deletion.clone());
        }
        self.history.forget(&id);
        self.remove(&id)?;
        Ok(deletion)
    }

    fn deletions(&self, partition: PartitionId) -> Result<Vec<Deletion>, StoreError> {
        Ok(self.places.lock().deletions_of(partition))
    }

    fn purge(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        let _locks = self.lock(std::iter::once(id));
        // Recorded first, as in `delete`.
        match self.about(id) {
            Ok(Some(about)) => {
                let about = About {
                    condition: Condition::Deleting,
                    ..about
                };
                let mut batch = self.dir.database().batch();
                let value = about.encode();
                let bytes = value.len();
                batch.insert(&self.workspaces, id.as_str(), value);
                self.dir.write_removal(batch, bytes).map_err(write_error)?;
            }
            Ok(None) | Err(StoreError::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
        self.places.lock().remove(id);
        self.history.forget(id);
        self.remove_all(id)
    }

    fn append_history(&self, records: Vec<HistoryRecord>) -> Result<(), StoreError> {
        let _locks = self.lock(records.iter().map(|record| &record.id));
        let records = self.not_deleted(records);
        self.history.append(&self.dir, &records)
    }

    fn history(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        self.history.read(id, after, limit)
    }

    fn needs_restart(&self) -> Option<String> {
        self.dir.fatal_error().map(str::to_owned)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.dir
            .commit_removal(self.dir.database().batch())
            .map_err(write_error)
    }
}

/// A part of a save: some of its workspaces, each complete.
struct Draft<'a> {
    store: &'a LsmStore,
    batch: OwnedWriteBatch,
    bytes: usize,
}

impl<'a> Draft<'a> {
    fn new(store: &'a LsmStore) -> Self {
        Self {
            store,
            batch: store.dir.database().batch(),
            bytes: 0,
        }
    }

    fn write(self) -> Result<(), StoreError> {
        self.store
            .dir
            .write(self.batch, self.bytes)
            .map_err(write_error)
    }

    /// Adds the save of a workspace, completely or not at all.
    fn take(&mut self, save: &Save) -> Result<(), StoreError> {
        let store = self.store;
        let workspace = fence::saved(store.known(&save.id)?, save)?;
        let changes = keyed(&save.id, &save.changes)?;
        // Nothing can refuse it any more: from here on it is in the batch completely.
        for (key, change) in changes {
            self.bytes += key.len();
            match change {
                Change::Set(entry) => {
                    let value = layout::encode_entry(&key, entry);
                    self.bytes += value.len();
                    self.batch.insert(&store.entries, key, value);
                }
                // Even if it does not exist: checking that would take a read for each change.
                Change::Unset { .. } => self.batch.remove(&store.entries, key),
            }
        }
        let about = About {
            workspace,
            condition: Condition::Whole,
        };
        let value = about.encode();
        self.bytes += value.len();
        self.batch
            .insert(&store.workspaces, save.id.as_str(), value);
        Ok(())
    }
}

/// Changes ordered by key; of several changes of one entry, only the last.
fn keyed<'a>(
    id: &WorkspaceId,
    changes: &'a [Change],
) -> Result<Vec<(Vec<u8>, &'a Change)>, StoreError> {
    let mut keyed = Vec::with_capacity(changes.len());
    for change in changes {
        let (kind, entity) = match change {
            Change::Set(entry) => (&entry.kind, &entry.id),
            Change::Unset { kind, id } => (kind, id),
        };
        let key = layout::entry_key(id, kind, entity);
        if key.len() > MAX_KEY_BYTES {
            return Err(StoreError::Refused {
                kind: kind.chars().take(64).collect(),
                id: entity.chars().take(64).collect(),
                reason: format!(
                    "workspace, kind and id together have {} bytes, more than {MAX_KEY_BYTES}",
                    key.len()
                ),
            });
        }
        keyed.push((key, change));
    }
    // A stable sort, so that the last of equal keys is the latest; sorted keys also make the batch faster.
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    keyed.reverse();
    keyed.dedup_by(|(later, _), (kept, _)| later == kept);
    keyed.reverse();
    Ok(keyed)
}

fn place_of(id: &WorkspaceId) -> String {
    format!("the store's entry of workspace {id}")
}

fn entries_of(id: &WorkspaceId, entries: u64) -> String {
    format!("entry {} of workspace {id}", entries + 1)
}

fn entry_place(id: &WorkspaceId, key: &[u8], prefix_bytes: usize) -> String {
    let name = key.get(prefix_bytes..).unwrap_or_default();
    let name: Vec<_> = name
        .split(|byte| *byte == 0)
        .map(|part| part.escape_ascii().to_string())
        .collect();
    format!("entry {} of workspace {id}", name.join("/"))
}

fn corrupt(place: String, damage: &str) -> StoreError {
    StoreError::Corrupt {
        place,
        reason: damage.to_owned(),
    }
}

fn read_error(place: &str, error: &fjall::Error) -> StoreError {
    if is_damage(error) {
        return StoreError::Corrupt {
            place: place.to_owned(),
            reason: describe(error),
        };
    }
    StoreError::Unavailable(describe(error))
}

fn write_error(error: WriteError) -> StoreError {
    match error {
        WriteError::NoSpace(text) => StoreError::NoSpace(text),
        broken @ WriteError::Broken(_) => StoreError::Unavailable(broken.to_string()),
    }
}

#[cfg(test)]
mod tests;
