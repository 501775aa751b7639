//! Opens log and store and starts the engine, on threads of lower priority than those of the requests.
//!
//! On Linux a thread inherits the nice value of the thread that starts it. So the engine is opened on a
//! thread with a raised nice value, and all its threads, including those of the database, leave the
//! processor to a request as soon as one arrives; without requests they get all of it.

mod cluster;

use crate::{
    app::App,
    config::{EngineSettings, ServeConfig, StoreKind},
};
use std::{
    io,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use tracing::{info, warn};
use workspace_engine_core::{
    Engine, EngineConfig, StartError,
    disk::{DataDir, DataDirSpec, DiskError},
    log::{EmbeddedLog, EmbeddedLogConfig, EventLog, RetentionConfig},
    populate::{BeginEmpty, NdjsonDirectory, Populate},
    store::{FileStore, LsmStore, MemoryStore, Store},
};
use workspace_engine_kafka::{Cluster, ClusterError, MembershipError, TopicError};
use workspace_lifecycle::{AdmissionLimits, Limits};

/// Directory of the file store within the data directory.
const FILE_STORE: &str = "workspaces";

/// How long the store may take to list its workspaces before requests are answered with incomplete lists.
const LISTED_WITHIN: Duration = Duration::from_secs(30);

/// Interval between two checks whether the store has listed them.
const LISTED_LOOK: Duration = Duration::from_millis(2);

/// Why the engine cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("populate-dir {path} cannot be read", path = path.display())]
    PopulateDir { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error("stopped while the engine was being opened")]
    Stopped,
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    #[error("the thread that opens the engine failed")]
    Panicked,
}

/// A running engine.
pub(super) struct Opened {
    pub(super) engine: Engine,
    pub(super) cluster: Option<Arc<Cluster>>,
}

/// Opens the engine of a configuration.
pub(super) async fn open(config: &ServeConfig, app: App) -> Result<Opened, OpenError> {
    let settings = config.engine.clone();
    let nice = config.engine_nice;
    let (opened, answer) = oneshot::channel();
    thread::Builder::new()
        .name("open".to_owned())
        .spawn(move || {
            stand_behind(nice);
            // If the process was stopped meanwhile, the receiver was dropped.
            let answer = match &settings.kafka {
                Some(kafka) => cluster::open(&settings, kafka, &app),
                None => open_here(&settings, &app),
            };
            let _ = opened.send(answer);
        })
        .map_err(OpenError::Thread)?;
    answer.await.map_err(|_| OpenError::Panicked)?
}

/// Opens an engine with log and workspaces in its data directory.
fn open_here(settings: &EngineSettings, app: &App) -> Result<Opened, OpenError> {
    let populate = populate(settings)?;
    let spec = DataDirSpec {
        partitions: settings.partitions,
        open_files: settings.database_files,
        ..DataDirSpec::default()
    };
    let dir = DataDir::open(&settings.data_dir, &spec)?;
    let log_config = EmbeddedLogConfig {
        retention: RetentionConfig {
            partition_bytes: settings.retention_bytes,
            age: settings.retention_age,
        },
        ..EmbeddedLogConfig::default()
    };
    let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(&dir, log_config)?);
    let store: Arc<dyn Store> = match settings.store {
        StoreKind::Lsm => Arc::new(LsmStore::open(&dir)?),
        StoreKind::File => Arc::new(FileStore::open(dir.path().join(FILE_STORE))?),
        StoreKind::Memory => Arc::new(MemoryStore::new()),
    };
    info!(
        directory = %dir.path().display(),
        partitions = dir.partitions(),
        store = ?settings.store,
        "data directory is open"
    );
    let (config, tracker) = (engine_config(settings), app.tracker().clone());
    let engine = Engine::start(config, log, store, tracker, populate)?;
    wait_until_listed(&engine);
    Ok(Opened {
        engine,
        cluster: None,
    })
}

/// Waits until the lists contain every workspace in the store; if the store does not list a partition in
/// time, requests are answered anyway.
fn wait_until_listed(engine: &Engine) {
    let deadline = Instant::now() + LISTED_WITHIN;
    while !engine.is_listed() && Instant::now() < deadline {
        thread::sleep(LISTED_LOOK);
    }
}

fn engine_config(settings: &EngineSettings) -> EngineConfig {
    EngineConfig {
        owner: settings.owner.clone(),
        group: settings.kafka.as_ref().map(|kafka| kafka.group.clone()),
        admission: AdmissionLimits {
            permits: settings.permits,
            urgent_queue: settings.urgent_queue,
        },
        load_timeout: settings.load_timeout,
        command_timeout: settings.command_timeout,
        limits: Limits {
            save_every_events: settings.save_every_events,
            save_every: settings.save_interval,
            save_every_in_round: settings.replay_save_interval,
            ..Limits::default()
        },
        ..EngineConfig::default()
    }
}

fn populate(settings: &EngineSettings) -> Result<Arc<dyn Populate>, OpenError> {
    let Some(path) = &settings.populate_dir else {
        return Ok(Arc::new(BeginEmpty));
    };
    // A misspelt path would otherwise show only as workspaces that begin empty, so it is checked first.
    std::fs::read_dir(path).map_err(|source| OpenError::PopulateDir {
        path: path.clone(),
        source,
    })?;
    Ok(Arc::new(NdjsonDirectory::new(path.clone())))
}

#[cfg(target_os = "linux")]
fn stand_behind(nice: u8) {
    if nice > 0
        && let Err(error) = rustix::process::nice(i32::from(nice))
    {
        warn!(%error, "the engine's threads stand beside those of the requests, not behind");
    }
}

#[cfg(not(target_os = "linux"))]
fn stand_behind(nice: u8) {
    if nice > 0 {
        warn!("engine-nice has no effect on this system");
    }
}
