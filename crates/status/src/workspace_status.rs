//! The status of one workspace: every change of it is made here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, MutexGuard};

use crate::change::ChangeKind;
use crate::clock::Moment;
use crate::history::Core;
use crate::id::{Epoch, Revision, WorkspaceId};
use crate::message::Message;
use crate::metadata::{Metadata, MetadataError};
use crate::progress::{Progress, ProgressCell, ProgressReport, Unit};
use crate::shared::TrackerShared;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::state_change::StateChange;
use crate::value::Value;

/// The status of one workspace. A new one is `initializing`, in epoch 1, with an empty
/// history.
///
/// - Any state may be set at any time; an edge outside the engine's path is accepted and
///   counted ([`State::may_follow`]).
/// - Setting the current state changes message and last update, and is not a transition.
/// - Entering `error` sets message and error; leaving it clears the error.
/// - Entering `initializing` begins the next epoch and clears metadata and progress.
///
/// A writer that a later load may replace uses an [`Attempt`](crate::Attempt).
///
/// ```
/// use workspace_status::{State, Tracker};
///
/// let tracker = Tracker::new();
/// let status = tracker.get_or_create("tenant-1");
/// status.set_state(State::ReplayingEvents, format!("{} events to go", 7));
/// status.update_metadata("partition", 3)?;
/// status.set_error("event 41 is no JSON");
/// assert!(status.is_error() && tracker.count_by_state()[State::Error] == 1);
/// # Ok::<(), workspace_status::MetadataError>(())
/// ```
pub struct WorkspaceStatus {
    id: WorkspaceId,
    shared: Arc<TrackerShared>,
    /// The state, flags (removed, progress, begun) and the key, for readers without the
    /// lock. Written only with the lock held.
    word: AtomicU32,
    progress: ArcSwapOption<ProgressCell>,
    core: Mutex<Core>,
}

/// The right to change a status.
pub(crate) type Locked<'a> = MutexGuard<'a, Core>;

const STATE_MASK: u32 = 0xff;
const REMOVED: u32 = 0x100;
/// The status has progress: all others skip the load of it in changes and snapshots.
const PROGRESS: u32 = 0x200;
/// An attempt has begun a load.
const BEGUN: u32 = 0x400;
const KEY_SHIFT: u32 = 16;

impl WorkspaceStatus {
    /// A new status; it is counted from now on.
    pub(crate) fn new(
        id: WorkspaceId,
        message: Message,
        key: u16,
        shared: Arc<TrackerShared>,
    ) -> Self {
        let core = Core::new(id.clone(), message, shared.clock.now());
        shared.counts.add();
        Self {
            id,
            word: AtomicU32::new(u32::from(key) << KEY_SHIFT | State::Initializing as u32),
            progress: ArcSwapOption::empty(),
            core: Mutex::new(core),
            shared,
        }
    }

    /// Calls `insert` to make it findable, then publishes its creation: a watcher that sees the creation finds it.
    /// Holds its lock: a writer that finds it meanwhile waits, so that the creation is its first change.
    pub(crate) fn publish_created(&self, insert: impl FnOnce()) {
        let mut core = self.core.lock();
        insert();
        let revision = self.publish(ChangeKind::Created);
        core.edit().revision = revision;
    }

    /// The workspace's id.
    pub fn id(&self) -> &WorkspaceId {
        &self.id
    }

    /// The state it is in. One atomic load.
    pub fn state(&self) -> State {
        state_of(self.word.load(Ordering::Acquire))
    }

    /// Whether it is in `ready`. One atomic load.
    pub fn is_ready(&self) -> bool {
        self.state() == State::Ready
    }

    /// Whether it is in `error`. One atomic load.
    pub fn is_error(&self) -> bool {
        self.state() == State::Error
    }

    /// How long it has been in its state, on the monotonic clock.
    pub fn time_in_current_state(&self) -> Duration {
        let entered = self.core.lock().head().entered.monotonic_nanos;
        let now = self.shared.clock.monotonic_nanos();
        Duration::from_nanos(now.saturating_sub(entered))
    }

    /// Epoch of its current load.
    pub fn epoch(&self) -> Epoch {
        self.core.lock().head().epoch
    }

    /// Revision of its last change.
    pub fn revision(&self) -> Revision {
        self.core.lock().head().revision
    }

    /// Epoch and number of the last transition; `None` before the first.
    pub fn last_transition(&self) -> Option<(Epoch, u64)> {
        self.core.lock().head().last_transition()
    }

    /// Progress of the phase that last reported progress. Takes no lock.
    pub fn progress(&self) -> Option<ProgressReport> {
        let cell = self.progress.load();
        let cell = cell.as_ref()?;
        Some(cell.report(self.state(), self.shared.clock.now()))
    }

