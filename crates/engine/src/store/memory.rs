//! The memory store: for tests, and for engines that rebuild everything from the log.

use super::{
    CommitRefused, Deletion, EntrySink, Erasure, HistoryCursor, HistoryPart, HistoryPlace,
    HistoryRecord, Key, Locks, Mutation, StoreError, StoredEntry, StoredWorkspace, Table, history,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{Epoch, WorkspaceId};

/// Keeps workspaces in memory until it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore {
    contents: Mutex<Contents>,
    locks: Locks,
}

#[derive(Debug, Default)]
struct Contents {
    workspaces: BTreeMap<WorkspaceId, StoredWorkspace>,
    entries: HashMap<WorkspaceId, Entries>,
    history: HashMap<WorkspaceId, BTreeMap<HistoryPlace, HistoryPart>>,
    deletions: BTreeMap<WorkspaceId, Deletion>,
    committed: HashMap<PartitionId, Offset>,
}

type Entries = BTreeMap<(Arc<str>, Box<str>), StoredEntry>;

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Contents {
    fn apply(&mut self, mutation: Mutation) {
        match mutation {
            Mutation::Workspace(workspace) => {
                self.workspaces.insert(workspace.id.clone(), workspace);
            }
            Mutation::Deletion(deletion) => {
                self.deletions.insert(deletion.id.clone(), deletion);
            }
            Mutation::Entry(id, entry) => {
                let entries = self.entries.entry(id).or_default();
                entries.insert((entry.kind.clone(), entry.id.clone()), entry);
            }
            Mutation::History(part) => {
                let history = self.history.entry(part.id.clone()).or_default();
                history.insert(part.place(), part);
            }
            // Without the damaged value the number of entries is not the saved one.
            Mutation::Removed(key) | Mutation::Damaged(_, key) => self.remove(&key),
        }
    }

    fn remove(&mut self, key: &Key) {
        match key {
            Key::Workspace(id) => drop(self.workspaces.remove(id)),
            Key::Deletion(id) => drop(self.deletions.remove(id)),
            Key::Entry { id, kind, entity } => {
                if let Some(entries) = self.entries.get_mut(id) {
                    entries.remove(&(kind.clone(), entity.clone()));
                }
            }
            Key::History { id, place } => {
                if let Some(history) = self.history.get_mut(id) {
                    history.remove(place);
                }
            }
        }
    }
}

impl Table for MemoryStore {
    const IS_DURABLE: bool = false;

    fn locks(&self) -> &Locks {
        &self.locks
    }

    fn ids_of(&self, partition: PartitionId) -> Vec<WorkspaceId> {
        let contents = self.contents.lock();
        let workspaces = contents.workspaces.values();
        let of_partition = workspaces.filter(|workspace| workspace.partition == partition);
        of_partition.map(|workspace| workspace.id.clone()).collect()
    }

    fn stored(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        Ok(self.contents.lock().workspaces.get(id).cloned())
    }

    fn read(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<StoredWorkspace, StoreError> {
        // The entries are copied, so that a slow sink blocks no other caller; their data is shared.
        let (workspace, entries) = {
            let contents = self.contents.lock();
            let workspace = contents.workspaces.get(id).cloned();
            let workspace = workspace.ok_or_else(|| StoreError::UnknownWorkspace(id.clone()))?;
            let entries = contents.entries.get(id).cloned();
            (workspace, entries.unwrap_or_default())
        };
        super::check_entries(&workspace, super::count(entries.len()), || {
            format!("the entries of workspace {id}")
        })?;
        for ((kind, id), entry) in entries {
            sink(entry).map_err(|reason| super::refused(&kind, &id, reason))?;
        }
        Ok(workspace)
    }

    fn deletion(&self, id: &WorkspaceId) -> Option<Deletion> {
        self.contents.lock().deletions.get(id).cloned()
    }

    fn deletions_of(&self, partition: PartitionId) -> Vec<Deletion> {
        let contents = self.contents.lock();
        let deletions = contents.deletions.values();
        deletions
            .filter(|deletion| deletion.partition == partition)
            .cloned()
            .collect()
    }

    fn offset_of(&self, partition: PartitionId) -> Result<Offset, StoreError> {
        let contents = self.contents.lock();
        let committed = contents.committed.get(&partition);
        Ok(committed.copied().unwrap_or_default())
    }

    fn transitions(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        let contents = self.contents.lock();
        let mut page = history::Page::new(after, limit);
        for part in contents
            .history
            .get(id)
            .into_iter()
            .flat_map(BTreeMap::values)
        {
            page.add(part.clone());
        }
        Ok(page.records())
    }

    fn newest_epoch(&self, id: &WorkspaceId) -> Result<Option<Epoch>, StoreError> {
        let contents = self.contents.lock();
        let last = contents.history.get(id).and_then(BTreeMap::last_key_value);
        Ok(last.map(|(place, _)| place.epoch))
    }

    fn history_parts(&self, id: &WorkspaceId) -> Result<Vec<(HistoryPlace, usize)>, StoreError> {
        let contents = self.contents.lock();
        let parts = contents.history.get(id).into_iter().flatten();
        Ok(parts
            .map(|(place, part)| (*place, part.transitions.len()))
            .collect())
    }

    fn commit(
        &self,
        mutations: &[Mutation],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<CommitRefused>, StoreError> {
        let mut contents = self.contents.lock();
        for mutation in mutations {
            contents.apply(mutation.clone());
        }
        contents.committed.extend(committed.iter().copied());
        Ok(Vec::new())
    }

    fn erase(&self, erasure: &Erasure) -> Result<(), StoreError> {
        let id = erasure.workspace();
        let mut contents = self.contents.lock();
        contents.entries.remove(id);
        match erasure {
            Erasure::Reset(workspace) => contents.apply(Mutation::Workspace(workspace.clone())),
            Erasure::Delete(deletion) => {
                contents.workspaces.remove(id);
                contents.history.remove(id);
                contents.apply(Mutation::Deletion(deletion.clone()));
            }
            Erasure::Purge(_) => {
                contents.workspaces.remove(id);
                contents.history.remove(id);
                contents.deletions.remove(id);
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn fatal_error(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_store_does_what_every_store_must() {
        for (name, case) in crate::store::conformance::CASES {
            println!("{name}");
            case(&MemoryStore::new());
        }
    }
}
