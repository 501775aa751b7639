//! Writes every transition to the store, from the status' change feed.
//!
//! What the store does not take is kept and tried again, because the status itself
//! remembers only the last transitions of a workspace.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use workspace_status::{ChangeKind, Epoch, FeedItem, Watcher, WorkspaceId, WorkspaceStatus};

use super::saver::micros;
use crate::counters::EngineCounters;
use crate::shared::Shared;
use crate::store::{HistoryRecord, Store, StoreError};
use crate::workspace::Workspace;

/// How long transitions are gathered before they are written.
const GATHER: Duration = Duration::from_millis(100);

/// Most workspaces whose transitions are gathered before a write.
const WORKSPACES_PER_WRITE: usize = 1024;

/// Most transitions that are written at once.
const RECORDS_PER_WRITE: usize = 4096;

/// Most transitions that wait for a store which does not take them, some hundred bytes each;
/// beyond, the oldest are given up and counted as lost.
const RECORDS_WAITING_MOST: usize = 65_536;

/// How long to wait after the store took something not.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The last transition taken from the status, of each workspace in the tracker.
#[derive(Default)]
struct Taken(HashMap<WorkspaceId, (Epoch, u64)>);

/// Transitions that are not in the store yet, oldest first.
#[derive(Default)]
struct Waiting {
    records: VecDeque<HistoryRecord>,
    retry_at: Option<Instant>,
}

/// Writes until the engine ends, and once more then. The watcher is older than the first
/// partition: the feed keeps nothing before somebody watches.
pub(crate) fn run<W: Workspace>(shared: &Shared<W>, mut watcher: Watcher) {
    let mut taken = Taken::default();
    let mut waiting = Waiting::default();
    loop {
        shared.history.begin();
        let ending = shared.ending.load(Ordering::Acquire);
        let mut changed = HashSet::new();
        let mut removed = Vec::new();
        let mut gather_until = Instant::now();
        if !shared.history.is_hurried() {
            gather_until += GATHER;
        }
        while changed.len() < WORKSPACES_PER_WRITE {
            let Some(item) = watcher.next_deadline(gather_until) else {
                break;
            };
            match item {
                FeedItem::Change(change) => match change.kind {
                    ChangeKind::Transition { .. } => {
                        changed.insert(change.workspace_id);
                    }
                    ChangeKind::Removed => removed.push(change.workspace_id),
                    ChangeKind::Created | ChangeKind::Message | ChangeKind::Metadata => {}
                },
                // The feed went on without this reader: the last 20 transitions of each are still in memory.
                FeedItem::Resync { .. } => {
                    for snapshot in shared.tracker.list_all() {
                        changed.extend(WorkspaceId::new(snapshot.workspace_id()));
                    }
                }
            }
        }
        // Those that have left the tracker come first: they are older than whoever has their name now.
        for status in std::mem::take(&mut *shared.left.lock()) {
            taken.take(&status, &mut waiting.records);
        }
        for id in &changed {
            if let Some(status) = shared.tracker.get(id) {
                taken.take(&status, &mut waiting.records);
            }
        }
        for id in removed {
            if shared.tracker.get(&id).is_none() {
                taken.0.remove(&id);
            }
        }
        if ending {
            waiting.retry_at = None;
        }
        waiting.write(&*shared.store, &shared.counters, Instant::now());
        shared.history.end();
        if ending {
            shared.history.finish();
            waiting.give_up(waiting.records.len(), &shared.counters);
            return;
        }
    }
}

impl Taken {
    /// Takes the transitions that were not taken yet.
    fn take(&mut self, status: &WorkspaceStatus, records: &mut VecDeque<HistoryRecord>) {
        let snapshot = status.snapshot();
        let id = status.id();
        let taken = self.0.entry(id.clone()).or_insert((Epoch::new(0), 0));
        for transition in snapshot.state_history() {
            let place = (transition.epoch(), transition.sequence());
            if place <= *taken {
                continue;
            }
            *taken = place;
            records.push_back(HistoryRecord {
                id: id.clone(),
                sequence: transition.sequence(),
                epoch: transition.epoch(),
                owner: snapshot.owner().unwrap_or_default().to_owned(),
                from: transition.from_state(),
                to: transition.to_state(),
                at_ms: transition
                    .timestamp()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .map_or(0, |since| {
                        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
                    }),
                time_in_from_us: micros(transition.time_in_from()),
                message: transition.message().to_owned(),
            });
        }
    }
}

