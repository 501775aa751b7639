//! Limits and failures of the disk: a log that lost its end, a database that lost a file, too few descriptors, and
//! reads and producers with unknown names.

use crate::support::{Answer, Engine, event, eventually, run, wait_until};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde_json::Value;
use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
};

/// Events of a workspace with the ids `from..until`.
fn events(workspace: &str, from: u64, until: u64) -> String {
    (from..until)
        .map(|number| event(workspace, &format!("r{number}")))
        .collect()
}

/// Appends events and returns the first offset; there is one partition.
fn append(engine: &Engine, lines: &str) -> u64 {
    let answer = engine.post_events(lines);
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()["partitions"][0]["firstOffset"]
        .as_u64()
        .unwrap()
}

/// Number of a workspace's resources once it has applied an offset.
fn resources(engine: &Engine, workspace: &str, at_least: u64) -> u64 {
    let path = format!("/api/v1/workspaces/{workspace}/entities?atLeast={at_least}&timeout=60s");
    let answer = engine.get(&path);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["counts"]["resource"].as_u64().unwrap()
}

fn copy(from: &Path, to: &Path) {
    if from.is_file() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}

/// Restores entries of a data directory from a copy of it.
fn restore(copied: &Path, data: &Path, entries: &[&str]) {
    for entry in entries {
        let to = data.join(entry);
        let _ = fs::remove_dir_all(&to).or_else(|_| fs::remove_file(&to));
        copy(&copied.join(entry), &to);
    }
}

/// A stopped engine with one partition whose log ended at offset 10 when copied and at 30 when killed.
/// Workspace `other` has the first event, `w` all others. `saved` waits until the applied state is saved.
fn copied_at_10_and_killed_at_30(flags: &[&str], saved: impl Fn(&Path)) -> (Engine, PathBuf) {
    let mut engine = Engine::start(&[&["--partitions", "1"], flags].concat());
    append(&engine, &events("other", 0, 1));
    append(&engine, &events("w", 1, 10));
    assert_eq!(resources(&engine, "w", 9), 9);
    assert!(engine.stop().success());
    let copied = engine.directory().with_file_name("copied");
    copy(engine.directory(), &copied);
    engine.restart();
    assert_eq!(append(&engine, &events("w", 10, 30)), 10);
    assert_eq!(resources(&engine, "w", 29), 29);
    saved(engine.directory());
    engine.kill();
    (engine, copied)
}

#[test]
fn a_log_that_lost_its_end_gives_no_offset_twice() {
    let (mut engine, copied) = copied_at_10_and_killed_at_30(&["--store", "file"], |data| {
        wait_until("all is saved", || {
            let entries = fs::read_to_string(data.join("workspaces/w/entries.jsonl"));
            entries.is_ok_and(|entries| entries.contains("\"nextOffset\":30"))
        });
    });
    restore(&copied, engine.directory(), &["db", "witness"]);
    engine.restart();
    engine.wait_for("w", "ready");
    assert_eq!(append(&engine, &events("w", 30, 55)), 30);
    assert_eq!(resources(&engine, "w", 54), 54);
    let check = |engine: &Engine| {
        engine.wait_for("w", "ready");
        assert_eq!(resources(engine, "w", 54), 54);
        let summary = engine.get("/api/v1/workspaces/w/entities").json();
        assert_eq!(summary["eventsApplied"], 54);
    };
    let reloaded = engine.post("/api/v1/workspaces/w/reload", &[], b"");
    assert!(reloaded.status < 300, "{reloaded:?}");
    check(&engine);
    // Only the store has the effects of the lost events.
    let reset = engine.post("/api/v1/workspaces/w/reset", &[], b"");
    assert_eq!(reset.status, 409, "{reset:?}");
    assert_eq!(reset.json()["type"], "/problems/log-begins-later");
    assert_eq!(reset.json()["lowWatermark"], 30);
    check(&engine);

    // Whether `other` had events among the lost ones is unknown.
    engine.wait_for("other", "error");
    let status = engine.get("/api/v1/workspaces/other/status").json();
    assert_eq!(status["error"]["kind"], "parked");
    let message = status["errorMessage"].as_str().unwrap();
    assert!(
        message.contains("has lost the events from offset 10 to 29"),
        "{message}"
    );
    assert!(message.contains("skip continues without them"), "{message}");
    engine.kill();
    engine.restart();
    check(&engine);
    engine.wait_for("other", "error");
    let skipped = engine.post("/api/v1/workspaces/other/skip", &[], b"");
    assert_eq!(skipped.status, 200, "{skipped:?}");
    engine.wait_for("other", "ready");
    assert_eq!(append(&engine, &events("other", 55, 56)), 55);
    assert_eq!(resources(&engine, "other", 55), 2);
    assert!(engine.stop().success());
    engine.restart();
    check(&engine);
    engine.wait_for("other", "ready");
    assert_eq!(resources(&engine, "other", 55), 2);
}

