//! The entry point for a service that embeds the engine: opens log and store, and starts the engine on them.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use workspace_lifecycle::PartitionId;
use workspace_status::Tracker;

use crate::config::{EngineConfig, MAX_PERMITS};
use crate::disk::{DataDir, DataDirSpec};
use crate::engine::Engine;
use crate::entities::Entities;
use crate::log::{EmbeddedLog, EmbeddedLogConfig, EventLog, RetentionConfig};
use crate::populate::{BeginEmpty, Populate};
use crate::start_error::StartError;
use crate::store::{FileStore, LsmStore, MemoryStore, Store};
use crate::workspace::{Workspace, WorkspaceType};

/// Directory of the file store within the data directory.
const FILE_STORE: &str = "workspaces";

/// Where workspaces are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreKind {
    /// The database that also holds the log.
    #[default]
    Lsm,
    /// A directory of readable JSON lines for each workspace.
    File,
    /// Memory only: a restart replays the log from its beginning, and the log is never trimmed.
    Memory,
}

/// Settings of an engine that is not started yet. Only the data directory has no default.
///
/// ```
/// use workspace_engine_core::{Engine, Entities, StoreKind};
///
/// # let data = tempfile::tempdir()?;
/// let engine = Engine::<Entities>::builder()
///     .data_dir(data.path())
///     .partitions(4)
///     .store(StoreKind::File)
///     .start()?;
/// assert_eq!(engine.log().partitions(), 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct EngineBuilder<W: ?Sized = Entities> {
    workspace_type: WorkspaceType,
    data_dir: Option<PathBuf>,
    disk: DataDirSpec,
    store: StoreKind,
    retention: RetentionConfig,
    config: EngineConfig,
    tracker: Tracker,
    populate: Arc<dyn Populate>,
    workspaces: PhantomData<W>,
}

impl<W: Workspace> Engine<W> {
    /// Settings of an engine whose workspaces are of type `W`.
    pub fn builder() -> EngineBuilder<W> {
        EngineBuilder::new(WorkspaceType::of::<W>())
    }
}

impl Engine<dyn Workspace> {
    /// Settings of an engine whose workspace type is a value.
    pub fn builder_of(workspace_type: WorkspaceType) -> EngineBuilder<dyn Workspace> {
        EngineBuilder::new(workspace_type)
    }
}

impl<W: ?Sized> EngineBuilder<W> {
    fn new(workspace_type: WorkspaceType) -> Self {
        Self {
            workspace_type,
            data_dir: None,
            disk: DataDirSpec::default(),
            store: StoreKind::default(),
            retention: RetentionConfig::default(),
            config: EngineConfig::default(),
            tracker: Tracker::new(),
            populate: Arc::new(BeginEmpty),
            workspaces: PhantomData,
        }
    }

