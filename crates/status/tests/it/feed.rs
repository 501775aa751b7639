//! The change feed: order, resumption, slow watchers.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use workspace_status::{Change, ChangeKind, FeedItem, Revision, State, Tracker, Watcher};

fn drain(watcher: &mut Watcher) -> Vec<FeedItem> {
    std::iter::from_fn(|| watcher.try_next()).collect()
}

fn revisions(items: &[FeedItem]) -> Vec<u64> {
    let revision = |item: &FeedItem| match item {
        FeedItem::Change(change) => change.revision.get(),
        FeedItem::Resync { .. } => panic!("a resync among {items:?}"),
    };
    items.iter().map(revision).collect()
}

#[test]
fn every_change_is_sent_once_and_in_order() {
    let tracker = Tracker::new();
    let mut watcher = tracker.watch();
    let status = tracker.get_or_create("a");
    status.set_state(State::LoadingKafkaPartitions, "x");
    status.set_state(State::LoadingKafkaPartitions, "y");
    status.update_metadata("k", 1).unwrap();
    status.remove_metadata("k");
    tracker.remove("a");
    let items = drain(&mut watcher);
    assert_eq!(revisions(&items), [1, 2, 3, 4, 5, 6]);
    let kinds: Vec<ChangeKind> = items
        .iter()
        .map(|item| match item {
            FeedItem::Change(change) => {
                assert_eq!(change.workspace_id, "a");
                change.kind
            }
            FeedItem::Resync { .. } => unreachable!(),
        })
        .collect();
    assert_eq!(kinds[0], ChangeKind::Created);
    assert!(matches!(
        kinds[1],
        ChangeKind::Transition {
            from: State::Initializing,
            to: State::LoadingKafkaPartitions,
            ..
        }
    ));
    let rest = [
        ChangeKind::Message,
        ChangeKind::Metadata,
        ChangeKind::Metadata,
        ChangeKind::Removed,
    ];
    assert_eq!(kinds[2..], rest);
}

#[test]
fn a_watcher_goes_on_where_another_stopped() {
    let tracker = Tracker::new();
    let mut first = tracker.watch();
    let status = tracker.get_or_create("a");
    for n in 0..5 {
        status.set_state(State::Ready, format!("{n}"));
    }
    let seen = revisions(&drain(&mut first)[..3]);
    let mut second = tracker.watch_from(Revision::new(seen[2]));
    assert_eq!(revisions(&drain(&mut second)), [4, 5, 6]);
}

#[test]
fn a_slow_watcher_gets_a_resync_and_continues_from_there() {
    let tracker = Tracker::builder().feed_capacity(4).build();
    let mut slow = tracker.watch();
    let status = tracker.get_or_create("a");
    for n in 0..10 {
        status.set_state(State::Ready, format!("{n}"));
    }
    let revision = tracker.revision();
    assert_eq!(slow.try_next(), Some(FeedItem::Resync { revision }));
    assert_eq!(slow.try_next(), None);
    status.set_state(State::Ready, "after");
    assert_eq!(revisions(&drain(&mut slow)), [revision.get() + 1]);
}

#[test]
fn a_revision_overwritten_never_kept_or_in_the_future_gets_a_resync() {
    let tracker = Tracker::builder().feed_capacity(4).build();
    let status = tracker.get_or_create("a");
    status.set_state(State::Ready, "no reader watches");
    let mut early = tracker.watch_from(Revision::new(0));
    let resync = |revision| Some(FeedItem::Resync { revision });
    assert_eq!(early.try_next(), resync(Revision::new(2)));
    assert_eq!(early.try_next(), None);
    let mut ahead = tracker.watch_from(Revision::new(99));
    assert_eq!(ahead.try_next(), resync(Revision::new(2)));
    for n in 0..6 {
        status.set_state(State::Ready, format!("{n}"));
    }
    let mut gone = tracker.watch_from(Revision::new(3));
    assert_eq!(gone.try_next(), resync(Revision::new(8)));
    let mut held = tracker.watch_from(Revision::new(4));
    assert_eq!(revisions(&drain(&mut held)), [5, 6, 7, 8]);
}

#[test]
fn what_follows_a_requested_revision_is_kept() {
    let tracker = Tracker::new();
    let status = tracker.get_or_create("a");
    let listed_at = tracker.revision();
    status.set_state(State::Ready, "between list and watch");
    let mut watcher = tracker.watch_from(listed_at);
    assert_eq!(revisions(&drain(&mut watcher)), [listed_at.get() + 1]);
}

