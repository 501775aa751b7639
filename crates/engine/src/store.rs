//! The store seam: what the engine asks of the place where workspaces are kept.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod epoch_numbering;
mod fence;
mod file;
mod lsm;
mod memory;

pub use file::FileStore;
pub use lsm::{CacheChange, CacheKey, CachePlace, LsmStore};
pub use memory::MemoryStore;

use bytes::Bytes;
use std::sync::Arc;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{Epoch, State, WorkspaceId};

/// What the store knows of a workspace without its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWorkspace {
    /// The workspace.
    pub id: WorkspaceId,
    /// The partition its events come from.
    pub partition: PartitionId,
    /// Epoch of its last load.
    pub epoch: Epoch,
    /// Who loaded it last.
    pub owner: String,
    /// Where it begins: no event below this offset belongs to it.
    pub first_offset: Offset,
    /// First offset not covered by what is saved.
    pub next_offset: Offset,
    /// Events applied so far, saved together with `next_offset`.
    pub events_applied: u64,
    /// Number of entries.
    pub entries: u64,
    /// How long its last load took, in milliseconds, where one succeeded.
    pub last_load_ms: Option<u64>,
    /// An operator unloaded it: it stays out of memory until somebody asks for it.
    pub unloaded: bool,
}

/// One stored entry of a workspace: the latest value of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// Type of the entity, such as `resource`; shared, because a workspace has few of them and many entries.
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
    /// The entry is now this.
    Set(StoredEntry),
    /// The entry is gone.
    Unset {
        /// Type of the entity.
        kind: Arc<str>,
        /// Id of the entity.
        id: Box<str>,
    },
}

/// One workspace's part of a save: becomes visible whole or not at all.
#[derive(Debug, Clone)]
pub struct Save {
    /// The workspace.
    pub id: WorkspaceId,
    /// Epoch of the load that saves; an older one than the store's is refused.
    pub epoch: Epoch,
    /// First offset that the changes do not cover.
    pub next_offset: Offset,
    /// Events applied up to `next_offset`.
    pub events_applied: u64,
    /// Number of entries after the changes, as the workspace tells it; a load that finds another one is refused.
    pub entries: u64,
    /// What changed, in order; of two changes of one entry the later counts.
    pub changes: Vec<Change>,
    /// How long the load took, in milliseconds; set on the first save after a load.
    pub last_load_ms: Option<u64>,
    /// Whether an operator unloaded it with this save.
    pub unloaded: bool,
    /// Only `next_offset` and `epoch` move on, because no event below the offset is the workspace's own. There are no
    /// changes, and everything else stays as it is stored. The value is the epoch that the store must have: with
    /// another one it holds something else than the caller knows, and the save is refused.
    pub only_offset: Option<Epoch>,
}

/// One workspace of a save that was not saved, while the others were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaveRefused {
    /// The workspace.
    pub id: WorkspaceId,
    /// The load that wanted to save: another one of the same workspace may have been saved beside it.
    pub epoch: Epoch,
    /// Why.
    pub error: StoreError,
}

/// A new load of a workspace is made known to the store.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The workspace.
    pub id: WorkspaceId,
    /// The partition its events come from.
    pub partition: PartitionId,
    /// The load's epoch; it must be above the store's.
    pub epoch: Epoch,
    /// Who loads.
    pub owner: String,
    /// `next_offset` of a workspace that the store does not know yet.
    pub first_offset: Offset,
}

/// An operator wants what is stored of a workspace erased.
#[derive(Debug, Clone)]
pub struct Erase {
    /// The workspace.
    pub id: WorkspaceId,
    /// The partition its events come from.
    pub partition: PartitionId,
    /// The epoch of the erasure; it must be above the store's.
    pub epoch: Epoch,
    /// Who erases.
    pub owner: String,
    /// Where the workspace begins afterwards, or the one that takes its name.
    pub next_offset: Offset,
}

/// The mark that a deleted workspace leaves, so that its events are never applied again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// The workspace.
    pub id: WorkspaceId,
    /// The partition its events come from.
    pub partition: PartitionId,
    /// The epoch of the deletion: a load of a workspace that takes the name has a later one.
    pub epoch: Epoch,
    /// Events below this offset are deleted with it.
    pub next_offset: Offset,
}

/// One transition as it is kept forever (up to the store's limit a workspace).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRecord {
    /// The workspace.
    pub id: WorkspaceId,
    /// Number of the transition within its epoch, from 1.
    pub sequence: u64,
    /// Epoch of the load it belongs to.
    pub epoch: Epoch,
    /// Who owned the workspace.
    pub owner: String,
    /// State before.
    pub from: State,
    /// State after.
    pub to: State,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How long the state before had lasted, in microseconds.
    pub time_in_from_us: u64,
    /// The message that came with it.
    pub message: String,
}

/// Most transitions that a store keeps of one workspace; beyond, the oldest go.
pub const MAX_HISTORY_TRANSITIONS: usize = 10_000;