    /// Directory of the log and the store; it is created if it does not exist. One engine at a time has it open.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// Partitions of the log, 1 to 256, by default 12. A directory keeps the number that it was created with, and refuses
    /// another one.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.disk.partitions = partitions;
        self
    }

    /// Where workspaces are kept, by default [`StoreKind::Lsm`].
    pub fn store(mut self, store: StoreKind) -> Self {
        self.store = store;
        self
    }

    /// What the log removes once the store holds it, by default nothing.
    pub fn retention(mut self, retention: RetentionConfig) -> Self {
        self.retention = retention;
        self
    }

    /// Memory of the database in bytes, at least 32 MiB, by default 128 MiB ([`DataDirSpec::memory_bytes`]).
    pub fn database_memory(mut self, bytes: u64) -> Self {
        self.disk.memory_bytes = bytes;
        self
    }

    /// Most tables that the database keeps open, at least 10, by default 900.
    pub fn open_files(mut self, files: usize) -> Self {
        self.disk.open_files = files;
        self
    }

    /// All settings of the running engine, by default those of [`EngineConfig`]. It replaces an owner, permits and a load
    /// timeout that were set before.
    pub fn config(mut self, config: EngineConfig) -> Self {
        self.config = config;
        self
    }

    /// Name of this process, shown as the owner of its workspaces; by default `engine`.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.config.owner = owner.into();
        self
    }

    /// Concurrent loads, 1 to 1,024, by default 8.
    pub fn permits(mut self, permits: usize) -> Self {
        self.config.admission.permits = permits;
        self
    }

    /// A load without progress for this long is abandoned and retried; by default five minutes.
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.config.load_timeout = timeout;
        self
    }

    /// Most memory that the workspaces may take, in bytes; by default there is no limit. Above it those that were read or
    /// written longest ago are saved and leave memory. A client's request or their events load them again. The limit is
    /// compared with [`Workspace::memory_bytes`] and 5,000 bytes for each workspace, so the process takes more.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.config.memory_limit = Some(bytes);
        self
    }

    /// Receives the status of every workspace; by default a tracker of its own, see [`Engine::tracker`].
    pub fn tracker(mut self, tracker: Tracker) -> Self {
        self.tracker = tracker;
        self
    }

    /// Where the first entries of a workspace are read from that the store does not have; by default it begins empty.
    pub fn populate(mut self, populate: Arc<dyn Populate>) -> Self {
        self.populate = populate;
        self
    }

    /// Opens log and store in the data directory and starts the engine: the workspaces in the store begin to load.
    ///
    /// # Errors
    /// [`StartError`] says what to correct: a setting, the directory, or a store that is not the log's.
    pub fn start(self) -> Result<Engine<W>, StartError> {
        let dir = DataDir::open(self.directory()?, &self.disk)?;
        let log_config = EmbeddedLogConfig {
            retention: self.retention,
            ..EmbeddedLogConfig::default()
        };
        let log = EmbeddedLog::open(&dir, log_config)?;
        let store: Arc<dyn Store> = match self.store {
            StoreKind::Lsm => Arc::new(LsmStore::open(&dir)?),
            StoreKind::File => Arc::new(FileStore::open(dir.path().join(FILE_STORE))?),
            StoreKind::Memory => Arc::new(MemoryStore::new()),
        };
        tracing::info!(
            directory = %dir.path().display(),
            partitions = dir.partitions(),
            store = ?self.store,
            "data directory is open"
        );
        self.start_on(Arc::new(log), store)
    }

    /// Starts the engine on a log and a store of the caller, with every partition of the log assigned to it.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_on(
        self,
        log: Arc<dyn EventLog>,
        store: Arc<dyn Store>,
    ) -> Result<Engine<W>, StartError> {
        let partitions = log.partitions();
        let engine = self.start_unassigned(log, store)?;
        for partition in (0..partitions).map(PartitionId) {
            engine.assign(partition)?;
        }
        Ok(engine)
    }

    /// Starts the engine on a log and a store of the caller without partitions; [`Engine::assign`] adds them.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_unassigned(
        self,
        log: Arc<dyn EventLog>,
        store: Arc<dyn Store>,
    ) -> Result<Engine<W>, StartError> {
        let permits = self.config.admission.permits;
        if permits == 0 || permits > MAX_PERMITS {
            return Err(StartError::Permits(permits));
        }
        Engine::start(
            self.workspace_type,
            self.config,
            log,
            store,
            self.tracker,
            self.populate,
        )
    }

    /// The data directory, for a builder on another log.
    ///
    /// # Errors
    /// [`StartError::NoDataDir`].
    pub fn directory(&self) -> Result<&Path, StartError> {
        self.data_dir.as_deref().ok_or(StartError::NoDataDir)
    }

    /// How a database in the data directory is opened, for a builder on another log.
    pub fn disk(&self) -> &DataDirSpec {
        &self.disk
    }

    /// The settings of the running engine, for a builder on another log.
    pub fn settings(&mut self) -> &mut EngineConfig {
        &mut self.config
    }
}
