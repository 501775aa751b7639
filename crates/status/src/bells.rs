//! Wakes those who wait for changes, and costs a load where nobody does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use event_listener::{Event, EventListener, IntoNotification as _, Listener as _};

use crate::sync::{AtomicUsize, Ordering, fence};

/// A row of bells.
#[derive(Clone)]
pub(crate) struct Bells(Arc<[Bell]>);

struct Bell {
    rung: Event,
    listeners: AtomicUsize,
}

impl Bell {
    fn new() -> Self {
        Self {
            rung: Event::new(),
            listeners: AtomicUsize::new(0),
        }
    }
}

/// Hears the next ring of a bell; those from its making on count.
pub(crate) struct Listening {
    listener: EventListener,
    listed: Listed,
}

/// Counts as a listener.
struct Listed {
    bells: Bells,
    number: usize,
}

impl Bells {
    pub(crate) fn new(number: usize) -> Self {
        Self((0..number).map(|_| Bell::new()).collect())
    }

    pub(crate) fn listen(&self, number: usize) -> Listening {
        let bell = self.bell(number);
        bell.listeners.fetch_add(1, Ordering::Relaxed);
        let listed = Listed {
            bells: self.clone(),
            number,
        };
        let listener = bell.rung.listen();
        // See `ring_after_fence`.
        fence(Ordering::SeqCst);
        Listening { listener, listed }
    }

    /// Wakes whoever listens and, after that, looked under the lock that the change was
    /// made under. If it looked before the change, the lock was taken for the change after
    /// it, so that the listener is seen here.
    #[inline]
    pub(crate) fn ring(&self, number: usize) {
        let bell = self.bell(number);
        if bell.listeners.load(Ordering::Relaxed) > 0 {
            bell.rung.notify(usize::MAX.relaxed());
        }
    }

    /// Wakes whoever listens, also who looked without a lock: of the two fences, this and
    /// the listener's, one is later, and what stands behind it sees what stands before the
    /// other.
    pub(crate) fn ring_after_fence(&self, number: usize) {
        fence(Ordering::SeqCst);
        self.ring(number);
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "who has a row rings by numbers below how many it made"
    )]
    #[inline]
    fn bell(&self, number: usize) -> &Bell {
        &self.0[number]
    }
}

impl Listening {
    /// Blocks until it rings; tells whether it did before the deadline.
    pub(crate) fn wait(self, deadline: Option<Instant>) -> bool {
        let Listening { listener, listed } = self;
        let rang = match deadline {
            None => {
                listener.wait();
                true
            }
            Some(deadline) => listener.wait_deadline(deadline).is_some(),
        };
        drop(listed);
        rang
    }
}

impl Future for Listening {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.listener).poll(context)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let bell = self.bells.bell(self.number);
        bell.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::future::block_on;
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::sync::Mutex;

    // A wake that is lost is a deadlock, which loom reports.

    #[test]
    fn loom_who_looks_under_the_lock_is_woken() {
        loom::model(|| {
            let bells = Bells::new(1);
            let changed = Arc::new(Mutex::new(false));
            let changer = thread::spawn({
                let (bells, changed) = (bells.clone(), Arc::clone(&changed));
                move || {
                    *changed.lock() = true;
                    bells.ring(0);
                }
            });
            loop {
                let listening = bells.listen(0);
                if *changed.lock() {
                    break;
                }
                block_on(listening);
            }
            changer.join().unwrap();
        });
    }

    #[test]
    fn loom_who_looks_without_a_lock_is_woken_by_the_ring_after_a_fence() {
        loom::model(|| {
            let bells = Bells::new(1);
            let changed = Arc::new(AtomicUsize::new(0));
            let changer = thread::spawn({
                let (bells, changed) = (bells.clone(), Arc::clone(&changed));
                move || {
                    changed.store(1, Ordering::Relaxed);
                    bells.ring_after_fence(0);
                }
            });
            loop {
                let listening = bells.listen(0);
                if changed.load(Ordering::Relaxed) == 1 {
                    break;
                }
                block_on(listening);
            }
            changer.join().unwrap();
        });
    }
}
