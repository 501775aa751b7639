//! The engine's handle: starts the threads, takes commands, answers readers, and ends in order.
//!
//! Threads: one a partition, one a load permit, one that saves, one that
//! writes the history, one for upkeep. They talk by channels; none waits for a
//! reader.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};
use workspace_lifecycle::{
    Admission, AdmissionLimits, Command, CommandError, Input, Limits, Offset, Partition,
    PartitionId, Slot, Urgency,
};
use workspace_status::{Tracker, WorkspaceId, WorkspaceStatus};

use crate::counters::EngineCounters;
use crate::driver::loader::{self, LoadJob};
use crate::driver::saver::{self, SaveJob};
use crate::driver::{CommandReply, Driver, Message, history, upkeep};
use crate::entities::Entities;
use crate::loaded::LoadedWorkspace;
use crate::log::EventLog;
use crate::populate::Populate;
use crate::report::{Check, Health, PartitionReport};
use crate::routing::partition_of;
use crate::store::{HistoryCursor, HistoryRecord, Store, StoreError, StoredWorkspace};
use crate::workspace::Workspace;

/// Most commands that wait for one partition.
const COMMANDS_WAITING_MAX: usize = 1024;

/// A partition whose heart did not beat for this long is not alive. It beats between batches.
const HEARTBEAT_LATE: Duration = Duration::from_secs(20);

/// How the engine works.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Name of this process, shown as the owner of its workspaces.
    pub owner: String,
    /// Loads at once and urgent places.
    pub admission: AdmissionLimits,
    /// When partitions save, wait and retry.
    pub limits: Limits,
    /// Most records of one fetch.
    pub fetch_records: usize,
    /// Most bytes of one fetch.
    pub fetch_bytes: usize,
    /// Between two syncs of the store, after which the log may forget.
    pub trim_every: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            owner: "engine".to_owned(),
            admission: AdmissionLimits::default(),
            limits: Limits::default(),
            fetch_records: 4096,
            fetch_bytes: 4 * 1024 * 1024,
            trim_every: Duration::from_secs(10),
        }
    }
}

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operating system gives no thread.
    #[error("cannot start thread {name}: {source}")]
    Thread {
        /// What it was for.
        name: String,
        /// The system's words.
        source: std::io::Error,
    },
}

/// Why an operator's command was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// The machine refused it.
    #[error(transparent)]
    Refused(#[from] CommandError),
    /// Too many commands wait for the partition.
    #[error("too many commands are waiting, try again")]
    Busy,
    /// The engine is ending.
    #[error("the engine is shutting down")]
    Closed,
}

/// What a shutdown left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Partitions that were saved and released.
    pub released: usize,
    /// Partitions that were not within the deadline; their last changes are replayed at the next start.
    pub abandoned: usize,
}

struct Permit {
    partition: PartitionId,
    slot: Slot,
    id: WorkspaceId,
}

impl PartialEq for Permit {
    fn eq(&self, other: &Self) -> bool {
        (self.partition, self.slot) == (other.partition, other.slot)
    }
}

impl Eq for Permit {}

impl Hash for Permit {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.partition, self.slot).hash(state);
    }
}

impl Clone for Permit {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            ..*self
        }
    }
}

/// One partition as the threads around it see it.
struct Post<W> {
    messages: Sender<Message<W>>,
    /// A `Wake` is in its channel already.
    woken: AtomicBool,
    view: Mutex<View>,
    /// Milliseconds since the engine began; `u64::MAX` when the partition is over.
    beat_ms: AtomicU64,
    /// Counts passes, for those who wait for an offset.
    passes: watch::Sender<u64>,
}

#[derive(Debug, Default, Clone, Copy)]
struct View {
    position: workspace_lifecycle::Position,
    trim_floor: Offset,
    floor_at: Option<Instant>,
    sampled: Option<(Instant, Offset)>,
    rate_per_second: f64,
}

