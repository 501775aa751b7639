//! A workspace that is known but not in memory: why, and its last known state.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::id::{Epoch, WorkspaceId};
use crate::message::Message;
use crate::state::State;
use crate::value::Value;

/// Why a workspace is not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Absence {
    /// An operator unloaded it.
    Unloaded,
    /// It was saved and removed from memory to make room; it is loaded again on demand.
    Evicted,
    /// Another process owns it.
    OwnedElsewhere,
    /// Its owner lost it, and no other owner is known.
    OwnerLost,
    /// Its owner does not serve it yet.
    Opening,
}

impl Absence {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Absence::Unloaded => "unloaded",
            Absence::Evicted => "evicted",
            Absence::OwnedElsewhere => "owned elsewhere",
            Absence::OwnerLost => "owner lost",
            Absence::Opening => "opening",
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The last record of a workspace that is not in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastKnown {
    /// The last state other than `unloading`: what it was before it was unloaded.
    pub state: State,
    /// Time of the last record of that state: when the state was left if that was recorded,
    /// otherwise when it was entered.
    pub at: SystemTime,
    /// The load it belongs to.
    pub epoch: Epoch,
    /// Owner of the workspace at that time.
    pub owner: Option<Arc<str>>,
}

impl LastKnown {
    /// What the last recorded transition of a workspace shows.
    pub fn of_transition(
        (from, to): (State, State),
        at: SystemTime,
        epoch: Epoch,
        owner: Option<Arc<str>>,
    ) -> Self {
        let state = if to == State::Unloading { from } else { to };
        Self {
            state,
            at,
            epoch,
            owner,
        }
    }
}

/// The status of a workspace that is not in memory, for
/// [`Tracker::absent_snapshot`](crate::Tracker::absent_snapshot). Its state is `unknown`.
#[derive(Debug, Clone)]
pub struct AbsentStatus {
    /// The workspace.
    pub id: WorkspaceId,
    /// Why it is not in memory.
    pub reason: Absence,
    /// Message for the reader, with the way out.
    pub message: Message,
    /// Since when it has not been in memory, as far as known.
    pub since: SystemTime,
    /// Current owner, if known.
    pub owner: Option<Arc<str>>,
    /// Facts that hold whether or not it is in memory, such as its partition. An entry over a bound of
    /// metadata is left out.
    pub metadata: Vec<(&'static str, Value)>,
    /// Its last known state; `None` if nothing was recorded.
    pub last_known: Option<LastKnown>,
}

/// Parts of a snapshot that only a workspace out of memory has.
#[derive(Debug, Clone)]
pub(crate) struct AbsentFacts {
    pub(crate) reason: Absence,
    pub(crate) last_known: Option<LastKnown>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_known_state_is_the_one_before_it_was_unloaded() {
        let known = |from, to| {
            let at = SystemTime::UNIX_EPOCH;
            LastKnown::of_transition((from, to), at, Epoch::FIRST, None).state
        };
        assert_eq!(known(State::Ready, State::Unloading), State::Ready);
        assert_eq!(known(State::Error, State::Unloading), State::Error);
        assert_eq!(known(State::ReplayingEvents, State::Ready), State::Ready);
    }
}
