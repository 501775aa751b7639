//! `GET /api/v1/workspaces/{id}/status` and `/ready`, and waiting.

use std::time::Duration;

use axum::http::{StatusCode, header};
use serde_json::json;
use workspace_status::State;
use workspace_status_http::Limits;

use crate::support::World;

#[tokio::test]
async fn a_status_shows_the_state_and_since_when() {
    let world = World::new();
    let status = world.tracker.get_or_create("tenant-1");
    status.set_state(State::Ready, "all loaded");
    world.clock.advance(Duration::from_millis(330_900));

    let answer = world.get("/api/v1/workspaces/tenant-1/status").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.content_type(), "application/json");
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    let document = answer.json();
    assert_eq!(document["state"], "ready");
    assert_eq!(document["healthy"], true);
    assert_eq!(document["message"], "all loaded");
    assert_eq!(document["stateEntered"], "2026-11-23T08:09:10.123Z");
    assert_eq!(document["observedAt"], "2026-11-23T08:14:41.023Z");
    assert_eq!(document["timeInState"], "5m30s");
    assert_eq!(document["owner"], "node-1");
    assert_eq!(document["epoch"], 1);
    assert!(document.get("timedOut").is_none());
    for absent in ["error", "errorMessage", "progress", "lastProgressAt"] {
        assert!(
            document.as_object().unwrap().contains_key(absent),
            "{absent}"
        );
        assert!(document[absent].is_null(), "{absent}");
    }
}

#[tokio::test]
async fn every_state_is_shown_by_its_name_with_its_health() {
    let world = World::of_states(&State::ALL);
    for state in State::ALL {
        let name = state.as_str();
        let document = world
            .get(&format!("/api/v1/workspaces/{name}/status"))
            .await
            .json();
        assert_eq!(document["state"], name);
        let is_healthy = !matches!(state, State::Unknown | State::Error);
        assert_eq!(document["healthy"], is_healthy, "{name}");
    }
}

#[tokio::test]
async fn an_unknown_workspace_is_404_with_the_status_document() {
    let world = World::new();
    world.tracker.get_or_create("known");
    let known = world.get("/api/v1/workspaces/known/status").await.json();
    let answer = world.get("/api/v1/workspaces/unknown/status").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.content_type(), "application/json");
    let document = answer.json();
    assert_eq!(document["workspaceId"], "unknown");
    assert_eq!(document["state"], "unknown");
    assert_eq!(document["healthy"], false);
    assert_eq!(document["metadata"], json!({}));
    assert_eq!(document["recentHistory"], json!([]));
    let members = |document: &serde_json::Value| -> Vec<String> {
        document.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(members(&document), members(&known));
}

#[tokio::test]
async fn the_history_of_a_status_is_its_last_five_transitions_oldest_first() {
    let world = World::new();
    let status = world.tracker.get_or_create("a");
    for state in State::ALL {
        status.set_state(state, format!("now {state}"));
        world.clock.advance(Duration::from_secs(1));
    }
    let document = world.get("/api/v1/workspaces/a/status").await.json();
    let entered: Vec<_> = document["recentHistory"]
        .as_array()
        .unwrap()
        .iter()
        .map(|transition| transition["toState"].as_str().unwrap().to_owned())
        .collect();
    let expected: Vec<_> = State::ALL[5..].iter().map(ToString::to_string).collect();
    assert_eq!(entered, expected);
    assert_eq!(document["recentHistory"][4]["fromState"], "error");
    assert_eq!(document["recentHistory"][4]["message"], "now unloading");
}

#[tokio::test]
async fn an_error_says_whether_it_goes_on_by_itself() {
    let world = World::new();
    let status = world.tracker.get_or_create("a");
    status.set_retrying("the store is away", 3, Duration::from_secs(4));
    let document = world.get("/api/v1/workspaces/a/status").await.json();
    assert_eq!(document["errorMessage"], "the store is away");
    assert_eq!(
        document["error"],
        json!({
            "kind": "retrying",
            "attempt": 3,
            "nextRetryAt": "2026-11-23T08:09:14.123Z",
            "at": "2026-11-23T08:09:10.123Z",
        })
    );

    status.set_parked("the entry is broken");
    let document = world.get("/api/v1/workspaces/a/status").await.json();
    assert_eq!(document["errorMessage"], "the entry is broken");
    assert_eq!(document["error"]["kind"], "parked");
    assert!(document["error"]["attempt"].is_null());
    assert!(document["error"]["nextRetryAt"].is_null());
}

#[tokio::test]
async fn metadata_are_json_scalars_by_key() {
    let world = World::new();
    let status = world.tracker.get_or_create("a");
    status.update_metadata("topic", "events").unwrap();
    status.update_metadata("partition", 3).unwrap();
    status.update_metadata("progress_percent", 12.5).unwrap();
    status.update_metadata("caught_up", false).unwrap();
    let document = world.get("/api/v1/workspaces/a/status").await.json();
    assert_eq!(
        document["metadata"],
        json!({"caught_up": false, "partition": 3, "progress_percent": 12.5, "topic": "events"})
    );
}

