//! The rest of a request's body that its handler did not read.
//!
//! An ordinary client sends its whole body before it reads the answer. If the connection is closed with a part of
//! the body unread, the client's system reports a broken connection and discards the answer: the client never sees
//! a `413`. So the rest is read and discarded while the answer is sent, within a bound.

use axum::body::{Bytes, HttpBody};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{sync::Notify, time::timeout};

/// Maximum bytes read of the rest of a body; a connection with more is closed.
const MAX_LEFTOVER_BYTES: u64 = 256 << 20;

/// Maximum time for reading the rest of a body.
const LEFTOVER_TIME: Duration = Duration::from_secs(10);

/// The unread body of the last request on a connection.
#[derive(Debug, Default)]
pub(super) struct Leftover {
    body: Mutex<Option<Incoming>>,
    arrived: Notify,
}

impl Leftover {
    fn put(&self, body: Incoming) {
        *self.body.lock() = Some(body);
        self.arrived.notify_one();
    }

    /// Stops reading it: the connection is closed after the answer.
    pub(super) fn discard(&self) {
        self.body.lock().take();
    }

    /// Reads and discards the unread rest of bodies, for as long as the connection lives.
    pub(super) async fn read(&self) {
        loop {
            self.arrived.notified().await;
            let body = self.body.lock().take();
            if let Some(body) = body {
                // Whatever is unread then is dropped with the body, which closes the connection.
                let _ = timeout(LEFTOVER_TIME, read_to_end(body)).await;
            }
        }
    }
}

async fn read_to_end(mut body: Incoming) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        if bytes > MAX_LEFTOVER_BYTES {
            return;
        }
    }
}

/// The body of a request, as its handler reads it.
#[derive(Debug)]
pub(super) struct RequestBody {
    /// `None` once it was read to its end.
    body: Option<Incoming>,
    /// The client waits for `100 Continue`, which the first read triggers, before it sends the body.
    awaits_continue: bool,
    leftover: Arc<Leftover>,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, awaits_continue: bool, leftover: Arc<Leftover>) -> Self {
        Self {
            body: Some(body),
            awaits_continue,
            leftover,
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.awaits_continue = false;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && !body.is_end_stream()
            && !self.awaits_continue
        {
            self.leftover.put(body);
        }
    }
}
