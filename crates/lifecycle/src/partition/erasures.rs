//! Resets and deletions: an operator erases the stored state of a workspace.
//!
//! They work in every phase, because they are the way out of damage. The workspace leaves memory at once,
//! unsaved. The erasure has an epoch of its own, so that no earlier load or save can restore the erased
//! state. It takes effect when the store answers that it is durable.

use workspace_status::Epoch;

use super::{Ownership, Partition};
use crate::workspace::{BeforeErasing, Erasing, Phase, Quiet, StoredEpoch};
use crate::{
    Action, CommandError, EraseFailure, EraseScope, Offset, Report, Residence, Slot, Ticket,
};

impl Partition {
    pub(super) fn reset(
        &mut self,
        slot: Slot,
        force: bool,
        ticket: Ticket,
        low_watermark: Offset,
    ) -> Option<Result<(), CommandError>> {
        let first_offset = self.workspaces.at(slot).first_offset;
        if low_watermark > first_offset && !force {
            return Some(Err(CommandError::LogBeginsLater {
                first_offset,
                low_watermark,
            }));
        }
        let from = first_offset.max(low_watermark);
        self.erase(slot, EraseScope::Reset { from, force }, ticket);
        None
    }

    pub(super) fn delete(
        &mut self,
        slot: Slot,
        ticket: Ticket,
    ) -> Option<Result<(), CommandError>> {
        let below = self.high_watermark;
        self.erase(slot, EraseScope::Delete { below }, ticket);
        None
    }

    fn erase(&mut self, slot: Slot, scope: EraseScope, ticket: Ticket) {
        let why = match scope {
            EraseScope::Reset { .. } => "an operator resets it",
            EraseScope::Delete { .. } => "an operator deletes it",
        };
        self.refuse_ticket(slot, CommandError::Failed(why.to_owned()));
        let before = match self.workspaces.at(slot).phase {
            Phase::Cold => BeforeErasing::Cold,
            Phase::Deleted => {
                self.deleted -= 1;
                BeforeErasing::Deleted
            }
            Phase::Queued => {
                self.loading -= 1;
                self.out.push(Action::CancelPermit { slot });
                BeforeErasing::Loadable
            }
            Phase::Loading => {
                self.loading -= 1;
                BeforeErasing::Loadable
            }
            Phase::Retrying { at } => {
                self.retries.remove(&(at, slot));
                BeforeErasing::Loadable
            }
            Phase::Waiting
            | Phase::Following { .. }
            | Phase::Stopped { .. }
            | Phase::Leaving { .. } => {
                self.step_out(slot);
                self.out.push(Action::Drop { slot });
                BeforeErasing::Loadable
            }
            Phase::Parked | Phase::Erasing(_) => BeforeErasing::Loadable,
        };
        self.stopping.remove(&slot);
        let was_unclaimed = self.unclaimed.contains(&slot);
        let workspace = self.workspaces.at_mut(slot);
        workspace.stops_before = None;
        workspace.target = None;
        workspace.ready_since = None;
        workspace.urgent = false;
        workspace.epoch = workspace.epoch.next();
        workspace.phase = Phase::Erasing(Erasing {
            scope,
            ticket: Some(ticket),
            before,
            was_unclaimed,
            met: None,
        });
        let epoch = workspace.epoch;
        if before == BeforeErasing::Loadable {
            self.report(slot, Report::Unloading { why });
        }
        self.out.push(Action::Erase { slot, epoch, scope });
    }

    pub(super) fn erased(
        &mut self,
        slot: Slot,
        epoch: Epoch,
        stored: Epoch,
        next_offset: Offset,
        result: Result<(), CommandError>,
    ) {
        let Some(erasing) = self.end_of_erasing(slot, epoch) else {
            return;
        };
        self.unclaimed.remove(&slot);
        let workspace = self.workspaces.at_mut(slot);
        workspace.epoch = workspace.epoch.max(stored);
        workspace.next_offset = next_offset;
        workspace.saved_next_offset = next_offset;
        workspace.events_applied = 0;
        workspace.stored_epoch = StoredEpoch::Own(stored);
        workspace.damaged = false;
        workspace.failures.clear();
        self.set_quiet(slot, Quiet::Until(next_offset));
        let workspace = self.workspaces.at_mut(slot);
        match erasing.scope {
            EraseScope::Reset { .. } => {
                workspace.first_offset = next_offset;
                if self.ownership == Ownership::Owned {
                    workspace.urgent = true;
                    self.begin_load(slot);
                } else if erasing.before == BeforeErasing::Loadable {
                    self.report(
                        slot,
                        Report::Removed {
                            residence: Residence::Memory,
                        },
                    );
                }
            }
            EraseScope::Delete { .. } => {
                workspace.residence = Residence::Memory;
                workspace.phase = Phase::Deleted;
                self.deleted += 1;
                if erasing.before == BeforeErasing::Loadable {
                    self.report(
                        slot,
                        Report::Removed {
                            residence: Residence::Memory,
                        },
                    );
                }
                if let Some(first) = erasing.successor(next_offset) {
                    self.begin_new(slot, first);
                }
            }
        }
        self.answer_erasing(&erasing, result);
    }

