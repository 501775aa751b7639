//! Workspaces that are known and not in memory, so that lists and counts have them without a look at the
//! store.
//!
//! *Invariant:* a workspace that this process has met is in the tracker or here, and never in both: a
//! workspace that leaves the tracker is entered here under one lock, and one that begins to load is taken
//! out in the same way. One entry costs about 200 bytes; there is at most one a workspace.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use workspace_lifecycle::PartitionId;
use workspace_status::{Epoch, LastKnown, Snapshot, WorkspaceId};

use crate::store::{HistoryRecord, Store, StoreError, StoredWorkspace};

/// Transitions that are read at once to find the last one of a load.
const TRANSITIONS_OF_A_LOAD: usize = 1_000;

/// A workspace that is known and not in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsentWorkspace {
    /// The workspace.
    pub id: WorkspaceId,
    /// The partition of its events.
    pub partition: PartitionId,
    /// Since when it has not been in memory, as far as is known.
    pub since: SystemTime,
    /// What was last known of it.
    pub last_known: Option<LastKnown>,
    /// Its owner keeps it out of memory because an operator unloaded it.
    pub(crate) is_unloaded: bool,
}

impl AbsentWorkspace {
    /// What a store holds of a partition that this process does not own, as far as it is known from the time
    /// when it did.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not list the partition.
    pub fn all_stored(partition: PartitionId, store: &dyn Store) -> Result<Vec<Self>, StoreError> {
        let mut owners = Owners::default();
        let stored = store.workspaces(partition)?;
        let absent = |stored| Self::stored(stored, store, &mut owners);
        Ok(stored.iter().map(absent).collect())
    }

    /// A workspace that leaves the tracker in this status.
    pub(crate) fn leaving(snapshot: &Snapshot, partition: PartitionId, is_unloaded: bool) -> Self {
        let last = snapshot.recent_history(1);
        let owner = snapshot.owner().map(Arc::from);
        let last_known = last.last().map(|last| {
            LastKnown::of_transition(
                (last.from_state(), last.to_state()),
                last.timestamp(),
                last.epoch(),
                owner,
            )
        });
        Self {
            id: snapshot.id().clone(),
            partition,
            since: snapshot.observed_at(),
            last_known,
            is_unloaded,
        }
    }

    /// A workspace that a store holds; reads the last part of its history.
    fn stored(stored: &StoredWorkspace, store: &dyn Store, owners: &mut Owners) -> Self {
        // Of the last load; where that has left no record, of the one before.
        let last = last_of_load(store, &stored.id, stored.epoch)
            .or_else(|| last_of_load(store, &stored.id, before(stored.epoch)?));
        let last_known = last.map(|last| {
            LastKnown::of_transition(
                (last.from, last.to),
                SystemTime::UNIX_EPOCH + Duration::from_millis(last.at_ms),
                last.epoch,
                owners.shared(last.owner),
            )
        });
        Self {
            id: stored.id.clone(),
            partition: stored.partition,
            since: last_known
                .as_ref()
                .map_or(SystemTime::UNIX_EPOCH, |known| known.at),
            last_known,
            is_unloaded: stored.unloaded,
        }
    }

    /// Whether what is known of it is of this load.
    fn is_of(&self, epoch: Epoch) -> bool {
        self.last_known
            .as_ref()
            .is_some_and(|known| known.epoch == epoch)
    }
}

fn before(epoch: Epoch) -> Option<Epoch> {
    Some(Epoch::new(epoch.get().checked_sub(1)?))
}

/// The last transition of a load; none where there is no record of it, or it cannot be read: what was
/// last known is shown where it can be, and stands against nothing else.
fn last_of_load(store: &dyn Store, id: &WorkspaceId, epoch: Epoch) -> Option<HistoryRecord> {
    let mut place = (epoch, 0);
    let mut last = None;
    loop {
        let records = store.history(id, Some(place), TRANSITIONS_OF_A_LOAD).ok()?;
        let Some(newest) = records.into_iter().next_back() else {
            return last;
        };
        place = (newest.epoch, newest.sequence);
        last = Some(newest);
    }
}

