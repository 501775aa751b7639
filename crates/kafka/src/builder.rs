//! The entry point for a service that embeds the engine on a cluster: connects log, store and group, and starts the
//! engine.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use workspace_engine_core::absent::AbsentWorkspace;
use workspace_engine_core::disk::{DataDir, DataDirSpec, DiskError};
use workspace_engine_core::log::EventLog;
use workspace_engine_core::store::{LsmStore, Store};
use workspace_engine_core::{
    Engine, EngineBuilder, Entities, ShutdownReport, StartError, Workspace,
};
use workspace_lifecycle::PartitionId;

use crate::changelog::ChangelogStore;
use crate::cluster::{Cluster, ClusterError};
use crate::config::KafkaConfig;
use crate::local_copy::LocalCopy;
use crate::membership::{Assignments, MembershipError};
use crate::topics::{TopicError, prepare};

/// Directory of the local copy of the workspaces within the data directory.
const COPY_DIRECTORY: &str = "kafka";

/// Why an engine cannot be started on a cluster.
#[derive(Debug, thiserror::Error)]
pub enum KafkaStartError {
    /// A topic is missing or does not fit, or the brokers do not answer ([`TopicError::is_passing`]).
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The clients cannot be created.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The group cannot be joined.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// A setting, the data directory or a thread.
    #[error(transparent)]
    Engine(#[from] StartError),
}

impl From<DiskError> for KafkaStartError {
    fn from(error: DiskError) -> Self {
        Self::Engine(error.into())
    }
}

/// Puts an engine on a cluster: its topic is the log, and its changelog the store.
///
/// ```no_run
/// use workspace_engine_core::{Engine, Entities};
/// use workspace_engine_kafka::{KafkaConfig, OnKafka};
///
/// let running = Engine::<Entities>::builder()
///     .data_dir("data")
///     .kafka(KafkaConfig::bootstrap("localhost:9092"))
///     .start()?;
/// # Ok::<(), workspace_engine_kafka::KafkaStartError>(())
/// ```
pub trait OnKafka<W: ?Sized> {
    /// The data directory holds a copy of the workspaces, which may be lost. Partitions, store and retention of the
    /// builder are ignored: the topic has its own.
    fn kafka(self, config: KafkaConfig) -> KafkaBuilder<W>;
}

impl<W: ?Sized> OnKafka<W> for EngineBuilder<W> {
    fn kafka(self, config: KafkaConfig) -> KafkaBuilder<W> {
        KafkaBuilder {
            engine: self,
            config,
        }
    }
}

/// Settings of an engine on a cluster that is not started yet.
#[must_use]
pub struct KafkaBuilder<W: ?Sized = Entities> {
    engine: EngineBuilder<W>,
    config: KafkaConfig,
}

impl<W: ?Sized> KafkaBuilder<W> {
    /// Finds the topics, starts the engine and joins the group, which assigns partitions to it from then on.
    ///
    /// # Errors
    /// [`KafkaStartError`] says what to correct. Where the brokers do not answer it may be called again.
    pub fn start(self) -> Result<KafkaEngine<W>, KafkaStartError> {
        let partitions = prepare(&self.config)?;
        self.start_with(partitions)
    }

