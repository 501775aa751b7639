//! The engine's handle: starts the threads, takes commands, answers readers, and shuts down in order.
//!
//! Threads: one for each partition, one for each load permit, one each for watching loads, saves, erasures, the history
//! and periodic upkeep. They communicate by channels; none waits for a reader.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, unbounded};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use workspace_lifecycle::{Command, Input, Offset, PartitionId};
use workspace_status::{Absence, Tracker, WorkspaceId};

use crate::absent::{AbsentWorkspace, AbsentWorkspaces};
use crate::config::{EngineConfig, MAX_PERMITS};
use crate::counters::EngineCounters;
use crate::disk::DiskError;
use crate::driver::{Driver, apply, eraser, history, load_watch, loader, saver, upkeep};
use crate::entities::Entities;
use crate::event::Event;
use crate::jobs::{EraseJob, LoadJob, SaveJob};
use crate::loaded::LoadedWorkspace;
use crate::log::{AppendError, Appended, EventLog};
use crate::message::{ActionError, Message};
use crate::misrouted::Misrouted;
use crate::populate::Populate;
use crate::report::{Health, PartitionReport};
use crate::shared::{Queues, Shared};
use crate::store::{HistoryCursor, HistoryRecord, Store, StoreError, StoredWorkspace};
use crate::workspace::{Rejection, Workspace, WorkspaceType};

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The builder has no data directory.
    #[error("no data directory is set: call `data_dir` before `start`")]
    NoDataDir,
    /// The number of permits is out of its range.
    #[error("permits is 1 to {MAX_PERMITS}, not {0}")]
    Permits(usize),
    /// The data directory cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The operating system cannot start a thread.
    #[error("cannot start thread {name}: {source}")]
    Thread {
        /// Name of the thread, by its purpose.
        name: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// Events that the log has removed are not in the store: workspaces would start in the middle of their events.
    #[error(
        "partition {partition} of the log begins at offset {low_watermark}, but the store holds it only up to \
         offset {committed}: this is not the store that the log was trimmed for; start with that store"
    )]
    ForeignStore {
        /// The partition.
        partition: PartitionId,
        /// Where the log begins.
        low_watermark: Offset,
        /// How far the store holds the partition.
        committed: Offset,
    },
    /// The store cannot be read.
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
    /// The log ends before what the store has seen, and cannot be set to continue after it.
    #[error("the event log of partition {partition} cannot go on behind what the store holds")]
    ContinueLog {
        /// The partition.
        partition: PartitionId,
        /// Why not.
        source: AppendError,
    },
}

/// Checks that every event that the log has removed is in the store.
fn check_store(log: &dyn EventLog, store: &dyn Store) -> Result<(), StartError> {
    if !log.keeps_until_trimmed() {
        return Ok(());
    }
    for partition in (0..log.partitions()).map(PartitionId) {
        let low_watermark = log.low_watermark(partition);
        let committed = store.committed(partition)?;
        if committed < low_watermark {
            return Err(StartError::ForeignStore {
                partition,
                low_watermark,
                committed,
            });
        }
    }
    Ok(())
}

/// Most workspace ids in the log line about a lost end.
const MAX_NAMED_WORKSPACES: usize = 20;

/// Makes the next event of each partition follow everything that the store has seen. Otherwise a log that was restored
/// from an older copy, or that lost its end, would give the same offsets to other events, and a workspace that was
/// saved beyond them would never apply these.
fn continue_behind_store(log: &dyn EventLog, store: &dyn Store) -> Result<(), StartError> {
    if !log.keeps_until_trimmed() {
        return Ok(());
    }
    for partition in (0..log.partitions()).map(PartitionId) {
        let workspaces = store.workspaces(partition)?;
        let deletions = store.deletions(partition)?;
        let saved = workspaces.iter().map(|workspace| workspace.next_offset);
        let deleted = deletions.iter().map(|deletion| deletion.next_offset);
        let seen = saved
            .chain(deleted)
            .fold(store.committed(partition)?, Offset::max);
        let continued = log.continue_at(partition, seen);
        let continued =
            continued.map_err(|source| StartError::ContinueLog { partition, source })?;
        let Some(end) = continued else { continue };
        let (ahead, behind): (Vec<_>, Vec<_>) = workspaces
            .iter()
            .partition(|workspace| workspace.next_offset >= seen);
        let named: Vec<&str> = ahead
            .iter()
            .take(MAX_NAMED_WORKSPACES)
            .map(|workspace| workspace.id.as_str())
            .collect();
        tracing::error!(
            %partition,
            log_ended_at = %end,
            continues_at = %seen,
            complete = ahead.len(),
            incomplete = behind.len(),
            complete_ids = named.join(","),
            "the log has lost its end: the store has seen events that it does not have any more. New events go behind \
             them. Workspaces that were saved with them are complete; others are parked, because events of theirs may be lost"
        );
    }
    Ok(())
}

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
pub struct Engine<W: ?Sized = Entities> {
    shared: Arc<Shared>,
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
        check_store(&*log, &*store)?;
        continue_behind_store(&*log, &*store)?;
        let partitions = usize::try_from(log.partitions()).unwrap_or(1).max(1);
        let (loads, load_jobs) = bounded(config.admission.permits.max(1));
        // For each partition: one save under way, and one left by the previous assignment.
        let (saves, save_jobs) = bounded(partitions * 2);
        let (erasures, erase_jobs) = unbounded();
        tracker.set_owner(config.owner.as_str());
        let queues = Queues {
            loads,
            saves,
            erasures,
        };
        let shared = Shared::new(
            workspace_type,
            config,
            log,
            store,
            tracker,
            populate,
            queues,
        );
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
        let others = start_threads(&shared, &load_jobs, save_jobs, erase_jobs)?;
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
        let Some((assignment, messages)) = self.shared.open(partition) else {
            return Ok(());
        };
        let before = Arc::new(Mutex::new(threads.partitions.remove(&partition)));
        let shared = Arc::clone(&self.shared);
        let driver = Driver::new(Arc::clone(&shared), Arc::clone(&assignment));
        let waits_for = Arc::clone(&before);
        let thread = spawn(format!("partition-{partition}"), move || {
            // Two drivers of one partition would hide each other's workspaces from readers.
            if let Some(before) = waits_for.lock().take() {
                join(before);
            }
            let mut next = driver.run(&messages);
            while let Some((assignment, messages)) = next {
                next = Driver::new(Arc::clone(&shared), assignment).run(&messages);
            }
        });
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

