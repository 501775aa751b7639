//! The commands against a running engine, and their exit codes.

use crate::support::{Engine, Reserved, event, program, run};
use std::net::TcpListener;

#[test]
fn events_go_in_and_states_come_out() {
    let mut engine = Engine::start(&[]);
    let lines: String = (0..500)
        .map(|number| event(["one", "two"][number % 2], &format!("r/{number}")))
        .collect();
    let ran = engine.run(&["produce", "-", "-o", "json"], &lines);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.json()["accepted"], 500);
    assert_eq!(ran.json()["line"], 500);

    let ran = engine.run(&["wait", "one"], "");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.starts_with("one is ready after "), "{ran:?}");

    let last = engine.get("/api/v1/workspaces/one/entities").json()["nextOffset"]
        .as_u64()
        .unwrap();
    let offset = engine.post_events(&event("one", "last")).json()["partitions"][0]["lastOffset"]
        .as_u64()
        .unwrap();
    assert!(offset + 1 >= last);
    let summary = engine
        .get(&format!("/api/v1/workspaces/one/entities?atLeast={offset}"))
        .json();
    assert_eq!(summary["eventsApplied"], 251);
    assert_eq!(summary["counts"]["resource"], 251);
    assert!(summary["nextOffset"].as_u64() > Some(offset));

    engine.wait_for("two", "ready");
    let ran = engine.run(&["list"], "");
    let words: Vec<Vec<&str>> = ran
        .stdout
        .lines()
        .map(|line| line.split_whitespace().take(2).collect())
        .collect();
    assert_eq!(
        words,
        [["WORKSPACE", "STATE"], ["one", "ready"], ["two", "ready"]]
    );
    let ran = engine.run(&["list", "--state", "error", "-o", "json"], "");
    assert_eq!(ran.json()["workspaces"], serde_json::json!([]));
    assert_eq!(ran.json()["stateCounts"]["ready"], 2);

    let ran = engine.run(&["get", "one", "-o", "json"], "");
    assert_eq!(ran.json()["state"], "ready");
    assert!(
        engine
            .run(&["get", "one"], "")
            .stdout
            .contains("partition_status")
    );

    assert!(engine.stop().success());
    engine.restart();
    engine.wait_for("one", "ready");
    let ran = engine.run(&["history", "one", "-o", "json"], "");
    let history = ran.json();
    let transitions = history["transitions"].as_array().unwrap();
    let epochs: Vec<u64> = transitions
        .iter()
        .map(|transition| transition["epoch"].as_u64().unwrap())
        .collect();
    assert!(epochs.is_sorted(), "{epochs:?}");
    assert_eq!((epochs.first(), epochs.last()), (Some(&1), Some(&2)));
    assert_eq!(history["transitionsTotal"], transitions.len());
    assert_eq!(
        history["phases"].as_array().unwrap().len(),
        transitions.len() + 1
    );
    let table = engine.run(&["history", "one"], "").stdout;
    assert!(table.contains("restoring_from_snapshot"), "{table}");
}

#[test]
fn a_bad_line_stops_produce_and_what_was_before_it_is_durable() {
    let engine = Engine::start(&[]);
    let input = format!(
        "{}\n{}{{\"eventType\":\"x.created\"}}\n{}",
        event("w", "a"),
        event("w", "b"),
        event("w", "c")
    );
    let ran = engine.run(&["produce", "-"], &input);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(
        ran.stderr.trim(),
        "error: standard input: line 4: workspaceId is missing (the 2 events before it are sent and durable)"
    );
    engine.wait_for("w", "ready");
    let summary = engine.get("/api/v1/workspaces/w/entities?atLeast=1").json();
    assert_eq!(summary["eventsApplied"], 2);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let ran = run(&["produce", "no-such-file.ndjson"], "");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr
            .starts_with("error: cannot read no-such-file.ndjson: "),
        "{ran:?}"
    );
}

#[test]
fn produce_splits_a_request_that_is_over_the_engines_limit() {
    let engine = Engine::start(&["--max-body", "1KiB", "--event-memory", "1MiB"]);
    let lines: String = (0..200)
        .map(|number| event("w", &number.to_string()))
        .collect();
    let ran = engine.run(&["produce", "-", "-o", "json"], &lines);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.json()["accepted"], 200);

    let long = format!("{}{}", event("w", "a"), event("w", &"x".repeat(2000)));
    let ran = engine.run(&["produce", "-"], &long);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(
        ran.stderr.trim(),
        "error: standard input: line 2: the body is over the limit of 1024 bytes (the event before it is sent and durable)"
    );
}

