//! How the LSM store handles damage, in addition to what every store must do.

use super::*;
use crate::disk::DataDirSpec;
use crate::routing::partition_of;
use crate::store::conformance::{claim_of, counted, erase_of, id, load, save_of, set, transition};
use crate::store::{HistoryPart, SaveRefused, Store};
use workspace_status::Epoch;

#[test]
fn the_lsm_store_does_what_every_store_must() {
    for (name, case) in crate::store::conformance::CASES {
        println!("{name}");
        let path = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(path.path(), &DataDirSpec::default()).expect("opened");
        case(&LsmStore::open(&dir).expect("opened"));
    }
}

fn open(path: &std::path::Path) -> LsmStore {
    let dir = DataDir::open(path, &DataDirSpec::default()).expect("opened");
    LsmStore::open(&dir).expect("opened")
}

fn filled(store: &LsmStore) {
    for text in ["acme", "other"] {
        store.claim(claim_of(text, 1)).expect("claimed");
        let changes = (0..10).map(|number| set("kind", &number.to_string(), "{\"a\":1}", number));
        let refused = store.save(&[save_of(text, 1, 10, changes.collect())], &[]);
        assert!(refused.expect("saved").is_empty());
    }
}

#[test]
fn a_damaged_entry_parks_its_workspace_alone_and_is_named() {
    let path = tempfile::tempdir().expect("a directory");
    let store = open(path.path());
    filled(&store);
    let key = layout::entry_key(&id("acme"), "kind", "7");
    let value = store.entries.get(&key).expect("readable").expect("there");
    for bit in 0..value.len() * 8 {
        let mut damaged = value.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        store.entries.insert(&key, damaged).expect("written");
        match load(&store, "acme") {
            Err(StoreError::Corrupt { place, reason }) => {
                assert_eq!(place, "entry kind/7 of workspace acme");
                assert_eq!(reason, "its checksum does not match");
            }
            other => panic!("bit {bit}: {other:?}"),
        }
    }
    assert_eq!(
        load(&store, "other").expect("the other one loads").1.len(),
        10
    );
}

