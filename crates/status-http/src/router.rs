//! The routes mounted on a router, and what turns every error of it into a problem.

use axum::Router;
use prometheus_client::registry::Registry;

use crate::api::StatusApi;
use crate::limits::Limits;
use crate::openapi::document_routes;
use crate::panics::CatchPanics;
use crate::problem::{method_not_allowed, route_not_found};
use crate::source::StatusSource;

/// All routes over `source`, to be merged into the router of a service:
///
/// ```
/// use workspace_status::Tracker;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let app: axum::Router = axum::Router::new()
///     .merge(workspace_status_http::router(Tracker::global().clone()));
/// # }
/// ```
///
/// Errors of these routes are problems. Paths that no route has are left to the service, which may
/// have a fallback of its own; one that has none wraps the whole in [`with_problems`].
///
/// The histograms of `/metrics` are fed by a task that is started here, or by the first request
/// for them when this is called outside of a Tokio runtime, and ends with the router.
pub fn router(source: impl StatusSource) -> Router {
    let api = StatusApi::new(source, Limits::default(), Registry::default());
    api.follow_feed();
    document_routes(api.routes())
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanics)
}

/// Makes every error that `router` itself gives rise to a problem: 404 of paths that no route has,
/// 405 (with `Allow`), and 500 of a handler that panics.
///
/// To be called last, with all routes merged. Errors of extractors are the handlers' own: see
/// [`Checked`](crate::Checked).
///
/// # Panics
/// If `router` has a fallback already.
pub fn with_problems(router: Router) -> Router {
    router
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(route_not_found)
        .layer(CatchPanics)
}
