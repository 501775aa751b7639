//! Wakes waiters after a change, at the cost of one atomic load if nothing waits.
//!
//! Wakers are the caller's code: waking, cloning or dropping one may poll or drop a wait, or panic. So none of
//! that happens under a lock, and a panic of a waker reaches neither the writer nor another waiter.

use std::collections::BTreeMap;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use crate::sync::{AtomicUsize, Mutex, Ordering, fence};

/// A fixed array of wakeups.
#[derive(Clone)]
pub(crate) struct Wakeups(Arc<[Wakeup]>);

struct Wakeup {
    listeners: AtomicUsize,
    waiting: Mutex<Waiting>,
}

struct Waiting {
    /// Number of notifications that found a listener.
    notified: u64,
    next_ticket: u64,
    /// By the ticket of the listener.
    wakers: BTreeMap<u64, Waker>,
}

/// A future that becomes ready when its wakeup is notified after the future was created.
pub(crate) struct Listening {
    wakeups: Wakeups,
    number: usize,
    ticket: u64,
    /// The value of `notified` when it was created.
    since: u64,
}

impl Wakeups {
    pub(crate) fn new(number: usize) -> Self {
        Self((0..number).map(|_| Wakeup::new()).collect())
    }

    pub(crate) fn listen(&self, number: usize) -> Listening {
        let wakeup = self.wakeup(number);
        wakeup.listeners.fetch_add(1, Ordering::Relaxed);
        let mut waiting = wakeup.waiting.lock();
        waiting.next_ticket += 1;
        let (ticket, since) = (waiting.next_ticket, waiting.notified);
        drop(waiting);
        // See `notify_after_fence`.
        fence(Ordering::SeqCst);
        Listening {
            wakeups: self.clone(),
            number,
            ticket,
            since,
        }
    }

    /// Wakes every listener that checked under the lock that guards the change. If it checked before the change, the
    /// writer took the lock after it, so the listener is visible here. Call it with no lock held.
    #[inline]
    pub(crate) fn notify(&self, number: usize) {
        let wakeup = self.wakeup(number);
        if wakeup.listeners.load(Ordering::Relaxed) > 0 {
            wakeup.wake_all();
        }
    }

    /// Wakes every listener, also one that checked without a lock. Of the two fences, this and the listener's, one is
    /// later: the code after it sees what happened before the other fence.
    pub(crate) fn notify_after_fence(&self, number: usize) {
        fence(Ordering::SeqCst);
        self.notify(number);
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the owner of a row uses numbers below how many it made"
    )]
    #[inline]
    fn wakeup(&self, number: usize) -> &Wakeup {
        &self.0[number]
    }
}

impl Wakeup {
    fn new() -> Self {
        Self {
            listeners: AtomicUsize::new(0),
            waiting: Mutex::new(Waiting {
                notified: 0,
                next_ticket: 0,
                wakers: BTreeMap::new(),
            }),
        }
    }

    #[cold]
    fn wake_all(&self) {
        let mut waiting = self.waiting.lock();
        waiting.notified += 1;
        let wakers = mem::take(&mut waiting.wakers);
        drop(waiting);
        for waker in wakers.into_values() {
            wake(waker);
        }
    }
}

/// Wakes a waker. Its panic is caught here; only the panic hook reports it.
pub(crate) fn wake(waker: Waker) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
        // Dropping the payload would run the caller's code again.
        mem::forget(payload);
    }
}

impl Listening {
    /// Blocks until it is notified or the deadline passes; returns whether it was notified.
    pub(crate) fn wait(mut self, deadline: Option<Instant>) -> bool {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        while Pin::new(&mut self).poll(&mut context).is_pending() {
            let Some(deadline) = deadline else {
                thread::park();
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::park_timeout(left);
        }
        true
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Future for Listening {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        let mut waiting = self.wakeups.wakeup(self.number).waiting.lock();
        if waiting.notified != self.since {
            return Poll::Ready(());
        }
        let replaced = waiting.wakers.insert(self.ticket, waker);
        drop(waiting);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let wakeup = self.wakeups.wakeup(self.number);
        wakeup.listeners.fetch_sub(1, Ordering::Relaxed);
        let waker = wakeup.waiting.lock().wakers.remove(&self.ticket);
        drop(waker);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::future::block_on;
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::sync::Mutex;

    // A lost wakeup is a deadlock, which loom reports.

    #[test]
    fn loom_a_listener_that_looks_under_the_lock_is_woken() {
        loom::model(|| {
            let wakeups = Wakeups::new(1);
            let changed = Arc::new(Mutex::new(false));
            let changer = thread::spawn({
                let (wakeups, changed) = (wakeups.clone(), Arc::clone(&changed));
                move || {
                    *changed.lock() = true;
                    wakeups.notify(0);
                }
            });
            loop {
                let listening = wakeups.listen(0);
                if *changed.lock() {
                    break;
                }
                block_on(listening);
            }
            changer.join().unwrap();
        });
    }

    #[test]
    fn loom_a_listener_that_looks_without_a_lock_is_woken_behind_a_fence() {
        loom::model(|| {
            let wakeups = Wakeups::new(1);
            let changed = Arc::new(AtomicUsize::new(0));
            let changer = thread::spawn({
                let (wakeups, changed) = (wakeups.clone(), Arc::clone(&changed));
                move || {
                    changed.store(1, Ordering::Relaxed);
                    wakeups.notify_after_fence(0);
                }
            });
            loop {
                let listening = wakeups.listen(0);
                if changed.load(Ordering::Relaxed) == 1 {
                    break;
                }
                block_on(listening);
            }
            changer.join().unwrap();
        });
    }

    #[test]
    fn loom_a_listener_dropped_beside_a_notification_harms_no_other() {
        loom::model(|| {
            let wakeups = Wakeups::new(1);
            let dropped = wakeups.listen(0);
            let changed = Arc::new(AtomicUsize::new(0));
            let changer = thread::spawn({
                let (wakeups, changed) = (wakeups.clone(), Arc::clone(&changed));
                move || {
                    changed.store(1, Ordering::Relaxed);
                    wakeups.notify_after_fence(0);
                }
            });
            let listening = wakeups.listen(0);
            drop(dropped);
            if changed.load(Ordering::Relaxed) == 0 {
                block_on(listening);
            }
            changer.join().unwrap();
        });
    }
}
