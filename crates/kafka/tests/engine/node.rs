//! One engine as the server wires it: a member of the group, its log, its store, and its copy on a disk.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tempfile::TempDir;
use workspace_engine_core::disk::{DataDir, DataDirSpec};
use workspace_engine_core::log::DeadLetter;
use workspace_engine_core::store::{LsmStore, Store};
use workspace_engine_core::{Engine, EngineConfig, Entities, ReadEntities};
use workspace_engine_kafka::{
    Assignments, ChangelogStore, Cluster, LocalCopy, MemberReport, prepare,
};
use workspace_lifecycle::{AdmissionLimits, Command, Limits, PartitionId};
use workspace_status::{ErrorInfo, ErrorKind, Snapshot, State, WorkspaceId};

use crate::testing::{PATIENCE, TestTopic, until};

pub(crate) const P0: u32 = 0;

/// Options of an engine's start.
pub(crate) struct Start {
    pub(crate) owner: &'static str,
    pub(crate) permits: usize,
    /// Wraps the store of the cluster.
    pub(crate) store: Wrap,
}

/// Wraps a store in another one.
pub(crate) type Wrap = Arc<dyn Fn(Arc<dyn Store>) -> Arc<dyn Store>>;

impl Default for Start {
    fn default() -> Self {
        Self {
            owner: "one",
            permits: 8,
            store: Arc::new(|store| store),
        }
    }
}

pub(crate) struct Node {
    pub(crate) engine: Engine<Entities>,
    cluster: Arc<Cluster>,
    to_engine: ToEngine,
}

/// Forwards the group's assignments to the engine until that is stopped; otherwise the group would keep the engine and
/// its disk forever.
#[derive(Clone)]
struct ToEngine {
    engine: Arc<Mutex<Option<Engine<Entities>>>>,
    store: Weak<ChangelogStore>,
}

impl ToEngine {
    fn engine(&self) -> Option<Engine<Entities>> {
        self.engine.lock().clone()
    }

    fn store(&self) -> Arc<ChangelogStore> {
        self.store
            .upgrade()
            .expect("it leaves before it is dropped")
    }
}

impl Assignments for ToEngine {
    fn assigned(&self, partitions: &[PartitionId]) {
        let engine = self.engine().expect("it joins before it is stopped");
        self.store().assigned(partitions);
        for partition in partitions {
            engine.assign(*partition).expect("a thread");
        }
    }

    fn revoked(&self, partitions: &[PartitionId], deadline: Instant) {
        let engine = self.engine().expect("it leaves before it is stopped");
        engine.revoke(partitions, deadline);
        self.store().release(partitions);
    }

    fn lost(&self, partitions: &[PartitionId]) {
        let engine = self.engine().expect("it leaves before it is stopped");
        self.store().release(partitions);
        engine.lose(partitions);
    }
}

impl Node {
    pub(crate) fn start(topic: &TestTopic, disk: &TempDir) -> Self {
        Self::start_as(topic, disk, &Start::default())
    }

    pub(crate) fn start_as(topic: &TestTopic, disk: &TempDir, start: &Start) -> Self {
        let partitions = until("topics", || prepare(&topic.config).ok());
        let spec = DataDirSpec {
            partitions,
            partitioner: topic.config.partitioner,
            ..DataDirSpec::default()
        };
        let open = move |path: &Path| LsmStore::open(&DataDir::open(path, &spec)?);
        // An abandoned engine keeps it open for a moment longer.
        let copy = until("a copy", || {
            LocalCopy::open(copy_on(disk), open.clone()).ok()
        });
        let cluster = Cluster::new(&topic.config, partitions, copy, start.owner).expect("clients");
        let config = EngineConfig {
            owner: start.owner.to_owned(),
            group: Some(topic.config.group.clone()),
            admission: AdmissionLimits {
                permits: start.permits,
                ..AdmissionLimits::default()
            },
            limits: Limits {
                save_every: Duration::from_millis(100),
                ..Limits::default()
            },
            ..EngineConfig::default()
        };
        let cluster = Arc::new(cluster);
        let store: Arc<dyn Store> = Arc::clone(&cluster.store) as Arc<dyn Store>;
        let engine = Engine::builder()
            .config(config)
            .start_unassigned(Arc::clone(&cluster.log) as Arc<_>, (start.store)(store))
            .expect("started");
        let to_engine = ToEngine {
            engine: Arc::new(Mutex::new(Some(engine.clone()))),
            store: Arc::downgrade(&cluster.store),
        };
        let joined = cluster.membership.join(to_engine.clone());
        joined.expect("joining");
        Self {
            engine,
            cluster,
            to_engine,
        }
    }

    /// Hands over all partitions and stops, as a server does on a stop signal.
    pub(crate) fn stop(self) {
        let deadline = Instant::now() + PATIENCE;
        self.cluster.membership.leave(deadline);
        let report = self.engine.shutdown(deadline);
        assert_eq!(report.abandoned, 0, "everything is saved in time");
        drop(self.to_engine.engine.lock().take());
    }