    pub(super) fn erase_failed(&mut self, slot: Slot, epoch: Epoch, failure: EraseFailure) {
        let Some(erasing) = self.end_of_erasing(slot, epoch) else {
            return;
        };
        if !erasing.was_unclaimed {
            self.unclaimed.remove(&slot);
        }
        // The erasure may have happened all the same; only a load finds out. Until then the log keeps the events
        // that a reset would apply again, and a deleted workspace counts as unknown to the store.
        let may_have_happened = matches!(failure, EraseFailure::Failed(_));
        match erasing.scope {
            EraseScope::Reset { from, .. } if may_have_happened => {
                let workspace = self.workspaces.at_mut(slot);
                workspace.saved_next_offset = workspace.saved_next_offset.min(from);
            }
            EraseScope::Delete { .. }
                if may_have_happened && erasing.before != BeforeErasing::Deleted =>
            {
                self.unclaimed.insert(slot);
            }
            EraseScope::Reset { .. } | EraseScope::Delete { .. } => {}
        }
        if may_have_happened || erasing.before == BeforeErasing::Loadable {
            let saved = self.workspaces.at(slot).saved_next_offset;
            self.set_quiet(slot, Quiet::Until(saved));
        }
        let workspace = self.workspaces.at_mut(slot);
        let error = match failure {
            EraseFailure::Fenced { stored } => {
                workspace.epoch = workspace.epoch.max(stored);
                CommandError::Failed(format!(
                    "epoch {epoch} is not above {stored}, which the store holds: a newer load has taken the \
                     workspace over, try again"
                ))
            }
            EraseFailure::LogBeginsLater { low_watermark } => CommandError::LogBeginsLater {
                first_offset: workspace.first_offset,
                low_watermark,
            },
            EraseFailure::Failed(reason) => CommandError::Failed(reason),
        };
        match erasing.before {
            BeforeErasing::Cold
                if (may_have_happened || workspace.residence == Residence::Evicted)
                    && self.ownership == Ownership::Owned =>
            {
                self.begin_load(slot);
            }
            BeforeErasing::Cold => {}
            BeforeErasing::Deleted => {
                workspace.phase = Phase::Deleted;
                self.deleted += 1;
                if let Some(first) = erasing.successor(workspace.next_offset) {
                    self.begin_new(slot, first);
                }
            }
            BeforeErasing::Loadable if self.ownership == Ownership::Owned => self.begin_load(slot),
            BeforeErasing::Loadable => self.report(
                slot,
                Report::Removed {
                    residence: Residence::Memory,
                },
            ),
        }
        self.answer_erasing(&erasing, Err(error));
    }

    /// Ends the erasure of `epoch` and makes the workspace cold; `None` if it is not the one under way.
    fn end_of_erasing(&mut self, slot: Slot, epoch: Epoch) -> Option<Erasing> {
        let workspace = self.workspaces.at_mut(slot);
        if workspace.epoch != epoch {
            return None;
        }
        let Phase::Erasing(erasing) = &workspace.phase else {
            return None;
        };
        let erasing = erasing.clone();
        workspace.phase = Phase::Cold;
        Some(erasing)
    }

    fn answer_erasing(&mut self, erasing: &Erasing, result: Result<(), CommandError>) {
        if let Some(ticket) = erasing.ticket {
            self.out.push(Action::Reply { ticket, result });
        }
    }

    /// Handles a batch with events of a known workspace. If it was deleted, an event after the deletion begins a
    /// new workspace at `first` or later.
    pub(super) fn begin_successor(&mut self, slot: Slot, first: Offset, last_event: Offset) {
        let workspace = self.workspaces.at_mut(slot);
        match &mut workspace.phase {
            Phase::Deleted if last_event >= workspace.next_offset => {
                let first = first.max(workspace.next_offset);
                self.begin_new(slot, first);
            }
            Phase::Erasing(erasing) => {
                let (before, after) = erasing.met.unwrap_or((first, last_event));
                erasing.met = Some((before.min(first), after.max(last_event)));
                // The events may belong to a new workspace that is not claimed in the store yet.
                self.unclaimed.insert(slot);
            }
            Phase::Deleted
            | Phase::Cold
            | Phase::Queued
            | Phase::Loading
            | Phase::Retrying { .. }
            | Phase::Parked
            | Phase::Waiting
            | Phase::Following { .. }
            | Phase::Stopped { .. }
            | Phase::Leaving { .. } => {}
        }
    }

    /// Begins a new workspace under the name of a deleted one.
    fn begin_new(&mut self, slot: Slot, first: Offset) {
        self.deleted -= 1;
        self.unclaimed.insert(slot);
        let workspace = self.workspaces.at_mut(slot);
        workspace.next_offset = first;
        workspace.first_offset = first;
        workspace.saved_next_offset = first;
        workspace.events_applied = 0;
        self.set_quiet(slot, Quiet::Ends(first));
        let workspace = self.workspaces.at_mut(slot);
        if self.ownership == Ownership::Owned {
            self.begin_load(slot);
        } else {
            // It holds `committed` back, so the next owner meets it in the log.
            workspace.phase = Phase::Cold;
        }
    }
}