/// What all threads of the engine share.
pub(crate) struct Shared<W> {
    pub(crate) config: EngineConfig,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tracker: Tracker,
    pub(crate) populate: Arc<dyn Populate>,
    pub(crate) counters: EngineCounters,
    pub(crate) workspaces: RwLock<HashMap<WorkspaceId, Arc<LoadedWorkspace<W>>>>,
    /// Statuses that left the tracker, until their last transitions are written to the history.
    pub(crate) left: Mutex<Vec<Arc<WorkspaceStatus>>>,
    pub(crate) began: Instant,
    pub(crate) ending: AtomicBool,
    posts: Vec<Post<W>>,
    admission: Mutex<Admission<Permit>>,
    loads: Sender<LoadJob>,
    saves: Sender<SaveJob>,
    store_trouble: Mutex<Option<String>>,
}

impl<W: Workspace> Shared<W> {
    fn post(&self, partition: PartitionId) -> Option<&Post<W>> {
        self.posts.get(usize::try_from(partition.0).ok()?)
    }

    /// Puts a message into a partition's channel. The channel has no limit of its own: a
    /// partition is told of at most one save, one load a permit, one wake, and a limited number of commands.
    pub(crate) fn tell(&self, partition: PartitionId, message: Message<W>) -> bool {
        self.post(partition)
            .is_some_and(|post| post.messages.send(message).is_ok())
    }

    fn wake(&self, partition: PartitionId) {
        if let Some(post) = self.post(partition)
            && !post.woken.swap(true, Ordering::AcqRel)
        {
            let _ = post.messages.send(Message::Wake);
        }
    }

    /// The partition looks around: a later wake needs a message again.
    pub(crate) fn awake(&self, partition: PartitionId) {
        if let Some(post) = self.post(partition) {
            post.woken.store(false, Ordering::Release);
        }
    }

    pub(crate) fn ask_permit(
        &self,
        partition: PartitionId,
        slot: Slot,
        id: &WorkspaceId,
        urgency: Urgency,
    ) {
        self.admission.lock().ask(
            Permit {
                partition,
                slot,
                id: id.clone(),
            },
            urgency,
        );
        self.grant_permits();
    }

    pub(crate) fn cancel_permit(&self, partition: PartitionId, slot: Slot, id: &WorkspaceId) {
        self.admission.lock().cancel(&Permit {
            partition,
            slot,
            id: id.clone(),
        });
    }

    pub(crate) fn release_permit(&self) {
        self.admission.lock().release();
        self.grant_permits();
    }

    fn grant_permits(&self) {
        loop {
            let granted = self.admission.lock().grant();
            let Some(Permit {
                partition, slot, ..
            }) = granted
            else {
                return;
            };
            if !self.tell(partition, Message::Input(Input::PermitGranted { slot })) {
                self.admission.lock().release();
            }
        }
    }

    pub(crate) fn queued(&self) -> usize {
        self.admission.lock().queued()
    }

    /// The first who wait for a permit, in the order of service.
    pub(crate) fn queue(&self, limit: usize) -> Vec<WorkspaceId> {
        self.admission
            .lock()
            .waiting()
            .take(limit)
            .map(|permit| permit.id.clone())
            .collect()
    }

    /// Never blocks: no more jobs exist than permits.
    pub(crate) fn load(&self, job: LoadJob) {
        let _ = self.loads.send(job);
    }

    /// Never blocks: no more jobs exist than partitions.
    pub(crate) fn save(&self, job: SaveJob) {
        let _ = self.saves.send(job);
    }

    pub(crate) fn store_answered(&self, answer: Result<(), String>) {
        *self.store_trouble.lock() = answer.err();
    }

    pub(crate) fn publish(&self, id: PartitionId, machine: &Partition) {
        let Some(post) = self.post(id) else { return };
        {
            let mut view = post.view.lock();
            view.position = machine.position();
            if view
                .floor_at
                .is_none_or(|at| at.elapsed() >= Duration::from_secs(1))
            {
                view.floor_at = Some(Instant::now());
                view.trim_floor = machine.trim_floor();
            }
        }
        post.passes
            .send_modify(|passes| *passes = passes.wrapping_add(1));
    }

