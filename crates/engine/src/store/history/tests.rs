//! Parts of histories, and the pages that they make.

use super::*;
use crate::store::conformance::transition;

fn part(epoch: u64, begun_ms: u64, sequences: &[u64]) -> HistoryPart {
    let records = sequences.iter().map(|sequence| HistoryRecord {
        begun_ms,
        ..transition("acme", epoch, *sequence)
    });
    let [part] = HistoryPart::of(records.collect()).try_into().expect("one");
    part
}

/// Checks epoch, begin and number of each transition of a page.
#[track_caller]
fn check(parts: &[HistoryPart], after: Option<(u64, u64)>, expected: &[(u64, u64, u64)]) {
    let after = after.map(|(epoch, sequence)| (Epoch::new(epoch), sequence));
    let mut page = Page::new(after, 100);
    for part in parts {
        page.add(part.clone());
    }
    let records = page.records();
    let found: Vec<_> = records
        .iter()
        .map(|record| {
            (
                record.epoch.get(),
                record.begun_ms,
                record.transition.sequence,
            )
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_page_has_each_transition_once_also_of_parts_that_overlap() {
    let parts = [
        part(1, 10, &[1, 2, 3]),
        part(1, 10, &[2, 3, 4]),
        part(1, 10, &[4]),
    ];
    let all = [(1, 10, 1), (1, 10, 2), (1, 10, 3), (1, 10, 4)];
    check(&parts, None, &all);
    check(&parts, Some((1, 2)), &all[2..]);
    check(&parts, Some((1, 4)), &[]);
}

#[test]
fn loads_of_one_epoch_are_numbered_one_after_the_other() {
    let parts = [
        part(1, 10, &[1, 2, 10]),
        part(1, 20, &[1, 2]),
        part(1, 20, &[3]),
        part(1, 30, &[20]),
        part(2, 40, &[1]),
    ];
    let all = [
        (1, 10, 1),
        (1, 10, 2),
        (1, 10, 10),
        (1, 20, 11),
        (1, 20, 12),
        (1, 20, 13),
        (1, 30, 20),
        (2, 40, 1),
    ];
    check(&parts, None, &all);
    for (number, (epoch, _, sequence)) in all.into_iter().enumerate() {
        check(&parts, Some((epoch, sequence)), &all[number + 1..]);
    }
}

#[test]
fn transitions_of_two_owners_are_in_parts_of_their_own() {
    let mut records = vec![transition("acme", 1, 1), transition("acme", 1, 2)];
    records[1].owner = "other".to_owned();
    let parts = HistoryPart::of(records);
    let owners: Vec<_> = parts.iter().map(|part| part.owner.as_str()).collect();
    assert_eq!(owners, ["node-1", "other"]);
}

#[test]
fn a_history_is_counted_every_64_numbers_however_long_its_loads_are() {
    for of_load in 1..=70 {
        // Loads of processes of their own, and loads of one process.
        for numbers_go_on in [false, true] {
            let mut sequence = 0;
            let mut uncounted = 0;
            for epoch in 1..=1000 {
                let sequences: Vec<u64> = (sequence + 1..=sequence + of_load).collect();
                if numbers_go_on {
                    sequence += of_load;
                }
                uncounted = if part(epoch, 10, &sequences).is_counted() {
                    0
                } else {
                    uncounted + 1
                };
                assert!(uncounted < 64, "{of_load} of epoch {epoch}");
            }
        }
    }
}
