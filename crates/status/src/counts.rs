//! How many workspaces are in each state, kept at every change and never recounted.
//!
//! What is counted is how often each edge between two states was taken: one atomic step a
//! change says which state was left and which was entered. What is in a state is what came
//! into it less what left it.
//!
//! A reader reads the numbers twice. None of them ever falls, so two readings with the
//! same sum are the same, and show all workspaces as they stood at one moment. It tries so
//! [`READINGS`] times at most, because writers wait for nobody. If something moved beside
//! every one of them, it takes the one beside which least moved: no count is off by more
//! than that, none is below zero, and they still add up to how many workspaces there are.
//!
//! The numbers are not spread over stripes: every change takes the feed's next number too,
//! at which all changes meet, and here only those that take the same edge do.

use std::array;

use crate::state::{State, StateCounts, StateTotals};
use crate::sync::{AtomicU64, Ordering};

const STATES: usize = State::ALL.len();

/// How often a reader reads the numbers at most.
const READINGS: usize = if cfg!(loom) { 3 } else { 8 };

pub(crate) struct Counts {
    /// How many there are, in one word, for those who ask no more.
    present: AtomicU64,
    moves: Moves<STATES>,
}

impl Counts {
    pub(crate) fn new() -> Self {
        Self {
            present: AtomicU64::new(0),
            moves: Moves::new(),
        }
    }

    /// One more, in `initializing`.
    pub(crate) fn made(&self) {
        self.present.fetch_add(1, Ordering::Relaxed);
        self.moves.come(State::Initializing.index());
    }

    /// From one state to another.
    #[inline]
    pub(crate) fn move_on(&self, from: State, to: State) {
        self.moves.take(from.index(), to.index());
    }

    /// One less, in `state`.
    pub(crate) fn gone(&self, state: State) {
        self.moves.go(state.index());
        self.present.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn by_state(&self) -> StateCounts {
        let counts = self.moves.read_steady().standing();
        StateCounts::new(counts.map(|count| usize::try_from(count).unwrap_or(usize::MAX)))
    }

    /// How many there are, whatever their states.
    pub(crate) fn total(&self) -> usize {
        usize::try_from(self.present.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    pub(crate) fn entered(&self) -> StateTotals {
        StateTotals::new(self.moves.read().entered)
    }

    /// How often an edge was taken that is not the engine's.
    pub(crate) fn unexpected(&self) -> u64 {
        let mut sum = 0;
        for (from, row) in State::ALL.into_iter().zip(&self.moves.edges) {
            for (to, taken) in State::ALL.into_iter().zip(row) {
                if !State::may_follow(from, to) {
                    sum += taken.load(Ordering::Relaxed);
                }
            }
        }
        sum
    }
}

/// How often was moved between `N` states, and into and out of all of them.
#[repr(align(128))]
struct Moves<const N: usize> {
    /// By the state left, then by the state entered.
    edges: [[AtomicU64; N]; N],
    /// Out of all, by the state left.
    gone: [AtomicU64; N],
    /// Into all, by the state entered.
    come: [AtomicU64; N],
}

#[expect(
    clippy::indexing_slicing,
    reason = "a state's index is below the number of states"
)]
impl<const N: usize> Moves<N> {
    fn new() -> Self {
        let zeroes = || array::from_fn(|_| AtomicU64::new(0));
        Self {
            edges: array::from_fn(|_| zeroes()),
            gone: zeroes(),
            come: zeroes(),
        }
    }

    // Release, with the Acquire of a reading: who sees a move sees those before it, and so
    // does the next reading see all that are before any that this one saw.

    fn come(&self, to: usize) {
        self.come[to].fetch_add(1, Ordering::Release);
    }

    #[inline]
    fn take(&self, from: usize, to: usize) {
        self.edges[from][to].fetch_add(1, Ordering::Release);
    }

    fn go(&self, from: usize) {
        self.gone[from].fetch_add(1, Ordering::Release);
    }

    /// All numbers, each read once.
    #[inline]
    fn read(&self) -> Reading<N> {
        let read = |number: &AtomicU64| number.load(Ordering::Acquire);
        // Who goes has come: the other way round more could have gone than came.
        let gone: [u64; N] = array::from_fn(|from| read(&self.gone[from]));
        let mut entered = [0; N];
        let left = array::from_fn(|from| {
            let row: [u64; N] = array::from_fn(|to| read(&self.edges[from][to]));
            for (sum, taken) in entered.iter_mut().zip(row) {
                *sum += taken;
            }
            gone[from] + row.iter().sum::<u64>()
        });
        let come = array::from_fn(|to| read(&self.come[to]));
        Reading {
            left,
            entered,
            come,
        }
    }

    /// The sum of a reading of its own.
    #[inline]
    fn sum(&self) -> u64 {
        let rows = self.edges.iter().chain([&self.gone, &self.come]);
        let read = |row: &[AtomicU64; N]| {
            row.iter()
                .map(|number| number.load(Ordering::Acquire))
                .sum::<u64>()
        };
        rows.map(read).sum()
    }

