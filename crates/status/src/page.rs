//! Lists of workspaces in pages, ordered by id.

use crate::error::{ErrorInfo, ErrorKind};
use crate::id::WorkspaceId;
use crate::snapshot::Snapshot;
use crate::state::{State, StateSet};
use crate::value::Value;

/// Which workspaces to list. The default is all of them, a hundred per page.
///
/// ```
/// use workspace_status::{PageQuery, State, StateSet, Tracker};
///
/// let tracker = Tracker::new();
/// for id in ["b", "c", "a"] {
///     tracker.get_or_create(id);
/// }
/// let query = PageQuery { limit: 2, ..PageQuery::default() };
/// let first = tracker.page(&query);
/// assert_eq!(first.snapshots.len(), 2);
/// let rest = tracker.page(&PageQuery { after: first.next, ..query });
/// assert_eq!(rest.snapshots[0].workspace_id(), "c");
/// assert_eq!(rest.next, None);
/// ```
#[derive(Debug, Clone)]
pub struct PageQuery {
    /// Only ids bytewise after this one.
    pub after: Option<WorkspaceId>,
    /// Maximum number per page; 0 means 1.
    pub limit: usize,
    /// Only ids with this prefix.
    pub prefix: Option<String>,
    /// Only workspaces in one of these states; empty for all.
    pub states: StateSet,
    /// Only healthy ones (neither `error` nor `unknown`), or only the others.
    pub healthy: Option<bool>,
    /// Only those whose id or message contains this text; ASCII letters match in either case.
    pub contains: Option<String>,
    /// Only those whose metadata name one of these as their `partition`; empty for all.
    pub partitions: Vec<u32>,
    /// Only those with one of these owners; empty for all.
    pub owners: Vec<String>,
    /// Only those in `error` of one of these kinds; empty for all.
    pub error_kinds: Vec<ErrorCategory>,
}

/// A kind of error, without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCategory {
    /// Retried automatically.
    Retrying,
    /// An operator must act.
    Parked,
}

impl ErrorCategory {
    /// All of them.
    pub const ALL: [ErrorCategory; 2] = [ErrorCategory::Retrying, ErrorCategory::Parked];

    /// `retrying` or `parked`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCategory::Retrying => "retrying",
            ErrorCategory::Parked => "parked",
        }
    }
}

impl From<ErrorKind> for ErrorCategory {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Retrying { .. } => ErrorCategory::Retrying,
            ErrorKind::Parked => ErrorCategory::Parked,
        }
    }
}

impl Default for PageQuery {
    fn default() -> Self {
        Self {
            after: None,
            limit: 100,
            prefix: None,
            states: StateSet::EMPTY,
            healthy: None,
            contains: None,
            partitions: Vec::new(),
            owners: Vec::new(),
            error_kinds: Vec::new(),
        }
    }
}

impl PageQuery {
    /// Whether a workspace meets every condition. `after` and `limit` are not conditions.
    pub fn selects(&self, snapshot: &Snapshot) -> bool {
        self.wants(snapshot.state())
            && snapshot.workspace_id().starts_with(self.prefix())
            && self.selects_more(snapshot)
    }

    /// The conditions that state and id do not decide.
    pub(crate) fn selects_more(&self, snapshot: &Snapshot) -> bool {
        if self.is_decided_by_state() {
            return true;
        }
        self.has_partition(snapshot)
            && (self.owners.is_empty()
                || snapshot
                    .owner()
                    .is_some_and(|owner| self.owners.iter().any(|wanted| wanted == owner)))
            && (self.error_kinds.is_empty()
                || snapshot
                    .error()
                    .map(ErrorInfo::kind)
                    .is_some_and(|kind| self.error_kinds.contains(&kind.into())))
            && self.contains.as_deref().is_none_or(|text| {
                contains_ignoring_case(snapshot.workspace_id(), text)
                    || contains_ignoring_case(snapshot.message(), text)
            })
    }

    /// Whether state and id alone decide if a workspace is selected.
    pub(crate) fn is_decided_by_state(&self) -> bool {
        self.contains.is_none()
            && self.partitions.is_empty()
            && self.owners.is_empty()
            && self.error_kinds.is_empty()
    }

    fn has_partition(&self, snapshot: &Snapshot) -> bool {
        self.partitions.is_empty()
            || snapshot
                .metadata()
                .get("partition")
                .and_then(Value::as_u64)
                .is_some_and(|partition| {
                    self.partitions
                        .iter()
                        .any(|wanted| u64::from(*wanted) == partition)
                })
    }

    /// Whether a workspace in this state can be selected.
    pub fn wants(&self, state: State) -> bool {
        (self.states.is_empty() || self.states.contains(state))
            && self
                .healthy
                .is_none_or(|healthy| healthy == state.is_healthy())
    }

    pub(crate) fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or("")
    }
}

/// Whether `text` contains `wanted`, ASCII letters in either case.
fn contains_ignoring_case(text: &str, wanted: &str) -> bool {
    let wanted = wanted.as_bytes();
    wanted.is_empty()
        || text
            .as_bytes()
            .windows(wanted.len())
            .any(|part| part.eq_ignore_ascii_case(wanted))
}

/// A page of snapshots.
#[derive(Debug, Clone)]
pub struct Page {
    /// Ordered by id.
    pub snapshots: Vec<Snapshot>,
    /// The `after` of the next page; `None` if this was the last page.
    pub next: Option<WorkspaceId>,
}

/// A page of ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdPage {
    /// Ordered bytewise.
    pub ids: Vec<WorkspaceId>,
    /// The `after` of the next page; `None` if this was the last page.
    pub next: Option<WorkspaceId>,
}
