//! What a claim, a save, transitions or an erasure change: the one place for the rules of fencing, of epochs, of
//! deletion marks and of the length of histories. A plan reads a table and changes nothing.

use super::{
    Change, Claim, Deletion, Erase, HistoryPart, HistoryPlace, HistoryRecord, Key,
    MAX_HISTORY_TRANSITIONS, Mutation, Save, StoreError, StoredWorkspace, Table,
};
use workspace_lifecycle::Residence;
use workspace_status::{Epoch, WorkspaceId};

/// The most bytes of the names of an entry, with those of its workspace: the database cuts longer keys without an
/// error.
const MAX_NAME_BYTES: usize = u16::MAX as usize;

/// Transitions of a history that are removed beyond its surplus: more than are usually added before it is counted again.
const MIN_REMOVED: usize = 512;

/// The workspace as a claim leaves it.
///
/// # Errors
/// [`StoreError::Fenced`], and those of [`Table::stored`].
pub fn claim(table: &impl Table, claim: Claim) -> Result<StoredWorkspace, StoreError> {
    let Claim {
        id,
        partition,
        epoch,
        owner,
        first_offset,
    } = claim;
    if let Some(stored) = table.stored(&id)? {
        above(&id, epoch, stored.epoch)?;
        return Ok(StoredWorkspace {
            partition,
            epoch,
            owner,
            residence: Residence::Memory,
            ..stored
        });
    }
    let mut first_offset = first_offset;
    if let Some(deletion) = table.deletion(&id) {
        above(&id, epoch, deletion.epoch)?;
        first_offset = first_offset.max(deletion.next_offset);
    }
    Ok(StoredWorkspace {
        epoch,
        owner,
        first_offset,
        next_offset: first_offset,
        ..StoredWorkspace::unknown(id, partition)
    })
}

/// The mutations of a save: its entries ordered by name, of several changes of one entry only the last, and then the
/// workspace itself.
///
/// # Errors
/// Why the save of the workspace is refused.
pub fn save(table: &impl Table, save: &Save) -> Result<Vec<Mutation>, StoreError> {
    let stored = table.stored(&save.id)?;
    let workspace = saved(stored, save)?;
    let mut changes: Vec<&Change> = save.changes.iter().collect();
    // Stable, so that the last of equal names is the latest.
    changes.sort_by(|a, b| name(a).cmp(&name(b)));
    let mut mutations = Vec::with_capacity(changes.len() + 1);
    for of_entry in changes.chunk_by(|a, b| name(a) == name(b)) {
        let Some(last) = of_entry.last() else {
            continue;
        };
        check_name(&save.id, last)?;
        mutations.push(match last {
            Change::Set(entry) => Mutation::Entry(save.id.clone(), entry.clone()),
            Change::Unset { kind, id } => Mutation::Removed(Key::Entry {
                id: save.id.clone(),
                kind: kind.clone(),
                entity: id.clone(),
            }),
        });
    }
    mutations.push(Mutation::Workspace(workspace));
    Ok(mutations)
}

/// The workspace after a reset. It never begins before a deletion mark, even if the caller does not know of the
/// deletion.
///
/// # Errors
/// [`StoreError::Fenced`], and those of [`Table::stored`], except damage.
pub fn reset(table: &impl Table, erase: Erase) -> Result<StoredWorkspace, StoreError> {
    let epoch = erasure_epoch(table, &erase)?;
    let deletion = table.deletion(&erase.id);
    let next_offset = deletion.map_or(erase.next_offset, |deletion| {
        erase.next_offset.max(deletion.next_offset)
    });
    Ok(StoredWorkspace {
        epoch,
        owner: erase.owner,
        first_offset: next_offset,
        next_offset,
        ..StoredWorkspace::unknown(erase.id, erase.partition)
    })
}

/// The deletion mark that the workspace leaves.
///
/// # Errors
/// As [`reset`].
pub fn delete(table: &impl Table, erase: Erase) -> Result<Deletion, StoreError> {
    Ok(Deletion {
        epoch: erasure_epoch(table, &erase)?,
        id: erase.id,
        partition: erase.partition,
        next_offset: erase.next_offset,
    })
}

