//! A change of a status, as the feed reports it.

use std::time::Duration;

use crate::id::{Revision, WorkspaceId};
use crate::state::State;

/// One change of one status. To get the current status, read the status itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its number among all changes of the tracker.
    pub revision: Revision,
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// What happened.
    pub kind: ChangeKind,
}

/// What happened to a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new, in `initializing`.
    Created,
    /// It entered another state.
    Transition {
        /// The state it left.
        from: State,
        /// The state it entered.
        to: State,
        /// How long it had been in `from`.
        time_in_from: Duration,
    },
    /// Message, error or epoch changed within a state.
    Message,
    /// Metadata changed.
    Metadata,
    /// It was removed.
    Removed,
}
