//! Waits: levels, deadlines, failures, blocking and as futures.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use workspace_status::{Condition, State, StateSet, Tracker, WaitBuilder, WaitOutcome};

use crate::feed::Woken;

pub(crate) const LONG: Duration = Duration::from_mins(1);

pub(crate) fn text(outcome: &WaitOutcome) -> String {
    match outcome {
        WaitOutcome::Met(snapshot) => format!("met {}", snapshot.state()),
        WaitOutcome::Failed(snapshot) => format!("failed: {}", snapshot.message()),
        WaitOutcome::TimedOut(Some(snapshot)) => format!("timed out in {}", snapshot.state()),
        WaitOutcome::TimedOut(None) => "timed out, not there".into(),
        WaitOutcome::Gone => "gone".into(),
    }
}

/// The wait's outcome, blocking and as a future.
fn both(wait: impl Fn() -> WaitBuilder) -> String {
    let blocking = text(&wait().blocking());
    let future = text(&block_on(wait().into_future()));
    assert_eq!(blocking, future);
    blocking
}

/// The smallest executor.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

#[test]
fn a_level_that_is_there_ends_a_wait_at_once() {
    let tracker = Tracker::new();
    tracker.get_or_create("a").set_state(State::Ready, "ok");
    assert_eq!(both(|| tracker.wait("a")), "met ready");
    let loading: StateSet = [State::Ready, State::ReplayingEvents].into_iter().collect();
    assert_eq!(both(|| tracker.wait("a").until(loading)), "met ready");
    assert_eq!(both(|| tracker.wait("b").until(Condition::Gone)), "gone");
    // Met takes precedence over failed and over a deadline that has passed.
    let wait = || {
        tracker
            .wait("a")
            .fail_on(State::Ready)
            .deadline(Instant::now())
    };
    assert_eq!(both(wait), "met ready");
}

#[test]
fn a_wait_fails_as_soon_as_it_can() {
    let tracker = Tracker::new();
    tracker.get_or_create("a").set_error("the disk is full");
    let wait = || tracker.wait("a").fail_on(State::Error).timeout(LONG);
    assert_eq!(both(wait), "failed: the disk is full");
}

#[test]
fn a_wait_ends_at_its_deadline_and_says_where_the_workspace_stood() {
    let tracker = Tracker::new();
    tracker.get_or_create("a");
    let short = Duration::from_millis(20);
    let begun = Instant::now();
    let outcome = both(|| tracker.wait("a").timeout(short));
    assert_eq!(outcome, "timed out in initializing");
    assert!(begun.elapsed() >= 2 * short);
    assert_eq!(
        both(|| tracker.wait("b").timeout(short)),
        "timed out, not there"
    );
    let wait = || {
        tracker
            .wait("a")
            .until(Condition::Gone)
            .timeout(Duration::ZERO)
    };
    assert_eq!(both(wait), "timed out in initializing");
}

#[test]
fn a_wait_for_a_missing_workspace_is_met_when_it_is_created() {
    let tracker = Tracker::new();
    let (begin, begun) = mpsc::channel();
    let waiters: Vec<_> = (0..4)
        .map(|n| {
            let (tracker, begin) = (tracker.clone(), begin.clone());
            thread::spawn(move || {
                begin.send(()).unwrap();
                let wait = tracker.wait("a").fail_on(State::Error).timeout(LONG);
                let outcome = if n % 2 == 0 {
                    wait.blocking()
                } else {
                    block_on(wait.into_future())
                };
                text(&outcome)
            })
        })
        .collect();
    for _ in &waiters {
        begun.recv().unwrap();
    }
    let status = tracker.get_or_create("a");
    status.set_state(State::ReplayingEvents, "not yet");
    status.set_state(State::Ready, "now");
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap(), "met ready");
    }
}

