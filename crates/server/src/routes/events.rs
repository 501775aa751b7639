//! Appending events: a request is checked completely, then all of its events are appended or none.

mod parse;
mod producer;

use super::body;
use crate::{
    access::Caller,
    app::{App, Engine},
    problems,
};
use axum::{
    Extension,
    body::Body,
    extract::{FromRequestParts, Path, RawQuery, State as Extract},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use parse::{MediaType, parse};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use workspace_engine_core::log::{Append, Appended};
use workspace_status::WorkspaceId;
use workspace_status_http::{
    Parameters, Problem, ProblemDocument, WorkspaceIdPath, answer_document, invalid_parameter,
};

/// Longer bodies are parsed on a thread that answers no other request.
const INLINE_BYTES: usize = 64 << 10;

/// An event: it sets or unsets an entity, or commands the workspace.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Event)]
struct EventDocument {
    /// `<type>.created` and `<type>.updated` set the entity `<type>/data.id` to `data`,
    /// `<type>.deleted` unsets it; `workspace.save` forces a save, `workspace.tick` does nothing.
    #[schema(example = "resource.updated")]
    event_type: String,
    /// 1 to 255 bytes of A-Z a-z 0-9 . _ : -
    #[schema(example = "tenant-1")]
    workspace_id: String,
    /// Milliseconds since the Unix epoch.
    timestamp: Option<i64>,
    /// The entity, with its id.
    #[schema(value_type = Object, example = json!({"id": "a", "colour": "red"}))]
    data: Option<serde_json::Value>,
}

/// Events that are durable, and their positions.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Accepted)]
struct AcceptedDocument {
    /// How many events the request held.
    accepted: u64,
    /// Their offsets, ordered by partition.
    partitions: Vec<AcceptedRange>,
}

/// Offsets of the events of one request in one partition.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AcceptedRange {
    /// The partition.
    partition: u32,
    /// Offset of the first of them.
    first_offset: u64,
    /// Offset of the last of them; those of other requests may be in between.
    last_offset: u64,
}

/// Whether the check of the workspace type is called.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query; Parameters reads it")]
struct CheckParameters {
    /// `on` (if not given) refuses an event that the workspace type could never apply. `off` appends it: for producers
    /// that are deployed before the workspace type that knows their events. An engine that cannot apply it parks the
    /// workspace at it, so its type must be there before the event is read.
    #[param(inline)]
    check: Option<CheckName>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes the query; Parameters reads it")]
enum CheckName {
    On,
    Off,
}

const CHECK: &str = "check";

fn read_check(query: Option<&str>) -> Result<Check, Problem> {
    match Parameters::read(query, &[CHECK])?.one(CHECK)? {
        None | Some("on") => Ok(Check::WorkspaceType),
        Some("off") => Ok(Check::EventAlone),
        Some(other) => Err(invalid_parameter(CHECK, "the value is neither on nor off")
            .with("value", other)
            .with("allowed", ["on", "off"])),
    }
}

/// Defines a route for each way to append: they differ in whether the path names the workspace.
macro_rules! appends {
    ($(
        $(#[$documentation:meta])*
        $name:ident at $path:literal as $operation:literal $(of $id:literal)?, such as $example:literal;
    )*) => {$(
        $(#[$documentation])*
        #[utoipa::path(
            post,
            path = $path,
            operation_id = $operation,
            tag = "events",
            params(
                $(($id = String, Path, description = "The workspace"),)?
                CheckParameters,
                ("Producer-Id" = Option<String>, Header, description = "Name of the producer, 1 to 255 bytes; together with Producer-Sequence"),
                ("Producer-Sequence" = Option<u64>, Header, description = "Number of the request, from 1, growing by 1"),
            ),
            request_body(content(
                (EventDocument = "application/json"),
                (String = "application/x-ndjson", example = $example),
            )),
            responses(
                (status = 202, description = "All events are durable", body = AcceptedDocument),
                (status = 400, description = "Nothing was appended: `errors` holds the first 20 lines that are no event, or that the workspace type could never apply", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 408, description = "The body was not there as a whole in time", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 409, description = "The producer left out a request: `expectedSequence` is next", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 413, description = "The body is over the limit", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 415, description = "Neither application/json nor application/x-ndjson", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 503, description = "The engine is starting, stopping or too busy, its log does not answer, or it cannot remember one more producer: repeat it after Retry-After. With the type `/problems/partly-appended` (on Kafka) some of the events are in the log: `appended` of `events`, at `partitions`; the same request with the same `Producer-Id` and `Producer-Sequence` appends the others alone", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 507, description = "The disk is full: repeat it later", body = ProblemDocument, content_type = "application/problem+json"),
            )
        )]
        pub(super) async fn $name(
            Extract(app): Extract<App>,
            Extension(caller): Extension<Caller>,
            Workspace(id): Workspace,
            RawQuery(query): RawQuery,
            headers: HeaderMap,
            body: Body,
        ) -> Result<Response, Problem> {
            append(&app, &caller, id, query.as_deref(), &headers, body).await
        }
    )*};
}

appends! {
    /// Append events
    ///
    /// One event as `application/json`, or one a line as `application/x-ndjson`. The answer comes when
    /// all are durable; one that is not valid and none is appended. Not valid is what is no event, and what the
    /// workspace type could never apply, such as an unknown `eventType`. A producer that numbers its
    /// requests (`Producer-Id`, `Producer-Sequence`) may repeat one whose answer it lost: the repeated
    /// request is answered as the first was and appends nothing, or what is missing of one that was appended in
    /// part (on Kafka). A refused request (4xx, 503, 507) does
    /// not use up its number.
    post_events at "/api/v1/events" as "postEvents",
    such as "{\"eventType\":\"resource.created\",\"workspaceId\":\"tenant-1\",\"data\":{\"id\":\"a\"}}\n";

    /// Append events of one workspace
    ///
    /// As `POST /api/v1/events`; the events may leave out `workspaceId`, one of another workspace is not valid.
    post_workspace_events at "/api/v1/workspaces/{id}/events" as "postWorkspaceEvents" of "id",
    such as "{\"eventType\":\"resource.created\",\"data\":{\"id\":\"a\"}}\n";
}

/// The workspace in the path, if the path has one.
pub(super) struct Workspace(Option<WorkspaceId>);

impl<S: Send + Sync> FromRequestParts<S> for Workspace {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let named = Option::<Path<String>>::from_request_parts(parts, state).await?;
        if named.is_none() {
            return Ok(Self(None));
        }
        let WorkspaceIdPath(id) = WorkspaceIdPath::from_request_parts(parts, state).await?;
        Ok(Self(Some(id)))
    }
}