    /// The workspaces that are known and not in memory.
    pub fn absent(&self) -> &AbsentWorkspaces {
        &self.shared.absent
    }

    /// Why a workspace is not in memory.
    pub fn absence(&self, absent: &AbsentWorkspace) -> Absence {
        self.shared.absence(absent)
    }

    /// Whether every workspace that the store holds of the assigned partitions is known.
    pub fn is_listed(&self) -> bool {
        self.shared
            .assignments()
            .iter()
            .all(|assignment| assignment.is_listed())
    }

    /// The last record of a workspace that this process read on a wrong partition.
    pub fn misrouted(&self, id: &WorkspaceId) -> Option<Misrouted> {
        self.shared.misrouted.of(id)
    }

    /// The partition of a workspace, assigned to this process or not.
    pub fn partition_of(&self, id: &WorkspaceId) -> PartitionId {
        self.shared.log.partition_of(id)
    }

    /// Whether this process owns a partition.
    pub fn is_assigned(&self, partition: PartitionId) -> bool {
        self.shared.assignment(partition).is_some()
    }

    /// What log and store still have to do before an assigned partition can be served; `None` when it is served.
    pub fn opening(&self, partition: PartitionId) -> Option<String> {
        self.shared.assignment(partition)?.opening()
    }

    /// The status of every workspace.
    pub fn tracker(&self) -> &Tracker {
        &self.shared.tracker
    }