#[test]
fn the_exit_code_of_a_wait_is_its_outcome() {
    let engine = Engine::start(&[]);
    engine.produce(&event("good", "a"));
    engine.produce_unchecked("{\"eventType\":\"nonsense\",\"workspaceId\":\"bad\"}\n");
    engine.wait_for("bad", "error");
    for (arguments, code, expected) in [
        (&["wait", "good"][..], 0, "good is ready after "),
        (&["wait", "bad"], 1, "error: bad is in error after "),
        (&["wait", "bad", "--for", "error"], 0, "bad is error after "),
        (
            &["wait", "bad", "--fail-on", "none", "--timeout", "50ms"],
            2,
            "error: timed out after ",
        ),
        (
            &["wait", "unknown", "--timeout", "50ms"],
            2,
            "error: timed out after ",
        ),
    ] {
        let ran = engine.run(arguments, "");
        assert_eq!(ran.code, code, "{arguments:?} {ran:?}");
        let text = format!("{}{}", ran.stdout, ran.stderr);
        assert!(text.starts_with(expected), "{arguments:?} {text}");
    }
}

#[test]
fn wrong_flags_end_with_a_code_of_their_own() {
    for arguments in [
        &["wait", "a", "--for", "reddy"][..],
        &["wait", "a/b"],
        &["get", ""],
        &["list", "--url", "ftp://here"],
        &["serve", "--partitions", "none"],
        &["nonsense"],
        &[],
    ] {
        let ran = run(arguments, "");
        assert_eq!(ran.code, 64, "{arguments:?} {ran:?}");
    }
    assert_eq!(run(&["--help"], "").code, 0);
    assert_eq!(run(&["--version"], "").code, 0);
}

#[test]
fn flags_can_be_given_as_variables_and_an_empty_one_is_none() {
    let engine = Engine::start(&[]);
    let run = |variables: &[(&str, &str)]| {
        let output = program()
            .args(["wait", "unknown"])
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), output.stdout, stderr)
    };
    let (code, stdout, stderr) = run(&[
        ("WORKSPACE_ENGINE_URL", &engine.url),
        ("WORKSPACE_ENGINE_TIMEOUT", "10ms"),
        ("WORKSPACE_ENGINE_OUTPUT", "json"),
        ("WORKSPACE_ENGINE_FAIL_ON", ""),
    ]);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stdout.starts_with(b"{\"workspaceId\":\"unknown\""),
        "{stderr}"
    );

    let output = program()
        .args(["serve", "--listen", "nowhere"])
        .env("WORKSPACE_ENGINE_CONFIG", "")
        .env("WORKSPACE_ENGINE_PERMITS", "")
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: --listen: "), "{stderr}");
}

#[test]
fn nothing_at_the_url_ends_with_a_code_of_its_own() {
    let closed = Reserved::new();
    let url = &closed.address.to_string();
    for arguments in [
        &["list"][..],
        &["get", "a"],
        &["history", "a"],
        &["produce", "-", "--retry-for", "10ms"],
    ] {
        let ran = run(&[arguments, &["--url", url]].concat(), &event("a", "b"));
        assert_eq!(ran.code, 3, "{arguments:?} {ran:?}");
        assert!(ran.stderr.contains("no engine answers at "), "{ran:?}");
    }
}

#[test]
fn a_wait_whose_time_is_over_says_so_also_where_no_engine_ever_answered() {
    // The system accepts connections, and no program answers them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = silent.local_addr().unwrap().to_string();
    let closed = Reserved::new();
    let closed_url = closed.address.to_string();
    for (url, reason) in [
        (silent_url, "no answer in time"),
        (closed_url, "connection refused"),
    ] {
        let ran = run(&["wait", "a", "--timeout", "10ms", "--url", &url], "");
        assert_eq!(ran.code, 2, "{ran:?}");
        let error_text = ran.stderr.lines().last().unwrap();
        assert!(
            error_text.starts_with("error: timed out after ") && error_text.contains(reason),
            "{ran:?}"
        );
    }
}

#[test]
fn an_unknown_workspace_is_shown_as_unknown() {
    let engine = Engine::start(&[]);
    let ran = engine.run(&["get", "unknown", "-o", "json"], "");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(ran.json()["state"], "unknown");
    let ran = engine.run(&["history", "unknown"], "");
    assert_eq!(ran.code, 1, "{ran:?}");
}
