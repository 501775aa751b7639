//! Loads of a partition: permits, answers of the store, retries, and leaving memory.

use std::time::Duration;

use workspace_status::Epoch;

use super::Partition;
use crate::workspace::{AfterLeaving, BeforeErasing, Erasing, Phase, Quiet, StoredEpoch};
use crate::{
    Action, CommandError, Lane, LoadFailure, Offset, Refusal, Report, Residence, Slot, StoppedAt,
    Urgency,
};

impl Partition {
    /// Begins the next epoch of a workspace that is not in memory.
    pub(super) fn begin_load(&mut self, slot: Slot) {
        let urgency = if self.workspaces.at(slot).urgent {
            Urgency::Urgent
        } else {
            Urgency::Ordinary
        };
        self.begin_load_in_turn(slot, urgency);
    }

    pub(super) fn begin_load_in_turn(&mut self, slot: Slot, urgency: Urgency) {
        let workspace = self.workspaces.at_mut(slot);
        if let Phase::Retrying { at } = workspace.phase {
            self.retries.remove(&(at, slot));
        }
        workspace.epoch = workspace.epoch.next();
        workspace.phase = Phase::Queued;
        workspace.residence = Residence::Memory;
        workspace.target = None;
        workspace.end_ready(&self.limits.retry, self.now);
        let epoch = workspace.epoch;
        self.evicted.forget(slot);
        self.loading += 1;
        self.report(slot, Report::Begin { epoch });
        self.out.push(Action::RequestPermit { slot, urgency });
    }

    pub(super) fn permit_granted(&mut self, slot: Slot) {
        let workspace = self.workspaces.at_mut(slot);
        if workspace.phase != Phase::Queued {
            self.out.push(Action::ReturnPermit);
            return;
        }
        workspace.phase = Phase::Loading;
        let (epoch, first_offset) = (workspace.epoch, workspace.next_offset);
        self.report(slot, Report::Load);
        self.out.push(Action::Load {
            slot,
            epoch,
            first_offset,
        });
    }

    pub(super) fn loaded(
        &mut self,
        slot: Slot,
        next_offset: Offset,
        events_applied: u64,
        unsaved: bool,
    ) {
        self.unclaimed.remove(&slot);
        self.set_quiet(slot, Quiet::Until(next_offset));
        let target = self.high_watermark;
        let workspace = self.workspaces.at_mut(slot);
        workspace.stored_epoch = StoredEpoch::Own(workspace.epoch);
        workspace.damaged = false;
        workspace.saved_next_offset = next_offset;
        workspace.next_offset = next_offset;
        if next_offset > target {
            self.out.push(Action::Drop { slot });
            self.park(
                slot,
                format!(
                    "the store is at offset {next_offset} of partition {}, but the log ends at {target}: \
                     the log was replaced or lost its end",
                    self.id
                ),
            );
            return;
        }
        workspace.events_applied = events_applied;
        workspace.target = Some(target);
        if workspace
            .stops_before
            .take_if(|at| at.offset < next_offset)
            .is_some()
        {
            self.stopping.remove(&slot);
        }
        self.report(
            slot,
            Report::Replay {
                from: next_offset,
                target,
            },
        );
        if unsaved {
            self.mark_unsaved(slot);
        }
        let lane = [Lane::Live, Lane::CatchUp]
            .into_iter()
            .find(|lane| self.run(*lane).is_some_and(|run| next_offset >= run.cursor));
        if let Some(lane) = lane {
            self.follow(slot, lane);
        } else {
            let workspace = self.workspaces.at_mut(slot);
            workspace.phase = Phase::Waiting;
            self.waiting.insert(slot, workspace);
            if self.gather_until.is_none() {
                self.gather_until = Some(self.now + self.limits.gather);
            }
        }
    }

    pub(super) fn load_failed(
        &mut self,
        slot: Slot,
        epoch: Epoch,
        claimed: bool,
        failure: LoadFailure,
    ) {
        if !self.end_of_load(slot, epoch) {
            return;
        }
        if claimed {
            self.workspaces.at_mut(slot).stored_epoch = StoredEpoch::Own(epoch);
        }
        match failure {
            LoadFailure::Retry(reason) => self.retry_later(slot, reason),
            LoadFailure::Park(reason) => self.park(slot, reason),
            LoadFailure::Fenced { stored } => {
                // The stored epoch may be that of a deletion mark: then the store does not know the workspace.
                let workspace = self.workspaces.at_mut(slot);
                workspace.epoch = workspace.epoch.max(stored);
                workspace.stored_epoch = StoredEpoch::Unknown;
                let reason = format!("epoch {epoch} is not above {stored}, which the store holds");
                self.retry_later(slot, reason);
            }
        }
    }

