//! A store whose requests fail, panic or hang as a test demands.

use std::sync::Arc;

use parking_lot::Mutex;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{Epoch, WorkspaceId};

use crate::store::{
    Claim, Deletion, EntrySink, Erase, HistoryCursor, HistoryRecord, Opening, Ownership, Save,
    SaveRefused, Store, StoreError, StoredWorkspace,
};

/// A request that may fail.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// Whether saves of a partition are accepted now.
    TakesSaves(PartitionId),
    /// A claim.
    Claim(&'a Claim),
    /// A save as a whole.
    Saves(&'a [Save]),
    /// One workspace of a save: an error refuses it alone.
    Save(&'a Save),
    /// An append to the history as a whole.
    History(&'a [HistoryRecord]),
    /// One transition of an append: an error refuses it, and is the error of the append.
    Transition(&'a HistoryRecord, &'a [HistoryRecord]),
}

type Fault = dyn Fn(Request<'_>) -> Result<(), StoreError> + Send + Sync;

/// Passes requests to another store, unless the fault returns an error.
pub struct FaultyStore<S> {
    inner: S,
    fault: Mutex<Arc<Fault>>,
}

impl<S: Store> FaultyStore<S> {
    /// Without a fault.
    pub fn new(inner: S) -> Self {
        let fault: Arc<Fault> = Arc::new(|_| Ok(()));
        Self {
            inner,
            fault: Mutex::new(fault),
        }
    }

    /// Calls `fault` for each request from now on. It may also panic or block.
    pub fn fail(
        &self,
        fault: impl Fn(Request<'_>) -> Result<(), StoreError> + Send + Sync + 'static,
    ) {
        *self.fault.lock() = Arc::new(fault);
    }

    /// Every request succeeds from now on.
    pub fn recover(&self) {
        self.fail(|_| Ok(()));
    }

    fn check(&self, request: Request<'_>) -> Result<(), StoreError> {
        let fault = Arc::clone(&*self.fault.lock());
        fault(request)
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn is_durable(&self) -> bool {
        true
    }

    fn ownership(&self) -> &dyn Ownership {
        self
    }

    fn workspaces(&self, partition: PartitionId) -> Result<Vec<StoredWorkspace>, StoreError> {
        self.inner.workspaces(partition)
    }

    fn workspace(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        self.inner.workspace(id)
    }

    fn committed(&self, partition: PartitionId) -> Result<Offset, StoreError> {
        self.inner.committed(partition)
    }

    fn claim(&self, claim: Claim) -> Result<StoredWorkspace, StoreError> {
        self.check(Request::Claim(&claim))?;
        self.inner.claim(claim)
    }

    fn load(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<StoredWorkspace, StoreError> {
        self.inner.load(id, sink)
    }

    fn save(
        &self,
        saves: &[Save],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<SaveRefused>, StoreError> {
        self.check(Request::Saves(saves))?;
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        for save in saves {
            match self.check(Request::Save(save)) {
                Ok(()) => taken.push(save.clone()),
                Err(error) => refused.push(SaveRefused {
                    id: save.id.clone(),
                    epoch: save.epoch,
                    error,
                }),
            }
        }
        refused.extend(self.inner.save(&taken, committed)?);
        Ok(refused)
    }

    fn reset(&self, erase: Erase) -> Result<StoredWorkspace, StoreError> {
        self.inner.reset(erase)
    }

    fn delete(&self, erase: Erase) -> Result<Deletion, StoreError> {
        self.inner.delete(erase)
    }

    fn deletions(&self, partition: PartitionId) -> Result<Vec<Deletion>, StoreError> {
        self.inner.deletions(partition)
    }

    fn purge(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        self.inner.purge(id)
    }

    fn append_history(&self, records: Vec<HistoryRecord>) -> Result<(), StoreError> {
        self.check(Request::History(&records))?;
        let mut answer = Ok(());
        for record in &records {
            let refused = self.check(Request::Transition(record, &records));
            if refused.is_ok() {
                self.inner.append_history(vec![record.clone()])?;
            }
            answer = answer.and(refused);
        }
        answer
    }

    fn history(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        self.inner.history(id, after, limit)
    }

    fn needs_restart(&self) -> Option<String> {
        self.inner.needs_restart()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }
}

impl<S: Store> Ownership for FaultyStore<S> {
    fn open(&self, partition: PartitionId) -> Result<Opening, StoreError> {
        self.inner.ownership().open(partition)
    }

    fn close(&self, partition: PartitionId) {
        self.inner.ownership().close(partition);
    }

    fn takes_saves(&self, partition: PartitionId) -> Result<(), StoreError> {
        self.check(Request::TakesSaves(partition))
    }

    fn first_epoch(&self, partition: PartitionId) -> Epoch {
        self.inner.ownership().first_epoch(partition)
    }

    fn notice(&self, partition: PartitionId) -> Option<String> {
        self.inner.ownership().notice(partition)
    }

    fn note_misrouted(&self, partition: PartitionId, offset: Offset) {
        self.inner.ownership().note_misrouted(partition, offset);
    }
}