/// The error text of an engine that refuses to start.
fn refusal(engine: &Engine, flags: &[&str]) -> String {
    let directory = engine.directory().to_str().unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", directory];
    let ran = run(&[&serve, flags].concat(), "");
    assert_eq!(ran.code, 1, "{ran:?}");
    ran.stderr
}

/// Renames a file as an error text says: "rename FILE to NAME".
fn rename_as_advised(text: &str) {
    let (_, reported) = text.split_once("rename ").unwrap();
    let (from, reported) = reported.split_once(" to ").unwrap();
    let name = reported.split([':', ' ', '\n']).next().unwrap();
    fs::rename(from, Path::new(from).with_file_name(name)).unwrap();
}

#[test]
fn a_loss_that_is_accepted_gives_no_offset_twice_with_any_store() {
    for (store, of_w) in [("lsm", 9 + 25), ("memory", 9 + 25), ("file", 29 + 25)] {
        let flags = ["--store", store, "--partitions", "1"];
        let (mut engine, copied) = copied_at_10_and_killed_at_30(&flags[..2], |data| {
            wait_until("all is saved", || {
                let entries = fs::read_to_string(data.join("workspaces/w/entries.jsonl"));
                store != "file"
                    || entries.is_ok_and(|entries| entries.contains("\"nextOffset\":30"))
            });
        });
        restore(&copied, engine.directory(), &["db"]);
        let text = refusal(&engine, &flags);
        assert!(
            text.contains("partition 0 ends at offset 10 and not at 30"),
            "{text}"
        );
        rename_as_advised(&text);
        engine.restart();
        for workspace in ["w", "other"] {
            engine.wait_for(workspace, "ready");
        }
        assert_eq!(append(&engine, &events("w", 30, 55)), 30, "{store}");
        assert_eq!(resources(&engine, "w", 54), of_w, "{store}");
        for _ in 0..2 {
            engine.kill();
            engine.restart();
            engine.wait_for("w", "ready");
            assert_eq!(resources(&engine, "w", 54), of_w, "{store}");
            engine.wait_for("other", "ready");
            assert_eq!(resources(&engine, "other", 54), 1, "{store}");
        }
    }
}

/// The directories next to the database that contain a database set aside.
fn set_aside(data: &Path) -> Vec<PathBuf> {
    fs::read_dir(data)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains("db.set-aside-"))
        .collect()
}

#[test]
fn a_database_without_its_marker_is_not_deleted_and_can_be_mended() {
    let mut engine = Engine::start(&["--partitions", "1"]);
    append(&engine, &events("w", 0, 30));
    assert_eq!(resources(&engine, "w", 29), 30);
    assert!(engine.stop().success());
    let data = engine.directory().to_owned();
    let marker = data.join("db/version");
    let flags = ["--partitions", "1"];

    // The first way out: copy the file from any other directory.
    fs::remove_file(&marker).unwrap();
    let text = refusal(&engine, &flags);
    assert!(text.contains("version is missing"), "{text}");
    assert!(
        text.contains("copy it from any other data directory"),
        "{text}"
    );
    let mut other = Engine::start(&flags);
    assert!(other.stop().success());
    fs::copy(other.directory().join("db/version"), &marker).unwrap();
    engine.restart();
    engine.wait_for("w", "ready");
    assert_eq!(resources(&engine, "w", 29), 30);
    assert!(engine.stop().success());

    // The second way out: start with an empty database; the old one is set aside.
    for (round, accept) in [rename_as_advised as fn(&str), |text| {
        // The way out that earlier versions named.
        let (_, reported) = text.split_once("rename ").unwrap();
        fs::remove_file(reported.split(' ').next().unwrap()).unwrap();
    }]
    .into_iter()
    .enumerate()
    {
        fs::remove_file(&marker).unwrap();
        accept(&refusal(&engine, &flags));
        engine.restart();
        assert_eq!(engine.get("/api/v1/workspaces/w/status").status, 404);
        let first = append(&engine, &events("fresh", 0, 1));
        assert_eq!(first, if round == 0 { 30 } else { 0 });
        assert!(engine.stop().success());
        let aside = set_aside(&data);
        assert_eq!(aside.len(), 1, "{aside:?}");

        // The database set aside still has all data.
        fs::rename(data.join("db"), data.join("new")).unwrap();
        fs::rename(&aside[0], data.join("db")).unwrap();
        fs::copy(data.join("new/version"), &marker).unwrap();
        fs::remove_dir_all(data.join("new")).unwrap();
        fs::remove_file(data.join("witness")).unwrap();
        engine.restart();
        engine.wait_for("w", "ready");
        assert_eq!(resources(&engine, "w", 29), 30);
        assert!(engine.stop().success());
    }
}

