//! State that all threads of the engine share: the log, the store, permits, and the partitions' assignments.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Mutex, RwLock};
use workspace_lifecycle::{Admission, Command, Input, Offset, PartitionId, Urgency};
use workspace_status::{Absence, Check, Epoch, Tracker, WorkspaceId, WorkspaceStatus};

use crate::absent::{AbsentWorkspace, AbsentWorkspaces};
use crate::assignment::{Assignment, Permit};
use crate::config::EngineConfig;
use crate::counters::EngineCounters;
use crate::history_passes::HistoryPasses;
use crate::jobs::{EraseJob, LoadJob, SaveJob};
use crate::loaded::LoadedWorkspace;
use crate::log::EventLog;
use crate::message::{ActionError, CommandReply, Message};
use crate::misrouted::MisroutedRecords;
use crate::populate::Populate;
use crate::report::{Health, PartitionReport};
use crate::running_loads::RunningLoads;
use crate::store::Store;
use crate::workspace::Workspace;

/// What was requested of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    /// To save, or to sync what was saved.
    Saves,
    /// To save a partition whose saves it does not accept now, while it may accept those of others.
    SavesOf(PartitionId),
    /// To open or to list a partition.
    Partition(PartitionId),
}

/// A new assignment, and the receiver that its driver reads.
pub(crate) type Opened<W> = (Arc<Assignment<W>>, Receiver<Message<W>>);

/// Queues of the jobs that partitions send to other threads.
pub(crate) struct Queues<W> {
    pub(crate) loads: Sender<LoadJob<W>>,
    pub(crate) saves: Sender<SaveJob<W>>,
    pub(crate) erasures: Sender<EraseJob<W>>,
}

/// State that all threads of the engine share.
pub(crate) struct Shared<W> {
    pub(crate) config: EngineConfig,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tracker: Tracker,
    pub(crate) populate: Arc<dyn Populate>,
    pub(crate) counters: EngineCounters,
    pub(crate) workspaces: RwLock<HashMap<WorkspaceId, Arc<LoadedWorkspace<W>>>>,
    /// Workspaces that are known and not in memory.
    pub(crate) absent: AbsentWorkspaces,
    /// Statuses that left the tracker, until their last transitions are written to the history.
    pub(crate) left: Mutex<Vec<Arc<WorkspaceStatus>>>,
    pub(crate) history: HistoryPasses,
    pub(crate) misrouted: MisroutedRecords,
    pub(crate) began: Instant,
    pub(crate) ending: AtomicBool,
    /// The assignments of partitions to this process.
    assignments: RwLock<BTreeMap<PartitionId, Arc<Assignment<W>>>>,
    /// Partitions that this process lost and that were not assigned to it again.
    lost: Mutex<BTreeSet<PartitionId>>,
    /// The highest epoch of a load that this process began, for each partition it has had. Transitions of loads that
    /// the store never heard of may still be on their way into the history, so no later load may reuse their epoch.
    begun: Mutex<HashMap<PartitionId, Epoch>>,
    admission: Mutex<Admission<Permit<W>>>,
    loads: Sender<LoadJob<W>>,
    saves: Sender<SaveJob<W>>,
    erasures: Sender<EraseJob<W>>,
    /// Held from reading the partitions' floors until the log is trimmed to them.
    pub(crate) trimming: Mutex<()>,
    pub(crate) running_loads: RunningLoads<W>,
    /// Threads that replace those whose loads hang.
    pub(crate) replacements: Mutex<Vec<JoinHandle<()>>>,
    /// The last error of the store for each request that fails now.
    store_failures: Mutex<BTreeMap<Asked, String>>,
    /// The last error of the log for each partition that cannot be read now.
    log_failures: Mutex<BTreeMap<PartitionId, String>>,
}

