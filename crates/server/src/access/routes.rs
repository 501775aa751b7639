//! Every route and what it needs from its caller: the one table that is checked before a request is routed.
//!
//! Invariant: a request whose path and method are not in this table never reaches a handler. One test
//! compares the table with the `OpenAPI` document, another sends a request to each route with each role.

use super::role::Right;
use axum::http::Method;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// A route, and what it needs from its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    method: &'static str,
    path: &'static str,
    pub(crate) need: Need,
    pub(crate) reach: Reach,
    /// Its name in the audit log; `None` where it changes nothing.
    pub(crate) action: Option<&'static str>,
}

/// What a route needs from its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: probes, and pages without engine data.
    Nothing,
    /// Any role.
    AnyRole,
    /// A right.
    Right(Right),
}

/// The workspaces that a request can concern; a token's prefix limits them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// None.
    Nothing,
    /// The one in the path, under the parameter `id`.
    PathWorkspace,
    /// Those in the body: the handler checks each of them.
    BodyWorkspaces,
    /// All of them, such as in a list.
    AllWorkspaces,
}

const GET: &str = "GET";
const POST: &str = "POST";
const DELETE: &str = "DELETE";

/// Every route. A route with `GET` takes `HEAD` as well.
const ROUTES: &[Route] = &[
    open("/livez"),
    open("/readyz"),
    open("/startupz"),
    open("/recoveredz"),
    open("/"),
    open("/docs"),
    open("/docs/"),
    open("/docs/{*file}"),
    open("/openapi.json"),
    Route {
        need: Need::AnyRole,
        ..open("/api/v1/me")
    },
    all(GET, Right::View, "/metrics"),
    all(GET, Right::View, "/api/v1/workspaces"),
    all(GET, Right::View, "/api/v1/workspaces/statuses"),
    all(GET, Right::View, "/api/v1/partitions"),
    all(GET, Right::View, "/api/v1/operations/{operation}"),
    one(GET, Right::View, "/api/v1/workspaces/{id}/status"),
    one(GET, Right::View, "/api/v1/workspaces/{id}/ready"),
    one(GET, Right::View, "/api/v1/workspaces/{id}/history"),
    one(GET, Right::Read, "/api/v1/workspaces/{id}/entities"),
    one(GET, Right::Read, "/api/v1/workspaces/{id}/entities/{type}"),
    one(
        GET,
        Right::Read,
        "/api/v1/workspaces/{id}/entities/{type}/{entity}",
    ),
    // Dead letters contain whole events.
    one(GET, Right::Read, "/api/v1/workspaces/{id}/dead-letters"),
    one(POST, Right::Produce, "/api/v1/workspaces/{id}/events"),
    Route {
        reach: Reach::BodyWorkspaces,
        ..all(POST, Right::Produce, "/api/v1/events")
    },
    action_on_one(POST, "/api/v1/workspaces/{id}/load", "load"),
    action_on_one(POST, "/api/v1/workspaces/{id}/unload", "unload"),
    action_on_one(POST, "/api/v1/workspaces/{id}/reload", "reload"),
    action_on_one(POST, "/api/v1/workspaces/{id}/skip", "skip"),
    action_on_one(POST, "/api/v1/workspaces/{id}/reset", "reset"),
    action_on_one(DELETE, "/api/v1/workspaces/{id}", "delete"),
    // The workspace named `statuses`: the handlers' router prefers a path without parameters as well.
    action_on_one(DELETE, "/api/v1/workspaces/statuses", "delete"),
    action_on_all(POST, "/api/v1/actions", "action on a filter"),
    action_on_all(
        DELETE,
        "/api/v1/operations/{operation}",
        "stop an operation",
    ),
];

const fn open(path: &'static str) -> Route {
    Route {
        method: GET,
        path,
        need: Need::Nothing,
        reach: Reach::Nothing,
        action: None,
    }
}

const fn all(method: &'static str, right: Right, path: &'static str) -> Route {
    Route {
        method,
        path,
        need: Need::Right(right),
        reach: Reach::AllWorkspaces,
        action: None,
    }
}

