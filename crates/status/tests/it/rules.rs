//! The rules of a status, one by one.

use std::time::Duration;

use workspace_status::{
    AttemptError, Epoch, ErrorKind, HISTORY_CAPACITY, ManualClock, MetadataError, State, Tracker,
    Transition, Unit, Value,
};

fn tracker() -> (Tracker, ManualClock) {
    let clock = ManualClock::new();
    let tracker = Tracker::builder().clock(clock.clone()).build();
    (tracker, clock)
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn setting_the_same_state_changes_the_message_and_is_no_transition() {
    let (tracker, clock) = tracker();
    let status = tracker.get_or_create("a");
    status.set_state(State::Ready, "ok");
    let first = status.snapshot();
    clock.advance(SECOND);
    status.set_state(State::Ready, "still ok");
    let second = status.snapshot();
    assert_eq!(second.message(), "still ok");
    assert_eq!(second.state_history().len(), 1);
    assert_eq!(second.state_entered(), first.state_entered());
    assert_eq!(second.last_updated(), first.last_updated() + SECOND);
    assert_eq!(second.time_in_current_state(), SECOND);
    assert!(second.revision() > first.revision());
    assert_eq!(second.state_history().next().unwrap().message(), "ok");
}

#[test]
fn entering_error_sets_it_and_leaving_clears_it() {
    let (tracker, clock) = tracker();
    let status = tracker.get_or_create("a");
    clock.advance(SECOND);
    status.set_retrying("store is away", 3, 4 * SECOND);
    let snapshot = status.snapshot();
    let error = snapshot.error().unwrap();
    assert_eq!(error.message(), "store is away");
    assert_eq!(snapshot.message(), "store is away");
    let ErrorKind::Retrying {
        attempt,
        next_retry_at,
    } = error.kind()
    else {
        panic!("{error:?}")
    };
    assert_eq!(attempt, 3);
    assert_eq!(next_retry_at, error.at() + 4 * SECOND);

    status.set_state(State::Error, "abandoned");
    let snapshot = status.snapshot();
    assert_eq!(snapshot.error().unwrap().kind(), ErrorKind::Parked);
    assert_eq!(snapshot.error_message(), Some("abandoned"));
    assert_eq!(snapshot.state_history().len(), 1);

    status.set_state(State::Ready, "ok");
    assert_eq!(status.snapshot().error(), None);
    assert_eq!(snapshot.error_message(), Some("abandoned"), "a copy stays");
}

#[test]
fn initializing_begins_the_next_epoch_with_nothing_of_the_last() {
    let (tracker, _) = tracker();
    let status = tracker.get_or_create("a");
    status.set_state(State::Initializing, "same state, same load");
    assert_eq!(status.epoch(), Epoch::FIRST);
    status.update_metadata("partition", 3).unwrap();
    let progress = status.start_progress(State::ReplayingEvents, Unit::Events, Some(10));
    progress.add(5);
    status.set_state(State::Ready, "ok");
    assert_eq!(status.progress().unwrap().done(), 5);

    status.set_state(State::Initializing, "again");
    let snapshot = status.snapshot();
    assert_eq!(snapshot.epoch(), Epoch::new(2));
    assert!(snapshot.metadata().is_empty() && snapshot.progress().is_none());
    progress.add(1);
    assert!(status.progress().is_none(), "the old handle is not seen");
    let epochs: Vec<_> = snapshot.state_history().map(|t| t.epoch().get()).collect();
    assert_eq!(epochs, [1, 2]);
}

#[test]
fn an_unexpected_edge_is_kept_and_counted() {
    let (tracker, _) = tracker();
    let status = tracker.get_or_create("a");
    status.set_state(State::LoadingKafkaPartitions, "");
    assert_eq!(tracker.unexpected_transitions(), 0);
    status.set_state(State::Ready, "");
    assert_eq!(tracker.unexpected_transitions(), 1);
    assert!(status.is_ready());
    assert_eq!(tracker.transitions_into()[State::Ready], 1);
    assert_eq!(tracker.transitions_into().total(), 2);
}

#[test]
fn the_last_20_transitions_are_kept_and_all_are_counted() {
    let (tracker, clock) = tracker();
    let status = tracker.get_or_create("a");
    let start = status.snapshot().state_entered();
    for n in 1..=50_u32 {
        clock.advance(SECOND * n);
        let state = if n % 2 == 0 {
            State::Ready
        } else {
            State::Error
        };
        status.set_state(state, format!("message {n}"));
    }
    let snapshot = status.snapshot();
    assert_eq!(snapshot.transitions_total(), 50);
    let kept: Vec<&Transition> = snapshot.state_history().collect();
    assert_eq!(kept.len(), HISTORY_CAPACITY);
    for (transition, n) in kept.iter().zip(31_u32..) {
        assert_eq!(transition.sequence(), u64::from(n));
        assert_eq!(transition.message(), format!("message {n}"));
        assert_eq!(transition.time_in_from(), SECOND * n);
        assert_eq!(transition.timestamp(), start + SECOND * (n * (n + 1) / 2));
    }
    assert!(
        kept.windows(2)
            .all(|w| w[0].to_state() == w[1].from_state())
    );
}

#[test]
fn a_wall_clock_set_back_changes_what_is_shown_not_what_is_measured() {
    let (tracker, clock) = tracker();
    let status = tracker.get_or_create("a");
    let before = status.snapshot().state_entered();
    clock.advance(10 * SECOND);
    clock.set_wall(before - 3600 * SECOND);
    status.set_state(State::Ready, "ok");
    clock.advance(5 * SECOND);
    let snapshot = status.snapshot();
    assert_eq!(snapshot.state_entered(), before - 3600 * SECOND);
    assert_eq!(snapshot.time_in_current_state(), 5 * SECOND);
    let transition = snapshot.state_history().next().unwrap();
    assert_eq!(transition.time_in_from(), 10 * SECOND);
    assert_eq!(transition.timestamp(), before - 3600 * SECOND);
}

#[test]
fn a_stale_loader_cannot_mark_a_workspace_ready() {
    let (tracker, _) = tracker();
    let status = tracker.get_or_create("a");
    let slow = status.begin_attempt(Epoch::FIRST, "first").unwrap();
    slow.set_state(State::LoadingFromPersistence, "reading")
        .unwrap();
    let progress = slow
        .start_progress(State::LoadingFromPersistence, Unit::Entities, None)
        .unwrap();
    let next = status.begin_attempt(Epoch::new(5), "second").unwrap();
    assert_eq!(status.epoch(), next.epoch());

    let stale = Err(AttemptError::Stale {
        attempt: Epoch::new(1),
        current: Epoch::new(5),
    });
    progress.add(7);
    assert_eq!(slow.set_state(State::Ready, "ok"), stale);
    assert_eq!(slow.set_parked("broken"), stale);
    assert_eq!(slow.set_retrying("broken", 1, SECOND), stale);
    assert_eq!(slow.update_metadata("k", 1), stale);
    assert!(
        slow.start_progress(State::Ready, Unit::Steps, None)
            .is_err()
    );
    assert!(!slow.is_current() && next.is_current());
    let snapshot = status.snapshot();
    assert_eq!(snapshot.message(), "second");
    assert_eq!(snapshot.state(), State::Initializing);
    assert!(snapshot.metadata().is_empty() && snapshot.progress().is_none());

    for epoch in [1, 4, 5] {
        let refused = status.begin_attempt(Epoch::new(epoch), "late").unwrap_err();
        assert_eq!(refused.current, Epoch::new(5));
    }
    status.set_state(State::Error, "");
    status.set_state(State::Initializing, "a writer without an attempt");
    assert!(!next.is_current());
}

#[test]
fn two_loaders_of_the_first_epoch_are_distinguished() {
    let (tracker, _) = tracker();
    for first in [Epoch::FIRST, Epoch::new(5)] {
        let status = tracker.get_or_create(&format!("first-{first}"));
        let one = status.begin_attempt(first, "one").unwrap();
        let refused = status.begin_attempt(first, "another").unwrap_err();
        assert_eq!((refused.attempt, refused.current), (first, first));
        assert!(one.is_current());
        assert_eq!(status.snapshot().message(), "one");
    }
}

#[test]
fn the_epochs_of_a_history_are_those_of_its_loads() {
    let (tracker, _) = tracker();
    let status = tracker.get_or_create("a");
    let mut expected = Vec::new();
    for epoch in [1, 7, 8, 9, 1000] {
        // A load that begins in `initializing` (epochs 1 and 8) adds no transition.
        status.begin_attempt(Epoch::new(epoch), "load").unwrap();
        if epoch > 1 && epoch != 8 {
            expected.push(epoch);
        }
        if epoch != 7 {
            status.set_state(State::Error, "broken");
            expected.push(epoch);
        }
    }
    let snapshot = status.snapshot();
    let epochs: Vec<u64> = snapshot.state_history().map(|t| t.epoch().get()).collect();
    assert_eq!(epochs, expected);
}

#[test]
fn a_metadatum_that_is_set_again_is_no_change() {
    let (tracker, clock) = tracker();
    let status = tracker.get_or_create("a");
    let attempt = status.begin_attempt(Epoch::FIRST, "").unwrap();
    let topic = [("topic", Value::from("events")), ("partition", 3.into())];
    attempt.update_metadata_many(topic.clone()).unwrap();
    let before = status.snapshot();
    let mut watcher = tracker.watch();
    clock.advance(SECOND);
    attempt.update_metadata_many(topic).unwrap();
    status.update_metadata("partition", 3_u64).unwrap();
    assert_eq!(watcher.try_next(), None);
    let after = status.snapshot();
    assert_eq!(after.revision(), before.revision());
    assert_eq!(after.last_updated(), before.last_updated());
    status.update_metadata("partition", 4).unwrap();
    assert!(watcher.try_next().is_some());
    assert_eq!(
        status.snapshot().last_updated(),
        before.last_updated() + SECOND
    );
}

#[test]
fn refused_metadata_change_nothing_and_are_counted() {
    let (tracker, _) = tracker();
    let status = tracker.get_or_create("a");
    let attempt = status.begin_attempt(Epoch::FIRST, "").unwrap();
    let revision = status.revision();
    let entries = [("good", Value::from(1)), ("bad", Value::from(f64::NAN))];
    assert_eq!(
        attempt.update_metadata_many(entries),
        Err(AttemptError::Metadata(MetadataError::NotFinite))
    );
    assert!(status.snapshot().metadata().is_empty());
    assert_eq!(status.revision(), revision);
    assert_eq!(tracker.metadata_refusals(), 1);
    let entries = [("one", Value::from(1)), ("two", Value::from("x"))];
    attempt.update_metadata_many(entries).unwrap();
    assert_eq!(status.snapshot().metadata().len(), 2);
    assert!(status.remove_metadata("one") && !status.remove_metadata("one"));
    assert_eq!(status.snapshot().metadata().len(), 1);
}

#[test]
fn a_batch_of_any_number_of_metadata_is_one_change() {
    let (tracker, _) = tracker();
    let status = tracker.get_or_create("a");
    let attempt = status.begin_attempt(Epoch::FIRST, "").unwrap();
    let mut watcher = tracker.watch();
    for number in [1, 7, 8, 9, 10, 64] {
        let keys: Vec<String> = (0..number).map(|n| format!("key{n:02}")).collect();
        let entries = |of: usize| keys.iter().map(move |key| (&**key, Value::from(of)));
        attempt.update_metadata_many(entries(number)).unwrap();
        assert!(watcher.try_next().is_some() && watcher.try_next().is_none());
        let (snapshot, value) = (status.snapshot(), Value::from(number));
        let expected = keys.iter().map(|key| (&**key, &value));
        assert!(snapshot.metadata().iter().eq(expected));
        let one_more = entries(0).chain([("one more", Value::from(0))]);
        let refused = attempt.update_metadata_many(one_more.cycle().take(200));
        assert_eq!(refused.is_err(), number == 64);
        attempt.update_metadata_many(entries(number)).unwrap();
        status.remove_metadata("one more");
        while watcher.try_next().is_some() {}
    }
}

#[test]
fn a_snapshot_keeps_its_metadata_beside_later_updates() {
    let (tracker, _) = tracker();
    let status = tracker.get_or_create("a");
    let mut held = Vec::new();
    for n in 0..5 {
        status.update_metadata("n", n).unwrap();
        status.update_metadata(&format!("key{n}"), n).unwrap();
        held.push(status.snapshot());
    }
    status.set_state(State::Ready, "ok");
    status.remove_metadata("key0");
    for (n, snapshot) in held.iter().enumerate() {
        assert_eq!(snapshot.metadata().get("n"), Some(&Value::from(n)));
        assert_eq!(snapshot.metadata().get("key0"), Some(&Value::from(0)));
        assert_eq!(snapshot.metadata().len(), n + 2);
    }
    assert_eq!(status.snapshot().metadata().len(), 5);
}

#[test]
fn a_removed_status_counts_nowhere_and_its_id_can_be_created_again() {
    let (tracker, _) = tracker();
    let held = tracker.get_or_create("a");
    held.set_state(State::Ready, "ok");
    assert!(tracker.remove("a"));
    let mut watcher = tracker.watch();
    held.set_state(State::Error, "no reader sees it");
    held.update_metadata("k", 1).unwrap();
    assert_eq!(watcher.try_next(), None);
    assert_eq!(tracker.count(), 0);
    assert_eq!(tracker.transitions_into()[State::Error], 0);
    let new = tracker.get_or_create("a");
    assert_eq!(new.state(), State::Initializing);
    held.set_state(State::Ready, "ok");
    assert_eq!(tracker.count_by_state()[State::Initializing], 1);
    assert_eq!(tracker.count(), 1);
}

#[test]
fn the_owner_is_shown_from_when_it_is_known() {
    let tracker = Tracker::builder().owner("node-1").build();
    let status = tracker.get_or_create("a");
    assert_eq!(status.snapshot().owner(), Some("node-1"));
    tracker.set_owner("node-2");
    assert_eq!(status.snapshot().owner(), Some("node-2"));
    assert_eq!(tracker.owner().as_deref(), Some("node-2"));
}

#[test]
fn a_snapshot_is_consistent_beside_concurrent_writers() {
    let tracker = Tracker::new();
    let status = tracker.get_or_create("a");
    std::thread::scope(|scope| {
        for (state, message) in [(State::Ready, "ready"), (State::Unloading, "unloading")] {
            let status = &status;
            scope.spawn(move || {
                for _ in 0..5_000 {
                    status.set_state(state, message);
                }
            });
        }
        for _ in 0..5_000 {
            let snapshot = status.snapshot();
            let last = snapshot.state_history().next_back();
            if let Some(last) = last {
                assert_eq!(last.to_state(), snapshot.state());
                assert_eq!(last.timestamp(), snapshot.state_entered());
                assert_eq!(last.message(), snapshot.message());
                assert_eq!(snapshot.message(), snapshot.state().as_str());
                assert_eq!(last.sequence(), snapshot.transitions_total());
            }
            let entered: Vec<_> = snapshot.state_history().map(Transition::to_state).collect();
            assert!(entered.windows(2).all(|pair| pair[0] != pair[1]));
        }
    });
    assert_eq!(tracker.count_by_state()[status.state()], 1);
}