#[tokio::test]
async fn ids_with_colons_dots_and_percent_encoding_are_found() {
    let world = World::new();
    for (id, uri) in [
        ("eu:tenant.42", "eu:tenant.42"),
        ("eu:tenant.43", "eu%3Atenant%2E43"),
        (".", "%2E"),
        ("-_x", "-_x"),
    ] {
        world.tracker.get_or_create(id);
        let answer = world.get(&format!("/api/v1/workspaces/{uri}/status")).await;
        assert_eq!(answer.status, StatusCode::OK, "{id}");
        assert_eq!(answer.json()["workspaceId"], id);
    }
}

#[tokio::test]
async fn head_is_answered_as_get_without_a_body() {
    let world = World::of_states(&[State::Ready]);
    let get = world.get("/api/v1/workspaces/ready/status").await;
    let head = world.send("HEAD", "/api/v1/workspaces/ready/status").await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.body, "");
    assert_eq!(
        head.headers[header::CONTENT_LENGTH].to_str().unwrap(),
        get.body.len().to_string()
    );
}

#[tokio::test]
async fn ready_is_200_in_state_ready_alone() {
    let world = World::of_states(&State::ALL);
    for state in State::ALL {
        let name = state.as_str();
        let answer = world.get(&format!("/api/v1/workspaces/{name}/ready")).await;
        let is_ready = state == State::Ready;
        let expected = if is_ready { 200 } else { 503 };
        assert_eq!(answer.status.as_u16(), expected, "{name}");
        assert_eq!(
            answer.json(),
            json!({"workspaceId": name, "state": name, "ready": is_ready})
        );
    }
    let answer = world.get("/api/v1/workspaces/unknown/ready").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["state"], "unknown");
}

#[tokio::test]
async fn a_wait_for_what_is_so_answers_at_once() {
    let world = World::of_states(&[State::Ready, State::Error]);
    for (uri, state) in [
        ("ready/status?waitFor=ready", "ready"),
        ("ready/status?waitFor=error,ready&timeout=10m", "ready"),
        (
            "ready/status?waitFor=error&waitFor=ready&timeout=10m",
            "ready",
        ),
        (
            "error/status?waitFor=ready&failOn=error&timeout=9m",
            "error",
        ),
    ] {
        let answer = world.get(&format!("/api/v1/workspaces/{uri}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{uri}");
        assert_eq!(answer.json()["state"], state, "{uri}");
        assert_eq!(answer.json()["timedOut"], false, "{uri}");
    }
}

#[tokio::test]
async fn a_wait_for_unknown_is_met_by_a_workspace_that_does_not_exist() {
    let world = World::new();
    for query in [
        "waitFor=unknown&timeout=9m",
        "waitFor=ready&failOn=unknown&timeout=9m",
    ] {
        let uri = format!("/api/v1/workspaces/unknown/status?{query}");
        let answer = world.get(&uri).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{query}");
        assert_eq!(answer.json()["state"], "unknown", "{query}");
        assert_eq!(answer.json()["timedOut"], false, "{query}");
    }
}

#[tokio::test]
async fn a_wait_ends_with_the_change_that_it_waits_for() {
    for (ends_in, uri) in [
        (
            State::Ready,
            "a/status?waitFor=ready&failOn=error&timeout=10m",
        ),
        (
            State::Error,
            "a/status?waitFor=ready&failOn=error&timeout=10m",
        ),
    ] {
        let world = World::new();
        let uri = format!("/api/v1/workspaces/{uri}");
        let change = async {
            // The workspace does not exist yet when the wait begins.
            tokio::task::yield_now().await;
            let status = world.tracker.get_or_create("a");
            tokio::task::yield_now().await;
            status.set_state(ends_in, "as it goes");
        };
        let (answer, ()) = tokio::join!(world.get(&uri), change);
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.json()["state"], ends_in.as_str());
        assert_eq!(answer.json()["timedOut"], false);
    }
}

#[tokio::test]
async fn a_wait_that_is_over_says_so() {
    let world = World::of_states(&[State::Initializing]);
    let answer = world
        .get("/api/v1/workspaces/initializing/status?waitFor=ready&timeout=1ms")
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["state"], "initializing");
    assert_eq!(answer.json()["timedOut"], true);

    let answer = world
        .get("/api/v1/workspaces/unknown/status?waitFor=ready&timeout=1ms")
        .await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.json()["state"], "unknown");
    assert_eq!(answer.json()["timedOut"], true);
}

#[tokio::test]
async fn more_waits_than_the_limit_are_refused_at_once() {
    let world = World::with_limits(Limits {
        concurrent_waits: 1,
        ..Limits::default()
    });
    let uri = "/api/v1/workspaces/a/status?waitFor=ready";
    let second = async {
        let answer = world.get(uri).await;
        world.tracker.get_or_create("a").set_state(State::Ready, "");
        answer
    };
    let (first, second) = tokio::join!(world.get(uri), second);
    assert_eq!(first.json()["state"], "ready");
    assert_eq!(second.status, StatusCode::SERVICE_UNAVAILABLE);
    let problem = second.problem();
    assert_eq!(problem["type"], "/problems/too-many-at-once");
    assert_eq!(problem["maximum"], 1);
    assert_eq!(second.headers[header::RETRY_AFTER], "1");
    // The place of the first is free again.
    assert_eq!(world.get(uri).await.status, StatusCode::OK);
}
