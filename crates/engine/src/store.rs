//! The interface of a store ([`Store`]): claims, loads, saves, histories and erasures of workspaces.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod ownership;

mod mutation;
pub mod plan;
mod table;

mod history;

mod file;
mod lsm;
mod memory;

pub use file::FileStore;
pub use history::{
    HistoryCursor, HistoryPart, HistoryPlace, HistoryRecord, MAX_HISTORY_TRANSITIONS,
    StoredTransition,
};
pub use lsm::{CopyPosition, LsmStore};
pub use memory::MemoryStore;
pub use mutation::{Erasure, Key, Mutation};
pub use ownership::{Opening, Ownership, SoleOwner};
pub use table::{CommitRefused, Locks, Table, by_workspace};

use bytes::Bytes;
use std::sync::Arc;
use workspace_lifecycle::{Offset, PartitionId, Residence};
use workspace_status::{Epoch, WorkspaceId};

/// What the store holds of a workspace, without its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWorkspace {
    /// The workspace.
    pub id: WorkspaceId,
    /// The partition its events come from.
    pub partition: PartitionId,
    /// Epoch of its last load.
    pub epoch: Epoch,
    /// The process that loaded it last.
    pub owner: String,
    /// No event below this offset belongs to the workspace.
    pub first_offset: Offset,
    /// First offset not covered by the save.
    pub next_offset: Offset,
    /// Events applied so far, saved together with `next_offset`.
    pub events_applied: u64,
    /// Number of entries.
    pub entries: u64,
    /// Duration of its last successful load in milliseconds, if there was one.
    pub last_load_ms: Option<u64>,
    /// Whether its owner keeps it in memory.
    pub residence: Residence,
}

impl StoredWorkspace {
    /// A workspace of which nothing is known, not even how far it was applied.
    pub fn unknown(id: WorkspaceId, partition: PartitionId) -> Self {
        Self {
            id,
            partition,
            epoch: Epoch::new(0),
            owner: String::new(),
            first_offset: Offset::ZERO,
            next_offset: Offset::ZERO,
            events_applied: 0,
            entries: 0,
            last_load_ms: None,
            residence: Residence::Memory,
        }
    }
}

/// One stored entry of a workspace: the latest value of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// Type of the entity, such as `resource`; shared, because a workspace has few types and many entries.
    pub kind: Arc<str>,
    /// Id of the entity within its type.
    pub id: Box<str>,
    /// Its value as raw JSON.
    pub data: Bytes,
    /// Offset of the event that set it.
    pub offset: Offset,
}

/// One change of a workspace since its last save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The entry has this value now.
    Set(StoredEntry),
    /// The entry was removed.
    Unset {
        /// Type of the entity.
        kind: Arc<str>,
        /// Id of the entity.
        id: Box<str>,
    },
}

/// One workspace's part of a save; it becomes visible as a whole or not at all.
#[derive(Debug, Clone)]
pub struct Save {
    /// The workspace.
    pub id: WorkspaceId,
    /// Epoch of the load that saves; it is refused if it is older than the store's.
    pub epoch: Epoch,
    /// First offset that the changes do not cover.
    pub next_offset: Offset,
    /// Events applied up to `next_offset`.
    pub events_applied: u64,
    /// Number of entries after the changes, as the workspace reports it; a load that finds another number is refused.
    pub entries: u64,
    /// The changes in order; a later change of an entry replaces an earlier one.
    pub changes: Vec<Change>,
    /// Duration of the load in milliseconds; set on the first save after a load.
    pub last_load_ms: Option<u64>,
    /// Whether it stays in memory after this save.
    pub residence: Residence,
    /// If set, only `next_offset` and `epoch` advance, because no event below the offset belongs to the workspace.
    /// There are no changes, and everything else stays as stored. The value is the epoch that the store must have: with
    /// another one the store holds something that the caller does not know, and the save is refused.
    pub only_offset: Option<Epoch>,
}

/// One workspace of a save that was not saved, while the others were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaveRefused {
    /// The workspace.
    pub id: WorkspaceId,
    /// The load that tried to save: another load of the same workspace may have been saved beside it.
    pub epoch: Epoch,
    /// Why.
    pub error: StoreError,
}

/// A new load of a workspace, to be recorded in the store.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The workspace.
    pub id: WorkspaceId,
    /// The partition its events come from.
    pub partition: PartitionId,
    /// The load's epoch; it must be above the store's.
    pub epoch: Epoch,
    /// The process that loads.
    pub owner: String,
    /// `next_offset` of a workspace that the store does not know yet.
    pub first_offset: Offset,
}

/// An operator's request to erase what is stored of a workspace.
#[derive(Debug, Clone)]
pub struct Erase {
    /// The workspace.
    pub id: WorkspaceId,
    /// The partition its events come from.
    pub partition: PartitionId,
    /// The epoch of the erasure; it must be above the store's.
    pub epoch: Epoch,
    /// The process that erases.
    pub owner: String,
    /// First offset of the workspace afterwards, or of a new one with its name.
    pub next_offset: Offset,
}

