//! Where workspaces are stored. A table stores what plans decide, and decides nothing itself; each table is a [`Store`].

use super::{
    Claim, Deletion, EntrySink, Erase, Erasure, HistoryCursor, HistoryPlace, HistoryRecord,
    Mutation, Ownership, Save, SaveRefused, SoleOwner, Store, StoreError, StoredWorkspace, plan,
};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{Epoch, WorkspaceId};

/// Workspaces share this many locks: two that share one are written one after the other.
const LOCKS: usize = 4096;

/// Locks of workspaces: a plan and its commit are one step for all that write to a workspace.
#[derive(Debug)]
pub struct Locks {
    locks: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Default for Locks {
    fn default() -> Self {
        Self {
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Locks {
    /// Locks workspaces, in the same order for all callers.
    fn lock<'a>(&self, ids: impl IntoIterator<Item = &'a WorkspaceId>) -> Vec<MutexGuard<'_, ()>> {
        let count = u64::try_from(LOCKS).unwrap_or(1);
        let ids = ids.into_iter();
        let numbers: BTreeSet<u64> = ids.map(|id| self.hasher.hash_one(id) % count).collect();
        let locks = numbers
            .into_iter()
            .filter_map(|number| self.locks.get(usize::try_from(number).ok()?));
        locks.map(Mutex::lock).collect()
    }
}

/// A workspace of a commit of which nothing was written, while the others were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitRefused {
    /// The workspace.
    pub id: WorkspaceId,
    /// Why.
    pub error: StoreError,
}

/// Where workspaces are stored. Readers wait for no writer of another workspace.
pub trait Table: Send + Sync + 'static {
    /// Whether it outlives the process.
    const IS_DURABLE: bool;

    /// The locks under which plans for this table are made and committed.
    fn locks(&self) -> &Locks;

    /// The workspaces of a partition, ordered by id, also those whose record is damaged.
    fn ids_of(&self, partition: PartitionId) -> Vec<WorkspaceId>;

