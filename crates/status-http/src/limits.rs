//! The limits of the API, all in one place.

use std::time::Duration;

/// What one client may ask for, and how much of it at once.
///
/// Ids are bounded by [`WorkspaceId`](workspace_status::WorkspaceId) (255 bytes), metadata and
/// messages by the tracker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Statuses on a page, at most (1,000); a page has 100 if the request does not say.
    pub status_page: usize,
    /// Transitions on a page of a history, at most (1,000); 100 if the request does not say.
    pub history_page: usize,
    /// How long a request may wait for a state, at most (10 minutes).
    pub wait: Duration,
    /// How long it waits if it does not say (30 s), or `wait` if that is shorter.
    pub wait_default: Duration,
    /// Requests that wait at the same time (1,024), those of the service's own routes that ask for a
    /// place with [`StatusApi::admit_wait`](crate::StatusApi::admit_wait) included. One more is
    /// answered 503 at once. Each holds a connection: a server that bounds those leaves some for
    /// requests that do not wait, such as probes.
    pub concurrent_waits: usize,
    /// Lists and scrapes over more than [`INLINE_SCAN`] workspaces that run at the same time (2),
    /// each on a thread of its own, so that they take no thread from the short requests.
    pub concurrent_scans: usize,
    /// How long a list or a scrape waits for its turn (10 s) before it is answered 503.
    pub scan_queue: Duration,
    /// Workspaces in state `error` that `/metrics` names, at most (100); how many more there are
    /// is a metric of its own.
    pub unhealthy_series: usize,
}

/// Up to this many workspaces, a list or a scrape is made on the thread of its request: it takes
/// less than the hand-over to another thread is worth.
pub const INLINE_SCAN: usize = 2_000;

/// The size of a page, for a request that does not say.
pub(crate) const PAGE_DEFAULT: usize = 100;

/// How many loads are measured at the same time; the load times of more are not in the histogram.
pub(crate) const LOADS_MEASURED: usize = 1_000_000;

impl Default for Limits {
    fn default() -> Self {
        Self {
            status_page: 1_000,
            history_page: 1_000,
            wait: Duration::from_mins(10),
            wait_default: Duration::from_secs(30),
            concurrent_waits: 1_024,
            concurrent_scans: 2,
            scan_queue: Duration::from_secs(10),
            unhealthy_series: 100,
        }
    }
}