/// The mark that a deleted workspace leaves, so that its events are never applied again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// The workspace.
    pub id: WorkspaceId,
    /// The partition its events come from.
    pub partition: PartitionId,
    /// The epoch of the deletion: a load of a new workspace with the name has a later one.
    pub epoch: Epoch,
    /// Events below this offset are deleted with it.
    pub next_offset: Offset,
}

/// Why the store refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store does not know the workspace.
    #[error("workspace {0} is not in the store")]
    UnknownWorkspace(WorkspaceId),
    /// A newer load has taken the workspace over.
    #[error("workspace {id} was taken over: epoch {attempted} is not above {stored}")]
    Fenced {
        /// The workspace.
        id: WorkspaceId,
        /// The epoch of the refused request.
        attempted: Epoch,
        /// The epoch in the store.
        stored: Epoch,
    },
    /// The workspace was saved from another log than the current one.
    #[error(
        "workspace {id} was saved from another {log} than the present one of that name: their offsets do not compare; reset the workspace, or start the engines with another group, to begin with the present one"
    )]
    OtherLog {
        /// The workspace.
        id: WorkspaceId,
        /// Name of the log that it was saved from.
        log: String,
    },
    /// The log has lost records that are part of what was saved of the workspace.
    #[error(
        "workspace {id} was saved up to offset {next_offset}, but {log} has lost the records from offset {from} on, and other records may now have these offsets; `reset` rebuilds it from the existing ones"
    )]
    LostEnd {
        /// The workspace.
        id: WorkspaceId,
        /// Name of the log that it was saved from.
        log: String,
        /// First offset not covered by the save.
        next_offset: Offset,
        /// The first offset that was lost.
        from: Offset,
    },
    /// Something that was saved of a partition is missing: an operator decides whether to serve the partition without
    /// it.
    #[error("partition {partition} is not served: {missing}")]
    NotServed {
        /// The partition.
        partition: PartitionId,
        /// What is missing, and what to do.
        missing: String,
    },
    /// What is stored is damaged; a retry does not help.
    #[error("{place} is damaged: {reason}")]
    Corrupt {
        /// File and line, or key.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The workspace refused an entry while it was restored.
    #[error("entry {kind}/{id} was refused: {reason}")]
    Refused {
        /// Type of the entity.
        kind: String,
        /// Id of the entity.
        id: String,
        /// Why.
        reason: String,
    },
    /// The disk is full; try again when there is space.
    #[error("no space left for the store: {0}")]
    NoSpace(String),
    /// The store cannot be reached or written now; try again.
    #[error("the store cannot be used: {0}")]
    Unavailable(String),
}

/// What the engine can do about a [`StoreError`] of one workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreErrorKind {
    /// A load of the epoch `stored` has taken the workspace over.
    Fenced { stored: Epoch },
    /// The store does not know the workspace.
    Unknown,
    /// A retry does not help: an operator must act.
    Permanent,
    /// A retry may help.
    Temporary,
}

impl StoreError {
    pub(crate) fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Fenced { stored, .. } => StoreErrorKind::Fenced { stored: *stored },
            Self::UnknownWorkspace(_) => StoreErrorKind::Unknown,
            Self::Corrupt { .. }
            | Self::Refused { .. }
            | Self::OtherLog { .. }
            | Self::LostEnd { .. } => StoreErrorKind::Permanent,
            Self::NoSpace(_) | Self::NotServed { .. } | Self::Unavailable(_) => {
                StoreErrorKind::Temporary
            }
        }
    }
}

impl StoreError {
    /// Whether a copy of other data in a [`LsmStore`] is damaged, so that the source may still be intact. Data that was
    /// damaged at the source, or was saved with another number of entries, is the same in every copy.
    pub fn is_damage_of_a_copy(&self) -> bool {
        matches!(self, Self::Corrupt { reason, .. }
            if reason != lsm::DAMAGED_AT_SOURCE && !reason.starts_with(OTHER_COUNT))
    }
}

/// How the reason begins if the number of entries is not the saved one.
const OTHER_COUNT: &str = "wrong number of entries:";

/// Receives the entries of a workspace while it is loaded; an error ends the load, and its text is the reason.
pub type EntrySink<'a> = &'a mut dyn FnMut(StoredEntry) -> Result<(), String>;