    pub(crate) fn beat(&self, id: PartitionId, since_begin: Option<Duration>) {
        if let Some(post) = self.post(id) {
            let millis = since_begin.map_or(u64::MAX, |since| {
                u64::try_from(since.as_millis()).unwrap_or(0)
            });
            post.beat_ms.store(millis, Ordering::Relaxed);
        }
    }

    pub(crate) fn sample_rates(&self) {
        for post in &self.posts {
            let mut view = post.view.lock();
            let now = Instant::now();
            let position = view.position.position;
            if let Some((at, before)) = view.sampled {
                let seconds = now.duration_since(at).as_secs_f64();
                if seconds < 1.0 {
                    continue;
                }
                #[expect(clippy::cast_precision_loss, reason = "a rate shown to people")]
                let rate = position.since(before) as f64 / seconds;
                view.rate_per_second = rate;
            }
            view.sampled = Some((now, position));
        }
    }

    pub(crate) fn trim_floors(&self) -> Vec<(PartitionId, Offset)> {
        let ids = (0..).map(PartitionId);
        ids.zip(&self.posts)
            .map(|(id, post)| (id, post.view.lock().trim_floor))
            .collect()
    }
}

struct Threads {
    partitions: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

/// A running engine. Cloning it gives another handle to the same one.
pub struct Engine<W: Workspace = Entities> {
    shared: Arc<Shared<W>>,
    threads: Arc<Mutex<Option<Threads>>>,
}

impl<W: Workspace> Clone for Engine<W> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            threads: Arc::clone(&self.threads),
        }
    }
}

impl<W: Workspace> Engine<W> {
    /// Starts the engine: every partition of the log is assigned to it, and what the store knows begins to load.
    ///
    /// # Errors
    /// [`StartError`] when a thread cannot be started.
    pub fn start(
        config: EngineConfig,
        log: Arc<dyn EventLog>,
        store: Arc<dyn Store>,
        tracker: Tracker,
        populate: Arc<dyn Populate>,
    ) -> Result<Self, StartError> {
        let partitions = log.partitions();
        let (loads, load_jobs) = bounded(config.admission.permits.max(1));
        let (saves, save_jobs) = bounded(usize::try_from(partitions).unwrap_or(1).max(1));
        tracker.set_owner(config.owner.as_str());
        let mut receivers = Vec::new();
        let posts = (0..partitions)
            .map(|_| {
                let (messages, receiver) = unbounded();
                receivers.push(receiver);
                Post {
                    messages,
                    woken: AtomicBool::new(false),
                    view: Mutex::new(View::default()),
                    beat_ms: AtomicU64::new(0),
                    passes: watch::Sender::new(0),
                }
            })
            .collect();
        let shared = Arc::new(Shared {
            admission: Mutex::new(Admission::new(config.admission)),
            config,
            log,
            store,
            tracker,
            populate,
            counters: EngineCounters::default(),
            workspaces: RwLock::new(HashMap::new()),
            left: Mutex::default(),
            began: Instant::now(),
            ending: AtomicBool::new(false),
            posts,
            loads,
            saves,
            store_trouble: Mutex::new(None),
        });
        let listener = Arc::downgrade(&shared);
        shared.log.set_listener(Arc::new(move |partition, _| {
            if let Some(shared) = listener.upgrade() {
                shared.wake(partition);
            }
        }));
        let threads = start_threads(&shared, receivers, &load_jobs, save_jobs)?;
        Ok(Self {
            shared,
            threads: Arc::new(Mutex::new(Some(threads))),
        })
    }

    /// Where every workspace stands.
    pub fn tracker(&self) -> &Tracker {
        &self.shared.tracker
    }

