//! Every record is read as it was written, and what cannot be read is damage of its workspace.

use super::*;
use crate::changelog::ownership::{LogLoss, LossKind};
use workspace_engine_core::routing::Partitioner;
use workspace_engine_core::store::conformance::{entry, id, transition};

fn changes() -> Vec<Mutation> {
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
        residence: Residence::Unloaded,
    };
    let records = vec![transition("acme", 2, 3), transition("acme", 2, 4)];
    let part = HistoryPart::of(records).remove(0);
    let key = Key::Entry {
        id: id("acme"),
        kind: "k\0".into(),
        entity: "".into(),
    };
    vec![
        Mutation::Workspace(workspace.clone()),
        Mutation::Workspace(StoredWorkspace {
            last_load_ms: None,
            residence: Residence::Memory,
            ..workspace
        }),
        Mutation::Entry(id("acme"), entry("a/b", "ü\0", "{\"a\":1}", 5)),
        Mutation::History(part.clone()),
        Mutation::Removed(Key::History {
            id: id("acme"),
            place: part.place(),
        }),
        Mutation::Removed(key),
        Mutation::Removed(Key::Workspace(id(&"L".repeat(255)))),
        Mutation::Deletion(Deletion {
            id: id("acme"),
            partition: PartitionId(3),
            epoch: Epoch::new(8),
            next_offset: Offset(15),
        }),
        Mutation::Removed(Key::Deletion(id("acme"))),
    ]
}

#[test]
fn a_record_says_what_was_written() {
    for change in changes() {
        let (key, value) = encode(&change);
        let decoded_record = decode(PartitionId(3), &key, value.as_deref());
        assert_eq!(decoded_record, DecodedRecord::Mutation(change));
    }
    let record = OwnershipRecord {
        first_epoch: Epoch::new(9),
        lineage: u64::MAX,
        topic_id: std::num::NonZeroU128::new(u128::MAX - 1),
        losses: vec![LogLoss {
            kind: LossKind::Recreated,
            since: Epoch::new(8),
            from: 0,
        }],
        partitioner: Partitioner::Fnv1aRandom,
    };
    let value = encode_ownership(&record);
    let decoded = |value: &[u8]| decode(PartitionId(3), OWNERSHIP_KEY, Some(value));
    assert_eq!(decoded(&value), DecodedRecord::Ownership(record.clone()));
    let unlisted = [&value[..2], b"\"later\":{\"a\":1},", &value[2..]].concat();
    assert_eq!(
        decoded(&unlisted),
        DecodedRecord::Ownership(record),
        "what is not known"
    );
    for other in [VERSION - 1, VERSION + 1] {
        let of_version = [&[other], &value[1..]].concat();
        assert!(
            matches!(decoded(&of_version), DecodedRecord::OtherVersion(_)),
            "{other}"
        );
    }
    for cut in 0..value.len() {
        assert!(
            matches!(decoded(&value[..cut]), DecodedRecord::Skipped(_)),
            "{cut}"
        );
    }
}

#[test]
fn a_record_that_was_cut_or_has_another_version_is_damage() {
    for change in changes() {
        let (key, Some(value)) = encode(&change) else {
            continue;
        };
        let fixed = match &change {
            // Its data has any length.
            Mutation::Entry(..) => 9,
            Mutation::Workspace(_)
            | Mutation::Deletion(_)
            | Mutation::History(_)
            | Mutation::Removed(_)
            | Mutation::Damaged(..) => value.len(),
        };
        for length in 0..fixed {
            let decoded_record = decode(PartitionId(3), &key, Some(&value[..length]));
            assert!(
                matches!(&decoded_record, DecodedRecord::Mutation(Mutation::Damaged(_, key)) if key.workspace() == change.workspace()),
                "cut at {length}: {decoded_record:?}"
            );
        }
        let mut newer = value;
        for other in [0, VERSION - 1, VERSION + 1] {
            newer[0] = other;
            let decoded_record = decode(PartitionId(3), &key, Some(&newer));
            assert!(matches!(
                decoded_record,
                DecodedRecord::Mutation(Mutation::Damaged(..))
            ));
        }
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
        let decoded_record = decode(PartitionId(0), key, None);
        assert!(
            matches!(decoded_record, DecodedRecord::Skipped(_)),
            "{key:?}: {decoded_record:?}"
        );
    }
}
