//! Reads the body of a request within its limits: size, memory, and one deadline for the whole body.
//!
//! Memory is reserved for received bytes, not for the declared length: a client that declares much and
//! sends little holds little.

use crate::{
    app::App,
    memory::{Buffer, Reserved},
    problems,
};
use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
use workspace_status_http::Problem;

/// A whole body; its memory stays reserved until it is dropped.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    _memory: Option<Reserved>,
}

/// Checks that a body is declared as JSON. A page of another site cannot send JSON without a CORS preflight.
pub(super) fn check_json(headers: &HeaderMap) -> Result<(), Problem> {
    let found = headers
        .get(header::CONTENT_TYPE)
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let name = found.as_deref().and_then(|value| value.split(';').next());
    if name.is_some_and(|name| name.trim().eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    Err(problems::unsupported_media_type(
        found.as_deref(),
        &["application/json"],
    ))
}

/// Reads a body.
pub(super) async fn read(app: &App, headers: &HeaderMap, mut body: Body) -> Result<Whole, Problem> {
    let limits = app.limits();
    let deadline = Instant::now() + limits.body_timeout;
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let most = match declared.map(usize::try_from) {
        Some(Ok(bytes)) if bytes <= limits.max_body_bytes => bytes,
        Some(_) => return Err(problems::body_too_large(limits.max_body_bytes, declared)),
        None => limits.max_body_bytes,
    };
    let mut buffer = Buffer::new(app.event_memory(), most, 0);
    while let Some(frame) = timeout_at(deadline, body.frame())
        .await
        .map_err(|_| problems::body_timeout(limits.body_timeout))?
    {
        let frame = frame.map_err(|error| problems::body_broken(&error.to_string()))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if buffer.len() + data.len() > most {
            return Err(problems::body_too_large(most, None));
        }
        if !buffer.make_room(data.len()) {
            return Err(problems::out_of_memory());
        }
        buffer.bytes_mut().extend_from_slice(data);
    }
    let (bytes, memory) = buffer.finish();
    Ok(Whole {
        bytes: bytes.into(),
        _memory: memory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HttpLimits;
    use axum::{
        body::HttpBody,
        http::{HeaderValue, StatusCode},
    };
    use hyper::body::Frame;
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll, ready},
        time::Duration,
    };
    use tokio::time::{Sleep, sleep};
    use workspace_status::Tracker;

    fn app(max_body_bytes: usize, event_memory_bytes: usize) -> App {
        let limits = HttpLimits {
            max_body_bytes,
            event_memory_bytes,
            body_timeout: Duration::from_mins(1),
            ..HttpLimits::for_tests()
        };
        App::new(Tracker::new(), limits)
    }

    fn announced(bytes: usize) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
        headers
    }

    /// A body that sends one byte after each pause.
    struct Trickle {
        pause: Duration,
        next: Pin<Box<Sleep>>,
    }

    fn trickle(pause: Duration) -> Body {
        Body::new(Trickle {
            pause,
            next: Box::pin(sleep(pause)),
        })
    }

    impl HttpBody for Trickle {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            ready!(self.next.as_mut().poll(context));
            let next = Instant::now() + self.pause;
            self.next.as_mut().reset(next);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_are_announced_and_not_sent_take_no_memory_from_others() {
        let app = app(1 << 20, 1 << 20);
        let stalled = (0..16).map(|_| {
            let app = app.clone();
            tokio::spawn(async move {
                let body = trickle(Duration::from_hours(1));
                read(&app, &announced(1 << 20), body).await
            })
        });
        let stalled: Vec<_> = stalled.collect();
        tokio::task::yield_now().await;
        let sent = vec![7; 1 << 20];
        let whole = read(&app, &announced(1 << 20), Body::from(sent.clone())).await;
        assert_eq!(whole.unwrap().bytes, sent);
        for stalled in stalled {
            let problem = stalled.await.unwrap().unwrap_err();
            assert_eq!(problem.status(), StatusCode::REQUEST_TIMEOUT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_stops_coming_is_refused_when_its_time_is_over() {
        let app = app(1 << 20, 1 << 20);
        let begun = Instant::now();
        let problem = read(&app, &announced(1000), trickle(Duration::from_secs(7)))
            .await
            .unwrap_err();
        assert_eq!(begun.elapsed().as_secs(), 60);
        assert_eq!(
            problem.detail(),
            "the body was not there as a whole after 60 seconds"
        );
    }

    #[tokio::test]
    async fn the_memory_of_a_body_is_taken_until_it_is_dropped() {
        let app = app(1 << 20, 1 << 20);
        let unannounced = HeaderMap::new();
        let body = || Body::from(vec![7; 600 << 10]);
        let whole = read(&app, &unannounced, body()).await.unwrap();
        let problem = read(&app, &unannounced, body()).await.unwrap_err();
        assert_eq!(problem.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(whole);
        assert!(read(&app, &unannounced, body()).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_announced_or_not() {
        let app = app(1024, 1 << 20);
        for headers in [announced(1025), HeaderMap::new()] {
            let problem = read(&app, &headers, Body::from(vec![7; 1025]))
                .await
                .unwrap_err();
            assert_eq!(problem.status(), StatusCode::PAYLOAD_TOO_LARGE);
        }
        let exact = read(&app, &announced(1024), Body::from(vec![7; 1024])).await;
        assert_eq!(exact.unwrap().bytes.len(), 1024);
    }
}
