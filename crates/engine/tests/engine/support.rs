//! An engine over a data directory, and what the tests do with it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use workspace_engine_core::disk::{DataDir, DataDirSpec};
use workspace_engine_core::log::{
    Append, EmbeddedLog, EmbeddedLogConfig, EventLog, RetentionConfig,
};
use workspace_engine_core::populate::{BeginEmpty, Populate};
use workspace_engine_core::routing::partition_of;
use workspace_engine_core::store::{LsmStore, Store};
use workspace_engine_core::{
    Engine, EngineBuilder, EngineConfig, Entities, ReadEntities, Workspace,
};
use workspace_lifecycle::{Command, Limits, Offset, PartitionId};
use workspace_status::{ErrorInfo, ErrorKind, Revision, Snapshot, State, WaitOutcome, WorkspaceId};

/// Deadline for anything that must happen, also on a machine that is busy with other work.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// What an engine is started with.
pub(crate) struct Setup {
    pub(crate) config: EngineConfig,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) populate: Arc<dyn Populate>,
}

impl Setup {
    /// The embedded log and the LSM store in a directory.
    pub(crate) fn new(directory: &Path) -> Self {
        let data = data_dir(directory);
        let store = Arc::new(LsmStore::open(&data).unwrap());
        Self::on(&data, EmbeddedLogConfig::default(), store)
    }

    /// A log that keeps one event of each partition when it is trimmed.
    pub(crate) fn without_retention(directory: &Path) -> Self {
        let retention = RetentionConfig {
            partition_bytes: Some(0),
            age: None,
        };
        let config = EmbeddedLogConfig {
            retention,
            ..EmbeddedLogConfig::default()
        };
        let data = data_dir(directory);
        let store = Arc::new(LsmStore::open(&data).unwrap());
        Self::on(&data, config, store)
    }

    pub(crate) fn on(data: &DataDir, log: EmbeddedLogConfig, store: Arc<dyn Store>) -> Self {
        Self {
            config: EngineConfig {
                limits: Limits {
                    save_every: Duration::from_millis(20),
                    ..Limits::default()
                },
                ..EngineConfig::default()
            },
            log: Arc::new(EmbeddedLog::open(data, log).unwrap()),
            store,
            populate: Arc::new(BeginEmpty),
        }
    }

    /// Starts with every partition.
    pub(crate) fn start<W: Workspace>(&self) -> Service<W> {
        let engine = self
            .builder()
            .start_on(Arc::clone(&self.log), Arc::clone(&self.store));
        self.service(engine.unwrap())
    }

    pub(crate) fn start_unassigned<W: Workspace>(&self) -> Service<W> {
        let builder = self.builder();
        let engine = builder.start_unassigned(Arc::clone(&self.log), Arc::clone(&self.store));
        self.service(engine.unwrap())
    }

    pub(crate) fn builder<W: Workspace>(&self) -> EngineBuilder<W> {
        Engine::builder()
            .config(self.config.clone())
            .populate(Arc::clone(&self.populate))
    }

    fn service<W: Workspace>(&self, engine: Engine<W>) -> Service<W> {
        Service {
            engine,
            log: Arc::clone(&self.log),
        }
    }
}

/// A running engine and its log.
pub(crate) struct Service<W: Workspace = Entities> {
    pub(crate) engine: Engine<W>,
    pub(crate) log: Arc<dyn EventLog>,
}

impl<W: Workspace> Service<W> {
    pub(crate) fn start(directory: &Path) -> Self {
        Setup::new(directory).start()
    }

    pub(crate) fn append(&self, workspace: &str, event_type: &str, data: &str) -> Offset {
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

    /// Appends the event that creates a resource.
    pub(crate) fn create(&self, workspace: &str, resource: &str) -> Offset {
        let data = format!(r#"{{"id":"{resource}"}}"#);
        self.append(workspace, "resource.created", &data)
    }

    pub(crate) fn snapshot(&self, workspace: &str) -> Snapshot {
        self.engine.tracker().snapshot(workspace).unwrap()
    }

    pub(crate) fn error(&self, workspace: &str) -> String {
        self.snapshot(workspace).error_message().unwrap().to_owned()
    }

    pub(crate) fn wait_for(&self, workspace: &str, state: State) {
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
    pub(crate) fn wait_for_stop(&self, workspace: &str) {
        loop {
            self.wait_for(workspace, State::Error);
            let snapshot = self.snapshot(workspace);
            if snapshot.error().map(ErrorInfo::kind) == Some(ErrorKind::Parked) {
                return;
            }
            let revision = snapshot.revision();
            self.wait_past(workspace, revision);
        }
    }

    /// Waits until a condition holds that no status shows.
    pub(crate) fn eventually(&self, mut is_true: impl FnMut() -> bool) {
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

    pub(crate) fn command(&self, workspace: &str, command: Command) -> Result<(), String> {
        block_on(self.engine.command(&id(workspace), command)).map_err(|error| error.to_string())
    }

    pub(crate) fn wait_applied(&self, workspace: &str, offset: Offset) {
        let runtime = runtime();
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, self.engine.wait_applied(&id(workspace), offset))
                .await
                .expect("applied");
        });
    }

    pub(crate) fn stop(self) {
        let report = self.engine.shutdown(Instant::now() + PATIENCE);
        assert_eq!(report.abandoned, 0);
    }
}

impl Service {
    /// Events applied, and the entities by `type/id`.
    pub(crate) fn contents(&self, workspace: &str) -> (u64, BTreeMap<String, String>) {
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

pub(crate) fn data_dir(directory: &Path) -> DataDir {
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

pub(crate) fn id(text: &str) -> WorkspaceId {
    WorkspaceId::new(text).unwrap()
}

/// A workspace whose partition meets a condition.
pub(crate) fn workspace_where(holds: impl Fn(PartitionId) -> bool) -> String {
    (0..100)
        .map(|number| format!("w{number}"))
        .find(|name| holds(partition(name)))
        .unwrap()
}

pub(crate) fn partition(workspace: &str) -> PartitionId {
    partition_of(&id(workspace), 3)
}
