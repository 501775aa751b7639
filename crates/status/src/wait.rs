//! Waits for a workspace to be in a state, with one deadline, that fail as soon as
//! possible.
//!
//! A wait is on a level ("is ready"), not on an edge ("became ready"): it ends at once
//! if the condition holds already. A wait may miss a state that was left again before it
//! could check; the change feed reports every one.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::shared::key_of;
use crate::snapshot::Snapshot;
use crate::state::{State, StateSet};
use crate::timer::Deadline;
use crate::tracker::Tracker;
use crate::wakeups::Listening;

/// What a wait is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The workspace is in this state.
    State(State),
    /// The workspace is in one of these states.
    AnyOf(StateSet),
    /// There is no such workspace.
    Gone,
}

impl From<State> for Condition {
    fn from(state: State) -> Self {
        Condition::State(state)
    }
}

impl From<StateSet> for Condition {
    fn from(states: StateSet) -> Self {
        Condition::AnyOf(states)
    }
}

/// How a wait ended.
#[derive(Debug, Clone)]
pub enum WaitOutcome {
    /// The condition was met, as this snapshot shows.
    Met(Snapshot),
    /// The workspace was in a state that fails the wait.
    Failed(Snapshot),
    /// The deadline passed. The snapshot shows the workspace, if it existed.
    TimedOut(Option<Snapshot>),
    /// There is no such workspace, and that ends the wait: the wait was for [`Condition::Gone`]
    /// or `unknown`, or fails on `unknown`.
    Gone,
}

impl WaitOutcome {
    /// Whether the condition was met. The caller of a wait that fails on `unknown`, and is not
    /// for it, must treat [`WaitOutcome::Gone`] as failed itself.
    pub fn is_met(&self) -> bool {
        matches!(self, WaitOutcome::Met(_) | WaitOutcome::Gone)
    }

    /// The workspace as it was when the wait ended.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        match self {
            WaitOutcome::Met(snapshot) | WaitOutcome::Failed(snapshot) => Some(snapshot),
            WaitOutcome::TimedOut(snapshot) => snapshot.as_ref(),
            WaitOutcome::Gone => None,
        }
    }
}

/// A wait that starts with [`WaitBuilder::blocking`] or `.await`; by default for `ready`,
/// failing on no state, without a deadline. The workspace need not exist: one that does not
/// exist yet, or any more, counts as `unknown`.
///
/// ```
/// use std::time::Duration;
/// use workspace_status::{State, Tracker, WaitOutcome};
///
/// let tracker = Tracker::new();
/// let loader = std::thread::spawn({
///     let tracker = tracker.clone();
///     move || tracker.get_or_create("a").set_state(State::Ready, "ok")
/// });
/// let outcome = tracker
///     .wait("a")
///     .until(State::Ready)
///     .fail_on(State::Error)
///     .timeout(Duration::from_secs(30))
///     .blocking();
/// assert!(matches!(outcome, WaitOutcome::Met(snapshot) if snapshot.is_ready()));
/// # loader.join().unwrap();
/// ```
#[derive(Debug)]
#[must_use = "a wait does nothing until it is awaited or blocked on"]
pub struct WaitBuilder {
    tracker: Tracker,
    id: Box<str>,
    until: Condition,
    fail_on: StateSet,
    deadline: Option<Instant>,
}

impl Tracker {
    /// Waits for a workspace, which need not exist yet, to be in a state.
    pub fn wait(&self, id: &str) -> WaitBuilder {
        WaitBuilder::new(self.clone(), id)
    }
}

impl WaitBuilder {
    pub(crate) fn new(tracker: Tracker, id: &str) -> Self {
        Self {
            tracker,
            id: id.into(),
            until: Condition::State(State::Ready),
            fail_on: StateSet::EMPTY,
            deadline: None,
        }
    }

    /// Sets the condition to wait for.
    pub fn until(mut self, condition: impl Into<Condition>) -> Self {
        self.until = condition.into();
        self
    }

    /// Sets the states that end the wait as failed. The condition takes precedence.
    pub fn fail_on(mut self, states: impl Into<StateSet>) -> Self {
        self.fail_on = states.into();
        self
    }

    /// Sets the time when the wait ends at the latest.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets the deadline to `timeout` from this call, not from the start of the wait. A
    /// deadline beyond the range of `Instant` means none.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.deadline = Instant::now().checked_add(timeout);
        self
    }

    /// Waits and blocks this thread.
    pub fn blocking(self) -> WaitOutcome {
        loop {
            if let Some(outcome) = self.look() {
                return outcome;
            }
            let listener = self.listen();
            // The listener does not report changes before it existed.
            if let Some(outcome) = self.look() {
                return outcome;
            }
            if !listener.wait(self.deadline) {
                return self.end();
            }
        }
    }

    /// How the wait ends, if it ends before its deadline.
    fn look(&self) -> Option<WaitOutcome> {
        let outcome = self.end();
        (!matches!(outcome, WaitOutcome::TimedOut(_))).then_some(outcome)
    }

    /// How the wait ends if it ends now.
    fn end(&self) -> WaitOutcome {
        let snapshot = self.tracker.snapshot(&self.id);
        let state = snapshot.as_ref().map(Snapshot::state);
        let is_met = match self.until {
            Condition::State(wanted) => state.unwrap_or(State::Unknown) == wanted,
            Condition::AnyOf(wanted) => wanted.contains(state.unwrap_or(State::Unknown)),
            Condition::Gone => state.is_none(),
        };
        let is_failed = self.fail_on.contains(state.unwrap_or(State::Unknown));
        match snapshot {
            Some(snapshot) if is_met => WaitOutcome::Met(snapshot),
            Some(snapshot) if is_failed => WaitOutcome::Failed(snapshot),
            None if is_met || is_failed => WaitOutcome::Gone,
            not_yet => WaitOutcome::TimedOut(not_yet),
        }
    }

    fn listen(&self) -> Listening {
        self.tracker.shared().listen_workspace(key_of(&self.id))
    }
}

impl IntoFuture for WaitBuilder {
    type Output = WaitOutcome;
    type IntoFuture = Wait;

    fn into_future(self) -> Wait {
        Wait {
            deadline: self.deadline.map(Deadline::at),
            builder: self,
            listener: None,
        }
    }
}

/// A wait as a future. It needs no async runtime; dropping it ends the wait.
#[must_use = "futures do nothing unless awaited"]
pub struct Wait {
    builder: WaitBuilder,
    deadline: Option<Deadline>,
    listener: Option<Listening>,
}

impl Future for Wait {
    type Output = WaitOutcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<WaitOutcome> {
        let wait = self.get_mut();
        loop {
            if let Some(outcome) = wait.builder.look() {
                return Poll::Ready(outcome);
            }
            // Check again once the listener exists: a change before it would be missed.
            let Some(listener) = &mut wait.listener else {
                wait.listener = Some(wait.builder.listen());
                continue;
            };
            match Pin::new(listener).poll(context) {
                Poll::Ready(()) => wait.listener = None,
                Poll::Pending => break,
            }
        }
        let Some(deadline) = &mut wait.deadline else {
            return Poll::Pending;
        };
        match Pin::new(deadline).poll(context) {
            Poll::Ready(()) => Poll::Ready(wait.builder.end()),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl std::fmt::Debug for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wait")
            .field("builder", &self.builder)
            .finish_non_exhaustive()
    }
}
