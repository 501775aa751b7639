//! Loads of a partition's workspaces: their permits, their jobs, and what the load threads return.

use std::sync::Arc;

use workspace_lifecycle::{Input, LoadFailure, Offset, Slot};
use workspace_status::Epoch;

use super::Driver;
use super::presence::{InMemory, Presence, Replay};
use crate::jobs::LoadJob;
use crate::message::LoadDone;
use crate::permits::Permit;

impl Driver {
    pub(super) fn permit(&self, slot: Slot) -> Permit {
        Permit {
            assignment: Arc::clone(&self.assignment),
            slot,
            id: self.machine.workspace_id(slot).clone(),
        }
    }

    /// Sends the load to the load threads; `Some` if it fails at once.
    pub(super) fn load(&mut self, slot: Slot, epoch: Epoch, first_offset: Offset) -> Option<Input> {
        let Some(attempt) = self.presences.attempt(slot).cloned() else {
            self.shared.permits.release();
            return Some(Input::LoadFailed {
                slot,
                epoch,
                claimed: false,
                failure: LoadFailure::Retry("its status belongs to another load".to_owned()),
            });
        };
        self.shared.load(LoadJob {
            assignment: Arc::clone(&self.assignment),
            slot,
            id: self.machine.workspace_id(slot).clone(),
            epoch,
            first_offset,
            attempt,
            live: Arc::clone(&self.live),
        });
        None
    }

    pub(super) fn loaded(&mut self, done: LoadDone) {
        let slot = done.slot;
        // A late result must not replace what is in memory now.
        if !self.machine.awaits_load(slot, done.epoch) {
            return;
        }
        let unsaved = !done.populated.is_empty();
        let resident = InMemory {
            attempt: done.attempt,
            workspace: done.workspace,
            replay: Replay {
                events_before: done.applied.events_applied,
                ..Replay::default()
            },
            taken: Ok(done.populated),
            load_began: done.began,
            load_ms: None,
        };
        let presence = Presence::InMemory(Box::new(resident));
        self.presences.set(slot, presence);
        self.input(Input::Loaded {
            slot,
            epoch: done.epoch,
            first_offset: done.first_offset,
            next_offset: done.applied.next_offset,
            events_applied: done.applied.events_applied,
            unsaved,
            high_watermark: self.shared.log.high_watermark(self.id),
        });
    }
}
