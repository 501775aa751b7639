//! What every store must do, whatever implements it.

#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    clippy::print_stdout,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use super::{
    Change, Claim, Erase, HistoryRecord, Save, SaveRefused, Store, StoreError, StoredEntry,
    StoredTransition, StoredWorkspace,
};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use workspace_lifecycle::{Offset, PartitionId, Residence};
use workspace_status::{Epoch, State, WorkspaceId};

mod claims;
mod erasures;
mod histories;
mod saves;

/// One requirement on an empty store.
pub type Case = fn(&dyn Store);

macro_rules! cases {
    ($($module:ident::$case:ident),* $(,)?) => {
        &[$((stringify!($case), $module::$case as Case)),*]
    };
}

/// All requirements, by name.
pub const CASES: &[(&str, Case)] = cases![
    claims::a_claim_makes_a_workspace_known,
    claims::a_claim_of_an_old_epoch_is_fenced,
    claims::an_unknown_workspace_is_an_error,
    claims::workspaces_are_listed_by_partition,
    claims::odd_ids_and_names_are_kept_apart,
    claims::committed_offsets_are_kept_by_partition,
    saves::a_save_is_loaded_in_order,
    saves::of_two_changes_of_one_entry_the_later_counts,
    saves::a_save_of_an_old_epoch_is_refused_alone,
    saves::a_save_of_the_offset_alone_changes_nothing_else,
    saves::a_sink_that_refuses_ends_the_load,
    saves::another_number_of_entries_is_damage,
    saves::many_saves_of_many_workspaces_add_up,
    erasures::a_deleted_workspace_leaves_nothing_but_a_mark,
    erasures::a_name_that_was_deleted_begins_again_behind_the_mark,
    erasures::nothing_of_before_brings_a_deleted_workspace_back,
    erasures::a_transition_written_during_a_deletion_is_not_left_behind,
    erasures::a_reset_workspace_is_empty_and_keeps_its_history,
    erasures::an_erasure_of_an_old_epoch_is_fenced,
    erasures::a_purged_workspace_leaves_nothing,
    histories::history_is_kept_once_in_order_and_in_pages,
    histories::an_epoch_that_two_loads_used_has_the_transitions_of_both,
    histories::transitions_that_are_appended_again_with_more_are_kept_once,
    histories::the_newest_transitions_are_kept,
];

pub fn id(text: &str) -> WorkspaceId {
    WorkspaceId::new(text).expect("a valid id")
}

pub fn claim_of(text: &str, epoch: u64) -> Claim {
    Claim {
        id: id(text),
        partition: PartitionId(1),
        epoch: Epoch::new(epoch),
        owner: "node-1".to_owned(),
        first_offset: Offset(5),
    }
}

pub fn entry(kind: &str, name: &str, data: &str, offset: u64) -> StoredEntry {
    StoredEntry {
        kind: kind.into(),
        id: name.into(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        offset: Offset(offset),
    }
}

pub fn set(kind: &str, name: &str, data: &str, offset: u64) -> Change {
    Change::Set(entry(kind, name, data, offset))
}

pub fn unset(kind: &str, name: &str) -> Change {
    Change::Unset {
        kind: kind.into(),
        id: name.into(),
    }
}

/// The first save of a workspace; for a later one use [`counted`].
pub fn save_of(text: &str, epoch: u64, next_offset: u64, changes: Vec<Change>) -> Save {
    Save {
        id: id(text),
        epoch: Epoch::new(epoch),
        next_offset: Offset(next_offset),
        events_applied: next_offset * 2,
        entries: entries_after(BTreeSet::new(), &changes),
        changes,
        last_load_ms: None,
        residence: Residence::Memory,
        only_offset: None,
    }
}

/// A save with the number of entries that its workspace would report, computed from the store and the changes.
pub fn counted(store: &dyn Store, save: Save) -> Save {
    let mut names = BTreeSet::new();
    let loaded = store.load(&save.id, &mut |entry| {
        names.insert((entry.kind, entry.id));
        Ok(())
    });
    match loaded {
        Ok(_) => Save {
            entries: entries_after(names, &save.changes),
            ..save
        },
        // Here the number does not matter: the store refuses the save.
        Err(_) => save,
    }
}

fn entries_after(mut names: BTreeSet<(Arc<str>, Box<str>)>, changes: &[Change]) -> u64 {
    for change in changes {
        match change {
            Change::Set(entry) => names.insert((Arc::clone(&entry.kind), entry.id.clone())),
            Change::Unset { kind, id } => names.remove(&(Arc::clone(kind), id.clone())),
        };
    }
    u64::try_from(names.len()).unwrap_or(u64::MAX)
}

/// Loads a workspace with all its entries.
pub fn load(
    store: &dyn Store,
    text: &str,
) -> Result<(StoredWorkspace, Vec<StoredEntry>), StoreError> {
    let mut entries = Vec::new();
    let about = store.load(&id(text), &mut |entry| {
        entries.push(entry);
        Ok(())
    })?;
    Ok((about, entries))
}

/// Saves with the correct numbers of entries.
pub fn save(store: &dyn Store, saves: &[Save]) -> Vec<SaveRefused> {
    let saves = saves.iter().map(|save| counted(store, save.clone()));
    store.save(&saves.collect::<Vec<_>>(), &[]).expect("saved")
}

pub fn erase_of(text: &str, epoch: u64, next_offset: u64) -> Erase {
    Erase {
        id: id(text),
        partition: PartitionId(1),
        epoch: Epoch::new(epoch),
        owner: "node-2".to_owned(),
        next_offset: Offset(next_offset),
    }
}

pub fn transition(text: &str, epoch: u64, sequence: u64) -> HistoryRecord {
    HistoryRecord {
        id: id(text),
        epoch: Epoch::new(epoch),
        begun_ms: 1_700_000_000_000,
        owner: "node-1".to_owned(),
        transition: StoredTransition {
            sequence,
            from: State::Initializing,
            to: State::Ready,
            at_ms: 1_700_000_000_000 + sequence,
            time_in_from_us: 1234,
            message: format!("transition {sequence} of \"{epoch}\"\n"),
        },
    }
}
