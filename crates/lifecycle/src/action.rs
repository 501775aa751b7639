//! The actions that a partition requests: the driver executes each one and answers with an input.

use std::fmt;
use std::time::Duration;

use workspace_status::Epoch;

use crate::{Lane, Offset, Residence, Slot, Ticket, Urgency};

/// One request to the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Read what the store holds of the partition: first the committed offset, then the
    /// workspaces, so that the list includes a workspace that another process claims in between.
    /// Answer: `Listed` or `ListFailed`.
    List,
    /// Request a load permit, or make a pending request urgent. Answer: `PermitGranted`.
    RequestPermit {
        /// The workspace to load.
        slot: Slot,
        /// Whether a client waits for it.
        urgency: Urgency,
    },
    /// Cancel the pending request for a permit.
    CancelPermit {
        /// The workspace that requested it.
        slot: Slot,
    },
    /// Return a permit that was granted after its request was cancelled.
    ReturnPermit,
    /// Claim the epoch in the store, then read or populate the workspace. The driver
    /// releases the permit at the end. The data read must still be of the claimed epoch:
    /// otherwise a newer load has saved since, and this load is fenced.
    /// Answer: `Loaded` or `LoadFailed`.
    Load {
        /// Which one.
        slot: Slot,
        /// The epoch to claim.
        epoch: Epoch,
        /// `next_offset` of a workspace that the store does not know.
        first_offset: Offset,
    },
    /// Read a batch. Answer: `Fetched` or `FetchFailed`.
    Fetch {
        /// The lane that reads.
        lane: Lane,
        /// First offset to read.
        from: Offset,
        /// Exclusive end: no event at or above this offset.
        until: Offset,
    },
    /// Apply the batch last fetched for the lane. Answer, before any other input: `Applied`.
    Apply {
        /// The lane.
        lane: Lane,
        /// The workspaces, each with its range of offsets. Events of other workspaces are ignored.
        plan: Vec<ApplyTo>,
    },
    /// Save the changes of these workspaces. Answer: `Saved` or `SaveFailed`.
    Save(SavePlan),
    /// Append the event to the dead-letter log. Answer: `DeadLettered` or `DeadLetterFailed`.
    DeadLetter {
        /// The workspace that skips it.
        slot: Slot,
        /// Offset of the event.
        offset: Offset,
        /// Why it is skipped.
        reason: String,
    },
    /// Erase what is stored of the workspace. `Erased` means that the erasure is durable.
    /// Answer: `Erased` or `EraseFailed`.
    Erase {
        /// Which one.
        slot: Slot,
        /// Epoch of the erasure. The store refuses loads and saves of an older epoch from then on.
        epoch: Epoch,
        /// What is erased.
        scope: EraseScope,
    },
    /// Drop the workspace's memory.
    Drop {
        /// Which one.
        slot: Slot,
    },
    /// The workspaces follow the live lane from now on: everything below its cursor is applied to them.
    FollowLive {
        /// Which ones.
        slots: Vec<Slot>,
    },
    /// Update the status of a workspace.
    Report {
        /// The workspace.
        slot: Slot,
        /// The new status.
        report: Report,
    },
    /// Answer an operator.
    Reply {
        /// The command that is answered.
        ticket: Ticket,
        /// Its result.
        result: Result<(), CommandError>,
    },
    /// This process holds no state of the partition any more.
    Released,
}

/// What an operator's command erases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraseScope {
    /// Its entries. An empty workspace that begins at `from` remains.
    ///
    /// Before it erases anything the driver checks that the log begins at or below `from` and will
    /// continue to: a trim whose floor was computed earlier must have finished.
    Reset {
        /// First offset to apply.
        from: Offset,
        /// If the log begins after `from`, begin where the log begins.
        force: bool,
    },
    /// Everything, including its dead letters. A deletion mark remains, so that its events are never applied again.
    Delete {
        /// Events at or above this offset are not deleted.
        below: Offset,
    },
}

