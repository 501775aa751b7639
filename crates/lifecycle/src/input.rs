//! What a partition is told: answers of the log and the store, permits, time, and operators.

use std::fmt;

use workspace_status::{Epoch, WorkspaceId};

use crate::{Offset, Slot};

/// One thing that happened to a partition.
#[derive(Debug, Clone)]
pub enum Input {
    /// This process owns the partition from now on.
    Assigned,
    /// The store answered what it knows of the partition.
    Listed(Listing),
    /// The store could not answer.
    ListFailed {
        /// Its words.
        reason: String,
    },
    /// A workspace may load now.
    PermitGranted {
        /// Which one.
        slot: Slot,
    },
    /// A workspace was read from the store (or populated) and is in memory.
    Loaded {
        /// Which one.
        slot: Slot,
        /// Epoch of the load; the answer of an older one is dropped.
        epoch: Epoch,
        /// Where the workspace begins: no event below this offset belongs to it.
        first_offset: Offset,
        /// First offset not covered by what was loaded.
        next_offset: Offset,
        /// Events applied up to there.
        events_applied: u64,
        /// Whether it holds something that the store does not (it was populated).
        unsaved: bool,
        /// End of the partition now: the target of the replay.
        high_watermark: Offset,
    },
    /// A load did not succeed.
    LoadFailed {
        /// Which one.
        slot: Slot,
        /// Epoch of the load.
        epoch: Epoch,
        /// The store has that epoch; false where it has not, and where that is not known.
        claimed: bool,
        /// What it means.
        failure: LoadFailure,
    },
    /// The log answered a fetch.
    Fetched {
        /// The lane that asked.
        lane: Lane,
        /// Where the next fetch begins.
        next_offset: Offset,
        /// End of the partition.
        high_watermark: Offset,
        /// The workspaces of the batch, each with the first of its offsets.
        touched: Vec<Touched>,
    },
    /// The log could not answer a fetch.
    FetchFailed {
        /// The lane that asked.
        lane: Lane,
        /// What it means.
        failure: FetchFailure,
    },
    /// The events of a batch were applied as planned.
    Applied {
        /// The lane whose batch it was.
        lane: Lane,
        /// How it went, for every workspace of the plan.
        results: Vec<AppliedTo>,
    },
    /// The partition has grown.
    Appended {
        /// Its end now.
        high_watermark: Offset,
    },
    /// The save under way is in the store.
    Saved {
        /// The workspaces of the plan that are not.
        refused: Vec<Refused>,
    },
    /// The save under way is not in the store.
    SaveFailed {
        /// The store's words.
        reason: String,
    },
    /// A skipped event is in the dead-letter log.
    DeadLettered {
        /// The workspace.
        slot: Slot,
        /// The event.
        offset: Offset,
    },
    /// A skipped event could not be kept, so it is not skipped.
    DeadLetterFailed {
        /// The workspace.
        slot: Slot,
        /// Why.
        reason: String,
    },
    /// An operator wants something.
    Operator {
        /// Of which workspace.
        id: WorkspaceId,
        /// What.
        command: Command,
        /// Where the answer goes.
        ticket: Ticket,
        /// First offset that is still in the log.
        low_watermark: Offset,
    },
    /// What was stored of a workspace is erased, durably.
    Erased {
        /// The workspace.
        slot: Slot,
        /// Epoch of the erasure; the answer of an older one is dropped.
        epoch: Epoch,
        /// Epoch under which the store did it: a later one where the erased record could not be read, but the
        /// store knows of a later load.
        stored: Epoch,
        /// First offset that it applies from now on.
        next_offset: Offset,
        /// What is not erased beside the store, and why: its dead letters. The operator is told so.
        left_over: Option<String>,
    },
    /// What is stored of a workspace was not erased.
    EraseFailed {
        /// The workspace.
        slot: Slot,
        /// Epoch of the erasure.
        epoch: Epoch,
        /// What it means.
        failure: EraseFailure,
    },
    /// Time has passed.
    Tick,
    /// The partition is to be handed over: save, then let go.
    Revoked,
    /// The partition belongs to somebody else already: let go without saving.
    Lost,
}

/// What the store knows of a partition, with the log's bounds at that time.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Its workspaces.
    pub workspaces: Vec<Known>,
    /// Workspaces that were deleted while the log may still hold their events.
    pub deleted: Vec<Deleted>,
    /// Below this offset every workspace with events is among them.
    pub committed: Offset,
    /// First offset that is still in the log.
    pub low_watermark: Offset,
    /// End of the partition.
    pub high_watermark: Offset,
    /// No load of this assignment has an epoch below it, and none of an assignment before had one as high.
    pub first_epoch: Epoch,
}

