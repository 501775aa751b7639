//! Dead letters across more than one process.

use bytes::Bytes;
use workspace_engine_core::log::DeadLetter;
use workspace_engine_core::log::conformance::{id, keep, listed};
use workspace_lifecycle::{Offset, PartitionId};

use crate::support::Mock;

fn dead_letter(partition: u32, offset: u64, workspace: &str) -> DeadLetter {
    DeadLetter {
        topic: "events".to_owned(),
        partition: PartitionId(partition),
        offset: Offset(offset),
        workspace_id: id(workspace),
        key: None,
        value: Some(Bytes::from(vec![0xff; 100])),
        reason: "not JSON".to_owned(),
        skipped_at_ms: 9,
    }
}

#[test]
fn a_dead_letter_of_one_process_is_known_to_the_next() {
    let mock = Mock::new(2);
    let one = mock.log();
    keep(&one, &dead_letter(0, 7, "a"));
    let other = mock.log();
    let mut again = dead_letter(0, 7, "a");
    "another reason".clone_into(&mut again.reason);
    keep(&other, &again);
    keep(&other, &dead_letter(1, 3, "b"));
    let both = [dead_letter(0, 7, "a"), dead_letter(1, 3, "b")];
    assert_eq!(listed(&one, None, None, 10), both);
    assert_eq!(listed(&other, None, None, 10), both);
}

#[test]
fn many_dead_letters_are_listed_page_by_page() {
    let mock = Mock::new(1);
    let log = mock.log();
    // The order of their addresses is not the order in which they are skipped.
    for number in 0..60 {
        keep(&log, &dead_letter(0, (number * 37) % 60, "a"));
    }
    let mut after = None;
    let mut found = Vec::new();
    loop {
        let page = listed(&log, Some("a"), after, 7);
        let Some(last) = page.last() else { break };
        after = Some((last.partition, last.offset));
        found.extend(page.iter().map(|dead_letter| dead_letter.offset.0));
    }
    assert_eq!(found, (0..60).collect::<Vec<_>>());
    assert_eq!(listed(&log, Some("b"), None, 7), []);
}

#[test]
fn dead_letters_are_kept_while_others_are_listed() {
    const DEAD_LETTERS: u64 = 30;
    let mock = Mock::new(1);
    let log = mock.log();
    keep(&log, &dead_letter(0, 0, "a"));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let listed = listed(&log, None, None, 100);
                    let found: Vec<u64> = listed
                        .iter()
                        .map(|dead_letter| dead_letter.offset.0)
                        .collect();
                    assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>());
                    if found.len() as u64 == DEAD_LETTERS {
                        break;
                    }
                }
            });
        }
        for offset in 1..DEAD_LETTERS {
            // Retries while others hold the lock, as a partition does.
            keep(&log, &dead_letter(0, offset, "a"));
        }
    });
}
