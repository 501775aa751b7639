//! The ids of all workspaces.

use super::{cursor, json, page_limit};
use crate::app::App;
use axum::{
    extract::{Query, State as Extract},
    http::StatusCode,
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use workspace_status::{PageQuery, StateSet, WorkspaceId};
use workspace_status_http::{Checked, Problem, ProblemDocument};

const LIMIT_DEFAULT: usize = 1_000;
const LIMIT_MOST: usize = 10_000;
const PAGES: &str = "workspaces";

/// Which ids.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// Only ids that begin so.
    prefix: Option<String>,
    /// At most so many, 1 to 10,000; 1,000 if not given.
    limit: Option<usize>,
    /// Where the page before ended, as its `nextCursor`.
    cursor: Option<String>,
}

/// A page of ids.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Workspaces)]
struct WorkspacesDocument {
    /// The ids, ordered bytewise.
    #[schema(value_type = Vec<String>)]
    workspaces: Vec<WorkspaceId>,
    /// How many workspaces there are in all.
    total_count: usize,
    /// The cursor of the next page; null on the last.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// The ids of all workspaces
#[utoipa::path(
    get,
    path = "/api/v1/workspaces",
    operation_id = "listWorkspaces",
    tag = "workspaces",
    params(Parameters),
    responses(
        (status = 200, description = "A page of ids", body = WorkspacesDocument),
        (status = 400, description = "A parameter that cannot be", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    Extract(app): Extract<App>,
    Checked(Query(parameters)): Checked<Query<Parameters>>,
) -> Result<Response, Problem> {
    let after = cursor::decode(PAGES, parameters.cursor.as_deref())?
        .map(|position| WorkspaceId::new(&position))
        .transpose()
        .map_err(|_| crate::problems::invalid_cursor())?;
    let query = PageQuery {
        after,
        limit: page_limit(parameters.limit, LIMIT_DEFAULT, LIMIT_MOST)?,
        prefix: parameters.prefix,
        states: StateSet::default(),
        healthy: None,
    };
    // A walk over all ids; with a million of them it would hold up other requests here.
    let tracker = app.tracker().clone();
    let page = tokio::task::spawn_blocking(move || tracker.ids(&query))
        .await
        .map_err(|_| crate::problems::failed())?;
    let document = WorkspacesDocument {
        next_cursor: page.next.map(|last| cursor::encode(PAGES, last.as_str())),
        total_count: app.tracker().count(),
        workspaces: page.ids,
    };
    Ok(json(StatusCode::OK, &document))
}
