//! What a claim, a save, transitions or an erasure change: the one place for the rules of fencing, of epochs, of
//! deletion marks and of the numbers of transitions. A plan reads a table and changes nothing.

use super::{
    Change, Claim, Deletion, Erase, HistoryCursor, HistoryRecord, Key, Mutation, Save, StoreError,
    StoredWorkspace, Table,
};
use std::collections::BTreeMap;
use workspace_status::{Epoch, WorkspaceId};

/// The most bytes of the names of an entry, with those of its workspace: the database cuts longer keys without an
/// error.
const MAX_NAME_BYTES: usize = u16::MAX as usize;

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
            unloaded: false,
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

/// The mutations of adding transitions of one workspace: those that are not stored yet, each with the number under
/// which it is stored, and the oldest that are removed for them.
///
/// A claim is not synced, and the first transitions of a load are written before it. So after a crash of the machine
/// the history may hold transitions of an epoch that the next load uses again. Where a number is taken by another
/// transition, the new one gets the number after the last of its epoch.
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
    let Some(first) = records.iter().map(cursor).min() else {
        return Ok(Vec::new());
    };
    let mut stored = BTreeMap::new();
    if table.last_transition(id)?.is_some_and(|last| last >= first) {
        let same_epochs = table.transitions(id, Some((first.0, 0)), usize::MAX)?;
        stored.extend(
            same_epochs
                .into_iter()
                .map(|record| (cursor(&record), record)),
        );
    }
    let mut mutations = Vec::with_capacity(records.len());
    for mut record in records {
        if let Some(number) = number(&stored, &record) {
            record.sequence = number;
            stored.insert(cursor(&record), record.clone());
            mutations.push(Mutation::Transition(record));
        }
    }
    for (epoch, sequence) in table.surplus(id, mutations.len())? {
        mutations.push(Mutation::Removed(Key::Transition {
            id: id.clone(),
            epoch,
            sequence,
        }));
    }
    Ok(mutations)
}

/// The number under which a transition is stored; `None` if it is stored already.
fn number(stored: &BTreeMap<HistoryCursor, HistoryRecord>, record: &HistoryRecord) -> Option<u64> {
    let is_same = |other: &HistoryRecord| {
        let HistoryRecord {
            id: _,
            sequence: _,
            epoch: _,
            owner,
            from,
            to,
            at_ms,
            time_in_from_us,
            message,
        } = other;
        (owner, from, to, at_ms, time_in_from_us, message)
            == (
                &record.owner,
                &record.from,
                &record.to,
                &record.at_ms,
                &record.time_in_from_us,
                &record.message,
            )
    };
    if !stored.contains_key(&cursor(record)) {
        return Some(record.sequence);
    }
    let of_epoch = stored.range((record.epoch, 0)..=(record.epoch, u64::MAX));
    let mut last = 0;
    for ((_, sequence), other) in of_epoch {
        if is_same(other) {
            return None;
        }
        last = *sequence;
    }
    Some(last.saturating_add(1))
}

fn cursor(record: &HistoryRecord) -> HistoryCursor {
    (record.epoch, record.sequence)
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
        unloaded: save.unloaded,
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
            if let Ok(Some((newest, _))) = table.last_transition(&erase.id) {
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