    /// Ends without having saved everything.
    pub(crate) fn abandon(self) {
        let deadline = Instant::now() + Duration::from_secs(1);
        self.cluster.membership.leave(deadline);
        self.engine.shutdown(deadline);
        drop(self.to_engine.engine.lock().take());
    }

    /// Why the engine must be restarted; none if it need not be.
    pub(crate) fn needs_restart(&self) -> Option<String> {
        self.cluster.store.needs_restart()
    }

    pub(crate) fn member(&self) -> MemberReport {
        self.cluster.membership.report()
    }

    pub(crate) fn snapshot(&self, workspace: &str) -> Option<Snapshot> {
        self.engine.tracker().snapshot(workspace)
    }

    pub(crate) fn is_ready(&self, workspace: &str) -> bool {
        self.snapshot(workspace).is_some_and(|now| now.is_ready())
    }

    /// How many workspaces are ready here.
    pub(crate) fn ready(&self) -> usize {
        self.engine.tracker().count_by_state()[State::Ready]
    }

    /// How many events it has applied since it was created, and how many entities it has.
    pub(crate) fn contents(&self, workspace: &str) -> Option<(u64, usize)> {
        let loaded = self.engine.workspace(&id(workspace))?;
        Some(loaded.read(|entities, applied| {
            let entities = entities.counts().iter().map(|(_, count)| count).sum();
            (applied.events_applied, entities)
        }))
    }

    /// Waits until it is ready with `events` applied and with so many `entities`.
    pub(crate) fn wait_ready(&self, workspace: &str, events: u64, entities: usize) {
        let deadline = Instant::now() + PATIENCE;
        while !(self.is_ready(workspace) && self.contents(workspace) == Some((events, entities))) {
            assert!(
                Instant::now() < deadline,
                "{workspace} is not ready with {events} events: {:?}, {:?}",
                self.contents(workspace),
                self.snapshot(workspace)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Why it is parked; none if it is not.
    pub(crate) fn parked(&self, workspace: &str) -> Option<String> {
        let now = self.snapshot(workspace)?;
        let is_parked = now.error().map(ErrorInfo::kind) == Some(ErrorKind::Parked);
        is_parked.then(|| now.error_message().expect("an error says why").to_owned())
    }

    /// Waits until it is parked. Returns the reason.
    pub(crate) fn wait_parked(&self, workspace: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(error_text) = self.parked(workspace) {
                println!("{workspace}: {error_text}");
                return error_text;
            }
            assert!(
                Instant::now() < deadline,
                "{workspace} is not parked: {:?}",
                self.snapshot(workspace)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn command(&self, workspace: &str, command: Command) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let id = id(workspace);
        let command = async {
            let answer = self.engine.command(&id, command);
            tokio::time::timeout(PATIENCE, answer).await
        };
        let answer = runtime.block_on(command).expect("an answer in time");
        answer.map_err(|error| error.to_string())
    }

    /// Dead letters of a workspace.
    pub(crate) fn dead_letters(&self, workspace: &str) -> Vec<DeadLetter> {
        let workspace = id(workspace);
        let dead_letters = self.engine.log().dead_letters(Some(&workspace), None, 100);
        dead_letters.expect("dead letters")
    }

    /// How many transitions of a workspace are kept.
    pub(crate) fn history(&self, workspace: &str) -> usize {
        let kept = self.engine.history(&id(workspace), None, 100);
        kept.expect("readable").len()
    }

    /// Waits until partitions are served.
    pub(crate) fn wait_open(&self, partitions: &[u32]) {
        until("partitions are served", || {
            let reports = self.engine.partitions();
            let is_open = |number: &u32| {
                reports
                    .iter()
                    .any(|report| report.partition.0 == *number && report.opening.is_none())
            };
            partitions.iter().all(is_open).then_some(())
        });
    }

    /// The notice about what was missing when a partition was taken over.
    pub(crate) fn notice(&self, partition: u32) -> Option<String> {
        let reports = self.engine.partitions();
        let report = reports
            .into_iter()
            .find(|report| report.partition.0 == partition);
        report.expect("it is assigned").notice
    }

    /// What an assigned partition still waits for.
    pub(crate) fn opening(&self, partition: u32) -> Option<String> {
        self.engine.opening(PartitionId(partition))
    }
}

pub(crate) fn id(text: &str) -> WorkspaceId {
    WorkspaceId::new(text).expect("a valid id")
}

/// Where the copy of the changelog is on a disk.
pub(crate) fn copy_on(disk: &TempDir) -> PathBuf {
    disk.path().join("kafka")
}

pub(crate) fn disk() -> TempDir {
    TempDir::new().expect("a directory")
}
