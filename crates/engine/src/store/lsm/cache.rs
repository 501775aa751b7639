//! What a cached partition consists of, and up to where it is complete.

use crate::store::{Deletion, HistoryRecord, StoredEntry, StoredWorkspace};
use std::sync::Arc;
use workspace_status::{Epoch, WorkspaceId};

/// What is filed under one key of a cached partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheKey {
    /// What is known of a workspace.
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
        /// The number under which it is kept.
        sequence: u64,
    },
}

/// One change of a cached partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheChange {
    /// What is known of a workspace is now this; its number of entries is taken as it is.
    Workspace(StoredWorkspace),
    /// A workspace was deleted; what there was of it is removed by changes of its own.
    Deleted(Deletion),
    /// An entry is now this.
    Entry(WorkspaceId, StoredEntry),
    /// A transition; its `sequence` is the number under which it is kept.
    Transition(HistoryRecord),
    /// It is gone.
    Gone(CacheKey),
    /// It cannot be read where it is kept: its workspace is damaged.
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

/// Up to where the cache of a partition is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachePlace {
    /// What the cache is of; a cache of something else is forgotten.
    pub source: String,
    /// The first place of the source that is not in the cache.
    pub position: u64,
    /// A place of the source by which it is known again.
    pub last_assignment_offset: u64,
    /// The highest epoch in the partition.
    pub highest_epoch: Epoch,
    /// When the cache was known to be complete up to there, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}
