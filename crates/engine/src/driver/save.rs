//! Saves of a partition: what was changed since the last one, with the offset that it covers.
//!
//! The partition's thread takes the changes from memory ([`Driver::save`]) and continues to read. The save thread writes
//! them (`threads/saver.rs`): the store makes the changes and the `next_offset` of each workspace visible together or not
//! at all, and the committed offset not before the last of them. Then the machine gets `Saved` and raises the trim
//! floor. What a `kill -9` leaves:
//!
//! | killed | the store holds | the next start |
//! |---|---|---|
//! | before the write | the previous save | replays from the previous `next_offset` |
//! | within the write | of each workspace the previous save or this one, never a part; workspaces of one save may differ | replays from the `next_offset` that it finds |
//! | after the write, before `Saved` | this save | replays from this `next_offset` |
//!
//! So every event is in the store or is applied again, once. The events are still in the log: it is trimmed only below
//! the floor of saves that the store has synced (`threads/upkeep.rs`). After a power loss a save that was not synced may
//! be missing too, which is the first row. On a Kafka cluster a save is a transaction: what a `kill -9` within it leaves is
//! in `changelog/writer.rs` of that crate.

use workspace_lifecycle::{Refusal, Refused, Residence, SavePlan, Slot};

use super::Driver;
use crate::jobs::SaveJob;
use crate::panics::caught;
use crate::store::Save;

impl Driver {
    pub(super) fn save(&mut self, plan: &SavePlan) {
        let mut saves = Vec::with_capacity(plan.workspaces.len() + plan.advances.len());
        let mut refused = Vec::new();
        for one in &plan.workspaces {
            let slot = one.slot;
            let Some(resident) = self.presences.resident_mut(slot) else {
                continue;
            };
            let taken = resident.taken.as_mut().map_err(|reason| reason.clone());
            let taken = taken.and_then(|changes| {
                let (fresh, entries) = caught("taking its changes", || {
                    resident
                        .workspace
                        .write(|workspace, _| (workspace.take_changes(), workspace.entries()))
                })?;
                let mut changes = std::mem::take(changes);
                if changes.is_empty() {
                    changes = fresh;
                } else {
                    changes.extend(fresh);
                }
                Ok((changes, entries))
            });
            match taken {
                Ok((changes, entries)) => {
                    let save = Save {
                        id: self.machine.workspace_id(slot).clone(),
                        epoch: one.epoch,
                        next_offset: one.next_offset,
                        events_applied: one.events_applied,
                        entries,
                        changes,
                        last_load_ms: resident.load_ms.take(),
                        residence: one.residence,
                        only_offset: None,
                    };
                    saves.push((slot, save));
                }
                Err(reason) => {
                    resident.taken = Err(reason.clone());
                    let refusal = Refusal::ForGood(reason);
                    refused.push(Refused { slot, refusal });
                }
            }
        }
        saves.extend(plan.advances.iter().map(|one| {
            let save = Save {
                id: self.machine.workspace_id(one.slot).clone(),
                epoch: one.epoch,
                next_offset: one.next_offset,
                events_applied: 0,
                entries: 0,
                changes: Vec::new(),
                last_load_ms: None,
                residence: Residence::Memory,
                only_offset: Some(one.stored),
            };
            (one.slot, save)
        }));
        self.shared.save(SaveJob {
            assignment: self.assignment.clone(),
            saves,
            refused,
            committed: plan.committed,
        });
    }

    /// Changes of a failed save go first into the next one, unless the workspace left memory meanwhile.
    pub(super) fn take_back(&mut self, saves: Vec<(Slot, Save)>) {
        for (slot, save) in saves {
            if let Some(resident) = self.presences.resident_mut(slot)
                && resident.attempt.epoch() == save.epoch
                && let Ok(taken) = &mut resident.taken
            {
                *taken = save.changes;
                resident.load_ms = resident.load_ms.or(save.last_load_ms);
            }
        }
    }
}
