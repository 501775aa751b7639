//! What a partition wants done: the driver does it and answers with an input.

use std::fmt;
use std::time::Duration;

use workspace_status::Epoch;

use crate::{Lane, Offset, Slot, Ticket, Urgency};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the store what it knows of the partition: first what is committed, then the
    /// workspaces, so that one that another process claims in between is among them.
    /// Answer: `Listed` or `ListFailed`.
    List,
    /// Ask for a load permit, or make the wish urgent. Answer: `PermitGranted`.
    AskPermit {
        /// For whom.
        slot: Slot,
        /// Whether somebody waits.
        urgency: Urgency,
    },
    /// Take the wish for a permit back.
    CancelPermit {
        /// Whose.
        slot: Slot,
    },
    /// Give a permit back that came too late to be used.
    ReturnPermit,
    /// Claim the epoch in the store, then read or populate the workspace; the permit
    /// goes back when that is over. What is read must still be of the claimed epoch:
    /// otherwise it holds what a newer load has saved since, and the load is fenced.
    /// Answer: `Loaded` or `LoadFailed`.
    Load {
        /// Which one.
        slot: Slot,
        /// The epoch to claim.
        epoch: Epoch,
        /// `next_offset` if the store does not know it.
        first_offset: Offset,
    },
    /// Read a batch. Answer: `Fetched` or `FetchFailed`.
    Fetch {
        /// For which lane.
        lane: Lane,
        /// From here on.
        from: Offset,
        /// Nothing at or above this.
        until: Offset,
    },
    /// Apply the batch last fetched for the lane. Answer, before anything else: `Applied`.
    Apply {
        /// The lane.
        lane: Lane,
        /// To whom, and from which offset on; events of others are passed over.
        plan: Vec<ApplyTo>,
    },
    /// Take the changes of these workspaces and save them. Answer: `Saved` or `SaveFailed`.
    Save(SavePlan),
    /// Keep the event in the dead-letter log. Answer: `DeadLettered` or `DeadLetterFailed`.
    DeadLetter {
        /// The workspace that skips it.
        slot: Slot,
        /// Where it stands.
        offset: Offset,
        /// Why it is skipped.
        reason: String,
    },
    /// Erase what is stored of the workspace. When the answer `Erased` is given, that is durable.
    /// Answer: `Erased` or `EraseFailed`.
    Erase {
        /// Which one.
        slot: Slot,
        /// The epoch of the erasure: loads and saves of an older one are refused from then on.
        epoch: Epoch,
        /// What of it, and what stays.
        erasure: Erasure,
    },
    /// Drop the workspace's memory.
    Drop {
        /// Which one.
        slot: Slot,
    },
    /// Tell the status.
    Report {
        /// Of which workspace.
        slot: Slot,
        /// What.
        report: Report,
    },
    /// Answer an operator.
    Reply {
        /// Who asked.
        ticket: Ticket,
        /// What came of it.
        result: Result<(), CommandError>,
    },
    /// Nothing of the partition is left here.
    Released,
}

/// What an operator wants erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasure {
    /// Its entries. An empty workspace stays, which begins at `from`.
    ///
    /// Before it erases anything the driver makes sure that the log still begins at or below `from`, and
    /// that it goes on doing so: a trim whose floor was taken earlier must be over.
    Reset {
        /// First offset to apply.
        from: Offset,
        /// Where the log begins later, begin there.
        force: bool,
    },
    /// Everything, its dead letters included. A mark stays, so that its events are never applied again.
    Delete {
        /// Events at or above this offset are not deleted.
        below: Offset,
    },
}

/// One workspace's part in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyTo {
    /// The workspace.
    pub slot: Slot,
    /// Its first offset not yet applied; events below are passed over.
    pub from: Offset,
    /// Events from here on are not applied, where there is such a limit.
    pub until: Option<Offset>,
}

impl ApplyTo {
    /// Whether the event at an offset is to be applied.
    pub fn covers(&self, offset: Offset) -> bool {
        offset >= self.from && self.until.is_none_or(|until| offset < until)
    }
}

/// What to save in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavePlan {
    /// The workspaces.
    pub workspaces: Vec<SaveOne>,
    /// Workspaces out of memory without events of their own: only their `next_offset` moves on.
    pub advances: Vec<Advance>,
    /// Below this offset every workspace with events is known to the store.
    pub committed: Offset,
}

/// One workspace's part in a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaveOne {
    /// The workspace.
    pub slot: Slot,
    /// Epoch of its load.
    pub epoch: Epoch,
    /// First offset not covered by its state now.
    pub next_offset: Offset,
    /// Events applied up to there.
    pub events_applied: u64,
    /// It stays out of memory after this until somebody asks for it.
    pub unloaded: bool,
}

/// A workspace out of memory whose `next_offset` in the store moves on, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// The workspace.
    pub slot: Slot,
    /// The epoch that the store must have. With another one the workspace is not what the partition knows: it was
    /// loaded, or reset, by another owner.
    pub stored: Epoch,
    /// The epoch that moves it. It is later than the store's where that is of a previous owner, who then saves
    /// nothing more.
    pub epoch: Epoch,
    /// Below this offset no event of its own is left to be applied.
    pub next_offset: Offset,
}