#[test]
fn many_writers_and_a_fast_watcher_lose_nothing() {
    const WRITERS: u64 = 4;
    const CHANGES: u64 = 5_000;
    let tracker = Tracker::builder()
        .feed_capacity(usize::try_from(WRITERS * (CHANGES + 1)).unwrap())
        .build();
    let mut watcher = tracker.watch();
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let tracker = tracker.clone();
            thread::spawn(move || {
                let status = tracker.get_or_create(&format!("w{n}"));
                for _ in 0..CHANGES {
                    status.set_state(State::Ready, "x");
                }
            })
        })
        .collect();
    let deadline = Instant::now() + Duration::from_mins(1);
    for expected in 1..=WRITERS * (CHANGES + 1) {
        let item = watcher.next_deadline(deadline).expect("a change");
        assert_eq!(revisions(&[item]), [expected]);
    }
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(watcher.try_next(), None);
    assert_eq!(tracker.revision().get(), WRITERS * (CHANGES + 1));
}

#[test]
fn a_deadline_that_has_passed_ends_a_blocking_watch_at_once() {
    let mut watcher = Tracker::new().watch();
    assert_eq!(watcher.next_deadline(Instant::now()), None);
}

/// Counts how often it was woken.
#[derive(Default)]
pub(crate) struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Woken {
    pub(crate) fn times(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn a_watch_as_a_future_is_woken_by_a_change_without_a_runtime() {
    let tracker = Tracker::new();
    let mut watcher = tracker.watch();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    {
        let mut next = pin!(watcher.next());
        assert!(next.as_mut().poll(&mut context).is_pending());
        tracker.get_or_create("a");
        assert_eq!(woken.times(), 1);
        let Poll::Ready(item) = next.as_mut().poll(&mut context) else {
            panic!("woken, and nothing there")
        };
        assert_eq!(revisions(&[item]), [1]);
    }
    // Dropping the future loses no change.
    assert!(pin!(watcher.next()).poll(&mut context).is_pending());
    tracker.get_or_create("b");
    assert_eq!(revisions(&drain(&mut watcher)), [2]);
}

/// The next change as soon as it is published. Spins, because a thread that sleeps until woken is too late for a race.
fn spin_for(watcher: &mut Watcher) -> Change {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        match watcher.try_next() {
            Some(FeedItem::Change(change)) => return change,
            Some(item @ FeedItem::Resync { .. }) => panic!("{item:?}"),
            None => assert!(Instant::now() < deadline, "no change for a minute"),
        }
    }
}

#[test]
fn a_watcher_finds_what_was_created_and_not_what_was_removed() {
    const WORKSPACES: usize = 20_000;
    let tracker = Tracker::builder().feed_capacity(2 * WORKSPACES).build();
    let mut watcher = tracker.watch();
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..WORKSPACES {
                tracker.get_or_create(&format!("w{n}"));
            }
        });
        for _ in 0..WORKSPACES {
            let change = spin_for(&mut watcher);
            assert_eq!(change.kind, ChangeKind::Created);
            let id = change.workspace_id.as_str();
            assert!(tracker.get(id).is_some(), "{id} was created");
        }
        scope.spawn(|| {
            for n in 0..WORKSPACES {
                assert!(tracker.remove(&format!("w{n}")));
            }
        });
        for _ in 0..WORKSPACES {
            let change = spin_for(&mut watcher);
            assert_eq!(change.kind, ChangeKind::Removed);
            let id = change.workspace_id.as_str();
            assert!(tracker.get(id).is_none(), "{id} was removed");
        }
    });
}

#[test]
fn a_creation_is_the_first_change_also_for_a_writer_that_is_at_once_there() {
    const WORKSPACES: usize = 5_000;
    let tracker = Tracker::builder().feed_capacity(2 * WORKSPACES).build();
    let mut watcher = tracker.watch();
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..WORKSPACES {
                let id = format!("w{n}");
                let status = loop {
                    if let Some(status) = tracker.get(&id) {
                        break status;
                    }
                    thread::yield_now();
                };
                status.set_state(State::Ready, "at once");
            }
        });
        for n in 0..WORKSPACES {
            let status = tracker.get_or_create(&format!("w{n}"));
            while !status.is_ready() {
                thread::yield_now();
            }
        }
    });
    for n in 0..WORKSPACES {
        let (first, second) = (spin_for(&mut watcher), spin_for(&mut watcher));
        assert_eq!(first.workspace_id, *format!("w{n}"));
        assert_eq!(first.kind, ChangeKind::Created);
        assert!(matches!(second.kind, ChangeKind::Transition { .. }));
    }
}