/// Where a page of history begins: after this transition.
pub type HistoryCursor = (Epoch, u64);

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
        /// The epoch of who asked.
        attempted: Epoch,
        /// The epoch in the store.
        stored: Epoch,
    },
    /// The workspace was saved from another log than the one that is there.
    #[error(
        "workspace {id} was saved from another {log} than the one that is there: it was made anew, and offsets of the one say nothing about the other; engines of another group begin from the one that is there"
    )]
    OtherLog {
        /// The workspace.
        id: WorkspaceId,
        /// What it was saved from, by its name.
        log: String,
    },
    /// The log has lost records that the workspace was saved from.
    #[error(
        "workspace {id} was saved up to offset {next_offset}, but {log} has lost the records from offset {from} on, and others may have taken their places; `reset` rebuilds it from those that are there"
    )]
    LostEnd {
        /// The workspace.
        id: WorkspaceId,
        /// What it was saved from, by its name.
        log: String,
        /// Up to where it was saved.
        next_offset: Offset,
        /// The first offset that was lost.
        from: Offset,
    },
    /// Something is missing of what was saved of a partition: an operator decides whether it is served without.
    #[error("partition {partition} is not served: {missing}")]
    NotServed {
        /// The partition.
        partition: PartitionId,
        /// What is missing, and what to do.
        missing: String,
    },
    /// What is stored is damaged; trying again will not help.
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

impl StoreError {
    /// Whether what a [`LsmStore`] holds as a copy of something else cannot be read: the source may still have it. What was
    /// damaged in the source, or was saved with another number of entries, is the same in every copy.
    pub fn is_damage_of_a_copy(&self) -> bool {
        matches!(self, Self::Corrupt { reason, .. }
            if reason != lsm::DAMAGED_AT_SOURCE && !reason.ends_with(OTHER_COUNT))
    }
}

/// How the reason ends where there are not as many entries as were saved.
const OTHER_COUNT: &str = "should be";

/// Takes the entries of a workspace while it is loaded; the text of a refusal ends the load.
pub type EntrySink<'a> = &'a mut dyn FnMut(StoredEntry) -> Result<(), String>;

/// How far a store is that gets ready to answer for a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It answers for the partition.
    Done,
    /// It reads what others have saved, and is asked again.
    Reading {
        /// How far it has read.
        position: u64,
        /// How far it must.
        end: u64,
    },
}

