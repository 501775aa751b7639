//! The problems of the engine's own routes: the one place that maps errors to HTTP.

use crate::access::{
    caller::Caller,
    role::{Missing, Right, Role},
};
use axum::http::{HeaderValue, Method, StatusCode, header};
use std::time::Duration;
use workspace_engine_core::{
    ActionError,
    log::{AppendError, AppendedRange, ProducerSequence, ReadError},
    store::StoreError,
};
use workspace_lifecycle::{CommandError, Offset};
use workspace_status::{Snapshot, WorkspaceId};
use workspace_status_http::{
    Problem, ProblemType, StatusDocument, problem_types, unknown_method, unknown_route,
};

/// The types of this crate's problems, one a line: its constant, status, URI and title.
macro_rules! problem_types {
    ($($name:ident: $status:ident $uri:literal $title:literal;)*) => {
        $(const $name: ProblemType = ProblemType::new($uri, StatusCode::$status, $title);)*
    };
}

problem_types! {
    INVALID_EVENTS: BAD_REQUEST "/problems/invalid-events" "Invalid events";
    INVALID_PRODUCER: BAD_REQUEST "/problems/invalid-producer" "Invalid producer";
    SEQUENCE_GAP: CONFLICT "/problems/sequence-gap" "Sequence gap";
    URI_TOO_LONG: URI_TOO_LONG "/problems/uri-too-long" "URI too long";
    BODY_TIMEOUT: REQUEST_TIMEOUT "/problems/body-timeout" "Body too slow";
    BUSY: SERVICE_UNAVAILABLE "/problems/busy" "Too busy";
    PARTLY_APPENDED: SERVICE_UNAVAILABLE "/problems/partly-appended" "Appended in part";
    TOO_MANY_PRODUCERS: SERVICE_UNAVAILABLE "/problems/too-many-producers" "Too many producers";
    NO_SPACE: INSUFFICIENT_STORAGE "/problems/no-space" "No space left";
    STARTING: SERVICE_UNAVAILABLE "/problems/starting" "Starting";
    STOPPING: SERVICE_UNAVAILABLE "/problems/stopping" "Stopping";
    NOT_LOADED: SERVICE_UNAVAILABLE "/problems/workspace-not-loaded" "Workspace not in memory";
    NOT_APPLIED: SERVICE_UNAVAILABLE "/problems/not-applied" "Not applied yet";
    NOT_STOPPED: CONFLICT "/problems/not-stopped" "Nothing to skip";
    ACTION_FAILED: INTERNAL_SERVER_ERROR "/problems/action-failed" "Action failed";
    LOG_BEGINS_LATER: CONFLICT "/problems/log-begins-later" "Not all events are in the log";
    ACTION_TIMEOUT: GATEWAY_TIMEOUT "/problems/action-timeout" "Action not done in time";
    COUNT_CHANGED: CONFLICT "/problems/count-changed" "Another number of workspaces";
    OPERATION_UNKNOWN: NOT_FOUND "/problems/operation-unknown" "Unknown operation";
    NO_ENTITIES: NOT_FOUND "/problems/no-entities" "No entities";
    ENTITY_UNKNOWN: NOT_FOUND "/problems/entity-unknown" "Unknown entity";
    FOREIGN_HOST: FORBIDDEN "/problems/foreign-host" "Foreign host";
    FOREIGN_ORIGIN: FORBIDDEN "/problems/foreign-origin" "Foreign origin";
    UNAUTHENTICATED: UNAUTHORIZED "/problems/unauthenticated" "Unknown caller";
    FORBIDDEN: FORBIDDEN "/problems/forbidden" "Not allowed";
}

const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(5);

pub(crate) fn no_route(path: &str) -> Problem {
    unknown_route(path)
}

/// `allow` lists the methods of the path, in the form of the `Allow` header.
pub(crate) fn no_method(method: &Method, path: &str, allow: &str) -> Problem {
    let problem = unknown_method(method, path);
    match HeaderValue::from_str(allow) {
        Ok(allow) => problem.with_header(header::ALLOW, allow),
        Err(_) => problem,
    }
}

