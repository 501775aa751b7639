//! The state built from events: counts, pages and single entities of a workspace.

use super::{Api, paging};
use crate::{
    app::{App, Loaded},
    memory::{Budget, Buffer, HeldMemory, Reserved, UNCOUNTED_BYTES},
    problems,
};
use axum::{
    extract::{Path, RawQuery, State as Extract},
    http::StatusCode,
    response::Response,
};
use paging::Paging;
use serde::Serialize;
use serde_json::value::RawValue;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use utoipa::{IntoParams, ToSchema};
use workspace_engine_core::{EntityRef, ReadEntities, loaded::Applied};
use workspace_lifecycle::Offset;
use workspace_status::WorkspaceId;
use workspace_status_http::{
    Checked, Parameters, Problem, ProblemDocument, WorkspaceIdPath, answer_document, answer_json,
    invalid_workspace_id, meaningless_without,
};

const SIZE: paging::Size = paging::Size {
    usual: 100,
    most: 10_000,
};
/// A page ends early where its entities are large; it has at least one.
const PAGE_BYTES: usize = 4 << 20;
/// Maximum bytes in JSON of one character of an id.
const ESCAPED_CHARACTER_BYTES: usize = 6;
/// Bytes of an entity on a page in addition to its id and its value.
const ENTITY_BYTES: usize = 32;
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
const WAIT_LONGEST: Duration = Duration::from_mins(10);
const AT_LEAST: &str = "atLeast";
const TIMEOUT: &str = "timeout";

/// What must be applied before the answer.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query; Parameters reads it")]
struct SummaryParameters {
    /// Wait until the event at this offset of the workspace's partition is applied.
    #[param(rename = "atLeast")]
    at_least: Option<u64>,
    /// How long to wait for it, its load included, at most 10m; 30s if not given.
    #[param(example = "30s")]
    timeout: Option<String>,
}

/// What a workspace holds.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EntitySummary)]
struct SummaryDocument<'a> {
    /// The workspace.
    #[schema(value_type = String)]
    workspace_id: &'a str,
    /// First offset of its partition that is not applied.
    next_offset: u64,
    /// Events applied in its whole life; saved together with `nextOffset`, so it shows a doubled or lost event.
    events_applied: u64,
    /// Number of entities by type.
    counts: BTreeMap<String, usize>,
}

