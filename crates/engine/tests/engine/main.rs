//! The engine over the embedded log and each store: lives of workspaces from the first event to the next start.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and may say where it is"
)]

mod assignments;
mod erasures;
mod faults;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use workspace_engine_core::disk::{DataDir, DataDirSpec};
use workspace_engine_core::event::Event;
use workspace_engine_core::log::{Append, EmbeddedLog, EmbeddedLogConfig, EventLog};
use workspace_engine_core::populate::{BeginEmpty, NdjsonDirectory, Populate};
use workspace_engine_core::store::{Change, FileStore, LsmStore, MemoryStore, Store, StoredEntry};
use workspace_engine_core::{Engine, EngineConfig, Entities, ReadEntities, Rejection, Workspace};
use workspace_lifecycle::{Command, Limits, Offset};
use workspace_status::{ErrorInfo, ErrorKind, Revision, State, WaitOutcome, WorkspaceId};

/// Deadline for anything that must happen, also on a machine that is busy with other work.
const PATIENCE: Duration = Duration::from_mins(2);

struct Service<W: Workspace = Entities> {
    engine: Engine<W>,
    log: Arc<dyn EventLog>,
}

impl<W: Workspace> Service<W> {
    fn start_with(directory: &Path, populate: Arc<dyn Populate>) -> Self {
        let data = data_dir(directory);
        let store = Arc::new(LsmStore::open(&data).unwrap());
        Self::start_on(&data, store, populate)
    }

    fn start_on(data: &DataDir, store: Arc<dyn Store>, populate: Arc<dyn Populate>) -> Self {
        let log: Arc<dyn EventLog> =
            Arc::new(EmbeddedLog::open(data, EmbeddedLogConfig::default()).unwrap());
        let config = EngineConfig {
            limits: Limits {
                save_every: Duration::from_millis(20),
                ..Limits::default()
            },
            ..EngineConfig::default()
        };
        let engine = Engine::builder()
            .config(config)
            .populate(populate)
            .start_on(Arc::clone(&log), store)
            .unwrap();
        Self { engine, log }
    }

    fn start(directory: &Path) -> Self {
        Self::start_with(directory, Arc::new(BeginEmpty))
    }

    fn append(&self, workspace: &str, event_type: &str, data: &str) -> Offset {
        let json = format!(
            r#"{{"eventType":"{event_type}","workspaceId":"{workspace}","timestamp":1,"data":{data}}}"#
        );
        let events = vec![(id(workspace), Bytes::from(json))];
        let answer = self
            .log
            .submit(Append {
                producer: None,
                events,
            })
            .blocking_recv();
        answer.unwrap().unwrap().partitions[0].last_offset
    }

    fn wait_for(&self, workspace: &str, state: State) {
        let outcome = self
            .engine
            .tracker()
            .wait(workspace)
            .until(state)
            .timeout(PATIENCE)
            .blocking();
        assert!(
            matches!(outcome, WaitOutcome::Met(_)),
            "{workspace} is not {state}: {outcome:?}"
        );
    }

    /// Waits until the workspace is parked at an event that it cannot apply.
    fn wait_for_stop(&self, workspace: &str) {
        loop {
            self.wait_for(workspace, State::Error);
            let snapshot = self.engine.tracker().snapshot(workspace).unwrap();
            if snapshot.error().map(ErrorInfo::kind) == Some(ErrorKind::Parked) {
                return;
            }
            let revision = snapshot.revision();
            self.wait_past(workspace, revision);
        }
    }

    /// Waits until a condition holds that no status shows.
    fn eventually(&self, mut is_true: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut watcher = self.engine.tracker().watch();
        while !is_true() {
            assert!(Instant::now() < deadline, "it never came true");
            watcher.next_deadline(Instant::now() + Duration::from_millis(20));
        }
    }

    /// Waits until the workspace has changed since a revision.
    fn wait_past(&self, workspace: &str, revision: Revision) {
        let tracker = self.engine.tracker();
        self.eventually(|| {
            let snapshot = tracker.snapshot(workspace);
            snapshot.is_none_or(|now| now.revision() > revision)
        });
    }

    fn command(&self, workspace: &str, command: Command) -> Result<(), String> {
        block_on(self.engine.command(&id(workspace), command)).map_err(|error| error.to_string())
    }