/// Names of owners, of which there are few, each in memory once.
#[derive(Default)]
struct Owners(HashMap<String, Arc<str>>);

impl Owners {
    fn shared(&mut self, name: String) -> Option<Arc<str>> {
        if name.is_empty() {
            return None;
        }
        let shared = self
            .0
            .entry(name)
            .or_insert_with_key(|name| name.as_str().into());
        Some(Arc::clone(shared))
    }
}

/// All workspaces that are known and not in memory, ordered by id.
#[derive(Debug, Default)]
pub struct AbsentWorkspaces {
    by_id: RwLock<BTreeMap<WorkspaceId, Arc<AbsentWorkspace>>>,
}

impl AbsentWorkspaces {
    /// One of them.
    pub fn get(&self, id: &str) -> Option<Arc<AbsentWorkspace>> {
        self.by_id.read().get(id).cloned()
    }

    /// The first of those after `after` whose ids begin with `prefix`, at most so many.
    pub fn after(
        &self,
        after: Option<&WorkspaceId>,
        prefix: &str,
        limit: usize,
    ) -> Vec<Arc<AbsentWorkspace>> {
        let from = match after {
            Some(id) if id.as_str() >= prefix => Bound::Excluded(id.as_str()),
            Some(_) | None => Bound::Included(prefix),
        };
        self.by_id
            .read()
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(_, absent)| absent)
            .take_while(|absent| absent.id.starts_with(prefix))
            .take(limit)
            .cloned()
            .collect()
    }

    /// What `count` makes of their number, while none comes or goes: with a count of the tracker, every
    /// workspace is counted once.
    pub fn counted<T>(&self, count: impl FnOnce(usize) -> T) -> T {
        let by_id = self.by_id.read();
        count(by_id.len())
    }

    /// A workspace leaves memory: `leave` takes it out of the tracker.
    pub(crate) fn enter(&self, absent: AbsentWorkspace, leave: impl FnOnce()) {
        let mut by_id = self.by_id.write();
        by_id.insert(absent.id.clone(), Arc::new(absent));
        leave();
    }

    /// A workspace begins to load: `begin` puts it into the tracker.
    pub(crate) fn leave<T>(&self, id: &WorkspaceId, begin: impl FnOnce() -> T) -> T {
        let mut by_id = self.by_id.write();
        by_id.remove(id);
        begin()
    }

    /// A workspace was deleted.
    pub(crate) fn forget(&self, id: &WorkspaceId) {
        self.by_id.write().remove(id);
    }

    /// A partition was listed by its owner. What it holds is entered: those that an operator unloaded stay, the
    /// others begin to load at once. What is not in the list was deleted.
    pub(crate) fn listed(
        &self,
        partition: PartitionId,
        stored: &[StoredWorkspace],
        store: &dyn Store,
        now: SystemTime,
    ) {
        let mut owners = Owners::default();
        let entered: Vec<_> = stored
            .iter()
            .map(|stored| match self.get(&stored.id) {
                Some(known) if known.is_of(stored.epoch) || !stored.unloaded => AbsentWorkspace {
                    is_unloaded: stored.unloaded,
                    ..AbsentWorkspace::clone(&known)
                },
                Some(_) | None if stored.unloaded => {
                    AbsentWorkspace::stored(stored, store, &mut owners)
                }
                // Its history is not read: it is in the tracker in a moment.
                Some(_) | None => AbsentWorkspace {
                    id: stored.id.clone(),
                    partition,
                    since: now,
                    last_known: None,
                    is_unloaded: false,
                },
            })
            .collect();
        let mut by_id = self.by_id.write();
        by_id.retain(|_, absent| absent.partition != partition);
        by_id.extend(
            entered
                .into_iter()
                .map(|absent| (absent.id.clone(), Arc::new(absent))),
        );
    }

    /// Enters workspaces of partitions that this process does not own. What is known of one already stays.
    pub fn remember(&self, known: Vec<AbsentWorkspace>) {
        let mut by_id = self.by_id.write();
        for absent in known {
            by_id
                .entry(absent.id.clone())
                .or_insert_with(|| Arc::new(absent));
        }
    }
}