/// A request whose `Host` is not this engine's: a name of another site led its sender here.
pub(crate) fn foreign_host(host: Option<String>) -> Problem {
    Problem::new(
        &FOREIGN_HOST,
        "the Host header names another host than this engine: name it by its address or as localhost, or start it with --allowed-host NAME, such as for a proxy in front of it",
    )
    .with("host", host)
}

/// A request that a browser sent for a web page of another site.
pub(crate) fn foreign_origin(origin: Option<String>) -> Problem {
    Problem::new(
        &FOREIGN_ORIGIN,
        "a web page of another site sent this request; --allowed-host NAME allows the engine's own pages under that name",
    )
    .with("origin", origin)
}

/// A token that this engine does not know.
pub(crate) fn bad_token() -> Problem {
    Problem::new(
        &UNAUTHENTICATED,
        "the token is not one of this engine's: it is mistyped, was removed, or belongs to another engine",
    )
    .with_header(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"workspace-engine\", error=\"invalid_token\""),
    )
}

/// A request that needs a token and has none; `tokens` is whether this engine knows any.
pub(crate) fn unauthenticated(missing: &Missing, tokens: KnownTokens) -> Problem {
    let way_out = match tokens {
        KnownTokens::File => "send a token as `Authorization: Bearer …`",
        KnownTokens::None => {
            "this engine has no tokens (--tokens FILE), and --anonymous says what a caller without one may do"
        }
    };
    let problem = Problem::new(&UNAUTHENTICATED, format!("{}: {way_out}", needed(missing)));
    with_missing(problem, missing).with_header(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"workspace-engine\""),
    )
}

/// Whether an engine has a tokens file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KnownTokens {
    File,
    None,
}

/// A known caller lacks the right.
pub(crate) fn forbidden(caller: &Caller, missing: &Missing) -> Problem {
    let (name, role) = (caller.name(), caller.role());
    let detail = match (missing, caller.prefix()) {
        (Missing::Workspace | Missing::AllWorkspaces, Some(prefix)) => format!(
            "{}; {name:?} is limited to those that begin with {prefix:?}",
            needed(missing)
        ),
        _ => format!("{}; {name:?} is {role}", needed(missing)),
    };
    with_missing(Problem::new(&FORBIDDEN, detail), missing)
        .with("name", name)
        .with("role", role.as_str())
        .with("prefix", caller.prefix())
}

/// A request in which an event belongs to a workspace outside the caller's prefix; no event was appended.
pub(crate) fn foreign_event(caller: &Caller, id: &WorkspaceId) -> Problem {
    forbidden(caller, &Missing::Workspace).with("workspaceId", id.as_str())
}

/// What a request needs, as the beginning of a sentence.
fn needed(missing: &Missing) -> String {
    match missing {
        Missing::Role => "this needs a role".to_owned(),
        Missing::Right(right) => {
            let roles: Vec<&str> = roles_with(*right).collect();
            match roles.as_slice() {
                [first @ .., last] if !first.is_empty() => {
                    format!("this needs the role {} or {last}", first.join(", "))
                }
                roles => format!("this needs the role {}", roles.concat()),
            }
        }
        Missing::Workspace => "a workspace of this request is not the caller's".to_owned(),
        Missing::AllWorkspaces => "this concerns all workspaces".to_owned(),
    }
}

fn with_missing(problem: Problem, missing: &Missing) -> Problem {
    match missing {
        Missing::Right(right) => problem
            .with("requiredRole", right.least_role().as_str())
            .with("roles", roles_with(*right).collect::<Vec<_>>()),
        Missing::Role | Missing::Workspace | Missing::AllWorkspaces => problem,
    }
}

fn roles_with(right: Right) -> impl Iterator<Item = &'static str> {
    let roles = Role::GRANTABLE.into_iter();
    roles.filter(move |role| role.has(right)).map(Role::as_str)
}

/// A line of a request that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct InvalidLine {
    /// Number of the line in the body, from 1.
    pub(crate) line: u64,
    /// What is wrong with it.
    pub(crate) detail: String,
}

