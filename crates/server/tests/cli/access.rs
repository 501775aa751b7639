//! Access control: each route with each role, and token files that change.

use crate::support::{
    Engine, Ran, TokensFile, bearer, event, eventually, program, run, wait_until,
};
use serde_json::Value;
use std::fs;

/// The possible needs of a route, and the roles that satisfy them; written out here, not read from the program.
const OPEN: &[&str] = &["", "viewer", "reader", "producer", "operator", "admin"];
const ANY: &[&str] = &["viewer", "reader", "producer", "operator", "admin"];
const VIEW: &[&str] = &["viewer", "reader", "operator", "admin"];
const READ: &[&str] = &["reader", "operator", "admin"];
const PRODUCE: &[&str] = &["producer", "admin"];
const OPERATE: &[&str] = &["operator", "admin"];

/// Every route in the `OpenAPI` document, and the roles that may use it.
const ROUTES: &[(&str, &[&str])] = &[
    ("GET /livez", OPEN),
    ("GET /readyz", OPEN),
    ("GET /startupz", OPEN),
    ("GET /recoveredz", OPEN),
    ("GET /metrics", VIEW),
    ("GET /api/v1/me", ANY),
    ("GET /api/v1/workspaces", VIEW),
    ("GET /api/v1/workspaces/statuses", VIEW),
    ("GET /api/v1/workspaces/{id}/status", VIEW),
    ("GET /api/v1/workspaces/{id}/ready", VIEW),
    ("GET /api/v1/workspaces/{id}/history", VIEW),
    ("GET /api/v1/partitions", VIEW),
    ("GET /api/v1/workspaces/{id}/entities", READ),
    ("GET /api/v1/workspaces/{id}/entities/{type}", READ),
    (
        "GET /api/v1/workspaces/{id}/entities/{type}/{entityId}",
        READ,
    ),
    ("GET /api/v1/workspaces/{id}/dead-letters", READ),
    ("POST /api/v1/events", PRODUCE),
    ("POST /api/v1/workspaces/{id}/events", PRODUCE),
    ("POST /api/v1/workspaces/{id}/load", OPERATE),
    ("POST /api/v1/workspaces/{id}/unload", OPERATE),
    ("POST /api/v1/workspaces/{id}/reload", OPERATE),
    ("POST /api/v1/workspaces/{id}/skip", OPERATE),
    ("POST /api/v1/workspaces/{id}/reset", OPERATE),
    ("DELETE /api/v1/workspaces/{id}", OPERATE),
    ("POST /api/v1/actions", OPERATE),
    ("GET /api/v1/operations/{id}", VIEW),
    ("DELETE /api/v1/operations/{id}", OPERATE),
];

/// Waits until a request with a token gets a status.
fn wait_for_status(engine: &Engine, token: &str, expected: u16) {
    let headers = [("authorization", bearer(token))];
    eventually("the status of a caller", || {
        match engine.send("GET", "/api/v1/me", &headers, b"").status {
            status if status == expected => Ok(()),
            other => Err(other),
        }
    });
}

#[test]
fn each_route_is_tried_with_each_role() {
    let mut file = TokensFile::new();
    let mut tokens: Vec<(&str, String)> = ANY
        .iter()
        .map(|role| (*role, file.add(&format!("a {role}"), &["--role", role])))
        .collect();
    tokens.push(("", String::new()));
    tokens.push(("", format!("wse_{}", "0".repeat(64))));
    let path = file.text();
    let engine = Engine::start(&["--tokens", &path, "--anonymous", "none"]);
    let document = engine.get("/openapi.json").json();
    let mut cells = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let route = format!("{} {path}", method.to_uppercase());
            let (_, allowed) = ROUTES
                .iter()
                .find(|(known, _)| *known == route)
                .unwrap_or_else(|| panic!("{route} is a new route: who may use it?"));
            for (role, token) in &tokens {
                check_cell(&engine, &route, role, token, allowed.contains(role));
                cells += 1;
            }
        }
    }
    assert!(cells >= 20 * tokens.len(), "only {cells} cells were tried");
    for path in ["/docs/", "/openapi.json"] {
        assert_eq!(engine.get(path).status, 200, "{path}");
    }
}

