//! The form of every error over HTTP: RFC 9457 `application/problem+json`.
//!
//! A [`ProblemType`] is a constant (its URI, status and title never change). A [`Problem`] is one
//! occurrence of it: what was wrong this time, and the members that help to correct it.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// The media type of every problem.
pub const CONTENT_TYPE_PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The `Cache-Control` of every answer of this API: a status is true only now.
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// A kind of error, which a client's program may branch on.
///
/// ```
/// use axum::http::StatusCode;
/// use workspace_status_http::{Problem, ProblemType};
///
/// const GAP: ProblemType =
///     ProblemType::new("/problems/sequence-gap", StatusCode::CONFLICT, "Sequence gap");
/// let problem = Problem::new(&GAP, "the producer skipped a request").with("expectedSequence", 7);
/// assert_eq!(problem.status(), StatusCode::CONFLICT);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProblemType {
    uri: &'static str,
    status: StatusCode,
    title: &'static str,
}

impl ProblemType {
    /// A kind of error; `uri` is a stable relative name such as `/problems/invalid-cursor`.
    pub const fn new(uri: &'static str, status: StatusCode, title: &'static str) -> Self {
        Self { uri, status, title }
    }

    /// The `type` member: a relative URI that does not change between releases.
    pub const fn uri(&self) -> &'static str {
        self.uri
    }

    /// The HTTP status of all problems of this type.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The `title` member, the same for every occurrence.
    pub const fn title(&self) -> &'static str {
        self.title
    }
}

macro_rules! problem_types {
    ($($(#[$doc:meta])* $name:ident = $uri:literal, $status:ident, $title:literal;)*) => {
        /// The types of problem that any route may answer with.
        pub mod types {
            use super::{ProblemType, StatusCode};
            $($(#[$doc])* pub const $name: ProblemType =
                ProblemType::new(concat!("/problems/", $uri), StatusCode::$status, $title);)*
            /// All of the above, in this order.
            pub const ALL: &[ProblemType] = &[$($name),*];
        }
    };
}

problem_types! {
    /// No route of this server has this path.
    ROUTE_NOT_FOUND = "route-not-found", NOT_FOUND, "No such route";
    /// The path exists, but not with this method; the `Allow` header names its methods.
    METHOD_NOT_ALLOWED = "method-not-allowed", METHOD_NOT_ALLOWED, "Method not allowed";
    /// The body is over the limit.
    BODY_TOO_LARGE = "body-too-large", PAYLOAD_TOO_LARGE, "Body too large";
    /// The body's media type is missing, or the route does not read it.
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "Unsupported media type";
    /// The body could not be read or is not what the route expects.
    INVALID_BODY = "invalid-body", BAD_REQUEST, "Invalid body";
    /// A path segment is not percent-encoded UTF-8 or not of the expected type.
    INVALID_PATH = "invalid-path", BAD_REQUEST, "Invalid path";
    /// A query parameter is unknown, repeated, or has an invalid value.
    INVALID_PARAMETER = "invalid-parameter", BAD_REQUEST, "Invalid query parameter";
    /// The cursor was not made by this route.
    INVALID_CURSOR = "invalid-cursor", BAD_REQUEST, "Invalid cursor";
    /// The workspace id is empty, too long, or holds a character that ids cannot hold.
    INVALID_WORKSPACE_ID = "invalid-workspace-id", BAD_REQUEST, "Invalid workspace id";
    /// This node knows nothing of the workspace.
    WORKSPACE_UNKNOWN = "workspace-unknown", NOT_FOUND, "Unknown workspace";
    /// As many such requests as the limit allows are under way already.
    TOO_MANY_REQUESTS_AT_ONCE = "too-many-at-once", SERVICE_UNAVAILABLE, "Too many at once";
    /// The data for the answer cannot be read at present.
    UNAVAILABLE = "unavailable", SERVICE_UNAVAILABLE, "Unavailable";
    /// A defect of this server, never of the request.
    INTERNAL = "internal", INTERNAL_SERVER_ERROR, "Internal error";
}

/// One error, ready to be answered.
///
/// It may have members of its own beside the five of the RFC; a member with the name of one of
/// those is ignored.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem(Box<Inner>);

#[derive(Debug, Clone, PartialEq)]
struct Inner {
    kind: ProblemType,
    detail: Cow<'static, str>,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// An occurrence of `kind`; `detail` says what was wrong this time, for a human.
    pub fn new(kind: &ProblemType, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind: *kind,
            detail: detail.into(),
            members: Map::new(),
            headers: Vec::new(),
        }))
    }

    /// Adds a member that helps a program to correct the request.
    ///
    /// A value that cannot be JSON (a map with keys that are not strings) becomes null.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        self.0.members.insert(name.to_owned(), value);
        self
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// Sets when to retry, as the header `Retry-After` (whole seconds, at least 1) and the member
    /// `retryAfterSeconds`.
    #[must_use]
    pub fn retry_after(self, after: Duration) -> Self {
        let seconds = after.as_secs().max(1);
        self.with("retryAfterSeconds", seconds)
            .with_header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Its type.
    pub fn kind(&self) -> &ProblemType {
        &self.0.kind
    }

    /// The HTTP status it is answered with.
    pub fn status(&self) -> StatusCode {
        self.0.kind.status
    }

    /// What was wrong this time.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The JSON document.
    pub fn to_bytes(&self) -> Vec<u8> {
        let inner = &*self.0;
        let mut document = Map::new();
        document.insert("type".to_owned(), inner.kind.uri.into());
        document.insert("title".to_owned(), inner.kind.title.into());
        document.insert("status".to_owned(), inner.kind.status.as_u16().into());
        document.insert("detail".to_owned(), (&*inner.detail).into());
        for (name, value) in &inner.members {
            document
                .entry(name.clone())
                .or_insert_with(|| value.clone());
        }
        // A map of strings to values always serialises.
        serde_json::to_vec(&document).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_bytes()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, CONTENT_TYPE_PROBLEM);
        headers.insert(CACHE_CONTROL, NO_STORE);
        for (name, value) in self.0.headers {
            headers.insert(name, value);
        }
        response
    }
}

