//! A source that fails.

use std::borrow::Cow;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use workspace_status::{Page, PageQuery, Snapshot, StateCounts, Tracker, WaitOutcome, WorkspaceId};
use workspace_status_http::{
    BoxFuture, Check, HistoryError, HistoryPage, HistoryQuery, Limits, NOTHING_KNOWN, Problem,
    Registry, StatusApi, StatusSource, Wait, document_routes, problem_types, with_problems,
};

use crate::support::{Answer, answer};

/// A tracker whose store is broken and whose lists panic.
struct Failing(Tracker);

impl StatusSource for Failing {
    fn status(&self, id: &str) -> Option<Snapshot> {
        self.0.snapshot(id)
    }

    fn unknown(&self, _id: &WorkspaceId) -> BoxFuture<Cow<'static, str>> {
        Box::pin(std::future::ready(NOTHING_KNOWN.into()))
    }

    fn page(&self, _query: &PageQuery) -> Page {
        panic!("a defect of the source")
    }

    fn counts(&self) -> StateCounts {
        self.0.count_by_state()
    }

    fn tracker(&self) -> &Tracker {
        &self.0
    }

    fn wait(&self, _wait: Wait) -> BoxFuture<Result<WaitOutcome, Problem>> {
        let problem = Problem::new(&problem_types::UNAVAILABLE, "the node is stopping");
        Box::pin(std::future::ready(Err(problem)))
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<Option<HistoryPage>, HistoryError>> {
        let error = match query.after {
            None => HistoryError::Unavailable("the disk is away".to_owned()),
            Some(_) => HistoryError::UnknownPlace,
        };
        Box::pin(std::future::ready(Err(error)))
    }

    fn readiness(&self) -> Vec<Check> {
        vec![Check::ok("log"), Check::failed("store", "the disk is away")]
    }

    fn liveness(&self) -> Vec<Check> {
        vec![Check::ok("loops")]
    }
}

fn app(workspaces: usize) -> Router {
    let tracker = Tracker::new();
    for number in 0..workspaces {
        tracker.get_or_create(&format!("t-{number}"));
    }
    let api = StatusApi::new(Failing(tracker), Limits::default(), Registry::default());
    with_problems(document_routes(api.routes()))
}

async fn get(app: &Router, uri: &str) -> Answer {
    answer(app, Request::get(uri).body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_failing_check_is_503_and_is_named_also_without_verbose() {
    let app = app(0);
    for uri in ["/readyz", "/readyz?verbose"] {
        let answer = get(&app, uri).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            answer.body,
            "[+]log ok\n[-]store failed: the disk is away\nreadyz check failed\n"
        );
    }
    assert_eq!(get(&app, "/livez").await.body, "ok");
}

#[tokio::test]
async fn a_history_that_cannot_be_read_is_503_and_says_when_to_come_again() {
    let answer = get(&app(1), "/api/v1/workspaces/t-0/history").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.problem()["type"], "/problems/unavailable");
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
}

#[tokio::test]
async fn a_list_that_panics_is_500_wherever_it_is_made() {
    for workspaces in [1, 3_000] {
        let answer = get(&app(workspaces), "/api/v1/workspaces/statuses").await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.problem()["type"], "/problems/internal");
    }
}

#[tokio::test]
async fn a_wait_that_its_source_ends_is_answered_with_the_problem_of_the_source() {
    let answer = get(&app(0), "/api/v1/workspaces/t/status?waitFor=ready").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.problem()["detail"], "the node is stopping");
}
