//! A tracker on a stopped clock, the router over it, and parsed answers.

use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;
use workspace_status::{ManualClock, State, Tracker};
use workspace_status_http::{Limits, Registry, StatusApi, document_routes, with_problems};

/// 2026-11-23T08:09:10.123Z.
pub(crate) fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_421_350_123)
}

pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) tracker: Tracker,
    pub(crate) app: Router,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        let clock = ManualClock::new();
        clock.set_wall(start());
        let tracker = Tracker::builder()
            .clock(clock.clone())
            .owner("node-1")
            .build();
        let api = StatusApi::new(tracker.clone(), limits, Registry::default());
        Self {
            clock,
            tracker,
            app: with_problems(document_routes(api.routes())),
        }
    }

    /// A world with one workspace in each of `states`, named like it.
    pub(crate) fn of_states(states: &[State]) -> Self {
        let world = Self::new();
        for state in states {
            let status = world.tracker.get_or_create(state.as_str());
            if *state != State::Initializing {
                status.set_state(*state, "as the test wants it");
            }
        }
        world
    }

    pub(crate) async fn get(&self, uri: &str) -> Answer {
        self.send("GET", uri).await
    }

    pub(crate) async fn get_as(&self, uri: &str, accept: &str) -> Answer {
        let request = Request::builder().uri(uri).header(header::ACCEPT, accept);
        answer(&self.app, request.body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn send(&self, method: &str, uri: &str) -> Answer {
        let request = Request::builder().method(method).uri(uri);
        answer(&self.app, request.body(Body::empty()).unwrap()).await
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn content_type(&self) -> &str {
        self.headers
            .get(header::CONTENT_TYPE)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The problem's document, after a look that it has the form of one.
    pub(crate) fn problem(&self) -> Value {
        assert_eq!(
            self.content_type(),
            "application/problem+json",
            "{} {}",
            self.status,
            self.body
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        for member in ["type", "title", "detail"] {
            assert!(problem[member].is_string(), "{member} in {problem}");
        }
        assert_eq!(self.headers[header::CACHE_CONTROL], "no-store");
        problem
    }
}

pub(crate) async fn answer(app: &Router, request: Request<Body>) -> Answer {
    let response = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(bytes.to_vec()).unwrap(),
    }
}

/// Compares with a file under `tests/golden`, or writes it if `UPDATE_GOLDEN=1` is set.
pub(crate) fn assert_golden(name: &str, actual: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::write(&path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "tests/golden/{name} differs; UPDATE_GOLDEN=1 rewrites it. It is now:\n{actual}"
    );
}

pub(crate) fn pretty(json: &str) -> String {
    let value: Value = serde_json::from_str(json).unwrap();
    serde_json::to_string_pretty(&value).unwrap() + "\n"
}
