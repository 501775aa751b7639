//! An operator's actions on one workspace: load, unload, reload, skip, reset, delete.

use super::Api;
use crate::problems;
use axum::{
    extract::{RawQuery, State as Extract},
    http::StatusCode,
    response::Response,
};
use utoipa::IntoParams;
use workspace_lifecycle::Command;
use workspace_status::WorkspaceId;
use workspace_status_http::{
    Parameters, Problem, ProblemDocument, StatusDocument, WorkspaceIdPath,
};

/// Defines a route for each action: they differ in the command, and in the meaning of the answer.
macro_rules! actions {
    ($(
        $(#[$documentation:meta])*
        $name:ident at $path:literal as $operation:literal does $command:expr,
        answers $meaning:literal $(or CONFLICT $conflict:literal)?;
    )*) => {$(
        $(#[$documentation])*
        #[utoipa::path(
            post,
            path = $path,
            operation_id = $operation,
            tag = "operator",
            params(("id" = String, Path, description = "The workspace")),
            responses(
                (status = 200, description = $meaning, body = StatusDocument),
                (status = 400, description = "An invalid id", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 404, description = "Neither the store nor the log knows the workspace", body = ProblemDocument, content_type = "application/problem+json"),
                $((status = CONFLICT, description = $conflict, body = ProblemDocument, content_type = "application/problem+json"),)?
                (status = 503, description = "The engine is starting, stopping or too busy, or does not own the workspace", body = ProblemDocument, content_type = "application/problem+json"),
            )
        )]
        pub(super) async fn $name(
            Extract(api): Extract<Api>,
            WorkspaceIdPath(id): WorkspaceIdPath,
        ) -> Result<Response, Problem> {
            act(&api, &id, $command).await?;
            Ok(api.status.status_answer(StatusCode::OK, &id).await)
        }
    )*};
}

actions! {
    /// Load a workspace now, before others
    ///
    /// A second request joins the load under way; a workspace that is ready stays so. Answered when the
    /// load is requested: wait with `GET …/status?waitFor=ready`.
    load at "/api/v1/workspaces/{id}/load" as "loadWorkspace" does Command::Load,
    answers "It is requested: the status of the workspace";

    /// Save a workspace and take it out of memory
    ///
    /// It stays out, also over a restart, until a request needs it; its events wait in the log. One that
    /// is not in memory (it waits, is retried or parked) stays out until the next start at the latest.
    /// Answered when it is out.
    unload at "/api/v1/workspaces/{id}/unload" as "unloadWorkspace" does Command::Unload,
    answers "It is out of memory: its status is `unknown` then";

    /// Save a workspace and load it again
    ///
    /// Also the way out of `error` once its cause is removed. Answered when the load is requested.
    reload at "/api/v1/workspaces/{id}/reload" as "reloadWorkspace" does Command::Reload,
    answers "It is requested: the status of the workspace";

    /// Skip the event that a workspace cannot apply
    ///
    /// The event goes into the dead-letter log, and the workspace continues after it. Answered when that is durable.
    skip at "/api/v1/workspaces/{id}/skip" as "skipEvent" does Command::Skip,
    answers "It is skipped: the status of the workspace"
    or CONFLICT "It is not stopped at an event that it cannot apply";
}

/// How to reset.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query; Parameters reads it")]
struct ResetParameters {
    /// Also where the log no longer reaches back to the first event of the workspace: it is rebuilt from the events
    /// that are left. False if not given.
    force: Option<bool>,
}

const FORCE: &str = "force";

/// Forget what is stored of a workspace and rebuild it from the log
///
/// History and dead letters stay. Refused where the log no longer reaches back to its first event, unless `force`:
/// what only the store held is lost then. Answered when what was stored is erased; wait with
/// `GET …/status?waitFor=ready`.
#[utoipa::path(
    post,
    path = "/api/v1/workspaces/{id}/reset",
    operation_id = "resetWorkspace",
    tag = "operator",
    params(("id" = String, Path, description = "The workspace"), ResetParameters),
    responses(
        (status = 200, description = "It is rebuilt: the status of the workspace", body = StatusDocument),
        (status = 400, description = "An invalid id or parameter", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "Neither the store nor the log knows the workspace", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 504, description = "Not done in time: it continues", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The log no longer reaches back to its first event: `firstOffset`, `lowWatermark`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The engine is starting, stopping or too busy, or does not own the workspace", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn reset(
    Extract(api): Extract<Api>,
    WorkspaceIdPath(id): WorkspaceIdPath,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let parameters = Parameters::read(query.as_deref(), &[FORCE])?;
    let force = parameters.truth(FORCE)?.unwrap_or_default();
    act(&api, &id, Command::Reset { force }).await?;
    Ok(api.status.status_answer(StatusCode::OK, &id).await)
}

/// Delete a workspace
///
/// Its state, history and dead letters. Events that are appended later begin a new workspace of that name. Answered
/// when it is durable; may be repeated.
#[utoipa::path(
    delete,
    path = "/api/v1/workspaces/{id}",
    operation_id = "deleteWorkspace",
    tag = "operator",
    params(("id" = String, Path, description = "The workspace")),
    responses(
        (status = 204, description = "It is deleted"),
        (status = 400, description = "An invalid id", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "Neither the store nor the log knows the workspace", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The engine is starting, stopping or too busy, or does not own the workspace", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn delete(
    Extract(api): Extract<Api>,
    WorkspaceIdPath(id): WorkspaceIdPath,
) -> Result<StatusCode, Problem> {
    act(&api, &id, Command::Delete).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// As [`delete`], for a workspace whose name is also a route of its own below `/api/v1/workspaces/`.
pub(super) async fn delete_statuses(Extract(api): Extract<Api>) -> Result<StatusCode, Problem> {
    let id = WorkspaceId::new("statuses").map_err(|_| problems::failed())?;
    delete(Extract(api), WorkspaceIdPath(id)).await
}

async fn act(api: &Api, id: &WorkspaceId, command: Command) -> Result<(), Problem> {
    let engine = api.app.working_engine()?;
    // The workspace may be known only by an event that was just acknowledged.
    api.known(id, api.cold_read_deadline()).await?;
    engine
        .command(id, command)
        .await
        .map_err(|error| problems::action(id, &error))
}
