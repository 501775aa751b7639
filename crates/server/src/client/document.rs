//! The engine's documents as the commands read them: only the members that they show, so that documents of a
//! newer engine with more members can be read.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{collections::BTreeMap, time::Duration};

/// A workspace's status.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) workspace_id: String,
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) healthy: bool,
    #[serde(default)]
    pub(crate) message: String,
    pub(crate) state_entered: Option<Timestamp>,
    pub(crate) last_updated: Option<Timestamp>,
    pub(crate) time_in_state: Option<String>,
    pub(crate) error_message: Option<String>,
    pub(crate) error: Option<StatusError>,
    pub(crate) progress: Option<Progress>,
    #[serde(default)]
    pub(crate) metadata: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    pub(crate) recent_history: Vec<Transition>,
    pub(crate) epoch: Option<u64>,
    pub(crate) owner: Option<String>,
    pub(crate) observed_at: Option<Timestamp>,
    pub(crate) reason: Option<String>,
    pub(crate) last_known: Option<LastKnown>,
    pub(crate) timed_out: Option<bool>,
}

/// What was last known of a workspace that is not in memory.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LastKnown {
    pub(crate) state: String,
    pub(crate) at: Timestamp,
    pub(crate) epoch: u64,
    pub(crate) owner: Option<String>,
}

/// Details of an error.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusError {
    pub(crate) kind: String,
    pub(crate) attempt: Option<u32>,
    pub(crate) next_retry_at: Option<Timestamp>,
}

/// The progress of a phase.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Progress {
    #[serde(default)]
    pub(crate) phase: String,
    pub(crate) done: u64,
    pub(crate) total: Option<u64>,
    #[serde(default)]
    pub(crate) unit: String,
    pub(crate) percent: Option<f64>,
    pub(crate) rate_per_second: Option<f64>,
    pub(crate) eta: Option<Eta>,
}

/// The range in which a phase is expected to end.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Eta {
    pub(crate) low: Timestamp,
    pub(crate) high: Timestamp,
}

/// A change of state.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Transition {
    pub(crate) from_state: String,
    pub(crate) to_state: String,
    pub(crate) timestamp: Timestamp,
    #[serde(default)]
    pub(crate) message: String,
}

/// A page of statuses; each status is kept as received.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusPage {
    pub(crate) workspaces: Vec<Box<RawValue>>,
    pub(crate) total_count: u64,
    pub(crate) state_counts: Box<RawValue>,
    pub(crate) next_cursor: Option<String>,
}

/// The expected outcome of an action on many workspaces.
#[derive(Debug, Deserialize)]
pub(crate) struct ActionCount {
    pub(crate) matched: u64,
    pub(crate) refusable: Vec<Refusable>,
}

/// A reason for which workspaces would be refused.
#[derive(Debug, Deserialize)]
pub(crate) struct Refusable {
    pub(crate) detail: String,
    pub(crate) count: u64,
}

/// An action on many workspaces was started.
#[derive(Debug, Deserialize)]
pub(crate) struct OperationBegun {
    pub(crate) operation: String,
}

/// The progress of an action on many workspaces.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Operation {
    pub(crate) total: u64,
    pub(crate) done: u64,
    pub(crate) refused: Vec<RefusedWorkspace>,
    pub(crate) refused_count: u64,
    pub(crate) state: String,
}

/// A workspace on which an action was not executed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RefusedWorkspace {
    pub(crate) workspace_id: String,
    pub(crate) detail: String,
}

/// A page of a workspace's history.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HistoryPage {
    pub(crate) workspace_id: String,
    pub(crate) transitions: Vec<Box<RawValue>>,
    pub(crate) phases: Vec<Box<RawValue>>,
    pub(crate) transitions_total: u64,
    pub(crate) next_cursor: Option<String>,
}

/// One transition of a history.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HistoryTransition {
    pub(crate) epoch: u64,
    pub(crate) owner: Option<String>,
    pub(crate) from_state: String,
    pub(crate) to_state: String,
    pub(crate) timestamp: Timestamp,
    #[serde(default)]
    pub(crate) message: String,
}

/// Time that a workspace spent in one state.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Phase {
    pub(crate) state: String,
    pub(crate) left: Option<Timestamp>,
    pub(crate) duration_seconds: f64,
}

impl Status {
    /// The progress of the current state; that of an earlier state is omitted.
    pub(crate) fn current_progress(&self) -> Option<&Progress> {
        self.progress
            .as_ref()
            .filter(|progress| progress.phase == self.state)
    }
}

impl LastKnown {
    /// A summary in one line.
    pub(crate) fn summary(&self) -> String {
        let owner = self
            .owner
            .as_ref()
            .map_or_else(String::new, |owner| format!(", owner {owner}"));
        format!(
            "{} at {} (epoch {}{owner})",
            self.state,
            crate::output::instant(self.at),
            self.epoch
        )
    }
}

impl Progress {
    /// The progress, such as `42.0% of 1000 events`.
    pub(crate) fn summary(&self) -> String {
        match (self.percent, self.total) {
            (Some(percent), Some(total)) => {
                format!("{percent:.1}% of {total} {}", self.unit)
            }
            (Some(percent), None) => format!("{percent:.1}%"),
            (None, _) => format!("{} {}", self.done, self.unit),
        }
    }

    /// Remaining time from `now` on, such as `2.1s-3.4s`; empty where it is unknown.
    pub(crate) fn eta(&self, now: Option<Timestamp>) -> String {
        let (Some(eta), Some(now)) = (&self.eta, now) else {
            return String::new();
        };
        let until = |then: Timestamp| {
            let left = Duration::try_from(then.duration_since(now)).unwrap_or_default();
            crate::values::rounded(left)
        };
        format!("{}-{}", until(eta.low), until(eta.high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_summed_up_with_what_is_known_of_it() {
        let eta = r#"{"low":"2026-01-01T00:00:02.100Z","high":"2026-01-01T00:00:03.400Z","basis":"rate"}"#;
        for (document, expected) in [
            (
                format!(
                    r#"{{"done":420,"total":1000,"unit":"events","percent":42.0,"eta":{eta}}}"#
                ),
                ("42.0% of 1000 events", "2.1s-3.4s"),
            ),
            (
                r#"{"done":7,"total":null,"unit":"entities","percent":null,"eta":null}"#.to_owned(),
                ("7 entities", ""),
            ),
        ] {
            let progress: Progress = serde_json::from_str(&document).unwrap();
            let now = "2026-01-01T00:00:00Z".parse().ok();
            assert_eq!(
                (progress.summary().as_str(), progress.eta(now).as_str()),
                expected
            );
        }
    }
}
