//! What the engine does when the store, the populator or a workspace type fails.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tempfile::TempDir;
use workspace_engine_core::disk::DataDir;
use workspace_engine_core::log::{EmbeddedLog, EmbeddedLogConfig, EventLog, RetentionConfig};
use workspace_engine_core::populate::{BeginEmpty, Populate, PopulateError};
use workspace_engine_core::routing::partition_of;
use workspace_engine_core::store::conformance::HeldUp;
use workspace_engine_core::store::{
    Claim, Deletion, EntrySink, Erase, HistoryCursor, HistoryRecord, LsmStore, MemoryStore,
    Ownership, Save, SaveRefused, Store, StoreError, StoredWorkspace,
};
use workspace_engine_core::{Engine, EngineConfig, Entities};
use workspace_lifecycle::{AdmissionLimits, Command, Limits, Offset, PartitionId};
use workspace_status::{ErrorInfo, ErrorKind, State, WorkspaceId};

use super::{PATIENCE, Service, data_dir, id};

/// A store whose saves and claims fail, panic or hang as the test demands.
struct FaultyStore {
    inner: LsmStore,
    refuses: Mutex<HashMap<WorkspaceId, StoreError>>,
    ownership: HeldUp,
    fails: AtomicBool,
    panics: AtomicBool,
    /// Saves wait while it is held.
    saves_hang: Mutex<()>,
    /// Claims of workspaces whose names begin with `hangs` wait while it is held.
    claims_hang: Mutex<()>,
}

impl FaultyStore {
    fn open(data: &DataDir) -> Arc<Self> {
        Arc::new(Self {
            inner: LsmStore::open(data).unwrap(),
            refuses: Mutex::default(),
            ownership: HeldUp::default(),
            fails: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            saves_hang: Mutex::default(),
            claims_hang: Mutex::default(),
        })
    }
}

impl Store for FaultyStore {
    fn is_durable(&self) -> bool {
        self.inner.is_durable()
    }

    fn ownership(&self) -> &dyn Ownership {
        &self.ownership
    }

    fn workspaces(&self, partition: PartitionId) -> Result<Vec<StoredWorkspace>, StoreError> {
        self.inner.workspaces(partition)
    }

    fn workspace(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        self.inner.workspace(id)
    }

    fn committed(&self, partition: PartitionId) -> Result<Offset, StoreError> {
        self.inner.committed(partition)
    }

    fn claim(&self, claim: Claim) -> Result<StoredWorkspace, StoreError> {
        if claim.id.as_str().starts_with("hangs") {
            drop(self.claims_hang.lock());
        }
        self.inner.claim(claim)
    }

    fn load(&self, id: &WorkspaceId, sink: EntrySink<'_>) -> Result<StoredWorkspace, StoreError> {
        self.inner.load(id, sink)
    }

    fn save(
        &self,
        saves: &[Save],
        committed: &[(PartitionId, Offset)],
    ) -> Result<Vec<SaveRefused>, StoreError> {
        drop(self.saves_hang.lock());
        assert!(!self.panics.swap(false, Ordering::Relaxed), "on purpose");
        if self.fails.load(Ordering::Relaxed) {
            return Err(StoreError::NoSpace("on purpose".to_owned()));
        }
        let refuses = self.refuses.lock().clone();
        let (refused, taken): (Vec<_>, Vec<_>) = saves
            .iter()
            .cloned()
            .partition(|save| refuses.contains_key(&save.id));
        let mut all = self.inner.save(&taken, committed)?;
        all.extend(refused.into_iter().map(|save| SaveRefused {
            error: refuses[&save.id].clone(),
            epoch: save.epoch,
            id: save.id,
        }));
        Ok(all)
    }

    fn reset(&self, erase: Erase) -> Result<StoredWorkspace, StoreError> {
        self.inner.reset(erase)
    }

    fn delete(&self, erase: Erase) -> Result<Deletion, StoreError> {
        self.inner.delete(erase)
    }

    fn deletions(&self, partition: PartitionId) -> Result<Vec<Deletion>, StoreError> {
        self.inner.deletions(partition)
    }

    fn purge(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        self.inner.purge(id)
    }

    fn append_history(&self, records: Vec<HistoryRecord>) -> Result<(), StoreError> {
        self.inner.append_history(records)
    }

    fn history(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        self.inner.history(id, after, limit)
    }

    fn needs_restart(&self) -> Option<String> {
        self.inner.needs_restart()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }
}

fn start(directory: &Path) -> (Service, Arc<FaultyStore>) {
    let data = data_dir(directory);
    let store = FaultyStore::open(&data);
    let service = Service::start_on(
        &data,
        Arc::clone(&store) as Arc<dyn Store>,
        Arc::new(BeginEmpty),
    );
    (service, store)
}