impl Waiting {
    /// Writes what waits, as far as the store takes it.
    fn write(&mut self, store: &dyn Store, counters: &EngineCounters, now: Instant) {
        if self.records.is_empty() || self.retry_at.is_some_and(|at| now < at) {
            self.keep_few(counters);
            return;
        }
        self.retry_at = None;
        let mut kept = VecDeque::new();
        while !self.records.is_empty() {
            let some = self.records.len().min(RECORDS_PER_WRITE);
            let batch: Vec<_> = self.records.drain(..some).collect();
            let Err(error) = store.append_history(batch.clone()) else {
                continue;
            };
            tracing::error!(%error, "transitions cannot be written to the durable history");
            self.retry_at = Some(now + RETRY_AFTER);
            // A full disk is full for everybody; anything else may stand against one workspace only.
            if matches!(error, StoreError::NoSpace(_)) {
                kept.extend(batch);
                break;
            }
            let before = batch.len();
            let refused = one_by_one(store, counters, batch);
            let none_taken = refused.len() == before;
            kept.extend(refused);
            if none_taken {
                break;
            }
        }
        kept.append(&mut self.records);
        self.records = kept;
        self.keep_few(counters);
    }

    fn keep_few(&mut self, counters: &EngineCounters) {
        self.give_up(
            self.records.len().saturating_sub(RECORDS_WAITING_MOST),
            counters,
        );
    }

    /// Gives up the oldest that wait.
    fn give_up(&mut self, count: usize, counters: &EngineCounters) {
        if count > 0 {
            self.records.drain(..count);
            lost(counters, count);
        }
    }
}

/// Writes the transitions of each workspace alone and gives back those that may be written later.
/// What stands against a workspace for good, such as a damaged file, loses its transitions.
fn one_by_one(
    store: &dyn Store,
    counters: &EngineCounters,
    records: Vec<HistoryRecord>,
) -> Vec<HistoryRecord> {
    let mut by_workspace: BTreeMap<WorkspaceId, Vec<HistoryRecord>> = BTreeMap::new();
    for record in records {
        by_workspace
            .entry(record.id.clone())
            .or_default()
            .push(record);
    }
    let mut later = Vec::new();
    for (id, records) in by_workspace {
        match store.append_history(records.clone()) {
            Ok(()) => {}
            Err(StoreError::NoSpace(_) | StoreError::Unavailable(_)) => later.extend(records),
            Err(
                error @ (StoreError::Corrupt { .. }
                | StoreError::Refused { .. }
                | StoreError::Fenced { .. }
                | StoreError::UnknownWorkspace(_)),
            ) => {
                tracing::error!(workspace = %id, %error, "the history of a workspace takes no more transitions");
                lost(counters, records.len());
            }
        }
    }
    later
}

