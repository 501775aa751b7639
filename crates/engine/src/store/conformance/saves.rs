//! Saves and loads.

use super::{claim_of, entry, erase_of, id, load, save, save_of, set, unset};
use crate::store::{Save, SaveRefused, Store, StoreError, StoredWorkspace};
use workspace_lifecycle::{Offset, Residence};
use workspace_status::Epoch;

pub(super) fn a_save_is_loaded_in_order(store: &dyn Store) {
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
            residence: Residence::Unloaded,
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
    assert_eq!(
        (about.last_load_ms, about.residence),
        (Some(12), Residence::Unloaded)
    );

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
        (about.entries, about.last_load_ms, about.residence),
        (3, Some(12), Residence::Memory)
    );
    assert_eq!(store.workspace(&id("acme")).expect("readable"), Some(about));
}

pub(super) fn of_two_changes_of_one_entry_the_later_counts(store: &dyn Store) {
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

pub(super) fn a_save_of_an_old_epoch_is_refused_alone(store: &dyn Store) {
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

pub(super) fn a_save_of_the_offset_alone_changes_nothing_else(store: &dyn Store) {
    store.claim(claim_of("acme", 2)).expect("claimed");
    let unloaded = Save {
        last_load_ms: Some(12),
        residence: Residence::Unloaded,
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

pub(super) fn a_sink_that_refuses_ends_the_load(store: &dyn Store) {
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

pub(super) fn another_number_of_entries_is_damage(store: &dyn Store) {
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
                assert_eq!(
                    reason,
                    format!("wrong number of entries: expected {entries}, found 2")
                );
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

pub(super) fn many_saves_of_many_workspaces_add_up(store: &dyn Store) {
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
