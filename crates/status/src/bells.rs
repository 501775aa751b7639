//! Wakes those who wait for changes, and costs a load where nobody does.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::task::{Context, Poll};
use std::time::Instant;

use event_listener::{Event, EventListener, IntoNotification as _, Listener as _};

/// A row of bells.
#[derive(Clone)]
pub(crate) struct Bells(Arc<[Bell]>);

#[derive(Default)]
struct Bell {
    rung: Event,
    listeners: AtomicUsize,
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
        Self((0..number.max(1)).map(|_| Bell::default()).collect())
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
        reason = "there is one at least, and the number is taken by how many there are"
    )]
    fn bell(&self, number: usize) -> &Bell {
        &self.0[number % self.0.len()]
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
