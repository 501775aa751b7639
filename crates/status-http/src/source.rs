//! Source of the answers: the interface between the routes and the statuses that they serve.
//!
//! [`Tracker`] is a source itself, so a service mounts the router over its tracker. An engine
//! implements the trait over its tracker, its store and its log.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use thiserror::Error;
use utoipa::ToSchema;
use workspace_status::{
    Check, Condition, Epoch, Page, PageQuery, Snapshot, State, StateCounts, StateSet, Tracker,
    WaitOutcome, WorkspaceId,
};

use crate::document::StateName;
use crate::problem::Problem;
use crate::time::rfc3339;

/// A boxed future, as trait objects need it.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// The message for a workspace of which nothing is known.
pub const NOTHING_KNOWN: &str = "this node knows nothing of the workspace";

/// The queries of the routes.
///
/// All functions except those that return a future are called on the threads
/// that serve requests and must return at once: no I/O, no lock that is held across I/O. `page` may
/// take time in proportion to the number of workspaces; the routes call it where that blocks no
/// other request.
pub trait StatusSource: Send + Sync + 'static {
    /// The current status of one workspace, or `None` if this source does not know it.
    fn status(&self, id: &str) -> Option<Snapshot>;

    /// The message for a workspace of which [`status`](Self::status) returns `None`, such as why it is
    /// not here and what would bring it back. Called only in that case. It may read a disk: an
    /// implementation that blocks does so on a thread of its own.
    fn unknown(&self, id: &WorkspaceId) -> BoxFuture<Cow<'static, str>>;

    /// A page of statuses, ordered by id bytewise.
    fn page(&self, query: &PageQuery) -> Page;

    /// Current number of workspaces in each state. Each counts once: the sum is the number of workspaces.
    fn counts(&self) -> StateCounts;

    /// The tracker behind the statuses, for its change feed, its clock and its counters.
    fn tracker(&self) -> &Tracker;

    /// Resolves as soon as the workspace is in one of the states `until` or `fail_on`, or when the
    /// deadline has passed. A workspace that does not exist yet counts as `unknown`.
    ///
    /// # Errors
    /// The problem to answer with if the source cannot continue to wait, such as when it is stopping.
    fn wait(&self, wait: Wait) -> BoxFuture<Result<WaitOutcome, Problem>>;

    /// A page of all transitions of a workspace, or `None` if there is no record of it.
    ///
    /// May read a disk: an implementation that blocks does so on a thread of its own.
    ///
    /// # Errors
    /// The future fails with [`HistoryError`] if `after` is not a position of this history, or the
    /// record cannot be read.
    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<Option<HistoryPage>, HistoryError>>;

    /// Checks whether it can answer: for an engine, that its log and its store are open. Not whether
    /// all workspaces are ready.
    fn readiness(&self) -> Vec<Check>;

    /// Checks whether it is alive: for an engine, that its loops advance.
    fn liveness(&self) -> Vec<Check>;
}

/// One wait, with the deadline that was computed when the request arrived.
#[derive(Debug, Clone)]
pub struct Wait {
    /// The workspace.
    pub id: WorkspaceId,
    /// The states that fulfil it; never empty.
    pub until: StateSet,
    /// The states that end it early.
    pub fail_on: StateSet,
    /// When it ends at the latest.
    pub deadline: Instant,
}

/// Which page of a history.
#[derive(Debug, Clone)]
pub struct HistoryQuery {
    /// The workspace.
    pub id: WorkspaceId,
    /// End of the previous page, from its [`HistoryPage::next`]; `None` begins at the oldest.
    pub after: Option<String>,
    /// Maximum of transitions, from 1 to [`Limits::history_page`](crate::Limits).
    pub limit: usize,
}

/// A part of a history, oldest first.
#[derive(Debug, Clone, Default)]
pub struct HistoryPage {
    /// The transitions, oldest first.
    pub entries: Vec<HistoryEntry>,
    /// Number of all transitions ever, including those that are no longer kept.
    pub total: u64,
    /// Where the next page continues; `None` on the last page. Only the source interprets it.
    pub next: Option<String>,
}

