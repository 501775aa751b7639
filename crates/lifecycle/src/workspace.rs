//! One workspace of a partition: where it is in its life.

use std::fmt;

use workspace_status::{Epoch, WorkspaceId};

use crate::retry::Failures;
use crate::{Lane, Offset, Ticket, Time};

/// Names a workspace within its partition; given when it is first met, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub(crate) usize);

impl Slot {
    /// The slot as a dense index from 0, for tables kept beside the machine.
    pub fn index(self) -> usize {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// The event that a workspace cannot apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandsAt {
    /// Where the event stands.
    pub offset: Offset,
    /// Why it cannot be applied.
    pub reason: String,
}

/// Where a workspace is in its life. Those from `Waiting` to `Leaving` are in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Known, not in memory, and nobody asked for it.
    Cold,
    /// Waits for a permit.
    Queued,
    /// Being read from the store or populated.
    Loading,
    /// Its load failed; it is tried again then.
    Retrying { at: Time },
    /// Its load failed for good; an operator has to do something.
    Parked,
    /// Loaded from below both lanes; the next catch-up round takes it along.
    Waiting,
    /// Applies the batches of a lane.
    Following { lane: Lane },
    /// Stands at an event that it cannot apply.
    Stopped { at: StandsAt, skip: Option<Ticket> },
    /// Applies nothing more; goes as soon as it is saved.
    Leaving { then: AfterLeaving, planned: bool },
}

/// What comes after the last save of a workspace in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterLeaving {
    /// An operator unloaded it: cold, also after a restart.
    Cold(Option<Ticket>),
    /// It is loaded again; who waits for that to begin, if anybody does.
    Reload(Option<Ticket>),
    /// Another process has it next.
    HandedOver,
}

#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) id: WorkspaceId,
    /// Of the load under way or done; the next load takes a later one.
    pub(crate) epoch: Epoch,
    pub(crate) next_offset: Offset,
    /// What the store holds; never above `next_offset`.
    pub(crate) saved_next_offset: Offset,
    pub(crate) events_applied: u64,
    /// The event that broke it in memory: it is loaded again, up to there.
    pub(crate) stops_before: Option<StandsAt>,
    /// End of its replay, until it is ready.
    pub(crate) target: Option<Offset>,
    pub(crate) ready_since: Option<Time>,
    pub(crate) urgent: bool,
    pub(crate) unsaved: bool,
    pub(crate) failures: Failures,
    pub(crate) phase: Phase,
}

impl Workspace {
    pub(crate) fn in_memory(&self) -> bool {
        match self.phase {
            Phase::Cold
            | Phase::Queued
            | Phase::Loading
            | Phase::Retrying { .. }
            | Phase::Parked => false,
            Phase::Waiting
            | Phase::Following { .. }
            | Phase::Stopped { .. }
            | Phase::Leaving { .. } => true,
        }
    }

    pub(crate) fn follows(&self, lane: Lane) -> bool {
        self.phase == Phase::Following { lane }
    }
}

/// The workspaces of a partition by slot.
#[derive(Debug, Default)]
pub(crate) struct Slots(Vec<Workspace>);

impl Slots {
    pub(crate) fn insert(&mut self, workspace: Workspace) -> Slot {
        self.0.push(workspace);
        Slot(self.0.len() - 1)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "slots are handed out by insert and nothing is removed"
    )]
    pub(crate) fn at(&self, slot: Slot) -> &Workspace {
        &self.0[slot.0]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "slots are handed out by insert and nothing is removed"
    )]
    pub(crate) fn at_mut(&mut self, slot: Slot) -> &mut Workspace {
        &mut self.0[slot.0]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Workspace)> {
        self.0
            .iter()
            .enumerate()
            .map(|(index, workspace)| (Slot(index), workspace))
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.0.len()).map(Slot)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
