//! The inputs of a partition: answers of the log and the store, permits, time and operators' commands.

use std::fmt;

use workspace_status::{Epoch, WorkspaceId};

use crate::{Offset, Residence, Slot};

/// One event in the life of a partition.
#[derive(Debug, Clone)]
pub enum Input {
    /// This process owns the partition from now on.
    Assigned,
    /// The store listed what it holds of the partition.
    Listed(Listing),
    /// The store could not list it.
    ListFailed {
        /// The store's error text.
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
        /// Epoch of the load; answers to an older one are ignored.
        epoch: Epoch,
        /// First offset of the workspace: no event below it belongs to it.
        first_offset: Offset,
        /// First offset not covered by what was loaded.
        next_offset: Offset,
        /// Events applied up to there.
        events_applied: u64,
        /// Whether it holds data that the store does not (it was populated).
        unsaved: bool,
        /// Current end of the partition: the target of the replay.
        high_watermark: Offset,
    },
    /// A load failed.
    LoadFailed {
        /// Which one.
        slot: Slot,
        /// Epoch of the load.
        epoch: Epoch,
        /// True if the store is known to hold that epoch.
        claimed: bool,
        /// The kind of failure.
        failure: LoadFailure,
    },
    /// The log answered a fetch.
    Fetched {
        /// The lane that fetched.
        lane: Lane,
        /// First offset of the next fetch.
        next_offset: Offset,
        /// End of the partition.
        high_watermark: Offset,
        /// The workspaces of the batch, each with its first and last offset.
        touched: Vec<Touched>,
    },
    /// The log could not answer a fetch.
    FetchFailed {
        /// The lane that fetched.
        lane: Lane,
        /// The kind of failure.
        failure: FetchFailure,
    },
    /// The events of a batch were applied as planned.
    Applied {
        /// The lane of the batch.
        lane: Lane,
        /// The result for every workspace of the plan.
        results: Vec<AppliedTo>,
    },
    /// The partition has grown.
    Appended {
        /// Its current end.
        high_watermark: Offset,
    },
    /// The store took the save under way.
    Saved {
        /// The workspaces of the plan that it refused.
        refused: Vec<Refused>,
    },
    /// The save under way failed as a whole.
    SaveFailed {
        /// The store's error text.
        reason: String,
    },
    /// A skipped event is in the dead-letter log.
    DeadLettered {
        /// The workspace.
        slot: Slot,
        /// The event.
        offset: Offset,
    },
    /// The dead-letter log did not take the event, so it is not skipped.
    DeadLetterFailed {
        /// The workspace.
        slot: Slot,
        /// Why.
        reason: String,
    },
    /// An operator sent a command.
    Operator {
        /// Its workspace.
        id: WorkspaceId,
        /// The command.
        command: Command,
        /// Identifies the answer.
        ticket: Ticket,
        /// First offset that is still in the log.
        low_watermark: Offset,
    },
    /// What was stored of a workspace is durably erased.
    Erased {
        /// The workspace.
        slot: Slot,
        /// Epoch of the erasure; answers to an older one are ignored.
        epoch: Epoch,
        /// Epoch that the store recorded: later than `epoch` if the erased record could not be read but the
        /// store knows of a later load.
        stored: Epoch,
        /// First offset that the workspace applies from now on.
        next_offset: Offset,
        /// What was not erased outside the store (its dead letters), and why. The operator gets it as an error.
        left_over: Option<String>,
    },
    /// The erasure failed, or its outcome is unknown.
    EraseFailed {
        /// The workspace.
        slot: Slot,
        /// Epoch of the erasure.
        epoch: Epoch,
        /// The kind of failure.
        failure: EraseFailure,
    },
    /// Memory is needed: these workspaces are saved and leave it. One that is not ready, or that a client waits for,
    /// stays.
    Evict {
        /// Which ones.
        slots: Vec<Slot>,
    },
    /// Time has passed.
    Tick,
    /// The partition is to be handed over: save, then release it.
    Revoked,
    /// Another process owns the partition already: release it without saving.
    Lost,
}

