//! The engine's own routes, beside those of the status.

mod actions;
mod body;
mod cursor;
mod dead_letters;
mod entities;
mod events;
mod partitions;
mod workspaces;

use crate::app::App;
use axum::{
    body::Body,
    extract::FromRef,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};
use workspace_status_http::{Problem, StatusApi};

/// The parts of the `OpenAPI` document that no route brings.
#[derive(OpenApi)]
#[openapi(tags(
    (name = "events", description = "Events in"),
    (name = "entities", description = "The state that events made"),
    (name = "operator", description = "What an operator does to a workspace"),
))]
struct Base;

/// What the handlers share: the engine, and the status routes' places for requests that wait.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) app: App,
    pub(crate) status: StatusApi,
}

impl Api {
    pub(crate) fn new(app: App, status: StatusApi) -> Self {
        Self { app, status }
    }
}

impl FromRef<Api> for App {
    fn from_ref(api: &Api) -> Self {
        api.app.clone()
    }
}

/// All of them, with their part of the `OpenAPI` document.
pub(crate) fn engine_routes(api: Api) -> OpenApiRouter {
    OpenApiRouter::with_openapi(Base::openapi())
        .routes(routes!(events::post_events))
        .routes(routes!(events::post_workspace_events))
        .routes(routes!(workspaces::list))
        .routes(routes!(entities::summary))
        .routes(routes!(entities::page))
        .routes(routes!(entities::one))
        .routes(routes!(actions::load))
        .routes(routes!(actions::unload))
        .routes(routes!(actions::reload))
        .routes(routes!(actions::skip))
        .routes(routes!(dead_letters::list))
        .routes(routes!(partitions::list))
        .with_state(api)
}

/// A JSON answer that no cache may keep.
fn json(status: StatusCode, document: &impl Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(bytes) => json_bytes(status, bytes),
        Err(_) => crate::problems::failed().into_response(),
    }
}

/// A JSON answer of bytes that are JSON already.
fn json_bytes(status: StatusCode, bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The size of a page, from 1 to `most`.
fn page_limit(asked: Option<usize>, default: usize, most: usize) -> Result<usize, Problem> {
    match asked {
        None => Ok(default),
        Some(limit) if (1..=most).contains(&limit) => Ok(limit),
        Some(limit) => Err(crate::problems::invalid_parameter(
            "limit",
            format!("the limit is a number from 1 to {most}, not {limit}"),
        )
        .with("maximum", most)),
    }
}