/// Connections on which nothing is sent.
fn idle_connections(engine: &Engine, count: usize) -> Vec<TcpStream> {
    let address = engine.url.trim_start_matches("http://");
    let own = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: own.maximum,
        maximum: own.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    // The listener's queue holds connections that are not accepted yet; connections that it refuses are skipped.
    (0..count)
        .filter_map(|_| TcpStream::connect(address).ok())
        .collect()
}

/// A client that reuses its connection.
struct Client(ureq::Agent);

impl Client {
    fn new() -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .build();
        Self(config.into())
    }

    fn get(&self, engine: &Engine, path: &str) -> (u16, String) {
        let mut response = self.0.get(format!("{}{path}", engine.url)).call().unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), text)
    }

    /// Retries where the connection was closed or refused for lack of a permit: duplicate events do no harm here.
    fn post(&self, engine: &Engine, lines: &str) -> (u16, String) {
        eventually("the request is served", || {
            let request = self.0.post(format!("{}/api/v1/events", engine.url));
            let request = request.header("content-type", "application/x-ndjson");
            let mut response = request.send(lines).map_err(|error| error.to_string())?;
            let text = response.body_mut().read_to_string().unwrap();
            // An idle connection may be closed for this one after a moment.
            if text.contains("/problems/too-many-at-once") {
                return Err(text);
            }
            Ok((response.status().as_u16(), text))
        })
    }
}

/// About a megabyte of events of one workspace.
fn megabyte(round: u64) -> String {
    let text = "x".repeat(1_000);
    (0..1_000)
        .map(|number| {
            let id = round * 1_000 + number;
            format!(
                "{{\"eventType\":\"resource.created\",\"workspaceId\":\"w\",\"data\":{{\"id\":\"r{id}\",\"text\":\"{text}\"}}}}\n"
            )
        })
        .collect()
}

/// Number of the database's tables, without those of its own lists.
fn tables(engine: &Engine) -> usize {
    let keyspaces = fs::read_dir(engine.directory().join("db/keyspaces")).unwrap();
    let keyspaces = keyspaces.map(|keyspace| keyspace.unwrap().path());
    keyspaces
        .filter(|keyspace| !keyspace.ends_with("0"))
        .map(|keyspace| fs::read_dir(keyspace.join("tables")).unwrap().count())
        .sum()
}

#[test]
fn the_memory_of_the_database_bounds_what_is_not_in_tables_yet() {
    let small = ["--store", "memory", "--database-memory", "32MiB"];
    for (flags, is_in_tables) in [(&small[..], true), (&small[..2], false)] {
        let mut engine = Engine::start(flags);
        for round in 0..12 {
            assert_eq!(engine.post_events(&megabyte(round)).status, 202);
        }
        if is_in_tables {
            wait_until("there is a table", || tables(&engine) > 0);
        } else {
            assert_eq!(tables(&engine), 0);
        }
        engine.kill();
    }
}

/// Least memory for what is not in tables yet, so that it fills quickly.
const SMALL_BUFFERS: [&str; 2] = ["--database-memory", "32MiB"];

#[test]
fn idle_connections_take_no_file_that_the_database_needs() {
    let mut engine = Engine::start_limited("ulimit -n 1024", &SMALL_BUFFERS);
    let client = Client::new();
    assert_eq!(client.post(&engine, &megabyte(0)).0, 202);
    let idle = idle_connections(&engine, 1_060);
    // Enough for several flushes of the log and of the store.
    for round in 1..16 {
        let (status, text) = client.post(&engine, &megabyte(round));
        assert_eq!(status, 202, "{text}");
    }
    drop(idle);
    wait_until("it is ready", || engine.get("/readyz").status == 200);
    assert_eq!(client.post(&engine, &megabyte(16)).0, 202);
    let count = |engine: &Engine| -> Value {
        engine.wait_for("w", "ready");
        engine.get("/api/v1/workspaces/w/entities").json()["counts"]["resource"].clone()
    };
    wait_until("all is applied", || count(&engine) == 17_000);
    assert_eq!(engine.get("/livez").status, 200);
    engine.kill();
    engine.restart();
    wait_until("all is applied", || count(&engine) == 17_000);
}

