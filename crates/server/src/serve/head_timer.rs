//! One timer of a connection for the heads of all its requests.
//!
//! The HTTP library creates a sleep for each head and drops it once the head is complete. With a sleep of the runtime
//! that is a large allocation and two changes of the runtime's timer wheel, under its lock, for each request. Here a
//! head only sets a deadline, which the one sleep of the connection looks at when it ends.

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;
use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tokio::time::sleep_until;

/// The timer of a connection's heads. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct HeadTimer(Arc<Mutex<Head>>);

/// The head that a connection waits for.
#[derive(Debug, Default)]
struct Head {
    /// `None` while a request is in progress.
    deadline: Option<Instant>,
    is_late: bool,
    /// The task that reads it.
    reader: Option<Waker>,
}

impl HeadTimer {
    /// Ends the sleeps of heads that are late. All heads have one timeout: none is late before the current sleep ends.
    pub(super) async fn run(&self, timeout: Duration) -> Infallible {
        loop {
            let next = self.0.lock().next_look(now(), timeout);
            sleep_until(next.into()).await;
        }
    }
}

impl Head {
    /// Reports a head that is late; returns when to look again.
    fn next_look(&mut self, now: Instant, timeout: Duration) -> Instant {
        match self.deadline {
            Some(deadline) if deadline > now => return deadline,
            Some(_) => {
                self.deadline = None;
                self.is_late = true;
                if let Some(reader) = self.reader.take() {
                    reader.wake();
                }
            }
            None => {}
        }
        now + timeout
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into()
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let mut head = self.0.lock();
        head.deadline = Some(deadline);
        head.is_late = false;
        Box::pin(HeadSleep(self.clone()))
    }

    fn now(&self) -> Instant {
        now()
    }
}

/// Resolves when the head is late.
struct HeadSleep(HeadTimer);

impl Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut head = self.0.0.lock();
        if head.is_late {
            return Poll::Ready(());
        }
        match &mut head.reader {
            Some(reader) => reader.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for HeadSleep {
    fn drop(&mut self) {
        self.0.0.lock().deadline = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// Waits for a head that never arrives; returns after how long it was late.
    async fn late_after(timer: &HeadTimer) -> Duration {
        let begun = now();
        timer.sleep_until(begun + TIMEOUT).await;
        now() - begun
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_late_at_its_own_deadline() {
        let timer = HeadTimer::default();
        let heads = async {
            let first = timer.sleep_until(now() + TIMEOUT);
            tokio::time::sleep(TIMEOUT / 2).await;
            drop(first);
            // The request takes longer than a head may take.
            tokio::time::sleep(TIMEOUT * 2 + TIMEOUT / 4).await;
            late_after(&timer).await
        };
        tokio::select! {
            took = heads => assert_eq!(took, TIMEOUT),
            never = timer.run(TIMEOUT) => match never {},
        }
    }
}
