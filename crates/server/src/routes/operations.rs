//! An operator's actions on all workspaces that match a filter.

use super::{Api, body};
use crate::{
    access::{ActionDetails, Caller},
    app::Engine,
    operations::{Action, Operation, OperationState, Progress, Refused, Request, TooMany},
    problems,
};
use axum::{
    Extension,
    body::Body,
    extract::{Path, State as Extract},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use utoipa::ToSchema;
use workspace_status_http::{
    Checked, FILTER_PARAMETERS, Parameters, Problem, ProblemDocument, answer_document,
};

/// Maximum length of the reason for an action.
const MAX_REASON_BYTES: usize = 1024;

/// How long the answer to a stop waits for commands in flight.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// An action on all workspaces that match a filter.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ActionRequest)]
struct ActionDocument {
    /// What is done to each.
    action: Action,
    /// Which workspaces: the parameters of `GET /api/v1/workspaces/statuses` as members, such as
    /// `{"state":"error","partition":[1,2]}`; without one, all.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    filter: serde_json::Map<String, serde_json::Value>,
    /// Why, for the log of the engine.
    #[serde(default)]
    reason: Option<String>,
    /// With `reset`: also where the log no longer reaches back to the first event of a workspace.
    #[serde(default)]
    force: bool,
    /// Count only, and do nothing.
    #[serde(default)]
    dry_run: bool,
    /// How many workspaces must match: the number that a dry run has counted. Required without `dryRun`.
    #[serde(default)]
    expected: Option<u64>,
}

/// What an action would do.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ActionCount)]
struct CountDocument {
    /// How many workspaces match the filter.
    matched: usize,
    /// Why some of them would be refused, as far as that can be seen, the most frequent reason first.
    refusable: Vec<RefusableDocument>,
}

/// A reason for which workspaces would be refused.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Refusable)]
struct RefusableDocument {
    /// The reason.
    detail: String,
    /// How many.
    count: usize,
}

/// An operation was begun.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OperationBegun)]
struct BegunDocument<'a> {
    /// Its id, for `GET /api/v1/operations/{id}`.
    operation: &'a str,
}

/// How far an operation is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Operation)]
struct OperationDocument<'a> {
    /// Its id.
    operation: &'a str,
    /// What it does to each workspace.
    action: Action,
    /// The reason that its request gave.
    #[schema(required)]
    reason: Option<&'a str>,
    /// How many workspaces matched when it began.
    total: usize,
    /// To how many the action was done.
    done: usize,
    /// How many were refused. When it is over, `total` is the sum of both.
    refused_count: usize,
    /// The first 1,000 that were refused.
    refused: Vec<Refused>,
    /// How far it is.
    state: OperationState,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    began_at: Option<Timestamp>,
    /// When it ended.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    ended_at: Option<Timestamp>,
}

impl<'a> OperationDocument<'a> {
    fn new(operation: &'a Operation, progress: Progress) -> Self {
        Self {
            operation: &operation.id,
            action: operation.request.action,
            reason: operation.request.reason.as_deref(),
            total: operation.total,
            done: progress.done,
            refused_count: progress.refused_count,
            refused: progress.refused,
            state: progress.state,
            began_at: timestamp(operation.began),
            ended_at: progress.ended.and_then(timestamp),
        }
    }
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(time).ok()
}