/// What the status of a workspace is to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A load begins: `initializing`, then `loading_kafka_partitions` while it waits for a permit.
    Begin {
        /// Its epoch.
        epoch: Epoch,
    },
    /// The permit is there: `loading_from_persistence`.
    Load,
    /// In memory, waiting for its first event: `replaying_events`.
    Replay {
        /// First offset not applied.
        from: Offset,
        /// End of the replay.
        target: Offset,
    },
    /// The target is reached: `ready`, after it answered a read.
    Ready,
    /// `error` of kind retrying.
    Retrying {
        /// What happened.
        reason: String,
        /// Number of the failure in a row.
        attempt: u32,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// `error` of kind parked.
    Parked {
        /// What happened and what would help.
        reason: String,
    },
    /// Being saved and taken out of memory: `unloading`.
    Unloading {
        /// Why.
        why: &'static str,
    },
    /// No longer here.
    Gone,
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Neither the store nor the log knows the workspace.
    #[error("no such workspace")]
    UnknownWorkspace,
    /// There is no event to skip.
    #[error("the workspace does not stand at an event that it cannot apply")]
    NotStopped,
    /// It is on its way out, or a skip is under way.
    #[error("the workspace is busy with another command, try again")]
    Busy,
    /// Log and store are not ready for the partition yet.
    #[error("the partition is being taken over, try again")]
    Opening,
    /// The partition is being handed over.
    #[error("the partition is being handed over")]
    Leaving,
    /// The events that it would be rebuilt from are not all in the log.
    #[error(
        "the log has all events from offset {low_watermark} on only, but the workspace begins at {first_offset}: the others \
         were removed by retention, or lost, and only the store holds what they did; nothing was reset. Reset it with \
         force to rebuild it from the events that are left"
    )]
    LogBeginsLater {
        /// Where the workspace begins.
        first_offset: Offset,
        /// From where on the log has all events.
        low_watermark: Offset,
    },
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List => write!(f, "list"),
            Self::AskPermit { slot, urgency } => write!(f, "ask a permit for {slot}, {urgency}"),
            Self::CancelPermit { slot } => write!(f, "cancel the permit of {slot}"),
            Self::ReturnPermit => write!(f, "return a permit"),
            Self::Load {
                slot,
                epoch,
                first_offset,
            } => {
                write!(
                    f,
                    "load {slot} at epoch {epoch}, if unknown from {first_offset}"
                )
            }
            Self::Fetch { lane, from, until } => {
                write!(f, "fetch {from}..{until} for the {lane} lane")
            }
            Self::Apply { lane, plan } => {
                write!(f, "apply the batch of the {lane} lane to")?;
                plan.iter().try_for_each(|apply| {
                    write!(f, " {} from {}", apply.slot, apply.from)?;
                    apply
                        .until
                        .map_or(Ok(()), |until| write!(f, " until {until}"))
                })
            }
            Self::Save(plan) => write!(f, "save {plan}"),
            Self::DeadLetter {
                slot,
                offset,
                reason,
            } => write!(f, "dead-letter {offset} of {slot}: {reason}"),
            Self::Erase {
                slot,
                epoch,
                erasure,
            } => write!(f, "erase {slot} at epoch {epoch}, {erasure}"),
            Self::Drop { slot } => write!(f, "drop {slot}"),
            Self::Report { slot, report } => write!(f, "report {slot} {report}"),
            Self::Reply {
                ticket,
                result: Ok(()),
            } => write!(f, "reply to {}: done", ticket.0),
            Self::Reply {
                ticket,
                result: Err(error),
            } => write!(f, "reply to {}: {error}", ticket.0),
            Self::Released => write!(f, "released"),
        }
    }
}

impl fmt::Display for Erasure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset { from, force: false } => write!(f, "reset to {from}"),
            Self::Reset { from, force: true } => write!(f, "reset to {from} by force"),
            Self::Delete { below } => write!(f, "delete below {below}"),
        }
    }
}

impl fmt::Display for SavePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.workspaces {
            write!(f, "{} at {} epoch {}", one.slot, one.next_offset, one.epoch)?;
            f.write_str(if one.unloaded { " unloaded, " } else { ", " })?;
        }
        for one in &self.advances {
            write!(
                f,
                "only advance {} to {} epoch {}, ",
                one.slot, one.next_offset, one.epoch
            )?;
        }
        write!(f, "committed {}", self.committed)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin { epoch } => write!(f, "initializing at epoch {epoch}"),
            Self::Load => write!(f, "loading"),
            Self::Replay { from, target } => write!(f, "replaying {from}..{target}"),
            Self::Ready => write!(f, "ready"),
            Self::Retrying {
                reason,
                attempt,
                retry_in,
            } => write!(
                f,
                "retrying after failure {attempt}, in {retry_in:?}: {reason}"
            ),
            Self::Parked { reason } => write!(f, "parked: {reason}"),
            Self::Unloading { why } => write!(f, "unloading: {why}"),
            Self::Gone => write!(f, "gone"),
        }
    }
}
