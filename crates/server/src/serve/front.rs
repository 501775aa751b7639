//! What every request passes before it is routed: a limit on its URI, and a line in the log at level debug.
//!
//! A middleware of axum boxes the whole router once more for each of these.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::time::Instant;

use axum::Router;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use tower::Service as _;

use crate::problems;

/// Longest path with its query: type and id of an entity have at most 4,096 bytes each, and three
/// times as many when each of them is percent-encoded. One over the limit of the whole head is
/// answered by the HTTP library, without a word.
const URI_BYTES_MOST: usize = 32 << 10;

/// The router behind what every request passes.
#[derive(Debug, Clone)]
pub(super) struct Front(pub(super) Router);

impl Service<axum::http::Request<Incoming>> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: axum::http::Request<Incoming>) -> Self::Future {
        let uri = request.uri();
        let bytes = uri.path().len() + uri.query().map_or(0, |query| query.len() + 1);
        if bytes > URI_BYTES_MOST {
            let refusal = problems::uri_too_long(bytes, URI_BYTES_MOST).into_response();
            return Box::pin(ready(Ok(refusal)));
        }
        let mut router = self.0.clone();
        if !tracing::enabled!(tracing::Level::DEBUG) {
            // A router is always ready.
            return Box::pin(router.call(request));
        }
        let begun = Instant::now();
        let method = request.method().clone();
        let path = uri.path().to_owned();
        let answer = router.call(request);
        Box::pin(async move {
            let response = answer.await?;
            tracing::debug!(
                %method,
                path,
                status = response.status().as_u16(),
                micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
                "request"
            );
            Ok(response)
        })
    }
}
