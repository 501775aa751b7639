//! Startup and shutdown of an engine: invalid configuration, directories and ports in use, signals.

use crate::support::{Engine, Reserved, event, program, run, try_get, until};
use std::{
    fs,
    process::{Child, Stdio},
};

#[test]
fn a_second_engine_on_the_same_directory_is_refused() {
    let engine = Engine::start(&[]);
    engine.produce(&event("w", "a"));
    let directory = engine.directory().to_str().unwrap();
    let ran = run(
        &["serve", "--listen", "127.0.0.1:0", "--data-dir", directory],
        "",
    );
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("is in use by another engine (process "),
        "{ran:?}"
    );
    assert_eq!(ran.stdout, "", "it never reported that it listens");
}

#[test]
fn serve_continues_when_its_output_is_closed() {
    let temporary = tempfile::tempdir().unwrap();
    let Reserved { address, .. } = &Reserved::new();
    let mut child = program()
        .args(["serve", "--listen", &address.to_string(), "--data-dir"])
        .arg(temporary.path().join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let url = format!("http://{address}/readyz");
    let is_ready = || try_get(&url).is_some_and(|answer| answer.status == 200);
    let is_alive = |child: &mut Child| child.try_wait().unwrap().is_none();
    let ready = until("it is ready or has ended", || {
        let ready = is_ready();
        (ready || !is_alive(&mut child)).then_some(ready)
    });
    let alive = is_alive(&mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ready && alive, "ready: {ready}, alive: {alive}");
}

#[test]
fn a_taken_port_is_named() {
    let engine = Engine::start(&[]);
    let address = engine.url.trim_start_matches("http://");
    let directory = engine.directory().to_str().unwrap();
    let ran = run(&["serve", "--listen", address, "--data-dir", directory], "");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr
            .contains(&format!("error: cannot listen on {address}: Address")),
        "{ran:?}"
    );
}

#[test]
fn a_directory_with_another_number_of_partitions_is_refused() {
    let mut engine = Engine::start(&["--partitions", "3"]);
    engine.produce(&event("w", "a"));
    assert!(engine.stop().success());
    let directory = engine.directory().to_str().unwrap();
    let ran = run(
        &[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--partitions",
            "4",
            "--data-dir",
            directory,
        ],
        "",
    );
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("was created with 3 partitions, not 4"),
        "{ran:?}"
    );
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("engine.toml");
    let path = file.to_str().unwrap();
    for (text, flags, expected) in [
        (
            "listen = \"127.0.0.1:0\"\nperrmits = 3\n",
            &[][..],
            format!("error: {path}:2: unknown key `perrmits`, did you mean `permits`?"),
        ),
        (
            "permits = 0\n",
            &[],
            format!("error: {path}:1: `permits`: \"0\" is not a number from 1 to 1024"),
        ),
        (
            "",
            &["--log-level", "no=such=level"],
            "error: log-level \"no=such=level\": error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5".to_owned(),
        ),
    ] {
        fs::write(&file, text).unwrap();
        let ran = run(&[&["serve", "--config", path], flags].concat(), "");
        assert_eq!(ran.code, 64, "{ran:?}");
        assert_eq!(ran.stderr.trim(), expected);
    }
    let no_flags: &[&str] = &[];
    for (name, value, flags, expected) in [
        (
            "PERMITS",
            "0",
            no_flags,
            "WORKSPACE_ENGINE_PERMITS: \"0\" is not a number from 1 to 1024",
        ),
        (
            "STORE",
            "redis",
            no_flags,
            "WORKSPACE_ENGINE_STORE: \"redis\" is not one of lsm, file, memory",
        ),
        // A flag overrides a variable.
        (
            "LISTEN",
            "127.0.0.1:0",
            &["--listen", "nowhere"],
            "--listen: invalid socket address syntax",
        ),
    ] {
        let output = program()
            .arg("serve")
            .args(flags)
            .env(format!("WORKSPACE_ENGINE_{name}"), value)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        assert_eq!(
            String::from_utf8(output.stderr).unwrap().trim(),
            format!("error: {expected}")
        );
    }
    let ran = run(&["serve", "--config", "no-such-file.toml"], "");
    assert_eq!(ran.code, 64, "{ran:?}");
    assert!(
        ran.stderr
            .starts_with("error: cannot read configuration file no-such-file.toml: "),
        "{ran:?}"
    );
}

#[test]
fn every_setting_of_the_example_can_be_given_as_it_stands() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/workspace-engine.example.toml");
    let mut engine = Engine::start(&["--config", example]);
    engine.produce(&event("w", "a"));
    assert!(engine.stop().success());
}

#[test]
fn both_durable_stores_give_back_what_was_saved() {
    for store in ["lsm", "file"] {
        let mut engine = Engine::start(&["--store", store]);
        engine.produce(&event("w", "a"));
        engine.wait_for("w", "ready");
        assert!(engine.stop().success());
        engine.restart();
        engine.wait_for("w", "ready");
        let summary = engine.get("/api/v1/workspaces/w/entities").json();
        assert_eq!(summary["eventsApplied"], 1, "{store}");
    }
}

#[test]
fn probes_answer() {
    let engine = Engine::start(&[]);
    engine.produce(&event("w", "a"));
    assert_eq!(engine.get("/livez").status, 200);
    assert_eq!(engine.get("/readyz?verbose").status, 200);
}
