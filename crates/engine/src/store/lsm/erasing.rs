//! Erases workspaces: first the decision is written durably, then the data is removed in batches that a full disk has
//! room for.

use super::layout::{self, Condition};
use super::{LsmStore, StoreError, place_of, read_error, write_error};
use crate::store::{Erasure, Mutation, StoredWorkspace};
use fjall::Keyspace;
use workspace_lifecycle::PartitionId;
use workspace_status::WorkspaceId;

/// Most entries removed in one batch; few enough for the space left on a full disk.
const REMOVALS_A_BATCH: usize = 2_000;

impl LsmStore {
    pub(super) fn erase_workspace(&self, erasure: &Erasure) -> Result<(), StoreError> {
        let mut batch = self.dir.database().batch();
        let id = erasure.workspace();
        let (condition, workspace) = match erasure {
            Erasure::Reset(workspace) => (Condition::Resetting, workspace.clone()),
            Erasure::Delete(deletion) => {
                let value = layout::encode_deletion(deletion);
                batch.insert(&self.workspaces, layout::deletion_key(id), value);
                let workspace = StoredWorkspace::unknown(id.clone(), deletion.partition);
                (Condition::Deleting, workspace)
            }
            Erasure::Purge(_) => {
                let workspace = StoredWorkspace::unknown(id.clone(), PartitionId::default());
                (Condition::Deleting, workspace)
            }
        };
        // Recorded first: a workspace with only some of its entries must never be loaded. From here on it is erased,
        // whatever happens.
        let value = layout::encode_workspace(&workspace, condition);
        let bytes = value.len();
        batch.insert(&self.workspaces, id.as_str(), value);
        match erasure {
            Erasure::Reset(_) | Erasure::Delete(_) => self.dir.commit_removal(batch),
            Erasure::Purge(_) => self.dir.write_removal(batch, bytes),
        }
        .map_err(write_error)?;
        {
            let mut index = self.index.lock();
            index.read(condition, &workspace);
            if let Erasure::Delete(deletion) = erasure {
                index.note_deletion(deletion.clone());
            }
        }
        self.finish(condition, &workspace)?;
        match erasure {
            Erasure::Reset(_) | Erasure::Delete(_) => Ok(()),
            Erasure::Purge(_) => self.remove_deletion(id),
        }
    }

    /// Finishes erasures that were interrupted, so that nothing new is mixed with what they leave.
    pub(super) fn finish_erasures_of(&self, mutations: &[Mutation]) -> Result<(), StoreError> {
        let interrupted = self.index.lock().interrupted_among(mutations);
        for id in interrupted {
            if let Some((condition, workspace)) = self.record(&id)? {
                self.finish(condition, &workspace)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(
        &self,
        condition: Condition,
        workspace: &StoredWorkspace,
    ) -> Result<(), StoreError> {
        let id = &workspace.id;
        match condition {
            Condition::Whole => return Ok(()),
            Condition::Deleting => self.remove(id)?,
            Condition::Resetting => {
                self.remove_below(&self.entries, id)?;
                let mut batch = self.dir.database().batch();
                let value = layout::encode_workspace(workspace, Condition::Whole);
                let bytes = value.len();
                batch.insert(&self.workspaces, id.as_str(), value);
                self.dir.write_removal(batch, bytes).map_err(write_error)?;
            }
        }
        self.index.lock().finished(id);
        Ok(())
    }

    /// Removes everything of a workspace except its deletion mark; its record is removed last.
    pub(super) fn remove(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        for keyspace in [&self.entries, &self.history.parts] {
            self.remove_below(keyspace, id)?;
        }
        self.remove_key(id.as_str().into())
    }

    pub(super) fn remove_deletion(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        self.remove_key(layout::deletion_key(id))?;
        self.index.lock().remove_deletion(id);
        Ok(())
    }

    /// Removes a key from the keyspace of the workspaces.
    fn remove_key(&self, key: Vec<u8>) -> Result<(), StoreError> {
        let bytes = key.len();
        let mut batch = self.dir.database().batch();
        batch.remove(&self.workspaces, key);
        self.dir.write_removal(batch, bytes).map_err(write_error)
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
}
