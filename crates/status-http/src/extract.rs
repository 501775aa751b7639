//! Extractors whose rejections are problems.
//!
//! [`Checked`] wraps an extractor of axum, so that a bad path is answered as every other error is.
//! [`WorkspaceIdPath`] reads the `{id}` of a route. A query is read by [`Parameters`](crate::Parameters).

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
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

/// The answer to an invalid workspace id, anywhere in a request.
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

fn internal(detail: String) -> Problem {
    Problem::new(&types::INTERNAL, detail)
}
