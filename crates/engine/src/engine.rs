//! The engine's handle: starts and stops it, assigns and revokes partitions, and sends operators' commands to them.
//!
//! Threads: one for each partition, one for each load permit, one each for watching loads, saves, erasures, the history,
//! periodic upkeep and, where memory is limited, evictions. They communicate by channels; none waits for a reader.

mod answers;
mod log_and_store;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use workspace_lifecycle::{Command, Input, PartitionId};
use workspace_status::{Tracker, WorkspaceId};

use crate::config::EngineConfig;
use crate::driver;
use crate::entities::Entities;
use crate::log::EventLog;
use crate::message::{ActionError, Message};
use crate::populate::Populate;
use crate::shared::EngineShared;
use crate::start_error::StartError;
use crate::store::Store;
use crate::threads;
use crate::workspace::{Workspace, WorkspaceType};

/// Time between two checks whether partitions are released.
const RELEASE_LOOK: Duration = Duration::from_millis(2);

/// Result of a shutdown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Partitions that were saved and released.
    pub released: usize,
    /// Partitions that were not released within the deadline; their last changes are replayed at the next start.
    pub abandoned: usize,
}

struct Threads {
    /// The last driver of each partition; the driver of a new assignment starts when it has ended.
    partitions: BTreeMap<PartitionId, JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

/// A running engine of workspaces of type `W`; `Engine<dyn Workspace>` where their type is not known. A clone is another
/// handle to the same engine.
///
/// Dropping handles, the last one included, stops nothing: the threads continue and hold the data directory. Call
/// [`Engine::shutdown`], which saves and releases every workspace and ends the threads. Where a process ends without
/// that call, what it has not saved is replayed at the next start.
pub struct Engine<W: ?Sized = Entities> {
    shared: Arc<EngineShared>,
    threads: Arc<Mutex<Option<Threads>>>,
    workspaces: PhantomData<W>,
}

impl<W: ?Sized> Clone for Engine<W> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            threads: Arc::clone(&self.threads),
            workspaces: PhantomData,
        }
    }
}

impl<W: ?Sized> Engine<W> {
    /// Starts the threads; no partition is assigned yet.
    pub(crate) fn start(
        workspace_type: WorkspaceType,
        config: EngineConfig,
        log: Arc<dyn EventLog>,
        store: Arc<dyn Store>,
        tracker: Tracker,
        populate: Arc<dyn Populate>,
    ) -> Result<Self, StartError> {
        log_and_store::check(&*log, &*store)?;
        tracker.set_owner(config.owner.as_str());
        let (shared, jobs) =
            EngineShared::new(workspace_type, config, log, store, tracker, populate);
        let shared = Arc::new(shared);
        let listener = Arc::downgrade(&shared);
        shared.log.set_listener(Arc::new(move |partition, _| {
            if let Some(assignment) = listener
                .upgrade()
                .and_then(|shared| shared.assignment(partition))
            {
                assignment.wake();
            }
        }));
        let others = threads::start(&shared, jobs)?;
        Ok(Self {
            shared,
            threads: Arc::new(Mutex::new(Some(Threads {
                partitions: BTreeMap::new(),
                others,
            }))),
            workspaces: PhantomData,
        })
    }

    /// The same engine, for a caller that does not know its workspace type.
    pub fn untyped(&self) -> Engine<dyn Workspace> {
        Engine {
            shared: Arc::clone(&self.shared),
            threads: Arc::clone(&self.threads),
            workspaces: PhantomData,
        }
    }

    /// This process owns a partition from now on. Nothing changes if it does already, or while the engine is shutting
    /// down.
    ///
    /// # Errors
    /// [`StartError::Thread`].
    pub fn assign(&self, partition: PartitionId) -> Result<(), StartError> {
        let mut threads = self.threads.lock();
        let Some(threads) = threads.as_mut() else {
            return Ok(());
        };
        let Some(opened) = self.shared.open(partition) else {
            return Ok(());
        };
        let assignment = Arc::clone(&opened.0);
        let before = Arc::new(Mutex::new(threads.partitions.remove(&partition)));
        let waits_for = Arc::clone(&before);
        let thread = threads::spawn(
            &self.shared,
            &format!("partition-{partition}"),
            move |shared| {
                // Two drivers of one partition would hide each other's workspaces from readers.
                if let Some(before) = waits_for.lock().take() {
                    join(before);
                }
                driver::run(shared, opened);
            },
        );
        let (running, answer) = match thread {
            Ok(thread) => (Some(thread), Ok(())),
            Err(error) => {
                assignment.close();
                self.shared.withdraw(partition);
                (before.lock().take(), Err(error))
            }
        };
        threads
            .partitions
            .extend(running.map(|thread| (partition, thread)));
        answer
    }

