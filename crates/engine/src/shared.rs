//! What all threads of the engine share: the log, the store, permits, and a post for each partition.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use workspace_lifecycle::{
    Admission, Command, Input, Offset, Partition, PartitionId, Slot, Urgency,
};
use workspace_status::{Tracker, WorkspaceId, WorkspaceStatus};

use crate::config::EngineConfig;
use crate::counters::EngineCounters;
use crate::driver::loader::LoadJob;
use crate::driver::saver::SaveJob;
use crate::driver::{CommandReply, Message};
use crate::engine::ActionError;
use crate::loaded::LoadedWorkspace;
use crate::log::EventLog;
use crate::populate::Populate;
use crate::report::{Check, Health, PartitionReport};
use crate::routing::partition_of;
use crate::store::Store;
use crate::workspace::Workspace;

/// Most commands that wait for one partition.
const COMMANDS_WAITING_MAX: usize = 1024;

/// A partition whose heart did not beat for this long is not alive. It beats between batches.
const HEARTBEAT_LATE: Duration = Duration::from_secs(20);

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
    /// Partitions whose last read failed, with the log's words.
    log_trouble: Mutex<BTreeMap<PartitionId, String>>,
}

impl<W: Workspace> Shared<W> {
    /// What the threads share, and the receiving end of each partition's channel.
    pub(crate) fn new(
        config: EngineConfig,
        log: Arc<dyn EventLog>,
        store: Arc<dyn Store>,
        tracker: Tracker,
        populate: Arc<dyn Populate>,
        loads: Sender<LoadJob>,
        saves: Sender<SaveJob>,
    ) -> (Self, Vec<Receiver<Message<W>>>) {
        let (posts, receivers) = (0..log.partitions())
            .map(|_| {
                let (messages, receiver) = unbounded();
                let post = Post {
                    messages,
                    woken: AtomicBool::new(false),
                    view: Mutex::new(View::default()),
                    beat_ms: AtomicU64::new(0),
                    passes: watch::Sender::new(0),
                };
                (post, receiver)
            })
            .unzip();
        let shared = Self {
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
            log_trouble: Mutex::default(),
        };
        (shared, receivers)
    }

    fn post(&self, partition: PartitionId) -> Option<&Post<W>> {
        self.posts.get(usize::try_from(partition.0).ok()?)
    }

    /// Puts a message into a partition's channel. The channel has no limit of its own: a
    /// partition is told of at most one save, one load a permit, one wake, and a limited number of commands.
    pub(crate) fn tell(&self, partition: PartitionId, message: Message<W>) -> bool {
        self.post(partition)
            .is_some_and(|post| post.messages.send(message).is_ok())
    }

    pub(crate) fn wake(&self, partition: PartitionId) {
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

    /// Tells how a read of the log went where that has changed.
    pub(crate) fn log_answered(&self, partition: PartitionId, answer: Result<(), String>) {
        let mut trouble = self.log_trouble.lock();
        match answer {
            Ok(()) => drop(trouble.remove(&partition)),
            Err(reason) => drop(trouble.insert(partition, reason)),
        }
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

    pub(crate) fn passes(&self, partition: PartitionId) -> Option<watch::Receiver<u64>> {
        Some(self.post(partition)?.passes.subscribe())
    }

    pub(crate) fn queue_position(&self, id: &WorkspaceId) -> Option<usize> {
        self.admission
            .lock()
            .waiting()
            .position(|permit| permit.id == *id)
    }

    /// Loads under way, and how many wait for a permit.
    pub(crate) fn admission(&self) -> (usize, usize) {
        let admission = self.admission.lock();
        (admission.held(), admission.queued())
    }

    /// Hands a command to the partition of the workspace.
    pub(crate) fn send_command(
        &self,
        id: &WorkspaceId,
        command: Command,
        reply: CommandReply,
    ) -> Result<(), ActionError> {
        let partition = partition_of(id, self.log.partitions());
        let post = self.post(partition).ok_or(ActionError::Closed)?;
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

    /// Where every partition stands.
    pub(crate) fn partitions(&self) -> Vec<PartitionReport> {
        let ids = (0..).map(PartitionId);
        ids.zip(&self.posts)
            .map(|(partition, post)| {
                let view = *post.view.lock();
                let high_watermark = self.log.high_watermark(partition);
                PartitionReport {
                    partition,
                    position: view.position.position,
                    discovered: view.position.discovered,
                    target: view.position.target,
                    high_watermark,
                    low_watermark: self.log.low_watermark(partition),
                    lag: high_watermark.since(view.position.position),
                    rate_per_second: view.rate_per_second,
                    workspaces: view.position.workspaces,
                    owner: self.config.owner.clone(),
                }
            })
            .collect()
    }

    /// Whether the loops advance, and whether the log and the store answer.
    pub(crate) fn health(&self) -> Health {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let late = u64::try_from(HEARTBEAT_LATE.as_millis()).unwrap_or(u64::MAX);
        let ids = (0_u32..).zip(&self.posts);
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
        let trouble = self.store_trouble.lock().clone();
        let store = Check::new("store", trouble.map_or(Ok(()), Err));
        let unreadable = self
            .log_trouble
            .lock()
            .first_key_value()
            .map(|(partition, reason)| format!("partition {partition} cannot be read: {reason}"));
        let log = Check::new("log", unreadable.map_or_else(|| self.log.health(), Err));
        Health {
            alive: vec![loops],
            ready: vec![log, store],
        }
    }
}
