//! Decides whether a claim, a save or an erasure is allowed, in the same way for every store.

use super::{Claim, Deletion, Erase, Save, StoreError, StoredWorkspace};
use workspace_status::Epoch;

/// The workspace after a claim; `deletion` is the mark of a deleted workspace of that name.
pub(super) fn claimed(
    stored: Option<StoredWorkspace>,
    deletion: Option<&Deletion>,
    claim: Claim,
) -> Result<StoredWorkspace, StoreError> {
    let Claim {
        id,
        partition,
        epoch,
        owner,
        first_offset,
    } = claim;
    let Some(stored) = stored else {
        if let Some(deletion) = deletion {
            above(&id, epoch, deletion.epoch)?;
        }
        let first_offset = deletion.map_or(first_offset, |deletion| {
            first_offset.max(deletion.next_offset)
        });
        return Ok(StoredWorkspace {
            id,
            partition,
            epoch,
            owner,
            first_offset,
            next_offset: first_offset,
            events_applied: 0,
            entries: 0,
            last_load_ms: None,
            unloaded: false,
        });
    };
    above(&id, epoch, stored.epoch)?;
    Ok(StoredWorkspace {
        partition,
        epoch,
        owner,
        unloaded: false,
        ..stored
    })
}

/// Refuses an erasure if a newer load exists. What cannot be read does not prevent one.
pub(super) fn erasable(
    stored: Option<&StoredWorkspace>,
    deletion: Option<&Deletion>,
    erase: &Erase,
) -> Result<(), StoreError> {
    let stored = stored.map(|stored| stored.epoch);
    let deleted = deletion.map(|deletion| deletion.epoch);
    match stored.max(deleted) {
        Some(epoch) => above(&erase.id, erase.epoch, epoch),
        None => Ok(()),
    }
}

/// The workspace after a reset; `newest` is the last epoch in its history. It never begins before the mark of a
/// deletion, even if the caller does not know of the deletion.
pub(super) fn emptied(
    erase: Erase,
    newest: Option<Epoch>,
    deletion: Option<&Deletion>,
) -> StoredWorkspace {
    let next_offset = deletion.map_or(erase.next_offset, |deletion| {
        erase.next_offset.max(deletion.next_offset)
    });
    StoredWorkspace {
        id: erase.id,
        partition: erase.partition,
        epoch: later(erase.epoch, newest),
        owner: erase.owner,
        first_offset: next_offset,
        next_offset,
        events_applied: 0,
        entries: 0,
        last_load_ms: None,
        unloaded: false,
    }
}

/// The mark that a deletion leaves.
pub(super) fn deletion(erase: Erase, newest: Option<Epoch>) -> Deletion {
    Deletion {
        id: erase.id,
        partition: erase.partition,
        epoch: later(erase.epoch, newest),
        next_offset: erase.next_offset,
    }
}

/// The epoch of an erasure: above every known load.
fn later(epoch: Epoch, newest: Option<Epoch>) -> Epoch {
    newest.map_or(epoch, |newest| epoch.max(newest.next()))
}

fn above(
    id: &workspace_status::WorkspaceId,
    epoch: Epoch,
    stored: Epoch,
) -> Result<(), StoreError> {
    if epoch > stored {
        return Ok(());
    }
    Err(StoreError::Fenced {
        id: id.clone(),
        attempted: epoch,
        stored,
    })
}

/// The workspace after a save.
pub(super) fn saved(
    stored: Option<StoredWorkspace>,
    save: &Save,
) -> Result<StoredWorkspace, StoreError> {
    let Some(stored) = stored else {
        return Err(StoreError::UnknownWorkspace(save.id.clone()));
    };
    if save.epoch < stored.epoch {
        return Err(StoreError::Fenced {
            id: save.id.clone(),
            attempted: save.epoch,
            stored: stored.epoch,
        });
    }
    if let Some(expected) = save.only_offset {
        if stored.epoch != expected {
            return Err(StoreError::Fenced {
                id: save.id.clone(),
                attempted: save.epoch,
                stored: stored.epoch,
            });
        }
        return Ok(StoredWorkspace {
            epoch: save.epoch,
            next_offset: stored.next_offset.max(save.next_offset),
            ..stored
        });
    }
    Ok(StoredWorkspace {
        epoch: save.epoch,
        next_offset: save.next_offset,
        events_applied: save.events_applied,
        entries: save.entries,
        last_load_ms: save.last_load_ms.or(stored.last_load_ms),
        unloaded: save.unloaded,
        ..stored
    })
}
