//! Wakers are the caller's code: what a waker does when it is woken, replaced or dropped harms no other wait.

use std::pin::{Pin, pin};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use workspace_status::{State, Tracker, Wait};

use crate::feed::Woken;
use crate::waits::{LONG, block_on, text};

/// Runs `body` on its own thread, so that a deadlock fails the test instead of hanging it.
fn without_deadlock(body: impl FnOnce() + Send + 'static) {
    let (over, is_over) = mpsc::channel();
    let runner = thread::spawn(move || {
        body();
        over.send(()).unwrap();
    });
    match is_over.recv_timeout(LONG) {
        Err(RecvTimeoutError::Timeout) => panic!("blocked for a minute"),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => runner.join().unwrap(),
    }
}

fn poll(wait: &mut Wait, waker: &Waker) -> Poll<String> {
    let polled = Pin::new(wait).poll(&mut Context::from_waker(waker));
    polled.map(|outcome| text(&outcome))
}

/// Owns another wait, as the waker of a task owns the task.
struct Holds(#[expect(dead_code, reason = "dropped with the waker")] Mutex<Wait>);

impl Wake for Holds {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_waker_that_owns_another_wait_may_be_replaced() {
    without_deadlock(|| {
        let tracker = Tracker::new();
        let new_wait = || tracker.wait("a").timeout(LONG).into_future();
        let mut held = new_wait();
        assert!(poll(&mut held, Waker::noop()).is_pending());
        let mut wait = new_wait();
        let waker = Waker::from(Arc::new(Holds(Mutex::new(held))));
        assert!(poll(&mut wait, &waker).is_pending());
        drop(waker);
        assert!(poll(&mut wait, Waker::noop()).is_pending());
    });
}

/// Sends a message, then panics.
struct Panics(Mutex<Sender<()>>);

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        self.0.lock().unwrap().send(()).unwrap();
        panic!("a waker's own");
    }
}

#[test]
fn a_panic_of_a_waker_stops_no_other_deadline() {
    without_deadlock(|| {
        let tracker = Tracker::new();
        let (sender, panicked) = mpsc::channel();
        let waker = Waker::from(Arc::new(Panics(Mutex::new(sender))));
        let mut timeout = Duration::from_millis(1);
        // Kept, because dropping a wait cancels its deadline.
        let _panicking = loop {
            let mut wait = tracker.wait("a").timeout(timeout).into_future();
            if poll(&mut wait, &waker).is_pending() {
                break wait;
            }
            timeout *= 2;
        };
        panicked.recv().unwrap();
        for _ in 0..3 {
            let wait = tracker.wait("a").timeout(Duration::from_millis(5));
            assert_eq!(text(&block_on(wait.into_future())), "timed out, not there");
        }
    });
}

#[test]
fn a_panic_of_a_waker_reaches_no_writer_and_no_other_wait() {
    let tracker = Tracker::new();
    let status = tracker.get_or_create("a");
    let (sender, panicked) = mpsc::channel();
    let panics = Waker::from(Arc::new(Panics(Mutex::new(sender))));
    let woken = Arc::new(Woken::default());
    let counts = Waker::from(Arc::clone(&woken));
    let mut first = tracker.wait("a").into_future();
    let mut second = tracker.wait("a").into_future();
    assert!(poll(&mut first, &panics).is_pending());
    assert!(poll(&mut second, &counts).is_pending());
    let mut watcher = tracker.watch();
    let mut next = pin!(watcher.next());
    assert!(
        next.as_mut()
            .poll(&mut Context::from_waker(&panics))
            .is_pending()
    );
    status.set_state(State::Ready, "ok");
    assert_eq!(panicked.iter().take(2).count(), 2);
    assert_eq!(woken.times(), 1);
    assert!(poll(&mut second, &counts).is_ready());
    assert!(poll(&mut first, &panics).is_ready());
}

/// Polls and drops its wait as soon as it is woken, like an executor that runs tasks in place.
struct InPlace {
    wait: Mutex<Option<Wait>>,
    ended: Mutex<Sender<String>>,
}

impl Wake for InPlace {
    fn wake(self: Arc<Self>) {
        let mut wait = self.wait.lock().unwrap().take().unwrap();
        let waker = Waker::from(Arc::clone(&self));
        if let Poll::Ready(outcome) = poll(&mut wait, &waker) {
            self.ended.lock().unwrap().send(outcome).unwrap();
        } else {
            *self.wait.lock().unwrap() = Some(wait);
        }
    }
}

#[test]
fn a_wait_may_be_polled_and_dropped_by_its_own_waker() {
    without_deadlock(|| {
        let tracker = Tracker::new();
        let status = tracker.get_or_create("a");
        let (sender, ended) = mpsc::channel();
        let timeouts = [LONG, Duration::from_millis(5)];
        for timeout in timeouts {
            let wait = tracker.wait("a").timeout(timeout).into_future();
            let in_place = Arc::new(InPlace {
                wait: Mutex::new(Some(wait)),
                ended: Mutex::new(sender.clone()),
            });
            in_place.wake();
            if timeout == LONG {
                status.set_state(State::Error, "not what is waited for");
                status.set_state(State::Ready, "ok");
                assert_eq!(ended.recv().unwrap(), "met ready");
                status.set_state(State::ReplayingEvents, "again");
            } else {
                assert_eq!(ended.recv().unwrap(), "timed out in replaying_events");
            }
        }
    });
}
