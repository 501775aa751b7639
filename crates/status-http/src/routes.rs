//! The routes of workspaces: status, statuses, ready, history. (`watch` and `explain` will be
//! added here.)

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequestParts, Path, RawQuery, State as Extract};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use workspace_status::{PageQuery, Snapshot, State, WaitOutcome, WorkspaceId};

use crate::api::{ApiState, StatusApi, answer_document};
use crate::cursor::{encode_cursor, invalid_cursor};
use crate::document::{ErrorKindName, ReadyDocument, StateName, StatusDocument, StatusesDocument};
use crate::extract::{WorkspaceIdPath, invalid_workspace_id};
use crate::history::{HistoryDocument, PhaseDocument};
use crate::limits::PAGE_DEFAULT;
use crate::problem::{Problem, ProblemDocument, types};
use crate::query::{FILTER_PARAMETERS, Parameters, meaningless_without};
use crate::source::{HistoryError, HistoryQuery, Wait};

pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::default()
        .routes(routes!(statuses))
        .routes(routes!(status))
        .routes(routes!(ready))
        .routes(routes!(history))
}

/// The `{id}` of a route, not validated: it is looked up first and validated only if nothing is
/// found, because an id that is found is valid.
struct LookupId(String);

impl<S: Send + Sync> FromRequestParts<S> for LookupId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(id) = Path::from_request_parts(parts, state).await?;
        Ok(Self(id))
    }
}

impl LookupId {
    fn checked(&self) -> Result<WorkspaceId, Problem> {
        WorkspaceId::new(&self.0).map_err(|error| invalid_workspace_id(&self.0, &error))
    }
}

/// What a request for a status may contain besides.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query; Parameters reads it")]
struct StatusParameters {
    /// Wait until the workspace is in this state, or in one of several with commas between. Also
    /// waits for a workspace that does not exist yet; until then it is `unknown`.
    #[param(rename = "waitFor", value_type = Option<Vec<StateName>>, style = Form, explode = false)]
    wait_for: Option<String>,
    /// End the wait as soon as the workspace is in this state, or in one of several.
    #[param(rename = "failOn", value_type = Option<Vec<StateName>>, style = Form, explode = false)]
    fail_on: Option<String>,
    /// How long to wait, at most 10 minutes unless the server is configured otherwise; 30s if not given.
    #[param(example = "30s")]
    timeout: Option<String>,
}

const WAIT_FOR: &str = "waitFor";
const FAIL_ON: &str = "failOn";
const TIMEOUT: &str = "timeout";

/// Name of the list for its cursors.
const STATUSES: &str = "statuses";

