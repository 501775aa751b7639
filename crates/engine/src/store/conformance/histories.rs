//! The durable history.

use super::{id, transition};
use crate::store::{HistoryRecord, MAX_HISTORY_TRANSITIONS, Store};
use workspace_status::Epoch;

pub(super) fn history_is_kept_once_in_order_and_in_pages(store: &dyn Store) {
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

/// A claim is not synced, so after a crash of the machine an epoch may be used a second time.
pub(super) fn an_epoch_that_two_loads_used_has_the_transitions_of_both(store: &dyn Store) {
    let at = |epoch, begun_ms, sequence, at_ms| {
        let mut record = transition("acme", epoch, sequence);
        (record.begun_ms, record.transition.at_ms) = (begun_ms, at_ms);
        record
    };
    let append = |records: &[HistoryRecord]| {
        for _ in 0..2 {
            store.append_history(records.to_vec()).expect("kept once");
        }
    };
    append(&[at(1, 10, 1, 10), at(1, 10, 2, 11), at(2, 12, 1, 12)]);
    append(&[at(1, 20, 1, 20)]);
    append(&[at(2, 21, 1, 21), at(2, 21, 2, 22), at(3, 23, 1, 23)]);
    let expected = [
        at(1, 10, 1, 10),
        at(1, 10, 2, 11),
        at(1, 20, 3, 20),
        at(2, 12, 1, 12),
        at(2, 21, 2, 21),
        at(2, 21, 3, 22),
        at(3, 23, 1, 23),
    ];
    let page = |after, limit| store.history(&id("acme"), after, limit).expect("readable");
    let key = |record: &HistoryRecord| (record.cursor(), record.transition.at_ms);
    let all = page(None, 10);
    assert!(all.iter().map(key).eq(expected.iter().map(key)));
    for (number, record) in all.iter().enumerate() {
        let rest = &all[number + 1..];
        assert_eq!(page(Some(record.cursor()), 10), rest);
        let next = &rest[..rest.len().min(2)];
        assert_eq!(page(Some(record.cursor()), 2), next);
    }
}

/// The end of an append may be unknown, and the next one then has more.
pub(super) fn transitions_that_are_appended_again_with_more_are_kept_once(store: &dyn Store) {
    let at = |sequences: std::ops::RangeInclusive<u64>| -> Vec<HistoryRecord> {
        sequences.map(|one| transition("acme", 1, one)).collect()
    };
    for (appended, last) in [(1..=3, 3), (1..=5, 5), (3..=6, 6), (4..=5, 6), (7..=7, 7)] {
        store.append_history(at(appended)).expect("kept");
        let history = store.history(&id("acme"), None, 100).expect("readable");
        assert_eq!(history, at(1..=last));
    }
}

pub(super) fn the_newest_transitions_are_kept(store: &dyn Store) {
    let most = MAX_HISTORY_TRANSITIONS;
    let last = u64::try_from(most).expect("small") + 2_000;
    let all: Vec<_> = (1..=last)
        .map(|sequence| transition("acme", 1, sequence))
        .collect();
    for part in all.chunks(50) {
        store.append_history(part.to_vec()).expect("kept");
    }
    let kept = store
        .history(&id("acme"), None, usize::MAX)
        .expect("readable");
    assert!(
        kept.len() <= most && kept.len() > most - 600,
        "{}",
        kept.len()
    );
    assert!(all.ends_with(&kept));
}
