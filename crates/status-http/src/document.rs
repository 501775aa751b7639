//! The JSON documents of statuses, and with them the schemas of the `OpenAPI` document.
//!
//! A document borrows from its snapshot and is serialised directly into the bytes of the answer. Every
//! member is always present: one without a value is null. Instants are RFC 3339 in UTC with milliseconds.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use workspace_status::{
    Absence, ErrorInfo, ErrorKind, LastKnown, Metadata, ProgressReport, Snapshot, State,
    StateCounts, Transition,
};

use crate::time::{Elapsed, Time};

/// Number of transitions that a status shows; the history has all of them.
pub(crate) const RECENT_TRANSITIONS: usize = 5;

/// A state on the wire.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = State)]
#[serde(rename_all = "snake_case")]
#[expect(
    dead_code,
    reason = "describes workspace_status::State in the schema alone"
)]
pub(crate) enum StateName {
    Unknown,
    Initializing,
    LoadingFromPersistence,
    LoadingKafkaPartitions,
    ReplayingEvents,
    PopulatingInitialState,
    RestoringFromSnapshot,
    Ready,
    Error,
    Unloading,
}

// Public only for its schema, for a service's own routes that also answer with it.
/// The status of a workspace.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Status)]
pub struct StatusDocument<'a> {
    /// The workspace.
    pub(crate) workspace_id: &'a str,
    /// The state it is in; `unknown` where it is not in memory on this node.
    #[schema(value_type = StateName)]
    pub(crate) state: State,
    /// False in `error` and `unknown`, true in all other states.
    pub(crate) healthy: bool,
    /// Its latest message.
    pub(crate) message: &'a str,
    /// When it entered its state.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub(crate) state_entered: Option<Time>,
    /// When anything about it last changed.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub(crate) last_updated: Option<Time>,
    /// How long it has been in its state: hours, minutes and whole seconds.
    #[schema(required, value_type = Option<String>, example = "5m30s")]
    pub(crate) time_in_state: Option<Elapsed>,
    /// The error, in state `error`; else null.
    #[schema(required)]
    pub(crate) error_message: Option<&'a str>,
    /// More about the error, in state `error`; else null.
    #[schema(required)]
    pub(crate) error: Option<ErrorDocument>,
    /// How far the phase is that reported last, which may be over: compare its phase with state.
    /// Null if none has reported in this load.
    #[schema(required)]
    pub(crate) progress: Option<ProgressDocument>,
    /// Facts that the owner of the workspace adds: at most 64, each a JSON scalar.
    #[schema(value_type = std::collections::BTreeMap<String, Scalar>)]
    pub(crate) metadata: &'a Metadata,
    /// The last 5 transitions, oldest first.
    #[serde(serialize_with = "transitions")]
    #[schema(value_type = Vec<TransitionDocument>)]
    pub(crate) recent_history: Vec<Transition>,
    /// The number of the load; grows with every load and never falls. Null where unknown.
    #[schema(required)]
    pub(crate) epoch: Option<u64>,
    /// The node that holds the workspace; null where none is named.
    #[schema(required)]
    pub(crate) owner: Option<&'a str>,
    /// When this was true, by the clock of the node that answers.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) observed_at: Time,
    /// When the progress last moved; null before it does.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub(crate) last_progress_at: Option<Time>,
    /// Why the workspace is not in memory; null where it is, or where this node knows nothing of it.
    #[schema(required, value_type = Option<AbsenceName>)]
    pub(crate) reason: Option<&'static str>,
    /// What was last known of a workspace that is not in memory; null where it is, or where nothing was
    /// recorded.
    #[schema(required)]
    pub(crate) last_known: Option<LastKnownDocument<'a>>,
    /// Only in the answer to a wait: whether its time was over before its condition was met.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) timed_out: Option<bool>,
}

