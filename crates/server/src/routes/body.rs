//! Reads the body of a request within its limits: size, memory, and time without progress.

use crate::{app::App, problems};
use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use workspace_status_http::Problem;

/// A whole body; its memory counts as taken until it is dropped.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    _memory: OwnedSemaphorePermit,
}

/// Reads a body.
pub(super) async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<Whole, Problem> {
    let limits = app.limits();
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let declared_bytes = match declared.map(usize::try_from) {
        Some(Ok(bytes)) if bytes <= limits.max_body_bytes => Some(bytes),
        Some(_) => return Err(problems::body_too_large(limits.max_body_bytes, declared)),
        None => None,
    };
    // A body of unknown length may take all that one body may take.
    let memory = app
        .reserve_memory(declared_bytes.unwrap_or(limits.max_body_bytes))
        .ok_or_else(problems::out_of_memory)?;
    let mut body = body;
    let mut bytes = BytesMut::with_capacity(declared_bytes.unwrap_or_default());
    while let Some(frame) = timeout(limits.body_timeout, body.frame())
        .await
        .map_err(|_| problems::body_timeout(limits.body_timeout))?
    {
        let frame = frame.map_err(|error| problems::body_broken(&error.to_string()))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if bytes.len() + data.len() > limits.max_body_bytes {
            return Err(problems::body_too_large(limits.max_body_bytes, None));
        }
        bytes.extend_from_slice(data);
    }
    Ok(Whole {
        bytes: bytes.freeze(),
        _memory: memory,
    })
}
