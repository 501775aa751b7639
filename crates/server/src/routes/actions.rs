//! What an operator does to a workspace: load, unload, reload, skip.

use super::{Api, json_bytes};
use crate::problems;
use axum::{extract::State as Extract, http::StatusCode, response::Response};
use workspace_lifecycle::Command;
use workspace_status::WorkspaceId;
use workspace_status_http::{Checked, Problem, ProblemDocument, WorkspaceIdPath, status_document};

/// Load a workspace now, before others
///
/// A second request joins the load under way; a workspace that is ready stays so. Answered when it
/// is asked for: wait with `GET …/status?waitFor=ready`.
#[utoipa::path(
    post,
    path = "/api/v1/workspaces/{id}/load",
    operation_id = "loadWorkspace",
    tag = "operator",
    params(("id" = String, Path, description = "The workspace")),
    responses(
        (status = 202, description = "It is asked for: the status of the workspace", body = serde_json::Value),
        (status = 404, description = "Nobody knows the workspace", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The engine is starting, stopping or too busy", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn load(
    Extract(api): Extract<Api>,
    Checked(WorkspaceIdPath(id)): Checked<WorkspaceIdPath>,
) -> Result<Response, Problem> {
    act(&api, &id, Command::Load, StatusCode::ACCEPTED).await
}

/// Save a workspace and take it out of memory
///
/// It stays out, also over a restart, until somebody asks for it or an event comes. Answered when it is out.
#[utoipa::path(
    post,
    path = "/api/v1/workspaces/{id}/unload",
    operation_id = "unloadWorkspace",
    tag = "operator",
    params(("id" = String, Path, description = "The workspace")),
    responses(
        (status = 200, description = "It is out of memory: the status of the workspace", body = serde_json::Value),
        (status = 404, description = "Nobody knows the workspace", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The engine is starting, stopping or too busy", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn unload(
    Extract(api): Extract<Api>,
    Checked(WorkspaceIdPath(id)): Checked<WorkspaceIdPath>,
) -> Result<Response, Problem> {
    act(&api, &id, Command::Unload, StatusCode::OK).await
}

/// Save a workspace and load it again
///
/// Also the way out of `error` once its cause is removed. Answered when it is asked for.
#[utoipa::path(
    post,
    path = "/api/v1/workspaces/{id}/reload",
    operation_id = "reloadWorkspace",
    tag = "operator",
    params(("id" = String, Path, description = "The workspace")),
    responses(
        (status = 202, description = "It is asked for: the status of the workspace", body = serde_json::Value),
        (status = 404, description = "Nobody knows the workspace", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The engine is starting, stopping or too busy", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn reload(
    Extract(api): Extract<Api>,
    Checked(WorkspaceIdPath(id)): Checked<WorkspaceIdPath>,
) -> Result<Response, Problem> {
    act(&api, &id, Command::Reload, StatusCode::ACCEPTED).await
}

/// Skip the event that a workspace cannot apply
///
/// The event goes into the dead-letter log, and the workspace goes on after it. Answered when that is durable.
#[utoipa::path(
    post,
    path = "/api/v1/workspaces/{id}/skip",
    operation_id = "skipEvent",
    tag = "operator",
    params(("id" = String, Path, description = "The workspace")),
    responses(
        (status = 200, description = "It is skipped: the status of the workspace", body = serde_json::Value),
        (status = 404, description = "Nobody knows the workspace", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "It does not stand at an event that it cannot apply", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The engine is starting, stopping or too busy", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn skip(
    Extract(api): Extract<Api>,
    Checked(WorkspaceIdPath(id)): Checked<WorkspaceIdPath>,
) -> Result<Response, Problem> {
    act(&api, &id, Command::Skip, StatusCode::OK).await
}

async fn act(
    api: &Api,
    id: &WorkspaceId,
    command: Command,
    done: StatusCode,
) -> Result<Response, Problem> {
    let engine = api.app.working_engine()?;
    // An event that was just acknowledged may be all that makes it known.
    api.known(id, api.cold_read_deadline()).await?;
    engine
        .command(id, command)
        .await
        .map_err(|error| problems::action(id, &error))?;
    let document = match api.app.tracker().snapshot(id.as_str()) {
        Some(snapshot) => status_document(&snapshot),
        // A workspace that was unloaded has no status here any more.
        None => format!(r#"{{"workspaceId":"{id}","state":"unknown","healthy":false}}"#).into(),
    };
    Ok(json_bytes(done, document))
}
