//! Who may claim and save: the same decision for every store.

use super::{Claim, Save, StoreError, StoredWorkspace};

/// What a claim makes of a workspace.
pub(super) fn claimed(
    stored: Option<StoredWorkspace>,
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
        return Ok(StoredWorkspace {
            id,
            partition,
            epoch,
            owner,
            next_offset: first_offset,
            events_applied: 0,
            entries: 0,
            last_load_ms: None,
            unloaded: false,
        });
    };
    if epoch <= stored.epoch {
        return Err(StoreError::Fenced {
            id,
            attempted: epoch,
            stored: stored.epoch,
        });
    }
    Ok(StoredWorkspace {
        partition,
        epoch,
        owner,
        unloaded: false,
        ..stored
    })
}

/// What a save makes of a workspace.
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
