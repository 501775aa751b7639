//! Messages to a partition, and the results of commands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use workspace_lifecycle::{Command, CommandError, Input, Offset, PartitionId, Slot};
use workspace_status::{Attempt, Epoch, WorkspaceId};

use crate::loaded::{Applied, Resident};
use crate::store::{Change, Save};

/// Why an operator's command was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// The machine refused it.
    #[error(transparent)]
    Refused(#[from] CommandError),
    /// Another process owns the partition of the workspace, or none does yet.
    #[error("partition {0} of the workspace is not assigned to this process")]
    NotAssigned(PartitionId),
    /// It was not done in time. The command continues, and may still take effect.
    #[error("no answer within {}s: {waits_for}. The command continues and may still take effect", after.as_secs_f32())]
    TimedOut {
        /// How long the caller waited.
        after: Duration,
        /// What it waits for, as far as that is known.
        waits_for: String,
    },
    /// Too many commands wait for the partition.
    #[error("too many commands are waiting, try again")]
    Busy,
    /// The engine is ending.
    #[error("the engine is shutting down")]
    Closed,
}

/// How an operator's command ended.
pub(crate) type CommandReply = oneshot::Sender<Result<(), CommandError>>;

/// A message to a partition's driver.
pub(crate) enum Message {
    Input(Input),
    Loaded(Box<LoadDone>),
    /// A save failed; its changes are returned.
    SaveFailed {
        back: Vec<(Slot, Save)>,
        reason: String,
    },
    Command {
        id: WorkspaceId,
        command: Command,
        reply: CommandReply,
    },
    /// Memory is needed: these workspaces are to leave it.
    Evict(Vec<WorkspaceId>),
    /// Something changed that the partition checks by itself.
    Wake,
}

/// A load that succeeded.
pub(crate) struct LoadDone {
    pub(crate) slot: Slot,
    pub(crate) epoch: Epoch,
    pub(crate) attempt: Attempt,
    pub(crate) workspace: Arc<Resident>,
    pub(crate) first_offset: Offset,
    pub(crate) applied: Applied,
    /// Entries that are not in the store yet.
    pub(crate) populated: Vec<Change>,
    pub(crate) entries: u64,
    pub(crate) began: Instant,
}