    /// Starts the engine once [`prepare`] has returned the number of partitions: for a caller that waits for the
    /// brokers itself.
    ///
    /// # Errors
    /// [`KafkaStartError`].
    pub fn start_with(mut self, partitions: u32) -> Result<KafkaEngine<W>, KafkaStartError> {
        let config = &self.config;
        let spec = DataDirSpec {
            partitions,
            partitioner: config.partitioner,
            ..self.engine.disk().clone()
        };
        let open = move |path: &Path| LsmStore::open(&DataDir::open(path, &spec)?);
        let copy = LocalCopy::open(self.engine.directory()?.join(COPY_DIRECTORY), open)?;
        let former = former_workspaces(&copy.store(), partitions);
        let settings = self.engine.settings();
        settings.group = Some(config.group.clone());
        let cluster = Arc::new(Cluster::new(config, partitions, copy, &settings.owner)?);
        let engine = self.engine.start_unassigned(
            Arc::clone(&cluster.log) as Arc<dyn EventLog>,
            Arc::clone(&cluster.store) as Arc<dyn Store>,
        )?;
        engine.absent().remember(former);
        tracing::info!(
            brokers = config.brokers,
            topic = config.topic,
            group = config.group,
            partitions,
            "joining the consumer group"
        );
        let member = Arc::new(Mutex::new(Some(engine.untyped())));
        cluster.membership.join(ToEngine {
            engine: Arc::clone(&member),
            store: Arc::downgrade(&cluster.store),
        })?;
        Ok(KafkaEngine {
            engine,
            cluster,
            member,
        })
    }
}

/// A running engine that is a member of its group.
pub struct KafkaEngine<W: ?Sized = Entities> {
    /// The engine.
    pub engine: Engine<W>,
    /// Its connection to the cluster.
    pub cluster: Arc<Cluster>,
    member: Member,
}

impl<W: ?Sized> KafkaEngine<W> {
    /// Leaves the group, which hands over the partitions, then ends the threads, as [`Engine::shutdown`] does. Blocks.
    pub fn shutdown(&self, deadline: Instant) -> ShutdownReport {
        self.cluster.membership.leave(deadline);
        let report = self.engine.shutdown(deadline);
        self.member.lock().take();
        report
    }
}

/// The workspaces that this engine had in its last run, so that they are listed from the start. Their last known
/// status may be outdated: other engines may have owned them since.
fn former_workspaces(copy: &LsmStore, partitions: u32) -> Vec<AbsentWorkspace> {
    let mut former = Vec::new();
    for partition in (0..partitions).map(PartitionId) {
        match AbsentWorkspace::all_stored(partition, copy) {
            Ok(workspaces) => former.extend(workspaces),
            // The next takeover of the partition reads it again.
            Err(error) => {
                tracing::warn!(%partition, %error, "the copy does not list its workspaces");
            }
        }
    }
    former
}

/// The engine until it is shut down: the group would otherwise keep it, and its data directory, forever.
type Member = Arc<Mutex<Option<Engine<dyn Workspace>>>>;

/// Forwards the group's assignments to the engine and the store.
struct ToEngine {
    engine: Member,
    /// Weak, because the store holds the membership, which holds this.
    store: Weak<ChangelogStore>,
}

impl Assignments for ToEngine {
    fn assigned(&self, partitions: &[PartitionId]) {
        if let Some(store) = self.store.upgrade() {
            store.assigned(partitions);
        }
        let Some(engine) = self.engine() else { return };
        for partition in partitions {
            if let Err(error) = engine.assign(*partition) {
                tracing::error!(%partition, %error, "a partition cannot be taken over; no engine serves it until this one ends");
            }
        }
    }

    fn revoked(&self, partitions: &[PartitionId], deadline: Instant) {
        let late = self
            .engine()
            .map_or(0, |engine| engine.revoke(partitions, deadline));
        self.release(partitions);
        if late > 0 {
            tracing::warn!(
                late,
                "not all partitions were saved in time; their next owners replay what is missing"
            );
        }
    }

    fn lost(&self, partitions: &[PartitionId]) {
        self.release(partitions);
        if let Some(engine) = self.engine() {
            engine.lose(partitions);
        }
    }
}

impl ToEngine {
    fn engine(&self) -> Option<Engine<dyn Workspace>> {
        self.engine.lock().clone()
    }

    /// Once the group moves on, nothing may be written to the partitions, however long the engine takes to end them.
    fn release(&self, partitions: &[PartitionId]) {
        if let Some(store) = self.store.upgrade() {
            store.release(partitions);
        }
    }
}