/// A change of state, as a history shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HistoryTransition)]
pub struct HistoryEntry {
    /// Its number within the history, from 1.
    pub sequence: u64,
    /// The load it belongs to.
    #[schema(value_type = u64)]
    pub epoch: Epoch,
    /// The node that owned the workspace then; null where none was named.
    #[schema(required)]
    pub owner: Option<String>,
    /// The state that was left.
    #[serde(rename = "fromState")]
    #[schema(value_type = StateName)]
    pub from: State,
    /// The state that was entered.
    #[serde(rename = "toState")]
    #[schema(value_type = StateName)]
    pub to: State,
    /// When.
    #[serde(rename = "timestamp", serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: SystemTime,
    /// The message of the transition.
    pub message: String,
    /// How long the workspace was in `from`, measured with a monotonic clock.
    #[serde(skip)]
    pub time_in_from: Duration,
}

/// Why there is no history to show.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HistoryError {
    /// [`HistoryQuery::after`] is not a position of this history: begin at its start.
    #[error("the history has no such position")]
    UnknownPlace,
    /// The record cannot be read at present: try again later.
    #[error("the history cannot be read at present: {0}")]
    Unavailable(String),
}

/// The tracker of a service: its history is the transitions in memory (the last 20), and it is
/// alive and ready as long as it answers.
impl StatusSource for Tracker {
    fn status(&self, id: &str) -> Option<Snapshot> {
        self.snapshot(id)
    }

    fn unknown(&self, _id: &WorkspaceId) -> BoxFuture<Cow<'static, str>> {
        Box::pin(std::future::ready(NOTHING_KNOWN.into()))
    }

    fn page(&self, query: &PageQuery) -> Page {
        Tracker::page(self, query)
    }

    fn counts(&self) -> StateCounts {
        self.count_by_state()
    }

    fn tracker(&self) -> &Tracker {
        self
    }

    fn wait(&self, wait: Wait) -> BoxFuture<Result<WaitOutcome, Problem>> {
        let tracker = self.clone();
        Box::pin(async move {
            let outcome = tracker
                .wait(&wait.id)
                .until(Condition::AnyOf(wait.until))
                .fail_on(wait.fail_on)
                .deadline(wait.deadline)
                .await;
            Ok(outcome)
        })
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<Option<HistoryPage>, HistoryError>> {
        let page = self
            .snapshot(&query.id)
            .map(|snapshot| history_in_memory(&snapshot, &query))
            .transpose();
        Box::pin(std::future::ready(page))
    }

    fn readiness(&self) -> Vec<Check> {
        vec![Check::ok("tracker")]
    }

    fn liveness(&self) -> Vec<Check> {
        vec![Check::ok("tracker")]
    }
}

/// A page of the transitions that a snapshot holds; the position is the sequence of the last one
/// shown.
///
/// # Errors
/// [`HistoryError::UnknownPlace`] if the position is not a number.
pub fn history_in_memory(
    snapshot: &Snapshot,
    query: &HistoryQuery,
) -> Result<HistoryPage, HistoryError> {
    let after: u64 = match &query.after {
        None => 0,
        Some(text) => text.parse().map_err(|_| HistoryError::UnknownPlace)?,
    };
    let mut rest = snapshot
        .state_history()
        .skip_while(|transition| transition.sequence() <= after)
        .map(|transition| HistoryEntry {
            sequence: transition.sequence(),
            epoch: transition.epoch(),
            owner: snapshot.owner().map(str::to_owned),
            from: transition.from_state(),
            to: transition.to_state(),
            at: transition.timestamp(),
            message: transition.message().to_owned(),
            time_in_from: transition.time_in_from(),
        });
    let entries: Vec<_> = rest.by_ref().take(query.limit).collect();
    let has_more = rest.next().is_some();
    let next = entries
        .last()
        .filter(|_| has_more)
        .map(|entry| entry.sequence.to_string());
    Ok(HistoryPage {
        entries,
        total: snapshot.transitions_total(),
        next,
    })
}
