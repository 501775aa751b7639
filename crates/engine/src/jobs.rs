//! Jobs that partitions send to other threads: loads, saves and erasures.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use workspace_lifecycle::{EraseScope, Offset, Refused, Slot};
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
        scope: EraseScope,
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

/// Queues of the jobs that partitions send to other threads.
pub(crate) struct Queues {
    pub(crate) loads: Sender<LoadJob>,
    pub(crate) saves: Sender<SaveJob>,
    pub(crate) erasures: Sender<EraseJob>,
}

/// The other ends of the queues.
pub(crate) struct Jobs {
    pub(crate) loads: Receiver<LoadJob>,
    pub(crate) saves: Receiver<SaveJob>,
    pub(crate) erasures: Receiver<EraseJob>,
}

impl Queues {
    pub(crate) fn new(permits: usize, partitions: u32) -> (Self, Jobs) {
        let (loads, load_jobs) = bounded(permits.max(1));
        // For each partition: one save under way, and one left by the previous assignment.
        let partitions = usize::try_from(partitions).unwrap_or(1).max(1);
        let (saves, save_jobs) = bounded(partitions * 2);
        let (erasures, erase_jobs) = unbounded();
        let queues = Self {
            loads,
            saves,
            erasures,
        };
        let jobs = Jobs {
            loads: load_jobs,
            saves: save_jobs,
            erasures: erase_jobs,
        };
        (queues, jobs)
    }
}
