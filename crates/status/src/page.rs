//! Lists of workspaces in pages, ordered by id.

use crate::id::WorkspaceId;
use crate::snapshot::Snapshot;
use crate::state::{State, StateSet};

/// Which workspaces to list. The default is all of them, a hundred a page.
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
    /// How many at most; 0 is taken as 1.
    pub limit: usize,
    /// Only ids that begin so.
    pub prefix: Option<String>,
    /// Only workspaces in one of these states; empty for all.
    pub states: StateSet,
    /// Only healthy ones (neither `error` nor `unknown`), or only the others.
    pub healthy: Option<bool>,
}

impl Default for PageQuery {
    fn default() -> Self {
        Self {
            after: None,
            limit: 100,
            prefix: None,
            states: StateSet::EMPTY,
            healthy: None,
        }
    }
}

impl PageQuery {
    /// Whether a workspace in this state is asked for.
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

/// A page of snapshots.
#[derive(Debug, Clone)]
pub struct Page {
    /// Ordered by id.
    pub snapshots: Vec<Snapshot>,
    /// What to ask for `after` next; nothing if this was the last page.
    pub next: Option<WorkspaceId>,
}

/// A page of ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdPage {
    /// Ordered bytewise.
    pub ids: Vec<WorkspaceId>,
    /// What to ask for `after` next; nothing if this was the last page.
    pub next: Option<WorkspaceId>,
}
