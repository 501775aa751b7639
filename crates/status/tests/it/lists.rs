//! Lists, pages and counts.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use std::thread;

use workspace_status::{PageQuery, Snapshot, State, StateSet, Tracker};

fn filled(number: usize) -> Tracker {
    let tracker = Tracker::new();
    for n in (0..number).rev() {
        let status = tracker.get_or_create(&format!("w{n:05}"));
        if n % 3 == 0 {
            status.set_state(State::Ready, "ok");
        }
        if n % 7 == 0 {
            status.set_error("broken");
        }
    }
    tracker
}

/// All ids of a query, page by page.
fn walk(tracker: &Tracker, mut query: PageQuery) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        let page = tracker.page(&query);
        let by_id = tracker.ids(&query);
        assert!(page.snapshots.len() <= query.limit.max(1));
        let mut page_ids = page.snapshots.iter().map(Snapshot::id);
        assert!(page_ids.by_ref().eq(by_id.ids.iter()));
        assert_eq!(page.next, by_id.next);
        ids.extend(by_id.ids.iter().map(ToString::to_string));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return ids,
        }
    }
}

#[test]
fn pages_are_ordered_complete_and_end() {
    let tracker = filled(2000);
    let all: Vec<String> = (0..2000).map(|n| format!("w{n:05}")).collect();
    let listed = tracker.list_all();
    assert!(listed.iter().map(Snapshot::workspace_id).eq(all.iter()));
    for limit in [0, 1, 7, 999, 2000, 5000] {
        if limit > 6 {
            let query = PageQuery {
                limit,
                ..PageQuery::default()
            };
            assert_eq!(walk(&tracker, query), all, "limit {limit}");
        }
    }
}

#[test]
fn filters_keep_what_they_name() {
    let tracker = filled(2000);
    let check = |query: PageQuery, wanted: &dyn Fn(usize) -> bool| {
        let expected: Vec<String> = (0..2000)
            .filter(|n| wanted(*n))
            .map(|n| format!("w{n:05}"))
            .collect();
        assert_eq!(walk(&tracker, query), expected);
    };
    let query = || PageQuery {
        limit: 64,
        ..PageQuery::default()
    };
    let ready = StateSet::from(State::Ready);
    check(
        PageQuery {
            states: ready,
            ..query()
        },
        &|n| n % 3 == 0 && n % 7 != 0,
    );
    check(
        PageQuery {
            healthy: Some(false),
            ..query()
        },
        &|n| n % 7 == 0,
    );
    check(
        PageQuery {
            prefix: Some("w001".into()),
            healthy: Some(true),
            ..query()
        },
        &|n| n / 100 == 1 && n % 7 != 0,
    );
    check(
        PageQuery {
            prefix: Some("w002".into()),
            after: Some("a".parse().unwrap()),
            ..query()
        },
        &|n| n / 100 == 2,
    );
    check(
        PageQuery {
            prefix: Some("x".into()),
            ..query()
        },
        &|_| false,
    );
}

#[test]
fn counts_are_exact_after_concurrent_changes() {
    let tracker = Tracker::new();
    thread::scope(|scope| {
        for thread in 0..4_usize {
            let tracker = &tracker;
            scope.spawn(move || {
                for n in 0..2000_usize {
                    let id = format!("w{}", (n * 7 + thread * 13) % 97);
                    match (n + thread) % 5 {
                        0 => drop(tracker.remove(&id)),
                        1 => tracker.get_or_create(&id).set_error("x"),
                        2 => tracker
                            .get_or_create(&id)
                            .set_state(State::Initializing, "x"),
                        _ => tracker.get_or_create(&id).set_state(State::Ready, "x"),
                    }
                }
            });
        }
    });
    let listed = tracker.list_all();
    let counts = tracker.count_by_state();
    for state in State::ALL {
        let listed = listed.iter().filter(|s| s.state() == state).count();
        assert_eq!(counts[state], listed, "{state}");
    }
    assert_eq!(tracker.count(), listed.len());
}

#[test]
fn beside_workspaces_that_never_rest_every_one_is_counted_once() {
    let tracker = Tracker::new();
    let still = tracker.get_or_create("still");
    still.set_state(State::Ready, "ok");
    let begun = Barrier::new(3);
    let over = AtomicBool::new(false);
    let mut wrong = Vec::new();
    std::thread::scope(|scope| {
        for id in ["a", "b"] {
            let status = tracker.get_or_create(id);
            let (begun, over) = (&begun, &over);
            scope.spawn(move || {
                begun.wait();
                while !over.load(Ordering::Relaxed) {
                    status.set_state(State::Ready, "ok");
                    status.set_state(State::Error, "gone again");
                }
            });
        }
        begun.wait();
        for _ in 0..50_000 {
            let counts = tracker.count_by_state();
            if (counts.total(), tracker.count()) != (3, 3) {
                wrong.push(counts);
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(wrong, []);
    let counts = tracker.count_by_state();
    assert_eq!((counts[State::Ready], counts[State::Error]), (1, 2));
}

#[test]
fn every_status_is_visited_in_order_with_its_last_transition() {
    let tracker = Tracker::new();
    let loaded = tracker.get_or_create("b");
    loaded.set_state(State::ReplayingEvents, "");
    loaded.set_state(State::Ready, "");
    loaded.set_state(State::Ready, "no transition");
    tracker.get_or_create("a");
    let mut visited = Vec::new();
    tracker.for_each(|status| visited.push((status.id().to_string(), status.last_transition())));
    let last = Some((workspace_status::Epoch::FIRST, 2));
    assert_eq!(visited, [("a".to_owned(), None), ("b".to_owned(), last)]);
}
