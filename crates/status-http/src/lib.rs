//! An axum router that serves the status of every workspace over HTTP: JSON, probes, metrics and an
//! `OpenAPI` document with its page.
//!
//! A service that tracks its workspaces mounts it in three lines:
//!
//! ```no_run
//! use workspace_status::Tracker;
//!
//! # async fn serve() -> std::io::Result<()> {
//! let app = axum::Router::new().merge(workspace_status_http::router(Tracker::global().clone()));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8081").await?;
//! axum::serve(listener, app).await
//! # }
//! ```
//!
//! | route | |
//! |---|---|
//! | `GET /api/v1/workspaces/{id}/status` | its status; `?waitFor=ready&failOn=error&timeout=30s` waits |
//! | `GET /api/v1/workspaces/statuses` | all of them; `?state=&healthy=&prefix=&q=&partition=&owner=&errorKind=&limit=&cursor=` |
//! | `GET /api/v1/workspaces/{id}/ready` | 200 or 503 |
//! | `GET /api/v1/workspaces/{id}/history` | every transition, phases with durations |
//! | `GET /livez`, `/readyz?verbose`, `/metrics` | probes and metrics |
//! | `GET /openapi.json`, `/docs` | the specification and its page |
//!
//! An engine implements [`StatusSource`] and builds on [`StatusApi`]; its own routes answer their
//! errors as [`Problem`]s and read their input with [`Checked`] and [`Parameters`].
//!
//! **Bounds.** All are in [`Limits`]. A request over one of them gets a problem that names it.
//!
//! **Threads and locks.** A status is read without a lock that others hold for long, and written
//! directly into the bytes of the answer. Lists over many workspaces run on blocking threads, a few
//! at a time. A request that waits holds no thread.

mod limits;
mod problem;

mod source;

mod duration;
mod time;

mod document;
mod history;

mod cursor;
mod extract;
mod query;

mod exposition;
mod metrics;

mod api;
mod probes;
mod routes;

mod openapi;
mod panics;
mod router;

pub use api::{StatusApi, WaitPermit, answer_document, answer_json};
pub use cursor::{decode_cursor, encode_cursor, invalid_cursor};
pub use document::StatusDocument;
pub use duration::{InvalidDuration, parse_duration};
pub use extract::{Checked, WorkspaceIdPath, invalid_workspace_id};
pub use limits::{INLINE_SCAN, Limits};
pub use metrics::names as metric_names;
pub use openapi::document_routes;
pub use panics::{CaughtFuture, catch_panics};
pub use problem::{
    CONTENT_TYPE_PROBLEM, Problem, ProblemDocument, ProblemType, method_not_allowed,
    route_not_found, types as problem_types, unknown_method, unknown_route,
};
pub use prometheus_client::registry::Registry;
pub use query::{FILTER_PARAMETERS, Parameters, invalid_parameter, meaningless_without};
pub use router::{router, with_problem_fallbacks, with_problems};
pub use source::{
    BoxFuture, HistoryEntry, HistoryError, HistoryPage, HistoryQuery, NOTHING_KNOWN, StatusSource,
    Wait, history_in_memory,
};
pub use workspace_status::Check;
