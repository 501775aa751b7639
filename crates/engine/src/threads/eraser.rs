//! Erasures that operators request: one thread does them, so that no partition waits for the store.

use workspace_lifecycle::{EraseFailure, EraseScope, Input, Offset, PartitionId};
use workspace_status::{Epoch, WorkspaceId};

use crate::jobs::EraseJob;
use crate::log::DeletedDeadLetters;
use crate::message::Message;
use crate::panics::caught;
use crate::shared::EngineShared;
use crate::store::{Erase, StoreError, StoreErrorKind};

/// Result of an erasure.
struct Erased {
    /// The epoch under which the store erased it.
    stored: Epoch,
    next_offset: Offset,
    /// What could not be erased, and why.
    left_over: Option<String>,
}

/// Does one erasure and sends the result to the partition.
pub(crate) fn erase(shared: &EngineShared, job: EraseJob) {
    match job {
        EraseJob::DeadLetters(deleted) => {
            let erased = caught("deleting them", || shared.log.delete_dead_letters(&deleted));
            if let Ok(Err(error)) = erased {
                tracing::warn!(%error, "dead letters of deleted workspaces may be left");
            }
        }
        EraseJob::Workspace {
            assignment,
            slot,
            id,
            epoch,
            scope,
        } => {
            let partition = assignment.id();
            let erased = {
                // Held until the store has answered, so that an assignment does not end in the middle of it.
                let place = assignment.begin_save();
                if place.is_none() {
                    Err(EraseFailure::Failed(
                        "the partition is handed over".to_owned(),
                    ))
                } else {
                    caught("erasing it", || {
                        erase_one(shared, partition, &id, epoch, scope)
                    })
                    .unwrap_or_else(|reason| Err(EraseFailure::Failed(reason)))
                }
            };
            let input = match erased {
                Ok(erased) => {
                    tracing::warn!(workspace = %id, %partition, epoch = %erased.stored, "erased: {scope}");
                    Input::Erased {
                        slot,
                        epoch,
                        stored: erased.stored,
                        next_offset: erased.next_offset,
                        left_over: erased.left_over,
                    }
                }
                Err(failure) => {
                    tracing::error!(workspace = %id, %partition, %epoch, ?failure, "not erased: {scope}");
                    Input::EraseFailed {
                        slot,
                        epoch,
                        failure,
                    }
                }
            };
            // A closed assignment needs no answer.
            let _ = assignment.send(Message::Input(input));
        }
    }
}

fn erase_one(
    shared: &EngineShared,
    partition: PartitionId,
    id: &WorkspaceId,
    epoch: Epoch,
    scope: EraseScope,
) -> Result<Erased, EraseFailure> {
    let erase = |next_offset| Erase {
        id: id.clone(),
        partition,
        epoch,
        owner: shared.config.owner.clone(),
        next_offset,
    };
    match scope {
        EraseScope::Reset { from, force } => {
            // After this lock, every trim whose floor was taken before the reset has ended; later trims keep what the
            // reset needs.
            let low_watermark = {
                let _no_trim = shared.trimming.lock();
                shared.log.low_watermark(partition)
            };
            if !force {
                if low_watermark > from {
                    return Err(EraseFailure::LogBeginsLater { low_watermark });
                }
                if let Some((lost, until)) = shared.log.lost_after(partition, from)
                    && is_saved_beyond(shared, id, lost)?
                {
                    return Err(EraseFailure::LogBeginsLater {
                        low_watermark: until,
                    });
                }
            }
            let stored = shared
                .store
                .reset(erase(from.max(low_watermark)))
                .map_err(|error| failure(&error))?;
            Ok(Erased {
                stored: stored.epoch,
                next_offset: stored.next_offset,
                left_over: None,
            })
        }
        EraseScope::Delete { below } => {
            let deletion = shared
                .store
                .delete(erase(below))
                .map_err(|error| failure(&error))?;
            let dead_letters = DeletedDeadLetters {
                workspace_id: id.clone(),
                partition,
                below,
            };
            let left_over = shared.log.delete_dead_letters(&[dead_letters]).err();
            Ok(Erased {
                stored: deletion.epoch,
                next_offset: deletion.next_offset,
                left_over: left_over.map(|error| {
                    format!(
                        "it is deleted, but its dead letters are not all: {error}; delete it again"
                    )
                }),
            })
        }
    }
}

/// Whether the stored state covers the event at `offset`. A damaged record counts as if it did.
fn is_saved_beyond(
    shared: &EngineShared,
    id: &WorkspaceId,
    offset: Offset,
) -> Result<bool, EraseFailure> {
    match shared.store.workspace(id) {
        Ok(stored) => Ok(stored.is_some_and(|stored| stored.next_offset > offset)),
        Err(StoreError::Corrupt { .. }) => Ok(true),
        Err(error) => Err(failure(&error)),
    }
}

fn failure(error: &StoreError) -> EraseFailure {
    match error.kind() {
        StoreErrorKind::Fenced { stored } => EraseFailure::Fenced { stored },
        StoreErrorKind::Unknown | StoreErrorKind::Permanent | StoreErrorKind::Temporary => {
            EraseFailure::Failed(error.to_string())
        }
    }
}
