//! All workspaces of a process.

use std::borrow::Borrow;
use std::cmp::Ordering as Order;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use arcstr::ArcStr;
use parking_lot::RwLock;

use crate::absent::AbsentStatus;
use crate::clock::{AnyClock, Clock};
use crate::feed::{FEED_CAPACITY, Watcher};
use crate::id::{InvalidWorkspaceId, Revision, WorkspaceId};
use crate::message::Message;
use crate::page::{IdPage, Page, PageQuery};
use crate::shared::{TrackerShared, key_of};
use crate::snapshot::Snapshot;
use crate::state::{StateCounts, StateTotals};
use crate::workspace_status::WorkspaceStatus;

/// The statuses of all workspaces of a process. Clones share the tracker.
///
/// ```
/// use workspace_status::{State, Tracker};
///
/// let tracker = Tracker::new();
/// tracker.get_or_create("a").set_state(State::Ready, "ok");
/// assert!(tracker.get("a").is_some_and(|status| status.is_ready()));
/// assert_eq!(tracker.count(), 1);
/// assert!(tracker.remove("a") && tracker.snapshot("a").is_none());
/// ```
#[derive(Clone)]
pub struct Tracker {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<TrackerShared>,
    /// For lookups of one workspace, without a lock.
    by_id: papaya::HashMap<WorkspaceId, Arc<WorkspaceStatus>, foldhash::quality::RandomState>,
    /// For lists. Its lock is also held to add and to remove, so that a workspace is in both
    /// maps or in none. A list holds it for [`CHUNK`] entries at a time.
    ordered: RwLock<BTreeSet<ById>>,
}

/// Number of entries a list visits before it releases the lock.
const CHUNK: usize = 512;

static GLOBAL: LazyLock<Tracker> = LazyLock::new(Tracker::new);

