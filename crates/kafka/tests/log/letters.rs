//! Dead letters over more than one process.

use bytes::Bytes;
use workspace_engine_core::log::conformance::id;
use workspace_engine_core::log::{DeadLetter, EventLog};
use workspace_lifecycle::{Offset, PartitionId};

use crate::cluster::{Mock, until};

fn letter(partition: u32, offset: u64, workspace: &str) -> DeadLetter {
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
fn a_letter_of_one_process_is_known_to_the_next() {
    let mock = Mock::new(2);
    let one = mock.log();
    one.append_dead_letter(letter(0, 7, "a")).expect("kept");
    let other = mock.log();
    let mut again = letter(0, 7, "a");
    "another reason".clone_into(&mut again.reason);
    other.append_dead_letter(again).expect("known");
    other.append_dead_letter(letter(1, 3, "b")).expect("kept");
    let both = [letter(0, 7, "a"), letter(1, 3, "b")];
    assert_eq!(one.dead_letters(None, None, 10).expect("listed"), both);
    assert_eq!(other.dead_letters(None, None, 10).expect("listed"), both);
}

#[test]
fn many_letters_are_listed_page_by_page() {
    let mock = Mock::new(1);
    let log = mock.log();
    // The order of their addresses is not the order in which they are skipped.
    for number in 0..60 {
        log.append_dead_letter(letter(0, (number * 37) % 60, "a"))
            .expect("kept");
    }
    let mut after = None;
    let mut found = Vec::new();
    loop {
        let page = log.dead_letters(Some(&id("a")), after, 7).expect("listed");
        let Some(last) = page.last() else { break };
        after = Some((last.partition, last.offset));
        found.extend(page.iter().map(|letter| letter.offset.0));
    }
    assert_eq!(found, (0..60).collect::<Vec<_>>());
    assert!(
        log.dead_letters(Some(&id("b")), None, 7)
            .expect("listed")
            .is_empty()
    );
}

#[test]
fn letters_are_kept_while_others_are_listed() {
    const LETTERS: u64 = 30;
    let mock = Mock::new(1);
    let log = mock.log();
    log.append_dead_letter(letter(0, 0, "a")).expect("kept");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let listed = log.dead_letters(None, None, 100).expect("listed");
                    let found: Vec<u64> = listed.iter().map(|letter| letter.offset.0).collect();
                    assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>());
                    if found.len() as u64 == LETTERS {
                        break;
                    }
                }
            });
        }
        for offset in 1..LETTERS {
            // A partition whose letter does not get its turn tries again.
            until("it is kept", || {
                log.append_dead_letter(letter(0, offset, "a")).ok()
            });
        }
    });
}