/// Sends a request to one route with one token.
fn check_cell(engine: &Engine, route: &str, role: &str, token: &str, is_allowed: bool) {
    let (method, path) = route.split_once(' ').unwrap();
    let path = path
        .replace("{id}", "w")
        .replace("{type}", "resource")
        .replace("{entityId}", "a");
    let headers = match token {
        "" => vec![],
        token => vec![("authorization", bearer(token))],
    };
    let answer = engine.send(method, &path, &headers, b"");
    let cell = format!("{route} as {role:?}: {answer:?}");
    let problem: Value = serde_json::from_str(&answer.text).unwrap_or_default();
    match (is_allowed, role) {
        (true, _) => {
            // The handler's own answer: neither "not allowed" nor "no such route".
            assert!(![401, 403, 405].contains(&answer.status), "{cell}");
            assert_ne!(problem["type"], "/problems/route-not-found", "{cell}");
        }
        (false, "") => {
            assert_eq!(answer.status, 401, "{cell}");
            assert_eq!(problem["type"], "/problems/unauthenticated", "{cell}");
            assert!(answer.challenge.starts_with("Bearer"), "{cell}");
        }
        (false, role) => {
            assert_eq!(answer.status, 403, "{cell}");
            assert_eq!(problem["type"], "/problems/forbidden", "{cell}");
            assert_eq!(problem["role"], role, "{cell}");
            let needed = problem["requiredRole"].as_str().unwrap();
            assert!(
                problem["detail"].as_str().unwrap().contains(needed),
                "{cell}"
            );
        }
    }
    if answer.status >= 400 && method != "GET" {
        assert_eq!(answer.content_type, "application/problem+json", "{cell}");
    }
}

#[test]
fn the_caller_can_query_its_name_and_rights() {
    let mut file = TokensFile::new();
    let token = file.add("ci.example", &["--role", "operator", "--prefix", "acme-"]);
    let path = file.text();
    let engine = Engine::start(&["--tokens", &path]);
    let me = engine.send(
        "GET",
        "/api/v1/me",
        &[("authorization", bearer(&token))],
        b"",
    );
    assert_eq!(
        me.json(),
        serde_json::json!({
            "name": "ci.example",
            "role": "operator",
            "rights": ["view", "read", "operate"],
            "prefix": "acme-",
        })
    );
    // On a loopback address a caller without a token has the role admin.
    let me = engine.get("/api/v1/me").json();
    assert_eq!(
        (&me["name"], &me["role"]),
        (&"anonymous".into(), &"admin".into())
    );
}

#[test]
fn tokens_that_change_count_and_a_bad_file_keeps_those_before() {
    let mut file = TokensFile::new();
    let kept = file.add("kept", &["--role", "viewer"]);
    let removed = file.add("removed", &["--role", "viewer"]);
    let path = file.text();
    let engine = Engine::start(&["--tokens", &path, "--anonymous", "none"]);
    wait_for_status(&engine, &removed, 200);
    file.remove("removed");
    let added = file.add("added", &["--role", "admin"]);
    wait_for_status(&engine, &added, 200);
    wait_for_status(&engine, &removed, 401);

    fs::write(file.path(), "kept = { role = \"root\" }\n").unwrap();
    let failures = |expected: &str| {
        let line = format!("workspace_engine_reloads_failed_total{{file=\"tokens\"}} {expected}");
        let headers = [("authorization", bearer(&added))];
        wait_until(&line, || {
            let metrics = engine.send("GET", "/metrics", &headers, b"").text;
            metrics.contains(&line)
        });
    };
    failures("1");
    fs::remove_file(file.path()).unwrap();
    failures("2");
    wait_for_status(&engine, &kept, 200);
    wait_for_status(&engine, &added, 200);
    // The next valid file is used again.
    file.remove("kept");
    wait_for_status(&engine, &kept, 401);
    wait_for_status(&engine, &added, 200);
}

