//! Plans as data: what is stored, a request, and the mutations or the error.

use super::*;
use crate::store::MemoryStore;
use crate::store::conformance::{claim_of, entry, erase_of, id, save_of, set, transition, unset};
use workspace_lifecycle::{Offset, PartitionId, Residence};

enum Request {
    Claim(Claim),
    Save(Save),
    History(Vec<HistoryRecord>),
    Reset(Erase),
    Delete(Erase),
}

/// Checks the mutations of a request of workspace `acme`, or the text of its error.
#[track_caller]
fn check(stored: &[Mutation], request: Request, expected: Result<Vec<Mutation>, &str>) {
    let table = MemoryStore::new();
    table.commit(stored, &[]).expect("committed");
    let planned = match request {
        Request::Claim(request) => claim(&table, request).map(|one| vec![Mutation::Workspace(one)]),
        Request::Save(request) => save(&table, &request),
        Request::History(records) => history(&table, &id("acme"), records),
        Request::Reset(request) => reset(&table, request).map(|one| vec![Mutation::Workspace(one)]),
        Request::Delete(request) => {
            delete(&table, request).map(|one| vec![Mutation::Deletion(one)])
        }
    };
    let planned = planned.map_err(|error| error.to_string());
    assert_eq!(planned, expected.map_err(ToOwned::to_owned));
}

/// A workspace at epoch 4 that begins at offset 5 and is saved up to 9.
fn acme() -> StoredWorkspace {
    StoredWorkspace {
        epoch: Epoch::new(4),
        owner: "node-0".to_owned(),
        first_offset: Offset(5),
        next_offset: Offset(9),
        events_applied: 18,
        entries: 3,
        last_load_ms: Some(12),
        residence: Residence::Unloaded,
        ..StoredWorkspace::unknown(id("acme"), PartitionId(1))
    }
}

/// A deletion mark under epoch 4, at offset 20.
fn deletion() -> Mutation {
    Mutation::Deletion(Deletion {
        id: id("acme"),
        partition: PartitionId(1),
        epoch: Epoch::new(4),
        next_offset: Offset(20),
    })
}

fn fenced_text(attempted: u64) -> String {
    format!("workspace acme was taken over: epoch {attempted} is not above 4")
}

#[test]
fn a_claim_begins_a_workspace_or_continues_it_under_a_later_epoch() {
    let begun = |epoch, offset| StoredWorkspace {
        epoch: Epoch::new(epoch),
        owner: "node-1".to_owned(),
        first_offset: Offset(offset),
        next_offset: Offset(offset),
        ..StoredWorkspace::unknown(id("acme"), PartitionId(1))
    };
    let continued = StoredWorkspace {
        epoch: Epoch::new(5),
        owner: "node-1".to_owned(),
        residence: Residence::Memory,
        ..acme()
    };
    let acme = Mutation::Workspace(acme());
    for (stored, epoch, expected) in [
        (vec![], 1, Some(begun(1, 5))),
        (vec![acme.clone()], 5, Some(continued.clone())),
        (vec![acme.clone()], 4, None),
        (vec![acme.clone()], 3, None),
        (vec![deletion()], 5, Some(begun(5, 20))),
        (vec![deletion()], 4, None),
        // The deletion mark of an earlier workspace of the name does not change one that was claimed since.
        (vec![deletion(), acme], 5, Some(continued)),
    ] {
        let error = fenced_text(epoch);
        let expected = expected.map(|one| vec![Mutation::Workspace(one)]);
        let claim = Request::Claim(claim_of("acme", epoch));
        check(&stored, claim, expected.ok_or(&*error));
    }
}

#[test]
fn a_save_has_the_last_change_of_each_entry_then_the_workspace() {
    let changes = vec![
        set("k", "b", "1", 5),
        unset("k", "a"),
        set("k", "b", "2", 6),
        set("j", "c", "1", 7),
        set("k", "c", "1", 7),
        unset("k", "c"),
    ];
    let save = save_of("acme", 5, 30, changes);
    let removed = |entity: &str| {
        Mutation::Removed(Key::Entry {
            id: id("acme"),
            kind: "k".into(),
            entity: entity.into(),
        })
    };
    let saved = StoredWorkspace {
        epoch: Epoch::new(5),
        next_offset: Offset(30),
        events_applied: save.events_applied,
        entries: save.entries,
        residence: Residence::Memory,
        ..acme()
    };
    let expected = vec![
        Mutation::Entry(id("acme"), entry("j", "c", "1", 7)),
        removed("a"),
        Mutation::Entry(id("acme"), entry("k", "b", "2", 6)),
        removed("c"),
        Mutation::Workspace(saved),
    ];
    let stored = [Mutation::Workspace(acme())];
    check(&stored, Request::Save(save.clone()), Ok(expected));
    let unknown = Err("workspace acme is not in the store");
    check(&[deletion()], Request::Save(save), unknown);
    let old = Request::Save(save_of("acme", 3, 30, Vec::new()));
    check(&stored, old, Err(&fenced_text(3)));
}