const fn one(method: &'static str, right: Right, path: &'static str) -> Route {
    Route {
        reach: Reach::PathWorkspace,
        ..all(method, right, path)
    }
}

const fn action_on_all(method: &'static str, path: &'static str, action: &'static str) -> Route {
    Route {
        action: Some(action),
        ..all(method, Right::Operate, path)
    }
}

const fn action_on_one(method: &'static str, path: &'static str, action: &'static str) -> Route {
    Route {
        action: Some(action),
        ..one(method, Right::Operate, path)
    }
}

impl Route {
    /// Whether it needs nothing from its caller.
    pub(crate) fn is_open(&self) -> bool {
        self.need == Need::Nothing
    }

    /// Whether a request to it may change what the engine holds.
    pub(crate) fn changes_something(&self) -> bool {
        self.method != GET
    }
}

/// The table of routes.
pub(crate) struct Routes(matchit::Router<PathRoutes>);

/// The routes of one path.
#[derive(Debug, Default)]
struct PathRoutes {
    routes: Vec<&'static Route>,
    /// The methods, in the form of the `Allow` header.
    allow: String,
}

/// The result of a lookup in the table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup<'a> {
    Found {
        route: &'static Route,
        /// The workspace in the path, percent-encoded.
        workspace: Option<PathId<'a>>,
        /// The operation in the path, not decoded.
        operation: Option<&'a str>,
    },
    /// The path exists with other methods; `allow` lists them as in the `Allow` header.
    UnknownMethod {
        allow: &'a str,
    },
    UnknownPath,
}

/// A workspace's id as written in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PathId<'a>(&'a str);

impl<'a> PathId<'a> {
    /// The id that the handler reads; `None` where it is not UTF-8, which every handler rejects.
    pub(crate) fn decoded(self) -> Option<Cow<'a, str>> {
        percent_decode_str(self.0).decode_utf8().ok()
    }
}

impl Routes {
    /// The table.
    #[expect(clippy::expect_used, reason = "the paths are constants")]
    pub(crate) fn new() -> Self {
        let mut paths: Vec<(&str, PathRoutes)> = Vec::new();
        for route in ROUTES {
            let known = paths.iter().position(|(path, _)| *path == route.path);
            let index = known.unwrap_or_else(|| {
                paths.push((route.path, PathRoutes::default()));
                paths.len() - 1
            });
            if let Some((_, routes)) = paths.get_mut(index) {
                routes.add(route);
            }
        }
        let mut router = matchit::Router::new();
        for (path, routes) in paths {
            router
                .insert(path, routes)
                .expect("no two paths of the table match the same requests");
        }
        Self(router)
    }

    /// Looks up a request. The path is matched in the same way as by the handlers' router:
    /// by the same library, before it is percent-decoded.
    pub(crate) fn find<'a>(&'a self, method: &Method, path: &'a str) -> Lookup<'a> {
        let Ok(matched) = self.0.at(path) else {
            return Lookup::UnknownPath;
        };
        let method = match method.as_str() {
            "HEAD" => GET,
            other => other,
        };
        let found = matched.value.routes.iter();
        match found.copied().find(|route| route.method == method) {
            Some(route) => Lookup::Found {
                route,
                workspace: match (route.reach, matched.params.get("id")) {
                    // A workspace with the name of a route without parameters, such as `statuses`.
                    (Reach::PathWorkspace, None) => path.rsplit('/').next().map(PathId),
                    (_, id) => id.map(PathId),
                },
                operation: matched.params.get("operation"),
            },
            None => Lookup::UnknownMethod {
                allow: &matched.value.allow,
            },
        }
    }
}