/// Some lines are not valid events, so none was appended; `errors` are the first of them.
pub(crate) fn invalid_events(errors: &[InvalidLine], invalid_lines: u64) -> Problem {
    let detail = match errors {
        [only] if invalid_lines == 1 => format!("line {}: {}", only.line, only.detail),
        [first, ..] => format!(
            "{invalid_lines} lines are not valid, the first is line {}: {}",
            first.line, first.detail
        ),
        [] => "the body holds no event".to_owned(),
    };
    Problem::new(&INVALID_EVENTS, detail)
        .with("errors", errors)
        .with("invalidLines", invalid_lines)
}

pub(crate) fn uri_too_long(bytes: usize, most: usize) -> Problem {
    Problem::new(
        &URI_TOO_LONG,
        format!("the path with its query is over the limit of {most} bytes"),
    )
    .with("uriBytes", bytes)
    .with("maximumBytes", most)
}

pub(crate) fn body_too_large(limit: usize, declared: Option<u64>) -> Problem {
    let problem = Problem::new(
        &problem_types::BODY_TOO_LARGE,
        format!("the body is over the limit of {limit} bytes"),
    )
    .with("maximumBytes", limit);
    match declared {
        Some(bytes) => problem.with("bodyBytes", bytes),
        None => problem,
    }
}

pub(crate) fn body_timeout(timeout: Duration) -> Problem {
    Problem::new(
        &BODY_TIMEOUT,
        format!(
            "the body was not there as a whole after {} seconds",
            timeout.as_secs_f32()
        ),
    )
    .with("maximumSeconds", timeout.as_secs_f32())
}

pub(crate) fn body_broken(reason: &str) -> Problem {
    Problem::new(
        &problem_types::INVALID_BODY,
        format!("the body cannot be read: {reason}"),
    )
}

pub(crate) fn unsupported_media_type(found: Option<&str>, supported: &[&str]) -> Problem {
    let detail = match found {
        Some(found) => format!("the route does not read {found:?}"),
        None => "the request has no Content-Type".to_owned(),
    };
    Problem::new(&problem_types::UNSUPPORTED_MEDIA_TYPE, detail).with("supported", supported)
}

pub(crate) fn invalid_producer(reason: impl Into<String>) -> Problem {
    Problem::new(&INVALID_PRODUCER, reason.into())
}

pub(crate) fn out_of_memory() -> Problem {
    Problem::new(
        &BUSY,
        "the bodies of requests under way take all memory for them, try again",
    )
    .retry_after(SOON)
}

pub(crate) fn answer_memory_spent() -> Problem {
    Problem::new(
        &BUSY,
        "the answers under way hold all memory for them (answer-memory); try again, or request a smaller page",
    )
    .retry_after(SOON)
}

pub(crate) fn connections_taken(most: usize) -> Problem {
    Problem::new(
        &problem_types::TOO_MANY_REQUESTS_AT_ONCE,
        format!("all {most} connections have a request under way (max-connections); try again"),
    )
    .with("maximum", most)
    .retry_after(SOON)
}

/// Why the events of a request were not appended, or only a part of them.
pub(crate) fn append(error: &AppendError, producer: Option<&ProducerSequence>) -> Problem {
    let detail = error.to_string();
    match error {
        AppendError::Busy => Problem::new(&BUSY, detail).retry_after(SOON),
        AppendError::Sequence {
            sequence, expected, ..
        } => Problem::new(&SEQUENCE_GAP, detail)
            .with("sequence", sequence)
            .with("expectedSequence", expected),
        AppendError::Producer(_) => Problem::new(&INVALID_PRODUCER, detail),
        AppendError::Producers { most, retry_after } => Problem::new(&TOO_MANY_PRODUCERS, detail)
            .with("maximumProducers", most)
            .retry_after((*retry_after).max(SOON)),
        AppendError::NoSpace(_) => Problem::new(&NO_SPACE, detail).retry_after(LATER),
        AppendError::Unavailable(_) => {
            Problem::new(&problem_types::UNAVAILABLE, detail).retry_after(LATER)
        }
        AppendError::Partly {
            appended,
            events,
            partitions,
            ..
        } => {
            let ranges: Vec<AppendedPart> = partitions.iter().map(AppendedPart::from).collect();
            let way_out = match producer {
                Some(ProducerSequence {
                    producer_id,
                    sequence,
                }) => format!(
                    "repeat the same request with Producer-Id {producer_id} and Producer-Sequence {sequence}: it appends only what is missing"
                ),
                None => "a repeat of this request appends the missing events, and the appended ones once more; requests with \
                         Producer-Id and Producer-Sequence can be repeated without that"
                    .to_owned(),
            };
            Problem::new(&PARTLY_APPENDED, format!("{detail}; {way_out}"))
                .with("appended", appended)
                .with("events", events)
                .with("partitions", ranges)
                .retry_after(LATER)
        }
        AppendError::Closed => stopping(),
    }
}