async fn append(
    app: &App,
    caller: &Caller,
    id: Option<WorkspaceId>,
    query: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let engine = app.working_engine()?;
    let check = read_check(query)?;
    let media_type = media_type(headers)?;
    let producer = producer::read(headers, caller)?;
    let whole = body::read(app, headers, body).await?;
    let parser = Parser {
        engine: engine.clone(),
        media_type,
        id,
        check,
    };
    let events = parse_somewhere(parser, whole.bytes.clone()).await?;
    check_reach(caller, &events)?;
    let unseen = unseen(engine, &events);
    let answer = engine.log().submit(Append {
        producer: producer.clone(),
        events,
    });
    let appended = answer
        .await
        .map_err(|_| problems::append_unanswered())?
        .map_err(|error| problems::append(&error, producer.as_ref()))?;
    drop(whole);
    let appended = if unseen.is_empty() {
        appended
    } else {
        app.blocking(move |engine| {
            engine.announce(&unseen, &appended);
            appended
        })
        .await?
    };
    Ok(answer_document(StatusCode::ACCEPTED, &document(&appended)))
}

/// The workspaces of events that have no status on this engine; usually empty.
fn unseen(engine: &Engine, events: &[(WorkspaceId, Bytes)]) -> Vec<WorkspaceId> {
    let mut last = None;
    let mut unseen: Vec<WorkspaceId> = events
        .iter()
        .map(|(id, _)| id)
        // Events of one workspace are often consecutive.
        .filter(|id| last.replace(*id) != Some(*id))
        .filter(|id| engine.tracker().get(id).is_none())
        .cloned()
        .collect();
    unseen.sort_unstable();
    unseen.dedup();
    unseen
}

/// Refuses a request with an event of a workspace outside the caller's prefix.
fn check_reach(caller: &Caller, events: &[(WorkspaceId, Bytes)]) -> Result<(), Problem> {
    if caller.prefix().is_none() {
        return Ok(());
    }
    match events.iter().find(|(id, _)| !caller.may_reach(id.as_str())) {
        None => Ok(()),
        Some((id, _)) => Err(problems::foreign_event(caller, id)),
    }
}

/// Parses the events of a body, a long one on a thread where it delays no other request.
async fn parse_somewhere(
    parser: Parser,
    bytes: Bytes,
) -> Result<Vec<(WorkspaceId, Bytes)>, Problem> {
    if bytes.len() <= INLINE_BYTES {
        return parser.parse(&bytes);
    }
    tokio::task::spawn_blocking(move || parser.parse(&bytes))
        .await
        .map_err(|_| problems::failed())?
}

/// The requirements of a body.
struct Parser {
    engine: Engine,
    media_type: MediaType,
    id: Option<WorkspaceId>,
    check: Check,
}

/// The checks of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// It is an event of a workspace.
    EventAlone,
    /// It is an event that the workspace type could apply.
    WorkspaceType,
}

impl Parser {
    fn parse(&self, body: &Bytes) -> Result<Vec<(WorkspaceId, Bytes)>, Problem> {
        parse(
            self.media_type,
            body,
            self.id.as_ref(),
            |event| match self.check {
                Check::EventAlone => Ok(()),
                Check::WorkspaceType => self.engine.check(event),
            },
        )
    }
}

fn media_type(headers: &HeaderMap) -> Result<MediaType, Problem> {
    let found = headers
        .get(header::CONTENT_TYPE)
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let name = found
        .as_deref()
        .and_then(|value| value.split(';').next())
        .map(|name| name.trim().to_ascii_lowercase());
    match name.as_deref() {
        Some("application/json") => Ok(MediaType::Json),
        Some("application/x-ndjson") => Ok(MediaType::Ndjson),
        Some(_) | None => Err(problems::unsupported_media_type(
            found.as_deref(),
            &["application/json", "application/x-ndjson"],
        )),
    }
}

fn document(appended: &Appended) -> AcceptedDocument {
    AcceptedDocument {
        accepted: appended.accepted,
        partitions: appended
            .partitions
            .iter()
            .map(|range| AcceptedRange {
                partition: range.partition.0,
                first_offset: range.first_offset.0,
                last_offset: range.last_offset.0,
            })
            .collect(),
    }
}
