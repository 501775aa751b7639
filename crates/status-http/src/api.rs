//! State shared by all handlers: the source, the limits, the metrics, and the permits for waits and scans.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use workspace_status::{Page, PageQuery, Watcher};

use crate::limits::{INLINE_SCAN, Limits};
use crate::metrics::StatusMetrics;
use crate::problem::{NO_STORE, Problem, types};
use crate::source::StatusSource;

/// The API over one source, before its routes are mounted.
///
/// For a service that only needs the routes, [`router`](crate::router) is shorter. Use this to add
/// metrics, limits or routes of the service's own:
///
/// ```
/// use workspace_status::Tracker;
/// use workspace_status_http::{Limits, Registry, StatusApi, document_routes, with_problems};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let mut registry = Registry::default();
/// // registry.register(…) the service's own metrics
/// let api = StatusApi::new(Tracker::new(), Limits::default(), registry);
/// let mut tasks = tokio::task::JoinSet::new();
/// if let Some(feed) = api.metrics_feed() {
///     tasks.spawn(feed);
/// }
/// let app: axum::Router = with_problems(document_routes(api.routes()));
/// # }
/// ```
#[derive(Clone)]
pub struct StatusApi(pub(crate) Arc<ApiState>);

impl std::fmt::Debug for StatusApi {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("StatusApi").finish_non_exhaustive()
    }
}

pub(crate) struct ApiState {
    pub(crate) source: Arc<dyn StatusSource>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<StatusMetrics>,
    pub(crate) registry: Registry,
    waits: Arc<Semaphore>,
    scans: Arc<Semaphore>,
    feed: Mutex<Feed>,
}

/// The reader of the change feed for the histograms.
enum Feed {
    /// No reader yet; the watcher keeps its position, so no change is missed that the feed still keeps.
    Unclaimed(Watcher),
    /// The caller of [`StatusApi::metrics_feed`].
    Theirs,
    /// A task of the API, which ends with it.
    Ours(AbortHandle),
}

impl Drop for ApiState {
    fn drop(&mut self) {
        if let Feed::Ours(task) = self.feed.get_mut() {
            task.abort();
        }
    }
}

/// A permit for a request that waits. Dropping it releases it, also after the client has disconnected.
#[must_use = "the permit is returned when it is dropped"]
pub struct WaitPermit {
    metrics: Arc<StatusMetrics>,
    _permit: OwnedSemaphorePermit,
}

impl std::fmt::Debug for WaitPermit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("WaitPermit").finish_non_exhaustive()
    }
}

impl Drop for WaitPermit {
    fn drop(&mut self) {
        self.metrics.wait_ended();
    }
}

impl StatusApi {
    /// The API over `source`; the metrics of the source are added to those in `registry`, and
    /// `/metrics` shows them all.
    pub fn new(source: impl StatusSource, limits: Limits, mut registry: Registry) -> Self {
        let source: Arc<dyn StatusSource> = Arc::new(source);
        let feed = Mutex::new(Feed::Unclaimed(source.tracker().watch()));
        let metrics =
            StatusMetrics::register(Arc::clone(&source), limits.unhealthy_series, &mut registry);
        Self(Arc::new(ApiState {
            waits: Arc::new(Semaphore::new(permits(limits.concurrent_waits))),
            scans: Arc::new(Semaphore::new(permits(limits.concurrent_scans))),
            source,
            limits,
            metrics,
            registry,
            feed,
        }))
    }

    /// The future that feeds the histograms. It never ends; drop it to stop it. `None` if it was
    /// taken already.
    ///
    /// The caller must run it. If no caller takes it before the first request to `/metrics`, that
    /// request starts a task of the API's own, which ends with the last clone of its routes.
    pub fn metrics_feed(&self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let mut feed = self.0.feed.lock();
        match std::mem::replace(&mut *feed, Feed::Theirs) {
            Feed::Unclaimed(watcher) => Some(Arc::clone(&self.0.metrics).follow(watcher)),
            taken @ (Feed::Theirs | Feed::Ours(_)) => {
                *feed = taken;
                None
            }
        }
    }

    /// A permit for a request of a service's own route that waits. All waiting requests together are
    /// at most [`Limits::concurrent_waits`].
    ///
    /// # Errors
    /// The problem to answer with, 503 with `Retry-After`, if no permit is free.
    pub fn admit_wait(&self) -> Result<WaitPermit, Problem> {
        self.0.admit_wait()
    }