impl Tracker {
    /// The default tracker of the process.
    pub fn global() -> &'static Tracker {
        &GLOBAL
    }

    /// A tracker with the system's clocks and without an owner.
    pub fn new() -> Tracker {
        Tracker::builder().build()
    }

    /// A tracker with other settings.
    pub fn builder() -> TrackerBuilder {
        TrackerBuilder {
            clock: AnyClock::System,
            owner: None,
            feed_capacity: FEED_CAPACITY,
        }
    }

    /// The status of a workspace, created if it does not exist.
    ///
    /// # Panics
    /// If the id is invalid; see [`Tracker::try_get_or_create`].
    #[expect(
        clippy::panic,
        reason = "documented; ids of untrusted origin go through try_get_or_create"
    )]
    pub fn get_or_create(&self, id: &str) -> Arc<WorkspaceStatus> {
        match self.try_get_or_create(id) {
            Ok(status) => status,
            Err(error) => panic!("{error}"),
        }
    }

    /// The status of a workspace, created if it does not exist.
    ///
    /// # Errors
    /// If the id is invalid.
    pub fn try_get_or_create(&self, id: &str) -> Result<Arc<WorkspaceStatus>, InvalidWorkspaceId> {
        if let Some(status) = self.get(id) {
            return Ok(status);
        }
        let (Ok(status) | Err(status)) = self.insert(WorkspaceId::new(id)?, Message::default());
        Ok(status)
    }

    /// A new status in `initializing`, whose message says why it exists; `None` if the workspace has a status already.
    pub fn create(
        &self,
        id: &WorkspaceId,
        message: impl Into<Message>,
    ) -> Option<Arc<WorkspaceStatus>> {
        if self.inner.by_id.pin().contains_key(id.as_str()) {
            return None;
        }
        self.insert(id.clone(), message.into()).ok()
    }

    /// A new status, or the existing one.
    fn insert(
        &self,
        id: WorkspaceId,
        message: Message,
    ) -> Result<Arc<WorkspaceStatus>, Arc<WorkspaceStatus>> {
        let key = key_of(&id);
        let mut ordered = self.inner.ordered.write();
        if let Some(ById(status)) = ordered.get(id.as_str()) {
            return Err(Arc::clone(status));
        }
        let status = Arc::new(WorkspaceStatus::new(
            id.clone(),
            message,
            key,
            Arc::clone(&self.inner.shared),
        ));
        ordered.insert(ById(Arc::clone(&status)));
        status.publish_created(|| {
            self.inner.by_id.pin().insert(id, Arc::clone(&status));
        });
        drop(ordered);
        self.inner.shared.notify_of_presence(key);
        Ok(status)
    }

    /// The status of a workspace. Takes no lock.
    pub fn get(&self, id: &str) -> Option<Arc<WorkspaceStatus>> {
        self.inner.by_id.pin().get(id).cloned()
    }

    /// A copy of the status of a workspace.
    pub fn snapshot(&self, id: &str) -> Option<Snapshot> {
        self.inner
            .by_id
            .pin()
            .get(id)
            .map(|status| status.snapshot())
    }

    /// The current status of a workspace that is not in memory, and so not in this tracker.
    pub fn absent_snapshot(&self, status: &AbsentStatus) -> Snapshot {
        Snapshot::absent(status, self.inner.shared.clock.now())
    }

    /// Copies of all statuses, ordered by id, each consistent in itself. Workspaces created
    /// or removed meanwhile may or may not be included.
    pub fn list_all(&self) -> Vec<Snapshot> {
        let mut snapshots = Vec::with_capacity(self.count());
        let now = self.inner.shared.clock.now();
        self.scan(None, "", |status| {
            snapshots.push(status.snapshot_at(now));
            true
        });
        snapshots
    }

    /// Visits all statuses, ordered by id, without a copy of any. Workspaces created or removed meanwhile may or may
    /// not be included.
    pub fn for_each(&self, mut visit: impl FnMut(&WorkspaceStatus)) {
        self.scan(None, "", |status| {
            visit(status);
            true
        });
    }

    /// Copies of some statuses, ordered by id. Visits every workspace between the first and
    /// the last one of the page.
    pub fn page(&self, query: &PageQuery) -> Page {
        let limit = query.limit.max(1);
        let now = self.inner.shared.clock.now();
        let mut snapshots: Vec<Snapshot> = Vec::new();
        let mut more = false;
        self.scan(query.after.as_ref(), query.prefix(), |status| {
            if !query.wants(status.state()) {
                return true;
            }
            let snapshot = status.snapshot_at(now);
            // The state may have changed since it was read without the lock.
            if !query.wants(snapshot.state()) || !query.selects_more(&snapshot) {
                return true;
            }
            more = snapshots.len() == limit;
            if !more {
                snapshots.push(snapshot);
            }
            !more
        });
        let next = snapshots
            .last()
            .filter(|_| more)
            .map(|last| last.id().clone());
        Page { snapshots, next }
    }

    /// The ids of some workspaces, ordered; as [`Tracker::page`].
    pub fn ids(&self, query: &PageQuery) -> IdPage {
        let limit = query.limit.max(1);
        let now = self.inner.shared.clock.now();
        let mut ids: Vec<WorkspaceId> = Vec::new();
        let mut more = false;
        let selects = |status: &WorkspaceStatus| {
            if query.is_decided_by_state() {
                return query.wants(status.state());
            }
            query.wants(status.state()) && query.selects(&status.snapshot_at(now))
        };
        self.scan(query.after.as_ref(), query.prefix(), |status| {
            if selects(status) {
                more = ids.len() == limit;
                if !more {
                    ids.push(status.id().clone());
                }
            }
            !more
        });
        let next = ids.last().filter(|_| more).cloned();
        IdPage { ids, next }
    }

    /// Removes a workspace; returns whether it existed. A caller that still holds its status
    /// may continue to write to it, but it no longer counts and no watcher is notified.
    pub fn remove(&self, id: &str) -> bool {
        let mut ordered = self.inner.ordered.write();
        let Some(ById(status)) = ordered.take(id) else {
            return false;
        };
        // Before the removal is published: a watcher that sees it finds no workspace.
        self.inner.by_id.pin().remove(id);
        status.remove();
        drop(ordered);
        self.inner.shared.notify_of_presence(key_of(id));
        true
    }

    /// Number of workspaces. One atomic load.
    pub fn count(&self) -> usize {
        self.inner.shared.counts.total()
    }

    /// How many workspaces are in each state, all at one moment. Takes no lock, and costs
    /// the same for any number of workspaces.
    ///
    /// Every workspace counts once, so the sum is the number of workspaces. If states change
    /// so fast that changes happen during each of several readings, a count may be off by at
    /// most the number of changes during the quietest reading.
    pub fn count_by_state(&self) -> StateCounts {
        self.inner.shared.counts.by_state()
    }

    /// How often each state was entered since the tracker was created. Creating a status does not count.
    pub fn transitions_into(&self) -> StateTotals {
        self.inner.shared.counts.entered()
    }

    /// How many transitions were not on the engine's path; see
    /// [`State::may_follow`](crate::State::may_follow).
    pub fn unexpected_transitions(&self) -> u64 {
        self.inner.shared.counts.unexpected()
    }

    /// How often metadata were refused.
    pub fn metadata_refusals(&self) -> u64 {
        self.inner.shared.metadata_refusals.load(Ordering::Relaxed)
    }

    /// The number of the last change of any status. The first call of this or of a watch
    /// starts to keep changes for watchers. Before that the feed only counts them.
    pub fn revision(&self) -> Revision {
        self.inner.shared.feed.keep();
        Revision::new(self.inner.shared.feed.head())
    }

    /// The owner of the workspaces of this process.
    pub fn owner(&self) -> Option<Arc<str>> {
        let owner = self.inner.shared.owner()?;
        Some(Arc::from(owner.as_str()))
    }

    /// Sets the owner of the workspaces of this process, from the next snapshot on.
    pub fn set_owner(&self, owner: impl Into<Arc<str>>) {
        let owner = ArcStr::from(&*owner.into());
        self.inner.shared.set_owner(owner);
    }

    /// Its clock.
    pub fn clock(&self) -> &dyn Clock {
        &self.inner.shared.clock
    }

    /// Takes the measurements that rates and ETAs are based on, for up to 4096 phases under
    /// way. Call it about four times a second from a loop. A reader of a phase that was not
    /// measured recently measures that phase itself.
    pub fn sample_progress(&self) {
        let shared = &self.inner.shared;
        shared.active.sample(shared.clock.now());
    }

    /// A watcher of every change from now on.
    pub fn watch(&self) -> Watcher {
        self.watch_from(self.revision())
    }

    /// A watcher of every change after `revision`. Its first item is a resync if those changes
    /// are no longer kept, were never kept (see [`Tracker::revision`]), or if the tracker has
    /// not reached `revision`.
    pub fn watch_from(&self, revision: Revision) -> Watcher {
        self.inner.shared.feed.keep();
        Watcher::after(Arc::clone(&self.inner.shared), revision)
    }

    pub(crate) fn shared(&self) -> &TrackerShared {
        &self.inner.shared
    }

    /// Calls `visit` for every workspace after `after` whose id begins with `prefix`, in
    /// order, until `visit` returns false. No lock is held during the calls.
    fn scan(
        &self,
        after: Option<&WorkspaceId>,
        prefix: &str,
        mut visit: impl FnMut(&WorkspaceStatus) -> bool,
    ) {
        let mut chunk: Vec<Arc<WorkspaceStatus>> = Vec::with_capacity(CHUNK);
        let mut last = after.cloned();
        loop {
            let from = match &last {
                Some(id) if id.as_str() >= prefix => Bound::Excluded(id.as_str()),
                Some(_) | None => Bound::Included(prefix),
            };
            chunk.clear();
            chunk.extend(
                self.inner
                    .ordered
                    .read()
                    .range::<str, _>((from, Bound::Unbounded))
                    .map(|ById(status)| status)
                    .take_while(|status| status.id().starts_with(prefix))
                    .take(CHUNK)
                    .cloned(),
            );
            if !chunk.iter().all(|status| visit(status)) || chunk.len() < CHUNK {
                return;
            }
            last = chunk.last().map(|status| status.id().clone());
        }
    }
}