impl std::fmt::Debug for StatusDocument<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("StatusDocument")
            .field("workspace_id", &self.workspace_id)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl<'a> StatusDocument<'a> {
    /// The document of a snapshot.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let observed_at = snapshot.observed_at();
        Self {
            workspace_id: snapshot.workspace_id(),
            state: snapshot.state(),
            healthy: snapshot.is_healthy(),
            message: snapshot.message(),
            state_entered: Some(Time(snapshot.state_entered())),
            last_updated: Some(Time(snapshot.last_updated())),
            time_in_state: Some(Elapsed(snapshot.time_in_current_state())),
            error_message: snapshot.error_message(),
            error: snapshot.error().map(ErrorDocument::new),
            progress: snapshot
                .progress()
                .map(|report| ProgressDocument::new(&report, observed_at)),
            metadata: snapshot.metadata(),
            recent_history: snapshot.recent_history(RECENT_TRANSITIONS),
            epoch: Some(snapshot.epoch().get()).filter(|epoch| *epoch > 0),
            owner: snapshot.owner(),
            observed_at: Time(observed_at),
            last_progress_at: snapshot.last_progress_at().map(Time),
            reason: snapshot.absence().map(Absence::as_str),
            last_known: snapshot.last_known().map(LastKnownDocument::new),
            timed_out: None,
        }
    }

    /// The document of a workspace of which this node knows nothing, or only what `message` says.
    pub(crate) fn unknown(
        id: &'a str,
        message: &'a str,
        observed_at: std::time::SystemTime,
    ) -> Self {
        Self {
            workspace_id: id,
            state: State::Unknown,
            healthy: false,
            message,
            state_entered: None,
            last_updated: None,
            time_in_state: None,
            error_message: None,
            error: None,
            progress: None,
            metadata: Metadata::EMPTY,
            recent_history: Vec::new(),
            epoch: None,
            owner: None,
            observed_at: Time(observed_at),
            last_progress_at: None,
            reason: None,
            last_known: None,
            timed_out: None,
        }
    }

    pub(crate) fn timed_out(mut self, timed_out: bool) -> Self {
        self.timed_out = Some(timed_out);
        self
    }
}

/// A fact: a string, a number or a truth value.
#[derive(ToSchema)]
#[schema(as = Scalar)]
#[serde(untagged)]
#[expect(
    dead_code,
    reason = "describes workspace_status::Value in the schema alone"
)]
pub(crate) enum Scalar {
    Text(String),
    Integer(i64),
    Number(f64),
    Truth(bool),
}

fn transitions<S: Serializer>(list: &[Transition], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(TransitionDocument::new))
}

/// A change of state, as a status shows it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Transition)]
pub(crate) struct TransitionDocument<'a> {
    /// The state that was left.
    #[schema(value_type = StateName)]
    pub(crate) from_state: State,
    /// The state that was entered.
    #[schema(value_type = StateName)]
    pub(crate) to_state: State,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) timestamp: Time,
    /// The message of the transition.
    pub(crate) message: &'a str,
}

impl<'a> TransitionDocument<'a> {
    fn new(transition: &'a Transition) -> Self {
        Self {
            from_state: transition.from_state(),
            to_state: transition.to_state(),
            timestamp: Time(transition.timestamp()),
            message: transition.message(),
        }
    }
}

/// Why a workspace is not in memory.
#[derive(Serialize, ToSchema)]
#[schema(as = Absence)]
#[expect(
    dead_code,
    reason = "describes workspace_status::Absence in the schema alone"
)]
pub(crate) enum AbsenceName {
    #[serde(rename = "unloaded")]
    Unloaded,
    #[serde(rename = "evicted")]
    Evicted,
    #[serde(rename = "owned elsewhere")]
    OwnedElsewhere,
    #[serde(rename = "owner lost")]
    OwnerLost,
    #[serde(rename = "opening")]
    Opening,
}

/// The last record of a workspace that is not in memory.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = LastKnown)]
pub(crate) struct LastKnownDocument<'a> {
    /// The last state other than `unloading`.
    #[schema(value_type = StateName)]
    pub(crate) state: State,
    /// The time of the last record of that state.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) at: Time,
    /// The number of the load.
    pub(crate) epoch: u64,
    /// The node that held the workspace; null where none is named.
    #[schema(required)]
    pub(crate) owner: Option<&'a str>,
}

impl<'a> LastKnownDocument<'a> {
    fn new(known: &'a LastKnown) -> Self {
        Self {
            state: known.state,
            at: Time(known.at),
            epoch: known.epoch.get(),
            owner: known.owner.as_deref(),
        }
    }
}

