//! What retention may remove, and which workspace holds it back.

use crate::support::{Engine, event};

/// More positions than an unloaded workspace may lag behind in the store.
const MUCH: usize = 60_000;

const FLAGS: [&str; 4] = ["--partitions", "1", "--retention-bytes", "1"];

/// Appends many events of another workspace, and returns the first offset of them.
fn others(engine: &Engine) -> u64 {
    let first = engine.get("/api/v1/partitions").json()["partitions"][0]["highWatermark"]
        .as_u64()
        .unwrap();
    let lines: String = (0..MUCH)
        .map(|number| event("busy", &format!("e{}", number % 10)))
        .collect();
    engine.produce(&lines);
    first
}

fn until_trimmed(engine: &Engine, above: u64) {
    engine.until("/api/v1/partitions", |answer| {
        let partition = &answer["partitions"][0];
        partition["lowWatermark"].as_u64() > Some(above) && partition["heldBy"].is_null()
    });
}

fn held_positions(engine: &Engine) -> u64 {
    let metrics = engine.get("/metrics").text;
    let name = "workspace_engine_partition_held_positions{";
    let line = metrics.lines().find(|line| line.starts_with(name));
    let value = line.unwrap_or_else(|| panic!("{metrics}")).rsplit(' ');
    value.take(1).collect::<String>().parse().unwrap()
}

fn is_exact(engine: &Engine, id: &str, events: u64) {
    let answer = engine.post(&format!("/api/v1/workspaces/{id}/load"), &[], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    engine.wait_for(id, "ready");
    let summary = engine
        .get(&format!("/api/v1/workspaces/{id}/entities"))
        .json();
    assert_eq!(summary["eventsApplied"], events, "{summary}");
    let entities = engine.get(&format!("/api/v1/workspaces/{id}/entities/resource"));
    let entities = entities.json()["entities"].as_array().unwrap().len();
    assert_eq!(entities as u64, events);
}

#[test]
fn an_idle_workspace_that_is_unloaded_holds_retention_back_no_more() {
    let mut engine = Engine::start(&FLAGS);
    engine.produce(&event("idle", "a"));
    engine.wait_for("idle", "ready");
    assert_eq!(engine.run(&["unload", "idle"], "").code, 0);
    others(&engine);
    until_trimmed(&engine, 1);
    assert_eq!(held_positions(&engine), 0);

    // After a restart nothing in memory knows its position, so the log is searched for its events.
    let began = others(&engine);
    engine.kill();
    engine.restart();
    until_trimmed(&engine, began);
    is_exact(&engine, "idle", 1);
    assert_eq!(engine.run(&["unload", "idle"], "").code, 0);

    // Its own new event is kept for it, and the workspace is reported.
    let own = engine.post_events(&event("idle", "b")).json();
    let own = own["partitions"][0]["firstOffset"].as_u64().unwrap();
    others(&engine);
    let answer = engine.until("/api/v1/partitions", |answer| {
        let partition = &answer["partitions"][0];
        partition["lowWatermark"] == own && partition["heldBy"]["workspaceId"] == "idle"
    });
    let held_by = &answer["partitions"][0]["heldBy"];
    assert_eq!(held_by["offset"], own, "{held_by}");
    assert!(held_by["since"].as_str().is_some(), "{held_by}");
    assert_eq!(held_positions(&engine), MUCH as u64 + 1);
    engine.kill();
    engine.restart();
    is_exact(&engine, "idle", 2);
    until_trimmed(&engine, own);
}

#[test]
fn a_parked_workspace_is_named_and_keeps_its_events_until_it_is_skipped() {
    let mut engine = Engine::start(&FLAGS);
    engine.produce(&[event("w", "a"), event("other", "a")].concat());
    engine.wait_for("w", "ready");
    let poison = event("w", "x").replace("resource.created", "resource.exploded");
    engine.produce_unchecked(&poison);
    engine.produce(&event("w", "b"));
    engine.wait_for("w", "error");
    others(&engine);
    for _ in 0..2 {
        let answer = engine.until("/api/v1/partitions", |answer| {
            let partition = &answer["partitions"][0];
            partition["heldBy"]["workspaceId"] == "w" && partition["lowWatermark"] == 2
        });
        assert_eq!(answer["partitions"][0]["heldBy"]["offset"], 2, "{answer}");
        engine.kill();
        engine.restart();
        engine.wait_for("w", "error");
    }
    assert_eq!(engine.run(&["skip", "w"], "").code, 0);
    engine.wait_for("w", "ready");
    until_trimmed(&engine, 3);
    is_exact(&engine, "w", 2);
}
