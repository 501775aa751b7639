//! The body of an answer, with the memory and the connection that it holds until the client has read it.

use super::connection_permits::ConnectionPermit;
use crate::{
    app::App,
    memory::{HeldMemory, UNCOUNTED_BYTES},
    problems,
};
use axum::{
    body::{Body, Bytes, HttpBody},
    response::{IntoResponse, Response},
};
use hyper::body::{Frame, SizeHint};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// The body of an answer.
pub(crate) struct AnswerBody {
    body: Body,
    memory: Option<HeldMemory>,
    busy: Option<Busy>,
}

/// A connection with a request in progress.
pub(super) struct Busy(pub(super) Arc<ConnectionPermit>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Counts the memory of an answer, or replaces it by a refusal where it is larger than what is free now.
pub(super) fn count_memory(app: &App, mut response: Response) -> Response<AnswerBody> {
    let handed_on = response.extensions_mut().remove::<HeldMemory>();
    let bytes = response.body().size_hint().exact();
    let memory = match (handed_on, bytes.map(usize::try_from)) {
        (Some(held), _) => Some(held),
        (None, Some(Ok(bytes))) if bytes > UNCOUNTED_BYTES => {
            let reserved = app.answer_memory().reserve(bytes);
            if reserved.is_none() {
                app.http().answers_limited.add(1);
                response = problems::answer_memory_spent().into_response();
            }
            reserved.map(HeldMemory::new)
        }
        // A stream holds only its next item.
        (None, _) => None,
    };
    response.map(|body| AnswerBody {
        body,
        memory,
        busy: None,
    })
}

/// An answer that holds no memory worth counting. If it were counted, clients without any right could use up the
/// memory of the others.
pub(super) fn uncounted(response: Response) -> Response<AnswerBody> {
    response.map(|body| AnswerBody {
        body,
        memory: None,
        busy: None,
    })
}

impl AnswerBody {
    /// Keeps the connection busy until the body is dropped.
    pub(super) fn keep_busy(&mut self, busy: Busy) {
        self.busy = Some(busy);
    }
}

/// The bytes of an answer on their way to the socket. The HTTP library drops the body once it has taken its last
/// bytes, and the bytes only once they are written.
struct Counted {
    bytes: Bytes,
    _memory: HeldMemory,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let Some(memory) = &self.memory else {
            return polled;
        };
        polled.map_ok(|frame| {
            frame.map_data(|bytes| {
                Bytes::from_owner(Counted {
                    bytes,
                    _memory: memory.clone(),
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
