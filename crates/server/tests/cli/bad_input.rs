//! Invalid requests, each with its own clear answer.

use crate::support::{Engine, event};
use serde_json::json;

#[test]
fn every_wrong_request_has_its_own_answer() {
    let engine = Engine::start(&["--max-body", "2KiB", "--event-memory", "1MiB"]);
    engine.produce(&event("w", "dir/a"));
    engine.wait_for("w", "ready");
    let long_id = "x".repeat(256);
    let long_body = "x".repeat(3000);
    let ndjson = "application/x-ndjson";
    let ok = event("w", "b");
    let posts = [
        ("", Some(ndjson), 400, "the body holds no event"),
        (
            "{",
            Some(ndjson),
            400,
            "line 1: not an event: EOF while parsing an object at line 1 column 1",
        ),
        (
            "7",
            Some("application/json"),
            400,
            "line 1: not an event: expected a JSON object",
        ),
        ("{}", Some(ndjson), 400, "line 1: workspaceId is missing"),
        (
            &format!("{ok}\n{{\"workspaceId\":\"w\"}}\n{ok}"),
            Some(ndjson),
            400,
            "line 3: eventType is missing",
        ),
        (
            &event(&long_id, "a"),
            Some(ndjson),
            400,
            "line 1: workspaceId: a workspace id must not be longer than 255 bytes, this one has 256",
        ),
        (
            &long_body,
            Some(ndjson),
            413,
            "the body is over the limit of 2048 bytes",
        ),
        (
            &ok,
            Some("text/plain"),
            415,
            "the route does not read \"text/plain\"",
        ),
        (&ok, None, 415, "the request has no Content-Type"),
    ];
    for (body, content_type, status, detail) in posts {
        let headers: Vec<(&str, &str)> = content_type
            .map(|value| ("content-type", value))
            .into_iter()
            .collect();
        let answer = engine.post("/api/v1/events", &headers, body.as_bytes());
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(
            answer.content_type, "application/problem+json",
            "{answer:?}"
        );
        assert_eq!(answer.json()["detail"], detail, "{answer:?}");
    }
    // One line was invalid, so nothing of its request was appended.
    let summary = engine.get("/api/v1/workspaces/w/entities").json();
    assert_eq!(summary["eventsApplied"], 1);
}

#[test]
fn every_wrong_question_has_its_own_answer() {
    let engine = Engine::start(&[]);
    engine.produce(&event("w", "dir/a"));
    engine.wait_for("w", "ready");
    let page = "/api/v1/workspaces/w/entities/resource";
    for (path, status, detail) in [
        (
            "/nothing",
            404,
            "no route has this path; /openapi.json lists those there are",
        ),
        (
            "/api/v1/workspaces/a%2Fb/entities",
            400,
            "a workspace id consists of letters, digits and any of . _ : - only, but byte 1 of this one is '/'",
        ),
        (
            "/api/v1/workspaces/unknown/entities",
            404,
            "neither the store nor the log knows the workspace",
        ),
        (
            "/api/v1/workspaces/unknown/dead-letters",
            404,
            "neither the store nor the log knows the workspace",
        ),
        (
            &format!("{page}/dir%2Fb"),
            404,
            "the workspace has no such entity",
        ),
        (
            &format!("{page}?limit=0"),
            400,
            "the limit is a number from 1 to 10000",
        ),
        (
            &format!("{page}?limit=10001"),
            400,
            "the limit is a number from 1 to 10000",
        ),
        (
            &format!("{page}?cursor=1234"),
            400,
            "the cursor was not made by this route; begin without one",
        ),
        (
            "/api/v1/workspaces/w/entities?atLeast=0&timeout=5",
            400,
            "the number in \"5\" needs a unit: ms, s, m, h or d",
        ),
        (
            "/api/v1/workspaces/w/entities?timeout=5s",
            400,
            "the parameter means nothing without atLeast",
        ),
        (
            "/api/v1/workspaces/w/entities?atLeast=-1",
            400,
            "the value is no whole number from 0 on",
        ),
        (
            "/api/v1/workspaces/w/entities?atleast=1",
            400,
            "the route has no parameter \"atleast\"",
        ),
        (
            "/api/v1/workspaces/w/entities?atLeast=99&timeout=1ms",
            503,
            "offset 99 is not applied yet, 1 is next",
        ),
        ("/api/v1/workspaces/statuses?state=reddy", 400, ""),
    ] {
        let answer = engine.get(path);
        assert_eq!(answer.status, status, "{path} {answer:?}");
        assert_eq!(answer.content_type, "application/problem+json", "{path}");
        let problem = answer.json();
        if !detail.is_empty() {
            assert_eq!(problem["detail"], detail, "{path}");
        }
        if status == 400 && path.contains('?') {
            assert!(problem["parameter"].is_string(), "{path} {problem}");
        }
    }
    let found = engine.get(&format!("{page}/dir%2Fa")).json();
    assert_eq!(
        found,
        json!({"type": "resource", "id": "dir/a", "data": {"id": "dir/a"}, "offset": 0})
    );
    let answer = engine.post(page, &[], b"");
    assert_eq!(answer.status, 405, "{answer:?}");
    // The longest id of an entity is accepted, even if percent-encoded.
    let longest = "%2F".repeat(4096);
    let answer = engine.get(&format!("{page}/{longest}"));
    assert_eq!(answer.status, 404, "{answer:?}");
    let answer = engine.get(&format!("{page}/{}", "x".repeat(40_000)));
    assert_eq!(answer.status, 414, "{answer:?}");
    assert_eq!(answer.content_type, "application/problem+json");
    let unknown = engine.get(&format!("{page}?wrong=1"));
    assert_eq!(unknown.status, 400, "{unknown:?}");
}

