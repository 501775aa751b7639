//! One assignment of a partition to this process, as the threads around it see it.
//!
//! A partition may be assigned again while answers of the assignment before are still under way.
//! So whoever answers holds the post that it was asked by: what comes too late finds it closed.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
use tokio::sync::watch;
use workspace_lifecycle::{Offset, Partition, PartitionId, Position, Slot};
use workspace_status::WorkspaceId;

use crate::announced::Announced;
use crate::message::Message;
use crate::report::HeldBy;

/// Most messages of one assignment among which a command still finds a place.
const MAX_COMMANDS_WAITING: usize = 1024;

/// How often the floor below which the log may forget is computed anew.
const FLOOR_EVERY: Duration = Duration::from_secs(1);

/// A partition whose heart did not beat for this long is not alive. It beats between batches.
const HEARTBEAT_LATE: Duration = Duration::from_secs(20);

/// Where an assignment stands.
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
pub(crate) struct Assignment<W> {
    id: PartitionId,
    messages: Sender<Message<W>>,
    /// Until the driver has ended: nobody reads the channel then.
    is_open: RwLock<bool>,
    /// Until the driver ends; read while the store saves for it.
    may_save: RwLock<bool>,
    /// A `Wake` is in the channel already.
    woken: AtomicBool,
    /// What the store holds of the partition is known.
    listed: AtomicBool,
    view: Mutex<View>,
    /// What log and store still do before the partition can be served.
    opening: Mutex<Option<String>>,
    /// Milliseconds since the engine began.
    beat_ms: AtomicU64,
    /// Workspaces that are shown before the driver has met them.
    announced: Mutex<Announced>,
    /// Counts passes, for those who wait for an offset.
    passes: watch::Sender<u64>,
}

impl<W> Assignment<W> {
    /// A new assignment, and the end of its channel that the driver reads. The channel has no limit of its own: a
    /// partition is told of at most one save, one load a permit, one wake, and a limited number of commands.
    pub(crate) fn new(id: PartitionId, now: Duration) -> (Arc<Self>, Receiver<Message<W>>) {
        let (messages, receiver) = unbounded();
        let assignment = Self {
            id,
            messages,
            is_open: RwLock::new(true),
            may_save: RwLock::new(true),
            woken: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            view: Mutex::default(),
            opening: Mutex::new(Some("log and store are asked for it".to_owned())),
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

    /// Tells the driver; gives the message back where it has ended.
    pub(crate) fn tell(&self, message: Message<W>) -> Result<(), Message<W>> {
        let is_open = self.is_open.read();
        if !*is_open {
            return Err(message);
        }
        self.messages.send(message).map_err(|error| error.0)
    }

    /// Whether so few messages wait that a command may join them.
    pub(crate) fn has_place(&self) -> bool {
        self.messages.len() < MAX_COMMANDS_WAITING
    }

    /// Lets nobody in any more: what is in the channel now is all that will ever be.
    pub(crate) fn close(&self) {
        *self.is_open.write() = false;
        self.passes
            .send_modify(|passes| *passes = passes.wrapping_add(1));
    }

    /// Whether its driver still runs.
    pub(crate) fn is_open(&self) -> bool {
        *self.is_open.read()
    }

    /// Lets a save of the assignment be done, and its end wait as long as the guard lives; none where it ends already.
    pub(crate) fn begin_save(&self) -> Option<RwLockReadGuard<'_, bool>> {
        // Not waited for: only the end of the assignment ever writes it.
        self.may_save.try_read().filter(|may_save| **may_save)
    }

    /// Waits for the save under way, if there is one: nothing more of the assignment is saved then.
    pub(crate) fn end_saves(&self) {
        *self.may_save.write() = false;
    }

    pub(crate) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            // One that has ended needs no waking.
            let _ = self.tell(Message::Wake);
        }
    }

    /// The driver looks around: a later wake needs a message again.
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

    /// Notes at once that the log must keep more than it had to.
    pub(crate) fn lower_floor(&self, machine: &Partition) {
        self.view.lock().take_floor(machine);
    }

    /// Workspaces that are shown before the driver has met them.
    pub(crate) fn announced(&self) -> MutexGuard<'_, Announced> {
        self.announced.lock()
    }

    pub(crate) fn view(&self) -> View {
        self.view.lock().clone()
    }

    /// Tells what log and store still do; none when the partition is served.
    pub(crate) fn tell_opening(&self, what: Option<String>) {
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

    /// Whether its heart has not beaten for too long.
    pub(crate) fn is_stuck(&self, now: Duration) -> bool {
        let beat = Duration::from_millis(self.beat_ms.load(Ordering::Relaxed));
        now.saturating_sub(beat) > HEARTBEAT_LATE
    }
}

/// A wish for a load permit, of a workspace in one assignment.
pub(crate) struct Permit<W> {
    pub(crate) assignment: Arc<Assignment<W>>,
    pub(crate) slot: Slot,
    pub(crate) id: WorkspaceId,
}

impl<W> PartialEq for Permit<W> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.assignment, &other.assignment) && self.slot == other.slot
    }
}

impl<W> Eq for Permit<W> {}

impl<W> Hash for Permit<W> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.assignment).hash(state);
        self.slot.hash(state);
    }
}

impl<W> Clone for Permit<W> {
    fn clone(&self) -> Self {
        Self {
            assignment: Arc::clone(&self.assignment),
            id: self.id.clone(),
            slot: self.slot,
        }
    }
}
