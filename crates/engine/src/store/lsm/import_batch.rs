//! Changes that are imported into the database in one batch.

use super::cache::{CacheChange, CacheKey};
use super::layout::DAMAGED;
use super::{LsmStore, StoreError, layout, write_error};
use crate::disk::codec::Writer;
use crate::store::Deletion;
use fjall::{Keyspace, OwnedWriteBatch};
use std::collections::HashMap;
use workspace_lifecycle::PartitionId;
use workspace_status::WorkspaceId;

/// Changes to be written in one batch.
pub(super) struct ImportBatch<'a> {
    store: &'a LsmStore,
    partition: PartitionId,
    batch: OwnedWriteBatch,
    pub(super) bytes: usize,
    /// Whether it only removes: removals must succeed on a full disk.
    removes_only: bool,
    /// By key: whether the transition exists after the write.
    transitions: HashMap<Vec<u8>, bool>,
    /// Number of transitions of each workspace after the write.
    counts: HashMap<WorkspaceId, u64>,
    /// Partitions of workspaces after the write; `None` for removed ones.
    places: Vec<(WorkspaceId, Option<PartitionId>)>,
    /// Marks of deletions after the write; `None` for removed ones.
    deletions: Vec<(WorkspaceId, Option<Deletion>)>,
}

impl<'a> ImportBatch<'a> {
    pub(super) fn new(store: &'a LsmStore, partition: PartitionId) -> Self {
        Self {
            store,
            partition,
            batch: store.dir.database().batch(),
            bytes: 0,
            removes_only: true,
            transitions: HashMap::new(),
            counts: HashMap::new(),
            places: Vec::new(),
            deletions: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, change: &CacheChange) -> Result<(), StoreError> {
        let store = self.store;
        match change {
            CacheChange::Workspace(workspace) => {
                let about = layout::About {
                    workspace: workspace.clone(),
                    condition: layout::Condition::Whole,
                };
                self.places
                    .push((workspace.id.clone(), Some(self.partition)));
                let key = workspace.id.as_str().as_bytes().to_vec();
                self.put(&store.workspaces, key, about.encode());
            }
            CacheChange::Deleted(deletion) => {
                let id = deletion.id.clone();
                let key = layout::deletion_key(&id);
                self.put(&store.workspaces, key, layout::encode_deletion(deletion));
                self.deletions.push((id, Some(deletion.clone())));
            }
            CacheChange::Damaged(CacheKey::Deletion(id)) => {
                let key = layout::deletion_key(id);
                self.put(&store.workspaces, key, DAMAGED.to_vec());
                self.deletions.push((id.clone(), None));
            }
            CacheChange::Entry(id, entry) => {
                let key = layout::entry_key(id, &entry.kind, &entry.id);
                let value = layout::encode_entry(&key, entry);
                self.put(&store.entries, key, value);
            }
            CacheChange::Transition(record) => {
                let key = layout::history_key(&record.id, record.epoch, record.sequence);
                let value = layout::encode_history(&key, record);
                self.note_transition(&record.id, &key, true)?;
                self.put(&store.history.transitions, key, value);
            }
            CacheChange::Gone(key) => self.remove(key)?,
            CacheChange::Damaged(CacheKey::Workspace(id)) => {
                self.places.push((id.clone(), Some(self.partition)));
                let key = id.as_str().as_bytes().to_vec();
                self.put(&store.workspaces, key, DAMAGED.to_vec());
            }
            CacheChange::Damaged(CacheKey::Entry { id, kind, entity }) => {
                let key = layout::entry_key(id, kind, entity);
                self.put(&store.entries, key, DAMAGED.to_vec());
            }
            CacheChange::Damaged(CacheKey::Transition {
                id,
                epoch,
                sequence,
            }) => {
                let key = layout::history_key(id, *epoch, *sequence);
                self.note_transition(id, &key, true)?;
                self.put(&store.history.transitions, key, DAMAGED.to_vec());
            }
        }
        Ok(())
    }

    fn remove(&mut self, key: &CacheKey) -> Result<(), StoreError> {
        let store = self.store;
        match key {
            CacheKey::Workspace(id) => {
                self.places.push((id.clone(), None));
                self.take_away(&store.workspaces, id.as_str().as_bytes().to_vec());
            }
            CacheKey::Deletion(id) => {
                self.deletions.push((id.clone(), None));
                self.take_away(&store.workspaces, layout::deletion_key(id));
            }
            CacheKey::Entry { id, kind, entity } => {
                self.take_away(&store.entries, layout::entry_key(id, kind, entity));
            }
            CacheKey::Transition {
                id,
                epoch,
                sequence,
            } => {
                let key = layout::history_key(id, *epoch, *sequence);
                self.note_transition(id, &key, false)?;
                self.take_away(&store.history.transitions, key);
            }
        }
        Ok(())
    }

    /// Adds the position up to which the cache is complete; it is as small as a removal.
    pub(super) fn note(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.batch.insert(&self.store.committed, key, value);
    }

    fn put(&mut self, keyspace: &Keyspace, key: Vec<u8>, value: Vec<u8>) {
        self.removes_only = false;
        self.bytes += key.len() + value.len();
        self.batch.insert(keyspace, key, value);
    }

    fn take_away(&mut self, keyspace: &Keyspace, key: Vec<u8>) {
        self.bytes += key.len();
        self.batch.remove(keyspace, key);
    }

    /// Counts a transition that is added or removed.
    fn note_transition(
        &mut self,
        id: &WorkspaceId,
        key: &[u8],
        there: bool,
    ) -> Result<(), StoreError> {
        let store = self.store;
        let was_there = match self.transitions.insert(key.to_vec(), there) {
            Some(was_there) => was_there,
            None => store.history.contains(id, key)?,
        };
        if !self.counts.contains_key(id) {
            self.counts.insert(id.clone(), store.history.count(id)?);
        }
        if let Some(count) = self.counts.get_mut(id) {
            *count = (*count + u64::from(there)).saturating_sub(u64::from(was_there));
        }
        Ok(())
    }

    pub(super) fn write(mut self) -> Result<(), StoreError> {
        let store = self.store;
        for (id, count) in std::mem::take(&mut self.counts) {
            let key = id.as_str().as_bytes().to_vec();
            if count == 0 {
                self.take_away(&store.history.counts, key);
            } else {
                let value = Writer::default().u64(count).seal(&key);
                self.put(&store.history.counts, key, value);
            }
        }
        let written = if self.removes_only {
            store.dir.write_removal(self.batch, self.bytes)
        } else {
            store.dir.write(self.batch, self.bytes)
        };
        written.map_err(write_error)?;
        for (id, deletion) in self.deletions {
            let mut places = store.places.lock();
            match deletion {
                Some(deletion) => places.note_deletion(deletion),
                None => places.remove_deletion(&id),
            }
        }
        for (id, place) in self.places {
            if let Some(partition) = place {
                store.places.lock().put(&id, partition);
            } else {
                store.places.lock().remove(&id);
            }
        }
        Ok(())
    }
}
