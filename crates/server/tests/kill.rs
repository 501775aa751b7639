//! An engine that is killed at random moments neither loses nor doubles events.
//!
//! `KILLS` sets how often it is killed while events are sent, and again while it loads (3); `SEED` repeats a run;
//! `STORES` defaults to `lsm,file`; `ENGINE_BINARY` selects another build of the engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and may say where it is"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpSocket;

/// Timeout of each wait, long enough for a busy machine.
const PATIENCE: Duration = Duration::from_mins(5);

fn program() -> Command {
    let built = || env!("CARGO_BIN_EXE_workspace-engine").into();
    Command::new(std::env::var_os("ENGINE_BINARY").unwrap_or_else(built))
}

/// Number of applied events, and the value of every entity by type and id.
type Expected = BTreeMap<String, (u64, BTreeMap<(String, String), Value>)>;

struct Engine {
    directory: PathBuf,
    store: String,
    address: SocketAddr,
    /// Bound but never listening: it keeps the port for this engine between its runs.
    _reserved: TcpSocket,
    child: Option<Child>,
}

impl Engine {
    fn new(directory: &Path, store: &str) -> Self {
        let reserved = TcpSocket::new_v4().unwrap();
        reserved.set_reuseaddr(true).unwrap();
        reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self {
            directory: directory.to_owned(),
            store: store.to_owned(),
            address: reserved.local_addr().unwrap(),
            _reserved: reserved,
            child: None,
        }
    }

