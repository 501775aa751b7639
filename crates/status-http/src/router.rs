//! The routes mounted on a router, and the conversion of its errors into problems.

use std::sync::Arc;

use axum::Router;
use prometheus_client::registry::Registry;
use utoipa_axum::router::OpenApiRouter;

use crate::api::StatusApi;
use crate::limits::Limits;
use crate::openapi::document_routes;
use crate::panics::CatchPanics;
use crate::problem::{method_not_allowed, route_not_found};
use crate::source::StatusSource;
use crate::{openapi, probes, routes};

impl StatusApi {
    /// The routes with their part of the `OpenAPI` document: statuses, probes and metrics.
    ///
    /// Merge routes of your own, then see [`document_routes`] and
    /// [`with_problems`].
    pub fn routes(&self) -> OpenApiRouter {
        OpenApiRouter::with_openapi(openapi::document())
            .merge(routes::routes())
            .merge(probes::routes())
            .with_state(Arc::clone(&self.0))
    }
}

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
/// Errors of these routes are problems. Unknown paths are left to the service, which may have a
/// fallback of its own. A service without one wraps the whole router in [`with_problems`].
///
/// A task feeds the histograms of `/metrics` and ends with the router. It starts here, or at the
/// first request to `/metrics` if this is called outside of a Tokio runtime.
pub fn router(source: impl StatusSource) -> Router {
    let api = StatusApi::new(source, Limits::default(), Registry::default());
    api.follow_feed();
    document_routes(api.routes())
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanics)
}

/// Makes every error of `router` itself a problem: 404 of unknown paths, 405 (with `Allow`), and
/// 500 of a handler that panics.
///
/// Call it last, with all routes merged. Handlers answer the errors of their extractors
/// themselves: see [`Checked`](crate::Checked).
///
/// # Panics
/// If `router` has a fallback already.
pub fn with_problems(router: Router) -> Router {
    with_problem_fallbacks(router).layer(CatchPanics)
}

/// As [`with_problems`], but without the 500 of a handler that panics: for a server that calls the router in
/// [`catch_panics`](crate::catch_panics). A layer would box every route once more, for each request.
///
/// # Panics
/// If `router` has a fallback already.
pub fn with_problem_fallbacks(router: Router) -> Router {
    router
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(route_not_found)
}
