//! The steps before a request is routed: the limit on its URI, access control, the permit of its connection, and a
//! log line at level debug.
//!
//! As axum middleware, each of these would box the whole router once more.

use super::answer::{AnswerBody, Busy, count_memory, uncounted};
use super::connection_permits::{Claim, ConnectionPermit, Turn};
use super::leftover::{Leftover, RequestBody};
use crate::access::{Access, Action, Caller, Peer};
use crate::app::App;
use crate::problems;
use axum::Router;
use axum::http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use parking_lot::Mutex;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tower::Service as _;
use workspace_status_http::{Problem, catch_panics};

/// Longest path with its query: type and id of an entity have at most 4,096 bytes each, and three
/// times as many when percent-encoded. The HTTP library answers a head above its own limit without an
/// error text.
const MAX_URI_BYTES: usize = 32 << 10;

/// The router and the steps before it, for the requests of one connection.
#[derive(Clone)]
pub(super) struct Front(Arc<Steps>);

/// What the requests of a connection share. A request clones one counter of its connection: those of the parts are
/// shared by all connections, and two cores that change them wait for each other.
pub(super) struct Steps {
    pub(super) app: App,
    /// Never contended: a connection has one request at a time. A clone would change a counter that all share.
    pub(super) router: Mutex<Router>,
    pub(super) access: Arc<Access>,
    pub(super) peer: Arc<Peer>,
    pub(super) permit: Arc<ConnectionPermit>,
    pub(super) leftover: Arc<Leftover>,
}

/// A request that passed the access checks.
struct Checked {
    /// Its route needs no right.
    is_open: bool,
    /// Passed to the handler, where the route allows it.
    caller: Option<Caller>,
    action: Option<Action>,
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let steps = Arc::clone(&self.0);
        Box::pin(async move { Ok(steps.answer(request).await) })
    }
}

impl Front {
    pub(super) fn new(steps: Steps) -> Self {
        Self(Arc::new(steps))
    }
}

impl Steps {
    async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let awaits_continue = request.headers().contains_key(header::EXPECT);
        let leftover = Arc::clone(&self.leftover);
        let request = request.map(|body| RequestBody::new(body, awaits_continue, leftover));
        let needs_handshake = self.access.needs_handshake(&self.peer);
        let checked = self.check(&request);
        let claim = match &checked {
            Err(_) => Claim::Refusal,
            Ok(_) if is_probe(request.method(), request.uri()) => Claim::Probe,
            Ok(checked) if checked.is_open => Claim::Open,
            Ok(_) => Claim::Right,
        };
        let turn = self.permit.begin(claim).await;
        let response = match checked {
            Err(refusal) => {
                drop(request);
                refusal.into_response()
            }
            Ok(checked) => self.answer_checked(request, checked, turn).await,
        };
        if response.status() == StatusCode::REQUEST_TIMEOUT {
            // Its rest is not waited for again.
            self.leftover.discard();
        }
        let mut response = match claim {
            // Small or static: it holds no memory of its own.
            Claim::Probe | Claim::Refusal | Claim::Open => uncounted(response),
            Claim::Right => count_memory(&self.app, response),
        };
        response
            .body_mut()
            .keep_busy(Busy(Arc::clone(&self.permit)));
        if turn != Turn::Served || needs_handshake {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }

    /// Decides from the head of a request whether it is routed.
    fn check(&self, request: &Request<RequestBody>) -> Result<Checked, Problem> {
        let uri = request.uri();
        let bytes = uri.path().len() + uri.query().map_or(0, |query| query.len() + 1);
        if bytes > MAX_URI_BYTES {
            return Err(problems::uri_too_long(bytes, MAX_URI_BYTES));
        }
        let admitted = self.access.admit(request, &self.peer)?;
        Ok(Checked {
            is_open: admitted.route.is_open(),
            caller: admitted.for_handler(),
            action: Action::of(&admitted, uri.query(), self.peer.remote),
        })
    }

    async fn answer_checked(
        &self,
        mut request: Request<RequestBody>,
        checked: Checked,
        turn: Turn,
    ) -> Response {
        let mut response = match turn {
            Turn::Served | Turn::LastServed => {
                if let Some(caller) = checked.caller {
                    request.extensions_mut().insert(caller);
                }
                self.logged(request).await
            }
            Turn::Refused => {
                drop(request);
                problems::connections_taken(self.app.limits().max_connections).into_response()
            }
        };
        if let Some(action) = checked.action {
            action.answered(&mut response);
        }
        response
    }

    async fn logged(&self, request: Request<RequestBody>) -> Response {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return self.route(request).await;
        }
        let begun = Instant::now();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let response = self.route(request).await;
        tracing::debug!(
            %method,
            path,
            status = response.status().as_u16(),
            micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            "request"
        );
        response
    }

    async fn route(&self, request: Request<RequestBody>) -> Response {
        // A router is always ready, so `poll_ready` is not needed. The handler runs in the future, without the lock.
        match catch_panics(|| self.router.lock().call(request)).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Whether a request is a cheap probe of this process or of one of its workspaces.
fn is_probe(method: &Method, uri: &Uri) -> bool {
    let path = uri.path();
    let of_workspace = || {
        let id = path
            .strip_prefix("/api/v1/workspaces/")
            .and_then(|rest| rest.strip_suffix("/ready"));
        id.is_some_and(|id| !id.contains('/'))
    };
    matches!(*method, Method::GET | Method::HEAD)
        && (matches!(path, "/livez" | "/readyz" | "/startupz" | "/recoveredz") || of_workspace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_distinguished_from_other_requests() {
        for (method, uri, expected) in [
            (Method::GET, "/livez", true),
            (Method::HEAD, "/readyz?verbose", true),
            (Method::GET, "/api/v1/workspaces/a/ready", true),
            (Method::POST, "/livez", false),
            (Method::GET, "/metrics", false),
            (Method::GET, "/api/v1/workspaces/a/b/ready", false),
            (Method::GET, "/api/v1/workspaces/a/status", false),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(is_probe(&method, &uri), expected, "{method} {uri}");
        }
    }
}
