//! How many workspaces are in each state, kept at every change and never recounted.
//!
//! What is counted is how often a state was entered and how often it was left; what is in
//! it is the difference. The numbers are spread over stripes, so that workspaces that
//! change at once seldom meet; a workspace always counts in the same one. A move is counted
//! as entered first, and a reader looks at what was left first: a workspace on the move is
//! seen twice rather than not at all.

use crate::state::{State, StateCounts, StateTotals};
use crate::sync::{AtomicU64, Ordering};

/// A power of two.
#[cfg(not(loom))]
const STRIPES: usize = 8;
#[cfg(loom)]
const STRIPES: usize = 1;

const STATES: usize = State::ALL.len();

pub(crate) struct Counts {
    stripes: [Stripe; STRIPES],
}

/// Cache lines of its own; processors fetch them in pairs.
#[repr(align(128))]
struct Stripe {
    /// Workspaces made, which are in `initializing` without having entered it.
    made: AtomicU64,
    entered: [AtomicU64; STATES],
    left: [AtomicU64; STATES],
}

impl Counts {
    pub(crate) fn new() -> Self {
        let zeroes = || [(); STATES].map(|()| AtomicU64::new(0));
        let stripe = || Stripe {
            made: AtomicU64::new(0),
            entered: zeroes(),
            left: zeroes(),
        };
        Self {
            stripes: [(); STRIPES].map(|()| stripe()),
        }
    }

    /// One more, in `initializing`. `key` is any number that is always the same for a
    /// workspace.
    pub(crate) fn made(&self, key: u16) {
        self.stripe(key).made.fetch_add(1, Ordering::Relaxed);
    }

    /// From one state to another.
    pub(crate) fn move_on(&self, key: u16, from: State, to: State) {
        let stripe = self.stripe(key);
        of(&stripe.entered, to).fetch_add(1, Ordering::Relaxed);
        // Release, with the Acquire of the readers: who sees it left sees it entered.
        of(&stripe.left, from).fetch_add(1, Ordering::Release);
    }

    /// One less, in `state`.
    pub(crate) fn gone(&self, key: u16, state: State) {
        of(&self.stripe(key).left, state).fetch_add(1, Ordering::Release);
    }

    pub(crate) fn by_state(&self) -> StateCounts {
        let mut sums = [0_u64; STATES];
        for stripe in &self.stripes {
            let left = State::ALL.map(|state| of(&stripe.left, state).load(Ordering::Acquire));
            let entered = State::ALL.map(|state| stripe.arrived(state));
            for (sum, (entered, left)) in sums.iter_mut().zip(entered.into_iter().zip(left)) {
                *sum += entered.saturating_sub(left);
            }
        }
        StateCounts::new(sums.map(|sum| usize::try_from(sum).unwrap_or(usize::MAX)))
    }

    pub(crate) fn entered(&self) -> StateTotals {
        StateTotals::new(State::ALL.map(|state| {
            let in_stripe = |stripe: &Stripe| of(&stripe.entered, state).load(Ordering::Relaxed);
            self.stripes.iter().map(in_stripe).sum()
        }))
    }

    #[expect(clippy::indexing_slicing, reason = "masked to the number of stripes")]
    fn stripe(&self, key: u16) -> &Stripe {
        &self.stripes[usize::from(key) & (STRIPES - 1)]
    }
}

impl Stripe {
    /// How many ever came into a state, in whatever way.
    fn arrived(&self, state: State) -> u64 {
        let entered = of(&self.entered, state).load(Ordering::Relaxed);
        if state == State::Initializing {
            entered + self.made.load(Ordering::Relaxed)
        } else {
            entered
        }
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "a state's index is below the number of states"
)]
fn of(by_state: &[AtomicU64; STATES], state: State) -> &AtomicU64 {
    &by_state[state.index()]
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    #[test]
    fn loom_a_workspace_on_the_move_is_never_missing() {
        loom::model(|| {
            let counts = Arc::new(Counts::new());
            counts.made(0);
            let other = Arc::clone(&counts);
            let mover = thread::spawn(move || {
                other.move_on(0, State::Initializing, State::Ready);
            });
            let seen = counts.by_state();
            assert!(seen.total() == 1 || seen.total() == 2);
            assert!(seen[State::Initializing] + seen[State::Ready] == seen.total());
            mover.join().unwrap();
            counts.gone(0, State::Ready);
            assert_eq!(counts.by_state().total(), 0);
        });
    }

    #[test]
    fn loom_two_workspaces_of_a_stripe_are_both_counted() {
        loom::model(|| {
            let counts = Arc::new(Counts::new());
            let other = Arc::clone(&counts);
            let mover = thread::spawn(move || {
                other.made(0);
                other.move_on(0, State::Initializing, State::Ready);
            });
            counts.made(0);
            counts.move_on(0, State::Initializing, State::Ready);
            mover.join().unwrap();
            assert_eq!(counts.by_state()[State::Ready], 2);
            assert_eq!(counts.by_state().total(), 2);
            assert_eq!(counts.entered()[State::Ready], 2);
        });
    }
}
