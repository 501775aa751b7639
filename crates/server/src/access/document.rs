//! Adds access control to the `OpenAPI` document, from the table of routes.

use super::{
    role::{Right, Role},
    routes::{Lookup, Need, Routes},
};
use axum::http::Method;
use utoipa::openapi::{
    ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder,
    path::{Operation, PathItem},
    security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
};

/// Name of the security scheme in the document.
const SCHEME: &str = "token";

/// Adds to each operation the roles that may call it, and the answers that other callers get.
pub(crate) fn document_access(document: &mut OpenApi) {
    let routes = Routes::new();
    let mut scheme = Http::new(HttpAuthScheme::Bearer);
    scheme.description = Some(
        "A token that `workspace-engine token` made. A client certificate also names the caller, and a caller with neither has the role that `serve --anonymous` gives. The names listed with an operation are the roles that may call it.".to_owned(),
    );
    document
        .components
        .get_or_insert_default()
        .add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            // A template matches itself.
            if let Lookup::Found { route, .. } = routes.find(&method, path) {
                describe(operation, route.need);
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    [
        (Method::GET, item.get.as_mut()),
        (Method::POST, item.post.as_mut()),
        (Method::DELETE, item.delete.as_mut()),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation?)))
}

fn describe(operation: &mut Operation, need: Need) {
    let roles: Vec<&str> = match need {
        Need::Nothing => {
            // An empty list overrides the document's own requirement.
            operation.security = Some(Vec::new());
            return;
        }
        Need::AnyRole => Role::GRANTABLE.map(Role::as_str).to_vec(),
        Need::Right(right) => roles_with(right),
    };
    operation.security = Some(vec![SecurityRequirement::new(SCHEME, roles)]);
    for (status, description) in [
        ("401", "The caller is not known, and none may do this"),
        (
            "403",
            "The caller may not do this, or the request is from a page of another site",
        ),
    ] {
        operation
            .responses
            .responses
            .entry(status.to_owned())
            .or_insert_with(|| RefOr::T(problem(description)));
    }
}

fn roles_with(right: Right) -> Vec<&'static str> {
    let roles = Role::GRANTABLE.into_iter().filter(|role| role.has(right));
    roles.map(Role::as_str).collect()
}

fn problem(description: &str) -> Response {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .build();
    ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", content)
        .build()
}
