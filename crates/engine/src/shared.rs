//! State that all threads of the engine share: the log, the store, permits, and the partitions' assignments.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::{Mutex, RwLock};
use workspace_lifecycle::{Input, Offset, PartitionId};
use workspace_status::{Epoch, Tracker, WorkspaceId, WorkspaceStatus};

use crate::absent::AbsentWorkspaces;
use crate::assignment::Assignment;
use crate::config::EngineConfig;
use crate::counters::EngineCounters;
use crate::failures::Failures;
use crate::history_passes::HistoryPasses;
use crate::jobs::{EraseJob, Jobs, LoadJob, Queues, SaveJob};
use crate::loaded::Resident;
use crate::log::EventLog;
use crate::memory::Memory;
use crate::message::Message;
use crate::misrouted::MisroutedRecords;
use crate::permits::Permits;
use crate::populate::Populate;
use crate::running_loads::RunningLoads;
use crate::store::Store;
use crate::workspace::WorkspaceType;

/// A new assignment, and the receiver that its driver reads.
pub(crate) type Opened = (Arc<Assignment>, Receiver<Message>);

/// State that all threads of the engine share.
pub(crate) struct EngineShared {
    pub(crate) workspace_type: WorkspaceType,
    pub(crate) config: EngineConfig,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tracker: Tracker,
    pub(crate) populate: Arc<dyn Populate>,
    pub(crate) counters: EngineCounters,
    pub(crate) workspaces: RwLock<HashMap<WorkspaceId, Arc<Resident>>>,
    /// Workspaces that are known and not in memory.
    pub(crate) absent: AbsentWorkspaces,
    /// Statuses that left the tracker, until their last transitions are written to the history.
    pub(crate) left: Mutex<Vec<Arc<WorkspaceStatus>>>,
    pub(crate) history: HistoryPasses,
    pub(crate) misrouted: MisroutedRecords,
    pub(crate) began: Instant,
    pub(crate) ending: AtomicBool,
    /// The assignments of partitions to this process.
    assignments: RwLock<BTreeMap<PartitionId, Arc<Assignment>>>,
    /// Partitions that this process lost and that were not assigned to it again.
    lost: Mutex<BTreeSet<PartitionId>>,
    /// The highest epoch of a load that this process began, for each partition it has had. Transitions of loads that
    /// the store does not know may still be on their way into the history, so no later load may reuse their epoch.
    begun: Mutex<HashMap<PartitionId, Epoch>>,
    pub(crate) permits: Permits,
    pub(crate) memory: Arc<Memory>,
    pub(crate) failures: Failures,
    queues: Queues,
    /// Held from reading the partitions' floors until the log is trimmed to them.
    pub(crate) trimming: Mutex<()>,
    pub(crate) running_loads: RunningLoads,
    /// Threads that replace those whose loads hang.
    pub(crate) replacements: Mutex<Vec<JoinHandle<()>>>,
}

impl EngineShared {
    pub(crate) fn new(
        workspace_type: WorkspaceType,
        config: EngineConfig,
        log: Arc<dyn EventLog>,
        store: Arc<dyn Store>,
        tracker: Tracker,
        populate: Arc<dyn Populate>,
    ) -> (Self, Jobs) {
        let (queues, jobs) = Queues::new(config.admission.permits, log.partitions());
        let memory = Arc::new(Memory::new(config.memory_limit));
        let shared = Self {
            workspace_type,
            permits: Permits::new(config.admission, Arc::clone(&memory)),
            memory,
            failures: Failures::default(),
            config,
            log,
            store,
            tracker,
            populate,
            counters: EngineCounters::default(),
            workspaces: RwLock::new(HashMap::new()),
            absent: AbsentWorkspaces::default(),
            left: Mutex::default(),
            begun: Mutex::default(),
            history: HistoryPasses::default(),
            misrouted: MisroutedRecords::default(),
            began: Instant::now(),
            ending: AtomicBool::new(false),
            assignments: RwLock::default(),
            lost: Mutex::default(),
            queues,
            trimming: Mutex::default(),
            running_loads: RunningLoads::default(),
            replacements: Mutex::default(),
        };
        (shared, jobs)
    }

    /// Takes jobs until the engine ends.
    pub(crate) fn work<J>(&self, jobs: &Receiver<J>, mut work: impl FnMut(J)) {
        while !self.ending.load(Ordering::Acquire) {
            if let Ok(job) = jobs.recv_timeout(Duration::from_millis(100)) {
                work(job);
            }
        }
    }

