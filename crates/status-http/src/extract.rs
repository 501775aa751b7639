//! Extractors whose rejections are problems.
//!
//! [`Checked`] wraps any extractor of axum, so that a bad path, query or body is answered as every
//! other error is. [`WorkspaceIdPath`] reads the `{id}` of a route.

use axum::extract::rejection::{
    BytesRejection, JsonRejection, PathRejection, QueryRejection, StringRejection,
};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use workspace_status::{InvalidWorkspaceId, WorkspaceId};

use crate::problem::{Problem, types};

/// An extractor of the request's head whose rejection is answered as a [`Problem`].
///
/// ```
/// use axum::extract::Path;
/// use workspace_status_http::Checked;
///
/// async fn entity(Checked(Path((id, kind))): Checked<Path<(String, String)>>) -> String {
///     format!("{kind} of {id}")
/// }
/// # let _: axum::Router = axum::Router::new().route("/{id}/{kind}", axum::routing::get(entity));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Checked<E>(pub E);

impl<S, E> FromRequestParts<S> for Checked<E>
where
    S: Send + Sync,
    E: FromRequestParts<S>,
    Problem: From<E::Rejection>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(E::from_request_parts(parts, state).await?))
    }
}

/// An extractor of the request's body whose rejection is answered as a [`Problem`]: 413 over the
/// limit, 415 for a media type that the route does not read, 400 for all else.
#[derive(Debug, Clone, Copy)]
pub struct CheckedBody<E>(pub E);

impl<S, E> FromRequest<S> for CheckedBody<E>
where
    S: Send + Sync,
    E: FromRequest<S>,
    Problem: From<E::Rejection>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let declared_bytes = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        E::from_request(request, state)
            .await
            .map(Self)
            .map_err(|rejection| {
                let problem = Problem::from(rejection);
                match declared_bytes {
                    Some(bytes) if problem.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                        problem.with("bodyBytes", bytes)
                    }
                    _ => problem,
                }
            })
    }
}

/// The `{id}` of a route, percent-decoded and valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceIdPath(pub WorkspaceId);

impl<S: Send + Sync> FromRequestParts<S> for WorkspaceIdPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(id) = Path::<String>::from_request_parts(parts, state).await?;
        WorkspaceId::new(&id)
            .map(Self)
            .map_err(|error| invalid_workspace_id(&id, &error))
    }
}

/// The answer to an id that no workspace can have, wherever in a request it stood.
pub fn invalid_workspace_id(id: &str, error: &InvalidWorkspaceId) -> Problem {
    const SHOWN_CHARS: usize = 64;
    let shown: String = id.chars().take(SHOWN_CHARS).collect();
    Problem::new(&types::INVALID_WORKSPACE_ID, error.to_string())
        .with("workspaceId", shown)
        .with("idBytes", id.len())
        .with("expected", "1 to 255 bytes of A-Z a-z 0-9 . _ : -")
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        if rejection.status().is_server_error() {
            return internal(rejection.body_text());
        }
        Self::new(&types::INVALID_PATH, rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(&types::INVALID_PARAMETER, rejection.body_text())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        of_body(rejection.status(), rejection.body_text())
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        of_body(rejection.status(), rejection.body_text())
    }
}

impl From<StringRejection> for Problem {
    fn from(rejection: StringRejection) -> Self {
        of_body(rejection.status(), rejection.body_text())
    }
}

fn of_body(status: StatusCode, detail: String) -> Problem {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(&types::BODY_TOO_LARGE, detail),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(&types::UNSUPPORTED_MEDIA_TYPE, detail),
        status if status.is_server_error() => internal(detail),
        _ => Problem::new(&types::INVALID_BODY, detail),
    }
}

fn internal(detail: String) -> Problem {
    Problem::new(&types::INTERNAL, detail)
}
