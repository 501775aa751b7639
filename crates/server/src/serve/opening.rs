//! Opens log and store and starts the engine, on threads of lower priority than those of the requests.
//!
//! On Linux a thread inherits the nice value of the thread that starts it. So the engine is opened on a
//! thread with a raised nice value, and all its threads, including those of the database, leave the
//! processor to a request as soon as one arrives; without requests they get all of it.

use crate::{
    app::{App, Engine},
    config::{EngineSettings, ServeConfig},
    group::{self, Group, GroupError},
    memory_limit,
};
use std::{
    io,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use tracing::warn;
use workspace_engine_core::{
    EngineBuilder, EngineConfig, StartError, Workspace, WorkspaceType, log::RetentionConfig,
    populate::NdjsonDirectory,
};
use workspace_lifecycle::{AdmissionLimits, Limits};

/// How long the store may take to list its workspaces before requests are answered with incomplete lists.
const LISTED_WITHIN: Duration = Duration::from_secs(30);

/// Interval between two checks whether the store has listed them.
const LISTED_LOOK: Duration = Duration::from_millis(2);

/// Why the engine cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("populate-dir {path} cannot be read", path = path.display())]
    PopulateDir { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Group(#[from] GroupError),
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
    /// The group that it has joined, if it is not alone.
    pub(super) group: Option<Group>,
}

/// Opens the engine of a configuration.
pub(super) async fn open(
    config: &ServeConfig,
    workspace_type: WorkspaceType,
    app: App,
) -> Result<Opened, OpenError> {
    let settings = config.engine.clone();
    let nice = config.engine_nice;
    let (opened, answer) = oneshot::channel();
    thread::Builder::new()
        .name("open".to_owned())
        .spawn(move || {
            lower_priority(nice);
            // If the process was stopped meanwhile, the receiver was dropped.
            let _ = opened.send(open_here(&settings, workspace_type, &app));
        })
        .map_err(OpenError::Thread)?;
    answer.await.map_err(|_| OpenError::Panicked)?
}

fn open_here(
    settings: &EngineSettings,
    workspace_type: WorkspaceType,
    app: &App,
) -> Result<Opened, OpenError> {
    let builder = builder(settings, workspace_type)?.tracker(app.tracker().clone());
    if let Some(kafka) = &settings.kafka {
        let waits = |what: String| {
            app.set_opening(what);
            !app.is_stopping()
        };
        let group = group::start(builder, kafka, waits)?.ok_or(OpenError::Stopped)?;
        return Ok(Opened {
            engine: group.engine(),
            group: Some(group),
        });
    }
    let engine = builder.start()?;
    wait_until_listed(&engine);
    Ok(Opened {
        engine,
        group: None,
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

fn builder(
    settings: &EngineSettings,
    workspace_type: WorkspaceType,
) -> Result<EngineBuilder<dyn Workspace>, OpenError> {
    let database_memory = u64::try_from(settings.database_memory).unwrap_or(u64::MAX);
    let builder = Engine::builder_of(workspace_type)
        .data_dir(settings.data_dir.clone())
        .partitions(settings.partitions)
        .store(settings.store)
        .retention(RetentionConfig {
            partition_bytes: settings.retention_bytes,
            age: settings.retention_age,
        })
        .database_memory(database_memory)
        .open_files(settings.database_files)
        .config(EngineConfig {
            owner: settings.owner.clone(),
            admission: AdmissionLimits {
                permits: settings.permits,
                urgent_queue: settings.urgent_queue,
            },
            memory_limit: match settings.memory_limit {
                Some(limit) => memory_limit::for_workspaces(limit, database_memory).ok(),
                None => memory_limit::auto(database_memory),
            },
            load_timeout: settings.load_timeout,
            command_timeout: settings.command_timeout,
            limits: Limits {
                save_every_events: settings.save_every_events,
                save_every: settings.save_interval,
                save_every_in_round: settings.replay_save_interval,
                max_evicted_lag: settings.evicted_lag,
                max_evicted_age: settings.evicted_age,
                ..Limits::default()
            },
            ..EngineConfig::default()
        });
    let Some(path) = &settings.populate_dir else {
        return Ok(builder);
    };
    // A misspelt path would otherwise show only as workspaces that begin empty, so it is checked first.
    std::fs::read_dir(path).map_err(|source| OpenError::PopulateDir {
        path: path.clone(),
        source,
    })?;
    Ok(builder.populate(Arc::new(NdjsonDirectory::new(path.clone()))))
}

#[cfg(target_os = "linux")]
fn lower_priority(nice: u8) {
    if nice > 0
        && let Err(error) = rustix::process::nice(i32::from(nice))
    {
        warn!(%error, "the engine's threads have the priority of those of the requests, not a lower one");
    }
}

#[cfg(not(target_os = "linux"))]
fn lower_priority(nice: u8) {
    if nice > 0 {
        warn!("engine-nice has no effect on this system");
    }
}
