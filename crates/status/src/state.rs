//! The states of a workspace, which of them follow which, and tables by state.

use std::fmt;
use std::ops::Index;
use std::str::FromStr;

/// What a workspace is doing.
///
/// The engine's path; a state with nothing to do is passed through:
///
/// ```text
/// initializing → loading_kafka_partitions → loading_from_persistence
///     → restoring_from_snapshot | populating_initial_state → replaying_events → ready
/// any → error → initializing        any → unloading → removed
/// ```
///
/// A service with its own order may take any path; see [`State::may_follow`].
///
/// ```
/// use workspace_status::State;
///
/// assert_eq!(State::ReplayingEvents.to_string(), "replaying_events");
/// assert_eq!("ready".parse(), Ok(State::Ready));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[repr(u8)]
pub enum State {
    /// Not known on this node: no such workspace, or it is not in memory here.
    Unknown,
    /// A load has begun; every status starts here.
    Initializing,
    /// Reading from the store.
    LoadingFromPersistence,
    /// Waiting for the assignment of its partition and for a permit to load.
    LoadingKafkaPartitions,
    /// Applying the events between what the store holds and the target.
    ReplayingEvents,
    /// Populating a workspace of which the store holds nothing.
    PopulatingInitialState,
    /// Rebuilding memory from the stored data.
    RestoringFromSnapshot,
    /// The target is reached, and it answers reads.
    Ready,
    /// It failed; the error says whether it is retried or parked.
    Error,
    /// Being removed from this process.
    Unloading,
}

impl State {
    /// All states, in the order of every table.
    pub const ALL: [State; 10] = [
        State::Unknown,
        State::Initializing,
        State::LoadingFromPersistence,
        State::LoadingKafkaPartitions,
        State::ReplayingEvents,
        State::PopulatingInitialState,
        State::RestoringFromSnapshot,
        State::Ready,
        State::Error,
        State::Unloading,
    ];

    /// The name on the wire, `snake_case`.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Initializing => "initializing",
            State::LoadingFromPersistence => "loading_from_persistence",
            State::LoadingKafkaPartitions => "loading_kafka_partitions",
            State::ReplayingEvents => "replaying_events",
            State::PopulatingInitialState => "populating_initial_state",
            State::RestoringFromSnapshot => "restoring_from_snapshot",
            State::Ready => "ready",
            State::Error => "error",
            State::Unloading => "unloading",
        }
    }

    /// Its index in [`State::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether no load or unload is under way in it: `ready` and `error`.
    pub const fn is_settled(self) -> bool {
        matches!(self, State::Ready | State::Error)
    }

    /// Whether nothing is known to be wrong in it: all but `error` and `unknown`.
    pub const fn is_healthy(self) -> bool {
        !matches!(self, State::Error | State::Unknown)
    }

    /// Whether `from` to `to` is an edge of the engine's path. Other edges are accepted too, and
    /// counted by [`Tracker::unexpected_transitions`](crate::Tracker::unexpected_transitions).
    /// Staying in a state is not an edge.
    pub const fn may_follow(from: State, to: State) -> bool {
        use State::{
            Error, Initializing, LoadingFromPersistence, LoadingKafkaPartitions,
            PopulatingInitialState, Ready, ReplayingEvents, RestoringFromSnapshot, Unknown,
            Unloading,
        };
        match to {
            Unknown => false,
            // From `unloading`: it is assigned again before it was removed.
            Initializing => matches!(from, Unknown | Error | Unloading),
            LoadingKafkaPartitions => matches!(from, Initializing),
            LoadingFromPersistence => matches!(from, LoadingKafkaPartitions),
            RestoringFromSnapshot | PopulatingInitialState => {
                matches!(from, LoadingFromPersistence)
            }
            ReplayingEvents => matches!(from, RestoringFromSnapshot | PopulatingInitialState),
            Ready => matches!(from, ReplayingEvents),
            Error => !matches!(from, Error),
            Unloading => !matches!(from, Unloading),
        }
    }

    /// The state at an index of [`State::ALL`]; for numbers from [`State::index`].
    pub(crate) fn from_index(index: u8) -> State {
        State::ALL
            .get(usize::from(index))
            .copied()
            .unwrap_or(State::Unknown)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        State::ALL
            .into_iter()
            .find(|state| state.as_str() == name)
            .ok_or_else(|| UnknownState {
                name: name.chars().take(64).collect(),
            })
    }
}

/// A name that is not the name of a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown state {name:?}, expected one of: {}", State::ALL.map(State::as_str).join(", "))]
pub struct UnknownState {
    name: String,
}

impl UnknownState {
    /// What was given, its first 64 characters.
    pub fn name(&self) -> &str {
        &self.name
    }
}