impl Default for Tracker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker")
            .field("count", &self.count())
            .field("revision", &self.inner.shared.feed.head())
            .finish_non_exhaustive()
    }
}

/// Settings of a [`Tracker`].
#[must_use]
pub struct TrackerBuilder {
    clock: AnyClock,
    owner: Option<ArcStr>,
    feed_capacity: usize,
}

impl TrackerBuilder {
    /// Sets a clock other than the system's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = AnyClock::Other(Arc::new(clock));
        self
    }

    /// The owner of the workspaces of this process.
    pub fn owner(mut self, owner: impl Into<Arc<str>>) -> Self {
        self.owner = Some(ArcStr::from(&*owner.into()));
        self
    }

    /// Number of changes kept for watchers, [`FEED_CAPACITY`] by default; 48 bytes each.
    pub fn feed_capacity(mut self, changes: usize) -> Self {
        self.feed_capacity = changes;
        self
    }

    /// The tracker.
    pub fn build(self) -> Tracker {
        let shared = TrackerShared::new(self.clock, self.owner, self.feed_capacity);
        Tracker {
            inner: Arc::new(Inner {
                shared: Arc::new(shared),
                by_id: papaya::HashMap::with_hasher(foldhash::quality::RandomState::default()),
                ordered: RwLock::new(BTreeSet::new()),
            }),
        }
    }
}

impl fmt::Debug for TrackerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrackerBuilder")
            .field("owner", &self.owner)
            .field("feed_capacity", &self.feed_capacity)
            .finish_non_exhaustive()
    }
}

/// A status ordered by its id, without a copy of the id.
struct ById(Arc<WorkspaceStatus>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        self.0.id()
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id() == other.0.id()
    }
}

impl Eq for ById {}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> Order {
        self.0.id().cmp(other.0.id())
    }
}
