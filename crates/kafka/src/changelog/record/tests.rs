//! Every record is read as it was written, and what cannot be read is damage of its workspace.

use super::*;
use workspace_engine_core::store::conformance::{entry, id, transition};

fn changes() -> Vec<CacheChange> {
    let workspace = StoredWorkspace {
        id: id("acme"),
        partition: PartitionId(3),
        epoch: Epoch::new(7),
        owner: "node-1".to_owned(),
        first_offset: Offset(6),
        next_offset: Offset(11),
        events_applied: 12,
        entries: 13,
        last_load_ms: Some(14),
        unloaded: true,
    };
    let key = CacheKey::Entry {
        id: id("acme"),
        kind: "k\0".into(),
        entity: "".into(),
    };
    vec![
        CacheChange::Workspace(workspace.clone()),
        CacheChange::Workspace(StoredWorkspace {
            last_load_ms: None,
            unloaded: false,
            ..workspace
        }),
        CacheChange::Entry(id("acme"), entry("a/b", "ü\0", "{\"a\":1}", 5)),
        CacheChange::Transition(transition("acme", 2, 3)),
        CacheChange::Gone(key),
        CacheChange::Gone(CacheKey::Workspace(id(&"L".repeat(255)))),
        CacheChange::Deleted(Deletion {
            id: id("acme"),
            partition: PartitionId(3),
            epoch: Epoch::new(8),
            next_offset: Offset(15),
        }),
        CacheChange::Gone(CacheKey::Deletion(id("acme"))),
    ]
}

#[test]
fn a_record_says_what_was_written() {
    for change in changes() {
        let (key, value) = encode(&change);
        let said = decode(PartitionId(3), &key, value.as_deref());
        assert_eq!(said, Said::Changed(change));
    }
    let assignment = Assignment {
        first_epoch: Epoch::new(9),
        lineage: u64::MAX,
        topic_id: TopicId::new(u128::MAX - 1),
        topic_since: Epoch::new(8),
    };
    let value = encode_assignment(assignment);
    let decoded = |value| decode(PartitionId(3), ASSIGNMENT_KEY, Some(value));
    assert_eq!(decoded(&value), Said::Assigned(assignment));
    let of_the_first_engines = Assignment {
        topic_id: None,
        topic_since: Epoch::new(0),
        ..assignment
    };
    assert_eq!(decoded(&value[..17]), Said::Assigned(of_the_first_engines));
    assert_eq!(decoded(&value[..18]), Said::Nothing(SHORT));
}

#[test]
fn a_record_that_was_cut_or_is_newer_is_damage_of_its_workspace() {
    for change in changes() {
        let (key, Some(value)) = encode(&change) else {
            continue;
        };
        let fixed = match &change {
            // Its data has any length.
            CacheChange::Entry(..) => 9,
            CacheChange::Workspace(_)
            | CacheChange::Deleted(_)
            | CacheChange::Transition(_)
            | CacheChange::Gone(_)
            | CacheChange::Damaged(_) => value.len(),
        };
        for length in 0..fixed {
            // The first engines wrote no offset behind the owner.
            if matches!(change, CacheChange::Workspace(_)) && length == fixed - 8 {
                continue;
            }
            let said = decode(PartitionId(3), &key, Some(&value[..length]));
            assert!(
                matches!(&said, Said::Changed(CacheChange::Damaged(key)) if key.workspace() == change.workspace()),
                "cut at {length}: {said:?}"
            );
        }
        let mut newer = value;
        newer[0] = VERSION + 1;
        let said = decode(PartitionId(3), &key, Some(&newer));
        assert!(matches!(said, Said::Changed(CacheChange::Damaged(_))));
    }
}

#[test]
fn any_key_at_all_is_an_answer() {
    for key in [
        &b""[..],
        b"w",
        b"w\x05ab",
        b"z\x01a",
        b"e\x01a\0\0\0\x09a",
        b"h\x01a",
        b"w\x01/",
    ] {
        let said = decode(PartitionId(0), key, None);
        assert!(matches!(said, Said::Nothing(_)), "{key:?}: {said:?}");
    }
}