impl PathRoutes {
    fn add(&mut self, route: &'static Route) {
        if !self.allow.is_empty() {
            self.allow.push(',');
        }
        self.allow.push_str(route.method);
        if route.method == GET {
            self.allow.push_str(",HEAD");
        }
        self.routes.push(route);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &Method, path: &str, expected: Option<(Need, Reach, Option<&str>)>) {
        let routes = Routes::new();
        let found = match routes.find(method, path) {
            Lookup::Found {
                route, workspace, ..
            } => {
                let id = workspace.and_then(PathId::decoded).map(Cow::into_owned);
                Some((route.need, route.reach, id))
            }
            Lookup::UnknownMethod { .. } | Lookup::UnknownPath => None,
        };
        let expected = expected.map(|(need, reach, id)| (need, reach, id.map(str::to_owned)));
        assert_eq!(found, expected, "{method} {path}");
    }

    #[test]
    fn a_request_is_found_by_its_method_and_path() {
        let view = Need::Right(Right::View);
        let operate = Need::Right(Right::Operate);
        let get = Method::GET;
        check(&get, "/livez", Some((Need::Nothing, Reach::Nothing, None)));
        check(
            &Method::HEAD,
            "/api/v1/workspaces",
            Some((view, Reach::AllWorkspaces, None)),
        );
        check(
            &get,
            "/api/v1/workspaces/statuses",
            Some((view, Reach::AllWorkspaces, None)),
        );
        check(
            &get,
            "/api/v1/workspaces/a%2Db/status",
            Some((view, Reach::PathWorkspace, Some("a-b"))),
        );
        check(
            &Method::DELETE,
            "/api/v1/workspaces/a",
            Some((operate, Reach::PathWorkspace, Some("a"))),
        );
        check(
            &Method::DELETE,
            "/api/v1/workspaces/statuses",
            Some((operate, Reach::PathWorkspace, Some("statuses"))),
        );
        check(
            &Method::DELETE,
            "/api/v1/operations/7",
            Some((operate, Reach::AllWorkspaces, None)),
        );
    }

    #[test]
    fn what_is_not_in_the_table_is_not_found() {
        for (method, path) in [
            (Method::GET, "/api/v1/workspaces/"),
            (Method::GET, "/api/v1/workspaces/a/../b/status"),
            (Method::GET, "//api/v1/workspaces"),
            (Method::GET, "/api/v1/workspaces/a%2Fstatus"),
            (Method::PUT, "/api/v1/workspaces/a"),
            (Method::OPTIONS, "*"),
            (Method::POST, "/api/v1/workspaces/a/nuke"),
        ] {
            check(&method, path, None);
        }
        let routes = Routes::new();
        let found = routes.find(&Method::PUT, "/api/v1/operations/7");
        let allow = "GET,HEAD,DELETE";
        assert_eq!(found, Lookup::UnknownMethod { allow });
    }

    #[test]
    fn every_route_with_a_workspace_in_its_path_is_limited_by_it() {
        for route in ROUTES {
            let names_one = route.path.starts_with("/api/v1/workspaces/{id}")
                || (route.method, route.path) == (DELETE, "/api/v1/workspaces/statuses");
            let is_limited = route.reach == Reach::PathWorkspace;
            assert_eq!(names_one, is_limited, "{}", route.path);
        }
    }

    #[test]
    fn whatever_needs_the_right_to_operate_is_logged_as_an_action() {
        for route in ROUTES {
            let operates = route.need == Need::Right(Right::Operate);
            assert_eq!(operates, route.action.is_some(), "{}", route.path);
        }
    }

    #[test]
    fn a_workspace_may_have_the_name_of_another_route() {
        // Every path without parameters that a parameterised path also matches.
        for fixed in ROUTES.iter().filter(|route| !route.path.contains('{')) {
            for route in ROUTES.iter().filter(|route| route.path.contains("{id}")) {
                let prefix = route.path.split('{').next().unwrap();
                let is_shadowed = route.path.ends_with("{id}")
                    && fixed
                        .path
                        .strip_prefix(prefix)
                        .is_some_and(|rest| !rest.is_empty() && !rest.contains('/'));
                let has_both = |one: &&Route| (one.method, one.path) == (route.method, fixed.path);
                assert!(
                    !is_shadowed || ROUTES.iter().any(|one| has_both(&one)),
                    "{} {} hides {}",
                    route.method,
                    fixed.path,
                    route.path
                );
            }
        }
    }
}