/// Waits until the store holds a workspace beyond an offset.
fn wait_saved(service: &Service, store: &FaultyStore, workspace: &str, offset: Offset) {
    service.eventually(|| {
        let stored = store.workspace(&id(workspace)).unwrap();
        stored.is_some_and(|stored| stored.next_offset > offset)
    });
}

#[test]
fn a_workspace_that_cannot_be_saved_is_parked_and_the_others_are_saved() {
    let directory = TempDir::new().unwrap();
    let (service, store) = start(directory.path());
    service.append("bad", "resource.created", r#"{"id":"x"}"#);
    service.wait_for("bad", State::Ready);
    let damage = StoreError::Corrupt {
        place: "its file".to_owned(),
        reason: "on purpose".to_owned(),
    };
    store.refuses.lock().insert(id("bad"), damage);
    service.append("bad", "resource.created", r#"{"id":"y"}"#);
    service.wait_for_stop("bad");
    let snapshot = service.engine.tracker().snapshot("bad").unwrap();
    assert_eq!(
        snapshot.error_message(),
        Some("it cannot be saved: its file is damaged: on purpose")
    );
    let last = service.append("good", "resource.created", r#"{"id":"x"}"#);
    wait_saved(&service, &store, "good", last);

    store.refuses.lock().clear();
    service.command("bad", Command::Load).unwrap();
    service.wait_for("bad", State::Ready);
    assert_eq!(service.contents("bad").1.len(), 2, "nothing is lost");
    service.stop();
}

#[test]
fn a_partition_whose_saves_cannot_be_taken_holds_up_no_other() {
    let directory = TempDir::new().unwrap();
    let (service, store) = start(directory.path());
    let first = service.append("a", "resource.created", r#"{"id":"x"}"#);
    wait_saved(&service, &store, "a", first);
    let held_up = store.workspace(&id("a")).unwrap().unwrap().partition;
    let elsewhere = (0..100)
        .map(|number| format!("b{number}"))
        .find(|text| partition_of(&id(text), 3) != held_up)
        .unwrap();
    *store.ownership.0.lock() = Some(held_up);
    let last = service.append("a", "resource.created", r#"{"id":"y"}"#);
    service.eventually(|| service.engine.counters().save_failures.get() > 0);
    let of_other = service.append(&elsewhere, "resource.created", r#"{"id":"x"}"#);
    wait_saved(&service, &store, &elsewhere, of_other);
    let saved = store.workspace(&id("a")).unwrap().unwrap().next_offset;
    assert_eq!(saved, Offset(first.0 + 1), "it still waits");

    *store.ownership.0.lock() = None;
    wait_saved(&service, &store, "a", last);
    service.stop();
}

#[test]
fn what_a_full_disk_or_a_panic_keeps_from_being_saved_is_saved_later() {
    let directory = TempDir::new().unwrap();
    let (service, store) = start(directory.path());
    store.fails.store(true, Ordering::Relaxed);
    service.append("a", "resource.created", r#"{"id":"x"}"#);
    service.wait_for("a", State::Ready);
    service.eventually(|| service.engine.counters().save_failures.get() > 0);
    service.append("a", "resource.created", r#"{"id":"y"}"#);
    store.panics.store(true, Ordering::Relaxed);
    store.fails.store(false, Ordering::Relaxed);
    let last = service.append("a", "resource.created", r#"{"id":"z"}"#);
    wait_saved(&service, &store, "a", last);
    service.stop();
    drop(store);

    let (service, _store) = start(directory.path());
    service.wait_for("a", State::Ready);
    let (events, entities) = service.contents("a");
    assert_eq!((events, entities.len()), (3, 3));
    assert_eq!(
        service.engine.counters().events_applied.get(),
        0,
        "all of it was saved"
    );
    service.stop();
}

/// Panics for one workspace.
struct Panics;

impl Populate for Panics {
    fn populate(&self, id: &WorkspaceId, _: EntrySink<'_>) -> Result<(), PopulateError> {
        assert_ne!(id.as_str(), "bad", "on purpose");
        Ok(())
    }
}

#[test]
fn a_panic_while_loading_parks_one_workspace_and_gives_its_permit_back() {
    let directory = TempDir::new().unwrap();
    let data = data_dir(directory.path());
    let log: Arc<dyn EventLog> =
        Arc::new(EmbeddedLog::open(&data, EmbeddedLogConfig::default()).unwrap());
    let config = EngineConfig {
        admission: AdmissionLimits {
            permits: 1,
            ..AdmissionLimits::default()
        },
        ..EngineConfig::default()
    };
    let engine = Engine::builder()
        .config(config)
        .populate(Arc::new(Panics))
        .start_on(Arc::clone(&log), Arc::new(MemoryStore::new()))
        .unwrap();
    let service: Service = Service { engine, log };
    service.append("bad", "resource.created", r#"{"id":"x"}"#);
    service.wait_for_stop("bad");
    for workspace in ["a", "b", "c"] {
        service.append(workspace, "resource.created", r#"{"id":"x"}"#);
        service.wait_for(workspace, State::Ready);
    }
    service.stop();
}

#[test]
fn a_store_that_misses_what_the_log_has_forgotten_is_refused() {
    let directory = TempDir::new().unwrap();
    let data = data_dir(directory.path());
    let config = EmbeddedLogConfig {
        retention: RetentionConfig {
            partition_bytes: Some(0),
            age: None,
        },
        ..EmbeddedLogConfig::default()
    };
    let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(&data, config).unwrap());
    let start =
        |store: Arc<dyn Store>| Engine::<Entities>::builder().start_on(Arc::clone(&log), store);
    let store: Arc<dyn Store> = Arc::new(LsmStore::open(&data).unwrap());
    let service: Service = Service {
        engine: start(Arc::clone(&store)).unwrap(),
        log: Arc::clone(&log),
    };
    let mut last = Offset(0);
    for _ in 0..10 {
        last = service.append("a", "resource.created", r#"{"id":"x"}"#);
    }
    service.wait_for("a", State::Ready);
    service.wait_applied("a", last);
    service.stop();
    let partition = partition_of(&id("a"), 3);
    log.trim(partition, last).unwrap();
    let refused = start(Arc::new(MemoryStore::new()))
        .err()
        .unwrap()
        .to_string();
    assert!(
        refused.contains("begins at offset 9, but the store holds it only up to offset 0"),
        "{refused}"
    );
    start(store)
        .unwrap()
        .shutdown(std::time::Instant::now() + super::PATIENCE);
}

/// Hangs for workspaces whose names begin with `hangs`, until it is released.
#[derive(Default)]
struct Hangs {
    goes_on: Mutex<bool>,
    changed: parking_lot::Condvar,
}

impl Hangs {
    fn go_on(&self) {
        *self.goes_on.lock() = true;
        self.changed.notify_all();
    }
}

impl Populate for Hangs {
    fn populate(&self, id: &WorkspaceId, _: EntrySink<'_>) -> Result<(), PopulateError> {
        let mut goes_on = self.goes_on.lock();
        while id.as_str().starts_with("hangs") && !*goes_on {
            self.changed.wait(&mut goes_on);
        }
        Ok(())
    }
}

#[test]
fn loads_that_hang_give_their_places_to_the_next() {
    let directory = TempDir::new().unwrap();
    let data = data_dir(directory.path());
    let store = FaultyStore::open(&data);
    let log: Arc<dyn EventLog> =
        Arc::new(EmbeddedLog::open(&data, EmbeddedLogConfig::default()).unwrap());
    let config = EngineConfig {
        load_timeout: Duration::from_millis(300),
        ..EngineConfig::default()
    };
    let permits = config.admission.permits;
    let engine = Engine::builder()
        .config(config)
        .start_on(Arc::clone(&log), Arc::clone(&store) as Arc<dyn Store>)
        .unwrap();
    let service: Service = Service { engine, log };
    let hung: Vec<String> = (0..=permits)
        .map(|number| format!("hangs-{number}"))
        .collect();
    let hangs = store.claims_hang.lock();
    for workspace in &hung {
        service.append(workspace, "resource.created", r#"{"id":"x"}"#);
    }
    for workspace in &hung {
        service.wait_for(workspace, State::Error);
        let snapshot = service.engine.tracker().snapshot(workspace).unwrap();
        let kind = snapshot.error().map(ErrorInfo::kind);
        assert!(matches!(kind, Some(ErrorKind::Retrying { .. })), "{kind:?}");
        let reason = snapshot.error_message().unwrap();
        let expected =
            "the load made no progress for 0.3 s while its epoch was claimed in the store";
        let again = "an earlier load of it still hangs";
        assert!(
            reason.starts_with(expected) || reason.starts_with(again),
            "{reason}"
        );
    }
    for workspace in ["a", "b", "c"] {
        service.append(workspace, "resource.created", r#"{"id":"x"}"#);
        service.wait_for(workspace, State::Ready);
    }
    assert_eq!(service.engine.hung_loads(), hung.len(), "one thread each");

    // The late claims block no later load.
    drop(hangs);
    for workspace in &hung {
        service.wait_for(workspace, State::Ready);
        assert_eq!(service.contents(workspace).0, 1);
    }
    service.eventually(|| service.engine.hung_loads() == 0);
    service.stop();
}

#[test]
fn an_engine_whose_loads_hang_stops_in_time() {
    let directory = TempDir::new().unwrap();
    let data = data_dir(directory.path());
    let log: Arc<dyn EventLog> =
        Arc::new(EmbeddedLog::open(&data, EmbeddedLogConfig::default()).unwrap());
    let config = EngineConfig {
        load_timeout: Duration::from_millis(100),
        ..EngineConfig::default()
    };
    let populate = Arc::new(Hangs::default());
    let engine = Engine::builder()
        .config(config)
        .populate(Arc::clone(&populate) as Arc<dyn Populate>)
        .start_on(Arc::clone(&log), Arc::new(MemoryStore::new()))
        .unwrap();
    let service: Service = Service { engine, log };
    service.append("hangs", "resource.created", r#"{"id":"x"}"#);
    service.wait_for("hangs", State::Error);
    let began = Instant::now();
    let report = service.engine.shutdown(began + 4 * PATIENCE);
    assert_eq!(report.abandoned, 0);
    assert!(
        began.elapsed() < 2 * PATIENCE,
        "it did not wait for the hung load"
    );
    populate.go_on();
}

#[test]
fn a_command_is_answered_in_time_where_the_store_hangs_and_may_still_take_effect() {
    let directory = TempDir::new().unwrap();
    let data = data_dir(directory.path());
    let store = FaultyStore::open(&data);
    let log: Arc<dyn EventLog> =
        Arc::new(EmbeddedLog::open(&data, EmbeddedLogConfig::default()).unwrap());
    let config = EngineConfig {
        command_timeout: Duration::from_millis(300),
        ..EngineConfig::default()
    };
    let engine = Engine::builder()
        .config(config)
        .start_on(Arc::clone(&log), Arc::clone(&store) as Arc<dyn Store>)
        .unwrap();
    let service: Service = Service { engine, log };
    service.append("a", "resource.created", r#"{"id":"x"}"#);
    service.wait_for("a", State::Ready);
    let hangs = store.saves_hang.lock();
    let refused = service.command("a", Command::Unload).unwrap_err();
    assert!(refused.starts_with("no answer within 0.3s: "), "{refused}");
    assert!(refused.ends_with("may still take effect"), "{refused}");
    drop(hangs);
    service.eventually(|| service.engine.tracker().get("a").is_none());
    service.stop();
}

#[test]
fn retention_is_not_held_back_by_a_workspace_that_is_unloaded_and_has_no_events() {
    let directory = TempDir::new().unwrap();
    let data = data_dir(directory.path());
    let config = EmbeddedLogConfig {
        retention: RetentionConfig {
            partition_bytes: Some(0),
            age: None,
        },
        ..EmbeddedLogConfig::default()
    };
    let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(&data, config).unwrap());
    let store: Arc<dyn Store> = Arc::new(LsmStore::open(&data).unwrap());
    let config = || EngineConfig {
        limits: Limits {
            save_every: Duration::from_millis(20),
            stale_after: Duration::from_millis(50),
            ..Limits::default()
        },
        trim_every: Duration::from_millis(50),
        ..EngineConfig::default()
    };
    let start = || {
        let engine = Engine::<Entities>::builder()
            .config(config())
            .start_on(Arc::clone(&log), Arc::clone(&store));
        Service {
            engine: engine.unwrap(),
            log: Arc::clone(&log),
        }
    };
    let service = start();
    let partition = partition_of(&id("idle"), 3);
    let busy = (0..100)
        .map(|number| format!("busy{number}"))
        .find(|text| partition_of(&id(text), 3) == partition)
        .unwrap();
    service.append("idle", "resource.created", r#"{"id":"x"}"#);
    service.wait_for("idle", State::Ready);
    service.command("idle", Command::Unload).unwrap();
    let mut last = Offset(0);
    for _ in 0..20 {
        last = service.append(&busy, "resource.created", r#"{"id":"x"}"#);
    }
    // Retention keeps the last event.
    service.eventually(|| service.log.low_watermark(partition) == last);
    service.stop();

    // The same after a restart, when the workspace is not in memory.
    let service = start();
    for _ in 0..20 {
        last = service.append(&busy, "resource.created", r#"{"id":"x"}"#);
    }
    service.eventually(|| service.log.low_watermark(partition) == last);
    let held_by = |service: &Service| {
        let reports = service.engine.partitions();
        let report = reports.iter().find(|report| report.partition == partition);
        report.unwrap().held_by.clone()
    };

    // An event of the workspace itself holds the log back and is reported.
    let own = service.append("idle", "resource.created", r#"{"id":"y"}"#);
    for _ in 0..20 {
        service.append(&busy, "resource.created", r#"{"id":"x"}"#);
    }
    service.eventually(|| {
        held_by(&service)
            .is_some_and(|held| held.workspace_id.as_str() == "idle" && held.offset == own)
            && service.log.low_watermark(partition) == own
    });
    service.command("idle", Command::Load).unwrap();
    service.wait_for("idle", State::Ready);
    assert_eq!(service.contents("idle").0, 2, "nothing of it is lost");
    service.stop();
}
