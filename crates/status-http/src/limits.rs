//! The limits of the API, all in one place.

use std::time::Duration;

/// What a request may request, and how many requests may run at once.
///
/// Ids are bounded by [`WorkspaceId`](workspace_status::WorkspaceId) (255 bytes), metadata and
/// messages by the tracker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum of statuses per page (1,000); 100 if the request gives no limit.
    pub status_page: usize,
    /// Maximum of transitions per page of a history (1,000); 100 if the request gives no limit.
    pub history_page: usize,
    /// Longest time that a request may wait for a state (10 minutes).
    pub wait: Duration,
    /// How long it waits if it gives no timeout (30 s), or `wait` if that is shorter.
    pub wait_default: Duration,
    /// Maximum of requests that wait at the same time (1,024), including those of the service's own
    /// routes that use [`StatusApi::admit_wait`](crate::StatusApi::admit_wait). A further one is
    /// answered 503 at once. Each holds a connection: a server that bounds connections must leave
    /// some for requests that do not wait, such as probes.
    pub concurrent_waits: usize,
    /// Maximum of lists and scrapes over more than [`INLINE_SCAN`] workspaces at the same time (2),
    /// each on a blocking thread, so that they take no thread from the short requests.
    pub concurrent_scans: usize,
    /// How long a list or a scrape waits for a permit (10 s) before it is answered 503.
    pub scan_queue: Duration,
    /// Maximum of workspaces in state `error` that `/metrics` names (100); the number of further
    /// ones is a separate metric.
    pub unhealthy_series: usize,
}

/// Up to this many workspaces, a list or a scrape runs on the thread of its request: it is too
/// short to be worth the hand-over to another thread.
pub const INLINE_SCAN: usize = 2_000;

/// The size of a page if the request gives no limit.
pub(crate) const PAGE_DEFAULT: usize = 100;

/// Maximum of loads measured at the same time; the durations of further ones are not in the histogram.
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
