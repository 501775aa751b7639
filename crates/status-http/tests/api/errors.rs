//! Every error is a problem that says what was wrong and what would be right.

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{Request, StatusCode, header};
use axum::routing::get;
use workspace_status::State;
use workspace_status_http::{Checked, with_problems};

use crate::support::{World, answer};

/// Status, type, a member that helps, and the path; `{w}`, `{long}` and `{foreign}` stand for the
/// path of workspaces, an id of 256 bytes, and a cursor of a history.
const BAD_REQUESTS: &str = "\
400 invalid-workspace-id workspaceId {w}/a%20b/status
400 invalid-workspace-id workspaceId {w}/a%2Fb/ready
400 invalid-workspace-id workspaceId {w}/a%zzb/status
400 invalid-workspace-id workspaceId {w}/t%C3%A4/history
400 invalid-workspace-id idBytes {w}/{long}/status
400 invalid-workspace-id idBytes {w}//status
400 invalid-workspace-id expected {w}/a%20b/status?waitFor=ready
400 invalid-path detail {w}/a%ff/status
400 invalid-path detail {w}/a%ff/history
400 invalid-parameter allowed {w}/ready/status?waitfor=ready
400 invalid-parameter allowed {w}/ready/status?waitFor=done
400 invalid-parameter allowed {w}/ready/status?waitFor=
400 invalid-parameter value {w}/ready/status?waitFor=ready&failOn=Error
400 invalid-parameter value {w}/ready/status?waitFor=ready&timeout=30
400 invalid-parameter maximumSeconds {w}/ready/status?waitFor=ready&timeout=11m
400 invalid-parameter parameter {w}/ready/status?waitFor=ready&timeout=1s&timeout=2s
400 invalid-parameter parameter {w}/ready/status?timeout=1s
400 invalid-parameter parameter {w}/ready/status?failOn=error
400 invalid-parameter allowed {w}/statuses?state=gone
400 invalid-parameter allowed {w}/statuses?state=ready,
400 invalid-parameter allowed {w}/statuses?healthy=yes
400 invalid-parameter maximum {w}/statuses?limit=0
400 invalid-parameter maximum {w}/statuses?limit=1001
400 invalid-parameter maximum {w}/statuses?limit=many
400 invalid-parameter maximum {w}/statuses?limit=-1
400 invalid-cursor parameter {w}/statuses?cursor=abc
400 invalid-cursor parameter {w}/statuses?cursor=
400 invalid-cursor parameter {w}/statuses?cursor={foreign}
400 invalid-cursor parameter {w}/ready/history?cursor=00
400 invalid-parameter maximum {w}/ready/history?limit=5000
400 invalid-parameter allowed /readyz?loud
404 route-not-found path /nowhere
404 route-not-found path {w}/a/b/c
404 route-not-found detail /docs/nothing.js
";

#[tokio::test]
async fn a_bad_request_is_answered_with_what_is_wrong() {
    let world = World::of_states(&[State::Ready]);
    let status = world.tracker.get_or_create("h");
    status.set_state(State::Ready, "");
    status.set_state(State::Unloading, "");
    let history = world.get("/api/v1/workspaces/h/history?limit=1").await;
    let foreign = history.json()["nextCursor"].as_str().unwrap().to_owned();
    for case in BAD_REQUESTS.lines() {
        let [status, name, member, uri] = case.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{case}");
        };
        let uri = uri
            .replace("{w}", "/api/v1/workspaces")
            .replace("{long}", &"x".repeat(256))
            .replace("{foreign}", &foreign);
        let answer = world.get(&uri).await;
        assert_eq!(answer.status.as_str(), status, "{case}: {}", answer.body);
        let problem = answer.problem();
        assert_eq!(problem["type"], format!("/problems/{name}"), "{case}");
        assert!(!problem[member].is_null(), "{case}: {problem}");
    }
}

#[tokio::test]
async fn a_method_that_a_route_does_not_have_is_405_with_those_it_has() {
    let world = World::new();
    for uri in [
        "/api/v1/workspaces/a/status",
        "/api/v1/workspaces/statuses",
        "/livez",
        "/metrics",
        "/openapi.json",
        "/docs/",
    ] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let answer = world.send(method, uri).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{uri}");
            assert_eq!(answer.headers[header::ALLOW], "GET,HEAD", "{uri}");
            assert_eq!(answer.problem()["type"], "/problems/method-not-allowed");
        }
    }
}

/// Routes as another crate would add them.
fn other_routes() -> Router {
    async fn number(Checked(Path(number)): Checked<Path<u32>>) -> String {
        number.to_string()
    }
    async fn defective() -> String {
        panic!("a secret of the server")
    }
    with_problems(
        Router::new()
            .route("/number/{number}", get(number))
            .route("/defective", get(defective)),
    )
}

#[tokio::test]
async fn a_segment_of_another_type_is_a_problem() {
    let request = Request::get("/number/seven").body(Body::empty()).unwrap();
    let answer = answer(&other_routes(), request).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.problem()["type"], "/problems/invalid-path");
}

#[tokio::test]
async fn a_panic_is_500_and_keeps_its_text_to_itself() {
    let request = Request::get("/defective").body(Body::empty()).unwrap();
    let answer = answer(&other_routes(), request).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(answer.problem()["type"], "/problems/internal");
    assert!(!answer.body.contains("secret"));
}
