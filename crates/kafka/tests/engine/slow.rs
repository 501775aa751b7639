//! A store whose loads take long.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use workspace_engine_core::store::{
    Claim, Deletion, EntrySink, Erase, HistoryCursor, HistoryRecord, Ownership, Save, SaveRefused,
    Store, StoreError, StoredWorkspace,
};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

use crate::node::Wrap;

/// How long a load takes: longer than the group waits for a member that does not poll.
const LOAD: Duration = Duration::from_secs(10);

/// A store with slow loads; everything else goes to the wrapped store.
struct Slow(Arc<dyn Store>, Arc<Gate>);

/// Holds back loads until it is open.
#[derive(Default)]
pub(crate) struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn open(&self) {
        *self.is_open.lock() = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        self.opened
            .wait_while(&mut self.is_open.lock(), |is_open| !*is_open);
    }
}

/// Wraps a store so that loads take [`LOAD`] and do not end before the gate is open.
pub(crate) fn slow(gate: &Arc<Gate>) -> Wrap {
    let gate = Arc::clone(gate);
    Arc::new(move |store| Arc::new(Slow(store, Arc::clone(&gate))))
}

impl Store for Slow {
    fn is_durable(&self) -> bool {
        self.0.is_durable()
    }

    fn ownership(&self) -> &dyn Ownership {
        self.0.ownership()
    }

    fn workspaces(&self, partition: PartitionId) -> Result<Vec<StoredWorkspace>, StoreError> {
        self.0.workspaces(partition)
    }

    fn workspace(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        self.0.workspace(id)
    }

    fn committed(&self, partition: PartitionId) -> Result<Offset, StoreError> {
        self.0.committed(partition)
    }

    fn claim(&self, claim: Claim) -> Result<StoredWorkspace, StoreError> {
        self.0.claim(claim)
    }

    fn load(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<StoredWorkspace, StoreError> {
        std::thread::sleep(LOAD);
        self.1.pass();
        self.0.load(id, sink)
    }

    fn save(
        &self,
        saves: &[Save],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<SaveRefused>, StoreError> {
        self.0.save(saves, committed)
    }

    fn reset(&self, erase: Erase) -> Result<StoredWorkspace, StoreError> {
        self.0.reset(erase)
    }

    fn delete(&self, erase: Erase) -> Result<Deletion, StoreError> {
        self.0.delete(erase)
    }

    fn deletions(&self, partition: PartitionId) -> Result<Vec<Deletion>, StoreError> {
        self.0.deletions(partition)
    }

    fn purge(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        self.0.purge(id)
    }

    fn append_history(&self, records: Vec<HistoryRecord>) -> Result<(), StoreError> {
        self.0.append_history(records)
    }

    fn history(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        self.0.history(id, after, limit)
    }

    fn needs_restart(&self) -> Option<String> {
        self.0.needs_restart()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.0.sync()
    }
}
