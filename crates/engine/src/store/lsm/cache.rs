//! The contents of a cached partition, and the position up to which it is complete.

use crate::store::{Deletion, HistoryRecord, StoredEntry, StoredWorkspace};
use std::sync::Arc;
use workspace_status::{Epoch, WorkspaceId};

/// A key of a cached partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheKey {
    /// The record of a workspace.
    Workspace(WorkspaceId),
    /// The mark of its deletion.
    Deletion(WorkspaceId),
    /// One of its entries.
    Entry {
        /// The workspace.
        id: WorkspaceId,
        /// Type of the entity.
        kind: Arc<str>,
        /// Id of the entity.
        entity: Box<str>,
    },
    /// One of its transitions.
    Transition {
        /// The workspace.
        id: WorkspaceId,
        /// Epoch of the transition.
        epoch: Epoch,
        /// The number under which it is stored.
        sequence: u64,
    },
}

/// One change of a cached partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheChange {
    /// The new record of a workspace; its number of entries is stored as given.
    Workspace(StoredWorkspace),
    /// A workspace was deleted; separate changes remove its data.
    Deleted(Deletion),
    /// The new value of an entry.
    Entry(WorkspaceId, StoredEntry),
    /// A transition; its `sequence` is the number under which it is stored.
    Transition(HistoryRecord),
    /// The value of the key was removed.
    Gone(CacheKey),
    /// The source cannot read the value of the key: its workspace is damaged.
    Damaged(CacheKey),
}

impl CacheChange {
    /// The workspace that changes.
    pub fn workspace(&self) -> &WorkspaceId {
        match self {
            Self::Workspace(workspace) => &workspace.id,
            Self::Deleted(deletion) => &deletion.id,
            Self::Entry(id, _) => id,
            Self::Transition(record) => &record.id,
            Self::Gone(key) | Self::Damaged(key) => key.workspace(),
        }
    }
}

impl CacheKey {
    /// The workspace it belongs to.
    pub fn workspace(&self) -> &WorkspaceId {
        match self {
            Self::Workspace(id)
            | Self::Deletion(id)
            | Self::Entry { id, .. }
            | Self::Transition { id, .. } => id,
        }
    }
}

/// The position up to which the cache of a partition is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachePlace {
    /// What is cached; a cache of another source is discarded.
    pub source: String,
    /// The first position of the source that is not in the cache.
    pub position: u64,
    /// A position of the source by which the source is recognised.
    pub last_assignment_offset: u64,
    /// The highest epoch in the partition.
    pub highest_epoch: Epoch,
    /// When the cache was last known to be complete up to `position`, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}
