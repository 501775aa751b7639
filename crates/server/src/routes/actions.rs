//! What an operator does to a workspace: load, unload, reload, skip.

use super::Api;
use crate::problems;
use axum::{extract::State as Extract, http::StatusCode, response::Response};
use workspace_lifecycle::Command;
use workspace_status::WorkspaceId;
use workspace_status_http::{Problem, ProblemDocument, StatusDocument, WorkspaceIdPath};

/// Makes a route of each action: they differ in what they ask for, and in the code that says it is done.
macro_rules! actions {
    ($(
        $(#[$documentation:meta])*
        $name:ident at $path:literal as $operation:literal does $command:expr,
        answers $done:ident $meaning:literal $(or CONFLICT $conflict:literal)?;
    )*) => {$(
        $(#[$documentation])*
        #[utoipa::path(
            post,
            path = $path,
            operation_id = $operation,
            tag = "operator",
            params(("id" = String, Path, description = "The workspace")),
            responses(
                (status = $done, description = $meaning, body = StatusDocument),
                (status = 400, description = "An id that cannot be", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 404, description = "Nobody knows the workspace", body = ProblemDocument, content_type = "application/problem+json"),
                $((status = CONFLICT, description = $conflict, body = ProblemDocument, content_type = "application/problem+json"),)?
                (status = 503, description = "The engine is starting, stopping or too busy", body = ProblemDocument, content_type = "application/problem+json"),
            )
        )]
        pub(super) async fn $name(
            Extract(api): Extract<Api>,
            WorkspaceIdPath(id): WorkspaceIdPath,
        ) -> Result<Response, Problem> {
            act(&api, &id, $command, StatusCode::$done).await
        }
    )*};
}

actions! {
    /// Load a workspace now, before others
    ///
    /// A second request joins the load under way; a workspace that is ready stays so. Answered when it
    /// is asked for: wait with `GET …/status?waitFor=ready`.
    load at "/api/v1/workspaces/{id}/load" as "loadWorkspace" does Command::Load,
    answers ACCEPTED "It is asked for: where the workspace stands";

    /// Save a workspace and take it out of memory
    ///
    /// It stays out, also over a restart, until somebody asks for it; its events wait in the log. One that
    /// is not in memory (it waits, is retried or parked) stays out until the next start at the latest.
    /// Answered when it is out.
    unload at "/api/v1/workspaces/{id}/unload" as "unloadWorkspace" does Command::Unload,
    answers OK "It is out of memory: its status is `unknown` then";

    /// Save a workspace and load it again
    ///
    /// Also the way out of `error` once its cause is removed. Answered when it is asked for.
    reload at "/api/v1/workspaces/{id}/reload" as "reloadWorkspace" does Command::Reload,
    answers ACCEPTED "It is asked for: where the workspace stands";

    /// Skip the event that a workspace cannot apply
    ///
    /// The event goes into the dead-letter log, and the workspace goes on after it. Answered when that is durable.
    skip at "/api/v1/workspaces/{id}/skip" as "skipEvent" does Command::Skip,
    answers OK "It is skipped: where the workspace stands"
    or CONFLICT "It does not stand at an event that it cannot apply";
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
    Ok(api.status.status_answer(done, id).await)
}