/// Stores workspaces: their entries, how far they are applied, and their history.
///
/// A save need not be synced at once; [`Store::sync`] makes all earlier saves durable.
pub trait Store: Send + Sync + 'static {
    /// Whether saves outlive the process. If not, the log must keep everything: nothing may be trimmed, and no offset
    /// committed.
    fn is_durable(&self) -> bool;

    /// Which partitions this process may use the store for.
    fn ownership(&self) -> &dyn Ownership;

    /// What is stored of every workspace of a partition, ordered by id.
    ///
    /// A workspace whose own record is damaged is listed with epoch 0, so that it is not taken for unknown, and with
    /// `next_offset` 0, so that the log keeps what it may be rebuilt from. Every other call for it returns the
    /// [`StoreError::Corrupt`] with its place.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], or [`StoreError::Corrupt`] if the list itself is damaged; a damaged workspace must
    /// not hide the others.
    fn workspaces(&self, partition: PartitionId) -> Result<Vec<StoredWorkspace>, StoreError>;

    /// What is stored of one workspace.
    ///
    /// # Errors
    /// As [`Store::workspaces`].
    fn workspace(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError>;

    /// The store knows every workspace with an event in the partition below this offset. Discovery begins here.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn committed(&self, partition: PartitionId) -> Result<Offset, StoreError>;

    /// Begins a new epoch of a workspace, and adds the workspace if it is new. Survives a crash of the process when it
    /// returns.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the epoch is not above the store's, [`StoreError::OtherLog`] and
    /// [`StoreError::LostEnd`] when the log is not, or is no longer, what the workspace was saved from.
    fn claim(&self, claim: Claim) -> Result<StoredWorkspace, StoreError>;

    /// Passes every entry of a workspace, ordered by type and id, to `sink`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names the place that is damaged, or where the number of entries is not the saved one.
    fn load(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<StoredWorkspace, StoreError>;

    /// Saves workspaces, each atomically with its `next_offset`, and the committed offsets of partitions. An error of
    /// one workspace, such as a newer epoch or damage, does not prevent the saves of the others: the result names the
    /// refused ones, of which nothing is saved; one that was refused with [`StoreError::Unavailable`] may be saved
    /// again. A call names a workspace at most once.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] and [`StoreError::Unavailable`]: the caller may not rely on anything of this call being
    /// saved, and may save all of it again.
    fn save(
        &self,
        saves: &[Save],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<SaveRefused>, StoreError>;

    /// Removes the entries of a workspace. An empty workspace that begins at `next_offset` stays, with its history. It
    /// works on damaged workspaces too. It returns the workspace as stored afterwards: its epoch is later than the
    /// given one if its own record cannot be read but its history has a later load. Durable when it returns; a crash
    /// before that leaves all or nothing. After an error it may have happened.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the epoch is not above the store's, [`StoreError::NoSpace`] and
    /// [`StoreError::Unavailable`].
    fn reset(&self, erase: Erase) -> Result<StoredWorkspace, StoreError>;

    /// Removes a workspace, its entries and its history, and leaves a [`Deletion`]: a claim of that name begins a new,
    /// empty workspace at or after its `next_offset`, with a later epoch. Transitions of loads before the deletion are
    /// dropped from then on. It works on damaged and on unknown workspaces too. Durable when it returns; a crash before
    /// that leaves all or nothing. After an error it may have happened.
    ///
    /// # Errors
    /// As [`Store::reset`].
    fn delete(&self, erase: Erase) -> Result<Deletion, StoreError>;

    /// The marks of deleted workspaces of a partition, ordered by id, also those whose name was taken since.
    ///
    /// # Errors
    /// As [`Store::workspaces`].
    fn deletions(&self, partition: PartitionId) -> Result<Vec<Deletion>, StoreError>;

    /// Removes a workspace completely, including the mark of its deletion: for use when no event of it can ever be read
    /// again.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn purge(&self, id: &WorkspaceId) -> Result<(), StoreError>;

    /// Adds transitions to the histories of their workspaces; those of one load follow each other, oldest first. A
    /// transition that is stored already is kept once. A transition of a load before the deletion of the workspace is
    /// dropped.
    ///
    /// # Errors
    /// The first of [`StoreError::NoSpace`], [`StoreError::Unavailable`], [`StoreError::Corrupt`] and
    /// [`StoreError::Fenced`], if another owner began the epoch `attempted`. An error of one workspace does not prevent
    /// the transitions of the others from being kept, so all may be appended again.
    fn append_history(&self, records: Vec<HistoryRecord>) -> Result<(), StoreError>;

    /// At most `limit` transitions of a workspace, oldest first, after a cursor. Where an epoch was used by two loads,
    /// the transitions of the later one are numbered after those of the earlier one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::Corrupt`].
    fn history(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError>;

    /// Why only a restart of the process can repair the store; `None` if it works, or may recover by itself.
    fn needs_restart(&self) -> Option<String>;

    /// Makes everything saved before the call durable: after it the log may remove what the saves cover.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn sync(&self) -> Result<(), StoreError>;
}

/// The error for an entry that a sink refused.
fn refused(kind: &str, id: &str, reason: String) -> StoreError {
    StoreError::Refused {
        kind: kind.to_owned(),
        id: id.to_owned(),
        reason,
    }
}

/// Refuses a workspace that has lost entries or has surplus ones; `place` names where they are.
fn check_entries(
    about: &StoredWorkspace,
    found: u64,
    place: impl FnOnce() -> String,
) -> Result<(), StoreError> {
    if found == about.entries {
        return Ok(());
    }
    Err(StoreError::Corrupt {
        place: place(),
        reason: format!("{OTHER_COUNT} expected {}, found {found}", about.entries),
    })
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