    fn wait_applied(&self, workspace: &str, offset: Offset) {
        let runtime = runtime();
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, self.engine.wait_applied(&id(workspace), offset))
                .await
                .expect("applied");
        });
    }

    fn stop(self) {
        let report = self.engine.shutdown(Instant::now() + PATIENCE);
        assert_eq!(report.abandoned, 0);
    }
}

impl Service<Sum> {
    fn sum(&self, workspace: &str) -> i64 {
        let loaded = self.engine.workspace(&id(workspace)).expect("in memory");
        loaded.read(|sum, _| sum.0)
    }
}

impl Service {
    fn contents(&self, workspace: &str) -> (u64, BTreeMap<String, String>) {
        let loaded = self.engine.workspace(&id(workspace)).expect("in memory");
        loaded.read(|entities, applied| {
            let kinds: Vec<String> = entities
                .counts()
                .into_iter()
                .map(|(kind, _)| kind.to_owned())
                .collect();
            let mut all = BTreeMap::new();
            for kind in kinds {
                for entity in entities.page(&kind, None, usize::MAX) {
                    let data = String::from_utf8(entity.data.to_vec()).unwrap();
                    all.insert(format!("{kind}/{}", entity.id), data);
                }
            }
            (applied.events_applied, all)
        })
    }
}

