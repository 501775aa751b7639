//! Opens an engine whose log and workspaces are on a Kafka cluster, shared with its group.

use super::{OpenError, Opened, engine_config, populate};
use crate::{app::App, config::EngineSettings, values::rounded};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};
use tracing::{error, info, warn};
use workspace_engine_core::{
    Engine,
    absent::AbsentWorkspace,
    disk::{DataDir, DataDirSpec},
    log::EventLog,
    store::{LsmStore, Store},
};
use workspace_engine_kafka::{
    Assignments, ChangelogStore, Cluster, KafkaConfig, LocalCopy, prepare,
};
use workspace_lifecycle::PartitionId;

/// Directory of the local copy of the workspaces within the data directory.
const COPY: &str = "kafka";

/// Pause before querying brokers again that did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

pub(super) fn open(
    settings: &EngineSettings,
    kafka: &KafkaConfig,
    app: &App,
) -> Result<Opened, OpenError> {
    let populate = populate(settings)?;
    let partitions = find_topics(kafka, app)?;
    app.set_opening("the engine is opening its data directory");
    let spec = DataDirSpec {
        partitions,
        partitioner: kafka.partitioner,
        open_files: settings.database_files,
        ..DataDirSpec::default()
    };
    let copy = open_copy(settings.data_dir.join(COPY), spec)?;
    let former = former_workspaces(&copy.store(), partitions);
    let cluster = Arc::new(Cluster::new(kafka, partitions, copy, &settings.owner)?);
    let store = Arc::clone(&cluster.store) as Arc<dyn Store>;
    let engine = Engine::start_unassigned(
        engine_config(settings),
        Arc::clone(&cluster.log) as Arc<dyn EventLog>,
        store,
        app.tracker().clone(),
        populate,
    )?;
    engine.absent().remember(former);
    info!(
        brokers = kafka.brokers,
        topic = kafka.topic,
        group = kafka.group,
        partitions,
        "joining the consumer group"
    );
    cluster.membership.join(ToEngine {
        engine: engine.clone(),
        store: Arc::downgrade(&cluster.store),
    })?;
    Ok(Opened {
        engine,
        cluster: Some(cluster),
    })
}

/// The workspaces that this engine had in its last run, so that they are listed from the start. Their last known
/// status may be outdated: other engines may have owned them since.
fn former_workspaces(copy: &LsmStore, partitions: u32) -> Vec<AbsentWorkspace> {
    let mut former = Vec::new();
    for partition in (0..partitions).map(PartitionId) {
        match AbsentWorkspace::all_stored(partition, copy) {
            Ok(workspaces) => former.extend(workspaces),
            // The next takeover of the partition reads it again.
            Err(error) => warn!(%partition, %error, "the copy does not list its workspaces"),
        }
    }
    former
}

/// Number of partitions of the events topic. Waits for the brokers, and reports that it waits.
fn find_topics(kafka: &KafkaConfig, app: &App) -> Result<u32, OpenError> {
    let began = Instant::now();
    app.set_opening(format!("waiting for the brokers {}", kafka.brokers));
    loop {
        match prepare(kafka) {
            Ok(partitions) => return Ok(partitions),
            Err(error) if !error.is_passing() => return Err(error.into()),
            Err(_) if app.is_stopping() => return Err(OpenError::Stopped),
            Err(error) => {
                let since = rounded(Duration::from_secs(began.elapsed().as_secs()));
                warn!(%error, "waiting for the brokers");
                app.set_opening(format!("waiting for the brokers for {since}: {error}"));
                thread::sleep(ASK_AGAIN);
            }
        }
    }
}

/// Opens the copy of the workspaces on the local disk.
fn open_copy(path: PathBuf, spec: DataDirSpec) -> Result<LocalCopy, OpenError> {
    let open = move |path: &Path| LsmStore::open(&DataDir::open(path, &spec)?);
    Ok(LocalCopy::open(path, open)?)
}

/// Forwards the group's assignments to the engine and the store.
struct ToEngine {
    engine: Engine,
    /// Weak, because the store holds the membership, which holds this.
    store: Weak<ChangelogStore>,
}

impl Assignments for ToEngine {
    fn assigned(&self, partitions: &[PartitionId]) {
        if let Some(store) = self.store.upgrade() {
            store.given(partitions);
        }
        for partition in partitions {
            if let Err(error) = self.engine.assign(*partition) {
                error!(%partition, %error, "a partition cannot be taken; nobody serves it until this engine ends");
            }
        }
    }

    fn revoked(&self, partitions: &[PartitionId], deadline: Instant) {
        let late = self.engine.revoke(partitions, deadline);
        self.release(partitions);
        if late > 0 {
            warn!(
                late,
                "not all partitions were saved in time; their next owners replay what is missing"
            );
        }
    }

    fn lost(&self, partitions: &[PartitionId]) {
        self.release(partitions);
        self.engine.lose(partitions);
    }
}

impl ToEngine {
    /// Once the group moves on, nothing may be written to the partitions, however long the engine takes to end them.
    fn release(&self, partitions: &[PartitionId]) {
        if let Some(store) = self.store.upgrade() {
            store.release(partitions);
        }
    }
}