/// More about an error.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StatusError)]
pub(crate) struct ErrorDocument {
    /// `retrying` continues by itself, `parked` needs an operator.
    pub(crate) kind: ErrorKindName,
    /// Which attempt failed, from 1; null for one that is parked.
    #[schema(required)]
    pub(crate) attempt: Option<u32>,
    /// When it is tried again; null for one that is parked.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub(crate) next_retry_at: Option<Time>,
    /// When it failed.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) at: Time,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = StatusErrorKind)]
pub(crate) enum ErrorKindName {
    Retrying,
    Parked,
}

impl ErrorDocument {
    fn new(error: &ErrorInfo) -> Self {
        let (kind, attempt, next_retry_at) = match error.kind() {
            ErrorKind::Retrying {
                attempt,
                next_retry_at,
            } => (
                ErrorKindName::Retrying,
                Some(attempt),
                Some(Time(next_retry_at)),
            ),
            ErrorKind::Parked => (ErrorKindName::Parked, None, None),
        };
        Self {
            kind,
            attempt,
            next_retry_at,
            at: Time(error.at()),
        }
    }
}

/// How far a phase is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Progress)]
pub(crate) struct ProgressDocument {
    /// The state that is measured.
    #[schema(value_type = StateName)]
    pub(crate) phase: State,
    /// How many units are done.
    pub(crate) done: u64,
    /// How many there are to do; null where that is not known.
    #[schema(required)]
    pub(crate) total: Option<u64>,
    /// What is counted.
    #[schema(example = "events")]
    pub(crate) unit: &'static str,
    /// From 0 to 100, which is not reached before done is total; null without a total.
    #[schema(required)]
    pub(crate) percent: Option<f64>,
    /// Units a second, the mean over the phase; null until it is measured.
    #[schema(required)]
    pub(crate) rate_per_second: Option<f64>,
    /// When the phase will be done; null until there is confidence in it.
    #[schema(required)]
    pub(crate) eta: Option<EtaDocument>,
}

/// Between which instants a phase will be done.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Eta)]
pub(crate) struct EtaDocument {
    /// The instant before which it will hardly be done.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) low: Time,
    /// The instant by which it should be done.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) high: Time,
    /// What the estimate rests on.
    #[schema(example = "rate")]
    pub(crate) basis: &'static str,
}

impl ProgressDocument {
    fn new(report: &ProgressReport, observed_at: std::time::SystemTime) -> Self {
        // An instant outside the clock's range counts as no estimate.
        let eta = report.eta().and_then(|eta| {
            Some(EtaDocument {
                low: Time(observed_at.checked_add(eta.low)?),
                high: Time(observed_at.checked_add(eta.high)?),
                basis: eta.basis.as_str(),
            })
        });
        Self {
            phase: report.phase(),
            done: report.done(),
            total: report.total(),
            unit: report.unit().as_str(),
            percent: report.total().map(|total| percent(report.done(), total)),
            rate_per_second: report.rate_per_second().map(|rate| rounded(rate, 10.0)),
            eta,
        }
    }
}

/// The percentage that is done, with two digits. An unfinished phase never rounds up to 100.
fn percent(done: u64, total: u64) -> f64 {
    const HUNDRED: u128 = 10_000;
    let done = u128::from(done.min(total)) * HUNDRED;
    let hundredths = done.checked_div(u128::from(total)).unwrap_or(HUNDRED);
    u32::try_from(hundredths).map_or(100.0, |hundredths| f64::from(hundredths) / 100.0)
}

/// A measurement without its insignificant digits.
pub(crate) fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// A page of statuses.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Statuses)]
pub(crate) struct StatusesDocument<'a> {
    /// The statuses that the filters select, ordered by id bytewise.
    #[serde(serialize_with = "statuses")]
    #[schema(value_type = Vec<StatusDocument>)]
    pub(crate) workspaces: &'a [Snapshot],
    /// How many workspaces there are in all, whatever the filters select: the sum of stateCounts.
    pub(crate) total_count: usize,
    /// How many workspaces are in each of the ten states, whatever the filters select.
    #[serde(serialize_with = "counts")]
    #[schema(value_type = std::collections::BTreeMap<String, u64>)]
    pub(crate) state_counts: StateCounts,
    /// The cursor of the next page; null on the last.
    #[schema(required)]
    pub(crate) next_cursor: Option<String>,
}

fn statuses<S: Serializer>(list: &[Snapshot], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(StatusDocument::new))
}

fn counts<S: Serializer>(counts: &StateCounts, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(counts.iter())
}

/// Whether a workspace is ready.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Ready)]
pub(crate) struct ReadyDocument<'a> {
    /// The workspace.
    pub(crate) workspace_id: &'a str,
    /// The state it is in; `unknown` where it is not in memory on this node.
    #[schema(value_type = StateName)]
    pub(crate) state: State,
    /// Whether it is in state `ready`.
    pub(crate) ready: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_100_only_when_all_is_done() {
        for (done, total, expected) in [
            (0, 3, 0.0),
            (1, 3, 33.33),
            (2, 3, 66.66),
            (29, 100, 29.0),
            (999_960, 1_000_000, 99.99),
            (u64::MAX - 2, u64::MAX - 1, 99.99),
            (1_000_000, 1_000_000, 100.0),
            (7, 5, 100.0),
            (0, 0, 100.0),
        ] {
            let shown = percent(done, total);
            assert!(
                (shown - expected).abs() < f64::EPSILON,
                "{done} of {total}: {shown}"
            );
        }
    }
}