/// The mutations of adding transitions of one workspace: the parts of its history that they make, and the oldest parts
/// that are removed for them. It reads the history only now and then ([`HistoryPart::is_counted`]).
///
/// Nothing is read to find out what is stored already: transitions that are added again make a part at the same place,
/// or one that overlaps others, and a reader takes each transition once.
///
/// # Errors
/// Why the history of the workspace cannot be read.
pub fn history(
    table: &impl Table,
    id: &WorkspaceId,
    mut records: Vec<HistoryRecord>,
) -> Result<Vec<Mutation>, StoreError> {
    if let Some(deletion) = table.deletion(id) {
        records.retain(|record| record.epoch > deletion.epoch);
    }
    let added = records.len();
    let parts = HistoryPart::of(records);
    let is_counted = parts.iter().any(HistoryPart::is_counted);
    let mut mutations: Vec<_> = parts.into_iter().map(Mutation::History).collect();
    if is_counted {
        let stored = table.history_parts(id)?;
        for place in surplus(&stored, added) {
            mutations.push(Mutation::Removed(Key::History {
                id: id.clone(),
                place,
            }));
        }
    }
    Ok(mutations)
}

/// The oldest parts that are removed for `added` transitions, given each part and its number of transitions. Several at
/// a time, so that the limit holds until the parts are counted again.
fn surplus(stored: &[(HistoryPlace, usize)], added: usize) -> impl Iterator<Item = HistoryPlace> {
    let total = stored.iter().map(|(_, count)| count).sum::<usize>() + added;
    let mut surplus = total.saturating_sub(MAX_HISTORY_TRANSITIONS);
    if surplus > 0 {
        surplus += MIN_REMOVED;
    }
    stored.iter().map_while(move |(place, count)| {
        let is_removed = surplus > 0;
        surplus = surplus.saturating_sub(*count);
        is_removed.then_some(*place)
    })
}

/// The workspace after a save.
fn saved(stored: Option<StoredWorkspace>, save: &Save) -> Result<StoredWorkspace, StoreError> {
    let Some(stored) = stored else {
        return Err(StoreError::UnknownWorkspace(save.id.clone()));
    };
    let expected = save.only_offset.unwrap_or(stored.epoch);
    if save.epoch < stored.epoch || stored.epoch != expected {
        return Err(fenced(&save.id, save.epoch, stored.epoch));
    }
    if save.only_offset.is_some() {
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
        residence: save.residence,
        ..stored
    })
}

/// The epoch of an erasure: above every known load. Damage does not prevent it, because it is the way out of damage;
/// then the history shows the last load.
fn erasure_epoch(table: &impl Table, erase: &Erase) -> Result<Epoch, StoreError> {
    let mut epoch = erase.epoch;
    match table.stored(&erase.id) {
        Ok(Some(stored)) => above(&erase.id, epoch, stored.epoch)?,
        Ok(None) => {}
        Err(StoreError::Corrupt { .. }) => {
            if let Ok(Some(newest)) = table.newest_epoch(&erase.id) {
                epoch = epoch.max(newest.next());
            }
        }
        Err(error) => return Err(error),
    }
    if let Some(deletion) = table.deletion(&erase.id) {
        above(&erase.id, erase.epoch, deletion.epoch)?;
    }
    Ok(epoch)
}

fn name(change: &Change) -> (&str, &str) {
    match change {
        Change::Set(entry) => (&entry.kind, &entry.id),
        Change::Unset { kind, id } => (kind, id),
    }
}

fn check_name(workspace: &WorkspaceId, change: &Change) -> Result<(), StoreError> {
    let (kind, id) = name(change);
    // Two separators, and one byte more for each zero byte of the kind.
    let escapes = kind.bytes().filter(|byte| *byte == 0).count();
    let bytes = workspace.as_str().len() + kind.len() + escapes + id.len() + 2;
    if bytes <= MAX_NAME_BYTES {
        return Ok(());
    }
    let beginning = |text: &str| -> String { text.chars().take(64).collect() };
    Err(StoreError::Refused {
        reason: format!(
            "workspace, kind and id together have {bytes} bytes, more than {MAX_NAME_BYTES}"
        ),
        kind: beginning(kind),
        id: beginning(id),
    })
}

fn above(id: &WorkspaceId, attempted: Epoch, stored: Epoch) -> Result<(), StoreError> {
    if attempted > stored {
        return Ok(());
    }
    Err(fenced(id, attempted, stored))
}

fn fenced(id: &WorkspaceId, attempted: Epoch, stored: Epoch) -> StoreError {
    StoreError::Fenced {
        id: id.clone(),
        attempted,
        stored,
    }
}

#[cfg(test)]
mod tests;