#[test]
fn an_entry_that_disappeared_is_damage() {
    let path = tempfile::tempdir().expect("a directory");
    let store = open(path.path());
    filled(&store);
    store
        .entries
        .remove(layout::entry_key(&id("acme"), "kind", "7"))
        .expect("removed");
    match load(&store, "acme") {
        Err(StoreError::Corrupt { reason, .. }) => {
            assert_eq!(reason, "wrong number of entries: expected 10, found 9");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_workspace_with_a_damaged_record_is_listed_and_only_deletable() {
    let path = tempfile::tempdir().expect("a directory");
    let store = open(path.path());
    filled(&store);
    let partition = partition_of(&id("acme"), 12);
    store
        .save(&[], &[(partition, Offset(9))])
        .expect("committed");
    store.workspaces.insert("acme", "damaged").expect("written");
    drop(store);
    let store = open(path.path());
    let listed = store.workspaces(partition).expect("listed");
    let acme = listed
        .iter()
        .find(|about| about.id == id("acme"))
        .expect("listed");
    assert_eq!((acme.epoch.get(), acme.next_offset), (0, Offset::ZERO));
    for refused in [
        store.workspace(&id("acme")).err(),
        store.claim(claim_of("acme", 2)).err(),
        load(&store, "acme").err(),
    ] {
        assert!(
            matches!(&refused, Some(StoreError::Corrupt { .. })),
            "{refused:?}"
        );
    }
    let saves = vec![
        save_of("acme", 1, 11, Vec::new()),
        counted(&store, save_of("other", 1, 11, Vec::new())),
    ];
    let refused = store.save(&saves, &[]).expect("the others are saved");
    assert!(
        matches!(
            refused.as_slice(),
            [SaveRefused {
                error: StoreError::Corrupt { .. },
                ..
            }]
        ),
        "{refused:?}"
    );
    store.purge(&id("acme")).expect("deleted");
    store.claim(claim_of("acme", 1)).expect("claimed again");
    assert_eq!(load(&store, "acme").expect("loaded").1, []);
    let listed = store.workspaces(PartitionId(1)).expect("listed");
    assert_eq!(listed.len(), 2, "where it was claimed, beside the other");
    assert_eq!(store.workspaces(partition).expect("listed"), []);
}

#[test]
fn a_deletion_that_was_cut_short_is_finished_when_the_store_is_opened() {
    let path = tempfile::tempdir().expect("a directory");
    let store = open(path.path());
    filled(&store);
    let workspace = store
        .workspace(&id("acme"))
        .expect("readable")
        .expect("there");
    store
        .workspaces
        .insert(
            "acme",
            layout::encode_workspace(&workspace, Condition::Deleting),
        )
        .expect("written");
    store
        .entries
        .remove(layout::entry_key(&id("acme"), "kind", "7"))
        .expect("removed");
    assert_eq!(store.workspace(&id("acme")).expect("readable"), None);
    drop(store);
    let store = open(path.path());
    assert_eq!(
        store
            .entries
            .prefix(layout::workspace_prefix(&id("acme")))
            .count(),
        0
    );
    assert_eq!(
        load(&store, "other").expect("the other one loads").1.len(),
        10
    );
}

#[test]
fn an_entry_whose_name_is_too_long_is_refused_alone() {
    let path = tempfile::tempdir().expect("a directory");
    let store = open(path.path());
    filled(&store);
    let long = "x".repeat(usize::from(u16::MAX));
    let saves = vec![
        save_of("acme", 1, 11, vec![set("kind", &long, "1", 10)]),
        counted(
            &store,
            save_of("other", 1, 11, vec![set("kind", "short", "1", 10)]),
        ),
    ];
    let refused = store.save(&saves, &[]).expect("the others are saved");
    assert!(
        matches!(
            refused.as_slice(),
            [SaveRefused {
                error: StoreError::Refused { .. },
                ..
            }]
        ),
        "{refused:?}"
    );
    assert_eq!(
        load(&store, "acme").expect("loaded").0.next_offset,
        Offset(10)
    );
    assert_eq!(
        load(&store, "other").expect("loaded").0.next_offset,
        Offset(11)
    );
}

#[test]
fn a_damaged_history_harms_no_other() {
    let path = tempfile::tempdir().expect("a directory");
    let store = open(path.path());
    let place = HistoryPlace {
        epoch: Epoch::new(1),
        begun_ms: 3,
        sequence: 5,
    };
    let mut too_long = layout::history_key(&id("acme"), place);
    too_long.push(0);
    let parts = &store.history.parts;
    parts.insert(too_long, "damaged").expect("written");
    // It is counted with this one.
    let refused = store.append_history(vec![transition("acme", 1, 63), transition("ber", 1, 1)]);
    for refused in [refused, store.history(&id("acme"), None, 10).map(|_| ())] {
        assert!(
            matches!(&refused, Err(StoreError::Corrupt { place, .. }) if place == "the history of workspace acme"),
            "{refused:?}"
        );
    }
    let kept = store.history(&id("ber"), None, 10).expect("readable");
    assert_eq!(kept, [transition("ber", 1, 1)]);
}

#[test]
fn a_history_keeps_a_transition_once_however_often_it_is_appended() {
    let path = tempfile::tempdir().expect("a directory");
    let at = |epoch, sequences: std::ops::RangeInclusive<u64>| -> Vec<HistoryRecord> {
        sequences
            .map(|sequence| transition("acme", epoch, sequence))
            .collect()
    };
    let store = open(path.path());
    let append = |store: &LsmStore, records: Vec<HistoryRecord>, expected: usize| {
        store.append_history(records).expect("kept");
        let history = store.history(&id("acme"), None, 100).expect("readable");
        assert_eq!(history.len(), expected);
    };
    append(&store, at(1, 1..=3), 3);
    append(&store, at(1, 1..=5), 5);
    append(&store, at(3, 1..=2), 7);
    // Late transitions of an epoch before the newest, one of which is known.
    append(&store, at(1, 5..=6), 8);
    // Twice in one append.
    append(&store, [at(3, 3..=3), at(3, 3..=3)].concat(), 9);
    drop(store);
    let store = open(path.path());
    append(&store, at(4, 1..=1), 10);
    store.purge(&id("acme")).expect("deleted");
    append(&store, at(5, 1..=2), 2);
}

#[test]
fn what_others_wrote_to_a_history_is_kept() {
    let path = tempfile::tempdir().expect("a directory");
    let store = open(path.path());
    let append = |records| store.append_history(records).expect("kept");
    append(vec![transition("acme", 1, 1)]);
    let others = HistoryPart::of((2..=4).map(|one| transition("acme", 1, one)).collect());
    let others: Vec<_> = others.into_iter().map(Mutation::History).collect();
    let position = CopyPosition {
        source: "elsewhere".to_owned(),
        next_offset: 3,
        ownership_record_offset: 0,
        highest_epoch: Epoch::new(1),
        at_ms: 0,
    };
    store
        .import(PartitionId(0), &others, &position)
        .expect("brought in");
    // One of them is appended twice.
    append(vec![transition("acme", 1, 4), transition("acme", 1, 5)]);
    let history = store.history(&id("acme"), None, 10).expect("readable");
    let sequences: Vec<u64> = history
        .iter()
        .map(|record| record.transition.sequence)
        .collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5]);
}

#[test]
fn an_unfinished_deletion_does_not_keep_others_from_opening() {
    let path = tempfile::tempdir().expect("a directory");
    let store = open(path.path());
    filled(&store);
    let workspace = store.workspace(&id("acme")).expect("readable");
    let deleting = layout::encode_workspace(&workspace.expect("there"), Condition::Deleting);
    store.workspaces.insert("acme", deleting).expect("written");
    store
        .entries
        .rotate_memtable_and_wait()
        .expect("written to a table");
    let tables = store.entries.path().join("tables");
    drop(store);
    for table in std::fs::read_dir(tables).expect("a directory") {
        let table = table.expect("listed").path();
        let mut bytes = std::fs::read(&table).expect("readable");
        bytes[16] ^= 1;
        std::fs::write(&table, bytes).expect("written");
    }

    let store = open(path.path());
    assert_eq!(store.workspace(&id("acme")), Ok(None));
    assert!(store.workspace(&id("other")).expect("readable").is_some());
    let refused = store.purge(&id("acme"));
    assert!(
        matches!(refused, Err(StoreError::Corrupt { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_reset_that_was_cut_short_is_finished_when_the_store_is_opened() {
    let path = tempfile::tempdir().expect("a directory");
    let store = open(path.path());
    filled(&store);
    let reset = crate::store::plan::reset(&store, erase_of("acme", 5, 3)).expect("planned");
    let resetting = layout::encode_workspace(&reset, Condition::Resetting);
    store.workspaces.insert("acme", resetting).expect("written");
    store
        .entries
        .remove(layout::entry_key(&id("acme"), "kind", "7"))
        .expect("removed");
    drop(store);
    let store = open(path.path());
    let (about, entries) = load(&store, "acme").expect("loaded");
    assert_eq!((about, entries), (reset, Vec::new()));
    assert_eq!(load(&store, "other").expect("loaded").1.len(), 10);
}

#[test]
fn a_damaged_record_is_erased_in_an_epoch_above_its_history() {
    for reset in [true, false] {
        let path = tempfile::tempdir().expect("a directory");
        let store = open(path.path());
        filled(&store);
        store
            .append_history(vec![transition("acme", 7, 1)])
            .expect("kept");
        store.workspaces.insert("acme", "damaged").expect("written");
        let erase = erase_of("acme", 1, 3);
        let epoch = if reset {
            store.reset(erase).expect("reset").epoch
        } else {
            store.delete(erase).expect("deleted").epoch
        };
        assert_eq!(epoch.get(), 8);
    }
}

#[test]
fn a_deletion_is_remembered_where_the_record_of_its_successor_is_damaged() {
    let path = tempfile::tempdir().expect("a directory");
    let store = open(path.path());
    filled(&store);
    store.delete(erase_of("acme", 2, 30)).expect("deleted");
    store.claim(claim_of("acme", 3)).expect("claimed");
    store.workspaces.insert("acme", "damaged").expect("written");
    drop(store);
    let store = open(path.path());
    let deletions = store.deletions(PartitionId(1)).expect("listed");
    assert_eq!(deletions.len(), 1);
    assert_eq!(deletions[0].next_offset, Offset(30));
}
