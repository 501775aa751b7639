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
    pub(crate) transitions: &'a [HistoryEntry],
    /// The phases that these transitions ended and, on the last page, the one that lasts.
    pub(crate) phases: Vec<PhaseDocument>,
    /// How many transitions there ever were, those no longer kept included.
    pub(crate) transitions_total: u64,
    /// The cursor of the next page; null on the last.
    #[schema(required)]
    pub(crate) next_cursor: Option<String>,
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
