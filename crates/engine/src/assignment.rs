//! One assignment of a partition to this process, as other threads see it.
//!
//! A partition may be assigned again while answers for the previous assignment are still under way. So a thread that
//! answers keeps the assignment that requested the work; an answer that is late finds it closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
use tokio::sync::watch;
use workspace_lifecycle::{Offset, Partition, PartitionId, Position};

use crate::announced::Announced;
use crate::message::Message;
use crate::report::HeldBy;

/// A command is refused when this many messages of an assignment wait.
const MAX_COMMANDS_WAITING: usize = 1024;

/// How often the floor below which the log may be trimmed is computed again.
const FLOOR_EVERY: Duration = Duration::from_secs(1);

/// A partition without a heartbeat for this long is stuck. It sends one between batches.
const HEARTBEAT_LATE: Duration = Duration::from_secs(20);

/// Position and state of an assignment.
#[derive(Debug, Default, Clone)]
pub(crate) struct View {
    pub(crate) position: Position,
    pub(crate) trim_floor: Offset,
    pub(crate) held_by: Option<HeldBy>,
    pub(crate) rate_per_second: f64,
    floor_at: Option<Instant>,
    sampled: Option<(Instant, Offset)>,
}

impl View {
    fn take_floor(&mut self, machine: &Partition) {
        self.floor_at = Some(Instant::now());
        self.trim_floor = machine.trim_floor();
        let held_before = self.held_by.take();
        self.held_by = machine.held_by().map(|holder| {
            let workspace_id = machine.workspace_id(holder.slot).clone();
            let since = held_before
                .filter(|held| held.workspace_id == workspace_id)
                .map_or_else(SystemTime::now, |held| held.since);
            HeldBy {
                workspace_id,
                offset: holder.offset,
                since,
            }
        });
    }
}

/// One assignment of a partition.
pub(crate) struct Assignment {
    id: PartitionId,
    messages: Sender<Message>,
    /// True until the driver has ended: after that no thread reads the channel.
    is_open: RwLock<bool>,
    /// True until the driver ends; read-locked while the store saves for it.
    may_save: RwLock<bool>,
    /// A `Wake` is already in the channel.
    woken: AtomicBool,
    /// The store has listed the partition.
    listed: AtomicBool,
    view: Mutex<View>,
    /// What log and store still have to do before the partition can be served.
    opening: Mutex<Option<String>>,
    /// Milliseconds since the engine began.
    beat_ms: AtomicU64,
    /// Workspaces that are shown before the driver has read their events.
    announced: Mutex<Announced>,
    /// Counts publishes, for readers that wait for an offset.
    passes: watch::Sender<u64>,
}

impl Assignment {
    /// A new assignment, and the receiver that its driver reads. The channel is unbounded: its messages are at most one
    /// save, one load per permit, one wake, and a limited number of commands.
    pub(crate) fn new(id: PartitionId, now: Duration) -> (Arc<Self>, Receiver<Message>) {
        let (messages, receiver) = unbounded();
        let assignment = Self {
            id,
            messages,
            is_open: RwLock::new(true),
            may_save: RwLock::new(true),
            woken: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            view: Mutex::default(),
            opening: Mutex::new(Some("opening the log and the store".to_owned())),
            beat_ms: AtomicU64::new(0),
            announced: Mutex::default(),
            passes: watch::Sender::new(0),
        };
        assignment.beat(now);
        (Arc::new(assignment), receiver)
    }

    /// Which partition is assigned.
    pub(crate) fn id(&self) -> PartitionId {
        self.id
    }

    /// Sends a message to the driver; returns it if the driver has ended.
    pub(crate) fn send(&self, message: Message) -> Result<(), Message> {
        let is_open = self.is_open.read();
        if !*is_open {
            return Err(message);
        }
        self.messages.send(message).map_err(|error| error.0)
    }

    /// Whether few enough messages wait for a command to be added.
    pub(crate) fn has_place(&self) -> bool {
        self.messages.len() < MAX_COMMANDS_WAITING
    }

    /// Accepts no more messages: after this the channel only empties.
    pub(crate) fn close(&self) {
        *self.is_open.write() = false;
        self.passes
            .send_modify(|passes| *passes = passes.wrapping_add(1));
    }

    /// Whether its driver still runs.
    pub(crate) fn is_open(&self) -> bool {
        *self.is_open.read()
    }

    /// Allows a save for the assignment, and delays the assignment's end while the guard lives; `None` if it is ending
    /// already.
    pub(crate) fn begin_save(&self) -> Option<RwLockReadGuard<'_, bool>> {
        // This does not wait: only the end of the assignment takes the write lock.
        self.may_save.try_read().filter(|may_save| **may_save)
    }

    /// Waits for the save under way, if there is one; after that nothing of the assignment is saved.
    pub(crate) fn end_saves(&self) {
        *self.may_save.write() = false;
    }

    pub(crate) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            // A driver that has ended needs no wake.
            let _ = self.send(Message::Wake);
        }
    }

    /// The driver checks for changes from here on: a later wake needs a new message.
    pub(crate) fn awake(&self) {
        self.woken.store(false, Ordering::Release);
    }

    pub(crate) fn publish(&self, machine: &Partition) {
        {
            let mut view = self.view.lock();
            view.position = machine.position();
            if view.floor_at.is_none_or(|at| at.elapsed() >= FLOOR_EVERY) {
                view.take_floor(machine);
            }
        }
        self.passes
            .send_modify(|passes| *passes = passes.wrapping_add(1));
    }

    /// Publishes at once that the log must keep more than before.
    pub(crate) fn lower_floor(&self, machine: &Partition) {
        self.view.lock().take_floor(machine);
    }

    /// Workspaces that are shown before the driver has read their events.
    pub(crate) fn announced(&self) -> MutexGuard<'_, Announced> {
        self.announced.lock()
    }

    pub(crate) fn view(&self) -> View {
        self.view.lock().clone()
    }

    /// Sets what log and store still have to do; `None` when the partition is served.
    pub(crate) fn set_opening(&self, what: Option<String>) {
        *self.opening.lock() = what;
    }

    pub(crate) fn opening(&self) -> Option<String> {
        self.opening.lock().clone()
    }

    /// The store has listed the partition.
    pub(crate) fn set_listed(&self) {
        self.listed.store(true, Ordering::Release);
    }

    /// Whether the store has listed the partition.
    pub(crate) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    pub(crate) fn passes(&self) -> watch::Receiver<u64> {
        self.passes.subscribe()
    }

    pub(crate) fn sample_rate(&self) {
        let mut view = self.view.lock();
        let now = Instant::now();
        let position = view.position.position;
        if let Some((at, before)) = view.sampled {
            let seconds = now.duration_since(at).as_secs_f64();
            if seconds < 1.0 {
                return;
            }
            #[expect(clippy::cast_precision_loss, reason = "a rate shown to people")]
            let rate = position.since(before) as f64 / seconds;
            view.rate_per_second = rate;
        }
        view.sampled = Some((now, position));
    }

    pub(crate) fn beat(&self, now: Duration) {
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.beat_ms.store(millis, Ordering::Relaxed);
    }

    /// Whether its last heartbeat is too old.
    pub(crate) fn is_stuck(&self, now: Duration) -> bool {
        let beat = Duration::from_millis(self.beat_ms.load(Ordering::Relaxed));
        now.saturating_sub(beat) > HEARTBEAT_LATE
    }
}
