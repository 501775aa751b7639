//! Resets, deletions and purges.

use super::{claim_of, entry, erase_of, id, load, save, save_of, set, transition};
use crate::store::{Claim, Deletion, Store, StoreError, StoredWorkspace};
use workspace_lifecycle::{Offset, PartitionId, Residence};
use workspace_status::Epoch;

/// Two workspaces of one entry and one transition each, at epoch 1 and offset 9.
fn fill_two(store: &dyn Store) {
    for text in ["acme", "acme-2"] {
        store.claim(claim_of(text, 1)).expect("claimed");
        save(store, &[save_of(text, 1, 9, vec![set("k", "a", "1", 1)])]);
        store
            .append_history(vec![transition(text, 1, 1)])
            .expect("kept");
    }
}

fn check_unknown(store: &dyn Store, text: &str) {
    assert_eq!(store.workspace(&id(text)).expect("readable"), None);
    assert!(matches!(
        load(store, text),
        Err(StoreError::UnknownWorkspace(_))
    ));
    assert_eq!(store.history(&id(text), None, 10).expect("readable"), []);
    let listed = store.workspaces(PartitionId(1)).expect("listed");
    assert!(listed.iter().all(|about| about.id != id(text)));
}

pub(super) fn a_deleted_workspace_leaves_nothing_but_a_mark(store: &dyn Store) {
    fill_two(store);
    let deletion = Deletion {
        id: id("acme"),
        partition: PartitionId(1),
        epoch: Epoch::new(2),
        next_offset: Offset(20),
    };
    assert_eq!(store.delete(erase_of("acme", 2, 20)), Ok(deletion.clone()));
    check_unknown(store, "acme");
    assert_eq!(store.deletions(PartitionId(1)), Ok(vec![deletion]));
    assert_eq!(store.deletions(PartitionId(2)), Ok(Vec::new()));
    let (_, other) = load(store, "acme-2").expect("the other one stays");
    let history = store.history(&id("acme-2"), None, 10).expect("readable");
    assert_eq!((other.len(), history.len()), (1, 1));
    // A workspace that the store never knew is deleted too, and one is deleted twice: its last deletion mark counts.
    store.delete(erase_of("acme-3", 1, 21)).expect("deleted");
    store.delete(erase_of("acme", 3, 22)).expect("deleted");
    let deletions = store.deletions(PartitionId(1)).expect("listed");
    let deletions: Vec<_> = deletions
        .iter()
        .map(|deletion| {
            (
                deletion.id.as_str(),
                deletion.epoch.get(),
                deletion.next_offset.0,
            )
        })
        .collect();
    assert_eq!(deletions, [("acme", 3, 22), ("acme-3", 1, 21)]);
}

pub(super) fn a_name_that_was_deleted_begins_again_behind_the_mark(store: &dyn Store) {
    fill_two(store);
    store.delete(erase_of("acme", 2, 20)).expect("deleted");
    let claimed = store.claim(claim_of("acme", 3)).expect("claimed");
    let begins = (claimed.first_offset, claimed.next_offset);
    assert_eq!(begins, (Offset(20), Offset(20)), "not at the claim's 5");
    assert_eq!((claimed.entries, claimed.events_applied), (0, 0));
    let refused = save(
        store,
        &[save_of("acme", 3, 25, vec![set("k", "b", "2", 24)])],
    );
    assert_eq!(refused, []);
    let (about, entries) = load(store, "acme").expect("loaded");
    assert_eq!(entries, [entry("k", "b", "2", 24)]);
    let offsets = (about.first_offset, about.next_offset);
    assert_eq!(offsets, (Offset(20), Offset(25)));
    assert_eq!(store.deletions(PartitionId(1)).expect("listed").len(), 1);

    let reset = store.reset(erase_of("acme", 4, 7)).expect("reset");
    assert_eq!(
        reset.first_offset,
        Offset(20),
        "not before the deletion mark"
    );

    store.delete(erase_of("acme-2", 2, 20)).expect("deleted");
    let late = Claim {
        first_offset: Offset(30),
        ..claim_of("acme-2", 3)
    };
    let claimed = store.claim(late).expect("claimed");
    assert_eq!(claimed.first_offset, Offset(30));
}

