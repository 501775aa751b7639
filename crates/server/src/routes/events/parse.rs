//! Parses a body into events: every line is checked before any is appended.

use crate::problems::{self, InvalidLine};
use bytes::Bytes;
use workspace_engine_core::{
    Rejection,
    event::{Event, EventEnvelope, EventError},
};
use workspace_status::WorkspaceId;
use workspace_status_http::Problem;

/// Maximum number of invalid lines that an answer names.
const ERRORS_SHOWN: usize = 20;

/// The format of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MediaType {
    /// One event.
    Json,
    /// One event per line; empty lines are ignored.
    Ndjson,
}

/// The events of a body, each with its workspace; all of them pass `check`. With `id` they belong to that workspace,
/// and may omit its id.
pub(super) fn parse(
    media_type: MediaType,
    body: &Bytes,
    id: Option<&WorkspaceId>,
    check: impl Fn(&Event<'_>) -> Result<(), Rejection>,
) -> Result<Vec<(WorkspaceId, Bytes)>, Problem> {
    let mut events = Vec::new();
    let mut errors = Vec::new();
    let mut invalid_lines = 0;
    for (number, line) in lines(media_type, body) {
        match event(line, body, id, &check) {
            Ok(event) => events.push(event),
            Err(detail) => {
                invalid_lines += 1;
                if errors.len() < ERRORS_SHOWN {
                    errors.push(InvalidLine {
                        line: number,
                        detail,
                    });
                }
            }
        }
    }
    if invalid_lines > 0 || events.is_empty() {
        return Err(problems::invalid_events(&errors, invalid_lines));
    }
    Ok(events)
}

/// The non-empty lines, with their numbers from 1.
fn lines(media_type: MediaType, body: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut rest = Some(body);
    let mut number = 0;
    std::iter::from_fn(move || {
        loop {
            let text = rest?;
            number += 1;
            let end = match media_type {
                MediaType::Json => None,
                MediaType::Ndjson => memchr::memchr(b'\n', text),
            };
            let (line, after) = end
                .and_then(|end| text.split_at_checked(end))
                .unwrap_or((text, b""));
            rest = after.get(1..);
            let line = line.trim_ascii();
            if !line.is_empty() {
                return Some((number, line));
            }
        }
    })
}

fn event(
    line: &[u8],
    body: &Bytes,
    id: Option<&WorkspaceId>,
    check: &impl Fn(&Event<'_>) -> Result<(), Rejection>,
) -> Result<(WorkspaceId, Bytes), String> {
    if let Err(error) = str::from_utf8(line) {
        return Err(format!(
            "not UTF-8 after byte {} of the line",
            error.valid_up_to()
        ));
    }
    match (EventEnvelope::parse(line), id) {
        (Ok(envelope), _) => Ok((accept(envelope, id, check)?, one_line(line, body))),
        (Err(EventError::Missing("workspaceId")), Some(filled_in)) => {
            let value = with_workspace_id(line, filled_in);
            let envelope = EventEnvelope::parse(&value).map_err(|error| error.to_string())?;
            let workspace_id = accept(envelope, id, check)?;
            let value = Bytes::from(value);
            Ok((workspace_id, one_line(&value, &value)))
        }
        (Err(error), _) => Err(error.to_string()),
    }
}

/// The workspace of an accepted event.
fn accept(
    envelope: EventEnvelope<'_>,
    id: Option<&WorkspaceId>,
    check: &impl Fn(&Event<'_>) -> Result<(), Rejection>,
) -> Result<WorkspaceId, String> {
    let EventEnvelope {
        workspace_id,
        event,
    } = envelope;
    if let Some(id) = id.filter(|id| **id != workspace_id) {
        return Err(format!(
            "the event is of workspace {workspace_id}, the request of {id}"
        ));
    }
    check(&event).map_err(|rejection| rejection.to_string())?;
    Ok(workspace_id)
}

/// An event without newlines; they occur only between its tokens, because JSON strings cannot contain them.
fn one_line(line: &[u8], body: &Bytes) -> Bytes {
    if memchr::memchr2(b'\n', b'\r', line).is_none() {
        return body.slice_ref(line);
    }
    line.iter()
        .map(|byte| match byte {
            b'\n' | b'\r' => b' ',
            other => *other,
        })
        .collect()
}

/// An event without a workspace id, with the id added. An id needs no escapes.
fn with_workspace_id(line: &[u8], id: &WorkspaceId) -> Vec<u8> {
    let members = line.strip_prefix(b"{").unwrap_or(line);
    let comma: &[u8] = if members.trim_ascii_start().starts_with(b"}") {
        b""
    } else {
        b","
    };
    [
        br#"{"workspaceId":""#,
        id.as_str().as_bytes(),
        br#"""#,
        comma,
        members,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workspace type that applies all events except one.
    fn known_types(event: &Event<'_>) -> Result<(), Rejection> {
        match event.event_type() {
            "ledger.exploded" => Err(Rejection("a ledger does not explode".to_owned())),
            _ => Ok(()),
        }
    }

    fn check(media_type: MediaType, body: &str, id: Option<&str>, expected: &str) {
        let id = id.map(|id| WorkspaceId::new(id).unwrap());
        let found = match parse(
            media_type,
            &Bytes::copy_from_slice(body.as_bytes()),
            id.as_ref(),
            known_types,
        ) {
            Ok(events) => events
                .iter()
                .map(|(id, value)| format!("{id}={}", String::from_utf8_lossy(value)))
                .collect::<Vec<_>>()
                .join("|"),
            Err(problem) => format!("{}: {}", problem.status().as_u16(), problem.detail()),
        };
        assert_eq!(found, expected, "{body:?}");
    }

    const A: &str = r#"{"eventType":"workspace.tick","workspaceId":"a"}"#;
    const NONE: &str = r#"{"eventType":"workspace.tick"}"#;

    #[test]
    fn every_line_is_an_event() {
        check(MediaType::Ndjson, A, None, &format!("a={A}"));
        check(
            MediaType::Ndjson,
            &format!("{A}\r\n\n {A} \n"),
            None,
            &format!("a={A}|a={A}"),
        );
    }

    #[test]
    fn one_bad_line_and_none_is_taken() {
        check(
            MediaType::Ndjson,
            &format!("{A}\n\n{NONE}\n{A}"),
            None,
            "400: line 3: workspaceId is missing",
        );
        check(
            MediaType::Ndjson,
            &format!("{NONE}\n{A}\n{NONE}"),
            None,
            "400: 2 lines are not valid, the first is line 1: workspaceId is missing",
        );
        check(
            MediaType::Ndjson,
            "\n\n",
            None,
            "400: the body holds no event",
        );
        check(MediaType::Json, "", None, "400: the body holds no event");
    }

    #[test]
    fn an_event_that_the_workspace_type_refuses_is_a_bad_line() {
        let refused = r#"{"eventType":"ledger.exploded"}"#;
        for id in ["a", "b"] {
            check(
                MediaType::Ndjson,
                &format!("{NONE}\n{refused}"),
                Some(id),
                "400: line 2: a ledger does not explode",
            );
        }
    }

    #[test]
    fn the_first_twenty_bad_lines_are_named_and_all_are_counted() {
        let body = Bytes::from(format!("{NONE}\n").repeat(50));
        let problem = parse(MediaType::Ndjson, &body, None, known_types).unwrap_err();
        let document: serde_json::Value = serde_json::from_slice(&problem.to_bytes()).unwrap();
        assert_eq!(document["errors"].as_array().unwrap().len(), 20);
        assert_eq!(document["invalidLines"], 50);
    }

    #[test]
    fn an_event_over_several_lines_is_stored_in_one() {
        let body = "{\n  \"eventType\": \"workspace.tick\",\r\n  \"workspaceId\": \"a\"\n}\n";
        check(
            MediaType::Json,
            body,
            None,
            "a={   \"eventType\": \"workspace.tick\",    \"workspaceId\": \"a\" }",
        );
    }

    #[test]
    fn the_events_of_one_workspace_need_not_name_it_but_must_not_name_another() {
        let filled = r#"{"workspaceId":"a","eventType":"workspace.tick"}"#;
        check(MediaType::Json, NONE, Some("a"), &format!("a={filled}"));
        check(MediaType::Json, A, Some("a"), &format!("a={A}"));
        check(
            MediaType::Json,
            A,
            Some("b"),
            "400: line 1: the event is of workspace a, the request of b",
        );
        check(
            MediaType::Json,
            "{}",
            Some("a"),
            "400: line 1: eventType is missing",
        );
    }

    #[test]
    fn text_that_is_not_utf8_is_refused() {
        let body = Bytes::from_static(
            b"{\"eventType\":\"x.created\",\"workspaceId\":\"a\",\"x\":\"\xff\"}",
        );
        let problem = parse(MediaType::Json, &body, None, known_types).unwrap_err();
        assert_eq!(
            problem.detail(),
            "line 1: not UTF-8 after byte 48 of the line"
        );
    }
}