/// The position of the appended events of a request that was appended in part.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct AppendedPart {
    partition: u32,
    first_offset: u64,
    last_offset: u64,
}

impl From<&AppendedRange> for AppendedPart {
    fn from(range: &AppendedRange) -> Self {
        Self {
            partition: range.partition.0,
            first_offset: range.first_offset.0,
            last_offset: range.last_offset.0,
        }
    }
}

/// The log closed during the request: whether its events are durable is unknown.
pub(crate) fn append_unanswered() -> Problem {
    Problem::new(
        &STOPPING,
        "the engine stopped before it could say whether the events are durable; repeat the request with the same Producer-Sequence",
    )
    .retry_after(LATER)
}

pub(crate) fn starting(opening: &str) -> Problem {
    Problem::new(&STARTING, opening.to_owned()).retry_after(SOON)
}

pub(crate) fn stopping() -> Problem {
    Problem::new(&STOPPING, "the engine is shutting down").retry_after(LATER)
}

pub(crate) fn failed() -> Problem {
    Problem::new(
        &problem_types::INTERNAL,
        "the server failed on this request; its log says more",
    )
}

pub(crate) fn unknown_workspace(id: &WorkspaceId) -> Problem {
    Problem::new(
        &problem_types::WORKSPACE_UNKNOWN,
        "neither the store nor the log knows the workspace",
    )
    .with("workspaceId", id.as_str())
}

/// Whether the workspace exists is unknown: its partition has not been read up to the end of the log.
pub(crate) fn not_read_yet(id: &WorkspaceId, end: Offset, position: Offset) -> Problem {
    let detail = format!(
        "the workspace is not known yet: its partition is read up to offset {position}, and its events may be below {end}"
    );
    Problem::new(&NOT_LOADED, detail)
        .with("workspaceId", id.as_str())
        .with("position", position.0)
        .with("end", end.0)
        .retry_after(SOON)
}

/// The workspace type implements no reads of entities.
pub(crate) fn no_entities(id: &WorkspaceId) -> Problem {
    Problem::new(
        &NO_ENTITIES,
        "the workspace type of this engine offers no entities to readers",
    )
    .with("workspaceId", id.as_str())
}

pub(crate) fn unknown_entity(id: &WorkspaceId, kind: &str, entity_id: &str) -> Problem {
    Problem::new(&ENTITY_UNKNOWN, "the workspace has no such entity")
        .with("workspaceId", id.as_str())
        .with("type", kind)
        .with("id", entity_id)
}

/// A workspace that could not be loaded in time, with its status.
pub(crate) fn not_loaded(id: &WorkspaceId, status: Option<&Snapshot>) -> Problem {
    let detail = match status {
        Some(status) => match status.error_message() {
            Some(message) => format!("the workspace is in error: {message}"),
            None => format!("the workspace is in {}", status.state()),
        },
        None => "the workspace is not in memory".to_owned(),
    };
    with_status(Problem::new(&NOT_LOADED, detail), id, status).retry_after(SOON)
}

