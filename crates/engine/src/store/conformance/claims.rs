//! Claims, lists and committed offsets.

use super::{claim_of, entry, id, load, save, save_of, set};
use crate::store::{Claim, SaveRefused, Store, StoreError, StoredWorkspace};
use workspace_lifecycle::{Offset, PartitionId, Residence};
use workspace_status::Epoch;

pub(super) fn a_claim_makes_a_workspace_known(store: &dyn Store) {
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
        residence: Residence::Memory,
    };
    assert_eq!(claimed, expected);
    assert_eq!(
        store.workspace(&id("acme")).expect("readable"),
        Some(expected.clone())
    );
    assert_eq!(load(store, "acme").expect("loaded"), (expected, Vec::new()));
}

pub(super) fn a_claim_of_an_old_epoch_is_fenced(store: &dyn Store) {
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

pub(super) fn an_unknown_workspace_is_an_error(store: &dyn Store) {
    assert!(matches!(
        load(store, "unknown"),
        Err(StoreError::UnknownWorkspace(_))
    ));
    let refused = save(
        store,
        &[save_of("unknown", 1, 9, vec![set("k", "a", "1", 1)])],
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
    assert_eq!(store.workspace(&id("unknown")).expect("readable"), None);
    store.purge(&id("unknown")).expect("nothing to purge");
}

pub(super) fn workspaces_are_listed_by_partition(store: &dyn Store) {
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

pub(super) fn odd_ids_and_names_are_kept_apart(store: &dyn Store) {
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

pub(super) fn committed_offsets_are_kept_by_partition(store: &dyn Store) {
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