macro_rules! table_by_state {
    ($(#[$doc:meta])* $name:ident, $number:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name([$number; State::ALL.len()]);

        impl $name {
            pub(crate) fn new(by_index: [$number; State::ALL.len()]) -> Self {
                Self(by_index)
            }

            /// Every state with its number, in the order of [`State::ALL`].
            pub fn iter(&self) -> impl ExactSizeIterator<Item = (State, $number)> + use<> {
                let numbers = self.0;
                State::ALL.into_iter().enumerate().map(move |(index, state)| {
                    (state, numbers.get(index).copied().unwrap_or_default())
                })
            }

            /// The sum over all states.
            pub fn total(&self) -> $number {
                self.0.iter().sum()
            }
        }

        impl Index<State> for $name {
            type Output = $number;

            #[expect(
                clippy::indexing_slicing,
                reason = "a state's index is below the number of states"
            )]
            fn index(&self, state: State) -> &$number {
                &self.0[state.index()]
            }
        }
    };
}

table_by_state! {
    /// How many workspaces are in each state.
    ///
    /// ```
    /// use workspace_status::{State, Tracker};
    ///
    /// let tracker = Tracker::new();
    /// tracker.get_or_create("a").set_state(State::Ready, "ok");
    /// let counts = tracker.count_by_state();
    /// assert_eq!(counts[State::Ready], 1);
    /// assert_eq!(counts.total(), 1);
    /// ```
    StateCounts, usize
}

table_by_state! {
    /// How often each state was entered since the tracker was created.
    StateTotals, u64
}

impl StateCounts {
    /// The same counts with `more` added to one state.
    #[must_use]
    pub fn plus(mut self, state: State, more: usize) -> Self {
        if let Some(count) = self.0.get_mut(state.index()) {
            *count = count.saturating_add(more);
        }
        self
    }
}

/// A set of states.
///
/// ```
/// use workspace_status::{State, StateSet};
///
/// let over: StateSet = [State::Ready, State::Error].into_iter().collect();
/// assert!(over.contains(State::Error) && !over.contains(State::Unknown));
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct StateSet(u16);

impl StateSet {
    /// No state.
    pub const EMPTY: StateSet = StateSet(0);

    /// Whether `state` is in it.
    pub const fn contains(self, state: State) -> bool {
        self.0 & (1 << state.index()) != 0
    }

    /// Whether no state is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// This set and `state`.
    #[must_use]
    pub const fn with(self, state: State) -> StateSet {
        StateSet(self.0 | 1 << state.index())
    }

    /// Its states, in the order of [`State::ALL`].
    pub fn iter(self) -> impl Iterator<Item = State> {
        State::ALL
            .into_iter()
            .filter(move |state| self.contains(*state))
    }
}

impl fmt::Debug for StateSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl From<State> for StateSet {
    fn from(state: State) -> Self {
        StateSet::EMPTY.with(state)
    }
}

impl FromIterator<State> for StateSet {
    fn from_iter<I: IntoIterator<Item = State>>(states: I) -> Self {
        states.into_iter().fold(StateSet::EMPTY, StateSet::with)
    }
}

impl Extend<State> for StateSet {
    fn extend<I: IntoIterator<Item = State>>(&mut self, states: I) {
        *self = states.into_iter().fold(*self, StateSet::with);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_name_and_its_place() {
        let names: Vec<_> = State::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(
            names.join(" "),
            "unknown initializing loading_from_persistence loading_kafka_partitions \
             replaying_events populating_initial_state restoring_from_snapshot ready error \
             unloading"
        );
        for (index, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state.index(), index);
            assert_eq!(State::from_index(state as u8), state);
            assert_eq!(state.as_str().parse(), Ok(state));
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = "Ready".parse::<State>().unwrap_err();
        assert_eq!(error.name(), "Ready");
        assert!(error.to_string().starts_with("unknown state \"Ready\""));
        for state in State::ALL {
            assert!(error.to_string().contains(state.as_str()));
        }
    }

    #[test]
    fn the_engines_ways_are_expected_and_shortcuts_are_not() {
        let restored = [
            State::Unknown,
            State::Initializing,
            State::LoadingKafkaPartitions,
            State::LoadingFromPersistence,
            State::RestoringFromSnapshot,
            State::ReplayingEvents,
            State::Ready,
            State::Error,
            State::Initializing,
        ];
        for pair in restored.windows(2) {
            assert!(State::may_follow(pair[0], pair[1]), "{pair:?}");
        }
        assert!(!State::may_follow(State::Initializing, State::Ready));
        assert!(!State::may_follow(State::Ready, State::Initializing));
        for state in State::ALL {
            assert!(!State::may_follow(state, state));
            assert_eq!(
                State::may_follow(state, State::Unloading),
                state != State::Unloading
            );
        }
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut set = StateSet::from(State::Ready);
        set.extend([State::Unknown, State::Unloading]);
        let held: Vec<_> = set.iter().collect();
        assert_eq!(held, [State::Unknown, State::Ready, State::Unloading]);
        assert!(StateSet::EMPTY.is_empty() && !set.is_empty());
        assert_eq!(format!("{:?}", StateSet::from(State::Error)), "{Error}");
    }
}