    /// Time since the engine began; every time in the engine is on this clock.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The current assignment of a partition to this process.
    pub(crate) fn assignment(&self, partition: PartitionId) -> Option<Arc<Assignment>> {
        self.assignments.read().get(&partition).cloned()
    }

    /// Every assignment, ordered by partition.
    pub(crate) fn assignments(&self) -> Vec<Arc<Assignment>> {
        self.assignments.read().values().cloned().collect()
    }

    /// Opens a new assignment; `None` if the partition has one already.
    pub(crate) fn open(&self, partition: PartitionId) -> Option<Opened> {
        let mut assignments = self.assignments.write();
        if assignments.contains_key(&partition) {
            return None;
        }
        let (assignment, messages) = Assignment::new(partition, self.now());
        assignments.insert(partition, Arc::clone(&assignment));
        self.lost.lock().remove(&partition);
        Some((assignment, messages))
    }

    /// Replaces an assignment that ends by itself with a new one; `None` if the partition was revoked or lost
    /// meanwhile.
    pub(crate) fn renew(&self, assignment: &Arc<Assignment>) -> Option<Opened> {
        let mut assignments = self.assignments.write();
        let now = assignments.get_mut(&assignment.id())?;
        if !Arc::ptr_eq(now, assignment) {
            return None;
        }
        let (assignment, messages) = Assignment::new(assignment.id(), self.now());
        *now = Arc::clone(&assignment);
        Some((assignment, messages))
    }

    /// Records that a load has begun.
    pub(crate) fn begun(&self, partition: PartitionId, epoch: Epoch) {
        let mut begun = self.begun.lock();
        let highest = begun.entry(partition).or_insert(epoch);
        *highest = epoch.max(*highest);
    }

    /// The lowest epoch for a load in an assignment that begins.
    pub(crate) fn first_epoch(&self, partition: PartitionId) -> Epoch {
        let begun = self.begun.lock().get(&partition).copied();
        let least = self.store.ownership().first_epoch(partition);
        begun.map_or(least, |highest| least.max(highest.next()))
    }

    /// Removes the current assignment of a partition, so that a new one may be opened.
    pub(crate) fn withdraw(&self, partition: PartitionId) -> Option<Arc<Assignment>> {
        self.assignments.write().remove(&partition)
    }

    /// Ends an assignment whose driver reads no more. Permits that were granted and not received are released, and
    /// pending commands get no reply.
    pub(crate) fn close(&self, assignment: &Arc<Assignment>, messages: &Receiver<Message>) {
        assignment.close();
        assignment.announced().close(&self.tracker);
        for message in messages.try_iter() {
            if let Message::Input(Input::PermitGranted { .. }) = message {
                self.permits.release();
            }
        }
        self.failures.forget(assignment.id());
        let mut assignments = self.assignments.write();
        if assignments
            .get(&assignment.id())
            .is_some_and(|now| Arc::ptr_eq(now, assignment))
        {
            assignments.remove(&assignment.id());
        }
        if assignments.is_empty() {
            self.failures.forget_saves();
        }
    }

    /// Records that this process lost a partition, and removes its assignment.
    pub(crate) fn lose(&self, partition: PartitionId) -> Option<Arc<Assignment>> {
        self.lost.lock().insert(partition);
        self.withdraw(partition)
    }

    /// Whether this process lost a partition that was not assigned to it again.
    pub(crate) fn is_lost(&self, partition: PartitionId) -> bool {
        self.lost.lock().contains(&partition)
    }

    /// Never blocks: no more jobs exist than permits.
    pub(crate) fn load(&self, job: LoadJob) {
        let _ = self.queues.loads.send(job);
    }

    /// Never blocks: if the store is so slow that jobs of earlier assignments fill the queue, the partition gets the
    /// job back as a failed save.
    pub(crate) fn save(&self, job: SaveJob) {
        if let Err(refused) = self.queues.saves.try_send(job) {
            let job = refused.into_inner();
            let _ = job.assignment.send(Message::SaveFailed {
                back: job.saves,
                reason: "too many saves are under way".to_owned(),
            });
        }
    }

    /// Never blocks: the queue is unbounded, but holds at most one job for each waiting operator and one for each
    /// assigned partition.
    pub(crate) fn erase(&self, job: EraseJob) {
        let _ = self.queues.erasures.send(job);
    }

    pub(crate) fn trim_floors(&self) -> Vec<(PartitionId, Offset)> {
        let assignments = self.assignments();
        assignments
            .iter()
            .map(|assignment| (assignment.id(), assignment.view().trim_floor))
            .collect()
    }
}
