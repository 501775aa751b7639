//! The caller's name and rights.

use crate::access::{Caller, Right};
use axum::{Extension, http::StatusCode, response::Response};
use serde::Serialize;
use utoipa::ToSchema;
use workspace_status_http::{ProblemDocument, answer_document};

/// Who the caller is, and what it may do.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Me)]
struct MeDocument<'a> {
    /// Name of the token, or in the client certificate; `anonymous` where there is neither.
    name: &'a str,
    /// Its role.
    #[schema(example = "operator")]
    role: &'static str,
    /// Its rights: `view` (status, lists, history, metrics), `read` (entities, dead letters), `produce` (events),
    /// `operate` (actions).
    rights: Vec<&'static str>,
    /// What the ids of its workspaces begin with; null where it may reach all.
    #[schema(required)]
    prefix: Option<&'a str>,
}

/// Who the caller is, and what it may do
#[utoipa::path(
    get,
    path = "/api/v1/me",
    operation_id = "getMe",
    tag = "node",
    responses(
        (status = 200, description = "Name and rights of the caller", body = MeDocument),
        (status = 401, description = "The caller has no role", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn me(Extension(caller): Extension<Caller>) -> Response {
    let role = caller.role();
    let document = MeDocument {
        name: caller.name(),
        role: role.as_str(),
        rights: role.rights().iter().copied().map(Right::as_str).collect(),
        prefix: caller.prefix(),
    };
    answer_document(StatusCode::OK, &document)
}