    /// Runs a scan of all workspaces, for a route of the service's own, as the lists of statuses do:
    /// on the current thread if there are at most [`INLINE_SCAN`], otherwise on a blocking thread
    /// after it got a permit.
    ///
    /// # Errors
    /// The problem to answer with if it gets no permit in time, or the scan panics.
    pub async fn scan<T: Send + 'static>(
        &self,
        walk: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        self.0.scan(|_| walk()).await
    }

    /// As [`scan`](Self::scan), but never on the current thread: for a scan that blocks, such as on a disk.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub async fn scan_apart<T: Send + 'static>(
        &self,
        walk: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        self.0.scan_apart(|_| walk()).await
    }

    /// Follows the feed in a task of the API's own, unless it has a reader already or there is
    /// no current Tokio runtime.
    pub(crate) fn follow_feed(&self) {
        self.0.follow_feed();
    }
}

fn permits(count: usize) -> usize {
    count.min(Semaphore::MAX_PERMITS)
}

impl ApiState {
    pub(crate) fn follow_feed(&self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut feed = self.feed.lock();
        *feed = match std::mem::replace(&mut *feed, Feed::Theirs) {
            Feed::Unclaimed(watcher) => {
                let task = runtime.spawn(Arc::clone(&self.metrics).follow(watcher));
                Feed::Ours(task.abort_handle())
            }
            taken @ (Feed::Theirs | Feed::Ours(_)) => taken,
        };
    }

    /// A permit for a request that waits.
    pub(crate) fn admit_wait(&self) -> Result<WaitPermit, Problem> {
        let Ok(permit) = Arc::clone(&self.waits).try_acquire_owned() else {
            self.metrics.wait_refused();
            return Err(too_many("requests wait", self.limits.concurrent_waits));
        };
        self.metrics.wait_began();
        Ok(WaitPermit {
            metrics: Arc::clone(&self.metrics),
            _permit: permit,
        })
    }

    /// A page, selected by [`scan`](Self::scan) so that it does not block short requests.
    pub(crate) async fn page(self: &Arc<Self>, query: PageQuery) -> Result<Page, Problem> {
        self.scan(move |shared| shared.source.page(&query)).await
    }

    /// Runs a scan of all workspaces: on the current thread if there are few, otherwise on a
    /// blocking thread after it got a permit.
    pub(crate) async fn scan<T: Send + 'static>(
        self: &Arc<Self>,
        walk: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        if self.source.counts().total() <= INLINE_SCAN {
            return Ok(walk(self));
        }
        self.scan_apart(walk).await
    }

    /// Runs a scan of all workspaces on a blocking thread after it got a permit.
    async fn scan_apart<T: Send + 'static>(
        self: &Arc<Self>,
        walk: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = Arc::clone(&self.scans).acquire_owned();
        let Ok(Ok(permit)) = tokio::time::timeout(self.limits.scan_queue, turn).await else {
            return Err(too_many("lists are made", self.limits.concurrent_scans));
        };
        let shared = Arc::clone(self);
        let walked = tokio::task::spawn_blocking(move || {
            let walked = walk(&shared);
            // The permit is released when the scan ends, not when the client disconnects.
            drop(permit);
            walked
        });
        walked
            .await
            .map_err(|_| Problem::new(&types::INTERNAL, "the list could not be made"))
    }
}

fn too_many(what: &str, limit: usize) -> Problem {
    let detail = format!("as many {what} at the same time as this server allows; try again");
    Problem::new(&types::TOO_MANY_REQUESTS_AT_ONCE, detail)
        .with("maximum", limit)
        .retry_after(std::time::Duration::from_secs(1))
}

/// Most documents of one status are smaller than this.
const DOCUMENT_BYTES: usize = 2048;

/// A JSON answer that no cache may store.
pub fn answer_document(status: StatusCode, document: &impl Serialize) -> Response {
    let mut bytes = Vec::with_capacity(DOCUMENT_BYTES);
    match serde_json::to_writer(&mut bytes, document) {
        Ok(()) => answer_json(status, bytes),
        // Only a map with keys that are not strings fails, and no document has one.
        Err(error) => Problem::new(&types::INTERNAL, error.to_string()).into_response(),
    }
}

/// An answer of serialised JSON that no cache may store.
pub fn answer_json(status: StatusCode, document: Vec<u8>) -> Response {
    answer(
        status,
        HeaderValue::from_static("application/json"),
        document,
    )
}

/// An answer that no cache may store.
pub(crate) fn answer(
    status: StatusCode,
    content_type: HeaderValue,
    body: impl Into<Body>,
) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    response
}
