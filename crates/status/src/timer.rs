//! Deadlines of futures, without an async runtime.
//!
//! One thread of the process, started by the first deadline that is awaited, wakes the futures whose time has come,
//! and ends when it has had nothing to do for a while. It holds at most one waker for each wait under way. Wakers
//! are the caller's code, and every deadline of the process shares the lock: see [`crate::wakeups`].

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::wakeups::wake;

static TIMER: Timer = Timer {
    queue: Mutex::new(Queue {
        wakers: BTreeMap::new(),
        next: 0,
        running: false,
    }),
    changed: Condvar::new(),
};

/// After so long without a deadline the thread ends.
const IDLE: Duration = Duration::from_secs(5);

struct Timer {
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    /// By time, and by a number that tells equal times apart.
    wakers: BTreeMap<(Instant, u64), Waker>,
    next: u64,
    running: bool,
}

/// A future that is ready from its deadline on.
pub(crate) struct Deadline {
    key: (Instant, u64),
}

impl Deadline {
    pub(crate) fn at(deadline: Instant) -> Self {
        let mut queue = TIMER.queue.lock();
        queue.next += 1;
        Self {
            key: (deadline, queue.next),
        }
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.key.0 {
            return Poll::Ready(());
        }
        let waker = context.waker().clone();
        let mut queue = TIMER.queue.lock();
        let replaced = queue.wakers.insert(self.key, waker);
        let is_first = queue.wakers.keys().next() == Some(&self.key);
        start(&mut queue);
        drop(queue);
        if is_first {
            TIMER.changed.notify_one();
        }
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let waker = TIMER.queue.lock().wakers.remove(&self.key);
        drop(waker);
    }
}

fn start(queue: &mut MutexGuard<'_, Queue>) {
    if !queue.running {
        // Should the system refuse a thread, the next poll of any deadline asks again;
        // until then waits end by what they wait for.
        let started = thread::Builder::new()
            .name("status-deadlines".into())
            .spawn(run);
        queue.running = started.is_ok();
    }
}

fn run() {
    let mut queue = TIMER.queue.lock();
    loop {
        let now = Instant::now();
        match queue.wakers.first_key_value() {
            None => {
                let waited = TIMER.changed.wait_for(&mut queue, IDLE);
                if waited.timed_out() && queue.wakers.is_empty() {
                    queue.running = false;
                    return;
                }
            }
            Some((&(at, _), _)) if at > now => {
                TIMER.changed.wait_until(&mut queue, at);
            }
            Some(_) => {
                if let Some((_, waker)) = queue.wakers.pop_first() {
                    MutexGuard::unlocked(&mut queue, || wake(waker));
                }
            }
        }
    }
}