#[test]
fn a_token_with_a_prefix_reaches_its_workspaces_alone() {
    let mut file = TokensFile::new();
    let acme = file.add("acme", &["--role", "admin", "--prefix", "acme-"]);
    let root = file.add("root", &["--role", "admin"]);
    let path = file.text();
    let engine = Engine::start(&["--tokens", &path, "--anonymous", "none"]);
    let produce = |token: &str, input: &str| -> Ran {
        engine.run(&["produce", "-", "--token", token], input)
    };
    assert_eq!(produce(&root, &event("other", "a")).code, 0);
    assert_eq!(produce(&acme, &event("acme-1", "a")).code, 0);
    let refused = produce(&acme, &event("other", "b"));
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("no event was sent"), "{refused:?}");
    assert!(refused.stderr.contains("\"acme-\""), "{refused:?}");
    let headers = [
        ("authorization", bearer(&acme)),
        ("content-type", "application/x-ndjson".to_owned()),
    ];
    let lines = format!("{}{}", event("acme-1", "b"), event("other", "b"));
    let mixed = engine.send("POST", "/api/v1/events", &headers, lines.as_bytes());
    assert_eq!(mixed.status, 403, "{mixed:?}");
    assert_eq!(mixed.json()["workspaceId"], "other");

    let ran = engine.run(&["wait", "acme-1", "--token", &acme], "");
    assert_eq!(ran.code, 0, "{ran:?}");
    let get = |path: &str| {
        let headers = [("authorization", bearer(&acme))];
        engine.send("GET", path, &headers, b"")
    };
    let summary = get("/api/v1/workspaces/acme-1/entities");
    assert_eq!(
        summary.json()["eventsApplied"],
        1,
        "all or nothing: {summary:?}"
    );
    // No answer distinguishes an existing workspace from a missing one.
    let (there, missing) = (
        get("/api/v1/workspaces/other/entities"),
        get("/api/v1/workspaces/never/entities"),
    );
    assert_eq!((there.status, &there.text), (403, &missing.text));
    for path in [
        "/api/v1/workspaces",
        "/api/v1/workspaces?prefix=acme-",
        "/api/v1/workspaces/statuses?prefix=acme-",
        "/api/v1/partitions",
        "/metrics",
    ] {
        let answer = get(path);
        assert_eq!(answer.status, 403, "{path} {answer:?}");
        assert!(!answer.text.contains("other"), "{path} {answer:?}");
    }
}

#[test]
fn producers_of_a_prefix_take_no_place_from_others() {
    let mut file = TokensFile::new();
    let acme = file.add("acme", &["--role", "producer", "--prefix", "acme-"]);
    let other = file.add("other", &["--role", "producer", "--prefix", "other-"]);
    let root = file.add("root", &["--role", "admin"]);
    let path = file.text();
    let engine = Engine::start(&["--tokens", &path, "--anonymous", "none"]);
    let send = |token: &str, workspace: &str, producer: &str| {
        let headers = [
            ("authorization", bearer(token)),
            ("content-type", "application/x-ndjson".to_owned()),
            ("producer-id", producer.to_owned()),
            ("producer-sequence", "1".to_owned()),
        ];
        let body = event(workspace, "a");
        engine.send("POST", "/api/v1/events", &headers, body.as_bytes())
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // Concurrent requests share a write to the disk.
        for _ in 0..32 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if number >= 1_000 {
                        return;
                    }
                    let answer = send(&acme, "acme-1", &format!("p{number}"));
                    assert_eq!(answer.status, 202, "{number} {answer:?}");
                }
            });
        }
    });
    let refused = send(&acme, "acme-1", "one more");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.json()["type"], "/problems/too-many-producers");
    for (token, workspace, producer) in [
        (&other, "other-1", "one more"),
        (&root, "acme-1", "one more"),
        // A known producer may repeat its request.
        (&acme, "acme-1", "p7"),
    ] {
        let answer = send(token, workspace, producer);
        assert_eq!(answer.status, 202, "{workspace} {producer} {answer:?}");
    }
}

#[test]
fn elsewhere_than_on_loopback_no_caller_has_a_role_by_default() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let serve = [
        "serve",
        "--listen",
        "0.0.0.0:0",
        "--data-dir",
        data.to_str().unwrap(),
    ];
    let ran = run(&serve, "");
    assert_eq!(ran.code, 64, "{ran:?}");
    for way_out in ["--listen", "--tokens", "--tls-client-ca", "--anonymous"] {
        assert!(ran.stderr.contains(way_out), "{ran:?}");
    }
    assert!(!data.exists(), "nothing was opened");
    let ran = run(&["demo", "--listen", "0.0.0.0:0"], "");
    assert_eq!(ran.code, 64, "{ran:?}");

    let engine = Engine::start(&["--listen", "0.0.0.0:0", "--anonymous", "viewer"]);
    let me = engine.get("/api/v1/me").json();
    assert_eq!(me["role"], "viewer");
    let unload = engine.post("/api/v1/workspaces/w/unload", &[], b"");
    assert_eq!(unload.status, 401, "{unload:?}");

    let mut file = TokensFile::new();
    let token = file.add("root", &["--role", "admin"]);
    let path = file.text();
    let engine = Engine::start(&["--listen", "0.0.0.0:0", "--tokens", &path]);
    assert_eq!(engine.get("/api/v1/me").status, 401);
    assert_eq!(engine.get("/livez").status, 200);
    wait_for_status(&engine, &token, 200);
}