/// Keeps workspaces: their entries, how far they are applied, and their history.
///
/// A save need not be synced at once; [`Store::sync`] makes all earlier saves durable.
pub trait Store: Send + Sync + 'static {
    /// Whether what is saved outlives the process. Where it does not, the log must keep everything:
    /// nothing may be trimmed, and no offset committed.
    fn is_durable(&self) -> bool;

    /// Makes the store ready to answer for `partition`, which this process owns from now on. Called on the
    /// partition's own thread until it answers [`Opening::Done`]; a call takes about a second at most.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::NotServed`]; it is asked again.
    fn open(&self, partition: PartitionId) -> Result<Opening, StoreError> {
        let _ = partition;
        Ok(Opening::Done)
    }

    /// This process does not own `partition` any more: when it returns, nothing more of the partition is saved.
    fn close(&self, partition: PartitionId) {
        let _ = partition;
    }

    /// Whether saves of an open partition can be taken now. They are written together with those of others, which
    /// one that cannot be taken would hold up.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn takes_saves(&self, partition: PartitionId) -> Result<(), StoreError> {
        let _ = partition;
        Ok(())
    }

    /// The least epoch of a load in this assignment of an open partition: no assignment before it had one as high.
    fn first_epoch(&self, partition: PartitionId) -> Epoch {
        let _ = partition;
        Epoch::FIRST
    }

    /// What was missing when an open partition was opened, and what was done about it, as an operator reads it.
    fn notice(&self, partition: PartitionId) -> Option<String> {
        let _ = partition;
        None
    }

    /// What is known of every workspace of a partition, ordered by id.
    ///
    /// One whose own record is damaged is listed with epoch 0, so that it is not taken for unknown, and with
    /// `next_offset` 0, so that the log keeps what it may be rebuilt from:
    /// everything else asked of it gives the [`StoreError::Corrupt`] with its place.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], or [`StoreError::Corrupt`] where the list itself is damaged;
    /// a damaged workspace must not hide the others.
    fn workspaces(&self, partition: PartitionId) -> Result<Vec<StoredWorkspace>, StoreError>;

    /// What is known of one workspace.
    ///
    /// # Errors
    /// As [`Store::workspaces`].
    fn workspace(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError>;

    /// First offset that no workspace of the partition has seen, by what was saved when the store was opened.
    ///
    /// # Errors
    /// As [`Store::workspaces`].
    fn saved_end(&self, partition: PartitionId) -> Result<Offset, StoreError> {
        let workspaces = self.workspaces(partition)?;
        let ends = workspaces.iter().map(|workspace| workspace.next_offset);
        Ok(ends.max().unwrap_or_default())
    }

    /// Below this offset every workspace with events in the partition is known to the store. Discovery begins here.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn committed(&self, partition: PartitionId) -> Result<Offset, StoreError>;

    /// Discovery has found a record of another partition's workspace at this offset. A store over a log to which
    /// others write remembers the first one of a partition, so that a later discovery meets it again.
    fn note_misrouted(&self, partition: PartitionId, offset: Offset) {
        let _ = (partition, offset);
    }

    /// Begins a new epoch of a workspace, and makes it known where it is new. Survives a crash of the process when it returns.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the epoch is not above the store's, [`StoreError::OtherLog`] and
    /// [`StoreError::LostEnd`] where the log is not what the workspace was saved from.
    fn claim(&self, claim: Claim) -> Result<StoredWorkspace, StoreError>;

    /// Gives every entry of a workspace, ordered by type and id, to `sink`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names the place that is damaged, or where there are not as many entries as were saved.
    fn load(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<StoredWorkspace, StoreError>;

    /// Saves workspaces, each atomically with its `next_offset`, and what is committed of partitions.
    /// What stands against one workspace, such as a newer epoch or damage, is no reason not to save the others:
    /// the result names those that were refused, of which nothing is saved; one that is [`StoreError::Unavailable`]
    /// alone may be saved again. A workspace is named at most once in a call.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] and [`StoreError::Unavailable`]: nothing of this call may be relied upon to be there,
    /// and all of it may be saved again.
    fn save(
        &self,
        saves: &[Save],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<SaveRefused>, StoreError>;

    /// Removes the entries of a workspace. An empty one stays, which begins at `next_offset`, with its history.
    /// It works on damaged workspaces too, and returns the workspace as it is stored then: its epoch is a later one
    /// than was given where its own record cannot be read but its history tells of a later load. Durable when it returns;
    /// a crash before that leaves all or nothing. After an error it may have happened.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the epoch is not above the store's, [`StoreError::NoSpace`] and
    /// [`StoreError::Unavailable`].
    fn reset(&self, erase: Erase) -> Result<StoredWorkspace, StoreError>;

    /// Removes a workspace, its entries and its history, and leaves a [`Deletion`]: a claim of that name begins a new,
    /// empty workspace at or behind its `next_offset`, with a later epoch. Transitions of loads before it are dropped
    /// from then on. It works on damaged and on unknown workspaces too. Durable when it returns; a crash before that
    /// leaves all or nothing. After an error it may have happened.
    ///
    /// # Errors
    /// As [`Store::reset`].
    fn delete(&self, erase: Erase) -> Result<Deletion, StoreError>;

    /// The marks of workspaces that were deleted from a partition, ordered by id, also where the name was taken since.
    ///
    /// # Errors
    /// As [`Store::workspaces`].
    fn deletions(&self, partition: PartitionId) -> Result<Vec<Deletion>, StoreError>;

    /// Removes a workspace without a trace, the mark of its deletion included: when no event of it can ever be read again.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn purge(&self, id: &WorkspaceId) -> Result<(), StoreError>;

    /// Adds transitions to the histories of their workspaces; one that was added since the store was opened is kept once.
    /// One of a load before the workspace was deleted is dropped.
    /// Where an epoch was there before the store was opened, its transitions are numbered behind those of before.
    ///
    /// # Errors
    /// The first of [`StoreError::NoSpace`], [`StoreError::Unavailable`], [`StoreError::Corrupt`] and
    /// [`StoreError::Fenced`], where another owner began the epoch `attempted`. What stands against one workspace
    /// is no reason not to keep the transitions of the others, so all may be appended again.
    fn append_history(&self, records: Vec<HistoryRecord>) -> Result<(), StoreError>;

    /// Transitions of a workspace, oldest first, after a place.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::Corrupt`].
    fn history(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError>;

    /// Why nothing helps the store but a restart of the process; none where it works, or may work again by itself.
    fn needs_restart(&self) -> Option<String> {
        None
    }

    /// Makes everything saved before the call durable: after it the log may forget what the saves cover.
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

/// Refuses a workspace that has lost entries, or has some that it should not; `place` is where they are.
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
        reason: format!("{found} are there, and {} {OTHER_COUNT}", about.entries),
    })
}

/// How a workspace is listed of which nothing can be read: how far it was applied is not known either.
fn damaged(id: WorkspaceId, partition: PartitionId) -> StoredWorkspace {
    StoredWorkspace {
        id,
        partition,
        epoch: Epoch::new(0),
        owner: String::new(),
        first_offset: Offset::ZERO,
        next_offset: Offset::ZERO,
        events_applied: 0,
        entries: 0,
        last_load_ms: None,
        unloaded: false,
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
