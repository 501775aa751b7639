//! What a plan changes in a table. On a cluster each mutation is also a record of the changelog.

use super::{Deletion, HistoryPart, HistoryPlace, StoredEntry, StoredWorkspace};
use std::sync::Arc;
use workspace_lifecycle::PartitionId;
use workspace_status::WorkspaceId;

/// The name of one stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The record of a workspace.
    Workspace(WorkspaceId),
    /// Its deletion mark.
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
    /// A part of its history.
    History {
        /// The workspace.
        id: WorkspaceId,
        /// Where the part begins.
        place: HistoryPlace,
    },
}

/// One change of a table. Those of one workspace that follow each other become visible together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// The new record of a workspace; its number of entries is stored as given.
    Workspace(StoredWorkspace),
    /// The deletion mark of a workspace; other mutations remove its data.
    Deletion(Deletion),
    /// The new value of an entry.
    Entry(WorkspaceId, StoredEntry),
    /// A part of a history; it replaces one that begins at the same place.
    History(HistoryPart),
    /// The value was removed.
    Removed(Key),
    /// The value cannot be read in the changelog of this partition: its workspace is damaged. No plan has this.
    Damaged(PartitionId, Key),
}

/// The removal of everything or nearly everything of a workspace. It may take several writes; it is durable with the
/// first of them, and an interrupted one is finished later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Erasure {
    /// The entries are removed, and this is the workspace's record afterwards.
    Reset(StoredWorkspace),
    /// Everything is removed except this deletion mark.
    Delete(Deletion),
    /// Everything is removed, its deletion mark included.
    Purge(WorkspaceId),
}

impl Mutation {
    /// The workspace that changes.
    pub fn workspace(&self) -> &WorkspaceId {
        match self {
            Self::Workspace(workspace) => &workspace.id,
            Self::Deletion(deletion) => &deletion.id,
            Self::Entry(id, _) => id,
            Self::History(part) => &part.id,
            Self::Removed(key) | Self::Damaged(_, key) => key.workspace(),
        }
    }
}

impl Key {
    /// The workspace that it belongs to.
    pub fn workspace(&self) -> &WorkspaceId {
        match self {
            Self::Workspace(id)
            | Self::Deletion(id)
            | Self::Entry { id, .. }
            | Self::History { id, .. } => id,
        }
    }
}

impl Erasure {
    /// The workspace that is erased.
    pub fn workspace(&self) -> &WorkspaceId {
        match self {
            Self::Reset(workspace) => &workspace.id,
            Self::Delete(deletion) => &deletion.id,
            Self::Purge(id) => id,
        }
    }
}
