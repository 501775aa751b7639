//! A panic in a handler ends only that request, which is answered.
//!
//! `tower-http` has such a layer, but it puts the body of every answer into two more boxes. This one
//! leaves the answers unchanged.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use tower::{Layer, Service};

use crate::problem::{Problem, types};

/// Answers 500 for a service that panics. The panic hook writes the message to standard error; the
/// client does not get it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CatchPanics;

impl<S> Layer<S> for CatchPanics {
    type Service = Caught<S>;

    fn layer(&self, inner: S) -> Caught<S> {
        Caught(inner)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Caught<S>(S);

impl<S> Service<Request> for Caught<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response;
    type Error = Infallible;
    type Future = CaughtFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The service is not used again after a panic: each request has its own clone.
        catch_panics(|| self.0.call(request))
    }
}

/// The answer of a router, or 500 where it panics: for a server that catches panics once around a router of
/// [`with_problem_fallbacks`](crate::with_problem_fallbacks). The panic hook writes the message to standard error; the
/// client does not get it.
///
/// After a panic, nothing that `call` has changed is used again, other than what it shares with other requests.
pub fn catch_panics<F>(call: impl FnOnce() -> F) -> CaughtFuture<F>
where
    F: Future<Output = Result<Response, Infallible>> + Unpin,
{
    CaughtFuture(catch_unwind(AssertUnwindSafe(call)).ok())
}

/// The future of [`catch_panics`].
// `None` once the service has panicked. The future of a route is `Unpin` and needs no box.
#[must_use = "a future does nothing unless it is awaited"]
pub struct CaughtFuture<F>(Option<F>);

impl<F> fmt::Debug for CaughtFuture<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CaughtFuture")
            .finish_non_exhaustive()
    }
}

impl<F> Future for CaughtFuture<F>
where
    F: Future<Output = Result<Response, Infallible>> + Unpin,
{
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else {
            return Poll::Ready(Ok(failed()));
        };
        // The future is dropped right after a panic, so its inconsistent state is never used.
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(future).poll(context)));
        polled.unwrap_or_else(|_| {
            self.0 = None;
            Poll::Ready(Ok(failed()))
        })
    }
}

fn failed() -> Response {
    Problem::new(
        &types::INTERNAL,
        "the server failed on this request; its log says more",
    )
    .into_response()
}
