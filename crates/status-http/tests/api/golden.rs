//! Documents that clients are written against: a change of one is a change of the API.

use std::collections::BTreeSet;
use std::time::Duration;

use workspace_status::{State, Unit};

use crate::support::{World, assert_golden, pretty};

#[tokio::test]
async fn the_openapi_document_is_as_it_was() {
    let answer = World::new().get("/openapi.json").await;
    assert_golden("openapi.json", &pretty(&answer.body));
}

#[tokio::test]
async fn the_schemas_name_the_states_and_members_that_are_written() {
    let world = World::of_states(&[State::Ready]);
    let openapi = world.get("/openapi.json").await.json();
    let schemas = &openapi["components"]["schemas"];
    let states = State::ALL.map(State::as_str);
    assert_eq!(schemas["State"]["enum"], serde_json::json!(states));
    for (schema, uri) in [
        ("Status", "ready/status"),
        ("Statuses", "statuses"),
        ("History", "ready/history"),
        ("Ready", "ready/ready"),
    ] {
        let document = world.get(&format!("/api/v1/workspaces/{uri}")).await.json();
        let written: BTreeSet<_> = document.as_object().unwrap().keys().collect();
        let required = schemas[schema]["required"].as_array().unwrap();
        let required: BTreeSet<_> = required.iter().map(|name| name.as_str().unwrap()).collect();
        assert!(written.iter().eq(required.iter()), "{schema}: {written:?}");
    }
}

#[tokio::test]
async fn the_documents_are_as_they_were() {
    let world = World::new();
    let replaying = world.tracker.get_or_create("eu:replaying");
    for state in [
        State::LoadingKafkaPartitions,
        State::LoadingFromPersistence,
        State::RestoringFromSnapshot,
        State::ReplayingEvents,
    ] {
        world.clock.advance(Duration::from_millis(1_250));
        replaying.set_state(state, format!("now {state}"));
    }
    replaying.update_metadata("topic", "events").unwrap();
    replaying.update_metadata("partition", 3).unwrap();
    let progress = replaying.start_progress(State::ReplayingEvents, Unit::Events, Some(100_000));
    for _ in 0..40 {
        world.clock.advance(Duration::from_millis(250));
        progress.add(500);
        world.tracker.sample_progress();
    }
    let failed = world.tracker.get_or_create("eu:failed");
    failed.set_retrying("the store is away", 2, Duration::from_secs(3));

    for (name, uri) in [
        ("status_replaying.json", "eu:replaying/status"),
        ("status_failed.json", "eu:failed/status"),
        ("status_unknown.json", "unknown/status"),
        ("history.json", "eu:replaying/history"),
        ("ready.json", "eu:replaying/ready"),
        ("statuses.json", "statuses?limit=1"),
        ("problem.json", "statuses?state=gone"),
    ] {
        let answer = world.get(&format!("/api/v1/workspaces/{uri}")).await;
        assert_golden(name, &pretty(&answer.body));
    }
}
