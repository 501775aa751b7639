//! The memory store: for tests, and for engines that rebuild everything from the log.

use super::{
    Change, Claim, Deletion, EntrySink, Erase, HistoryCursor, HistoryRecord,
    MAX_HISTORY_TRANSITIONS, Ownership, Save, SaveRefused, SoleOwner, Store, StoreError,
    StoredEntry, StoredWorkspace, fence,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

/// Keeps workspaces in memory until it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    workspaces: BTreeMap<WorkspaceId, Kept>,
    committed: HashMap<PartitionId, Offset>,
    history: HashMap<WorkspaceId, BTreeMap<HistoryCursor, HistoryRecord>>,
    deletions: BTreeMap<WorkspaceId, Deletion>,
}

#[derive(Debug)]
struct Kept {
    about: StoredWorkspace,
    entries: BTreeMap<(Arc<str>, Box<str>), StoredEntry>,
}

impl Inner {
    fn check_erasure(&self, erase: &Erase) -> Result<(), StoreError> {
        let stored = self.workspaces.get(&erase.id).map(|kept| &kept.about);
        fence::erasable(stored, self.deletions.get(&erase.id), erase)
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Store for MemoryStore {
    fn is_durable(&self) -> bool {
        false
    }

    fn ownership(&self) -> &dyn Ownership {
        &SoleOwner
    }

    fn workspaces(&self, partition: PartitionId) -> Result<Vec<StoredWorkspace>, StoreError> {
        let state = self.state.lock();
        let of_partition = state
            .workspaces
            .values()
            .filter(|kept| kept.about.partition == partition);
        Ok(of_partition.map(|kept| kept.about.clone()).collect())
    }

    fn workspace(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        Ok(self
            .state
            .lock()
            .workspaces
            .get(id)
            .map(|kept| kept.about.clone()))
    }

    fn committed(&self, partition: PartitionId) -> Result<Offset, StoreError> {
        Ok(self
            .state
            .lock()
            .committed
            .get(&partition)
            .copied()
            .unwrap_or_default())
    }

    fn claim(&self, claim: Claim) -> Result<StoredWorkspace, StoreError> {
        let mut state = self.state.lock();
        let stored = state
            .workspaces
            .get(&claim.id)
            .map(|kept| kept.about.clone());
        let about = fence::claimed(stored, state.deletions.get(&claim.id), claim)?;
        state
            .workspaces
            .entry(about.id.clone())
            .and_modify(|kept| kept.about = about.clone())
            .or_insert_with(|| Kept {
                about: about.clone(),
                entries: BTreeMap::new(),
            });
        Ok(about)
    }

    fn load(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<StoredWorkspace, StoreError> {
        // The entries are copied, so that a slow sink blocks no other caller; their data is shared.
        let (about, entries) = {
            let state = self.state.lock();
            let kept = state
                .workspaces
                .get(id)
                .ok_or_else(|| StoreError::UnknownWorkspace(id.clone()))?;
            (kept.about.clone(), kept.entries.clone())
        };
        super::check_entries(&about, super::count(entries.len()), || {
            format!("the entries of workspace {id}")
        })?;
        for ((kind, id), entry) in entries {
            sink(entry).map_err(|reason| super::refused(&kind, &id, reason))?;
        }
        Ok(about)
    }

    fn save(
        &self,
        saves: &[Save],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<SaveRefused>, StoreError> {
        let mut state = self.state.lock();
        let mut refused = Vec::new();
        for save in saves {
            let stored = state
                .workspaces
                .get(&save.id)
                .map(|kept| kept.about.clone());
            let about = match fence::saved(stored, save) {
                Ok(about) => about,
                Err(error) => {
                    let id = save.id.clone();
                    let epoch = save.epoch;
                    refused.push(SaveRefused { id, epoch, error });
                    continue;
                }
            };
            if let Some(kept) = state.workspaces.get_mut(&save.id) {
                for change in &save.changes {
                    match change {
                        Change::Set(entry) => {
                            let name = (Arc::clone(&entry.kind), entry.id.clone());
                            kept.entries.insert(name, entry.clone());
                        }
                        Change::Unset { kind, id } => {
                            kept.entries.remove(&(Arc::clone(kind), id.clone()));
                        }
                    }
                }
                kept.about = about;
            }
        }
        state.committed.extend(committed.iter().copied());
        Ok(refused)
    }

    fn reset(&self, erase: Erase) -> Result<StoredWorkspace, StoreError> {
        let mut state = self.state.lock();
        state.check_erasure(&erase)?;
        let about = fence::emptied(erase.clone(), None, state.deletions.get(&erase.id));
        let kept = Kept {
            about: about.clone(),
            entries: BTreeMap::new(),
        };
        state.workspaces.insert(about.id.clone(), kept);
        Ok(about)
    }

    fn delete(&self, erase: Erase) -> Result<Deletion, StoreError> {
        let mut state = self.state.lock();
        state.check_erasure(&erase)?;
        state.workspaces.remove(&erase.id);
        state.history.remove(&erase.id);
        let deletion = fence::deletion(erase, None);
        let id = deletion.id.clone();
        state.deletions.insert(id, deletion.clone());
        Ok(deletion)
    }

    fn deletions(&self, partition: PartitionId) -> Result<Vec<Deletion>, StoreError> {
        let state = self.state.lock();
        let of_partition = state.deletions.values();
        Ok(of_partition
            .filter(|deletion| deletion.partition == partition)
            .cloned()
            .collect())
    }

    fn purge(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        state.workspaces.remove(id);
        state.history.remove(id);
        state.deletions.remove(id);
        Ok(())
    }

    fn append_history(&self, records: Vec<HistoryRecord>) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        for record in records {
            let deletion = state.deletions.get(&record.id);
            if deletion.is_some_and(|deletion| record.epoch <= deletion.epoch) {
                continue;
            }
            let history = state.history.entry(record.id.clone()).or_default();
            history
                .entry((record.epoch, record.sequence))
                .or_insert(record);
            while history.len() > MAX_HISTORY_TRANSITIONS {
                history.pop_first();
            }
        }
        Ok(())
    }

    fn history(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        let state = self.state.lock();
        let Some(history) = state.history.get(id) else {
            return Ok(Vec::new());
        };
        let behind = history
            .iter()
            .filter(|(cursor, _)| after.is_none_or(|after| **cursor > after));
        Ok(behind
            .take(limit)
            .map(|(_, record)| record.clone())
            .collect())
    }

    fn needs_restart(&self) -> Option<String> {
        None
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
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