    /// The log, for appends and dead letters.
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.shared.log
    }

    /// The consumer group that assigns partitions to this process, if there is one.
    pub fn group(&self) -> Option<&str> {
        self.shared.config.group.as_deref()
    }

    /// The engine's counters.
    pub fn counters(&self) -> &EngineCounters {
        &self.shared.counters
    }

    /// A workspace in memory that has been ready since it was loaded, or is parked at an event that it cannot apply.
    pub fn workspace(&self, id: &WorkspaceId) -> Option<LoadedWorkspace<W>> {
        let resident = self.shared.workspaces.read().get(id).cloned();
        resident.map(LoadedWorkspace::new)
    }

    /// What the store holds of a workspace, in memory or not. Blocks on the store.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub fn stored(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        self.shared.store.workspace(id)
    }

    /// At most `limit` transitions of a workspace, oldest first, after a cursor. Blocks on the store.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub fn history(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        self.shared.store.history(id, after, limit)
    }

    /// Whether a workspace could ever apply an event: the check before an event is appended.
    ///
    /// # Errors
    /// [`Rejection`] with the reason why no workspace could.
    pub fn check(&self, event: &Event<'_>) -> Result<(), Rejection> {
        apply::check(self.shared.workspace_type, event)
    }

    /// Shows workspaces whose events were appended before their partitions have read them: each one that has no status
    /// here and is not in the store is `initializing` from now on. Only for partitions that this process owns. Blocks
    /// on the store.
    pub fn announce(&self, ids: &[WorkspaceId], appended: &Appended) {
        for id in ids {
            let partition = self.partition_of(id);
            let range = appended
                .partitions
                .iter()
                .find(|range| range.partition == partition);
            if let Some(range) = range {
                self.shared.announce(id, partition, range.last_offset);
            }
        }
    }

    /// Whether a workspace has a status only because its first event was acknowledged: its partition has not read it
    /// yet.
    pub fn is_announced(&self, id: &WorkspaceId) -> bool {
        self.shared.is_announced(id, self.partition_of(id))
    }

    /// Sends an operator's command to the partition of the workspace. The reply to `Unload`, `Skip` and `Delete`
    /// arrives when it is done, to `Reset` when the stored state is erased, to the others when it is accepted.
    ///
    /// # Errors
    /// [`ActionError`] says why it was refused or failed; after [`EngineConfig::command_timeout`] that is
    /// [`ActionError::TimedOut`].
    pub async fn command(&self, id: &WorkspaceId, command: Command) -> Result<(), ActionError> {
        let (reply, answer) = oneshot::channel();
        self.shared.send_command(id, command, reply)?;
        let after = self.shared.config.command_timeout;
        match tokio::time::timeout(after, answer).await {
            Ok(answer) => Ok(answer.map_err(|_| ActionError::Closed)??),
            Err(_) => Err(ActionError::TimedOut {
                after,
                waits_for: self.shared.obstacle(self.partition_of(id)),
            }),
        }
    }

    /// Waits until the workspace is in memory and has applied `offset`. It has no deadline of its own.
    pub async fn wait_applied(&self, id: &WorkspaceId, offset: Offset) -> LoadedWorkspace<W> {
        let partition = self.partition_of(id);
        loop {
            let mut passes = self
                .shared
                .assignment(partition)
                .map(|assignment| assignment.passes());
            if let Some(workspace) = self.workspace(id)
                && workspace.applied().next_offset > offset
            {
                return workspace;
            }
            match &mut passes {
                // An assignment that ends also changes it.
                Some(passes) => drop(passes.changed().await),
                None => tokio::time::sleep(ASSIGNMENT_LOOK).await,
            }
        }
    }

    /// How many workspaces wait for a permit before this one; `None` when it does not wait.
    pub fn queue_position(&self, id: &WorkspaceId) -> Option<usize> {
        self.shared.queue_position(id)
    }

    /// Loads under way, and how many wait for a permit.
    pub fn admission(&self) -> (usize, usize) {
        self.shared.admission()
    }

    /// Loads that were abandoned because they made no progress, and have not returned.
    pub fn hung_loads(&self) -> usize {
        self.shared.running_loads.hung()
    }

    /// The position and state of every assigned partition.
    pub fn partitions(&self) -> Vec<PartitionReport> {
        self.shared.partitions()
    }

    /// Whether the loops advance, and whether the log and the store answer.
    pub fn health(&self) -> Health {
        self.shared.health()
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

/// Time between two checks of a waiting reader whether the partition is assigned.
const ASSIGNMENT_LOOK: Duration = Duration::from_millis(100);

/// Time between two checks of a load thread whether the engine is shutting down.
const JOB_LOOK: Duration = Duration::from_millis(100);

/// Time between two checks whether partitions are released.
const RELEASE_LOOK: Duration = Duration::from_millis(2);

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread of the engine had panicked");
    }
}

fn start_threads(
    shared: &Arc<Shared>,
    load_jobs: &Receiver<LoadJob>,
    save_jobs: Receiver<SaveJob>,
    erase_jobs: Receiver<EraseJob>,
) -> Result<Vec<JoinHandle<()>>, StartError> {
    let mut others = Vec::new();
    let history_of = Arc::clone(shared);
    let watcher = shared.tracker.watch();
    others.push(spawn("history".to_owned(), move || {
        history::run(&history_of, watcher);
    })?);
    for number in 0..shared.config.admission.permits.max(1) {
        let (shared, jobs) = (Arc::clone(shared), load_jobs.clone());
        others.push(spawn(format!("load-{number}"), move || {
            load_until_replaced(&shared, &jobs);
        })?);
    }
    let (watched, jobs) = (Arc::clone(shared), load_jobs.clone());
    others.push(spawn("load-watch".to_owned(), move || {
        load_watch::run(&watched, || {
            let (shared, jobs) = (Arc::clone(&watched), jobs.clone());
            let load = move || load_until_replaced(&shared, &jobs);
            let thread = spawn("load-again".to_owned(), load);
            let thread = thread.inspect_err(|error| {
                tracing::error!(%error, "no thread takes the place of one whose load hangs");
            });
            let started = thread.is_ok();
            let mut replacements = watched.replacements.lock();
            replacements.retain(|thread| !thread.is_finished());
            replacements.extend(thread);
            started
        });
    })?);
    let saver = Arc::clone(shared);
    others.push(spawn("save".to_owned(), move || {
        saver::run(&saver, &save_jobs);
    })?);
    let eraser = Arc::clone(shared);
    others.push(spawn("erase".to_owned(), move || {
        eraser.work(&erase_jobs, |job| eraser::erase(&eraser, job));
    })?);
    let upkeep_of = Arc::clone(shared);
    others.push(spawn("upkeep".to_owned(), move || upkeep::run(&upkeep_of))?);
    Ok(others)
}

fn load_until_replaced(shared: &Shared, jobs: &Receiver<LoadJob>) {
    while !shared.ending.load(Ordering::Acquire) {
        if let Ok(job) = jobs.recv_timeout(JOB_LOOK)
            && loader::load(shared, job) == loader::Then::Ends
        {
            return;
        }
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name(name.clone())
        .spawn(run)
        .map_err(|source| StartError::Thread { name, source })
}