#[test]
fn a_wait_for_gone_ends_when_it_is_removed() {
    let tracker = Tracker::new();
    tracker.get_or_create("a");
    let waiter = thread::spawn({
        let tracker = tracker.clone();
        move || {
            text(
                &tracker
                    .wait("a")
                    .until(Condition::Gone)
                    .timeout(LONG)
                    .blocking(),
            )
        }
    });
    tracker.remove("a");
    assert_eq!(waiter.join().unwrap(), "gone");
}

#[test]
fn thousands_of_short_levels_are_never_slept_through() {
    // Each round waits for a state that the other thread leaves only after the wait ended.
    let tracker = Tracker::new();
    let status = tracker.get_or_create("a");
    let (over, next) = mpsc::channel();
    let setter = thread::spawn(move || {
        for round in 0..5_000 {
            let state = if round % 2 == 0 {
                State::Ready
            } else {
                State::Error
            };
            status.set_state(state, "x");
            next.recv().unwrap();
        }
    });
    for round in 0..5_000 {
        let state = if round % 2 == 0 {
            State::Ready
        } else {
            State::Error
        };
        let wait = tracker.wait("a").until(state).timeout(LONG);
        let outcome = if round % 3 == 0 {
            block_on(wait.into_future())
        } else {
            wait.blocking()
        };
        assert!(outcome.is_met(), "round {round}: {}", text(&outcome));
        over.send(()).unwrap();
    }
    setter.join().unwrap();
}

#[test]
fn a_wait_is_woken_by_its_workspace_and_not_by_every_other() {
    let tracker = Tracker::new();
    let status = tracker.get_or_create("a");
    let others: Vec<_> = (0..100)
        .map(|n| tracker.get_or_create(&format!("other-{n}")))
        .collect();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut wait = pin!(tracker.wait("a").into_future());
    assert!(wait.as_mut().poll(&mut context).is_pending());
    for other in &others {
        other.set_state(State::Ready, "x");
        // A future that is woken checks again.
        assert!(wait.as_mut().poll(&mut context).is_pending());
    }
    assert!(woken.times() < 10, "{} of 100", woken.times());
    let before = woken.times();
    status.set_state(State::Ready, "x");
    assert_eq!(woken.times(), before + 1);
    assert!(wait.as_mut().poll(&mut context).is_ready());
}

#[test]
fn a_workspace_that_is_not_there_is_unknown_to_a_wait() {
    let tracker = Tracker::new();
    let wanted: StateSet = [State::Unknown, State::Ready].into_iter().collect();
    for until in [Condition::State(State::Unknown), Condition::AnyOf(wanted)] {
        assert_eq!(
            both(|| tracker.wait("a").until(until).timeout(LONG)),
            "gone"
        );
    }
    let failing = || tracker.wait("a").fail_on(State::Unknown).timeout(LONG);
    assert_eq!(both(failing), "gone");
    let status = tracker.get_or_create("a");
    status.set_state(State::Unknown, "its owner is dead");
    assert_eq!(both(failing), "failed: its owner is dead");
    let waiting = || tracker.wait("a").until(State::Unknown).timeout(LONG);
    assert_eq!(both(waiting), "met unknown");
    status.set_state(State::Error, "lost");
    let waiter = thread::spawn({
        let tracker = tracker.clone();
        move || text(&tracker.wait("a").until(wanted).timeout(LONG).blocking())
    });
    tracker.remove("a");
    assert_eq!(waiter.join().unwrap(), "gone");
}

#[test]
fn a_wait_never_times_out_in_the_state_it_waited_for() {
    let tracker = Tracker::new();
    let status = tracker.get_or_create("a");
    status.set_error("not yet");
    let mut ended = BTreeSet::new();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                status.set_state(State::Ready, "ok");
                status.set_error("gone again");
            }
        });
        for round in 0..20_000 {
            // The deadline has passed when the wait begins, so only its end is tested.
            let wait = tracker.wait("a").deadline(Instant::now());
            let outcome = if round % 2 == 0 {
                block_on(wait.into_future())
            } else {
                wait.blocking()
            };
            ended.insert(text(&outcome));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(!ended.contains("timed out in ready"), "{ended:?}");
}