    /// A consistent copy of all of it.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_at(self.shared.clock.now())
    }

    /// The same with a clock that was read already, recently.
    pub(crate) fn snapshot_at(&self, now: Moment) -> Snapshot {
        let guard = self.core.lock();
        let core = guard.clone();
        let progress = if self.word.load(Ordering::Relaxed) & PROGRESS == 0 {
            drop(guard);
            None
        } else {
            // Under the lock, so that another load's progress is not reported for this one.
            let cell = self.progress.load();
            drop(guard);
            cell.as_ref()
                .map(|cell| cell.report(core.head().state, now))
        };
        Snapshot::new(core, now, self.shared.owner(), progress)
    }

    /// Enters a state, or changes the message of the current one.
    pub fn set_state(&self, state: State, message: impl Into<Message>) {
        self.enter(StateChange::new(state, message.into()));
    }

    /// Enters `error`, parked: an operator must act.
    pub fn set_error(&self, error: impl fmt::Display) {
        self.set_parked(error);
    }

    /// Enters `error`, parked: an operator must act, and `reason` says how.
    pub fn set_parked(&self, reason: impl fmt::Display) {
        self.enter(StateChange::parked(reason));
    }

    /// Enters `error`, retrying: `attempt` attempts have failed, the next one starts
    /// `next_retry_in` from now.
    pub fn set_retrying(&self, reason: impl fmt::Display, attempt: u32, next_retry_in: Duration) {
        self.enter(StateChange::retrying(reason, attempt, next_retry_in));
    }

    /// Sets a metadatum. Setting the same value again is not a change: no watcher is notified,
    /// and the last update stays.
    ///
    /// # Errors
    /// If key, value or number of keys is over its bound. The status stays as it was, and the
    /// tracker counts the refusal.
    pub fn update_metadata(&self, key: &str, value: impl Into<Value>) -> Result<(), MetadataError> {
        let value = value.into();
        self.write_metadata(self.core.lock(), &[(key, value)])
    }

    /// Removes a metadatum; returns whether it existed.
    pub fn remove_metadata(&self, key: &str) -> bool {
        let mut core = self.core.lock();
        if core.head().metadata.get(key).is_none() {
            return false;
        }
        let now = self.shared.clock.now().wall;
        let revision = self.publish(ChangeKind::Metadata);
        let head = core.edit();
        head.metadata.remove(key);
        head.updated = now;
        head.revision = revision;
        drop(core);
        self.notify();
        true
    }

    /// Begins to report progress of a phase, and replaces the progress of the previous phase.
    pub fn start_progress(&self, phase: State, unit: Unit, total: Option<u64>) -> Progress {
        self.replace_progress(self.core.lock(), phase, unit, total)
    }

    /// Enters `initializing` in `epoch`. Otherwise returns the current epoch, which `epoch` must be above; a new status
    /// accepts its own once.
    pub(crate) fn begin_epoch(&self, epoch: Epoch, message: Message) -> Result<(), Epoch> {
        let state_change = StateChange {
            epoch: Some(epoch),
            ..StateChange::new(State::Initializing, message)
        };
        let core = self.core.lock();
        let current = core.head().epoch;
        let is_new = core.head().sequence == 0 && self.word.load(Ordering::Relaxed) & BEGUN == 0;
        if epoch < current || (epoch == current && !is_new) {
            return Err(current);
        }
        self.word.fetch_or(BEGUN, Ordering::Relaxed);
        self.enter_locked(core, state_change);
        Ok(())
    }

    // The changes, for callers and for attempts.

    /// The lock, if `epoch` is the current one; else the current one.
    pub(crate) fn lock_for(&self, epoch: Epoch) -> Result<Locked<'_>, Epoch> {
        let core = self.core.lock();
        let current = core.head().epoch;
        if epoch == current {
            Ok(core)
        } else {
            Err(current)
        }
    }

    #[inline]
    fn enter(&self, state_change: StateChange) {
        self.enter_locked(self.core.lock(), state_change);
    }

    pub(crate) fn enter_locked(&self, mut core: Locked<'_>, state_change: StateChange) {
        let now = self.shared.clock.now();
        let StateChange {
            to, message, epoch, ..
        } = state_change;
        let error = (to == State::Error).then(|| state_change.failure.info(message.clone(), now));
        let from = core.head().state;
        let held_for = now
            .monotonic_nanos
            .saturating_sub(core.head().entered.monotonic_nanos);
        let begins_new_load = match (epoch, to) {
            (Some(epoch), _) => Some(epoch),
            (None, State::Initializing) if from != to => Some(core.head().epoch.next()),
            (None, _) => None,
        };
        let head = if from == to {
            let head = core.edit();
            head.message = message;
            head.updated = now.wall;
            if let Some(epoch) = begins_new_load {
                head.move_epoch(epoch);
            }
            head
        } else {
            let epoch = begins_new_load.unwrap_or(core.head().epoch);
            core.push(to, epoch, message, now)
        };
        head.set_error(error);
        if begins_new_load.is_some() {
            head.metadata = Metadata::default();
            self.retire_progress(now);
            self.forget_progress();
        } else if from != to && (to.is_settled() || to == State::Unloading) {
            // The phase has ended. Its progress stays readable.
            self.retire_progress(now);
        }
        let kind = if from == to {
            ChangeKind::Message
        } else {
            self.move_on(from, to);
            ChangeKind::Transition {
                from,
                to,
                time_in_from: Duration::from_nanos(held_for),
            }
        };
        head.revision = self.publish(kind);
        drop(core);
        self.notify();
    }

    /// Ends the measurement. Call it with the lock held.
    fn retire_progress(&self, now: Moment) {
        if self.word.load(Ordering::Relaxed) & PROGRESS != 0
            && let Some(cell) = self.progress.load().as_ref()
        {
            cell.retire(now);
        }
    }

    /// Removes the progress. Call it with the lock held.
    fn forget_progress(&self) {
        if self.word.fetch_and(!PROGRESS, Ordering::Relaxed) & PROGRESS != 0 {
            self.progress.store(None);
        }
    }

    /// Publishes the new state to readers without the lock, and counts it.
    #[inline]
    fn move_on(&self, from: State, to: State) {
        let word = self.word.load(Ordering::Relaxed);
        self.word
            .store(word & !STATE_MASK | to as u32, Ordering::Release);
        if word & REMOVED != 0 {
            return;
        }
        self.shared.counts.move_on(from, to);
    }

    /// Sets all of the entries or none.
    pub(crate) fn write_metadata(
        &self,
        mut core: Locked<'_>,
        entries: &[(&str, Value)],
    ) -> Result<(), MetadataError> {
        let planned = core.head().metadata.plan(entries).inspect_err(|_| {
            let refusals = &self.shared.metadata_refusals;
            refusals.fetch_add(1, Ordering::Relaxed);
        })?;
        let Some(update) = planned else {
            return Ok(());
        };
        let now = self.shared.clock.now().wall;
        let head = core.edit();
        head.metadata.apply(&update);
        head.updated = now;
        head.revision = self.publish(ChangeKind::Metadata);
        drop(core);
        self.notify();
        Ok(())
    }

    pub(crate) fn replace_progress(
        &self,
        core: Locked<'_>,
        phase: State,
        unit: Unit,
        total: Option<u64>,
    ) -> Progress {
        let now = self.shared.clock.now();
        let cell = Arc::new(ProgressCell::new(phase, unit, total, now));
        let before = self.progress.swap(Some(Arc::clone(&cell)));
        self.word.fetch_or(PROGRESS, Ordering::Relaxed);
        drop(core);
        if let Some(before) = before {
            before.retire(now);
        }
        self.shared.active.push(&cell);
        Progress::new(cell)
    }

    /// From now on it does not count, and no watcher is notified of its changes.
    pub(crate) fn remove(&self) {
        let mut core = self.core.lock();
        let word = self.word.load(Ordering::Relaxed);
        if word & REMOVED != 0 {
            return;
        }
        self.shared.counts.removed(state_of(word));
        let revision = self.publish(ChangeKind::Removed);
        core.edit().revision = revision;
        self.word.store(word | REMOVED, Ordering::Release);
        self.retire_progress(self.shared.clock.now());
    }

    /// Publishes a change to the feed and returns its revision. Of a removed status it
    /// publishes nothing and returns the feed's last revision. Call it with the lock held, so
    /// that the changes of one workspace are in order in the feed.
    #[inline]
    fn publish(&self, kind: ChangeKind) -> Revision {
        if self.word.load(Ordering::Relaxed) & REMOVED != 0 {
            return Revision::new(self.shared.feed.head());
        }
        self.shared.publish(&self.id, kind)
    }

    #[inline]
    pub(crate) fn notify(&self) {
        self.shared.notify(self.key());
    }

    fn key(&self) -> u16 {
        (self.word.load(Ordering::Relaxed) >> KEY_SHIFT) as u16
    }
}

fn state_of(word: u32) -> State {
    State::from_index((word & STATE_MASK) as u8)
}

impl fmt::Debug for WorkspaceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkspaceStatus")
            .field("id", &self.id)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