#[test]
fn the_limit_of_open_files_is_raised_at_the_start() {
    let engine = Engine::start_limited("ulimit -Sn 256 && ulimit -Hn 4096", &[]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", engine.pid())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let numbers: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["4096", "4096"]);
    let idle = idle_connections(&engine, 400);
    assert_eq!(engine.get("/readyz").status, 200);
    let open = fs::read_dir(format!("/proc/{}/fd", engine.pid()))
        .unwrap()
        .count();
    assert!(open > 400, "{open}");
    drop(idle);
}

#[test]
fn a_database_that_has_given_up_is_not_alive_and_a_restart_mends_it() {
    let mut engine = Engine::start(&SMALL_BUFFERS);
    let client = Client::new();
    assert_eq!(client.post(&engine, &events("w", 0, 1)).0, 202);
    assert_eq!(client.get(&engine, "/livez").0, 200);
    let limit = Rlimit {
        current: Some(4),
        maximum: Some(4),
    };
    let pid = Pid::from_raw(i32::try_from(engine.pid()).unwrap());
    prlimit(pid, Resource::Nofile, limit).unwrap();
    // A flush that cannot open its file makes the database fail.
    let mut accepted = 0;
    wait_until("it is not alive", || {
        if accepted < 30 && client.post(&engine, &megabyte(accepted)).0 == 202 {
            accepted += 1;
        }
        client.get(&engine, "/livez").0 == 503
    });
    let (_, text) = client.get(&engine, "/livez");
    assert!(text.contains("[-]log failed:"), "{text}");
    assert!(text.contains("start the engine again"), "{text}");
    engine.kill();
    engine.restart();
    assert_eq!(engine.get("/livez").status, 200);
    assert_eq!(engine.post_events(&events("w", 1, 2)).status, 202);
    engine.wait_for("w", "ready");
    let expected = accepted * 1_000;
    wait_until("what was acknowledged is there", || {
        let summary = engine.get("/api/v1/workspaces/w/entities").json();
        summary["counts"]["resource"].as_u64() >= Some(expected)
    });
}

/// Resident memory of the engine in bytes.
fn resident_bytes(engine: &Engine) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", engine.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes * 1024
}

#[test]
fn reads_of_unknown_workspaces_leave_nothing_in_memory() {
    const READS: u64 = 40_000;
    const BOUND_BYTES: u64 = 10 << 20;
    let long = "x".repeat(200);
    let engine = Engine::start(&["--store", "file"]);
    let client = Client::new();
    let read = |round: u64, reads: u64| {
        for number in 0..reads {
            let path = format!("/api/v1/workspaces/unknown-{round}-{number}-{long}/history");
            assert_eq!(client.get(&engine, &path).0, 404);
        }
    };
    read(0, 5_000);
    let before = resident_bytes(&engine);
    read(1, READS);
    let grown = resident_bytes(&engine).saturating_sub(before);
    // The allocator keeps some freed memory.
    assert!(grown < BOUND_BYTES, "{grown} bytes for {READS} reads");
}

fn post_as(engine: &Engine, producer: &str, sequence: u64) -> Answer {
    engine.post(
        "/api/v1/events",
        &[
            ("content-type", "application/json"),
            ("producer-id", producer),
            ("producer-sequence", &sequence.to_string()),
        ],
        event("w", producer).as_bytes(),
    )
}

#[test]
fn ten_thousand_names_do_not_make_a_repeat_double() {
    const NAMES: u64 = 10_000;
    const SENDERS: u64 = 16;
    let mut engine = Engine::start(&["--partitions", "1"]);
    let first = post_as(&engine, "the-first", 1);
    assert_eq!(first.status, 202, "{first:?}");
    let url = format!("{}/api/v1/events", engine.url);
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let url = &url;
            scope.spawn(move || {
                let Client(agent) = Client::new();
                for number in (sender..NAMES).step_by(16) {
                    let request = agent
                        .post(url)
                        .header("content-type", "application/json")
                        .header("producer-id", format!("name-{number}"))
                        .header("producer-sequence", "1");
                    let mut response = request.send(event("flood", "a")).unwrap();
                    let status = response.status().as_u16();
                    let text = response.body_mut().read_to_string().unwrap();
                    // One of the names is already in use.
                    assert!(status == 202 || status == 503, "{status} {text}");
                }
            });
        }
    });
    for _ in 0..2 {
        let repeated = post_as(&engine, "the-first", 1);
        assert_eq!((repeated.status, &repeated.text), (202, &first.text));
        let one_more = post_as(&engine, "one-more", 1);
        assert_eq!(one_more.status, 503, "{one_more:?}");
        let problem = one_more.json();
        assert_eq!(problem["type"], "/problems/too-many-producers");
        assert_eq!(problem["maximumProducers"], NAMES);
        // Known producers still work, and so do requests without a producer.
        assert_eq!(engine.post_events(&event("w", "unnamed")).status, 202);
        engine.kill();
        engine.restart();
    }
    assert_eq!(post_as(&engine, "the-first", 2).status, 202);
    let count = resources(&engine, "w", 0);
    assert_eq!(count, 2, "the first, and the one without a name");
}
