//! One workspace of a partition: its phase and its offsets.

use std::fmt;

use workspace_status::{Epoch, WorkspaceId};

use crate::retry::Failures;
use crate::{EraseScope, Lane, Offset, RetryPolicy, Ticket, Time};

/// Identifies a workspace within its partition. Assigned when its id is first met, never reused for another id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub(crate) usize);

impl Slot {
    /// The slot as a dense index from 0, for the driver's tables.
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
pub struct StoppedAt {
    /// Offset of the event.
    pub offset: Offset,
    /// Why it cannot be applied.
    pub reason: String,
}

/// Phase of a workspace. Those from `Waiting` to `Leaving` are in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Known, not in memory, and not requested.
    Cold,
    /// Waits for a permit.
    Queued,
    /// Being read from the store or populated.
    Loading,
    /// Its load failed and is retried at `at`.
    Retrying { at: Time },
    /// Its load failed permanently; an operator must act.
    Parked,
    /// Loaded, with a `next_offset` below both lanes; it joins the next catch-up round.
    Waiting,
    /// Applies the batches of a lane.
    Following { lane: Lane },
    /// Stopped at an event that it cannot apply.
    Stopped { at: StoppedAt, skip: Option<Ticket> },
    /// Applies no more events; leaves memory as soon as it is saved.
    Leaving { then: AfterLeaving, planned: bool },
    /// Not in memory; its stored state is being erased.
    Erasing(Erasing),
    /// Only its name and epoch are left. An event at or above the workspace's `next_offset` begins a new one.
    Deleted,
}

/// An erasure under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Erasing {
    pub(crate) scope: EraseScope,
    /// The command to answer, if it was not answered yet.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) before: BeforeErasing,
    /// The store did not know the workspace when the erasure began.
    pub(crate) was_unclaimed: bool,
    /// First and last offset of the events of that name met since.
    pub(crate) met: Option<(Offset, Offset)>,
}

impl Erasing {
    /// First offset of the new workspace; `None` if no event at or above `below` was met.
    pub(crate) fn successor(&self, below: Offset) -> Option<Offset> {
        self.met
            .filter(|(_, last)| *last >= below)
            .map(|(first, _)| first.max(below))
    }
}

/// What a workspace was when its erasure began, and becomes again if the erasure fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BeforeErasing {
    /// Out of memory: unloaded or evicted.
    Cold,
    /// Any phase that a load restores.
    Loadable,
    Deleted,
}

/// Whether its owner keeps a workspace in memory. The store records it, so that it outlives a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Residence {
    /// It is in memory, or is loaded as soon as possible.
    #[default]
    Memory,
    /// An operator unloaded it: it stays out of memory until a load is requested.
    Unloaded,
    /// Its memory was needed: it stays out of memory until a client requests it, or its unapplied events do.
    Evicted,
}

impl Residence {
    /// Every value, at the index of its code.
    const ALL: [Self; 3] = [Self::Memory, Self::Unloaded, Self::Evicted];

    /// Its number in stored records.
    pub fn code(self) -> u8 {
        match self {
            Self::Memory => 0,
            Self::Unloaded => 1,
            Self::Evicted => 2,
        }
    }

    /// The value of a stored number; `None` for a number that no value has.
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Its name in stored text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Unloaded => "unloaded",
            Self::Evicted => "evicted",
        }
    }

    /// The value of a stored name; `None` for a name that no value has.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|residence| residence.as_str() == name)
    }
}

impl fmt::Display for Residence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What follows the last save of a workspace in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterLeaving {
    /// An operator unloaded it: it stays cold, also after a restart.
    Cold(Option<Ticket>),
    /// Its memory was needed: it stays cold until a client or its events request it, also after a restart.
    Evicted,
    /// It is loaded again. The ticket is answered when that load begins.
    Reload(Option<Ticket>),
    /// Another process owns it next.
    HandedOver,
}

/// Up to which offset a workspace out of memory is known to have no event of its own. Its stored
/// `next_offset` may be advanced to there without loading it, and retention may trim to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quiet {
    /// No lane has searched at or above this offset.
    Until(Offset),
    /// No event from `from` to the lane's cursor; the lane continues to search.
    With { lane: Lane, from: Offset },
    /// Its first event may be at this offset.
    Ends(Offset),
}

/// The epoch that the store holds of a workspace, as far as this partition knows. It may be outdated: an
/// [`Advance`](crate::Advance) therefore names the epoch that it expects in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoredEpoch {
    /// Another owner has begun a later one, or the store does not know the workspace: only a load finds out.
    Unknown,
    /// As listed: a previous owner may still save under it.
    Listed(Epoch),
    /// Begun by this partition.
    Own(Epoch),
}

#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) id: WorkspaceId,
    /// Epoch of the load under way or done; the next load takes a later one.
    pub(crate) epoch: Epoch,
    pub(crate) next_offset: Offset,
    /// First offset: no event below it belongs to it.
    pub(crate) first_offset: Offset,
    /// What the store holds; never above `next_offset`.
    pub(crate) saved_next_offset: Offset,
    pub(crate) events_applied: u64,
    /// Used only while it is out of memory or leaving it.
    pub(crate) quiet: Quiet,
    /// The store cannot read or continue its record, so nothing is advanced there; a load may change that.
    pub(crate) damaged: bool,
    pub(crate) stored_epoch: StoredEpoch,
    /// The event that broke it in memory: the next load stops before it.
    pub(crate) stops_before: Option<StoppedAt>,
    /// End of its replay, until it is ready.
    pub(crate) target: Option<Offset>,
    pub(crate) ready_since: Option<Time>,
    pub(crate) urgent: bool,
    /// Why it is cold, where it is.
    pub(crate) residence: Residence,
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

    /// Whether a partition that is handed over waits for it: its last save, or the result of its erasure, which the
    /// operator needs to know.
    pub(crate) fn holds_partition(&self) -> bool {
        self.in_memory() || matches!(self.phase, Phase::Erasing(_))
    }

    /// The workspace needs no event below this offset any more; `None` if it needs none at all.
    pub(crate) fn floor(&self) -> Option<Offset> {
        match &self.phase {
            Phase::Deleted => None,
            Phase::Erasing(Erasing {
                scope: EraseScope::Reset { from, .. },
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

    /// Whether only its stored `next_offset` follows the log: it is out of memory, and stays so for a while.
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

    /// It is not ready any more; a workspace that was for long begins to count its failures again.
    pub(crate) fn end_ready(&mut self, retry: &RetryPolicy, now: Time) {
        if let Some(since) = self.ready_since.take() {
            self.failures.were_well_for(retry, now.since(since));
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