/// A workspace as the store lists it.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its id.
    pub id: WorkspaceId,
    /// Epoch of its last load.
    pub epoch: Epoch,
    /// First offset not covered by what is saved.
    pub next_offset: Offset,
    /// Where it begins: no event below this offset belongs to it.
    pub first_offset: Offset,
    /// An operator unloaded it.
    pub unloaded: bool,
    /// The store cannot read its record: how far it is stored is not known.
    pub damaged: bool,
}

/// A workspace that an operator deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// Its id.
    pub id: WorkspaceId,
    /// Epoch of the deletion; a later load has a later one.
    pub epoch: Epoch,
    /// Events below this offset are deleted with it; one at or above it begins a new workspace.
    pub next_offset: Offset,
}

/// One of the two reads of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Follows the end of the partition, for the workspaces that are caught up.
    Live,
    /// Reads from the smallest `next_offset` up to the live lane, for those that are not.
    CatchUp,
}

impl Lane {
    /// Both, in the order of service.
    pub const ALL: [Self; 2] = [Self::CatchUp, Self::Live];
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::CatchUp => "catch-up",
        })
    }
}

/// A workspace with events in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// The workspace.
    pub id: WorkspaceId,
    /// Offset of its first event in the batch.
    pub first_offset: Offset,
    /// Offset of its last event in the batch.
    pub last_offset: Offset,
}

/// How the events of a batch went for one workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedTo {
    /// The workspace.
    pub slot: Slot,
    /// Events applied.
    pub events: u64,
    /// Bytes that a save has more for them.
    pub bytes: u64,
    /// An event asked for a save.
    pub save_requested: bool,
    /// The event it stopped at, if it did.
    pub poison: Option<Poison>,
}

/// An event that a workspace cannot apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// Where it stands.
    pub offset: Offset,
    /// Why, with its address, as the operator reads it.
    pub reason: String,
    /// What the attempt to apply it did to the workspace.
    pub state: StateAfter,
}

/// A workspace in memory after an event that it could not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateAfter {
    /// As it was before the event.
    Intact,
    /// Nobody knows: half of the event may be in it. It must never be saved.
    Broken,
}

/// Why a load failed, by what can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadFailure {
    /// Try again.
    Retry(String),
    /// It needs an operator.
    Park(String),
    /// A newer load than the store's list told of is known: try with a later epoch.
    Fenced {
        /// The epoch that the store holds.
        stored: Epoch,
    },
}

/// Why a workspace was not erased, by what can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EraseFailure {
    /// A newer load than this partition knows has claimed the workspace.
    Fenced {
        /// The epoch that the store holds.
        stored: Epoch,
    },
    /// The log has removed, or lost, events that the workspace would be rebuilt from.
    LogBeginsLater {
        /// From where on the log has all events.
        low_watermark: Offset,
    },
    /// The store or the log refused, with its error text.
    Failed(String),
}

/// A workspace whose part of a save is not in the store, while the others' are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The workspace.
    pub slot: Slot,
    /// What it means.
    pub refusal: Refusal,
}

/// Why the store refused to save one workspace, by what can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A newer load owns it.
    TakenOver,
    /// Load it again, which may help.
    ForNow(String),
    /// It needs an operator.
    ForGood(String),
}

/// Why a fetch failed, by what can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchFailure {
    /// Try again.
    Retry(String),
    /// The record cannot be read, whoever it belongs to.
    Damaged {
        /// Where it stands.
        offset: Offset,
        /// What is wrong, with its address.
        reason: String,
    },
    /// The log begins later.
    FellOut {
        /// First offset that is still there.
        low_watermark: Offset,
    },
    /// The log has lost what it had there, and goes on behind it.
    Lost {
        /// First offset behind what is lost.
        until: Offset,
    },
    /// The log ends earlier.
    BeyondEnd {
        /// Its end.
        high_watermark: Offset,
    },
}

/// What an operator can do with a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Load it now, before others.
    Load,
    /// Save it and take it out of memory until somebody asks for it, also after a restart. One that is not
    /// in memory, because it waits, is retried or parked, stays out until then or until the next start.
    Unload,
    /// Save it and load it again.
    Reload,
    /// Put the event it stands at into the dead-letter log and go on after it.
    Skip,
    /// Forget what is stored of it and rebuild it from its events in the log. History and dead letters stay.
    Reset {
        /// Also where the log no longer reaches back to its first event: it is rebuilt from what is left.
        force: bool,
    },
    /// Remove its state, its history and its dead letters. Later events begin a new workspace of that name.
    /// Deleting it again does the same again, so that a request without an answer can be repeated.
    Delete,
}

/// Names the asker of a [`Command`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);