    /// Partitions are moved to another process: their workspaces are saved and released. Partitions that are not done
    /// by `deadline` are dropped without a save, which loses nothing. Blocks. Returns how many were not done.
    pub fn revoke(&self, partitions: &[PartitionId], deadline: Instant) -> usize {
        let assignments: Vec<_> = partitions
            .iter()
            .filter_map(|partition| self.shared.withdraw(*partition))
            .collect();
        for assignment in &assignments {
            let _ = assignment.send(Message::Input(Input::Revoked));
        }
        while Instant::now() < deadline && assignments.iter().any(|assignment| assignment.is_open())
        {
            std::thread::sleep(RELEASE_LOOK);
        }
        let late: Vec<_> = assignments
            .iter()
            .filter(|assignment| assignment.is_open())
            .collect();
        for assignment in &late {
            let _ = assignment.send(Message::Input(Input::Lost));
        }
        late.len()
    }

    /// Partitions were moved to another process already: their workspaces are dropped without a save.
    pub fn lose(&self, partitions: &[PartitionId]) {
        for partition in partitions {
            if let Some(assignment) = self.shared.lose(*partition) {
                let _ = assignment.send(Message::Input(Input::Lost));
            }
        }
    }

    /// Sends an operator's command to the partition of the workspace. The reply to `Unload`, `Skip` and `Delete`
    /// arrives when it is done, to `Reset` when the stored state is erased, to the others when it is accepted.
    ///
    /// # Errors
    /// [`ActionError`] says why it was refused or failed; after [`EngineConfig::command_timeout`] that is
    /// [`ActionError::TimedOut`].
    pub async fn command(&self, id: &WorkspaceId, command: Command) -> Result<(), ActionError> {
        let partition = self.partition_of(id);
        let assignment = self
            .shared
            .assignment(partition)
            .ok_or(ActionError::NotAssigned(partition))?;
        if !assignment.has_place() {
            return Err(ActionError::Busy);
        }
        let (reply, answer) = oneshot::channel();
        let id = id.clone();
        assignment
            .send(Message::Command { id, command, reply })
            .map_err(|_| ActionError::NotAssigned(partition))?;
        let after = self.shared.config.command_timeout;
        match tokio::time::timeout(after, answer).await {
            Ok(answer) => Ok(answer.map_err(|_| ActionError::Closed)??),
            Err(_) => Err(ActionError::TimedOut {
                after,
                waits_for: self.obstacle(partition),
            }),
        }
    }

    /// What a command waits for, as text for the operator.
    fn obstacle(&self, partition: PartitionId) -> String {
        let Some(assignment) = self.shared.assignment(partition) else {
            return format!("partition {partition} is not assigned to this process any more");
        };
        if let Some(opening) = assignment.opening() {
            return format!("partition {partition} is being opened: {opening}");
        }
        if assignment.is_stuck(self.shared.now()) {
            return format!("partition {partition} does not advance");
        }
        self.shared
            .failures
            .of_store_for(partition)
            .unwrap_or_else(|| "the store or the log has not answered yet".to_owned())
    }

    /// Saves and releases every workspace, then ends the threads. Partitions that are not done by `deadline` are
    /// abandoned, which loses nothing: their events are replayed at the next start. Blocks.
    pub fn shutdown(&self, deadline: Instant) -> ShutdownReport {
        let Some(mut threads) = self.threads.lock().take() else {
            return ShutdownReport::default();
        };
        let assignments = self.shared.assignments();
        let partitions: Vec<PartitionId> = assignments
            .iter()
            .map(|assignment| assignment.id())
            .collect();
        let abandoned = self.revoke(&partitions, deadline);
        let report = ShutdownReport {
            released: partitions.len() - abandoned,
            abandoned,
        };
        self.shared.ending.store(true, Ordering::Release);
        for thread in &threads.others {
            thread.thread().unpark();
        }
        if abandoned == 0 {
            // Loads of closed assignments may still hang in what they read from. Abandoned ones are not waited for.
            loop {
                threads
                    .others
                    .extend(self.shared.replacements.lock().drain(..));
                let others = threads.others.iter();
                let running = others.filter(|thread| !thread.is_finished()).count();
                if running <= self.shared.running_loads.hung() || Instant::now() >= deadline {
                    break;
                }
                std::thread::sleep(RELEASE_LOOK);
            }
            let all = threads.partitions.into_values().chain(threads.others);
            all.filter(JoinHandle::is_finished).for_each(join);
            if let Err(error) = self.shared.store.sync() {
                tracing::error!(%error, "the store cannot be synced");
            }
        }
        report
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread of the engine had panicked");
    }
}