/// What went wrong, by RFC 9457; every type of problem adds the members that help.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument {
    /// A stable relative name of the kind of error, for programs.
    #[schema(example = "/problems/invalid-parameter")]
    pub r#type: &'static str,
    /// The kind of error, for humans; the same for every occurrence.
    #[schema(example = "Invalid query parameter")]
    pub title: &'static str,
    /// The HTTP status.
    #[schema(example = 400)]
    pub status: u16,
    /// What was wrong this time.
    pub detail: String,
    /// The members that help, such as `parameter` and `allowed`.
    #[serde(flatten)]
    pub members: Map<String, Value>,
}

/// Answers a path that no route has.
pub async fn route_not_found(uri: Uri) -> Problem {
    unknown_route(uri.path())
}

/// Answers a method that the route does not have; the router adds the `Allow` header.
pub async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    unknown_method(&method, uri.path())
}

/// No route has this path.
pub fn unknown_route(path: &str) -> Problem {
    Problem::new(
        &types::ROUTE_NOT_FOUND,
        "no route has this path; /openapi.json lists those there are",
    )
    .with("path", path)
}

/// The route of this path does not have this method; the caller adds the `Allow` header.
pub fn unknown_method(method: &Method, path: &str) -> Problem {
    Problem::new(
        &types::METHOD_NOT_ALLOWED,
        "the route does not have this method; the Allow header names those it has",
    )
    .with("method", method.as_str())
    .with("path", path)
}

/// Converts an error answer of a foreign handler, such as a served file that does not exist, to a
/// problem; leaves all other answers unchanged.
pub(crate) fn shape_foreign(response: Response) -> Response {
    let status = response.status();
    let is_problem = response.headers().get(CONTENT_TYPE) == Some(&CONTENT_TYPE_PROBLEM);
    if is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let kind = types::ALL
        .iter()
        .find(|kind| kind.status == status)
        .unwrap_or(&types::INTERNAL);
    let mut problem = Problem::new(kind, "there is nothing here");
    if let Some(allow) = response.headers().get(ALLOW) {
        problem = problem.with_header(ALLOW, allow.clone());
    }
    problem.into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_holds_the_members_of_the_rfc_and_its_own() {
        let problem = Problem::new(&types::INVALID_PARAMETER, "no such state")
            .with("parameter", "state")
            .with("status", 200);
        let document: Value = serde_json::from_slice(&problem.to_bytes()).unwrap();
        assert_eq!(
            document,
            serde_json::json!({
                "type": "/problems/invalid-parameter",
                "title": "Invalid query parameter",
                "status": 400,
                "detail": "no such state",
                "parameter": "state",
            })
        );
    }

    #[test]
    fn no_two_types_share_a_name() {
        let mut names: Vec<_> = types::ALL.iter().map(ProblemType::uri).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), types::ALL.len());
    }
}