/// A workspace that did not apply an offset in time, with its status.
pub(crate) fn not_applied(
    id: &WorkspaceId,
    requested: Offset,
    reached: Option<Offset>,
    status: Option<&Snapshot>,
) -> Problem {
    let detail = match (status.and_then(Snapshot::error_message), reached) {
        (Some(message), _) => format!("the workspace is in error: {message}"),
        (None, Some(reached)) => {
            format!("offset {requested} is not applied yet, {reached} is next")
        }
        (None, None) => format!("offset {requested} is not applied yet"),
    };
    let problem = Problem::new(&NOT_APPLIED, detail)
        .with("atLeast", requested.0)
        .with("nextOffset", reached.map(|reached| reached.0));
    with_status(problem, id, status).retry_after(SOON)
}

fn with_status(problem: Problem, id: &WorkspaceId, status: Option<&Snapshot>) -> Problem {
    let problem = problem.with("workspaceId", id.as_str());
    match status {
        Some(status) => problem.with("workspaceStatus", StatusDocument::new(status)),
        None => problem,
    }
}

pub(crate) fn action(id: &WorkspaceId, error: &ActionError) -> Problem {
    let detail = error.to_string();
    match error {
        ActionError::Refused(CommandError::UnknownWorkspace) => unknown_workspace(id),
        ActionError::Refused(CommandError::NotStopped) => Problem::new(&NOT_STOPPED, detail),
        ActionError::Refused(
            CommandError::Busy | CommandError::Opening | CommandError::Leaving,
        )
        | ActionError::Busy => Problem::new(&BUSY, detail).retry_after(SOON),
        ActionError::Refused(CommandError::LogBeginsLater {
            first_offset,
            low_watermark,
        }) => Problem::new(
            &LOG_BEGINS_LATER,
            format!("{detail}: `workspace-engine reset {id} --force` or POST /api/v1/workspaces/{id}/reset?force=true"),
        )
            .with("firstOffset", first_offset.0)
            .with("lowWatermark", low_watermark.0),
        ActionError::TimedOut { .. } => Problem::new(&ACTION_TIMEOUT, detail).retry_after(LATER),
        ActionError::Refused(CommandError::Failed(_)) => Problem::new(&ACTION_FAILED, detail),
        ActionError::NotAssigned(_) => {
            Problem::new(&problem_types::UNAVAILABLE, detail).retry_after(LATER)
        }
        ActionError::Closed => stopping(),
    }
    .with("workspaceId", id.as_str())
}

/// The body of an action on many workspaces is not valid.
pub(crate) fn invalid_action(reason: String) -> Problem {
    Problem::new(&problem_types::INVALID_BODY, reason)
}

pub(crate) fn expected_missing() -> Problem {
    invalid_action(
        "expected is missing: count the workspaces with \"dryRun\":true first, and send the number that matched"
            .to_owned(),
    )
    .with("member", "expected")
}

/// The number of matching workspaces differs from the expected one.
pub(crate) fn count_changed(expected: u64, matched: usize) -> Problem {
    Problem::new(
        &COUNT_CHANGED,
        format!(
            "{matched} workspaces match now, {expected} were expected: nothing was done; count again with \"dryRun\":true"
        ),
    )
    .with("expected", expected)
    .with("matched", matched)
}

pub(crate) fn too_many_operations(maximum: usize) -> Problem {
    Problem::new(
        &problem_types::TOO_MANY_REQUESTS_AT_ONCE,
        "as many operations run as may at the same time; wait for one, or stop it with DELETE /api/v1/operations/{id}",
    )
    .with("maximum", maximum)
    .retry_after(LATER)
}

pub(crate) fn unknown_operation(id: &str) -> Problem {
    Problem::new(
        &OPERATION_UNKNOWN,
        "there is no such operation: the latest 100 that ended are kept, and none outlives the engine",
    )
    .with("operation", id)
}

pub(crate) fn store(error: &StoreError) -> Problem {
    Problem::new(&problem_types::UNAVAILABLE, error.to_string()).retry_after(LATER)
}

pub(crate) fn log_read(error: &ReadError) -> Problem {
    Problem::new(&problem_types::UNAVAILABLE, error.to_string()).retry_after(LATER)
}

#[cfg(test)]
mod tests;
