//! The routes for probes and monitoring: `/livez`, `/readyz`, `/metrics`.
//!
//! The probes answer as those of Kubernetes do: `ok` as plain text, or a line for each check with
//! `?verbose` and whenever one fails.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{RawQuery, State as Extract};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use workspace_status::Check;

use crate::api::{ApiState, answer};
use crate::exposition::Format;
use crate::problem::{Problem, ProblemDocument, types};
use crate::query::Parameters;

const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::default()
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
}

/// How much a probe shows.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query; Parameters reads it")]
struct ProbeParameters {
    /// A line for each check, also when all are well.
    #[param(example = "")]
    verbose: Option<String>,
}

/// Whether the node is alive: its loops advance
#[utoipa::path(
    get,
    path = "/livez",
    operation_id = "getLivez",
    tag = "node",
    params(ProbeParameters),
    responses(
        (status = 200, description = "It is", body = String, content_type = "text/plain"),
        (status = 503, description = "It is not, with a line for each check", body = String, content_type = "text/plain"),
        (status = 400, description = "An invalid parameter", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn livez(
    Extract(api): Extract<Arc<ApiState>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    probe("livez", &api.source.liveness(), query.as_deref())
}

/// Whether the node can answer; not whether all its workspaces are ready
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "getReadyz",
    tag = "node",
    params(ProbeParameters),
    responses(
        (status = 200, description = "It can", body = String, content_type = "text/plain"),
        (status = 503, description = "It cannot, with a line for each check", body = String, content_type = "text/plain"),
        (status = 400, description = "An invalid parameter", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn readyz(
    Extract(api): Extract<Arc<ApiState>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    probe("readyz", &api.source.readiness(), query.as_deref())
}

fn probe(name: &str, checks: &[Check], query: Option<&str>) -> Result<Response, Problem> {
    let is_verbose = Parameters::read(query, &["verbose"])?
        .one("verbose")?
        .is_some_and(|value| value != "false");
    let is_well = checks.iter().all(|check| check.outcome.is_ok());
    let (status, verdict) = if is_well {
        (StatusCode::OK, "passed")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "failed")
    };
    if is_well && !is_verbose {
        return Ok(answer(status, PLAIN_TEXT, "ok"));
    }
    let mut text = String::new();
    for check in checks {
        // Writing to a string cannot fail.
        let _ = match &check.outcome {
            Ok(()) => writeln!(text, "[+]{} ok", check.name),
            Err(reason) => writeln!(text, "[-]{} failed: {reason}", check.name),
        };
    }
    let _ = writeln!(text, "{name} check {verdict}");
    Ok(answer(status, PLAIN_TEXT, text))
}

/// Metrics, for Prometheus
///
/// As `OpenMetrics` 1.0.0 where `Accept` prefers it, else in the text format of Prometheus. No label
/// names a workspace, but that of those in state `error`, which are capped.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "getMetrics",
    tag = "node",
    responses(
        (status = 200, description = "All metrics of the node", content(
            (String = "text/plain"),
            (String = "application/openmetrics-text"),
        )),
        (status = 503, description = "Too many lists are requested at the same time", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn metrics(
    Extract(api): Extract<Arc<ApiState>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    api.follow_feed();
    let format = Format::preferred(&headers);
    let page = api
        .scan(move |shared| format.write(&shared.registry))
        .await?
        .map_err(|_| Problem::new(&types::INTERNAL, "a metric could not be written"))?;
    Ok(answer(StatusCode::OK, format.content_type(), page))
}