pub(super) fn nothing_of_before_brings_a_deleted_workspace_back(store: &dyn Store) {
    fill_two(store);
    store.delete(erase_of("acme", 2, 20)).expect("deleted");
    for epoch in [1, 2] {
        let claim = store.claim(claim_of("acme", epoch));
        let fenced = matches!(&claim, Err(StoreError::Fenced { stored, .. }) if stored.get() == 2);
        assert!(fenced, "{claim:?}");
    }
    let refused = save(
        store,
        &[save_of("acme", 1, 12, vec![set("k", "b", "2", 11)])],
    );
    assert_eq!(refused.len(), 1);
    // The last transitions of its status are written late.
    store
        .append_history(vec![transition("acme", 1, 2), transition("acme", 2, 1)])
        .expect("dropped");
    check_unknown(store, "acme");

    store.claim(claim_of("acme", 3)).expect("claimed");
    store
        .append_history(vec![transition("acme", 1, 3), transition("acme", 3, 1)])
        .expect("kept");
    let history = store.history(&id("acme"), None, 10).expect("readable");
    assert_eq!(history, [transition("acme", 3, 1)]);
    let refused = save(
        store,
        &[save_of("acme", 1, 12, vec![set("k", "b", "2", 11)])],
    );
    assert_eq!(refused.len(), 1);
    assert_eq!(load(store, "acme").expect("loaded").1, []);
}

pub(super) fn a_transition_written_during_a_deletion_is_not_left_behind(store: &dyn Store) {
    for round in 0..20 {
        let text = format!("acme-{round}");
        store.claim(claim_of(&text, 1)).expect("claimed");
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for sequence in 1..=20 {
                    let written = store.append_history(vec![transition(&text, 1, sequence)]);
                    written.expect("kept or dropped");
                }
            });
            store.delete(erase_of(&text, 2, 20)).expect("deleted");
            writer.join().expect("written");
        });
        let history = store.history(&id(&text), None, 100).expect("readable");
        assert_eq!(history, [], "{text}");
    }
}

pub(super) fn a_reset_workspace_is_empty_and_keeps_its_history(store: &dyn Store) {
    fill_two(store);
    let reset = store.reset(erase_of("acme", 2, 7)).expect("reset");
    let expected = StoredWorkspace {
        id: id("acme"),
        partition: PartitionId(1),
        epoch: Epoch::new(2),
        owner: "node-2".to_owned(),
        first_offset: Offset(7),
        next_offset: Offset(7),
        events_applied: 0,
        entries: 0,
        last_load_ms: None,
        residence: Residence::Memory,
    };
    assert_eq!(reset, expected);
    assert_eq!(load(store, "acme"), Ok((expected, Vec::new())));
    let refused = save(
        store,
        &[save_of("acme", 1, 12, vec![set("k", "b", "2", 11)])],
    );
    assert_eq!(refused.len(), 1, "one of before");
    store.claim(claim_of("acme", 3)).expect("claimed");
    let refused = save(
        store,
        &[save_of("acme", 3, 12, vec![set("k", "b", "2", 11)])],
    );
    assert_eq!(refused, []);
    let (about, entries) = load(store, "acme").expect("loaded");
    assert_eq!(entries, [entry("k", "b", "2", 11)]);
    assert_eq!(about.first_offset, Offset(7));
    let history = store.history(&id("acme"), None, 10).expect("readable");
    assert_eq!(history, [transition("acme", 1, 1)]);
    assert_eq!(store.deletions(PartitionId(1)), Ok(Vec::new()));
    assert_eq!(load(store, "acme-2").expect("loaded").1.len(), 1);
}

pub(super) fn an_erasure_of_an_old_epoch_is_fenced(store: &dyn Store) {
    fill_two(store);
    store.claim(claim_of("acme", 4)).expect("claimed");
    store.delete(erase_of("acme-2", 4, 20)).expect("deleted");
    for text in ["acme", "acme-2"] {
        for epoch in [3, 4] {
            let reset = store.reset(erase_of(text, epoch, 7)).err();
            let deleted = store.delete(erase_of(text, epoch, 7)).err();
            for refused in [reset, deleted] {
                assert!(
                    matches!(&refused, Some(StoreError::Fenced { stored, .. }) if stored.get() == 4),
                    "{refused:?}"
                );
            }
        }
    }
    assert_eq!(load(store, "acme").expect("loaded").1.len(), 1);
}

pub(super) fn a_purged_workspace_leaves_nothing(store: &dyn Store) {
    fill_two(store);
    store.delete(erase_of("acme", 2, 20)).expect("deleted");
    store.purge(&id("acme")).expect("purged");
    check_unknown(store, "acme");
    assert_eq!(store.deletions(PartitionId(1)), Ok(Vec::new()));
    let claimed = store.claim(claim_of("acme", 1)).expect("claimed again");
    assert_eq!((claimed.entries, claimed.events_applied), (0, 0));
    assert_eq!(load(store, "acme").expect("loaded").1, []);
    assert_eq!(
        load(store, "acme-2").expect("the other one stays").1.len(),
        1
    );
    assert_eq!(
        store
            .history(&id("acme-2"), None, 10)
            .expect("readable")
            .len(),
        1
    );
}
