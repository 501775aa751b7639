//! The ids of all workspaces.

use super::{Api, paging};
use crate::lists;
use axum::{
    extract::{RawQuery, State as Extract},
    http::StatusCode,
    response::Response,
};
use paging::Paging;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use workspace_status::{PageQuery, WorkspaceId};
use workspace_status_http::{
    Parameters, Problem, ProblemDocument, answer_document, invalid_cursor,
};

const SIZE: paging::Size = paging::Size {
    usual: 1_000,
    most: 10_000,
};
const PAGES: &str = "workspaces";
const PREFIX: &str = "prefix";

/// Which ids.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query; Parameters reads it")]
struct ListParameters {
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
///
/// Also of those that are not in memory, such as one that an operator unloaded.
#[utoipa::path(
    get,
    path = "/api/v1/workspaces",
    operation_id = "listWorkspaces",
    tag = "workspaces",
    params(ListParameters),
    responses(
        (status = 200, description = "A page of ids", body = WorkspacesDocument),
        (status = 400, description = "An invalid parameter", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The engine is starting, or too many lists are made", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    Extract(api): Extract<Api>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let parameters = Parameters::read(query.as_deref(), &[PREFIX, paging::LIMIT, paging::CURSOR])?;
    let paging = Paging::read(&parameters, PAGES.to_owned(), SIZE)?;
    let after = paging.after.as_deref().map(WorkspaceId::new).transpose();
    let query = PageQuery {
        after: after.map_err(|_| invalid_cursor())?,
        prefix: parameters.one(PREFIX)?.map(str::to_owned),
        limit: paging.limit,
        ..PageQuery::default()
    };
    // Before it is open, the engine knows no workspaces.
    api.app.engine()?;
    let app = api.app.clone();
    let walk = move || (lists::ids(&app, &query), lists::counts(&app).total());
    let (page, total_count) = api.status.scan(walk).await?;
    let document = WorkspacesDocument {
        next_cursor: page.next.map(|last| paging.cursor(&last)),
        total_count,
        workspaces: page.ids,
    };
    Ok(answer_document(StatusCode::OK, &document))
}
