//! The checks of a request with events, and the guarantees once it is acknowledged.

use crate::support::{Engine, Raw, event, until};

#[test]
fn an_event_that_can_never_be_applied_is_a_bad_line() {
    let engine = Engine::start(&["--partitions", "1"]);
    let good = event("w", "a");
    let unknown =
        "{\"eventType\":\"ledger.booked\",\"workspaceId\":\"w\",\"data\":{\"id\":\"a\"}}\n";
    let nameless = "{\"eventType\":\"resource.created\",\"workspaceId\":\"w\",\"data\":{}}\n";
    let refused = engine.post_events(&format!("{good}{unknown}{nameless}"));
    assert_eq!(refused.status, 400, "{refused:?}");
    let problem = refused.json();
    assert_eq!(problem["type"], "/problems/invalid-events");
    assert_eq!(problem["invalidLines"], 2);
    assert_eq!(
        problem["errors"][0],
        serde_json::json!({
            "line": 2,
            "detail": "eventType \"ledger.booked\" is not known: <type>.created, <type>.updated, <type>.deleted, workspace.save or workspace.tick",
        })
    );
    assert_eq!(problem["errors"][1]["detail"], "data.id is missing");
    // Nothing of the request was appended.
    assert_eq!(
        engine.get("/api/v1/partitions").json()["partitions"][0]["highWatermark"],
        0
    );

    let produced = engine.run(&["produce", "-"], &format!("{good}{unknown}{good}"));
    assert_eq!(produced.code, 1, "{produced:?}");
    assert!(
        produced
            .stderr
            .contains("standard input: line 2: eventType \"ledger.booked\" is not known"),
        "{produced:?}"
    );
    assert!(
        produced
            .stderr
            .contains("the event before it is sent and durable"),
        "{produced:?}"
    );
    engine.wait_for("w", "ready");

    let odd = engine.post(
        "/api/v1/events?check=maybe",
        &[("content-type", "application/x-ndjson")],
        good.as_bytes(),
    );
    assert_eq!(
        (odd.status, &odd.json()["parameter"]),
        (400, &"check".into())
    );
    // A producer that is ahead of the workspace type must set a flag, and can then still send events.
    let produced = engine.run(&["produce", "-", "--no-check"], unknown);
    assert_eq!(produced.code, 0, "{produced:?}");
    engine.wait_for("w", "error");
    let none = engine.post(
        "/api/v1/events?check=off",
        &[("content-type", "application/x-ndjson")],
        b"{\"eventType\":\"ledger.booked\"}",
    );
    assert_eq!(
        (none.status, &none.json()["detail"]),
        (400, &"line 1: workspaceId is missing".into())
    );
}

#[test]
fn a_workspace_is_in_every_list_once_its_event_is_acknowledged() {
    let engine = Engine::start(&[]);
    let mut connection = Raw::open(&engine);
    for number in 1..=100 {
        let id = format!("w{number:03}");
        let event = event(&id, "a");
        connection.send(
            format!(
                "POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{event}",
                event.len()
            )
            .as_bytes(),
        );
        assert_eq!(connection.answer().status, 202);
        let mut request = |path: &str| -> serde_json::Value {
            let answer = connection.request(&format!("GET {path}"));
            assert_eq!(answer.status, 200, "{path} {answer:?}");
            serde_json::from_str(&answer.body).unwrap()
        };
        let ids = request(&format!("/api/v1/workspaces?prefix={id}"));
        assert_eq!(ids["workspaces"], serde_json::json!([id]));
        assert_eq!(ids["totalCount"], number);
        let statuses = request(&format!("/api/v1/workspaces/statuses?prefix={id}"));
        assert_eq!(statuses["workspaces"][0]["workspaceId"], id);
        assert_eq!(statuses["totalCount"], number);
        let counts = statuses["stateCounts"].as_object().unwrap();
        let counted: u64 = counts.values().filter_map(serde_json::Value::as_u64).sum();
        assert_eq!(counted, number, "{counts:?}");
        let status = request(&format!("/api/v1/workspaces/{id}/status"));
        assert_ne!(status["state"], "unknown");
    }
    until("100 ready workspaces", || {
        let statuses = engine.get("/api/v1/workspaces/statuses?limit=1").json();
        (statuses["stateCounts"]["ready"] == 100).then_some(())
    });
}
