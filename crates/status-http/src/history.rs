//! The JSON document of a history: transitions, and the phases between them.

use serde::Serialize;
use utoipa::ToSchema;
use workspace_status::{Snapshot, State};

use crate::document::{StateName, rounded};
use crate::source::HistoryEntry;
use crate::time::Time;

/// A page of a workspace's history, oldest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = History)]
pub(crate) struct HistoryDocument<'a> {
    /// The workspace.
    pub(crate) workspace_id: &'a str,
    /// The transitions, oldest first.
    pub(crate) transitions: Vec<HistoryTransitionDocument<'a>>,
    /// The phases that these transitions ended and, on the last page, the one that lasts.
    pub(crate) phases: Vec<PhaseDocument>,
    /// How many transitions there ever were, also those that are kept no longer.
    pub(crate) transitions_total: u64,
    /// The cursor of the next page; null on the last.
    #[schema(required)]
    pub(crate) next_cursor: Option<String>,
}

/// A change of state, as a history shows it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HistoryTransition)]
pub(crate) struct HistoryTransitionDocument<'a> {
    /// Its number within the history, from 1.
    sequence: u64,
    /// The load it belongs to.
    epoch: u64,
    /// The node that owned the workspace then; null where none was named.
    #[schema(required)]
    owner: Option<&'a str>,
    /// The state that was left.
    #[schema(value_type = StateName)]
    from_state: State,
    /// The state that was entered.
    #[schema(value_type = StateName)]
    to_state: State,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Time,
    /// What was said of it.
    message: &'a str,
}

impl<'a> HistoryTransitionDocument<'a> {
    pub(crate) fn new(entry: &'a HistoryEntry) -> Self {
        Self {
            sequence: entry.sequence,
            epoch: entry.epoch.get(),
            owner: entry.owner.as_deref(),
            from_state: entry.from,
            to_state: entry.to,
            timestamp: Time(entry.at),
            message: &entry.message,
        }
    }
}

/// How long a workspace was in one state.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Phase)]
pub(crate) struct PhaseDocument {
    /// The state.
    #[schema(value_type = StateName)]
    state: State,
    /// When it was entered.
    #[schema(value_type = String, format = DateTime)]
    entered: Time,
    /// When it was left; null for the state that it is in.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    left: Option<Time>,
    /// How long it lasted, or has lasted so far, by a monotonic clock.
    duration_seconds: f64,
}

impl PhaseDocument {
    /// The phase that a transition ended; it began with the previous transition, if that is known.
    pub(crate) fn ended_by(entry: &HistoryEntry, before: Option<&HistoryEntry>) -> Self {
        let entered = match before {
            Some(before) => before.at,
            None => entry.at.checked_sub(entry.time_in_from).unwrap_or(entry.at),
        };
        Self {
            state: entry.from,
            entered: Time(entered),
            left: Some(Time(entry.at)),
            duration_seconds: rounded(entry.time_in_from.as_secs_f64(), 1000.0),
        }
    }

    /// The current phase.
    pub(crate) fn present(snapshot: &Snapshot) -> Self {
        Self {
            state: snapshot.state(),
            entered: Time(snapshot.state_entered()),
            left: None,
            duration_seconds: rounded(snapshot.time_in_current_state().as_secs_f64(), 1000.0),
        }
    }
}
