//! The LSM store: workspaces in the database of the data directory, beside the log.
//!
//! A save is written in batches of a few workspaces each. It survives a crash of the process at once, and a crash of
//! the machine after [`Table::flush`].

mod batch;
mod copy;
mod erasing;
mod history;
mod layout;
mod partition_index;

pub use copy::CopyPosition;
pub(super) use layout::DAMAGED_AT_SOURCE;

use super::{
    CommitRefused, Deletion, EntrySink, Erasure, HistoryCursor, HistoryPlace, HistoryRecord, Locks,
    Mutation, StoreError, StoredWorkspace, Table,
};
use crate::disk::codec::{Reader, Writer};
use crate::disk::{DataDir, DiskError, WriteError, describe, is_damage};
use bytes::Bytes;
use fjall::{Keyspace, KeyspaceCreateOptions, Readable};
use history::History;
use layout::Condition;
use parking_lot::Mutex;
use partition_index::PartitionIndex;
use std::sync::Arc;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{Epoch, WorkspaceId};

/// A store in a data directory.
pub struct LsmStore {
    dir: DataDir,
    entries: Keyspace,
    workspaces: Keyspace,
    committed: Keyspace,
    history: History,
    index: Mutex<PartitionIndex>,
    locks: Locks,
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
            index: Mutex::default(),
            locks: Locks::default(),
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

    /// The record of a workspace, also of one that is being erased.
    fn record(&self, id: &WorkspaceId) -> Result<Option<(Condition, StoredWorkspace)>, StoreError> {
        let key = id.as_str().as_bytes();
        let value = self
            .workspaces
            .get(key)
            .map_err(|error| read_error(&place_of(id), &error))?;
        let Some(value) = value else { return Ok(None) };
        layout::decode_workspace(key, value.into())
            .map(Some)
            .map_err(|damage| corrupt(place_of(id), damage))
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
            match layout::decode_workspace(&key, value.into()) {
                Ok((condition, workspace)) => {
                    let id = workspace.id.clone();
                    self.index.lock().read(condition, &workspace);
                    // Its record hides the remaining data, and a new claim retries.
                    if let Err(error) = self.finish(condition, &workspace) {
                        tracing::error!(workspace = %id, %error, "an erasure cannot be finished");
                    }
                }
                // The damage is reported when the workspace is queried; the key still identifies it.
                Err(damage) => {
                    tracing::error!(workspace = %key.escape_ascii(), %damage, "what the store knows of a workspace is damaged");
                    if let Some(id) = layout::id_of(&key) {
                        let partition = self.home_of(&id, self.dir.partitions());
                        self.index.lock().put(&id, partition);
                    }
                }
            }
        }
        Ok(())
    }

    fn read_deletion(&self, id: &[u8], value: Bytes) {
        let Some(id) = layout::id_of(id) else { return };
        match layout::decode_deletion(id.clone(), value) {
            Ok(deletion) => self.index.lock().note_deletion(deletion),
            Err(damage) => {
                tracing::error!(workspace = %id, %damage, "the deletion mark is damaged: events that were deleted may be applied again where the log still has them");
            }
        }
    }
}

impl Table for LsmStore {
    const IS_DURABLE: bool = true;

    fn locks(&self) -> &Locks {
        &self.locks
    }

    fn ids_of(&self, partition: PartitionId) -> Vec<WorkspaceId> {
        self.index.lock().of(partition)
    }

    fn stored(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        let record = self.record(id)?;
        Ok(record.and_then(|(condition, workspace)| condition.is_there().then_some(workspace)))
    }

    fn read(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<StoredWorkspace, StoreError> {
        // The workspace and its entries as of one moment, even if it is saved meanwhile.
        let snapshot = self.dir.database().snapshot();
        let place = place_of(id);
        let key = id.as_str().as_bytes();
        let value = snapshot
            .get(&self.workspaces, key)
            .map_err(|error| read_error(&place, &error))?;
        let value = value.ok_or_else(|| StoreError::UnknownWorkspace(id.clone()))?;
        let (condition, workspace) =
            layout::decode_workspace(key, value.into()).map_err(|damage| corrupt(place, damage))?;
        if !condition.is_there() {
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
        super::check_entries(&workspace, entries, || {
            format!("the entries of workspace {id}")
        })?;
        Ok(workspace)
    }

    fn deletion(&self, id: &WorkspaceId) -> Option<Deletion> {
        self.index.lock().deletion(id)
    }

    fn deletions_of(&self, partition: PartitionId) -> Vec<Deletion> {
        self.index.lock().deletions_of(partition)
    }

    fn offset_of(&self, partition: PartitionId) -> Result<Offset, StoreError> {
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

    fn transitions(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        self.history.read(id, after, limit)
    }

    fn newest_epoch(&self, id: &WorkspaceId) -> Result<Option<Epoch>, StoreError> {
        self.history.newest_epoch(id)
    }

    fn history_parts(&self, id: &WorkspaceId) -> Result<Vec<(HistoryPlace, usize)>, StoreError> {
        self.history.parts(id)
    }

    fn commit(
        &self,
        mutations: &[Mutation],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<CommitRefused>, StoreError> {
        let committed = committed.iter().map(|(partition, offset)| {
            let key = partition.0.to_be_bytes().to_vec();
            let value = Writer::default().u64(offset.0).seal(&key);
            (key, value)
        });
        self.write(mutations, committed).map(|()| Vec::new())
    }

    fn erase(&self, erasure: &Erasure) -> Result<(), StoreError> {
        self.erase_workspace(erasure)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.dir
            .commit_removal(self.dir.database().batch())
            .map_err(write_error)
    }

    fn fatal_error(&self) -> Option<String> {
        self.dir.fatal_error().map(str::to_owned)
    }
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