/// What the store holds of a partition, with the log's bounds at that time.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Its workspaces.
    pub workspaces: Vec<Known>,
    /// Workspaces that were deleted while the log may still hold their events.
    pub deleted: Vec<Deleted>,
    /// Every workspace with events below this offset is in `workspaces`.
    pub committed: Offset,
    /// First offset that is still in the log.
    pub low_watermark: Offset,
    /// End of the partition.
    pub high_watermark: Offset,
    /// Every load of this assignment has this epoch or a later one; every load of a previous one has an earlier.
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
    /// Its first offset: no event below it belongs to it.
    pub first_offset: Offset,
    /// Whether its owner kept it in memory.
    pub residence: Residence,
    /// The store cannot read its record, so how far it is stored is unknown.
    pub damaged: bool,
}

/// A workspace that an operator deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// Its id.
    pub id: WorkspaceId,
    /// Epoch of the deletion; later loads have a later epoch.
    pub epoch: Epoch,
    /// Events below this offset are deleted with it; an event at or above it begins a new workspace.
    pub next_offset: Offset,
}

/// One of the two readers of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Follows the end of the partition, for the workspaces that have caught up.
    Live,
    /// Reads from the smallest `next_offset` up to the live lane, for the other workspaces.
    CatchUp,
}

impl Lane {
    /// Both, in order of service.
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

/// The result of a batch for one workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedTo {
    /// The workspace.
    pub slot: Slot,
    /// Events applied.
    pub events: u64,
    /// Bytes that these events add to the next save.
    pub bytes: u64,
    /// An event requested a save.
    pub save_requested: bool,
    /// The event that it could not apply, if any.
    pub poison: Option<Poison>,
}

/// An event that a workspace cannot apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// Offset of the event.
    pub offset: Offset,
    /// The message for the operator: why, with the event's address.
    pub reason: String,
    /// State of the workspace after the attempt.
    pub state: StateAfter,
}

/// A workspace in memory after an event that it could not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateAfter {
    /// As it was before the event.
    Intact,
    /// Unknown: the event may be half applied. It must never be saved.
    Broken,
}

/// Why a load failed, by what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadFailure {
    /// Try again.
    Retry(String),
    /// An operator must act.
    Park(String),
    /// The store knows a newer load than it listed: try again with a later epoch.
    Fenced {
        /// The epoch that the store holds.
        stored: Epoch,
    },
}

/// Why an erasure failed, by what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EraseFailure {
    /// A newer load, unknown to this partition, has claimed the workspace.
    Fenced {
        /// The epoch that the store holds.
        stored: Epoch,
    },
    /// The log has removed or lost events that the rebuild needs.
    LogBeginsLater {
        /// The log has all events from this offset on.
        low_watermark: Offset,
    },
    /// The store or the log failed, with its error text. The erasure may have happened all the same.
    Failed(String),
}

/// A workspace whose part of a save the store refused, while it took the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The workspace.
    pub slot: Slot,
    /// The kind of failure.
    pub refusal: Refusal,
}

/// Why the store refused to save one workspace, by what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A newer load owns it.
    TakenOver,
    /// Loading it again may help.
    ForNow(String),
    /// An operator must act.
    ForGood(String),
}

/// Why a fetch failed, by what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchFailure {
    /// Try again.
    Retry(String),
    /// The record cannot be read, so its workspace is unknown.
    Damaged {
        /// Offset of the record.
        offset: Offset,
        /// What is wrong, with the record's address.
        reason: String,
    },
    /// The log begins after the requested offset.
    FellOut {
        /// First offset that is still in the log.
        low_watermark: Offset,
    },
    /// The log has lost the records at the requested offset and continues after them.
    Lost {
        /// First offset after the lost records.
        until: Offset,
    },
    /// The log ends before the requested offset.
    BeyondEnd {
        /// Its end.
        high_watermark: Offset,
    },
}

/// An operator's command on a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Load it now, before the ordinary queue.
    Load,
    /// Save it and remove it from memory until it is requested, also after a restart. A workspace that is not
    /// in memory (queued, retrying, parked or evicted) stays out until then, or until the next start.
    Unload,
    /// Save it and load it again.
    Reload,
    /// Move the event that it cannot apply into the dead-letter log and continue after it.
    Skip,
    /// Erase its stored state and rebuild it from its events in the log. History and dead letters remain.
    Reset {
        /// Also if its first events are no longer in the log: rebuild it from the events that are left.
        force: bool,
    },
    /// Remove its state, its history and its dead letters. Later events begin a new workspace of that name.
    /// Deleting is repeatable, so that a client can retry a request whose answer was lost.
    Delete,
}

/// Identifies a [`Command`] for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);
