//! One workspace of a partition: where it is in its life.

use std::fmt;

use workspace_status::{Epoch, WorkspaceId};

use crate::retry::Failures;
use crate::{Erasure, Lane, Offset, Ticket, Time};

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
    /// Not in memory; what is stored of it is being erased.
    Erasing(Erasing),
    /// Nothing is left of it but its name and epoch. An event at or above the workspace's `next_offset` begins a new one.
    Deleted,
}

/// An erasure under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Erasing {
    pub(crate) erasure: Erasure,
    /// Who waits for it.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) before: BeforeErasing,
    /// The store did not know it when the erasure began.
    pub(crate) was_unclaimed: bool,
    /// From where to where events of that name were met since.
    pub(crate) met: Option<(Offset, Offset)>,
}

impl Erasing {
    /// Where a new workspace begins whose events begin at `below`; `None` where none was met.
    pub(crate) fn successor(&self, below: Offset) -> Option<Offset> {
        self.met
            .filter(|(_, last)| *last >= below)
            .map(|(first, _)| first.max(below))
    }
}

/// What a workspace was when its erasure began, and is again where that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BeforeErasing {
    /// Out of memory because an operator wanted it so.
    Cold,
    /// Anything that a load brings back.
    Loadable,
    Deleted,
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

/// Up to where it is known that a workspace out of memory has no event of its own: so far its stored
/// `next_offset` may be advanced without it, and it holds retention back no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quiet {
    /// Nothing at or above this offset was looked at.
    Until(Offset),
    /// None from here to where the lane is, which goes on looking.
    With { lane: Lane, from: Offset },
    /// Here may be its first one.
    Ends(Offset),
}

/// The epoch that the store has of a workspace, as far as this partition knows. It may be wrong: what is moved on in
/// the store says which epoch is expected there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoredEpoch {
    /// Another owner has begun a later one, or the store does not know the workspace: a load has to come first.
    Unknown,
    /// As it was listed: a previous owner may still save under it.
    Listed(Epoch),
    /// Begun here.
    Own(Epoch),
}

#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) id: WorkspaceId,
    /// Of the load under way or done; the next load takes a later one.
    pub(crate) epoch: Epoch,
    pub(crate) next_offset: Offset,
    /// Where it begins: no event below this offset belongs to it.
    pub(crate) first_offset: Offset,
    /// What the store holds; never above `next_offset`.
    pub(crate) saved_next_offset: Offset,
    pub(crate) events_applied: u64,
    /// Of what counts only while it is out of memory or leaves it.
    pub(crate) quiet: Quiet,
    /// The store cannot read or continue what it has of it, so nothing is moved on there; a load may change that.
    pub(crate) damaged: bool,
    pub(crate) stored_epoch: StoredEpoch,
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
            | Phase::Parked
            | Phase::Erasing(_)
            | Phase::Deleted => false,
            Phase::Waiting
            | Phase::Following { .. }
            | Phase::Stopped { .. }
            | Phase::Leaving { .. } => true,
        }
    }

    /// Below this offset the workspace needs no event any more; `None` where it needs none at all.
    pub(crate) fn floor(&self) -> Option<Offset> {
        match &self.phase {
            Phase::Deleted => None,
            Phase::Erasing(Erasing {
                erasure: Erasure::Reset { from, .. },
                ..
            }) => Some(self.saved_next_offset.min(*from)),
            Phase::Erasing(erasing) if erasing.before == BeforeErasing::Deleted => {
                erasing.successor(self.next_offset)
            }
            Phase::Cold
            | Phase::Queued
            | Phase::Loading
            | Phase::Retrying { .. }
            | Phase::Parked
            | Phase::Waiting
            | Phase::Following { .. }
            | Phase::Stopped { .. }
            | Phase::Leaving { .. }
            | Phase::Erasing(_) => Some(self.saved_next_offset),
        }
    }

    /// Whether nothing but its stored `next_offset` needs to follow the log: it is out of memory, and stays so for a while.
    pub(crate) fn rests(&self) -> bool {
        match self.phase {
            Phase::Cold | Phase::Parked | Phase::Retrying { .. } => !self.damaged,
            Phase::Queued
            | Phase::Loading
            | Phase::Waiting
            | Phase::Following { .. }
            | Phase::Stopped { .. }
            | Phase::Leaving { .. }
            | Phase::Erasing(_)
            | Phase::Deleted => false,
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
