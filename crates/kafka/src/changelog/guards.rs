//! Checks of the writer before it plans a job: it must belong to the current assignment of its partition, and to the
//! current log.

use std::time::Duration;

use workspace_engine_core::store::{Erase, HistoryRecord, Store, StoreError, StoredWorkspace};
use workspace_lifecycle::Offset;
use workspace_status::{Epoch, WorkspaceId};

use super::Shared;
use super::ownership::{LogLoss, LossKind, loss_of};
use super::partitions::OwnedPartition;

/// Timeout of the query where the events begin.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);

/// Refuses a load of an earlier assignment, also where no later load has claimed its workspace.
pub(super) fn check_assignment(
    owned: &OwnedPartition,
    id: &WorkspaceId,
    epoch: Epoch,
) -> Result<(), StoreError> {
    if epoch >= owned.first_epoch {
        return Ok(());
    }
    Err(StoreError::Fenced {
        id: id.clone(),
        attempted: epoch,
        stored: Epoch::new(owned.first_epoch.get().saturating_sub(1)),
    })
}

/// Refuses a late transition of a load that was never claimed, where another owner has used its epoch since.
pub(super) fn check_epoch_owner(shared: &Shared, record: &HistoryRecord) -> Result<(), StoreError> {
    let is_others = |epoch, owner: &str| epoch == record.epoch && owner != record.owner;
    let claim = shared.copy().workspace(&record.id)?;
    let before = (record.epoch, 0);
    let reported = shared.copy().history(&record.id, Some(before), 1)?;
    if claim.is_none_or(|claim| !is_others(claim.epoch, &claim.owner))
        && reported
            .first()
            .is_none_or(|reported| !is_others(reported.epoch, &reported.owner))
    {
        return Ok(());
    }
    Err(StoreError::Fenced {
        id: record.id.clone(),
        attempted: record.epoch,
        stored: record.epoch,
    })
}

/// Refuses a workspace that was saved from what the log has lost: no later offset continues its saved state.
pub(super) fn check_log(
    shared: &Shared,
    owned: &OwnedPartition,
    id: &WorkspaceId,
) -> Result<(), StoreError> {
    let Some((saved, loss)) = loss_of_saved(shared, owned, id)? else {
        return Ok(());
    };
    let log = format!("topic {}", shared.topic);
    Err(match loss.kind {
        LossKind::Recreated => StoreError::OtherLog {
            id: id.clone(),
            log,
        },
        LossKind::End => StoreError::LostEnd {
            id: id.clone(),
            log,
            next_offset: saved.next_offset,
            from: Offset(loss.from),
        },
    })
}

/// The saved state of a workspace and the loss of the log that it cannot be continued over, if there is one.
fn loss_of_saved(
    shared: &Shared,
    owned: &OwnedPartition,
    id: &WorkspaceId,
) -> Result<Option<(StoredWorkspace, LogLoss)>, StoreError> {
    let losses = owned.record.as_ref().map(|record| record.losses.as_slice());
    let losses = losses.unwrap_or_default();
    if losses.is_empty() {
        return Ok(None);
    }
    Ok(shared.copy().workspace(id)?.and_then(|saved| {
        let loss = loss_of(losses, saved.epoch, saved.next_offset).copied();
        loss.map(|loss| (saved, loss))
    }))
}

/// A reset begins at the first event of a workspace. Where the log has lost what was saved, the workspace's current
/// events may begin at a lower offset, so the reset begins no later than the loss or the low offset of the log.
pub(super) fn reset_within_log(
    shared: &Shared,
    owned: &OwnedPartition,
    erase: Erase,
) -> Result<Erase, StoreError> {
    let Some((_, loss)) = loss_of_saved(shared, owned, &erase.id)? else {
        return Ok(erase);
    };
    let (low, _) = shared
        .readers
        .ends_of_events(&shared.topic, erase.partition, QUERY_TIMEOUT)?;
    let next_offset = erase.next_offset.min(Offset(loss.from.max(low)));
    Ok(Erase {
        next_offset,
        ..erase
    })
}
