//! Operators' commands that wait for their replies.

use std::collections::HashMap;

use workspace_lifecycle::{Command, CommandError, Input, Ticket};
use workspace_status::WorkspaceId;

use super::Driver;
use crate::message::CommandReply;

/// Most commands of one partition that wait for a reply.
const MAX_TICKETS: usize = 1024;

/// The replies to send, by ticket.
#[derive(Default)]
pub(super) struct PendingCommands {
    replies: HashMap<Ticket, CommandReply>,
    next_ticket: u64,
}

impl PendingCommands {
    pub(super) fn reply(&mut self, ticket: Ticket, result: Result<(), CommandError>) {
        if let Some(reply) = self.replies.remove(&ticket) {
            let _ = reply.send(result);
        }
    }
}

impl Driver {
    pub(super) fn command(&mut self, id: WorkspaceId, command: Command, reply: CommandReply) {
        if self.commands.replies.len() >= MAX_TICKETS {
            let _ = reply.send(Err(CommandError::Busy));
            return;
        }
        // Events acknowledged before the command are deleted with the workspace: the machine must know the end.
        if command == Command::Delete {
            match self.shared.log.end(self.id) {
                Ok(high_watermark) => self.input(Input::Appended { high_watermark }),
                Err(error) => {
                    let _ = reply.send(Err(CommandError::Failed(error.to_string())));
                    return;
                }
            }
        }
        let ticket = Ticket(self.commands.next_ticket);
        self.commands.next_ticket += 1;
        self.commands.replies.insert(ticket, reply);
        self.input(Input::Operator {
            id,
            command,
            ticket,
            low_watermark: self.shared.log.low_watermark(self.id),
        });
    }
}