    /// Ends the load of `epoch`; false if it is not the one under way.
    pub(super) fn end_of_load(&mut self, slot: Slot, epoch: Epoch) -> bool {
        let workspace = self.workspaces.at(slot);
        let current = workspace.phase == Phase::Loading && workspace.epoch == epoch;
        if current {
            self.loading -= 1;
        }
        current
    }

    fn retry_later(&mut self, slot: Slot, reason: String) {
        let workspace = self.workspaces.at_mut(slot);
        let (attempt, retry_in) = workspace.failures.fail(&self.limits.retry, &workspace.id);
        self.try_again(slot, reason, attempt, retry_in);
    }

    fn try_again(&mut self, slot: Slot, reason: String, attempt: u32, retry_in: Duration) {
        let at = self.now + retry_in;
        let workspace = self.workspaces.at_mut(slot);
        workspace.phase = Phase::Retrying { at };
        workspace.target = None;
        self.retries.insert((at, slot));
        self.report(
            slot,
            Report::Retrying {
                reason,
                attempt,
                retry_in,
            },
        );
    }

    fn park(&mut self, slot: Slot, reason: String) {
        let workspace = self.workspaces.at_mut(slot);
        workspace.phase = Phase::Parked;
        workspace.target = None;
        workspace.urgent = false;
        self.report(slot, Report::Parked { reason });
    }

    /// Drops a workspace in memory whose save the store refused. Nothing is lost: its stored
    /// `next_offset` holds the trim floor back.
    pub(super) fn save_refused(&mut self, slot: Slot, refusal: &Refusal) {
        let epoch = self.workspaces.at(slot).epoch;
        let reason = match refusal {
            Refusal::TakenOver => format!("a newer load than epoch {epoch} has taken it over"),
            Refusal::ForNow(reason) | Refusal::ForGood(reason) => {
                format!("it cannot be saved: {reason}")
            }
        };
        if !self.drop_unsaved(slot, &reason) {
            return;
        }
        match refusal {
            // Usually this process has lost the partition and does not know it yet. But the newer load
            // may also be a late one of a previous owner that has dropped the workspace since. So it is
            // loaded again, after a wait in which the group can notify this process.
            Refusal::TakenOver => {
                let workspace = self.workspaces.at_mut(slot);
                workspace.stored_epoch = StoredEpoch::Unknown;
                let (attempt, _) = workspace.failures.fail(&self.limits.retry, &workspace.id);
                self.try_again(slot, reason, attempt, self.limits.retry.longest);
            }
            Refusal::ForNow(_) => self.retry_later(slot, reason),
            Refusal::ForGood(_) => self.park(slot, reason),
        }
    }

    /// An event broke a workspace in memory, so its state must not be saved. It is loaded again and then
    /// stops before the event.
    pub(super) fn load_again_up_to(&mut self, slot: Slot, at: StoppedAt) {
        let reason = at.reason.clone();
        self.stopping.insert(slot);
        self.workspaces.at_mut(slot).stops_before = Some(at);
        self.load_again(slot, reason);
    }

    /// Drops a workspace in memory and loads it again after the backoff.
    pub(super) fn load_again(&mut self, slot: Slot, reason: String) {
        if self.drop_unsaved(slot, &reason) {
            self.retry_later(slot, reason);
        }
    }

    /// Drops a workspace in memory with its unsaved changes; false if it was being handed over: it is not reloaded.
    fn drop_unsaved(&mut self, slot: Slot, reason: &str) -> bool {
        let handed_over = matches!(
            self.workspaces.at(slot).phase,
            Phase::Leaving {
                then: AfterLeaving::HandedOver,
                ..
            }
        );
        self.refuse_ticket(slot, CommandError::Failed(reason.to_owned()));
        self.step_out(slot);
        // Events that were applied but not saved are applied again.
        let saved = self.workspaces.at(slot).saved_next_offset;
        self.set_quiet(slot, Quiet::Until(saved));
        self.out.push(Action::Drop { slot });
        if handed_over {
            self.release(slot, "the partition is handed over", Residence::Memory);
        }
        !handed_over
    }