    /// The record of a workspace.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], and [`StoreError::Corrupt`] with its place.
    fn stored(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError>;

    /// As [`Store::load`].
    ///
    /// # Errors
    /// As [`Store::load`].
    fn read(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<StoredWorkspace, StoreError>;

    /// The deletion mark of a workspace.
    fn deletion(&self, id: &WorkspaceId) -> Option<Deletion>;

    /// The deletion marks of a partition, ordered by id.
    fn deletions_of(&self, partition: PartitionId) -> Vec<Deletion>;

    /// As [`Store::committed`].
    ///
    /// # Errors
    /// As [`Store::committed`].
    fn offset_of(&self, partition: PartitionId) -> Result<Offset, StoreError>;

    /// As [`Store::history`].
    ///
    /// # Errors
    /// As [`Store::history`].
    fn transitions(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError>;

    /// The last epoch in the history of a workspace.
    ///
    /// # Errors
    /// As [`Store::history`].
    fn newest_epoch(&self, id: &WorkspaceId) -> Result<Option<Epoch>, StoreError>;

    /// The parts of the history of a workspace, oldest first, each with its number of transitions; none where the table
    /// keeps the limit by itself.
    ///
    /// # Errors
    /// As [`Store::history`].
    fn history_parts(&self, id: &WorkspaceId) -> Result<Vec<(HistoryPlace, usize)>, StoreError>;

    /// Writes mutations, then the committed offsets of partitions. Mutations of one workspace are adjacent and become
    /// visible together. What is written survives a crash of the process, and one of the machine after [`Table::flush`].
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] and [`StoreError::Unavailable`], if it is not known what was written.
    fn commit(
        &self,
        mutations: &[Mutation],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<CommitRefused>, StoreError>;

    /// Erases a workspace, also a damaged one. A reset and a deletion are durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Unavailable`] and [`StoreError::Corrupt`]; it may have happened.
    fn erase(&self, erasure: &Erasure) -> Result<(), StoreError>;

    /// As [`Store::sync`].
    ///
    /// # Errors
    /// As [`Store::sync`].
    fn flush(&self) -> Result<(), StoreError>;

    /// As [`Store::needs_restart`].
    fn fatal_error(&self) -> Option<String>;
}

impl<T: Table> Store for T {
    fn is_durable(&self) -> bool {
        T::IS_DURABLE
    }

    fn ownership(&self) -> &dyn Ownership {
        &SoleOwner
    }

    fn workspaces(&self, partition: PartitionId) -> Result<Vec<StoredWorkspace>, StoreError> {
        let ids = self.ids_of(partition);
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            match self.stored(&id) {
                Ok(workspace) => found.extend(workspace),
                Err(error @ (StoreError::NoSpace(_) | StoreError::Unavailable(_))) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::error!(workspace = %id, %error, "a workspace in the store is damaged");
                    found.push(StoredWorkspace::unknown(id, partition));
                }
            }
        }
        Ok(found)
    }

    fn workspace(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        self.stored(id)
    }

    fn committed(&self, partition: PartitionId) -> Result<Offset, StoreError> {
        self.offset_of(partition)
    }

    fn claim(&self, claim: Claim) -> Result<StoredWorkspace, StoreError> {
        let _lock = self.locks().lock([&claim.id]);
        let workspace = plan::claim(self, claim)?;
        let refused = self.commit(&[Mutation::Workspace(workspace.clone())], &[])?;
        first_of(refused).map(|()| workspace)
    }

    fn load(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<StoredWorkspace, StoreError> {
        self.read(id, sink)
    }

    fn save(
        &self,
        saves: &[Save],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<SaveRefused>, StoreError> {
        let _locks = self.locks().lock(saves.iter().map(|save| &save.id));
        let mut mutations = Vec::new();
        let mut refused = Vec::new();
        for save in saves {
            match plan::save(self, save) {
                Ok(planned) => mutations.extend(planned),
                Err(error) => refused.push(refused_save(save, error)),
            }
        }
        for CommitRefused { id, error } in self.commit(&mutations, committed)? {
            let save = saves.iter().find(|save| save.id == id);
            refused.extend(save.map(|save| refused_save(save, error)));
        }
        Ok(refused)
    }

    fn reset(&self, erase: Erase) -> Result<StoredWorkspace, StoreError> {
        let _lock = self.locks().lock([&erase.id]);
        let workspace = plan::reset(self, erase)?;
        self.erase(&Erasure::Reset(workspace.clone()))?;
        Ok(workspace)
    }

    fn delete(&self, erase: Erase) -> Result<Deletion, StoreError> {
        let _lock = self.locks().lock([&erase.id]);
        let deletion = plan::delete(self, erase)?;
        self.erase(&Erasure::Delete(deletion.clone()))?;
        Ok(deletion)
    }

    fn deletions(&self, partition: PartitionId) -> Result<Vec<Deletion>, StoreError> {
        Ok(self.deletions_of(partition))
    }

    fn purge(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        let _lock = self.locks().lock([id]);
        self.erase(&Erasure::Purge(id.clone()))
    }

    fn append_history(&self, records: Vec<HistoryRecord>) -> Result<(), StoreError> {
        let by_workspace = by_workspace(records);
        let _locks = self.locks().lock(by_workspace.keys());
        let mut mutations = Vec::with_capacity(by_workspace.len());
        let mut first = Ok(());
        for (id, records) in by_workspace {
            match plan::history(self, &id, records) {
                Ok(planned) => mutations.extend(planned),
                Err(error) => first = first.and(Err(error)),
            }
        }
        first.and(first_of(self.commit(&mutations, &[])?))
    }

    fn history(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        self.transitions(id, after, limit)
    }

    fn needs_restart(&self) -> Option<String> {
        self.fatal_error()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.flush()
    }
}

/// Transitions by workspace, in the order in which they are given.
pub fn by_workspace(records: Vec<HistoryRecord>) -> BTreeMap<WorkspaceId, Vec<HistoryRecord>> {
    let mut by_workspace: BTreeMap<WorkspaceId, Vec<HistoryRecord>> = BTreeMap::new();
    let mut records = records.into_iter().peekable();
    // Those of one workspace usually follow each other.
    while let Some(first) = records.next() {
        let id = first.id.clone();
        let of_workspace = by_workspace.entry(id.clone()).or_default();
        of_workspace.push(first);
        while let Some(next) = records.next_if(|next| next.id == id) {
            of_workspace.push(next);
        }
    }
    by_workspace
}

fn refused_save(save: &Save, error: StoreError) -> SaveRefused {
    SaveRefused {
        id: save.id.clone(),
        epoch: save.epoch,
        error,
    }
}

fn first_of(refused: Vec<CommitRefused>) -> Result<(), StoreError> {
    let first = refused.into_iter().next();
    first.map_or(Ok(()), |refused| Err(refused.error))
}
