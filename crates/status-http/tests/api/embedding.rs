//! The router inside another service.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::routing::get;
use workspace_status::{State, Tracker};

use crate::support::{World, answer};

fn request(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_service_keeps_its_own_routes_and_its_own_fallback() {
    let tracker = Tracker::new();
    tracker.get_or_create("a").set_state(State::Ready, "ok");
    let app = Router::new()
        .route("/hello", get(|| async { "hello" }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "mine") })
        .merge(workspace_status_http::router(tracker));
    assert_eq!(answer(&app, request("/hello")).await.body, "hello");
    assert_eq!(answer(&app, request("/nowhere")).await.body, "mine");
    let status = answer(&app, request("/api/v1/workspaces/a/ready")).await;
    assert_eq!(status.status, StatusCode::OK);
    let refused = Request::delete("/livez").body(Body::empty()).unwrap();
    let refused = answer(&app, refused).await;
    assert_eq!(refused.problem()["type"], "/problems/method-not-allowed");
    assert_eq!(refused.headers[header::ALLOW], "GET,HEAD");
}

#[tokio::test]
async fn the_router_works_under_a_prefix() {
    let app = Router::new().nest("/ops", workspace_status_http::router(Tracker::new()));
    let list = answer(&app, request("/ops/api/v1/workspaces/statuses")).await;
    assert_eq!(list.status, StatusCode::OK);
    let page = answer(&app, request("/ops/docs/")).await;
    assert_eq!(page.status, StatusCode::OK);
}

#[test]
fn the_router_can_be_made_before_there_is_a_runtime() {
    let app = workspace_status_http::router(Tracker::new());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let page = runtime.block_on(answer(&app, request("/metrics")));
    assert_eq!(page.status, StatusCode::OK);
}

#[tokio::test]
async fn the_page_of_the_api_refers_to_nothing_in_the_internet() {
    let world = World::new();
    let index = world.get("/docs/").await;
    assert_eq!(index.status, StatusCode::OK);
    let config = world.get("/docs/swagger-initializer.js").await;
    assert_eq!(config.status, StatusCode::OK);
    for text in [&index.body, &config.body] {
        for external in ["http://", "https://", "=\"//", "url(//"] {
            assert!(!text.contains(external), "{external} in {text}");
        }
    }
    assert!(config.body.contains("../openapi.json"), "{}", config.body);
    assert!(
        config.body.contains("\"validatorUrl\": \"none\""),
        "{}",
        config.body
    );
    // Whatever the page names is here.
    let names: Vec<_> = index
        .body
        .split(['"', '\''])
        .filter_map(|text| text.strip_prefix("./"))
        .collect();
    assert!(names.contains(&"swagger-ui-bundle.js"), "{names:?}");
    for name in names {
        let request = request(&format!("/docs/{name}"));
        let response = tower::ServiceExt::oneshot(world.app.clone(), request);
        assert_eq!(response.await.unwrap().status(), StatusCode::OK, "{name}");
    }
}