    /// All numbers as they were at one moment, or what comes nearest to that.
    #[inline]
    fn read_steady(&self) -> Reading<N> {
        let reading = self.read();
        if self.sum() == reading.sum() {
            return reading;
        }
        self.read_least_moved()
    }

    #[cold]
    fn read_least_moved(&self) -> Reading<N> {
        let mut before = self.read();
        let mut best = before;
        let mut least = u64::MAX;
        for _ in 1..READINGS {
            let reading = self.read();
            // What moved beside this reading was not seen by the one before.
            let moved = reading.sum().wrapping_sub(before.sum());
            if moved < least {
                least = moved;
                best = reading;
            }
            if moved == 0 {
                break;
            }
            before = reading;
        }
        best
    }
}

/// What a reader found in [`Moves`], by state.
#[derive(Clone, Copy)]
struct Reading<const N: usize> {
    /// For another state, or for good.
    left: [u64; N],
    /// From another state.
    entered: [u64; N],
    /// From nowhere.
    come: [u64; N],
}

impl<const N: usize> Reading<N> {
    #[inline]
    fn sum(&self) -> u64 {
        self.left.iter().chain(&self.come).sum()
    }

    /// How many are in each state; together as many as came and did not go.
    fn standing(&self) -> [u64; N] {
        let mut counts = [0; N];
        let mut excess = 0;
        let came = self.entered.iter().zip(&self.come);
        for (count, ((entered, come), left)) in counts.iter_mut().zip(came.zip(&self.left)) {
            *count = (entered + come).saturating_sub(*left);
            excess += left.saturating_sub(entered + come);
        }
        // A move out of a state was seen, and the one into it was not: who made them is
        // counted twice.
        while excess > 0
            && let Some(most) = counts.iter_mut().max()
            && *most > 0
        {
            let taken = excess.min(*most);
            *most -= taken;
            excess -= taken;
        }
        counts
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_was_held_up_in_the_middle_counts_nobody_twice() {
        // Two of three workspaces rest in the first state. The third entered the second one
        // and then went to and fro 500 times, of which a reader saw one direction alone.
        let check = |left, entered, expected| {
            let torn = Reading {
                left,
                entered,
                come: [3, 0, 0],
            };
            assert_eq!(torn.standing(), expected);
        };
        check([1, 500, 500], [0, 501, 500], [2, 1, 0]);
        check([1, 500, 0], [0, 1, 500], [2, 0, 1]);
        check([1, 0, 500], [0, 501, 0], [2, 1, 0]);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::sync::Mutex;

    fn check(model: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        // Every look at a number is a branch.
        builder.max_branches = 10_000;
        builder.check(model);
    }

    impl Reading<2> {
        /// Without what makes up for a torn reading.
        fn signed(&self) -> [i64; 2] {
            let came = |n: usize| self.entered[n] + self.come[n];
            [0, 1].map(|n| came(n).cast_signed() - self.left[n].cast_signed())
        }
    }

    #[test]
    fn loom_two_readings_with_one_sum_show_one_moment() {
        check(|| {
            let moves = Arc::new(Moves::<2>::new());
            moves.come(0);
            let other = Arc::clone(&moves);
            let mover = thread::spawn(move || {
                other.take(0, 1);
                other.take(1, 0);
            });
            let (first, second) = (moves.read(), moves.read());
            if first.sum() == second.sum() {
                assert!([[1, 0], [0, 1]].contains(&first.signed()));
                assert_eq!(first.signed(), second.signed());
            }
            mover.join().unwrap();
            assert_eq!(moves.read().signed(), [1, 0]);
        });
    }

    #[test]
    fn loom_one_moment_is_shown_of_a_workspace_that_threads_move_in_turn() {
        check(|| {
            let moves = Arc::new(Moves::<2>::new());
            moves.come(0);
            let state = Arc::new(Mutex::new(0_usize));
            let movers = [(); 2].map(|()| {
                let (moves, state) = (Arc::clone(&moves), Arc::clone(&state));
                thread::spawn(move || {
                    let mut state = state.lock();
                    moves.take(*state, 1 - *state);
                    *state = 1 - *state;
                })
            });
            let (first, sum) = (moves.read(), moves.sum());
            if first.sum() == sum {
                assert!([[1, 0], [0, 1]].contains(&first.signed()));
            }
            for mover in movers {
                mover.join().unwrap();
            }
        });
    }

    #[test]
    fn loom_beside_two_moves_every_workspace_is_counted_once() {
        check(|| {
            let moves = Arc::new(Moves::<2>::new());
            moves.come(0);
            moves.come(0);
            let other = Arc::clone(&moves);
            let mover = thread::spawn(move || {
                other.take(0, 1);
                other.take(1, 0);
                other.go(0);
            });
            let [first, second] = moves.read_steady().standing();
            assert!(second <= 1 && (1..=2).contains(&(first + second)));
            mover.join().unwrap();
            assert_eq!(moves.read_steady().standing(), [1, 0]);
        });
    }
}
