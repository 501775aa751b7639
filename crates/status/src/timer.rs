//! Deadlines of futures, without an async runtime.
//!
//! The first awaited deadline starts one thread for the process. It wakes the futures whose deadlines have passed,
//! and ends after a while without work. It holds at most one waker for each wait under way. Wakers are the caller's
//! code, and all deadlines of the process share one lock: see [`crate::wakeups`].

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

/// The thread ends after this long without a deadline.
const IDLE: Duration = Duration::from_secs(5);

struct Timer {
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    /// By time, and by a number that distinguishes equal times.
    wakers: BTreeMap<(Instant, u64), Waker>,
    next: u64,
    running: bool,
}

/// A future that becomes ready at its deadline.
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
        // If the system refuses a thread, the next poll of any deadline tries again. Until
        // then waits end only by their conditions.
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