/// Do something to all workspaces that match a filter
///
/// With `dryRun` the answer is what would happen. Without, `expected` is the number that was seen: another number
/// of matches now is 409, and nothing is done. The operation runs in the background, a few workspaces at a time,
/// and ends with the engine. Each workspace is checked again when its turn comes.
#[utoipa::path(
    post,
    path = "/api/v1/actions",
    operation_id = "postAction",
    tag = "operator",
    request_body = ActionDocument,
    responses(
        (status = 200, description = "With `dryRun`: what would happen", body = CountDocument),
        (status = 202, description = "The operation has begun; `Location` is its route", body = BegunDocument),
        (status = 400, description = "A body that cannot be, or `expected` is missing", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "`matched` workspaces match now, not as many as expected", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is over the limit", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "Not application/json", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The engine is starting or stopping, or as many operations run as may at the same time", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn post_action(
    Extract(api): Extract<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let engine = api.app.working_engine()?.clone();
    body::check_json(&headers)?;
    let whole = body::read(&api.app, &headers, body).await?;
    let document: ActionDocument = serde_json::from_slice(&whole.bytes)
        .map_err(|error| problems::invalid_action(error.to_string()))?;
    drop(whole);
    let details = ActionDetails::new(
        &json!({
            "action": document.action,
            "filter": document.filter,
            "force": document.force,
            "dryRun": document.dry_run,
            "expected": document.expected,
        }),
        document.dry_run,
    );
    let mut response = decide(&api, engine, caller, document).await.into_response();
    response.extensions_mut().insert(details);
    Ok(response)
}

/// Counts what an action would do, and starts it unless it is a dry run.
async fn decide(
    api: &Api,
    engine: Engine,
    caller: Caller,
    document: ActionDocument,
) -> Result<Response, Problem> {
    let reason = document.reason.filter(|reason| !reason.is_empty());
    if reason
        .as_ref()
        .is_some_and(|text| text.len() > MAX_REASON_BYTES)
    {
        return Err(problems::invalid_action(format!(
            "reason is longer than {MAX_REASON_BYTES} bytes"
        )));
    }
    let request = Request {
        action: document.action,
        force: document.force,
        filter: Parameters::of_object(&document.filter, &FILTER_PARAMETERS)?.filter()?,
        reason,
        caller,
    };
    if request.force && request.action != Action::Reset {
        return Err(problems::invalid_action(
            "force means nothing without the action reset".to_owned(),
        ));
    }
    if !document.dry_run && document.expected.is_none() {
        return Err(problems::expected_missing());
    }
    let (app, counted) = (api.app.clone(), request.clone());
    let seen = engine.clone();
    let foreseen = api
        .status
        .scan(move || counted.foresee(&app, &seen))
        .await?;
    let matched = foreseen.matched.len();
    if document.dry_run {
        let refusable = foreseen.refusable.into_iter();
        let document = CountDocument {
            matched,
            refusable: refusable
                .map(|(detail, count)| RefusableDocument { detail, count })
                .collect(),
        };
        return Ok(answer_document(StatusCode::OK, &document));
    }
    let is_expected = |expected: u64| usize::try_from(expected).is_ok_and(|count| count == matched);
    if let Some(expected) = document.expected.filter(|expected| !is_expected(*expected)) {
        return Err(problems::count_changed(expected, matched));
    }
    let operation = api
        .operations
        .begin(&api.app, &engine, request, foreseen.matched)
        .map_err(|TooMany { maximum }| problems::too_many_operations(maximum))?;
    let document = BegunDocument {
        operation: &operation.id,
    };
    let mut answer = answer_document(StatusCode::ACCEPTED, &document);
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/operations/{}", operation.id)) {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    Ok(answer)
}

/// How far an operation is
///
/// The latest 100 that ended are kept until the engine ends.
#[utoipa::path(
    get,
    path = "/api/v1/operations/{id}",
    operation_id = "getOperation",
    tag = "operator",
    params(("id" = String, Path, description = "The operation")),
    responses(
        (status = 200, description = "How far it is", body = OperationDocument),
        (status = 404, description = "There is no such operation, or none any more", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn get(
    Extract(api): Extract<Api>,
    Checked(Path(id)): Checked<Path<String>>,
) -> Result<Response, Problem> {
    let operation = find(&api, &id)?;
    let document = OperationDocument::new(&operation, operation.progress());
    Ok(answer_document(StatusCode::OK, &document))
}

/// Stop an operation
///
/// No more workspaces have their turn; what is under way ends. The answer waits up to 5 s for that, and says
/// `running` where it takes longer. One that is over stays as it is.
#[utoipa::path(
    delete,
    path = "/api/v1/operations/{id}",
    operation_id = "stopOperation",
    tag = "operator",
    params(("id" = String, Path, description = "The operation")),
    responses(
        (status = 200, description = "How far it came", body = OperationDocument),
        (status = 404, description = "There is no such operation, or none any more", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn stop(
    Extract(api): Extract<Api>,
    Checked(Path(id)): Checked<Path<String>>,
) -> Result<Response, Problem> {
    let operation = find(&api, &id)?;
    operation.stop(STOP_PATIENCE).await;
    let document = OperationDocument::new(&operation, operation.progress());
    Ok(answer_document(StatusCode::OK, &document))
}

fn find(api: &Api, id: &str) -> Result<Arc<Operation>, Problem> {
    api.operations
        .get(id)
        .ok_or_else(|| problems::unknown_operation(id))
}
