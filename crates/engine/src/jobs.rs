//! Jobs that partitions send to other threads: loads, saves and erasures.

use std::sync::Arc;

use workspace_lifecycle::{Erasure, Offset, Refused, Slot};
use workspace_status::{Attempt, Epoch, WorkspaceId};

use crate::assignment::Assignment;
use crate::loaded::LivePosition;
use crate::log::DeletedDeadLetters;
use crate::store::Save;

/// One load to do.
pub(crate) struct LoadJob {
    pub(crate) assignment: Arc<Assignment>,
    pub(crate) slot: Slot,
    pub(crate) id: WorkspaceId,
    pub(crate) epoch: Epoch,
    pub(crate) first_offset: Offset,
    pub(crate) attempt: Attempt,
    pub(crate) live: Arc<LivePosition>,
}

/// Something to erase.
pub(crate) enum EraseJob {
    /// The stored state of a workspace.
    Workspace {
        assignment: Arc<Assignment>,
        slot: Slot,
        id: WorkspaceId,
        epoch: Epoch,
        erasure: Erasure,
    },
    /// Dead letters that a crash may have left of workspaces that were deleted.
    DeadLetters(Vec<DeletedDeadLetters>),
}

/// The save that one partition requests.
pub(crate) struct SaveJob {
    pub(crate) assignment: Arc<Assignment>,
    pub(crate) saves: Vec<(Slot, Save)>,
    /// Workspaces whose changes could not be taken.
    pub(crate) refused: Vec<Refused>,
    pub(crate) committed: Offset,
}
