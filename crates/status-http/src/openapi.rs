//! The `OpenAPI` document, made from the types of the documents and routes, and its page.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::api::answer;
use crate::problem::shape_foreign;

/// The part of the document that does not come from a route.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Workspace status",
        description = "The status of every workspace: its state and since when, why, its progress and how long it still takes.\n\nInstants are RFC 3339 in UTC, members are camelCase, a member without a value is null. Errors are RFC 9457 problems (`application/problem+json`), but that of the status of an unknown workspace, which is 404 with the status document itself.",
    ),
    tags(
        (name = "workspaces", description = "Statuses of workspaces"),
        (name = "node", description = "State of this node"),
    )
)]
struct Base;

pub(crate) fn document() -> utoipa::openapi::OpenApi {
    Base::openapi()
}

/// Mounts `routes`, with `/openapi.json` that describes them and `/docs` that shows it. The page
/// needs nothing from the internet.
pub fn document_routes(routes: OpenApiRouter) -> Router {
    let (mounted, document) = routes.split_for_parts();
    // A generated document always serialises. All answers share its bytes.
    let document = Bytes::from(document.to_json().unwrap_or_default());
    let serve = move || {
        let document = document.clone();
        let content_type = HeaderValue::from_static("application/json");
        std::future::ready(answer(StatusCode::OK, content_type, document))
    };
    mounted.route("/openapi.json", get(serve)).merge(page())
}

fn page() -> Router {
    // Relative, so that the page finds its document wherever the routes are nested. Without a
    // validator, because Swagger UI would query one on the internet.
    let config = Config::new(["../openapi.json"])
        .validator_url("none")
        .default_models_expand_depth(0)
        .try_it_out_enabled(true);
    let page: Router = SwaggerUi::new("/docs").config(config).into();
    page.layer(map_response(|response| async { shape_foreign(response) }))
}