/// The status of a workspace
///
/// With `waitFor` the request is answered as soon as the workspace is in one of those states, or in one of
/// `failOn`, or when the time is over; it has the member `timedOut` then. All three answer 200 (or
/// 404 where the workspace is still unknown): the state distinguishes them.
#[utoipa::path(
    get,
    path = "/api/v1/workspaces/{id}/status",
    operation_id = "getStatus",
    tag = "workspaces",
    params(("id" = String, Path, description = "The workspace"), StatusParameters),
    responses(
        (status = 200, description = "Its status", body = StatusDocument),
        (status = 404, description = "It is not in memory on this node: the same document, in state unknown, with the reason and what was last known of it", body = StatusDocument),
        (status = 400, description = "An invalid id or parameter", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Too many requests wait, or the node is stopping", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn status(
    Extract(api): Extract<Arc<ApiState>>,
    id: LookupId,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    if let Some(query) = query
        && let Some(wait) = read_wait(&api, &id, &query)?
    {
        // On the heap, so that the future of a request that does not wait stays small.
        return Box::pin(waited(&api, wait)).await;
    }
    if let Some(snapshot) = api.source.status(&id.0) {
        let document = StatusDocument::new(&snapshot);
        return Ok(answer_document(code_of(&snapshot), &document));
    }
    let id = id.checked()?;
    Ok(unknown(&api, StatusCode::NOT_FOUND, &id, None).await)
}

/// A workspace that is not in memory is answered with the code of an unknown one.
fn code_of(snapshot: &Snapshot) -> StatusCode {
    if snapshot.absence().is_some() {
        StatusCode::NOT_FOUND
    } else {
        StatusCode::OK
    }
}

/// The answer for a workspace that has no status here; `timed_out` only after a wait.
async fn unknown(
    api: &ApiState,
    code: StatusCode,
    id: &WorkspaceId,
    timed_out: Option<bool>,
) -> Response {
    let message = api.source.unknown(id).await;
    let document = StatusDocument {
        timed_out,
        ..StatusDocument::unknown(id, &message, api.source.tracker().clock().wall())
    };
    answer_document(code, &document)
}

impl StatusApi {
    /// Answers with the status of a workspace, in the document of `GET …/status` with the caller's
    /// code: for a route that changes a workspace and returns the result.
    pub async fn status_answer(&self, code: StatusCode, id: &WorkspaceId) -> Response {
        match self.0.source.status(id) {
            Some(snapshot) => answer_document(code, &StatusDocument::new(&snapshot)),
            None => unknown(&self.0, code, id, None).await,
        }
    }
}

fn read_wait(api: &ApiState, id: &LookupId, query: &str) -> Result<Option<Wait>, Problem> {
    let parameters = Parameters::read(Some(query), &[WAIT_FOR, FAIL_ON, TIMEOUT])?;
    let until = parameters.states(WAIT_FOR)?;
    let fail_on = parameters.states(FAIL_ON)?;
    let timeout = parameters.duration(TIMEOUT, api.limits.wait)?;
    if until.is_empty() {
        return match [(FAIL_ON, !fail_on.is_empty()), (TIMEOUT, timeout.is_some())]
            .into_iter()
            .find(|(_, is_given)| *is_given)
        {
            Some((name, _)) => Err(meaningless_without(name, WAIT_FOR)),
            None => Ok(None),
        };
    }
    let timeout = timeout.unwrap_or(api.limits.wait_default.min(api.limits.wait));
    Ok(Some(Wait {
        id: id.checked()?,
        until,
        fail_on,
        deadline: Instant::now() + timeout,
    }))
}

async fn waited(api: &ApiState, wait: Wait) -> Result<Response, Problem> {
    let _permit = api.admit_wait()?;
    let id = wait.id.clone();
    let (snapshot, timed_out) = match api.source.wait(wait).await? {
        WaitOutcome::Met(snapshot) | WaitOutcome::Failed(snapshot) => (Some(snapshot), false),
        WaitOutcome::Gone => (None, false),
        WaitOutcome::TimedOut(snapshot) => (snapshot, true),
    };
    if let Some(snapshot) = snapshot.or_else(|| api.source.status(&id)) {
        let document = StatusDocument::new(&snapshot).timed_out(timed_out);
        return Ok(answer_document(code_of(&snapshot), &document));
    }
    Ok(unknown(api, StatusCode::NOT_FOUND, &id, Some(timed_out)).await)
}

/// Which statuses a list shows.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query; Parameters reads it")]
struct StatusesParameters {
    /// Only those in this state; may be repeated, or hold several with commas between.
    #[param(value_type = Option<Vec<StateName>>, style = Form, explode = true)]
    state: Option<String>,
    /// Only those that are healthy, or only those that are not.
    healthy: Option<bool>,
    /// Only those whose id begins with this text.
    prefix: Option<String>,
    /// Only those whose id or message contains this text; ASCII letters match in either case.
    q: Option<String>,
    /// Only those of this partition; may be repeated, or hold several with commas between.
    #[param(value_type = Option<Vec<u32>>, style = Form, explode = true)]
    partition: Option<String>,
    /// Only those with this owner; may be repeated, or hold several with commas between.
    #[param(value_type = Option<Vec<String>>, style = Form, explode = true)]
    owner: Option<String>,
    /// Only those in `error` of this kind; may be repeated, or hold several with commas between.
    #[param(rename = "errorKind", value_type = Option<Vec<ErrorKindName>>, style = Form, explode = true)]
    error_kind: Option<String>,
    /// How many at most, from 1 to 1000 unless the server is configured otherwise; 100 if not given.
    #[param(minimum = 1)]
    limit: Option<usize>,
    /// End of the previous page: its nextCursor.
    cursor: Option<String>,
}

/// The statuses of all workspaces
///
/// Those that are known and not in memory are `unknown`, with the reason and what was last known of them. Ordered by
/// id bytewise. `totalCount` and `stateCounts` are of all workspaces, whatever the
/// filters select. A page may be shorter than its limit and still not be the last: that is the one
/// with a `nextCursor` of null.
#[utoipa::path(
    get,
    path = "/api/v1/workspaces/statuses",
    operation_id = "listStatuses",
    tag = "workspaces",
    params(StatusesParameters),
    responses(
        (status = 200, description = "A page of statuses", body = StatusesDocument),
        (status = 400, description = "An invalid parameter", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Too many lists are requested at the same time", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn statuses(
    Extract(api): Extract<Arc<ApiState>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = read_page_query(&api, query.as_deref())?;
    let page = api.page(query).await?;
    // Count after the page was selected, so that a workspace on the first page is always counted.
    let counts = api.source.counts();
    let document = StatusesDocument {
        workspaces: &page.snapshots,
        total_count: counts.total(),
        state_counts: counts,
        next_cursor: page.next.map(|after| encode_cursor(STATUSES, &after)),
    };
    Ok(answer_document(StatusCode::OK, &document))
}

fn read_page_query(api: &ApiState, query: Option<&str>) -> Result<PageQuery, Problem> {
    let known = [&FILTER_PARAMETERS[..], &["limit", "cursor"]].concat();
    let parameters = Parameters::read(query, &known)?;
    let after = parameters
        .cursor(STATUSES)?
        .map(|position| WorkspaceId::new(&position).map_err(|_| invalid_cursor()))
        .transpose()?;
    Ok(PageQuery {
        after,
        limit: parameters.limit(
            PAGE_DEFAULT.min(api.limits.status_page),
            api.limits.status_page,
        )?,
        ..parameters.filter()?
    })
}

/// Whether a workspace is ready, for probes
#[utoipa::path(
    get,
    path = "/api/v1/workspaces/{id}/ready",
    operation_id = "getReady",
    tag = "workspaces",
    params(("id" = String, Path, description = "The workspace")),
    responses(
        (status = 200, description = "It is", body = ReadyDocument),
        (status = 503, description = "It is not, or this node knows nothing of it", body = ReadyDocument),
        (status = 400, description = "An invalid id", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn ready(Extract(api): Extract<Arc<ApiState>>, id: LookupId) -> Result<Response, Problem> {
    let state = if let Some(snapshot) = api.source.status(&id.0) {
        snapshot.state()
    } else {
        id.checked()?;
        State::Unknown
    };
    let is_ready = state == State::Ready;
    let document = ReadyDocument {
        workspace_id: &id.0,
        state,
        ready: is_ready,
    };
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok(answer_document(status, &document))
}

/// Which part of a history.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query; Parameters reads it")]
struct HistoryParameters {
    /// How many transitions at most, from 1 to 1000 unless the server is configured otherwise; 100 if not
    /// given.
    #[param(minimum = 1)]
    limit: Option<usize>,
    /// End of the previous page: its nextCursor.
    cursor: Option<String>,
}

/// The transitions of a workspace, oldest first
///
/// Every transition that is kept: a service that embeds its tracker alone keeps the last 20 of a
/// workspace, an engine keeps all.
#[utoipa::path(
    get,
    path = "/api/v1/workspaces/{id}/history",
    operation_id = "getHistory",
    tag = "workspaces",
    params(("id" = String, Path, description = "The workspace"), HistoryParameters),
    responses(
        (status = 200, description = "A page of its history", body = HistoryDocument),
        (status = 400, description = "An invalid id or parameter", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no record of it", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The record cannot be read at present", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn history(
    Extract(api): Extract<Arc<ApiState>>,
    WorkspaceIdPath(id): WorkspaceIdPath,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let parameters = Parameters::read(query.as_deref(), &["limit", "cursor"])?;
    let most = api.limits.history_page;
    let pages = format!("history/{id}");
    let query = HistoryQuery {
        id: id.clone(),
        limit: parameters.limit(PAGE_DEFAULT.min(most), most)?,
        after: parameters.cursor(&pages)?,
    };
    let page = api.source.history(query).await?.ok_or_else(|| {
        Problem::new(
            &types::WORKSPACE_UNKNOWN,
            "there is no record of the workspace",
        )
        .with("workspaceId", &*id)
    })?;
    let is_last = page.next.is_none();
    let before = std::iter::once(None).chain(page.entries.iter().map(Some));
    let mut phases: Vec<_> = page
        .entries
        .iter()
        .zip(before)
        .map(|(entry, before)| PhaseDocument::ended_by(entry, before))
        .collect();
    if is_last && let Some(snapshot) = api.source.status(&id) {
        // A change since the page was read would have ended the last phase of the page.
        let is_of_page = |snapshot: &Snapshot| {
            let last = page.entries.last();
            last.is_none_or(|last| last.to == snapshot.state())
        };
        phases.extend(
            Some(snapshot)
                .filter(is_of_page)
                .map(|snapshot| PhaseDocument::present(&snapshot)),
        );
    }
    let document = HistoryDocument {
        workspace_id: &id,
        transitions: &page.entries,
        phases,
        transitions_total: page.total,
        next_cursor: page
            .next
            .as_deref()
            .map(|place| encode_cursor(&pages, place)),
    };
    Ok(answer_document(StatusCode::OK, &document))
}

impl From<HistoryError> for Problem {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::UnknownPlace => {
                Self::new(&types::INVALID_CURSOR, error.to_string()).with("parameter", "cursor")
            }
            HistoryError::Unavailable(_) => Self::new(&types::UNAVAILABLE, error.to_string())
                .retry_after(std::time::Duration::from_secs(1)),
        }
    }
}
