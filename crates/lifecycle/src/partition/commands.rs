//! Operators' commands.

use workspace_status::WorkspaceId;

use super::{Ownership, Partition};
use crate::workspace::{AfterLeaving, Phase, Quiet};
use crate::{Action, Command, CommandError, Offset, Report, Residence, Slot, Ticket, Urgency};

impl Partition {
    pub(super) fn operator(
        &mut self,
        id: &WorkspaceId,
        command: Command,
        ticket: Ticket,
        low_watermark: Offset,
    ) {
        let answer = match self.ownership {
            Ownership::Owned => match self.slot(id) {
                Some(slot) => self.command(slot, command, ticket, low_watermark),
                None => Some(Err(CommandError::UnknownWorkspace)),
            },
            Ownership::Listing | Ownership::ListAgain { .. } => Some(Err(CommandError::Opening)),
            Ownership::New | Ownership::Leaving | Ownership::Over => {
                Some(Err(CommandError::Leaving))
            }
        };
        if let Some(result) = answer {
            self.out.push(Action::Reply { ticket, result });
        }
    }

    /// Returns `None` if the command is answered later, when it is done.
    fn command(
        &mut self,
        slot: Slot,
        command: Command,
        ticket: Ticket,
        low_watermark: Offset,
    ) -> Option<Result<(), CommandError>> {
        match (&self.workspaces.at(slot).phase, command) {
            (Phase::Deleted, Command::Delete) => self.delete(slot, ticket),
            (Phase::Deleted, _) => Some(Err(CommandError::UnknownWorkspace)),
            (Phase::Erasing(_), _) => Some(Err(CommandError::Busy)),
            (_, Command::Load) => Some(self.load_now(slot)),
            (_, Command::Unload) => self.unload(slot, ticket),
            (_, Command::Reload) => Some(self.reload(slot)),
            (_, Command::Skip) => self.skip(slot, ticket),
            (_, Command::Reset { force }) => self.reset(slot, force, ticket, low_watermark),
            (_, Command::Delete) => self.delete(slot, ticket),
        }
    }

    fn load_now(&mut self, slot: Slot) -> Result<(), CommandError> {
        let workspace = self.workspaces.at_mut(slot);
        match &mut workspace.phase {
            Phase::Cold | Phase::Parked | Phase::Retrying { .. } => {
                workspace.urgent = true;
                self.begin_load(slot);
            }
            Phase::Queued => {
                workspace.urgent = true;
                self.out.push(Action::RequestPermit {
                    slot,
                    urgency: Urgency::Urgent,
                });
            }
            Phase::Loading => workspace.urgent = true,
            Phase::Waiting => {
                workspace.urgent = true;
                self.waiting.insert(slot, workspace);
            }
            Phase::Erasing(_) | Phase::Deleted => return Err(CommandError::Busy),
            Phase::Following { .. } | Phase::Stopped { .. } => {}
            Phase::Leaving { then, .. } => match then {
                AfterLeaving::Reload(_) => {}
                AfterLeaving::Evicted => *then = AfterLeaving::Reload(None),
                AfterLeaving::Cold(_) | AfterLeaving::HandedOver => return Err(CommandError::Busy),
            },
        }
        Ok(())
    }

    fn unload(&mut self, slot: Slot, ticket: Ticket) -> Option<Result<(), CommandError>> {
        match self.workspaces.at(slot).phase {
            Phase::Cold => {
                self.stays_unloaded(slot);
                Some(Ok(()))
            }
            Phase::Queued | Phase::Parked | Phase::Retrying { .. } => {
                self.release(slot, "an operator unloads it", Residence::Unloaded);
                Some(Ok(()))
            }
            Phase::Loading
            | Phase::Leaving { .. }
            | Phase::Stopped { skip: Some(_), .. }
            | Phase::Erasing(_)
            | Phase::Deleted => Some(Err(CommandError::Busy)),
            Phase::Waiting | Phase::Following { .. } | Phase::Stopped { skip: None, .. } => {
                self.leave(
                    slot,
                    AfterLeaving::Cold(Some(ticket)),
                    "an operator unloads it",
                );
                None
            }
        }
    }

    fn reload(&mut self, slot: Slot) -> Result<(), CommandError> {
        match self.workspaces.at(slot).phase {
            Phase::Cold | Phase::Parked | Phase::Retrying { .. } | Phase::Queued => {
                self.load_now(slot)
            }
            Phase::Loading
            | Phase::Leaving { .. }
            | Phase::Stopped { skip: Some(_), .. }
            | Phase::Erasing(_)
            | Phase::Deleted => Err(CommandError::Busy),
            Phase::Waiting | Phase::Following { .. } | Phase::Stopped { skip: None, .. } => {
                self.leave(slot, AfterLeaving::Reload(None), "an operator reloads it");
                Ok(())
            }
        }
    }

    fn skip(&mut self, slot: Slot, ticket: Ticket) -> Option<Result<(), CommandError>> {
        match &mut self.workspaces.at_mut(slot).phase {
            Phase::Stopped { skip: Some(_), .. } => Some(Err(CommandError::Busy)),
            Phase::Stopped { at, skip } => {
                *skip = Some(ticket);
                let (offset, reason) = (at.offset, at.reason.clone());
                self.out.push(Action::DeadLetter {
                    slot,
                    offset,
                    reason,
                });
                None
            }
            Phase::Cold
            | Phase::Queued
            | Phase::Loading
            | Phase::Retrying { .. }
            | Phase::Parked
            | Phase::Waiting
            | Phase::Following { .. }
            | Phase::Leaving { .. }
            | Phase::Erasing(_)
            | Phase::Deleted => Some(Err(CommandError::NotStopped)),
        }
    }

    pub(super) fn dead_lettered(&mut self, slot: Slot, offset: Offset) {
        let workspace = self.workspaces.at_mut(slot);
        let Phase::Stopped { at, skip } = &mut workspace.phase else {
            return;
        };
        if at.offset != offset {
            return;
        }
        let ticket = skip.take();
        workspace.next_offset = offset.next();
        self.set_quiet(slot, Quiet::Until(offset.next()));
        // The skip is answered after the save: until then a crash would bring the workspace back to the event.
        self.leave(
            slot,
            AfterLeaving::Reload(ticket),
            "the event that stopped it is skipped",
        );
    }

    pub(super) fn dead_letter_failed(&mut self, slot: Slot, reason: String) {
        let Phase::Stopped { skip, .. } = &mut self.workspaces.at_mut(slot).phase else {
            return;
        };
        if let Some(ticket) = skip.take() {
            self.out.push(Action::Reply {
                ticket,
                result: Err(CommandError::Failed(reason)),
            });
        }
    }

    /// Stops a workspace in memory at an event that it cannot apply.
    pub(super) fn stop_at(&mut self, slot: Slot, offset: Offset, reason: String) {
        self.step_out(slot);
        let workspace = self.workspaces.at_mut(slot);
        workspace.next_offset = offset;
        workspace.target = None;
        workspace.ready_since = None;
        workspace.urgent = false;
        workspace.phase = Phase::Stopped {
            at: crate::StoppedAt {
                offset,
                reason: reason.clone(),
            },
            skip: None,
        };
        self.set_quiet(slot, Quiet::Ends(offset));
        self.report(slot, Report::Parked { reason });
    }
}