/// One workspace's part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyTo {
    /// The workspace.
    pub slot: Slot,
    /// Its first offset not yet applied. Events below it are ignored.
    pub from: Offset,
    /// Exclusive upper limit, if there is one.
    pub until: Option<Offset>,
}

impl ApplyTo {
    /// Whether the event at an offset is to be applied.
    pub fn covers(&self, offset: Offset) -> bool {
        offset >= self.from && self.until.is_none_or(|until| offset < until)
    }
}

/// What one save writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavePlan {
    /// The workspaces.
    pub workspaces: Vec<SaveOne>,
    /// Workspaces out of memory without events of their own: only their `next_offset` advances.
    pub advances: Vec<Advance>,
    /// Below this offset every workspace with events is known to the store.
    pub committed: Offset,
}

/// One workspace's part of a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaveOne {
    /// The workspace.
    pub slot: Slot,
    /// Epoch of its load.
    pub epoch: Epoch,
    /// First offset not covered by its current state.
    pub next_offset: Offset,
    /// Events applied up to there.
    pub events_applied: u64,
    /// Whether it stays in memory after this save.
    pub residence: Residence,
}

/// A workspace out of memory of which only the `next_offset` in the store advances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// The workspace.
    pub slot: Slot,
    /// The epoch that the store must hold. If it holds another one, another owner has loaded or reset the
    /// workspace since.
    pub stored: Epoch,
    /// The epoch to write. It is later than `stored` if that is of a previous owner: later saves of that
    /// owner are then refused.
    pub epoch: Epoch,
    /// It has no unapplied event of its own below this offset.
    pub next_offset: Offset,
}

/// A change of a workspace's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A load begins: `initializing`, then `loading_kafka_partitions` while it waits for a permit.
    Begin {
        /// Its epoch.
        epoch: Epoch,
    },
    /// The permit was granted: `loading_from_persistence`.
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
        /// Number of consecutive failures.
        attempt: u32,
        /// Wait before the next attempt.
        retry_in: Duration,
    },
    /// `error` of kind parked.
    Parked {
        /// What happened and what the operator can do.
        reason: String,
    },
    /// Being saved and removed from memory: `unloading`.
    Unloading {
        /// Why.
        why: &'static str,
    },
    /// No longer in memory on this node.
    Removed {
        /// Why; `Memory` where another process is to load it, or it was deleted.
        residence: Residence,
    },
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Neither the store nor the log knows the workspace.
    #[error("no such workspace")]
    UnknownWorkspace,
    /// There is no event to skip.
    #[error("the workspace is not stopped at an event that it cannot apply")]
    NotStopped,
    /// Another command on it is under way.
    #[error("the workspace is busy with another command, try again")]
    Busy,
    /// Log and store are not ready for the partition yet, or it is being listed.
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
        /// First offset of the workspace.
        first_offset: Offset,
        /// The log has all events from this offset on.
        low_watermark: Offset,
    },
    /// The command was executed and failed.
    #[error("{0}")]
    Failed(String),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List => write!(f, "list"),
            Self::RequestPermit { slot, urgency } => {
                write!(f, "request a permit for {slot}, {urgency}")
            }
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
            Self::Erase { slot, epoch, scope } => {
                write!(f, "erase {slot} at epoch {epoch}, {scope}")
            }
            Self::Drop { slot } => write!(f, "drop {slot}"),
            Self::FollowLive { slots } => {
                write!(f, "follow the live lane:")?;
                slots.iter().try_for_each(|slot| write!(f, " {slot}"))
            }
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

impl fmt::Display for EraseScope {
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
            match one.residence {
                Residence::Memory => f.write_str(", ")?,
                Residence::Unloaded | Residence::Evicted => write!(f, " {}, ", one.residence)?,
            }
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
            Self::Removed {
                residence: Residence::Memory,
            } => write!(f, "removed"),
            Self::Removed { residence } => write!(f, "removed, {residence}"),
        }
    }
}