impl<W: Workspace> Shared<W> {
    pub(crate) fn new(
        config: EngineConfig,
        log: Arc<dyn EventLog>,
        store: Arc<dyn Store>,
        tracker: Tracker,
        populate: Arc<dyn Populate>,
        Queues {
            loads,
            saves,
            erasures,
        }: Queues<W>,
    ) -> Self {
        Self {
            admission: Mutex::new(Admission::new(config.admission)),
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
            loads,
            saves,
            erasures,
            trimming: Mutex::default(),
            running_loads: RunningLoads::default(),
            replacements: Mutex::default(),
            store_failures: Mutex::default(),
            log_failures: Mutex::default(),
        }
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
    pub(crate) fn assignment(&self, partition: PartitionId) -> Option<Arc<Assignment<W>>> {
        self.assignments.read().get(&partition).cloned()
    }

    /// Every assignment, ordered by partition.
    pub(crate) fn assignments(&self) -> Vec<Arc<Assignment<W>>> {
        self.assignments.read().values().cloned().collect()
    }

    /// Opens a new assignment; `None` if the partition has one already.
    pub(crate) fn open(&self, partition: PartitionId) -> Option<Opened<W>> {
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
    pub(crate) fn renew(&self, assignment: &Arc<Assignment<W>>) -> Option<Opened<W>> {
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
    pub(crate) fn withdraw(&self, partition: PartitionId) -> Option<Arc<Assignment<W>>> {
        self.assignments.write().remove(&partition)
    }

    /// Ends an assignment whose driver reads no more. Permits that were granted and not received are released, and
    /// pending commands get no reply.
    pub(crate) fn close(&self, assignment: &Arc<Assignment<W>>, messages: &Receiver<Message<W>>) {
        assignment.close();
        assignment.announced().close(&self.tracker);
        for message in messages.try_iter() {
            if let Message::Input(Input::PermitGranted { .. }) = message {
                self.release_permit();
            }
        }
        // The next owner of the partition, here or elsewhere, finds out by itself how log and store answer.
        self.log_failures.lock().remove(&assignment.id());
        let mut failures = self.store_failures.lock();
        failures.remove(&Asked::Partition(assignment.id()));
        failures.remove(&Asked::SavesOf(assignment.id()));
        let mut assignments = self.assignments.write();
        if assignments
            .get(&assignment.id())
            .is_some_and(|now| Arc::ptr_eq(now, assignment))
        {
            assignments.remove(&assignment.id());
        }
        if assignments.is_empty() {
            // No partition is left whose save could clear the last error.
            failures.clear();
        }
    }

    /// Shows a workspace whose event was appended at `offset` or before, unless it has a status or is in the store.
    pub(crate) fn announce(&self, id: &WorkspaceId, partition: PartitionId, offset: Offset) {
        let Some(assignment) = self.assignment(partition) else {
            return;
        };
        if self.tracker.get(id).is_some() || self.absent.get(id).is_some() {
            return;
        }
        // While a partition is being opened, it is not known yet what the store has of it.
        if assignment.opening().is_none() && !matches!(self.store.workspace(id), Ok(None)) {
            return;
        }
        let mut announced = assignment.announced();
        let discovered = assignment.view().position.discovered;
        announced.announce(&self.tracker, id, offset, discovered);
    }

    /// Whether a workspace has a status only because its first event was acknowledged.
    pub(crate) fn is_announced(&self, id: &WorkspaceId, partition: PartitionId) -> bool {
        self.assignment(partition)
            .is_some_and(|assignment| assignment.announced().contains(id))
    }

    /// Records that this process lost a partition, and removes its assignment.
    pub(crate) fn lose(&self, partition: PartitionId) -> Option<Arc<Assignment<W>>> {
        self.lost.lock().insert(partition);
        self.withdraw(partition)
    }

    /// Whether an assignment is the current one of its partition.
    pub(crate) fn is_current(&self, assignment: &Arc<Assignment<W>>) -> bool {
        self.assignment(assignment.id())
            .is_some_and(|now| Arc::ptr_eq(&now, assignment))
    }

    /// Why a workspace is not in memory here.
    pub(crate) fn absence(&self, absent: &AbsentWorkspace) -> Absence {
        match self.assignment(absent.partition) {
            Some(assignment) if assignment.is_listed() && absent.is_unloaded => Absence::Unloaded,
            Some(_) => Absence::Opening,
            None if self.lost.lock().contains(&absent.partition) => Absence::OwnerLost,
            None => Absence::OwnedElsewhere,
        }
    }

    pub(crate) fn ask_permit(&self, permit: Permit<W>, urgency: Urgency) {
        self.admission.lock().ask(permit, urgency);
        self.grant_permits();
    }

    pub(crate) fn cancel_permit(&self, permit: &Permit<W>) {
        self.admission.lock().cancel(permit);
    }

    pub(crate) fn release_permit(&self) {
        self.admission.lock().release();
        self.grant_permits();
    }

    fn grant_permits(&self) {
        loop {
            let granted = self.admission.lock().grant();
            let Some(Permit {
                assignment, slot, ..
            }) = granted
            else {
                return;
            };
            let sent = assignment.send(Message::Input(Input::PermitGranted { slot }));
            if sent.is_err() {
                self.admission.lock().release();
            }
        }
    }

    pub(crate) fn queued(&self) -> usize {
        self.admission.lock().queued()
    }

    /// The first workspaces that wait for a permit, in the order of service.
    pub(crate) fn queue(&self, limit: usize) -> Vec<WorkspaceId> {
        self.admission
            .lock()
            .waiting()
            .take(limit)
            .map(|permit| permit.id.clone())
            .collect()
    }

    /// Never blocks: no more jobs exist than permits.
    pub(crate) fn load(&self, job: LoadJob<W>) {
        let _ = self.loads.send(job);
    }

    /// Never blocks: if the store is so slow that jobs of earlier assignments fill the queue, the partition gets the
    /// job back as a failed save.
    pub(crate) fn save(&self, job: SaveJob<W>) {
        if let Err(refused) = self.saves.try_send(job) {
            let job = refused.into_inner();
            let _ = job.assignment.send(Message::SaveFailed {
                back: job.saves,
                reason: "too many saves are under way".to_owned(),
            });
        }
    }

    /// Never blocks: the queue is unbounded, but holds at most one job for each waiting operator and one for each
    /// assigned partition.
    pub(crate) fn erase(&self, job: EraseJob<W>) {
        let _ = self.erasures.send(job);
    }

    /// What a command waits for, as text for the operator.
    pub(crate) fn obstacle(&self, partition: PartitionId) -> String {
        let Some(assignment) = self.assignment(partition) else {
            return format!("partition {partition} is not assigned to this process any more");
        };
        if let Some(opening) = assignment.opening() {
            return format!("partition {partition} is being opened: {opening}");
        }
        if assignment.is_stuck(self.now()) {
            return format!("partition {partition} does not advance");
        }
        let failures = self.store_failures.lock();
        let of_partition = [
            Asked::SavesOf(partition),
            Asked::Partition(partition),
            Asked::Saves,
        ];
        let reason = of_partition.iter().find_map(|asked| failures.get(asked));
        reason.map_or_else(
            || "the store or the log has not answered yet".to_owned(),
            Clone::clone,
        )
    }

    /// Records how the store answered. True if that has changed.
    pub(crate) fn store_answered(&self, asked: Asked, answer: Result<(), String>) -> bool {
        let mut failures = self.store_failures.lock();
        match answer {
            Ok(()) => failures.remove(&asked).is_some(),
            Err(reason) => failures.insert(asked, reason.clone()) != Some(reason),
        }
    }

    /// Records how a read of the log went.
    pub(crate) fn log_answered(&self, partition: PartitionId, answer: Result<(), String>) {
        let mut failures = self.log_failures.lock();
        match answer {
            Ok(()) => drop(failures.remove(&partition)),
            Err(reason) => drop(failures.insert(partition, reason)),
        }
    }

    pub(crate) fn trim_floors(&self) -> Vec<(PartitionId, Offset)> {
        let assignments = self.assignments();
        assignments
            .iter()
            .map(|assignment| (assignment.id(), assignment.view().trim_floor))
            .collect()
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

    /// Sends a command to the partition of the workspace.
    pub(crate) fn send_command(
        &self,
        id: &WorkspaceId,
        command: Command,
        reply: CommandReply,
    ) -> Result<(), ActionError> {
        let partition = self.log.partition_of(id);
        let assignment = self
            .assignment(partition)
            .ok_or(ActionError::NotAssigned(partition))?;
        if !assignment.has_place() {
            return Err(ActionError::Busy);
        }
        let id = id.clone();
        assignment
            .send(Message::Command { id, command, reply })
            .map_err(|_| ActionError::NotAssigned(partition))
    }

    /// Position and state of every partition that is assigned to this process.
    pub(crate) fn partitions(&self) -> Vec<PartitionReport> {
        let assignments = self.assignments();
        assignments
            .iter()
            .map(|assignment| {
                let (partition, view) = (assignment.id(), assignment.view());
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
                    held_by: view.held_by,
                    opening: assignment.opening(),
                    notice: self.store.ownership().notice(partition),
                }
            })
            .collect()
    }

    /// Whether the loops advance, and whether the log and the store answer.
    pub(crate) fn health(&self) -> Health {
        let now = self.now();
        let assignments = self.assignments();
        let stuck: Vec<String> = assignments
            .iter()
            .filter(|assignment| assignment.is_stuck(now))
            .map(|assignment| assignment.id().to_string())
            .collect();
        let loops = Check::new(
            "loops",
            stuck
                .is_empty()
                .then_some(())
                .ok_or_else(|| format!("partitions {} do not advance", stuck.join(", "))),
        );
        let failures = self.store_failures.lock();
        let failures = failures.first_key_value().map(|(_, reason)| reason.clone());
        let store = Check::new("store", failures.map_or(Ok(()), Err));
        let unreadable = self
            .log_failures
            .lock()
            .first_key_value()
            .map(|(partition, reason)| format!("partition {partition} cannot be read: {reason}"));
        let log = Check::new("log", unreadable.map_or_else(|| self.log.health(), Err));
        let restart = |needed: Option<String>| needed.map_or(Ok(()), Err);
        let log_lives = Check::new("log", restart(self.log.needs_restart()));
        let store_lives = Check::new("store", restart(self.store.needs_restart()));
        Health {
            alive: vec![loops, log_lives, store_lives],
            ready: vec![log, store],
        }
    }
}
