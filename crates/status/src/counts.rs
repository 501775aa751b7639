//! How many workspaces are in each state, kept at every change and never recounted.
//!
//! The numbers are spread over stripes, so that workspaces that change at once seldom
//! meet; a workspace always counts in the same one. A move adds before it takes away:
//! a reader between the two sees the workspace twice rather than not at all.

use crate::state::{State, StateCounts, StateTotals};
use crate::sync::{AtomicU64, AtomicUsize, Ordering};

/// A power of two.
#[cfg(not(loom))]
const STRIPES: usize = 8;
#[cfg(loom)]
const STRIPES: usize = 1;

pub(crate) struct Counts {
    stripes: [Stripe; STRIPES],
}

/// Two cache lines of their own, since processors fetch them in pairs.
#[repr(align(128))]
struct Stripe {
    now: [AtomicUsize; State::ALL.len()],
    entered: [AtomicU64; State::ALL.len()],
}

impl Counts {
    pub(crate) fn new() -> Self {
        let stripe = || Stripe {
            now: [(); State::ALL.len()].map(|()| AtomicUsize::new(0)),
            entered: [(); State::ALL.len()].map(|()| AtomicU64::new(0)),
        };
        Self {
            stripes: [(); STRIPES].map(|()| stripe()),
        }
    }

    /// One more in `state`. `key` is any number that is always the same for a workspace.
    pub(crate) fn add(&self, key: u16, state: State) {
        self.now(key, state).fetch_add(1, Ordering::Relaxed);
    }

    /// One less in `state`.
    pub(crate) fn take(&self, key: u16, state: State) {
        // Release, with the Acquire of the readers: whoever sees it taken sees it added.
        self.now(key, state).fetch_sub(1, Ordering::Release);
    }

    /// From one state to another, which counts as entered.
    pub(crate) fn move_on(&self, key: u16, from: State, to: State) {
        self.stripe(key).entered(to).fetch_add(1, Ordering::Relaxed);
        self.add(key, to);
        self.take(key, from);
    }

    pub(crate) fn by_state(&self) -> StateCounts {
        StateCounts::new(State::ALL.map(|state| {
            let in_stripe = |stripe: &Stripe| stripe.now(state).load(Ordering::Acquire);
            self.stripes.iter().map(in_stripe).sum()
        }))
    }

    pub(crate) fn entered(&self) -> StateTotals {
        StateTotals::new(State::ALL.map(|state| {
            let in_stripe = |stripe: &Stripe| stripe.entered(state).load(Ordering::Relaxed);
            self.stripes.iter().map(in_stripe).sum()
        }))
    }

    fn now(&self, key: u16, state: State) -> &AtomicUsize {
        self.stripe(key).now(state)
    }

    #[expect(clippy::indexing_slicing, reason = "masked to the number of stripes")]
    fn stripe(&self, key: u16) -> &Stripe {
        &self.stripes[usize::from(key) & (STRIPES - 1)]
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "a state's index is below the number of states"
)]
impl Stripe {
    fn now(&self, state: State) -> &AtomicUsize {
        &self.now[state.index()]
    }

    fn entered(&self, state: State) -> &AtomicU64 {
        &self.entered[state.index()]
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    #[test]
    fn loom_a_workspace_on_the_move_is_never_missing_in_the_state_it_entered() {
        loom::model(|| {
            let counts = Arc::new(Counts::new());
            counts.add(0, State::Unknown);
            let other = Arc::clone(&counts);
            let mover = thread::spawn(move || {
                other.move_on(0, State::Unknown, State::Initializing);
            });
            let gone = counts.now(0, State::Unknown).load(Ordering::Acquire) == 0;
            let arrived = counts.now(0, State::Initializing).load(Ordering::Acquire) == 1;
            assert!(arrived || !gone);
            mover.join().unwrap();
            let by_state = [State::Unknown, State::Initializing]
                .map(|state| counts.now(0, state).load(Ordering::Acquire));
            assert_eq!(by_state, [0, 1]);
        });
    }
}