/// What a workspace holds
///
/// A workspace that is not in memory is loaded first, before others.
#[utoipa::path(
    get,
    path = "/api/v1/workspaces/{id}/entities",
    operation_id = "getEntitySummary",
    tag = "entities",
    params(("id" = String, Path, description = "The workspace"), SummaryParameters),
    responses(
        (status = 200, description = "Counts, and what is applied", body = SummaryDocument),
        (status = 400, description = "An invalid id or parameter", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "The workspace is not known, or its type offers no entities", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "It is not in memory yet, or has not applied the offset: `workspaceStatus` is its status", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn summary(
    Extract(api): Extract<Api>,
    WorkspaceIdPath(id): WorkspaceIdPath,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let parameters = Parameters::read(query.as_deref(), &[AT_LEAST, TIMEOUT])?;
    let timeout = parameters.duration(TIMEOUT, WAIT_LONGEST)?;
    let loaded = match (parameters.number(AT_LEAST)?, timeout) {
        (Some(offset), timeout) => {
            let deadline = Instant::now() + timeout.unwrap_or(WAIT_DEFAULT);
            api.applied(&id, Offset(offset), deadline).await?
        }
        (None, Some(_)) => return Err(meaningless_without(TIMEOUT, AT_LEAST)),
        (None, None) => api.loaded(&id, api.cold_read_deadline()).await?,
    };
    let document = read(&loaded, |entities, applied| SummaryDocument {
        workspace_id: loaded.id().as_str(),
        next_offset: applied.next_offset.0,
        events_applied: applied.events_applied,
        counts: entities
            .counts()
            .into_iter()
            .map(|(kind, count)| (kind.to_owned(), count))
            .collect(),
    })?;
    Ok(answer_document(StatusCode::OK, &document))
}

/// Reads the entities of a workspace, if its type has any.
fn read<T>(
    loaded: &Loaded,
    read: impl FnOnce(&dyn ReadEntities, Applied) -> T,
) -> Result<T, Problem> {
    loaded
        .read_any(|workspace, applied| Some(read(workspace.entities()?, applied)))
        .ok_or_else(|| problems::no_entities(loaded.id()))
}

/// Which page.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query; Parameters reads it")]
struct PageParameters {
    /// At most so many, 1 to 10,000; 100 if not given. A page of large entities holds fewer, and so does one that is
    /// made while other answers hold most of the memory for them: continue with its `nextCursor`.
    limit: Option<usize>,
    /// Where the page before ended, as its `nextCursor`.
    cursor: Option<String>,
}

/// A page of entities of one type. It is written by hand: the values are JSON already, and to
/// read them again would hold the workspace's lock for longer.
#[derive(ToSchema)]
#[schema(as = Entities)]
#[expect(dead_code, reason = "describes the answer; write_page writes it")]
struct PageDocument {
    /// Ordered by id bytewise.
    entities: Vec<EntityOfPage>,
    /// The cursor of the next page; null on the last.
    #[schema(required, rename = "nextCursor")]
    next_cursor: Option<String>,
}

/// An entity on a page.
#[derive(ToSchema)]
#[schema(as = EntityOfPage)]
#[expect(dead_code, reason = "describes the answer; write_page writes it")]
struct EntityOfPage {
    /// Its id within its type.
    id: String,
    /// Its value, as its last event set it.
    #[schema(value_type = Object)]
    data: serde_json::Value,
}

/// A page of entities of one type
#[utoipa::path(
    get,
    path = "/api/v1/workspaces/{id}/entities/{type}",
    operation_id = "listEntities",
    tag = "entities",
    params(
        ("id" = String, Path, description = "The workspace"),
        ("type" = String, Path, description = "The type, percent-encoded"),
        PageParameters,
    ),
    responses(
        (status = 200, description = "A page of entities; none where there is none of the type", body = PageDocument),
        (status = 400, description = "An invalid id or parameter", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "The workspace is not known, or its type offers no entities", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "It is not in memory yet: `workspaceStatus` is its status; or the answers under way hold all memory for them", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn page(
    Extract(api): Extract<Api>,
    Checked(Path((id, kind))): Checked<Path<(String, String)>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let id = workspace_id(&id)?;
    let parameters = Parameters::read(query.as_deref(), &[paging::LIMIT, paging::CURSOR])?;
    let paging = Paging::read(&parameters, format!("entities/{id}/{kind}"), SIZE)?;
    let loaded = api.loaded(&id, api.cold_read_deadline()).await?;
    // The first page after many new entities sorts them, which takes a while.
    let app = api.app.clone();
    tokio::task::spawn_blocking(move || page_of(&app, &loaded, &kind, &paging))
        .await
        .map_err(|_| problems::failed())?
}

fn page_of(app: &App, loaded: &Loaded, kind: &str, paging: &Paging) -> Result<Response, Problem> {
    let (after, limit) = (paging.after.as_deref(), paging.limit);
    let page = read(loaded, |entities, _| {
        write_page(
            &entities.page(kind, after, limit + 1),
            paging,
            app.answer_memory(),
        )
    })?;
    let page = page.map_err(|_| problems::failed())?;
    if page.ended != Ended::ByItself {
        app.http().answers_limited.add(1);
    }
    if page.ended == Ended::NoMemoryForOne {
        return Err(problems::answer_memory_spent());
    }
    let mut response = answer_json(StatusCode::OK, page.document);
    if let Some(memory) = page.memory {
        response.extensions_mut().insert(HeldMemory::new(memory));
    }
    Ok(response)
}

/// A serialised page, and the memory that it holds.
struct Page {
    document: Vec<u8>,
    memory: Option<Reserved>,
    ended: Ended,
}

/// Why a page ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Its limits were reached, or the last entity.
    ByItself,
    /// The memory for answers was exhausted; the page has at least one entity.
    NoMemory,
    /// There was not enough memory for one entity.
    NoMemoryForOne,
}

/// Serialises a page of entities; one entity beyond the limit means that there are more.
fn write_page(
    entities: &[EntityRef<'_>],
    paging: &Paging,
    memory: &Budget,
) -> Result<Page, serde_json::Error> {
    let mut buffer = Buffer::new(memory, PAGE_BYTES, UNCOUNTED_BYTES);
    buffer.bytes_mut().extend_from_slice(br#"{"entities":["#);
    let mut last = None;
    let mut next_cursor = None;
    let mut ended = Ended::ByItself;
    for (place, entity) in entities.iter().enumerate() {
        let is_full = place == paging.limit || (place > 0 && buffer.len() > PAGE_BYTES);
        let bytes = ENTITY_BYTES + entity.id.len() * ESCAPED_CHARACTER_BYTES + entity.data.len();
        if is_full || !buffer.make_room(bytes) {
            ended = match (is_full, place) {
                (true, _) => Ended::ByItself,
                (false, 0) => Ended::NoMemoryForOne,
                (false, _) => Ended::NoMemory,
            };
            next_cursor = last.map(|id| paging.cursor(id));
            break;
        }
        let document = buffer.bytes_mut();
        if place > 0 {
            document.push(b',');
        }
        document.extend_from_slice(br#"{"id":"#);
        serde_json::to_writer(&mut *document, entity.id)?;
        document.extend_from_slice(br#","data":"#);
        document.extend_from_slice(&entity.data);
        document.push(b'}');
        last = Some(entity.id);
    }
    let document = buffer.bytes_mut();
    document.extend_from_slice(br#"],"nextCursor":"#);
    serde_json::to_writer(&mut *document, &next_cursor)?;
    document.push(b'}');
    let (document, memory) = buffer.finish();
    Ok(Page {
        document,
        memory,
        ended,
    })
}

/// One entity.
#[derive(Serialize, ToSchema)]
#[schema(as = Entity)]
struct EntityDocument<'a> {
    /// Its type.
    #[schema(value_type = String)]
    r#type: &'a str,
    /// Its id within its type.
    #[schema(value_type = String)]
    id: &'a str,
    /// Its value, as its last event set it.
    #[schema(value_type = Object)]
    data: &'a RawValue,
    /// Offset of that event.
    offset: u64,
}

/// One entity
#[utoipa::path(
    get,
    path = "/api/v1/workspaces/{id}/entities/{type}/{entityId}",
    operation_id = "getEntity",
    tag = "entities",
    params(
        ("id" = String, Path, description = "The workspace"),
        ("type" = String, Path, description = "The type, percent-encoded"),
        ("entityId" = String, Path, description = "The id, percent-encoded: `dir/file` is `dir%2Ffile`"),
    ),
    responses(
        (status = 200, description = "The entity", body = EntityDocument),
        (status = 404, description = "There is no such workspace or entity, or its type offers none", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "It is not in memory yet: `workspaceStatus` is its status", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn one(
    Extract(api): Extract<Api>,
    Checked(Path((id, kind, entity_id))): Checked<Path<(String, String, String)>>,
) -> Result<Response, Problem> {
    let id = workspace_id(&id)?;
    let loaded = api.loaded(&id, api.cold_read_deadline()).await?;
    let document = read(&loaded, |entities, _| {
        let entity = entities.get(&kind, &entity_id)?;
        serde_json::to_vec(&EntityDocument {
            r#type: &kind,
            id: entity.id,
            data: raw(&entity.data)?,
            offset: entity.offset.0,
        })
        .ok()
    })?;
    match document {
        Some(bytes) => Ok(answer_json(StatusCode::OK, bytes)),
        None => Err(problems::unknown_entity(&id, &kind, &entity_id)),
    }
}

fn workspace_id(id: &str) -> Result<WorkspaceId, Problem> {
    WorkspaceId::new(id).map_err(|error| invalid_workspace_id(id, &error))
}

/// Stored data as raw JSON; only JSON was accepted.
fn raw(data: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(data).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity<'a>(id: &'a str, data: &'a [u8]) -> EntityRef<'a> {
        EntityRef {
            id,
            data: data.into(),
            offset: Offset(7),
        }
    }

    fn check(ids: &[&str], limit: usize, expected: &str, next: Option<&str>) {
        let entities: Vec<_> = ids.iter().map(|id| entity(id, br#"{"a":1}"#)).collect();
        let size = paging::Size {
            usual: limit,
            most: limit,
        };
        let parameters = Parameters::read(None, &[]).unwrap();
        let paging = Paging::read(&parameters, "pages".to_owned(), size).unwrap();
        let page = write_page(&entities, &paging, &Budget::new(0)).unwrap();
        let cursor = next.map(|id| paging.cursor(id));
        let next = serde_json::to_string(&cursor).unwrap();
        assert_eq!(
            String::from_utf8(page.document).unwrap(),
            format!(r#"{{"entities":[{expected}],"nextCursor":{next}}}"#)
        );
    }

    #[test]
    fn a_page_has_a_cursor_when_there_is_more() {
        check(&[], 2, "", None);
        check(&["a"], 2, r#"{"id":"a","data":{"a":1}}"#, None);
        check(
            &["a", "b\"/c", "d"],
            2,
            r#"{"id":"a","data":{"a":1}},{"id":"b\"/c","data":{"a":1}}"#,
            Some("b\"/c"),
        );
    }

    #[test]
    fn a_page_ends_where_the_memory_for_answers_is_spent() {
        let data = format!("\"{}\"", "x".repeat(40 << 10)).into_bytes();
        let entities = ["a", "b", "c"].map(|id| entity(id, &data));
        let size = paging::Size { usual: 9, most: 9 };
        let parameters = Parameters::read(None, &[]).unwrap();
        let paging = Paging::read(&parameters, "pages".to_owned(), size).unwrap();
        let memory = Budget::new(64 << 10);
        let held = write_page(&entities, &paging, &memory).unwrap();
        assert_eq!(held.ended, Ended::ByItself);
        let short = write_page(&entities, &paging, &memory).unwrap();
        assert_eq!(short.ended, Ended::NoMemory);
        let document: serde_json::Value = serde_json::from_slice(&short.document).unwrap();
        assert_eq!(document["entities"].as_array().unwrap().len(), 1);
        assert_eq!(document["nextCursor"], paging.cursor("a"));
        drop(held);
        let whole = write_page(&entities, &paging, &memory).unwrap();
        assert_eq!(whole.ended, Ended::ByItself);
    }
}
