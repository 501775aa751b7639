//! Access control: each route with each role, token files that change, and the audit log.

use crate::support::{Engine, Ran, TokensFile, bearer, event, program, run};
use serde_json::Value;
use std::{fs, process::Stdio};

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
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
    loop {
        let headers = [("authorization", bearer(token))];
        let status = engine.send("GET", "/api/v1/me", &headers, b"").status;
        if status == expected {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "still {status}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
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
fn the_caller_is_told_its_name_and_rights() {
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
        let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
        loop {
            let headers = [("authorization", bearer(&added))];
            let metrics = engine.send("GET", "/metrics", &headers, b"").text;
            if metrics.contains(&line) {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{metrics}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
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
fn elsewhere_than_on_loopback_nobody_is_let_in_by_default() {
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
fn whoever_acts_is_logged_and_no_secret_is() {
    let mut file = TokensFile::new();
    let token = file.add("night shift", &["--role", "operator"]);
    let admin = file.add("root", &["--role", "admin"]);
    let wrong = format!("wse_{}", "ab".repeat(32));
    let tokens_path = file.text();
    let data = file.directory().join("data");
    let log = file.directory().join("log");
    let mut child = program()
        .args(["serve", "--listen", "127.0.0.1:0", "--anonymous", "none"])
        .args(["--log-level", "trace", "--log-format", "json"])
        .args([
            "--tokens",
            &tokens_path,
            "--data-dir",
            data.to_str().unwrap(),
        ])
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let url = crate::support::first_url(&mut child);
    let run_with = |arguments: &[&str], token: &str, input: &str| {
        run(
            &[arguments, &["--url", &url, "--token", token]].concat(),
            input,
        )
    };
    let mut shown = String::new();
    for (arguments, token) in [
        (&["produce", "-"][..], admin.as_str()),
        (&["wait", "w"], &token),
        (&["produce", "-"], &token),
        (&["list"], &wrong),
    ] {
        let ran = run_with(arguments, token, &event("w", "a"));
        shown.push_str(&ran.stdout);
        shown.push_str(&ran.stderr);
    }
    let send = |method: &str, path: &str, token: &str| {
        let headers = [("authorization", bearer(token))];
        crate::support::send(method, &format!("{url}{path}"), &headers, b"")
    };
    assert_eq!(
        send("POST", "/api/v1/workspaces/w/unload?x=1", &token).status,
        200
    );
    shown.push_str(&send("POST", "/api/v1/workspaces/w/unload", &wrong).text);
    let act = |document: Value| {
        let headers = [
            ("authorization", bearer(&token)),
            ("content-type", "application/json".to_owned()),
        ];
        let body = document.to_string();
        crate::support::send(
            "POST",
            &format!("{url}/api/v1/actions"),
            &headers,
            body.as_bytes(),
        )
    };
    let filter = serde_json::json!({"prefix": "w"});
    let dry_run = serde_json::json!({"action": "load", "filter": filter, "dryRun": true});
    let counted = act(dry_run).json();
    assert_eq!(counted["matched"], 1, "{counted}");
    let begun = act(serde_json::json!({"action": "load", "filter": filter, "expected": 1}));
    assert_eq!(begun.status, 202, "{begun:?}");
    let id = begun.json()["operation"].as_str().unwrap().to_owned();
    let stop = format!("/api/v1/operations/{id}");
    // A stop before the workspace had its turn would skip it.
    crate::support::until("the end of the operation", || {
        let operation = send("GET", &stop, &token).json();
        (operation["done"] == 1).then_some(())
    });
    assert_eq!(send("DELETE", &stop, &token).status, 200);
    let unchecked = run_with(&["produce", "-", "--no-check"], &admin, &event("w", "b"));
    assert_eq!(unchecked.code, 0, "{unchecked:?}");
    shown.push_str(&send("GET", "/metrics", &admin).text);
    shown.push_str(&send("GET", "/openapi.json", &admin).text);
    // A file with a token and a hash in wrong places.
    fs::write(
        &tokens_path,
        format!("a = \"{admin}\"\n{}\n", file.lines()["root"]),
    )
    .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
    let lines = loop {
        let text = fs::read_to_string(&log).unwrap();
        let has_ended = text.contains("operation ended");
        if has_ended && text.contains("cannot be used; the one before stays in use") {
            break text;
        }
        assert!(std::time::Instant::now() < deadline, "{text}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    child.kill().unwrap();
    child.wait().unwrap();

    let audit: Vec<Value> = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["target"] == "workspace_engine::audit")
        .collect();
    let action = audit
        .first()
        .unwrap_or_else(|| panic!("no action in {lines}"));
    let line = |action: &str, field: &str, part: &str| {
        let has_it = |line: &&Value| {
            let text = line[field].as_str().unwrap_or_default();
            line["action"] == action && text.contains(part)
        };
        let found = audit.iter().find(has_it);
        found.unwrap_or_else(|| panic!("no {action} with {part} in {audit:#?}"))
    };
    let dry_run = line("action on a filter", "request", "\"dryRun\":true");
    assert_eq!(dry_run["outcome"], "dry run: nothing was done");
    let asked = dry_run["request"].as_str().unwrap();
    assert!(asked.contains("\"prefix\":\"w\""), "{asked}");
    assert!(asked.contains("\"force\":false"), "{asked}");
    let done = line("action on a filter", "request", "\"dryRun\":false");
    assert_eq!(done["outcome"], "done");
    assert_eq!(line("stop an operation", "operation", &id)["status"], 200);
    let of_workspace = line("load", "workspace", "w");
    assert_eq!(of_workspace["operation"], *id);
    assert_eq!(of_workspace["name"], "night shift");
    let unchecked = line("append unchecked events", "query", "check=off");
    assert_eq!(unchecked["name"], "root");
    assert_eq!(unchecked["status"], 202);
    let operation = audit
        .iter()
        .find(|line| line["message"] == "operation begins")
        .unwrap_or_else(|| panic!("no operation in {audit:?}"));
    assert_eq!(
        (&operation["action"], &operation["name"]),
        (&"load".into(), &"night shift".into())
    );
    for (field, expected) in [
        ("level", "INFO"),
        ("action", "unload"),
        ("workspace", "w"),
        ("query", "x=1"),
        ("name", "night shift"),
        ("role", "operator"),
        ("outcome", "done"),
    ] {
        assert_eq!(action[field], expected, "{field} {action}");
    }
    assert_eq!(action["status"], 200);
    assert!(
        action["remote"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{action}"
    );
    assert!(lines.contains("refused: this needs the role"), "{lines}");

    for arguments in [&["--help"][..], &["list", "--help"], &["serve", "--help"]] {
        let output = program()
            .args(arguments)
            .env("WORKSPACE_ENGINE_TOKEN", &token)
            .output()
            .unwrap();
        shown.push_str(&String::from_utf8(output.stdout).unwrap());
    }
    shown.push_str(&lines);
    let hashes: Vec<String> = file
        .lines()
        .values()
        .map(|line| {
            let (_, rest) = line.split_once("sha256:").unwrap();
            rest[..64].to_owned()
        })
        .collect();
    for secret in [&token, &admin, &wrong].into_iter().chain(&hashes) {
        // Showing a part of it would be as bad.
        let part = &secret[secret.len() - 40..];
        assert!(!shown.contains(part), "{part} was shown");
    }
}

#[test]
fn only_its_own_name_silences_the_log_of_actions() {
    for (level, expected) in [
        ("warn", 1),
        ("off", 1),
        ("workspace_engine=error", 1),
        ("info,workspace_engine::audit=off", 0),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut child = program()
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", level])
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let url = crate::support::first_url(&mut child);
        let unload = format!("{url}/api/v1/workspaces/w/unload");
        let answer = crate::support::send("POST", &unload, &[], b"");
        // The line is written before the answer is sent.
        child.kill().unwrap();
        child.wait().unwrap();
        let text = fs::read_to_string(&log).unwrap();
        let lines = text
            .lines()
            .filter(|line| line.contains("an operator's action"));
        assert_eq!(lines.count(), expected, "{level} {answer:?} {text}");
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
