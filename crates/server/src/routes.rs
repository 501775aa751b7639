//! The engine's own routes, in addition to the status routes.

mod actions;
mod body;
mod dead_letters;
mod entities;
mod events;
mod me;
mod operations;
mod paging;
mod partitions;
mod workspaces;

use crate::{app::App, operations::Operations};
use axum::{extract::FromRef, routing};
use std::sync::Arc;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};
use workspace_status_http::StatusApi;

/// The parts of the `OpenAPI` document that no route brings.
#[derive(OpenApi)]
#[openapi(tags(
    (name = "events", description = "Events in"),
    (name = "entities", description = "The state that events made"),
    (name = "operator", description = "What an operator does to workspaces"),
))]
struct Base;

/// Shared by the handlers: the engine, and the status routes' limit of waiting requests.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) app: App,
    pub(crate) status: StatusApi,
    /// Actions on many workspaces.
    operations: Arc<Operations>,
}

impl Api {
    pub(crate) fn new(app: App, status: StatusApi) -> Self {
        Self {
            app,
            status,
            operations: Arc::default(),
        }
    }
}

impl FromRef<Api> for App {
    fn from_ref(api: &Api) -> Self {
        api.app.clone()
    }
}

/// All routes, with their part of the `OpenAPI` document.
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
        .routes(routes!(actions::reset))
        .routes(routes!(actions::delete))
        .route(
            "/api/v1/workspaces/statuses",
            routing::delete(actions::delete_statuses),
        )
        .routes(routes!(operations::post_action))
        .routes(routes!(operations::get, operations::stop))
        .routes(routes!(dead_letters::list))
        .routes(routes!(partitions::list))
        .routes(routes!(me::me))
        .with_state(api)
}