fn data_dir(directory: &Path) -> DataDir {
    let spec = DataDirSpec {
        partitions: 3,
        ..DataDirSpec::default()
    };
    DataDir::open(directory, &spec).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

fn id(text: &str) -> WorkspaceId {
    WorkspaceId::new(text).unwrap()
}

#[test]
fn events_become_entities_and_survive_a_restart_with_each_store() {
    check_restart(|data| Arc::new(LsmStore::open(data).unwrap()));
    let files = TempDir::new().unwrap();
    check_restart(|_| Arc::new(FileStore::open(files.path()).unwrap()));
    check_restart(|_| Arc::new(MemoryStore::new()));
}

fn check_restart(open: impl Fn(&DataDir) -> Arc<dyn Store>) {
    let directory = TempDir::new().unwrap();
    let start = || -> (Service, bool) {
        let data = data_dir(directory.path());
        let store = open(&data);
        let is_durable = store.is_durable();
        (
            Service::start_on(&data, store, Arc::new(BeginEmpty)),
            is_durable,
        )
    };
    let (service, _) = start();
    for n in 0..100 {
        for workspace in ["a", "b", "c", "d"] {
            service.append(
                workspace,
                "resource.created",
                &format!(r#"{{"id":"r{}","n":{n}}}"#, n % 7),
            );
        }
    }
    let last = service.append("a", "resource.deleted", r#"{"id":"r0"}"#);
    service.wait_for("a", State::Ready);
    service.wait_applied("a", last);
    let before: Vec<_> = ["a", "b", "c", "d"]
        .into_iter()
        .map(|workspace| {
            service.wait_for(workspace, State::Ready);
            service.wait_applied(workspace, Offset(0));
            service
                .engine
                .tracker()
                .snapshot(workspace)
                .unwrap()
                .epoch()
        })
        .collect();
    service.stop();

    let (service, is_durable) = start();
    for (workspace, epoch) in ["a", "b", "c", "d"].into_iter().zip(before) {
        service.wait_for(workspace, State::Ready);
        let (events, entities) = service.contents(workspace);
        let deleted = usize::from(workspace == "a");
        assert_eq!(
            (events, entities.len()),
            (100 + deleted as u64, 7 - deleted),
            "{workspace}"
        );
        assert_eq!(entities["resource/r1"], r#"{"id":"r1","n":99}"#);
        let snapshot = service.engine.tracker().snapshot(workspace).unwrap();
        assert_eq!(snapshot.epoch() > epoch, is_durable, "{workspace}");
    }
    service.stop();
}

#[test]
fn a_poison_event_parks_its_workspace_alone_until_it_is_skipped() {
    let directory = TempDir::new().unwrap();
    let service: Service = Service::start(directory.path());
    service.append("good", "resource.created", r#"{"id":"x"}"#);
    service.append("bad", "resource.created", r#"{"id":"x"}"#);
    let poison = service.append("bad", "resource.exploded", r#"{"id":"x"}"#);
    let after = service.append("bad", "resource.created", r#"{"id":"y"}"#);
    service.wait_for("bad", State::Error);
    service.wait_for("good", State::Ready);
    let snapshot = service.engine.tracker().snapshot("bad").unwrap();
    let reason = snapshot.error_message().unwrap();
    assert!(
        reason.contains(&format!("offset {poison} key bad")),
        "{reason}"
    );
    assert_eq!(service.contents("bad").0, 1);
    assert_eq!(
        service.command("good", Command::Skip).unwrap_err(),
        "the workspace is not stopped at an event that it cannot apply"
    );

    service.command("bad", Command::Skip).unwrap();
    service.wait_for("bad", State::Ready);
    service.wait_applied("bad", after);
    let (events, entities) = service.contents("bad");
    assert_eq!((events, entities.len()), (2, 2));
    let dead_letters = service
        .log
        .dead_letters(Some(&id("bad")), None, 10)
        .unwrap();
    assert_eq!(
        dead_letters
            .iter()
            .map(|dead_letter| dead_letter.offset)
            .collect::<Vec<_>>(),
        [poison]
    );
    assert!(String::from_utf8_lossy(dead_letters[0].value.as_ref().unwrap()).contains("exploded"));
    service.stop();

    let service: Service = Service::start(directory.path());
    service.wait_for("bad", State::Ready);
    assert_eq!(service.contents("bad").0, 2);
    service.stop();
}

#[test]
fn an_unloaded_workspace_comes_back_when_it_is_asked_for_and_has_missed_nothing() {
    let directory = TempDir::new().unwrap();
    let service: Service = Service::start(directory.path());
    service.append("a", "resource.created", r#"{"id":"x"}"#);
    service.wait_for("a", State::Ready);
    service.command("a", Command::Unload).unwrap();
    assert!(service.engine.workspace(&id("a")).is_none());
    assert!(service.engine.tracker().get("a").is_none());
    service.append("a", "resource.created", r#"{"id":"y"}"#);
    service.stop();

    let service: Service = Service::start(directory.path());
    assert_eq!(
        service.command("nobody", Command::Load).unwrap_err(),
        "no such workspace"
    );
    assert!(
        service.engine.tracker().get("a").is_none(),
        "it stays out of memory"
    );
    service.command("a", Command::Load).unwrap();
    service.wait_for("a", State::Ready);
    assert_eq!(service.contents("a").0, 2);
    service.stop();
}

#[test]
fn the_history_of_a_workspace_holds_every_transition_with_its_epoch() {
    let directory = TempDir::new().unwrap();
    for epoch in 1..=3 {
        let service: Service = Service::start(directory.path());
        if epoch == 1 {
            service.append("a", "resource.created", r#"{"id":"x"}"#);
        }
        service.wait_for("a", State::Ready);
        service.stop();
    }
    let service: Service = Service::start(directory.path());
    service.wait_for("a", State::Ready);
    let history = service.engine.history(&id("a"), None, 1000).unwrap();
    for epoch in 1..=3 {
        let states: Vec<_> = history
            .iter()
            .filter(|record| record.epoch.get() == epoch)
            .map(|record| record.to.as_str())
            .collect();
        let loading = if epoch == 1 {
            "populating_initial_state"
        } else {
            "restoring_from_snapshot"
        };
        assert_eq!(
            states,
            [
                "loading_kafka_partitions",
                "loading_from_persistence",
                loading,
                "replaying_events",
                "ready",
                "unloading"
            ],
            "epoch {epoch}"
        );
    }
    service.stop();
}

#[test]
fn the_last_transition_of_a_workspace_that_is_unloaded_is_in_its_history() {
    let directory = TempDir::new().unwrap();
    let service: Service = Service::start(directory.path());
    service.append("a", "resource.created", r#"{"id":"x"}"#);
    for _ in 0..5 {
        service.wait_for("a", State::Ready);
        service.command("a", Command::Unload).unwrap();
        service.command("a", Command::Load).unwrap();
    }
    service.wait_for("a", State::Ready);
    let engine = service.engine.clone();
    service.stop();
    let history = engine.history(&id("a"), None, 1000).unwrap();
    let unloaded: Vec<_> = history
        .iter()
        .filter(|record| record.to == State::Unloading)
        .map(|record| record.epoch.get())
        .collect();
    assert_eq!(unloaded, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_workspace_that_the_store_does_not_know_is_populated_once() {
    let source = TempDir::new().unwrap();
    std::fs::write(
        source.path().join("a.ndjson"),
        "{\"type\":\"resource\",\"id\":\"p\",\"data\":{\"id\":\"p\"}}\n",
    )
    .unwrap();
    let directory = TempDir::new().unwrap();
    let populate = Arc::new(NdjsonDirectory::new(source.path()));
    let service: Service = Service::start_with(directory.path(), populate);
    service.append("a", "resource.created", r#"{"id":"x"}"#);
    service.wait_for("a", State::Ready);
    service.stop();

    std::fs::remove_file(source.path().join("a.ndjson")).unwrap();
    let service: Service = Service::start(directory.path());
    service.wait_for("a", State::Ready);
    let (events, entities) = service.contents("a");
    assert_eq!(
        (
            events,
            entities.keys().map(String::as_str).collect::<Vec<_>>()
        ),
        (1, vec!["resource/p", "resource/x"])
    );
    service.stop();
}

/// Sums numbers; panics at 13, after adding it, and refuses 7.
struct Sum(i64);

static SUMS_MADE: AtomicUsize = AtomicUsize::new(0);

impl Workspace for Sum {
    fn new(_: &WorkspaceId) -> Self {
        SUMS_MADE.fetch_add(1, Ordering::Relaxed);
        Self(0)
    }

    fn restore(&mut self, entry: StoredEntry) -> Result<(), Rejection> {
        let text =
            std::str::from_utf8(&entry.data).map_err(|error| Rejection(error.to_string()))?;
        self.0 = text
            .parse()
            .map_err(|error| Rejection(format!("{text}: {error}")))?;
        Ok(())
    }

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Rejection> {
        let number: i64 = event
            .data()
            .unwrap_or("0")
            .parse()
            .map_err(|_| Rejection("not a number".to_owned()))?;
        match number {
            7 => Err(Rejection("seven is refused".to_owned())),
            13 => {
                self.0 += number;
                panic!("thirteen");
            }
            _ => {
                self.0 += number;
                Ok(())
            }
        }
    }

    fn take_changes(&mut self) -> Vec<Change> {
        let data = Bytes::from(self.0.to_string());
        vec![Change::Set(StoredEntry {
            kind: "sum".into(),
            id: "sum".into(),
            data,
            offset: Offset(0),
        })]
    }

    fn entries(&self) -> u64 {
        1
    }
}

#[test]
fn a_workspace_type_of_ones_own_is_kept_and_its_panic_parks_one_workspace() {
    let directory = TempDir::new().unwrap();
    let service: Service<Sum> = Service::start(directory.path());
    for number in ["1", "2", "3"] {
        service.append("sum", "number", number);
    }
    service.append("panics", "number", "5");
    service.append("panics", "number", "13");
    service.append("refuses", "number", "7");
    for (workspace, text) in [
        ("panics", "applying it panicked: thirteen"),
        ("refuses", "seven is refused"),
    ] {
        service.wait_for_stop(workspace);
        let snapshot = service.engine.tracker().snapshot(workspace).unwrap();
        assert!(
            snapshot.error_message().unwrap().ends_with(text),
            "{:?}",
            snapshot.error_message()
        );
    }
    service.wait_for("sum", State::Ready);
    assert_eq!(service.sum("panics"), 5, "half an event is none");
    service.command("panics", Command::Skip).unwrap();
    service.append("panics", "number", "1");
    service.stop();
    let service: Service<Sum> = Service::start(directory.path());
    for (workspace, sum) in [("sum", 6), ("panics", 6)] {
        service.wait_for(workspace, State::Ready);
        assert_eq!(service.sum(workspace), sum, "{workspace}");
    }
    service.stop();
}

#[test]
fn two_requests_for_the_same_cold_workspace_load_it_once() {
    let directory = TempDir::new().unwrap();
    let service: Service = Service::start(directory.path());
    service.append("a", "resource.created", r#"{"id":"x"}"#);
    service.wait_for("a", State::Ready);
    service.command("a", Command::Unload).unwrap();
    let loads = service.engine.counters().loads.get();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| service.command("a", Command::Load).unwrap());
        }
    });
    service.wait_for("a", State::Ready);
    assert_eq!(service.engine.counters().loads.get(), loads + 1);
    service.stop();
}