    /// The log, for appends and dead letters.
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.shared.log
    }

    /// What the engine counts.
    pub fn counters(&self) -> &EngineCounters {
        &self.shared.counters
    }

    /// A workspace in memory that was ready since it was loaded, or stands at an event that it cannot apply.
    pub fn workspace(&self, id: &WorkspaceId) -> Option<Arc<LoadedWorkspace<W>>> {
        self.shared.workspaces.read().get(id).cloned()
    }

    /// What the store knows of a workspace, in memory or not. Blocks on the store.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub fn stored(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        self.shared.store.workspace(id)
    }

    /// Every transition of a workspace, oldest first, after a place. Blocks on the store.
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

    /// Hands an operator's command to the partition of the workspace. The answer to `Unload` and
    /// `Skip` comes when it is done, to the others when it is accepted.
    ///
    /// # Errors
    /// [`ActionError`] says what stands against it.
    pub async fn command(&self, id: &WorkspaceId, command: Command) -> Result<(), ActionError> {
        let (reply, answer) = oneshot::channel();
        self.send_command(id, command, reply)?;
        Ok(answer.await.map_err(|_| ActionError::Closed)??)
    }

    fn send_command(
        &self,
        id: &WorkspaceId,
        command: Command,
        reply: CommandReply,
    ) -> Result<(), ActionError> {
        let partition = partition_of(id, self.shared.log.partitions());
        let post = self.shared.post(partition).ok_or(ActionError::Closed)?;
        if post.messages.len() >= COMMANDS_WAITING_MAX {
            return Err(ActionError::Busy);
        }
        post.messages
            .send(Message::Command {
                id: id.clone(),
                command,
                reply,
            })
            .map_err(|_| ActionError::Closed)
    }

    /// Waits until the workspace is in memory and has applied `offset`. It has no deadline of its own.
    pub async fn wait_applied(&self, id: &WorkspaceId, offset: Offset) -> Arc<LoadedWorkspace<W>> {
        let partition = partition_of(id, self.shared.log.partitions());
        let mut passes = self
            .shared
            .post(partition)
            .map(|post| post.passes.subscribe());
        loop {
            if let Some(passes) = &mut passes {
                passes.mark_unchanged();
            }
            if let Some(workspace) = self.workspace(id)
                && workspace.applied().next_offset > offset
            {
                return workspace;
            }
            let more = match &mut passes {
                Some(passes) => passes.changed().await.is_ok(),
                None => false,
            };
            if !more {
                // The engine is ending: nothing more will be applied.
                std::future::pending::<()>().await;
            }
        }
    }

    /// How many wait for a permit before this one; `None` when it does not wait.
    pub fn queue_position(&self, id: &WorkspaceId) -> Option<usize> {
        self.shared
            .admission
            .lock()
            .waiting()
            .position(|permit| permit.id == *id)
    }

    /// Loads under way, and how many wait for a permit.
    pub fn admission(&self) -> (usize, usize) {
        let admission = self.shared.admission.lock();
        (admission.held(), admission.queued())
    }

    /// Where every partition stands.
    pub fn partitions(&self) -> Vec<PartitionReport> {
        let ids = (0..).map(PartitionId);
        ids.zip(&self.shared.posts)
            .map(|(partition, post)| {
                let view = *post.view.lock();
                let high_watermark = self.shared.log.high_watermark(partition);
                PartitionReport {
                    partition,
                    position: view.position.position,
                    target: view.position.target,
                    high_watermark,
                    low_watermark: self.shared.log.low_watermark(partition),
                    lag: high_watermark.since(view.position.position),
                    rate_per_second: view.rate_per_second,
                    workspaces: view.position.workspaces,
                    owner: self.shared.config.owner.clone(),
                }
            })
            .collect()
    }

    /// Whether the loops advance, and whether the log and the store answer.
    pub fn health(&self) -> Health {
        let now = u64::try_from(self.shared.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let late = u64::try_from(HEARTBEAT_LATE.as_millis()).unwrap_or(u64::MAX);
        let ids = (0_u32..).zip(&self.shared.posts);
        let stuck: Vec<String> = ids
            .filter(|(_, post)| {
                let beat = post.beat_ms.load(Ordering::Relaxed);
                beat != u64::MAX && now.saturating_sub(beat) > late
            })
            .map(|(id, _)| id.to_string())
            .collect();
        let loops = Check::new(
            "loops",
            stuck
                .is_empty()
                .then_some(())
                .ok_or_else(|| format!("partitions {} do not advance", stuck.join(", "))),
        );
        let trouble = self.shared.store_trouble.lock().clone();
        let store = Check::new("store", trouble.map_or(Ok(()), Err));
        let log = Check::new("log", self.shared.log.health());
        Health {
            alive: vec![loops],
            ready: vec![log, store],
        }
    }

    /// Saves and lets go of every workspace, then ends the threads. What is not done by `deadline`
    /// is abandoned, which loses nothing: it is replayed at the next start. Blocks.
    pub fn shutdown(&self, deadline: Instant) -> ShutdownReport {
        let Some(threads) = self.threads.lock().take() else {
            return ShutdownReport::default();
        };
        let ids: Vec<PartitionId> = (0..self.shared.log.partitions()).map(PartitionId).collect();
        for id in &ids {
            self.shared.tell(*id, Message::Input(Input::Revoked));
        }
        while Instant::now() < deadline && !threads.partitions.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let abandoned = threads
            .partitions
            .iter()
            .filter(|thread| !thread.is_finished())
            .count();
        let report = ShutdownReport {
            released: threads.partitions.len() - abandoned,
            abandoned,
        };
        for id in &ids {
            self.shared.tell(*id, Message::Input(Input::Lost));
        }
        self.shared.ending.store(true, Ordering::Release);
        for thread in &threads.others {
            thread.thread().unpark();
        }
        if abandoned == 0 {
            for thread in threads.partitions.into_iter().chain(threads.others) {
                if thread.join().is_err() {
                    tracing::error!("a thread of the engine had panicked");
                }
            }
            if let Err(error) = self.shared.store.sync() {
                tracing::error!(%error, "the store cannot be synced");
            }
        }
        report
    }
}

