//! Opens log and store for a partition, before any of its workspaces is known.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use workspace_lifecycle::{CommandError, Input, PartitionId};

use crate::assignment::Assignment;
use crate::failures::StoreRequest;
use crate::log::ReadError;
use crate::message::Message;
use crate::shared::EngineShared;
use crate::store::Opening;

/// Wait after a failure.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// The partition was revoked or lost before it was open.
#[derive(Debug)]
pub(super) struct Revoked;

/// Opens log and store, the log first. Failures are retried until the partition is revoked or lost.
pub(super) fn open(
    shared: &EngineShared,
    assignment: &Assignment,
    messages: &Receiver<Message>,
) -> Result<(), Revoked> {
    for open in [open_log, open_store] {
        assignment.beat(shared.now());
        while let Err((reason, pause)) = open(shared, assignment.id()) {
            assignment.set_opening(Some(reason));
            wait(messages, pause)?;
            assignment.beat(shared.now());
        }
    }
    assignment.set_opening(None);
    Ok(())
}

/// What is still to do, or what failed, and the wait before the next attempt.
type NotOpen = (String, Duration);

fn open_log(shared: &EngineShared, id: PartitionId) -> Result<(), NotOpen> {
    let opened = shared.log.open(id).map_err(|error| match error {
        // The callers that show this text add that it concerns the log.
        ReadError::Unavailable(reason) => reason,
        ReadError::FellOut { .. }
        | ReadError::Lost { .. }
        | ReadError::BeyondEnd { .. }
        | ReadError::Corrupt { .. } => error.to_string(),
    });
    shared.failures.log_answered(id, opened.clone());
    opened.map_err(|reason| (reason, OPEN_AGAIN))
}

fn open_store(shared: &EngineShared, id: PartitionId) -> Result<(), NotOpen> {
    let opened = shared.store.ownership().open(id);
    let progress = match opened {
        Ok(Opening::Waiting) => Some("waiting for an earlier write of the partition".to_owned()),
        Ok(Opening::Reading { position, end }) => {
            Some(format!("reading what was saved, {position} of {end}"))
        }
        Ok(Opening::Done) | Err(_) => None,
    };
    if let Some(reason) = progress {
        tracing::debug!(partition = %id, "{reason}");
        return Err((reason, Duration::ZERO));
    }
    let answer = opened.map(|_| ()).map_err(|error| error.to_string());
    let is_new = shared
        .failures
        .store_answered(StoreRequest::Partition(id), answer.clone());
    answer.map_err(|reason| {
        if is_new {
            tracing::error!(partition = %id, error = %reason, "the store cannot take the partition over; the engine retries");
        }
        (reason, OPEN_AGAIN)
    })
}

/// Refuses commands until the pause is over.
fn wait(messages: &Receiver<Message>, pause: Duration) -> Result<(), Revoked> {
    let until = Instant::now() + pause;
    loop {
        match messages.recv_deadline(until) {
            Ok(Message::Input(Input::Revoked | Input::Lost))
            | Err(RecvTimeoutError::Disconnected) => return Err(Revoked),
            Ok(Message::Command { reply, .. }) => {
                let _ = reply.send(Err(CommandError::Opening));
            }
            // No load or save was requested yet, so these carry nothing.
            Ok(
                Message::Input(_)
                | Message::Loaded(_)
                | Message::SaveFailed { .. }
                | Message::Evict(_)
                | Message::Wake,
            ) => {}
            Err(RecvTimeoutError::Timeout) => return Ok(()),
        }
    }
}