#[test]
fn a_repeated_request_appends_nothing_and_a_gap_is_refused() {
    let engine = Engine::start(&[]);
    let post = |producer: &[(&str, &str)], id: &str| {
        let headers = [&[("content-type", "application/x-ndjson")], producer].concat();
        engine.post("/api/v1/events", &headers, event("w", id).as_bytes())
    };
    let numbered = |sequence: &'static str| [("Producer-Id", "p"), ("Producer-Sequence", sequence)];
    let first = post(&numbered("1"), "a");
    assert_eq!(first.status, 202, "{first:?}");
    assert_eq!(first.json()["accepted"], 1);
    let again = post(&numbered("1"), "a");
    assert_eq!((again.status, again.text), (202, first.text));
    let gap = post(&numbered("3"), "c");
    assert_eq!(gap.status, 409, "{gap:?}");
    assert_eq!(gap.json()["expectedSequence"], 2);
    let half = post(&[("Producer-Id", "p")], "b");
    assert_eq!(
        (half.status, half.json()["detail"].as_str()),
        (400, Some("Producer-Sequence is missing"))
    );
    // A refused request does not use up its number.
    let bad = engine.post(
        "/api/v1/events",
        &[
            ("content-type", "application/x-ndjson"),
            ("Producer-Id", "p"),
            ("Producer-Sequence", "2"),
        ],
        b"{}",
    );
    assert_eq!(bad.status, 400, "{bad:?}");
    let second = post(&numbered("2"), "b");
    assert_eq!(second.status, 202, "{second:?}");
    let offset = &second.json()["partitions"][0]["lastOffset"];
    let summary = engine
        .get(&format!("/api/v1/workspaces/w/entities?atLeast={offset}"))
        .json();
    assert_eq!(summary["eventsApplied"], 2);
}

#[test]
fn the_events_of_one_workspace_need_not_name_it() {
    let engine = Engine::start(&[]);
    let headers = [("content-type", "application/json")];
    let path = "/api/v1/workspaces/w/events";
    let body = br#"{"eventType":"resource.created","data":{"id":"a"}}"#;
    assert_eq!(engine.post(path, &headers, body).status, 202);
    let other = engine.post(path, &headers, event("v", "a").as_bytes());
    assert_eq!(other.status, 400, "{other:?}");
    assert_eq!(
        other.json()["detail"],
        "line 1: the event is of workspace v, the request of w"
    );
    engine.wait_for("w", "ready");
    assert_eq!(
        engine.get("/api/v1/workspaces").json()["workspaces"],
        json!(["w"])
    );
}