fn start_threads<W: Workspace>(
    shared: &Arc<Shared<W>>,
    receivers: Vec<Receiver<Message<W>>>,
    load_jobs: &Receiver<LoadJob>,
    save_jobs: Receiver<SaveJob>,
) -> Result<Threads, StartError> {
    let mut others = Vec::new();
    let history_of = Arc::clone(shared);
    let watcher = shared.tracker.watch();
    others.push(spawn("history".to_owned(), move || {
        history::run(&history_of, watcher);
    })?);
    for number in 0..shared.config.admission.permits.max(1) {
        let (shared, jobs) = (Arc::clone(shared), load_jobs.clone());
        others.push(spawn(format!("load-{number}"), move || {
            work(&shared, &jobs, |job| loader::load(&shared, job));
        })?);
    }
    let saver = Arc::clone(shared);
    others.push(spawn("save".to_owned(), move || {
        saver::run(&saver, &save_jobs);
    })?);
    let upkeep_of = Arc::clone(shared);
    others.push(spawn("upkeep".to_owned(), move || upkeep::run(&upkeep_of))?);
    let mut partitions = Vec::new();
    for (id, messages) in (0..).map(PartitionId).zip(receivers) {
        let driver = Driver::new(Arc::clone(shared), id);
        partitions.push(spawn(format!("partition-{id}"), move || {
            driver.run(&messages);
        })?);
    }
    Ok(Threads { partitions, others })
}

/// Takes jobs until the engine ends.
pub(crate) fn work<W: Workspace, J>(
    shared: &Shared<W>,
    jobs: &Receiver<J>,
    mut work: impl FnMut(J),
) {
    while !shared.ending.load(Ordering::Acquire) {
        if let Ok(job) = jobs.recv_timeout(Duration::from_millis(100)) {
            work(job);
        }
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name(name.clone())
        .spawn(run)
        .map_err(|source| StartError::Thread { name, source })
}