    pub(super) fn retry_loads(&mut self) {
        while let Some((at, slot)) = self.retries.first().copied() {
            if at > self.now {
                break;
            }
            self.begin_load(slot);
        }
    }

    /// Stops a workspace in memory; it leaves memory when it is saved.
    pub(super) fn leave(&mut self, slot: Slot, then: AfterLeaving, why: &'static str) {
        self.refuse_ticket(slot, CommandError::Leaving);
        self.step_out(slot);
        self.workspaces.at_mut(slot).phase = Phase::Leaving {
            then,
            planned: false,
        };
        self.report(slot, Report::Unloading { why });
        self.mark_unsaved(slot);
        self.save_soon();
    }

    /// Makes a workspace that is not, or no longer, in memory cold and ends its load, retry or erasure.
    pub(super) fn release(&mut self, slot: Slot, why: &'static str, residence: Residence) {
        if self.workspaces.at(slot).phase == Phase::Deleted {
            return;
        }
        let was = std::mem::replace(&mut self.workspaces.at_mut(slot).phase, Phase::Cold);
        let was_leaving = matches!(was, Phase::Leaving { .. } | Phase::Erasing(_));
        match was {
            Phase::Cold
            | Phase::Deleted
            | Phase::Erasing(Erasing {
                before: BeforeErasing::Cold | BeforeErasing::Deleted,
                ..
            }) => return,
            Phase::Queued => {
                self.loading -= 1;
                self.out.push(Action::CancelPermit { slot });
            }
            Phase::Loading => self.loading -= 1,
            Phase::Retrying { at } => {
                self.retries.remove(&(at, slot));
            }
            Phase::Parked
            | Phase::Waiting
            | Phase::Following { .. }
            | Phase::Stopped { .. }
            | Phase::Leaving { .. }
            | Phase::Erasing(_) => {}
        }
        let workspace = self.workspaces.at_mut(slot);
        workspace.target = None;
        workspace.end_ready(&self.limits.retry, self.now);
        workspace.urgent = false;
        workspace.residence = residence;
        if !was_leaving {
            self.report(slot, Report::Unloading { why });
        }
        self.report(slot, Report::Removed { residence });
    }

    /// Completes leaving after the last save of a workspace.
    pub(super) fn left(&mut self, slot: Slot, then: AfterLeaving) {
        self.out.push(Action::Drop { slot });
        self.workspaces.at_mut(slot).unsaved = false;
        match then {
            AfterLeaving::Cold(ticket) => {
                self.release(slot, "an operator unloads it", Residence::Unloaded);
                if let Some(ticket) = ticket {
                    self.out.push(Action::Reply {
                        ticket,
                        result: Ok(()),
                    });
                }
            }
            AfterLeaving::Evicted => self.left_evicted(slot),
            AfterLeaving::HandedOver => {
                self.release(slot, "the partition is handed over", Residence::Memory);
            }
            AfterLeaving::Reload(ticket) => {
                self.workspaces.at_mut(slot).urgent = true;
                self.begin_load(slot);
                if let Some(ticket) = ticket {
                    self.out.push(Action::Reply {
                        ticket,
                        result: Ok(()),
                    });
                }
            }
        }
    }

    /// Answers with an error the pending command of a workspace that something else overtakes.
    pub(super) fn refuse_ticket(&mut self, slot: Slot, error: CommandError) {
        let ticket = match &mut self.workspaces.at_mut(slot).phase {
            Phase::Stopped { skip, .. } => skip.take(),
            Phase::Leaving {
                then: AfterLeaving::Cold(ticket) | AfterLeaving::Reload(ticket),
                ..
            } => ticket.take(),
            Phase::Erasing(erasing) => erasing.ticket.take(),
            Phase::Leaving { .. }
            | Phase::Deleted
            | Phase::Cold
            | Phase::Queued
            | Phase::Loading
            | Phase::Retrying { .. }
            | Phase::Parked
            | Phase::Waiting
            | Phase::Following { .. } => None,
        };
        if let Some(ticket) = ticket {
            self.out.push(Action::Reply {
                ticket,
                result: Err(error),
            });
        }
    }
}
