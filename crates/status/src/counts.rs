//! How many workspaces are in each state, updated at every change and never recounted.
//!
//! Each edge between two states has a counter of how often it was taken. One atomic add per
//! change records both the state left and the state entered. The number of workspaces in a
//! state is the number that entered it minus the number that left it.
//!
//! A reader reads the counters twice. No counter ever decreases, so two readings with the
//! same sum are equal, and show all workspaces at one moment. If they differ, the reader
//! makes at most [`READINGS`] more, because writers do not wait for it. If changes happened
//! during each of them, it uses the reading with the fewest changes: no count is off by more
//! than that number, none is below zero, and the sum is still the number of workspaces.
//!
//! The counters are not striped: every change also takes the feed's next number, where all
//! changes contend. Here only changes that take the same edge contend.

use std::array;

use crate::state::{State, StateCounts, StateTotals};
use crate::sync::{AtomicU64, Ordering};

const STATES: usize = State::ALL.len();

/// Maximum of readings after the first two differed.
const READINGS: usize = if cfg!(loom) { 3 } else { 8 };

pub(crate) struct Counts {
    /// Number of workspaces, in one word, for readers that need only that.
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

    /// Counts one more, in `initializing`.
    pub(crate) fn add(&self) {
        self.present.fetch_add(1, Ordering::Relaxed);
        self.moves.create(State::Initializing.index());
    }

    /// Counts a move from one state to another.
    #[inline]
    pub(crate) fn move_on(&self, from: State, to: State) {
        self.moves.take(from.index(), to.index());
    }

    /// Counts one less, in `state`.
    pub(crate) fn removed(&self, state: State) {
        self.moves.remove(state.index());
        self.present.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn by_state(&self) -> StateCounts {
        let counts = self.moves.read_steady().current();
        StateCounts::new(counts.map(|count| usize::try_from(count).unwrap_or(usize::MAX)))
    }

    /// Number of workspaces in all states.
    pub(crate) fn total(&self) -> usize {
        usize::try_from(self.present.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    pub(crate) fn entered(&self) -> StateTotals {
        StateTotals::new(self.moves.read().entered)
    }

    /// How often an edge outside the engine's table was taken.
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

/// Counters of moves between `N` states, of creations and of removals.
#[repr(align(128))]
struct Moves<const N: usize> {
    /// By the state left, then by the state entered.
    edges: [[AtomicU64; N]; N],
    /// Removals, by the state left.
    removed: [AtomicU64; N],
    /// Creations, by the state entered.
    created: [AtomicU64; N],
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
            removed: zeroes(),
            created: zeroes(),
        }
    }

    // Release, paired with the Acquire of a reading: a reader that sees a move sees all moves
    // before it. So the next reading sees all moves before any that this one saw.

    fn create(&self, to: usize) {
        self.created[to].fetch_add(1, Ordering::Release);
    }

    #[inline]
    fn take(&self, from: usize, to: usize) {
        self.edges[from][to].fetch_add(1, Ordering::Release);
    }

    fn remove(&self, from: usize) {
        self.removed[from].fetch_add(1, Ordering::Release);
    }

    /// All numbers, each read once.
    #[inline]
    fn read(&self) -> Reading<N> {
        let read = |number: &AtomicU64| number.load(Ordering::Acquire);
        // Removals first: read after the creations, they could outnumber them.
        let removed: [u64; N] = array::from_fn(|from| read(&self.removed[from]));
        let mut entered = [0; N];
        let left = array::from_fn(|from| {
            let row: [u64; N] = array::from_fn(|to| read(&self.edges[from][to]));
            for (sum, taken) in entered.iter_mut().zip(row) {
                *sum += taken;
            }
            removed[from] + row.iter().sum::<u64>()
        });
        let created = array::from_fn(|to| read(&self.created[to]));
        Reading {
            left,
            entered,
            created,
        }
    }

    /// The sum of a new reading.
    #[inline]
    fn sum(&self) -> u64 {
        let rows = self.edges.iter().chain([&self.removed, &self.created]);
        let read = |row: &[AtomicU64; N]| {
            row.iter()
                .map(|number| number.load(Ordering::Acquire))
                .sum::<u64>()
        };
        rows.map(read).sum()
    }

    /// All numbers at one moment, or the reading closest to that.
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
            // Moves during this reading are those that the previous reading did not see.
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
    /// Left for another state, or removed.
    left: [u64; N],
    /// Entered from another state.
    entered: [u64; N],
    /// Created.
    created: [u64; N],
}

impl<const N: usize> Reading<N> {
    #[inline]
    fn sum(&self) -> u64 {
        self.left.iter().chain(&self.created).sum()
    }

    /// Number of workspaces in each state. The sum is creations minus removals.
    fn current(&self) -> [u64; N] {
        let mut counts = [0; N];
        let mut excess = 0;
        let created = self.entered.iter().zip(&self.created);
        for (count, ((entered, created), left)) in counts.iter_mut().zip(created.zip(&self.left)) {
            *count = (entered + created).saturating_sub(*left);
            excess += left.saturating_sub(entered + created);
        }
        // The reader saw a move out of a state but not the move into it: that workspace is
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
    fn a_reader_that_was_held_up_in_the_middle_counts_none_twice() {
        // Two of three workspaces stay in the first state. The third entered the second state
        // and then moved back and forth 500 times; the reader saw one direction only.
        let check = |left, entered, expected| {
            let torn = Reading {
                left,
                entered,
                created: [3, 0, 0],
            };
            assert_eq!(torn.current(), expected);
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
        // Every read of a counter is a branch.
        builder.max_branches = 10_000;
        builder.check(model);
    }

    impl Reading<2> {
        /// Counts without the correction of torn readings.
        fn signed(&self) -> [i64; 2] {
            let created = |n: usize| self.entered[n] + self.created[n];
            [0, 1].map(|n| created(n).cast_signed() - self.left[n].cast_signed())
        }
    }

    #[test]
    fn loom_two_readings_with_one_sum_show_one_moment() {
        check(|| {
            let moves = Arc::new(Moves::<2>::new());
            moves.create(0);
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
            moves.create(0);
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
            moves.create(0);
            moves.create(0);
            let other = Arc::clone(&moves);
            let mover = thread::spawn(move || {
                other.take(0, 1);
                other.take(1, 0);
                other.remove(0);
            });
            let [first, second] = moves.read_steady().current();
            assert!(second <= 1 && (1..=2).contains(&(first + second)));
            mover.join().unwrap();
            assert_eq!(moves.read_steady().current(), [1, 0]);
        });
    }
}
