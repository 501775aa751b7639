//! The functions that programs outside the repository compile against: names, argument
//! types and results.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use workspace_status::{Snapshot, State, Tracker, Transition, Value, WorkspaceStatus};

fn ids<'a>(transitions: impl ExactSizeIterator<Item = &'a Transition>) -> Vec<State> {
    let len = transitions.len();
    let states: Vec<State> = transitions.map(Transition::to_state).collect();
    assert_eq!(states.len(), len);
    states
}

#[test]
fn the_tracker_is_as_promised() {
    let global: &'static Tracker = Tracker::global();
    let name = String::from("contract-global");
    let status: Arc<WorkspaceStatus> = global.get_or_create(&name);
    status.set_state(State::Ready, "ok");
    assert!(Tracker::global().get(&name).is_some());
    assert!(Tracker::global().remove(&name));

    let tracker: Tracker = Tracker::new();
    let none: Option<Arc<WorkspaceStatus>> = tracker.get("a");
    assert!(none.is_none());
    let none: Option<Snapshot> = tracker.snapshot("a");
    assert!(none.is_none());
    let status = tracker.get_or_create("a");
    assert!(Arc::ptr_eq(&status, &tracker.get_or_create("a")));
    tracker.get_or_create("b").set_state(State::Ready, "ok");
    let all: Vec<Snapshot> = tracker.list_all();
    assert_eq!(all.len(), 2);
    let counts = tracker.count_by_state();
    let ready: usize = counts[State::Ready];
    assert_eq!((ready, counts[State::Initializing]), (1, 1));
    let count: usize = tracker.count();
    assert_eq!(count, 2);
    let removed: bool = tracker.remove("a");
    assert!(removed && !tracker.remove("a"));
    status.set_state(State::Error, "held by the test");
    assert_eq!(tracker.count_by_state()[State::Error], 0);
    assert_eq!(tracker.count(), 1);
}

#[test]
#[should_panic(expected = "a workspace id must not be empty")]
fn an_invalid_id_panics_where_that_is_documented() {
    Tracker::new().get_or_create("");
}

#[test]
fn a_status_is_as_promised() {
    let tracker = Tracker::new();
    let status = tracker.get_or_create("a");
    let fresh = status.snapshot();
    assert_eq!(fresh.state(), State::Initializing);
    assert_eq!((fresh.epoch().get(), fresh.message()), (1, ""));
    assert_eq!(fresh.state_history().len(), 0);

    let before = SystemTime::now();
    status.set_state(State::LoadingFromPersistence, String::from("reading"));
    status.set_state(State::Ready, format!("{} entities", 7));
    let after = SystemTime::now();
    assert!(status.is_ready() && !status.is_error());
    assert_eq!(status.state(), State::Ready);
    let held: Duration = status.time_in_current_state();
    assert!(held < Duration::from_mins(1));

    let snapshot: Snapshot = status.snapshot();
    let id: &str = snapshot.workspace_id();
    let message: &str = snapshot.message();
    assert_eq!((id, message), ("a", "7 entities"));
    let none: Option<&str> = snapshot.error_message();
    assert_eq!(none, None);
    let entered: SystemTime = snapshot.state_entered();
    let updated: SystemTime = snapshot.last_updated();
    assert!(before <= entered && entered <= after && updated == entered);
    let held: Duration = snapshot.time_in_current_state();
    assert!(held < Duration::from_mins(1));
    assert_eq!(
        ids(snapshot.state_history()),
        [State::LoadingFromPersistence, State::Ready]
    );
    let last: &Transition = snapshot.state_history().next_back().unwrap();
    let (from, to): (State, State) = (last.from_state(), last.to_state());
    assert_eq!((from, to), (State::LoadingFromPersistence, State::Ready));
    let at: SystemTime = last.timestamp();
    let message: &str = last.message();
    assert_eq!((at, message), (entered, "7 entities"));
    let first = snapshot.state_history().next().unwrap();
    assert!(before <= first.timestamp() && first.timestamp() <= at);

    status.set_error(std::io::Error::other("the disk is full"));
    assert!(status.is_error());
    assert_eq!(status.snapshot().error_message(), Some("the disk is full"));
    status.set_error("as text");
    status.set_error(format!("as {}", "String"));
    status.set_error(format_args!("as {}", "arguments"));
    let snapshot = status.snapshot();
    assert_eq!(snapshot.error_message(), Some("as arguments"));
    assert_eq!(snapshot.message(), "as arguments");
    assert_eq!(snapshot.state_history().len(), 3);
}

#[test]
fn metadata_takes_every_type_that_is_promised() {
    let status = Tracker::new().get_or_create("a");
    let owned = String::from("key");
    status.update_metadata("i32", -1_i32).unwrap();
    status.update_metadata("i64", i64::MIN).unwrap();
    status.update_metadata("u32", u32::MAX).unwrap();
    status.update_metadata("u64", u64::MAX).unwrap();
    status.update_metadata("usize", 7_usize).unwrap();
    status.update_metadata("f64", 0.5_f64).unwrap();
    status.update_metadata("bool", true).unwrap();
    status.update_metadata("&str", "text").unwrap();
    status
        .update_metadata(&owned, String::from("owned"))
        .unwrap();
    let refused: Result<(), _> = status.update_metadata("", 1);
    assert!(refused.is_err());

    let snapshot = status.snapshot();
    let value: Option<&Value> = snapshot.metadata().get("i64");
    assert_eq!(value, Some(&Value::from(i64::MIN)));
    assert_eq!(
        snapshot.metadata().get("key"),
        Some(&Value::from(String::from("owned")))
    );
    assert_eq!(snapshot.metadata().get("none"), None);
    assert_eq!(snapshot.metadata().len(), 9);
}

#[test]
fn a_state_is_text_and_back() {
    let states: [State; 10] = State::ALL;
    for state in states {
        assert_eq!(state.to_string().parse::<State>(), Ok(state));
    }
    assert_eq!(
        State::RestoringFromSnapshot.to_string(),
        "restoring_from_snapshot"
    );
}

#[test]
fn everything_crosses_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<Tracker>();
    crosses::<WorkspaceStatus>();
    crosses::<Snapshot>();
    crosses::<workspace_status::Attempt>();
    crosses::<workspace_status::Progress>();
    crosses::<workspace_status::Watcher>();
    crosses::<workspace_status::Wait>();
}
