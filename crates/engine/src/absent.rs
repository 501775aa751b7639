//! Workspaces that are known and not in memory, so that lists and counts include them without a query of the store.
//!
//! *Invariant:* a workspace that this process knows is in the tracker or here, and never in both: a workspace that
//! leaves the tracker is entered here under one lock, and one that begins to load is removed under the same lock. An
//! entry takes about 200 bytes; there is at most one for each workspace.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;
use workspace_lifecycle::{PartitionId, Residence};
use workspace_status::{Epoch, LastKnown, Snapshot, WorkspaceId};

use crate::store::{HistoryRecord, Store, StoreError, StoredWorkspace};

/// Transitions per read when the last one of a load is searched.
const TRANSITIONS_OF_A_LOAD: usize = 1_000;

/// A workspace that is known and not in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsentWorkspace {
    /// The workspace.
    pub id: WorkspaceId,
    /// The partition of its events.
    pub partition: PartitionId,
    /// When it left memory, as far as that is known.
    pub since: SystemTime,
    /// Its last known state.
    pub last_known: Option<LastKnown>,
    /// Whether its owner keeps it out of memory, and why.
    pub(crate) residence: Residence,
}

impl AbsentWorkspace {
    /// The workspaces of a partition that this process does not own, as its store knows them from the time when it
    /// owned the partition.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not list the partition.
    pub fn all_stored(partition: PartitionId, store: &dyn Store) -> Result<Vec<Self>, StoreError> {
        let mut owners = Owners::default();
        let stored = store.workspaces(partition)?;
        let absent = |stored| Self::stored(stored, store, &mut owners);
        Ok(stored.iter().map(absent).collect())
    }

    /// A workspace that leaves the tracker with this status.
    pub(crate) fn leaving(
        snapshot: &Snapshot,
        partition: PartitionId,
        residence: Residence,
    ) -> Self {
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
            residence,
        }
    }

    /// A workspace in the store; reads the end of its history.
    fn stored(stored: &StoredWorkspace, store: &dyn Store, owners: &mut Owners) -> Self {
        // The last transition of the last load; if that load has left no record, of the load before it.
        let last = last_of_load(store, &stored.id, stored.epoch)
            .or_else(|| last_of_load(store, &stored.id, before(stored.epoch)?));
        let last_known = last.map(|last| {
            LastKnown::of_transition(
                (last.transition.from, last.transition.to),
                last.at(),
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
            residence: stored.residence,
        }
    }

    /// Whether its last known state is of this load.
    fn is_of(&self, epoch: Epoch) -> bool {
        self.last_known
            .as_ref()
            .is_some_and(|known| known.epoch == epoch)
    }
}

fn is_loaded(stored: &StoredWorkspace) -> bool {
    stored.residence == Residence::Memory
}

fn before(epoch: Epoch) -> Option<Epoch> {
    Some(Epoch::new(epoch.get().checked_sub(1)?))
}

/// The last transition of a load; `None` if the load has no record or it cannot be read. A failed read only leaves the
/// last known state out.
fn last_of_load(store: &dyn Store, id: &WorkspaceId, epoch: Epoch) -> Option<HistoryRecord> {
    let mut place = (epoch, 0);
    let mut last = None;
    loop {
        let records = store.history(id, Some(place), TRANSITIONS_OF_A_LOAD).ok()?;
        let Some(newest) = records.into_iter().next_back() else {
            return last;
        };
        place = newest.cursor();
        last = Some(newest);
    }
}

/// Names of owners, each in memory once: there are few of them.
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
    /// One absent workspace.
    pub fn get(&self, id: &str) -> Option<Arc<AbsentWorkspace>> {
        self.by_id.read().get(id).cloned()
    }

    /// At most `limit` workspaces after `after` whose ids begin with `prefix`.
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

    /// The result of `count` for the number of absent workspaces, which does not change meanwhile: if `count` adds the
    /// tracker's count, every workspace is counted once.
    pub fn counted<T>(&self, count: impl FnOnce(usize) -> T) -> T {
        let by_id = self.by_id.read();
        count(by_id.len())
    }

    /// A workspace leaves memory: `leave` removes it from the tracker.
    pub(crate) fn enter(&self, absent: AbsentWorkspace, leave: impl FnOnce()) {
        let mut by_id = self.by_id.write();
        by_id.insert(absent.id.clone(), Arc::new(absent));
        leave();
    }

    /// A workspace begins to load: `begin` adds it to the tracker.
    pub(crate) fn leave<T>(&self, id: &WorkspaceId, begin: impl FnOnce() -> T) -> T {
        let mut by_id = self.by_id.write();
        by_id.remove(id);
        begin()
    }

    /// A workspace that is not in memory stays out of it for another reason than before.
    pub(crate) fn set_residence(&self, id: &WorkspaceId, residence: Residence) {
        if let Some(absent) = self.by_id.write().get_mut(id) {
            Arc::make_mut(absent).residence = residence;
        }
    }

    /// A workspace was deleted.
    pub(crate) fn forget(&self, id: &WorkspaceId) {
        self.by_id.write().remove(id);
    }

    /// A partition was listed by its owner, and its workspaces are entered: those kept out of memory stay, the
    /// others begin to load at once. A workspace that is not in the list was deleted.
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
                Some(known) if known.is_of(stored.epoch) || is_loaded(stored) => AbsentWorkspace {
                    residence: stored.residence,
                    ..AbsentWorkspace::clone(&known)
                },
                Some(_) | None if !is_loaded(stored) => {
                    AbsentWorkspace::stored(stored, store, &mut owners)
                }
                // Its history is not read, because it enters the tracker in a moment.
                Some(_) | None => AbsentWorkspace {
                    id: stored.id.clone(),
                    partition,
                    since: now,
                    last_known: None,
                    residence: Residence::Memory,
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

    /// Enters workspaces of partitions that this process does not own. An entry that exists already is kept.
    pub fn remember(&self, known: Vec<AbsentWorkspace>) {
        let mut by_id = self.by_id.write();
        for absent in known {
            by_id
                .entry(absent.id.clone())
                .or_insert_with(|| Arc::new(absent));
        }
    }
}
