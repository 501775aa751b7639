//! An operator's actions: skip a poison event, unload, load, reload.

use crate::support::{Engine, event};
use serde_json::{Value, json};

#[test]
fn a_poisoned_event_parks_its_workspace_alone_and_can_be_skipped() {
    let mut engine = Engine::start(&["--partitions", "1"]);
    engine.produce(&event("good", "a"));
    engine.produce(&event("bad", "a"));
    engine.produce_unchecked("{\"eventType\":\"nonsense\",\"workspaceId\":\"bad\"}\n");
    engine.produce(&event("bad", "b"));
    engine.wait_for("bad", "error");
    engine.wait_for("good", "ready");
    let status = engine.get("/api/v1/workspaces/bad/status").json();
    let message = status["errorMessage"].as_str().unwrap();
    assert!(message.contains("offset 2"), "{message}");
    assert_eq!(status["error"]["kind"], "parked");

    // The state that it had applied is readable.
    let summary = engine.get("/api/v1/workspaces/bad/entities").json();
    assert_eq!(summary["eventsApplied"], 1);

    let skipped = engine.post("/api/v1/workspaces/bad/skip", &[], b"");
    assert_eq!(skipped.status, 200, "{skipped:?}");
    engine.wait_for("bad", "ready");
    let summary = engine
        .get("/api/v1/workspaces/bad/entities?atLeast=3")
        .json();
    assert_eq!(summary["counts"]["resource"], 2);
    let again = engine.post("/api/v1/workspaces/bad/skip", &[], b"");
    assert_eq!(again.status, 409, "{again:?}");

    assert!(engine.stop().success());
    engine.restart();
    engine.wait_for("bad", "ready");
    let dead_letters = engine.get("/api/v1/workspaces/bad/dead-letters").json();
    let dead_letters = dead_letters["deadLetters"].as_array().unwrap();
    assert_eq!(dead_letters.len(), 1);
    assert_eq!(dead_letters[0]["offset"], 2);
    assert_eq!(
        dead_letters[0]["value"],
        "{\"eventType\":\"nonsense\",\"workspaceId\":\"bad\"}"
    );
    assert!(
        dead_letters[0]["skippedAt"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    let none = engine.get("/api/v1/workspaces/good/dead-letters").json();
    assert_eq!(none["deadLetters"], serde_json::json!([]));
}

#[test]
fn a_read_of_an_unloaded_workspace_loads_it() {
    let mut engine = Engine::start(&[]);
    engine.produce(&event("w", "a"));
    engine.wait_for("w", "ready");
    let unloaded = engine.post("/api/v1/workspaces/w/unload", &[], b"");
    assert_eq!(unloaded.status, 200, "{unloaded:?}");
    let requested = engine.get("/api/v1/workspaces/w/status").json();
    let members = |document: &Value| -> Vec<String> {
        document.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(members(&unloaded.json()), members(&requested));
    assert_eq!(unloaded.json()["message"], requested["message"]);

    // It stays unloaded across a restart.
    assert!(engine.stop().success());
    engine.restart();
    let status = engine.get("/api/v1/workspaces/w/status");
    assert_eq!(status.status, 404, "{status:?}");
    let status = status.json();
    assert_eq!(
        (&status["state"], &status["healthy"]),
        (&"unknown".into(), &false.into())
    );
    assert_eq!(
        status["message"],
        "unloaded by an operator: `workspace-engine load w` or POST /api/v1/workspaces/w/load brings it back"
    );
    let summary = engine.get("/api/v1/workspaces/w/entities").json();
    assert_eq!(summary["eventsApplied"], 1);
    engine.wait_for("w", "ready");
    for action in ["load", "reload"] {
        let answer = engine.post(&format!("/api/v1/workspaces/w/{action}"), &[], b"");
        assert_eq!(answer.status, 200, "{action} {answer:?}");
        assert_eq!(answer.json()["workspaceId"], "w");
    }
    for action in ["load", "unload", "reload", "skip"] {
        let answer = engine.post(&format!("/api/v1/workspaces/unknown/{action}"), &[], b"");
        assert_eq!(answer.status, 404, "{action} {answer:?}");
    }
}

#[test]
fn partitions_show_their_position() {
    let engine = Engine::start(&["--partitions", "3", "--owner", "node-1"]);
    engine.produce(&event("w", "a"));
    engine.wait_for("w", "ready");
    let document = engine.get("/api/v1/partitions").json();
    let partitions = document["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 3);
    let ends: u64 = partitions
        .iter()
        .map(|partition| partition["highWatermark"].as_u64().unwrap())
        .sum();
    assert_eq!(ends, 1);
    assert!(
        partitions
            .iter()
            .all(|partition| partition["owner"] == "node-1")
    );
    let metrics = engine.get("/metrics").text;
    assert!(
        metrics.contains("workspace_engine_events_applied_total 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("workspace_engine_partition_high_watermark"),
        "{metrics}"
    );
}

#[test]
fn the_list_of_ids_has_those_that_are_not_in_memory_too() {
    let engine = Engine::start(&[]);
    for id in ["a", "b", "c"] {
        engine.produce(&event(id, "x"));
        engine.wait_for(id, "ready");
    }
    let unloaded = engine.post("/api/v1/workspaces/b/unload", &[], b"");
    assert_eq!(unloaded.status, 200, "{unloaded:?}");
    let ids = |query: &str| engine.get(&format!("/api/v1/workspaces{query}")).json();
    assert_eq!(
        ids(""),
        json!({"workspaces": ["a", "b", "c"], "totalCount": 3, "nextCursor": null})
    );
    let first = ids("?limit=2");
    assert_eq!(first["workspaces"], json!(["a", "b"]));
    let cursor = first["nextCursor"].as_str().unwrap();
    assert_eq!(
        ids(&format!("?limit=2&cursor={cursor}"))["workspaces"],
        json!(["c"])
    );
    // A workspace created later is listed as well.
    engine.produce(&event("b2", "x"));
    engine.wait_for("b2", "ready");
    assert_eq!(ids("?prefix=b")["workspaces"], json!(["b", "b2"]));
}