fn lost(counters: &EngineCounters, count: usize) {
    counters
        .history_lost
        .add(u64::try_from(count).unwrap_or(u64::MAX));
    tracing::error!(count, "transitions are missing in the durable history");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{id, transition};
    use crate::store::{
        Claim, EntrySink, HistoryCursor, MemoryStore, Save, SaveRefused, StoredWorkspace,
    };
    use parking_lot::Mutex;
    use workspace_lifecycle::{Offset, PartitionId};

    /// A store that does not take the histories of some workspaces.
    #[derive(Default)]
    struct Choosy {
        memory: MemoryStore,
        against: Mutex<HashMap<WorkspaceId, StoreError>>,
    }

    impl Choosy {
        fn numbers(&self, text: &str) -> Vec<u64> {
            let history = self.memory.history(&id(text), None, usize::MAX);
            let history = history.expect("readable");
            history.iter().map(|record| record.sequence).collect()
        }
    }

    impl Store for Choosy {
        fn is_durable(&self) -> bool {
            true
        }
        fn workspaces(&self, of: PartitionId) -> Result<Vec<StoredWorkspace>, StoreError> {
            self.memory.workspaces(of)
        }
        fn workspace(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
            self.memory.workspace(id)
        }
        fn committed(&self, partition: PartitionId) -> Result<Offset, StoreError> {
            self.memory.committed(partition)
        }
        fn claim(&self, claim: Claim) -> Result<StoredWorkspace, StoreError> {
            self.memory.claim(claim)
        }
        fn load(&self, id: &WorkspaceId, to: EntrySink<'_>) -> Result<StoredWorkspace, StoreError> {
            self.memory.load(id, to)
        }
        fn save(
            &self,
            saves: &[Save],
            committed: &[(PartitionId, Offset)],
        ) -> Result<Vec<SaveRefused>, StoreError> {
            self.memory.save(saves, committed)
        }
        fn delete(&self, id: &WorkspaceId) -> Result<(), StoreError> {
            self.memory.delete(id)
        }
        fn append_history(&self, records: Vec<HistoryRecord>) -> Result<(), StoreError> {
            let against = self.against.lock();
            let mut first = Ok(());
            for record in records {
                match against.get(&record.id) {
                    Some(error) => first = first.and(Err(error.clone())),
                    None => self.memory.append_history(vec![record])?,
                }
            }
            first
        }
        fn history(
            &self,
            id: &WorkspaceId,
            after: Option<HistoryCursor>,
            limit: usize,
        ) -> Result<Vec<HistoryRecord>, StoreError> {
            self.memory.history(id, after, limit)
        }
        fn sync(&self) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[test]
    fn what_the_store_does_not_take_now_is_written_when_it_does() {
        for (error, lost) in [
            (StoreError::Unavailable("a pause".to_owned()), 0),
            (StoreError::NoSpace("full".to_owned()), 0),
            (
                StoreError::Corrupt {
                    place: "its history".to_owned(),
                    reason: "damaged".to_owned(),
                },
                2,
            ),
        ] {
            let (store, counters) = (Choosy::default(), EngineCounters::default());
            let mut waiting = Waiting::default();
            let now = Instant::now();
            store.against.lock().insert(id("acme"), error);
            for number in 1..=2 {
                waiting.records.push_back(transition("acme", 1, number));
                waiting.records.push_back(transition("other", 1, number));
            }
            waiting.write(&store, &counters, now);
            assert_eq!(store.numbers("other"), [1, 2], "harmed by no other");
            assert_eq!(counters.history_lost.get(), lost);

            store.against.lock().clear();
            waiting.records.push_back(transition("acme", 1, 3));
            waiting.write(&store, &counters, now);
            assert!(
                store.numbers("acme").is_empty(),
                "not before the wait is over"
            );
            waiting.write(&store, &counters, now + RETRY_AFTER);
            let expected: &[u64] = if lost == 0 { &[1, 2, 3] } else { &[3] };
            assert_eq!(store.numbers("acme"), expected);
            assert!(waiting.records.is_empty());
        }
    }

    #[test]
    fn of_too_many_that_wait_the_oldest_are_given_up_and_counted() {
        let (store, counters) = (Choosy::default(), EngineCounters::default());
        let error = StoreError::Unavailable("away".to_owned());
        store.against.lock().insert(id("acme"), error);
        let mut waiting = Waiting::default();
        let most = u64::try_from(RECORDS_WAITING_MOST).expect("small");
        for number in 1..=most + 7 {
            waiting.records.push_back(transition("acme", 1, number));
        }
        waiting.write(&store, &counters, Instant::now());
        assert_eq!(waiting.records.len(), RECORDS_WAITING_MOST);
        assert_eq!(
            waiting.records.front().map(|record| record.sequence),
            Some(8)
        );
        assert_eq!(counters.history_lost.get(), 7);
    }
}
