//! The skipped events of a workspace.

use super::{Api, paging};
use crate::problems;
use axum::{
    body::Bytes,
    extract::{RawQuery, State as Extract},
    http::StatusCode,
    response::Response,
};
use jiff::Timestamp;
use paging::Paging;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use workspace_engine_core::log::DeadLetter;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status_http::{
    Parameters, Problem, ProblemDocument, WorkspaceIdPath, answer_document, invalid_cursor,
};

/// A page ends early where its events are large; it has at least one.
const PAGE_BYTES: usize = 4 << 20;

const SIZE: paging::Size = paging::Size {
    usual: 100,
    most: 100,
};

/// Which page.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query; Parameters reads it")]
struct ListParameters {
    /// At most so many, 1 to 100; 100 if not given. A page of large events holds fewer.
    limit: Option<usize>,
    /// Where the page before ended, as its `nextCursor`.
    cursor: Option<String>,
}

/// A page of skipped events.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeadLetters)]
struct DeadLettersDocument {
    /// Ordered by partition and offset.
    dead_letters: Vec<DeadLetterDocument>,
    /// The cursor of the next page; null on the last.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// An event that was skipped, with its address and the reason.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeadLetter)]
struct DeadLetterDocument {
    /// Its topic.
    topic: String,
    /// Its partition.
    partition: u32,
    /// Its offset.
    offset: u64,
    /// The workspace it belonged to.
    workspace_id: String,
    /// Its key as text; bytes that are no text are shown as U+FFFD.
    #[schema(required)]
    key: Option<String>,
    /// Its value as text; bytes that are no text are shown as U+FFFD.
    #[schema(required)]
    value: Option<String>,
    /// Why it could not be applied.
    reason: String,
    /// When it was skipped.
    #[schema(value_type = String, format = DateTime)]
    skipped_at: Timestamp,
}

impl From<DeadLetter> for DeadLetterDocument {
    fn from(dead_letter: DeadLetter) -> Self {
        let text = |bytes: bytes::Bytes| String::from_utf8_lossy(&bytes).into_owned();
        let skipped_at = i64::try_from(dead_letter.skipped_at_ms)
            .ok()
            .and_then(|ms| Timestamp::from_millisecond(ms).ok());
        Self {
            topic: dead_letter.topic,
            partition: dead_letter.partition.0,
            offset: dead_letter.offset.0,
            workspace_id: dead_letter.workspace_id.to_string(),
            key: dead_letter.key.map(text),
            value: dead_letter.value.map(text),
            reason: dead_letter.reason,
            skipped_at: skipped_at.unwrap_or(Timestamp::MAX),
        }
    }
}

/// Events of a workspace that were skipped
#[utoipa::path(
    get,
    path = "/api/v1/workspaces/{id}/dead-letters",
    operation_id = "listDeadLetters",
    tag = "operator",
    params(("id" = String, Path, description = "The workspace"), ListParameters),
    responses(
        (status = 200, description = "A page of skipped events", body = DeadLettersDocument),
        (status = 400, description = "An invalid id or parameter", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "The workspace is unknown", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The engine is starting, or too many lists are made", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    Extract(api): Extract<Api>,
    WorkspaceIdPath(id): WorkspaceIdPath,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let parameters = Parameters::read(query.as_deref(), &[paging::LIMIT, paging::CURSOR])?;
    let paging = Paging::read(&parameters, format!("dead-letters/{id}"), SIZE)?;
    let after = paging
        .after
        .as_deref()
        .map(|position| place(position).ok_or_else(invalid_cursor))
        .transpose()?;
    api.known(&id, api.cold_read_deadline()).await?;
    let limit = paging.limit;
    let engine = api.app.engine()?.clone();
    // Read by few requests at a time: each reads up to 100 events of 1 MiB.
    let mut dead_letters = api
        .status
        .scan_apart(move || engine.log().dead_letters(Some(&id), after, limit + 1))
        .await?
        .map_err(|error| problems::log_read(&error))?;
    let shown = shown(&dead_letters, limit);
    let more = dead_letters.len() > shown;
    dead_letters.truncate(shown);
    let next_cursor = dead_letters
        .last()
        .filter(|_| more)
        .map(|last| paging.cursor(&format!("{}:{}", last.partition, last.offset)));
    let document = DeadLettersDocument {
        dead_letters: dead_letters.into_iter().map(Into::into).collect(),
        next_cursor,
    };
    Ok(answer_document(StatusCode::OK, &document))
}

/// Number of events that fit on a page.
fn shown(dead_letters: &[DeadLetter], limit: usize) -> usize {
    let mut bytes = 0;
    let fits = dead_letters.iter().take(limit).take_while(|dead_letter| {
        let is_full = bytes >= PAGE_BYTES;
        bytes += dead_letter.value.as_ref().map_or(0, Bytes::len) + dead_letter.reason.len();
        !is_full
    });
    fits.count()
}

fn place(position: &str) -> Option<(PartitionId, Offset)> {
    let (partition, offset) = position.split_once(':')?;
    Some((
        PartitionId(partition.parse().ok()?),
        Offset(offset.parse().ok()?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use workspace_status::WorkspaceId;

    #[test]
    fn a_page_of_large_events_holds_fewer() {
        let dead_letter = |bytes: usize| DeadLetter {
            topic: "events".to_owned(),
            partition: PartitionId(0),
            offset: Offset(0),
            workspace_id: WorkspaceId::new("w").unwrap(),
            key: None,
            value: Some(vec![b'x'; bytes].into()),
            reason: String::new(),
            skipped_at_ms: 0,
        };
        for (bytes, limit, expected) in
            [(10, 100, 7), (10, 3, 3), (1 << 20, 100, 4), (5 << 20, 9, 1)]
        {
            let dead_letters: Vec<_> = (0..7).map(|_| dead_letter(bytes)).collect();
            assert_eq!(
                shown(&dead_letters, limit),
                expected,
                "{bytes} bytes, limit {limit}"
            );
        }
    }
}