#[test]
fn a_tokens_file_that_cannot_be_used_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens.toml");
    let path = path.to_str().unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--tokens", path];
    let missing = run(&serve, "");
    assert_eq!(missing.code, 64, "{missing:?}");
    assert!(
        missing.stderr.contains(&format!("cannot read {path}")),
        "{missing:?}"
    );
    fs::write(path, "\nci = { role = \"root\" }\n").unwrap();
    let bad = run(&serve, "");
    assert_eq!(bad.code, 64, "{bad:?}");
    let expected =
        format!("{path}: line 2: the role is not one of viewer, reader, producer, operator, admin");
    assert!(bad.stderr.contains(&expected), "{bad:?}");
}

#[test]
fn commands_say_what_to_do_about_a_missing_or_a_weak_token() {
    let mut file = TokensFile::new();
    let viewer = file.add("weak", &["--role", "viewer"]);
    let path = file.text();
    let engine = Engine::start(&["--tokens", &path, "--anonymous", "none"]);
    for arguments in [
        &["list"][..],
        &["get", "w"],
        &["history", "w"],
        &["wait", "w"],
        &["produce", "-"],
    ] {
        let ran = engine.run(arguments, &event("w", "a"));
        assert_eq!(ran.code, 1, "{arguments:?} {ran:?}");
        assert!(
            ran.stderr.contains("WORKSPACE_ENGINE_TOKEN"),
            "{arguments:?} {ran:?}"
        );
    }
    let weak = engine.run(&["produce", "-", "--token", &viewer], &event("w", "a"));
    assert_eq!(weak.code, 1, "{weak:?}");
    assert!(
        weak.stderr
            .contains("this needs the role producer or admin; \"weak\" is viewer"),
        "{weak:?}"
    );
    // Every command sends the token, with any HTTP method.
    let operator = file.add("strong", &["--role", "operator"]);
    wait_for_status(&engine, &operator, 200);
    let deleted = engine.run(&["delete", "w", "--token", &operator], "");
    assert_eq!(deleted.code, 1, "there is no such workspace: {deleted:?}");
    assert!(
        !deleted.stderr.contains("WORKSPACE_ENGINE_TOKEN"),
        "{deleted:?}"
    );
    // A variable with the newline of the file from which it was read.
    let output = program()
        .args(["list", "--url", &engine.url])
        .env("WORKSPACE_ENGINE_TOKEN", format!("{viewer}\n"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_large_request_without_the_right_is_answered_and_not_cut_off() {
    let mut file = TokensFile::new();
    file.add("root", &["--role", "admin"]);
    let path = file.text();
    let engine = Engine::start(&["--tokens", &path, "--anonymous", "none"]);
    let body = vec![b'x'; 8 << 20];
    for _ in 0..5 {
        let answer = engine.post(
            "/api/v1/events",
            &[("content-type", "application/json")],
            &body,
        );
        assert_eq!(answer.status, 401, "{answer:?}");
    }
}

#[test]
fn a_new_token_is_printed_with_its_line() {
    let ran = run(&["token", "ci", "--role", "producer"], "");
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let [token, line] = lines[..] else {
        panic!("{ran:?}")
    };
    assert!(token.starts_with("wse_") && token.len() == 68, "{ran:?}");
    assert!(line.starts_with("ci = { hash = \"sha256:"), "{ran:?}");
    assert!(line.ends_with("\", role = \"producer\" }"), "{ran:?}");
    assert!(!ran.stderr.contains(token), "{ran:?}");
    for arguments in [
        &["token", "ci"][..],
        &["token", "ci", "--role", "root"],
        &["token", "anonymous", "--role", "viewer"],
        &["token", "", "--role", "viewer"],
        &["token", "ci", "--role", "viewer", "--prefix", "a/b"],
    ] {
        assert_eq!(run(arguments, "").code, 64, "{arguments:?}");
    }
}
