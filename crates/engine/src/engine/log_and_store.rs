//! Checks at the start that the log and the store belong together.

use workspace_lifecycle::{Offset, PartitionId};

use crate::log::EventLog;
use crate::start_error::StartError;
use crate::store::Store;

/// Most workspace ids in the log line about a lost end.
const MAX_NAMED_WORKSPACES: usize = 20;

/// Checks that every event that the log has removed is in the store, and makes the next event of each partition follow
/// everything that the store has seen.
pub(super) fn check(log: &dyn EventLog, store: &dyn Store) -> Result<(), StartError> {
    if !log.keeps_until_trimmed() {
        return Ok(());
    }
    let partitions = || (0..log.partitions()).map(PartitionId);
    for partition in partitions() {
        let low_watermark = log.low_watermark(partition);
        let committed = store.committed(partition)?;
        if committed < low_watermark {
            return Err(StartError::ForeignStore {
                partition,
                low_watermark,
                committed,
            });
        }
    }
    partitions().try_for_each(|partition| continue_behind_store(log, store, partition))
}

/// Otherwise a log that was restored from an older copy, or that lost its end, would give the same offsets to other
/// events, and a workspace that was saved beyond them would never apply these.
fn continue_behind_store(
    log: &dyn EventLog,
    store: &dyn Store,
    partition: PartitionId,
) -> Result<(), StartError> {
    let workspaces = store.workspaces(partition)?;
    let deletions = store.deletions(partition)?;
    let saved = workspaces.iter().map(|workspace| workspace.next_offset);
    let deleted = deletions.iter().map(|deletion| deletion.next_offset);
    let seen = saved
        .chain(deleted)
        .fold(store.committed(partition)?, Offset::max);
    let continued = log.continue_at(partition, seen);
    let continued = continued.map_err(|source| StartError::ContinueLog { partition, source })?;
    let Some(end) = continued else {
        return Ok(());
    };
    let (ahead, behind): (Vec<_>, Vec<_>) = workspaces
        .iter()
        .partition(|workspace| workspace.next_offset >= seen);
    let named: Vec<&str> = ahead
        .iter()
        .take(MAX_NAMED_WORKSPACES)
        .map(|workspace| workspace.id.as_str())
        .collect();
    tracing::error!(
        %partition,
        log_ended_at = %end,
        continues_at = %seen,
        complete = ahead.len(),
        incomplete = behind.len(),
        complete_ids = named.join(","),
        "the log has lost its end: the store has seen events that it does not have any more. New events go behind \
         them. Workspaces that were saved with them are complete; others are parked, because events of theirs may be lost"
    );
    Ok(())
}