    fn start(&mut self) {
        let child = program()
            .args([
                "serve",
                "--listen",
                &self.address.to_string(),
                "--store",
                &self.store,
                "--data-dir",
            ])
            .arg(&self.directory)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.log()).unwrap())
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// What the engine has logged since its last start.
    fn log(&self) -> PathBuf {
        self.directory.with_extension("log")
    }

    fn check_that_it_runs(&mut self) {
        if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
            let log = std::fs::read_to_string(self.log()).unwrap();
            panic!("the engine ended by itself: {status}; its log is {log}");
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let sent = Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        child.wait().unwrap()
    }

    fn get(&mut self, path: &str) -> Option<Value> {
        self.check_that_it_runs();
        let text = ureq::get(format!("http://{}{path}", self.address))
            .call()
            .ok()?
            .body_mut()
            .read_to_string()
            .ok()?;
        serde_json::from_str(&text).ok()
    }

    fn wait_until(&mut self, what: &str, mut reached: impl FnMut(&mut Self) -> bool) {
        let began = Instant::now();
        while !reached(self) {
            assert!(began.elapsed() < PATIENCE, "waited too long until {what}");
            // Polling without a pause would take CPU time from the engine.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_until_it_answers(&mut self) {
        self.wait_until("it answers", |engine| {
            engine.get("/api/v1/workspaces/statuses?limit=1").is_some()
        });
    }

    fn wait_until_all_is_applied(&mut self, expected: &Expected) {
        for (workspace, (events, _)) in expected {
            self.wait_until(
                &format!("{workspace} has applied {events} events"),
                |engine| {
                    let status = engine.get(&format!("/api/v1/workspaces/{workspace}/status"));
                    let state = status.as_ref().and_then(|status| status["state"].as_str());
                    assert_ne!(state, Some("error"), "{status:?}");
                    state == Some("ready")
                        && engine
                            .get(&format!("/api/v1/workspaces/{workspace}/entities"))
                            .is_some_and(|entities| {
                                entities["eventsApplied"].as_u64() >= Some(*events)
                            })
                },
            );
        }
    }

    fn check(&mut self, expected: &Expected) {
        self.wait_until_all_is_applied(expected);
        for (workspace, (events, entities)) in expected {
            let summary = self
                .get(&format!("/api/v1/workspaces/{workspace}/entities"))
                .unwrap();
            assert_eq!(summary["eventsApplied"], *events, "{workspace}");
            let mut found = BTreeMap::new();
            for kind in summary["counts"].as_object().unwrap().keys() {
                let page = self
                    .get(&format!(
                        "/api/v1/workspaces/{workspace}/entities/{kind}?limit=10000"
                    ))
                    .unwrap();
                assert_eq!(page["nextCursor"], Value::Null, "all fit a page");
                for entity in page["entities"].as_array().unwrap() {
                    let id = entity["id"].as_str().unwrap().to_owned();
                    found.insert((kind.clone(), id), entity["data"].clone());
                }
            }
            assert!(found == *entities, "{workspace}: entities differ");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Events of some workspaces as lines, with the expected state.
fn make_events(random: &mut fastrand::Rng, events: usize) -> (String, Expected) {
    let mut lines = String::new();
    let mut expected = Expected::new();
    for n in 0..events {
        let workspace = format!("workspace-{}", random.u32(..12));
        let kind = ["resource", "deployment-version"][random.usize(..2)];
        let id = format!("path/{}", random.u32(..60));
        let verb = ["created", "updated", "updated", "deleted"][random.usize(..4)];
        let data = serde_json::json!({"id": id, "n": n, "text": "ü\"\\"});
        writeln!(
            lines,
            r#"{{"eventType":"{kind}.{verb}","workspaceId":"{workspace}","timestamp":{n},"data":{data}}}"#
        )
        .unwrap();
        let (applied, entities) = expected.entry(workspace).or_default();
        *applied += 1;
        if verb == "deleted" {
            entities.remove(&(kind.to_owned(), id));
        } else {
            entities.insert((kind.to_owned(), id), data);
        }
    }
    (lines, expected)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number"))
    })
}

fn check_kills(store: &str, seed: u64, kills: u64) {
    println!("SEED={seed} KILLS={kills} STORES={store}");
    let mut random = fastrand::Rng::with_seed(seed);
    let directory = tempfile::tempdir().unwrap();
    let (lines, expected) = make_events(&mut random, 6000);
    let file = directory.path().join("events.ndjson");
    std::fs::write(&file, lines).unwrap();

    let mut engine = Engine::new(&directory.path().join("data"), store);
    engine.start();
    engine.wait_until_it_answers();
    let mut produce = None;
    for kill in 0..kills {
        let child: &mut Child = produce.get_or_insert_with(|| {
            // Batches so small that some events are still unsent at the last kill.
            let batch = (6000 / (kills * 8)).clamp(1, 200).to_string();
            program()
                .arg("produce")
                .arg(&file)
                .args(["--url", &format!("http://{}", engine.address)])
                .args(["--batch-events", &batch, "--retry-for", "4m"])
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        });
        // Not a wait for a condition: the kill must hit a random moment of the ingestion.
        std::thread::sleep(Duration::from_millis(random.u64(..150)));
        if child.try_wait().unwrap().is_some() {
            println!("all events were in after {kill} kills");
            break;
        }
        engine.kill();
        engine.start();
        engine.wait_until_it_answers();
    }
    let mut produce = produce.expect("at least one kill");
    let mut produced = None;
    engine.wait_until("all events are sent", |engine| {
        engine.check_that_it_runs();
        produced = produce.try_wait().unwrap();
        produced.is_some()
    });
    let produced = produced.expect("it has ended");
    assert!(
        produced.success(),
        "produce continued over the restarts: {produced}"
    );
    for _ in 0..kills {
        engine.kill();
        engine.start();
        // Here the kill must hit a random moment of opening and loading.
        std::thread::sleep(Duration::from_millis(random.u64(..400)));
    }
    engine.kill();
    engine.start();
    engine.check(&expected);
    assert_eq!(
        engine.terminate().code(),
        Some(0),
        "SIGTERM ends it in order"
    );
    engine.start();
    engine.check(&expected);
}

#[test]
fn an_engine_killed_at_random_moments_loses_nothing_and_doubles_nothing() {
    let seed = number("SEED", fastrand::u64(..1_000_000));
    let kills = number("KILLS", 3).max(1);
    let stores = std::env::var("STORES").unwrap_or_else(|_| "lsm,file".to_owned());
    for store in stores.split(',') {
        check_kills(store, seed, kills);
    }
}
