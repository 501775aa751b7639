//! What the driver of a partition keeps of each workspace besides the machine's own state.

use std::sync::Arc;
use std::time::Instant;

use workspace_lifecycle::{Offset, Slot};
use workspace_status::{Attempt, Progress, Value, WorkspaceStatus};

use crate::loaded::Resident;
use crate::store::Change;

/// Where a workspace is, as its status and memory show it.
///
/// ```text
/// Absent ──begin──► Shown ──loaded──► InMemory
///   ▲                │ ▲                 │
///   └────removed─────┘ └──────drop───────┘
/// ```
pub(super) enum Presence {
    /// Not in the tracker.
    Absent,
    /// In the tracker, with a status that belongs to a later load than this driver's.
    Refused(Arc<WorkspaceStatus>),
    /// In the tracker and not in memory: it waits for a permit, is being loaded, or its load failed.
    Shown(Attempt),
    /// Loaded.
    InMemory(Box<InMemory>),
}

/// A workspace in memory.
pub(super) struct InMemory {
    pub(super) attempt: Attempt,
    pub(super) workspace: Arc<Resident>,
    pub(super) replay: Replay,
    /// Changes that were taken from the workspace and wait for the next save: those of its populate source, and those
    /// of a save that failed. An error if taking them failed: some are lost, so the workspace can never be saved.
    pub(super) taken: Result<Vec<Change>, String>,
    pub(super) load_began: Instant,
    /// How long the load took, from its begin until the workspace was ready; the next save stores it.
    pub(super) load_ms: Option<u64>,
}

/// The replay of a workspace; all zero before it begins.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) from: Offset,
    pub(super) target: Offset,
    /// Events applied before it.
    pub(super) events_before: u64,
    /// Shown until the workspace is ready.
    pub(super) progress: Option<Progress>,
    /// Position last written to the metadata.
    pub(super) reported: Option<Offset>,
}

impl Replay {
    /// The metadata of a workspace at `next_offset`, by the contract's names.
    pub(super) fn metadata(
        &self,
        partition_status: &'static str,
        next_offset: Offset,
        events_applied: u64,
    ) -> [(&'static str, Value); 5] {
        let total = self.target.since(self.from);
        let done = next_offset.since(self.from).min(total);
        #[expect(clippy::cast_precision_loss, reason = "a share shown to people")]
        let percent = if total == 0 {
            100.0
        } else {
            done as f64 * 100.0 / total as f64
        };
        let replayed = events_applied.saturating_sub(self.events_before);
        [
            ("partition_status", Value::from(partition_status)),
            ("partition_offset", Value::from(next_offset.0)),
            ("events_processed", Value::from(done)),
            ("events_replayed", Value::from(replayed)),
            ("progress_percent", Value::from(percent)),
        ]
    }
}

/// The presence of each workspace of the partition.
#[derive(Default)]
pub(super) struct Presences(Vec<Presence>);

impl Presences {
    pub(super) fn set(&mut self, slot: Slot, presence: Presence) {
        let index = slot.index();
        if index >= self.0.len() {
            self.0.resize_with(index + 1, || Presence::Absent);
        }
        if let Some(place) = self.0.get_mut(index) {
            *place = presence;
        }
    }

    /// The presence before; it is absent from now on.
    pub(super) fn take(&mut self, slot: Slot) -> Presence {
        let place = self.0.get_mut(slot.index());
        place.map_or(Presence::Absent, |place| {
            std::mem::replace(place, Presence::Absent)
        })
    }

    /// Drops the memory of a workspace; its status stays.
    pub(super) fn drop_memory(&mut self, slot: Slot) {
        if let Some(resident) = self.resident(slot) {
            let attempt = resident.attempt.clone();
            self.set(slot, Presence::Shown(attempt));
        }
    }

    /// The load that may write the status of a workspace.
    pub(super) fn attempt(&self, slot: Slot) -> Option<&Attempt> {
        match self.0.get(slot.index())? {
            Presence::Shown(attempt) => Some(attempt),
            Presence::InMemory(resident) => Some(&resident.attempt),
            Presence::Absent | Presence::Refused(_) => None,
        }
    }

    pub(super) fn resident(&self, slot: Slot) -> Option<&InMemory> {
        match self.0.get(slot.index())? {
            Presence::InMemory(resident) => Some(resident),
            Presence::Absent | Presence::Refused(_) | Presence::Shown(_) => None,
        }
    }

    pub(super) fn resident_mut(&mut self, slot: Slot) -> Option<&mut InMemory> {
        match self.0.get_mut(slot.index())? {
            Presence::InMemory(resident) => Some(resident),
            Presence::Absent | Presence::Refused(_) | Presence::Shown(_) => None,
        }
    }
}
