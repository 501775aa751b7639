//! The log of actions: who did what, and no secret in it.

use crate::support::{self, TokensFile, bearer, event, first_url, program, run};
use serde_json::Value;
use std::{fs, process::Stdio};

#[test]
fn each_action_is_logged_with_its_caller_and_no_secret_is() {
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
    let url = first_url(&mut child);
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
        support::send(method, &format!("{url}{path}"), &headers, b"")
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
        support::send(
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
    support::until("the end of the operation", || {
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
    let lines = support::eventually("the lines of the log", || {
        let text = fs::read_to_string(&log).unwrap();
        let has_ended = text.contains("operation ended");
        if has_ended && text.contains("cannot be used; the previous one stays in use") {
            Ok(text)
        } else {
            Err(text)
        }
    });
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
    let requested = dry_run["request"].as_str().unwrap();
    assert!(requested.contains("\"prefix\":\"w\""), "{requested}");
    assert!(requested.contains("\"force\":false"), "{requested}");
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
        let url = first_url(&mut child);
        let unload = format!("{url}/api/v1/workspaces/w/unload");
        let answer = support::send("POST", &unload, &[], b"");
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