#[test]
fn a_save_of_the_offset_needs_the_epoch_that_it_names() {
    for (stored, epoch, next_offset, expected) in [
        (4, 4, 30, Some(30)),
        (4, 5, 30, Some(30)),
        // The offset never decreases.
        (4, 5, 7, Some(9)),
        (3, 5, 30, None),
        (5, 5, 30, None),
        (3, 3, 30, None),
    ] {
        let save = Save {
            only_offset: Some(Epoch::new(stored)),
            ..save_of("acme", epoch, next_offset, Vec::new())
        };
        let expected = expected.map(|next_offset| {
            vec![Mutation::Workspace(StoredWorkspace {
                epoch: Epoch::new(epoch),
                next_offset: Offset(next_offset),
                ..acme()
            })]
        });
        let error = fenced_text(epoch);
        let stored = [Mutation::Workspace(acme())];
        check(&stored, Request::Save(save), expected.ok_or(&*error));
    }
}

#[test]
fn a_name_that_no_database_takes_is_refused() {
    let stored = [Mutation::Workspace(acme())];
    // The workspace, two separators, and two bytes for the zero byte of the kind.
    let longest = MAX_NAME_BYTES - "acme".len() - 4;
    for (bytes, is_refused) in [(longest, false), (longest + 1, true)] {
        let changes = vec![unset("\0", &"x".repeat(bytes))];
        let table = MemoryStore::new();
        table.commit(&stored, &[]).expect("committed");
        let planned = save(&table, &save_of("acme", 4, 30, changes));
        assert_eq!(planned.is_err(), is_refused, "{planned:?}");
    }
}

/// A part of one load, with these numbers.
fn part(epoch: u64, begun_ms: u64, sequences: std::ops::RangeInclusive<u64>) -> HistoryPart {
    let records = sequences.map(|sequence| HistoryRecord {
        begun_ms,
        ..transition("acme", epoch, sequence)
    });
    let [part] = HistoryPart::of(records.collect()).try_into().expect("one");
    part
}

#[test]
fn transitions_make_a_part_a_load_without_those_before_a_deletion() {
    let at = |epoch, begun_ms, sequence| HistoryRecord {
        begun_ms,
        ..transition("acme", epoch, sequence)
    };
    for (stored, records, expected) in [
        (vec![], vec![], vec![]),
        (
            vec![],
            vec![at(1, 10, 1), at(1, 10, 2), at(2, 11, 3)],
            vec![part(1, 10, 1..=2), part(2, 11, 3..=3)],
        ),
        // Out of order, and twice in one append.
        (
            vec![],
            vec![at(1, 10, 2), at(1, 10, 1), at(1, 10, 2)],
            vec![part(1, 10, 1..=2)],
        ),
        // The epoch is used a second time.
        (
            vec![Mutation::History(part(1, 10, 1..=2))],
            vec![at(1, 20, 1), at(1, 20, 2)],
            vec![part(1, 20, 1..=2)],
        ),
        (
            vec![deletion()],
            vec![at(4, 30, 1), at(5, 31, 1)],
            vec![part(5, 31, 1..=1)],
        ),
    ] {
        let expected = expected.into_iter().map(Mutation::History).collect();
        check(&stored, Request::History(records), Ok(expected));
    }
}

#[test]
fn the_oldest_parts_are_removed_when_the_history_is_counted() {
    let most = u64::try_from(MAX_HISTORY_TRANSITIONS).expect("small");
    let stored: Vec<_> = (0..most / 100)
        .map(|number| Mutation::History(part(1, 10, number * 100 + 1..=number * 100 + 100)))
        .collect();
    let begins_at = |sequence| {
        Mutation::Removed(Key::History {
            id: id("acme"),
            place: part(1, 10, sequence..=sequence).place(),
        })
    };
    let uncounted = transition("acme", 2, 1);
    let expected = HistoryPart::of(vec![uncounted.clone()]);
    let expected = expected.into_iter().map(Mutation::History).collect();
    check(&stored, Request::History(vec![uncounted]), Ok(expected));

    let counted = transition("acme", 2, 62);
    let expected = HistoryPart::of(vec![counted.clone()]);
    let mut expected: Vec<_> = expected.into_iter().map(Mutation::History).collect();
    // One too many, and 512 more, in whole parts.
    expected.extend([1, 101, 201, 301, 401, 501].map(begins_at));
    check(&stored, Request::History(vec![counted]), Ok(expected));
}

#[test]
fn an_erasure_needs_a_later_epoch_and_a_reset_begins_behind_the_mark() {
    let empty = |offset| {
        vec![Mutation::Workspace(StoredWorkspace {
            epoch: Epoch::new(5),
            owner: "node-2".to_owned(),
            first_offset: Offset(offset),
            next_offset: Offset(offset),
            ..StoredWorkspace::unknown(id("acme"), PartitionId(1))
        })]
    };
    let deleted = vec![Mutation::Deletion(Deletion {
        id: id("acme"),
        partition: PartitionId(1),
        epoch: Epoch::new(5),
        next_offset: Offset(7),
    })];
    let acme = Mutation::Workspace(acme());
    for (stored, reset_to) in [
        (vec![], 7),
        (vec![acme.clone()], 7),
        (vec![deletion()], 20),
        (vec![deletion(), acme], 20),
    ] {
        let erase = erase_of("acme", 5, 7);
        check(&stored, Request::Reset(erase.clone()), Ok(empty(reset_to)));
        check(&stored, Request::Delete(erase), Ok(deleted.clone()));
        if !stored.is_empty() {
            let erase = erase_of("acme", 4, 7);
            check(&stored, Request::Reset(erase.clone()), Err(&fenced_text(4)));
            check(&stored, Request::Delete(erase), Err(&fenced_text(4)));
        }
    }
}
