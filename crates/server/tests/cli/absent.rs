//! Workspaces that are known but not in memory: they stay in lists and counts, with their last known state.

use crate::support::{Engine, event};
use serde_json::{Value, json};

const STATUSES: &str = "/api/v1/workspaces/statuses";

/// The ids and states of a list.
fn rows(document: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rows = document["workspaces"].as_array().unwrap();
    rows.iter()
        .map(|row| (text(&row["workspaceId"]), text(&row["state"])))
        .collect()
}

fn unload(engine: &Engine, id: &str) {
    let path = format!("/api/v1/workspaces/{id}/unload");
    let unloaded = engine.post(&path, &[], b"");
    assert_eq!(unloaded.status, 200, "{unloaded:?}");
}

/// Checks the list with one unloaded workspace and two ready ones; returns the last known state of the unloaded one.
fn check(engine: &Engine) -> Value {
    let list = engine.get(STATUSES).json();
    let states = [("a", "ready"), ("b", "unknown"), ("c", "ready")];
    let expected = states.map(|(id, state)| (id.to_owned(), state.to_owned()));
    assert_eq!(rows(&list), expected);
    assert_eq!(list["totalCount"], 3);
    assert_eq!(list["stateCounts"]["unknown"], 1);
    assert_eq!(list["stateCounts"]["ready"], 2);

    let row = &list["workspaces"][1];
    assert_eq!(row["reason"], "unloaded");
    assert_eq!(row["healthy"], false);
    let known = &row["lastKnown"];
    assert_eq!(known["state"], "ready");
    assert_eq!(known["owner"], "node-1");
    assert_eq!(known["epoch"], row["epoch"]);
    assert!(known["at"].as_str().unwrap().ends_with('Z'), "{known}");
    for row in [&list["workspaces"][0], &list["workspaces"][2]] {
        assert_eq!(
            (&row["reason"], &row["lastKnown"]),
            (&Value::Null, &Value::Null)
        );
    }

    let status = engine.get("/api/v1/workspaces/b/status");
    assert_eq!(status.status, 404, "{status:?}");
    assert_eq!(status.json()["lastKnown"], *known);
    assert_eq!(status.json()["reason"], "unloaded");
    assert_eq!(engine.get("/api/v1/workspaces/b/ready").status, 503);
    known.clone()
}

#[test]
fn an_unloaded_workspace_stays_in_lists_and_counts_also_over_a_restart() {
    let mut engine = Engine::start(&["--owner", "node-1"]);
    for id in ["a", "b", "c"] {
        engine.produce(&event(id, "x"));
        engine.wait_for(id, "ready");
    }
    unload(&engine, "b");
    let known = check(&engine);

    assert!(engine.stop().success());
    engine.restart();
    // From the first answer on, while the others are still loading.
    let list = engine.get(STATUSES).json();
    assert_eq!(list["totalCount"], 3, "{list}");
    assert_eq!(rows(&list)[1], ("b".to_owned(), "unknown".to_owned()));
    for id in ["a", "c"] {
        engine.wait_for(id, "ready");
    }
    assert_eq!(check(&engine), known);

    // The next load brings it back, and it is counted once.
    assert_eq!(engine.run(&["load", "b"], "").code, 0);
    engine.wait_for("b", "ready");
    let list = engine.get(STATUSES).json();
    assert_eq!(list["stateCounts"]["unknown"], 0);
    assert_eq!(list["totalCount"], 3);
    assert_eq!(list["workspaces"][1]["lastKnown"], Value::Null);
}

#[test]
fn what_was_last_known_is_the_state_before_the_unload() {
    let mut engine = Engine::start(&[]);
    engine.produce_unchecked("{\"eventType\":\"nonsense\",\"workspaceId\":\"bad\"}\n");
    engine.wait_for("bad", "error");
    unload(&engine, "bad");
    let status = engine.get("/api/v1/workspaces/bad/status").json();
    assert_eq!(status["state"], "unknown");
    assert_eq!(status["lastKnown"]["state"], "error");
    let shown = engine.run(&["get", "bad"], "");
    assert_eq!(shown.code, 1, "{shown:?}");
    assert!(shown.stdout.contains("last known  error at "), "{shown:?}");
    let listed = engine.run(&["list", "--state", "unknown"], "").stdout;
    assert!(listed.contains("unloaded by an operator"), "{listed}");
    let waited = engine.run(&["wait", "bad", "--timeout", "50ms"], "");
    assert_eq!(waited.code, 2, "{waited:?}");
    assert!(
        waited.stderr.contains("last known: error at "),
        "{waited:?}"
    );

    // The same after a restart: its record is durable.
    assert!(engine.stop().success());
    engine.restart();
    let status = engine.get("/api/v1/workspaces/bad/status").json();
    assert_eq!(status["lastKnown"]["state"], "error", "{status}");
}

#[test]
fn filters_and_pages_have_absent_workspaces_in_their_places() {
    let engine = Engine::start(&["--partitions", "1", "--owner", "node-1"]);
    let all = ["a", "b", "c", "d", "e"];
    for id in all {
        engine.produce(&event(id, "x"));
        engine.wait_for(id, "ready");
    }
    for id in ["b", "e"] {
        unload(&engine, id);
    }
    let ids = |query: &str| {
        let list = engine.get(&format!("{STATUSES}?{query}")).json();
        let ids: Vec<String> = rows(&list).into_iter().map(|(id, _)| id).collect();
        ids.join(" ")
    };
    for (query, expected) in [
        ("", "a b c d e"),
        ("state=unknown", "b e"),
        ("state=ready", "a c d"),
        ("state=ready,unknown", "a b c d e"),
        ("healthy=false", "b e"),
        ("healthy=true", "a c d"),
        ("prefix=b", "b"),
        ("partition=0", "a b c d e"),
        ("partition=1,2", ""),
        ("owner=node-1", "a c d"),
        ("owner=node-2", ""),
        ("errorKind=parked", ""),
        ("q=OPERATOR", "b e"),
        ("q=ready", "a c d"),
    ] {
        assert_eq!(ids(query), expected, "{query}");
    }
    // Page by page, in the same order.
    for limit in 1..=6 {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let list = engine
                .get(&format!("{STATUSES}?limit={limit}{cursor}"))
                .json();
            found.extend(rows(&list).into_iter().map(|(id, _)| id));
            match list["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(found, all, "limit {limit}");
    }
    let bad = engine.get(&format!("{STATUSES}?errorKind=poison"));
    assert_eq!(bad.status, 400, "{bad:?}");
    assert_eq!(bad.json()["allowed"], json!(["retrying", "parked"]));
}
