//! How many workspaces are in each state, kept at every change and never recounted.
//!
//! What is counted is how often each edge between two states was taken: one atomic step a
//! change says which state was left and which was entered. What is in a state is what came
//! into it less what left it. The numbers are spread over stripes, so that workspaces that
//! change at once seldom meet; a workspace always counts in the same one. A reader adds up
//! what left the states before it adds up what came into them: a workspace on the move is
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
    /// Workspaces gone, by the state they were in.
    gone: [AtomicU64; STATES],
    /// Changes of state, by the state left, then by the state entered.
    edges: [[AtomicU64; STATES]; STATES],
}

impl Counts {
    pub(crate) fn new() -> Self {
        Self {
            stripes: [(); STRIPES].map(|()| Stripe::new()),
        }
    }

    /// One more, in `initializing`. `key` is any number that is always the same for a
    /// workspace.
    pub(crate) fn made(&self, key: u16) {
        self.stripe(key).made.fetch_add(1, Ordering::Relaxed);
    }

    /// From one state to another.
    pub(crate) fn move_on(&self, key: u16, from: State, to: State) {
        // Release, with the Acquire of the readers: who sees a state left sees it entered.
        let edge = of(of(&self.stripe(key).edges, from), to);
        edge.fetch_add(1, Ordering::Release);
    }

    /// One less, in `state`.
    pub(crate) fn gone(&self, key: u16, state: State) {
        let gone = of(&self.stripe(key).gone, state);
        gone.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn by_state(&self) -> StateCounts {
        let mut sums = [0_u64; STATES];
        for stripe in &self.stripes {
            let left = State::ALL.map(|state| stripe.left(state));
            let came = State::ALL.map(|state| stripe.came(state));
            for (sum, (came, left)) in sums.iter_mut().zip(came.into_iter().zip(left)) {
                *sum += came.saturating_sub(left);
            }
        }
        StateCounts::new(sums.map(|sum| usize::try_from(sum).unwrap_or(usize::MAX)))
    }

    /// How many there are, whatever their states.
    pub(crate) fn total(&self) -> usize {
        let in_stripe = |stripe: &Stripe| {
            let gone: u64 = stripe
                .gone
                .iter()
                .map(|gone| gone.load(Ordering::Acquire))
                .sum();
            stripe.made.load(Ordering::Relaxed).saturating_sub(gone)
        };
        let total: u64 = self.stripes.iter().map(in_stripe).sum();
        usize::try_from(total).unwrap_or(usize::MAX)
    }

    pub(crate) fn entered(&self) -> StateTotals {
        StateTotals::new(State::ALL.map(|state| {
            let in_stripe = |stripe: &Stripe| stripe.entered(state);
            self.stripes.iter().map(in_stripe).sum()
        }))
    }

    /// How often an edge was taken that is not the engine's.
    pub(crate) fn unexpected(&self) -> u64 {
        let mut sum = 0;
        for from in State::ALL {
            for to in State::ALL
                .into_iter()
                .filter(|to| !State::may_follow(from, *to))
            {
                let taken =
                    |stripe: &Stripe| of(of(&stripe.edges, from), to).load(Ordering::Relaxed);
                sum += self.stripes.iter().map(taken).sum::<u64>();
            }
        }
        sum
    }

    #[expect(clippy::indexing_slicing, reason = "masked to the number of stripes")]
    fn stripe(&self, key: u16) -> &Stripe {
        &self.stripes[usize::from(key) & (STRIPES - 1)]
    }
}

impl Stripe {
    fn new() -> Self {
        let zeroes = || [(); STATES].map(|()| AtomicU64::new(0));
        Self {
            made: AtomicU64::new(0),
            gone: zeroes(),
            edges: [(); STATES].map(|()| zeroes()),
        }
    }

    /// How many ever left a state, in whatever way.
    fn left(&self, state: State) -> u64 {
        let moved = of(&self.edges, state).iter();
        let moved: u64 = moved.map(|edge| edge.load(Ordering::Acquire)).sum();
        moved + of(&self.gone, state).load(Ordering::Acquire)
    }

    /// How many ever came into a state, in whatever way.
    fn came(&self, state: State) -> u64 {
        let entered = self.entered(state);
        if state == State::Initializing {
            entered + self.made.load(Ordering::Relaxed)
        } else {
            entered
        }
    }

    fn entered(&self, state: State) -> u64 {
        let into = |row: &[AtomicU64; STATES]| of(row, state).load(Ordering::Relaxed);
        self.edges.iter().map(into).sum()
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "a state's index is below the number of states"
)]
fn of<T>(by_state: &[T; STATES], state: State) -> &T {
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
        let mut model = loom::model::Builder::new();
        // Every look at a count is a branch, and all of them are looked at three times.
        model.max_branches = 10_000;
        model.check(|| {
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
