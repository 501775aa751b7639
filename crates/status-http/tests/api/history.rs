//! `GET /api/v1/workspaces/{id}/history`.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use workspace_status::State;

use crate::support::World;

const HISTORY: &str = "/api/v1/workspaces/a/history";

fn world_with_a_load() -> World {
    let world = World::new();
    let status = world.tracker.get_or_create("a");
    for (state, seconds) in [
        (State::LoadingFromPersistence, 1),
        (State::RestoringFromSnapshot, 2),
        (State::ReplayingEvents, 3),
        (State::Ready, 4),
    ] {
        world.clock.advance(Duration::from_secs(seconds));
        status.set_state(state, format!("now {state}"));
    }
    world.clock.advance(Duration::from_millis(5_500));
    world
}

#[tokio::test]
async fn a_history_shows_how_long_each_phase_was() {
    let world = world_with_a_load();
    let document = world.get(HISTORY).await.json();
    let phases: Vec<_> = document["phases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|phase| (phase["state"].clone(), phase["durationSeconds"].clone()))
        .collect();
    assert_eq!(
        phases,
        [
            (json!("initializing"), json!(1.0)),
            (json!("loading_from_persistence"), json!(2.0)),
            (json!("restoring_from_snapshot"), json!(3.0)),
            (json!("replaying_events"), json!(4.0)),
            (json!("ready"), json!(5.5)),
        ]
    );
    assert!(document["phases"][4]["left"].is_null());
    assert_eq!(document["transitionsTotal"], 4);
    assert!(document["nextCursor"].is_null());
}

#[tokio::test]
async fn the_pages_of_a_history_put_together_are_the_whole() {
    let world = world_with_a_load();
    let whole = world.get(HISTORY).await.json();
    for limit in 1..=4 {
        let (mut transitions, mut phases) = (Vec::<Value>::new(), Vec::<Value>::new());
        let mut uri = format!("{HISTORY}?limit={limit}");
        loop {
            let document = world.get(&uri).await.json();
            transitions.extend(document["transitions"].as_array().unwrap().clone());
            phases.extend(document["phases"].as_array().unwrap().clone());
            match document["nextCursor"].as_str() {
                Some(cursor) => uri = format!("{HISTORY}?limit={limit}&cursor={cursor}"),
                None => break,
            }
        }
        assert_eq!(json!(transitions), whole["transitions"], "limit {limit}");
        assert_eq!(json!(phases), whole["phases"], "limit {limit}");
    }
}

#[tokio::test]
async fn a_new_workspace_has_one_phase_and_no_transition() {
    let world = World::new();
    world.tracker.get_or_create("a");
    let document = world.get(HISTORY).await.json();
    assert_eq!(document["transitions"], json!([]));
    assert_eq!(document["phases"].as_array().unwrap().len(), 1);
    assert_eq!(document["phases"][0]["state"], "initializing");
}

#[tokio::test]
async fn the_history_of_an_unknown_workspace_is_a_problem() {
    let answer = World::new().get("/api/v1/workspaces/unknown/history").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let problem = answer.problem();
    assert_eq!(problem["type"], "/problems/workspace-unknown");
    assert_eq!(problem["workspaceId"], "unknown");
}
