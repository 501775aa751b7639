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
    Change, Claim, Deletion, Erase, HistoryRecord, Opening, Ownership, Save, SaveRefused,
    SoleOwner, Store, StoreError, StoredEntry, StoredWorkspace,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{Epoch, State, WorkspaceId};

/// One requirement on an empty store.
pub type Case = fn(&dyn Store);

/// All requirements, by name.
pub const CASES: &[(&str, Case)] = &[
    (
        "a claim makes a workspace known",
        a_claim_makes_a_workspace_known,
    ),
    (
        "a claim of an old epoch is fenced",
        a_claim_of_an_old_epoch_is_fenced,
    ),
    ("a save is loaded in order", a_save_is_loaded_in_order),
    (
        "of two changes of one entry the later counts",
        of_two_changes_of_one_entry_the_later_counts,
    ),
    (
        "a save of an old epoch is refused alone",
        a_save_of_an_old_epoch_is_refused_alone,
    ),
    (
        "a save of the offset alone changes nothing else",
        a_save_of_the_offset_alone_changes_nothing_else,
    ),
    (
        "an unknown workspace is an error to load and to save",
        an_unknown_workspace_is_an_error,
    ),
    (
        "workspaces are listed by partition and ordered by id",
        workspaces_are_listed_by_partition,
    ),
    (
        "odd ids and names are kept apart",
        odd_ids_and_names_are_kept_apart,
    ),
    (
        "committed offsets are kept by partition",
        committed_offsets_are_kept_by_partition,
    ),
    (
        "a deleted workspace leaves nothing but a mark",
        a_deleted_workspace_leaves_nothing_but_a_mark,
    ),
    (
        "a name that was deleted begins again behind the mark",
        a_name_that_was_deleted_begins_again_behind_the_mark,
    ),
    (
        "nothing of before brings a deleted workspace back",
        nothing_of_before_brings_a_deleted_workspace_back,
    ),
    (
        "a transition that is written during a deletion is not left behind",
        a_transition_written_during_a_deletion_is_not_left_behind,
    ),
    (
        "a reset workspace is empty and keeps its history",
        a_reset_workspace_is_empty_and_keeps_its_history,
    ),
    (
        "an erasure is refused where a newer load stands against it",
        an_erasure_of_an_old_epoch_is_fenced,
    ),
    (
        "a purged workspace leaves nothing",
        a_purged_workspace_leaves_nothing,
    ),
    (
        "a sink that refuses ends the load with its reason",
        a_sink_that_refuses_ends_the_load,
    ),
    (
        "history is kept once, in order and in pages",
        history_is_kept_once_in_order_and_in_pages,
    ),
    (
        "another number of entries than was saved is damage",
        another_number_of_entries_is_damage,
    ),
    (
        "many saves of many workspaces add up",
        many_saves_of_many_workspaces_add_up,
    ),
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
        unloaded: false,
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

/// An ownership that accepts no saves of one partition, where one is set.
#[derive(Debug, Default)]
pub struct HeldUp(pub Mutex<Option<PartitionId>>);

impl Ownership for HeldUp {
    fn takes_saves(&self, partition: PartitionId) -> Result<(), StoreError> {
        if *self.0.lock() == Some(partition) {
            return Err(StoreError::Unavailable("on purpose".to_owned()));
        }
        Ok(())
    }

    fn open(&self, partition: PartitionId) -> Result<Opening, StoreError> {
        SoleOwner.open(partition)
    }

    fn close(&self, partition: PartitionId) {
        SoleOwner.close(partition);
    }

    fn first_epoch(&self, partition: PartitionId) -> Epoch {
        SoleOwner.first_epoch(partition)
    }

    fn notice(&self, partition: PartitionId) -> Option<String> {
        SoleOwner.notice(partition)
    }

    fn note_misrouted(&self, partition: PartitionId, offset: Offset) {
        SoleOwner.note_misrouted(partition, offset);
    }
}

fn a_claim_makes_a_workspace_known(store: &dyn Store) {
    assert_eq!(store.workspace(&id("acme")).expect("readable"), None);
    let claimed = store.claim(claim_of("acme", 1)).expect("claimed");
    let expected = StoredWorkspace {
        id: id("acme"),
        partition: PartitionId(1),
        epoch: Epoch::new(1),
        owner: "node-1".to_owned(),
        first_offset: Offset(5),
        next_offset: Offset(5),
        events_applied: 0,
        entries: 0,
        last_load_ms: None,
        unloaded: false,
    };
    assert_eq!(claimed, expected);
    assert_eq!(
        store.workspace(&id("acme")).expect("readable"),
        Some(expected.clone())
    );
    assert_eq!(load(store, "acme").expect("loaded"), (expected, Vec::new()));
}

fn a_claim_of_an_old_epoch_is_fenced(store: &dyn Store) {
    store.claim(claim_of("acme", 3)).expect("claimed");
    for epoch in [1, 2, 3] {
        match store.claim(claim_of("acme", epoch)) {
            Err(StoreError::Fenced {
                attempted, stored, ..
            }) => {
                assert_eq!((attempted, stored), (Epoch::new(epoch), Epoch::new(3)));
            }
            other => panic!("{other:?}"),
        }
    }
    let claim = Claim {
        owner: "node-2".to_owned(),
        first_offset: Offset(99),
        ..claim_of("acme", 4)
    };
    let claimed = store.claim(claim).expect("claimed");
    assert_eq!(
        (claimed.owner.as_str(), claimed.epoch, claimed.next_offset),
        ("node-2", Epoch::new(4), Offset(5))
    );
}

fn a_save_is_loaded_in_order(store: &dyn Store) {
    store.claim(claim_of("acme", 1)).expect("claimed");
    let changes = vec![
        set("b", "1", "{\"x\":1}", 7),
        set("a", "2", "2", 8),
        set("a", "10", "null", 9),
        set("a", "1", "\"ü\"", 6),
    ];
    let refused = save(
        store,
        &[Save {
            last_load_ms: Some(12),
            unloaded: true,
            ..save_of("acme", 1, 10, changes)
        }],
    );
    assert!(refused.is_empty(), "{refused:?}");
    let (about, entries) = load(store, "acme").expect("loaded");
    let expected = [
        entry("a", "1", "\"ü\"", 6),
        entry("a", "10", "null", 9),
        entry("a", "2", "2", 8),
        entry("b", "1", "{\"x\":1}", 7),
    ];
    assert_eq!(entries, expected);
    assert_eq!(
        (about.next_offset, about.events_applied, about.entries),
        (Offset(10), 20, 4)
    );
    assert_eq!((about.last_load_ms, about.unloaded), (Some(12), true));

    save(
        store,
        &[save_of(
            "acme",
            1,
            11,
            vec![unset("a", "10"), unset("a", "none"), set("b", "1", "3", 10)],
        )],
    );
    let (about, entries) = load(store, "acme").expect("loaded");
    assert_eq!(
        entries,
        [
            entry("a", "1", "\"ü\"", 6),
            entry("a", "2", "2", 8),
            entry("b", "1", "3", 10)
        ]
    );
    assert_eq!(
        (about.entries, about.last_load_ms, about.unloaded),
        (3, Some(12), false)
    );
    assert_eq!(store.workspace(&id("acme")).expect("readable"), Some(about));
}

fn of_two_changes_of_one_entry_the_later_counts(store: &dyn Store) {
    store.claim(claim_of("acme", 1)).expect("claimed");
    let changes = vec![
        set("k", "a", "1", 1),
        set("k", "a", "2", 2),
        set("k", "b", "1", 3),
        unset("k", "b"),
        unset("k", "c"),
        set("k", "c", "1", 4),
    ];
    save(store, &[save_of("acme", 1, 6, changes)]);
    let changes = vec![set("k", "d", "1", 6), set("k", "a", "3", 5)];
    save(store, &[save_of("acme", 1, 7, changes)]);
    let (about, entries) = load(store, "acme").expect("loaded");
    assert_eq!(
        entries,
        [
            entry("k", "a", "3", 5),
            entry("k", "c", "1", 4),
            entry("k", "d", "1", 6)
        ]
    );
    assert_eq!((about.next_offset, about.entries), (Offset(7), 3));
}

fn a_save_of_an_old_epoch_is_refused_alone(store: &dyn Store) {
    store.claim(claim_of("old", 2)).expect("claimed");
    store.claim(claim_of("new", 2)).expect("claimed");
    let refused = save(
        store,
        &[
            save_of("old", 1, 9, vec![set("k", "a", "1", 1)]),
            save_of("new", 2, 9, vec![set("k", "a", "1", 1)]),
        ],
    );
    match refused.as_slice() {
        &[
            SaveRefused {
                id: ref refused,
                epoch: _,
                error:
                    StoreError::Fenced {
                        id: ref fenced,
                        attempted,
                        stored,
                    },
            },
        ] => {
            assert_eq!(refused, fenced);
            assert_eq!(
                (fenced, attempted, stored),
                (&id("old"), Epoch::new(1), Epoch::new(2))
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(load(store, "old").expect("loaded").1, []);
    assert_eq!(load(store, "new").expect("loaded").1.len(), 1);
}

fn a_save_of_the_offset_alone_changes_nothing_else(store: &dyn Store) {
    store.claim(claim_of("acme", 2)).expect("claimed");
    let unloaded = Save {
        last_load_ms: Some(12),
        unloaded: true,
        ..save_of("acme", 2, 9, vec![set("k", "a", "1", 1)])
    };
    assert_eq!(save(store, &[unloaded]), []);
    let (before, entries) = load(store, "acme").expect("loaded");
    // The epoch that the store must have, the epoch of the save, the offset, and whether the save is accepted.
    for (stored, epoch, next_offset, taken) in [
        (1, 1, 40, false),
        (1, 3, 40, false),
        (3, 3, 40, false),
        (2, 3, 30, true),
        (2, 3, 40, false),
        // The offset never decreases.
        (3, 3, 20, true),
    ] {
        let advance = Save {
            only_offset: Some(Epoch::new(stored)),
            ..save_of("acme", epoch, next_offset, Vec::new())
        };
        let refused = store.save(&[advance], &[]).expect("answered");
        assert_eq!(refused.is_empty(), taken, "{stored} {epoch} {next_offset}");
    }
    let expected = StoredWorkspace {
        epoch: Epoch::new(3),
        next_offset: Offset(30),
        ..before
    };
    assert_eq!(load(store, "acme"), Ok((expected, entries)));
}

fn an_unknown_workspace_is_an_error(store: &dyn Store) {
    assert!(matches!(
        load(store, "nobody"),
        Err(StoreError::UnknownWorkspace(_))
    ));
    let refused = save(
        store,
        &[save_of("nobody", 1, 9, vec![set("k", "a", "1", 1)])],
    );
    assert!(
        matches!(
            refused.as_slice(),
            [SaveRefused {
                error: StoreError::UnknownWorkspace(_),
                ..
            }]
        ),
        "{refused:?}"
    );
    assert_eq!(store.workspace(&id("nobody")).expect("readable"), None);
    store.purge(&id("nobody")).expect("nothing to purge");
}

fn workspaces_are_listed_by_partition(store: &dyn Store) {
    for (text, partition) in [("c", 1), ("a", 1), ("b", 2), ("a-1", 1), ("B", 1)] {
        store
            .claim(Claim {
                partition: PartitionId(partition),
                ..claim_of(text, 1)
            })
            .expect("claimed");
    }
    let list = |partition| {
        let listed = store.workspaces(PartitionId(partition)).expect("listed");
        listed
            .into_iter()
            .map(|about| about.id.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(1), ["B", "a", "a-1", "c"]);
    assert_eq!(list(2), ["b"]);
    assert!(list(3).is_empty());
}

fn odd_ids_and_names_are_kept_apart(store: &dyn Store) {
    let longest = "L".repeat(255);
    let ids = [
        ".",
        "..",
        "...",
        "con",
        "CON",
        "Con",
        "nul",
        "a:b",
        "a_b",
        "-",
        "_",
        longest.as_str(),
        "a",
        "A",
        "a.",
    ];
    for (number, text) in ids.iter().enumerate() {
        store.claim(claim_of(text, 1)).expect("claimed");
        save(
            store,
            &[save_of(
                text,
                1,
                7,
                vec![
                    set("kind", "a/b\0c\n\"", &number.to_string(), 6),
                    set("k\0", "", "{}", 5),
                ],
            )],
        );
    }
    for (number, text) in ids.iter().enumerate() {
        let (about, entries) = load(store, text).expect("loaded");
        assert_eq!(about.id, id(text));
        assert_eq!(
            entries,
            [
                entry("k\0", "", "{}", 5),
                entry("kind", "a/b\0c\n\"", &number.to_string(), 6)
            ],
            "{text}"
        );
    }
    assert_eq!(
        store.workspaces(PartitionId(1)).expect("listed").len(),
        ids.len()
    );
}

fn committed_offsets_are_kept_by_partition(store: &dyn Store) {
    assert_eq!(
        store.committed(PartitionId(1)).expect("readable"),
        Offset::ZERO
    );
    store
        .save(
            &[],
            &[(PartitionId(1), Offset(7)), (PartitionId(2), Offset(9))],
        )
        .expect("saved");
    store
        .save(&[], &[(PartitionId(1), Offset(8))])
        .expect("saved");
    let committed =
        [0, 1, 2].map(|partition| store.committed(PartitionId(partition)).expect("readable"));
    assert_eq!(committed, [Offset(0), Offset(8), Offset(9)]);
    store.sync().expect("synced");
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

fn a_deleted_workspace_leaves_nothing_but_a_mark(store: &dyn Store) {
    fill_two(store);
    let mark = Deletion {
        id: id("acme"),
        partition: PartitionId(1),
        epoch: Epoch::new(2),
        next_offset: Offset(20),
    };
    assert_eq!(store.delete(erase_of("acme", 2, 20)), Ok(mark.clone()));
    check_unknown(store, "acme");
    assert_eq!(store.deletions(PartitionId(1)), Ok(vec![mark]));
    assert_eq!(store.deletions(PartitionId(2)), Ok(Vec::new()));
    let (_, other) = load(store, "acme-2").expect("the other one stays");
    let history = store.history(&id("acme-2"), None, 10).expect("readable");
    assert_eq!((other.len(), history.len()), (1, 1));
    // A workspace that the store never knew is deleted too, and one is deleted twice: its last mark counts.
    store.delete(erase_of("acme-3", 1, 21)).expect("deleted");
    store.delete(erase_of("acme", 3, 22)).expect("deleted");
    let marks = store.deletions(PartitionId(1)).expect("listed");
    let marks: Vec<_> = marks
        .iter()
        .map(|mark| (mark.id.as_str(), mark.epoch.get(), mark.next_offset.0))
        .collect();
    assert_eq!(marks, [("acme", 3, 22), ("acme-3", 1, 21)]);
}

fn a_name_that_was_deleted_begins_again_behind_the_mark(store: &dyn Store) {
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
    assert_eq!(reset.first_offset, Offset(20), "not before the mark");

    store.delete(erase_of("acme-2", 2, 20)).expect("deleted");
    let late = Claim {
        first_offset: Offset(30),
        ..claim_of("acme-2", 3)
    };
    let claimed = store.claim(late).expect("claimed");
    assert_eq!(claimed.first_offset, Offset(30));
}

fn nothing_of_before_brings_a_deleted_workspace_back(store: &dyn Store) {
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

fn a_transition_written_during_a_deletion_is_not_left_behind(store: &dyn Store) {
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

fn a_reset_workspace_is_empty_and_keeps_its_history(store: &dyn Store) {
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
        unloaded: false,
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

fn an_erasure_of_an_old_epoch_is_fenced(store: &dyn Store) {
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

fn a_purged_workspace_leaves_nothing(store: &dyn Store) {
    fill_two(store);
    store.delete(erase_of("acme", 2, 20)).expect("deleted");
    store.purge(&id("acme")).expect("purged");
    check_unknown(store, "acme");
    assert_eq!(store.deletions(PartitionId(1)), Ok(Vec::new()));
    let claimed = store.claim(claim_of("acme", 1)).expect("claimed anew");
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

fn a_sink_that_refuses_ends_the_load(store: &dyn Store) {
    store.claim(claim_of("acme", 1)).expect("claimed");
    save(
        store,
        &[save_of(
            "acme",
            1,
            9,
            vec![set("k", "a", "1", 1), set("k", "b", "1", 1)],
        )],
    );
    let refused = store.load(&id("acme"), &mut |entry| {
        if &*entry.id == "b" {
            Err("not this one".to_owned())
        } else {
            Ok(())
        }
    });
    match refused {
        Err(StoreError::Refused { kind, id, reason }) => {
            assert_eq!(
                (kind.as_str(), id.as_str(), reason.as_str()),
                ("k", "b", "not this one")
            );
        }
        other => panic!("{other:?}"),
    }
}

pub fn transition(text: &str, epoch: u64, sequence: u64) -> HistoryRecord {
    HistoryRecord {
        id: id(text),
        sequence,
        epoch: Epoch::new(epoch),
        owner: "node-1".to_owned(),
        from: State::Initializing,
        to: State::Ready,
        at_ms: 1_700_000_000_000 + sequence,
        time_in_from_us: 1234,
        message: format!("transition {sequence} of \"{epoch}\"\n"),
    }
}

fn history_is_kept_once_in_order_and_in_pages(store: &dyn Store) {
    let all: Vec<_> = [(1, 1), (1, 2), (1, 10), (2, 1), (2, 2)]
        .map(|(epoch, sequence)| transition("acme", epoch, sequence))
        .into();
    store.append_history(all[..3].to_vec()).expect("kept");
    store.append_history(all.clone()).expect("kept");
    store
        .append_history(vec![transition("other", 9, 9), transition("other", 9, 9)])
        .expect("kept");
    let page = |after, limit| store.history(&id("acme"), after, limit).expect("readable");
    assert_eq!(page(None, 100), all);
    assert_eq!(page(None, 2), all[..2]);
    assert_eq!(page(Some((Epoch::new(1), 2)), 2), all[2..4]);
    assert_eq!(page(Some((Epoch::new(2), 2)), 2), []);
    assert_eq!(
        store
            .history(&id("other"), None, 10)
            .expect("readable")
            .len(),
        1
    );
}

fn another_number_of_entries_is_damage(store: &dyn Store) {
    for entries in [0, 1, 3] {
        for text in ["acme", "other"] {
            store.claim(claim_of(text, 1)).expect("claimed");
        }
        let changes = vec![set("k", "a", "1", 5), set("k", "b", "1", 6)];
        let wrong = Save {
            entries,
            ..save_of("acme", 1, 7, changes.clone())
        };
        let refused = store.save(&[wrong, save_of("other", 1, 7, changes)], &[]);
        assert_eq!(refused.expect("the store trusts the workspace"), []);
        match load(store, "acme") {
            Err(StoreError::Corrupt { place, reason }) => {
                assert!(place.contains("acme"), "{place}");
                assert_eq!(reason, format!("2 are there, and {entries} should be"));
            }
            other => panic!("{entries}: {other:?}"),
        }
        assert_eq!(load(store, "other").expect("loaded").1.len(), 2);
        for text in ["acme", "other"] {
            let reset = store.reset(erase_of(text, entries + 2, 5));
            reset.expect("a reset is the way out");
            assert_eq!(load(store, text).expect("loaded").1, []);
            store.purge(&id(text)).expect("purged");
        }
    }
}

fn many_saves_of_many_workspaces_add_up(store: &dyn Store) {
    let workspaces: Vec<String> = (0..50).map(|number| format!("w-{number}")).collect();
    for text in &workspaces {
        store.claim(claim_of(text, 1)).expect("claimed");
    }
    for round in 0..20_u64 {
        let saves = workspaces.iter().enumerate().map(|(number, text)| {
            let name = (round * 7 % 13).to_string();
            let change = if round % 5 == 4 {
                unset("k", &name)
            } else {
                set("k", &name, &format!("{number}"), round)
            };
            save_of(text, 1, round + 6, vec![change])
        });
        let saves: Vec<_> = saves.collect();
        assert!(save(store, &saves).is_empty());
    }
    let mut model = std::collections::BTreeSet::new();
    for round in 0..20_u64 {
        let name = (round * 7 % 13).to_string();
        if round % 5 == 4 {
            model.remove(&name)
        } else {
            model.insert(name)
        };
    }
    for text in &workspaces {
        let (about, entries) = load(store, text).expect("loaded");
        assert!(
            entries
                .iter()
                .map(|entry| &*entry.id)
                .eq(model.iter().map(String::as_str))
        );
        assert_eq!(
            (
                about.next_offset,
                usize::try_from(about.entries).expect("small")
            ),
            (Offset(25), model.len())
        );
    }
}
