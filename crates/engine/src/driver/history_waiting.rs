//! Transitions that wait to be written to the store.
//!
//! What the store does not accept is kept and retried, because the status itself remembers only the last transitions of
//! a workspace. A store may refuse every workspace (its disk is full) or one (its file cannot be written). Refused
//! workspaces are kept apart and retried one by one, so that they do not hold up the others.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use workspace_status::WorkspaceId;

use crate::counters::EngineCounters;
use crate::store::{HistoryRecord, Store, StoreError};

/// Most transitions that are written at once.
const RECORDS_PER_WRITE: usize = 4096;

/// Most transitions that wait while the store does not accept them, some hundred bytes each; beyond that the oldest are
/// dropped and counted as lost.
const MAX_RECORDS_WAITING: usize = 65_536;

/// Wait after the store refused something.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Longest wait between two attempts for a workspace that is refused repeatedly.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// A write stops after this many refused workspaces and is retried later, so that a store that accepts nothing does not
/// get a request for every workspace each time.
const REFUSALS_PER_WRITE: usize = 64;

/// Transitions that are not in the store yet.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Oldest first.
    records: VecDeque<HistoryRecord>,
    /// Earliest next write after the store refused every workspace.
    retry_at: Option<Instant>,
    /// Workspaces whose transitions the store refused while it may accept those of others.
    refused: HashMap<WorkspaceId, Refused>,
}

/// The transitions of a workspace that is retried by itself.
#[derive(Debug)]
struct Refused {
    /// Oldest first; older than those of the same workspace among the others.
    records: VecDeque<HistoryRecord>,
    retry_at: Instant,
    retry_after: Duration,
    /// The last error; it is logged when it changes.
    logged: Option<StoreError>,
}

/// The store's answer for one workspace.
enum Answer {
    /// The transitions are in the store, or can never be.
    Settled,
    /// This workspace is retried later.
    Refused(StoreError),
    /// Every workspace is retried later: the disk is full.
    Full(StoreError),
}

impl Waiting {
    /// Adds the newest transition of a workspace.
    pub(super) fn push(&mut self, record: HistoryRecord) {
        match self.refused.get_mut(&record.id) {
            Some(refused) => refused.records.push_back(record),
            None => self.records.push_back(record),
        }
    }

    /// Writes the waiting transitions, as far as the store accepts them.
    pub(super) fn write(&mut self, store: &dyn Store, counters: &EngineCounters, now: Instant) {
        if self.retry_at.is_none_or(|at| at <= now) {
            let was_away = self.retry_at.take().is_some();
            let mut refusals = 0;
            let written = self
                .write_batches(store, counters, now, &mut refusals)
                .and_then(|()| {
                    if was_away {
                        // Workspaces refused during the outage may have been refused only because of it.
                        self.retry_refused_at(now);
                    }
                    self.write_refused(store, counters, now, &mut refusals)
                });
            if let Err(error) = written {
                tracing::error!(%error, "transitions cannot be written to the durable history");
                self.retry_at = Some(now + RETRY_AFTER);
            }
        }
        self.keep_few(counters);
    }

    /// Makes the next write try everything, also what was refused before.
    pub(super) fn retry_now(&mut self) {
        self.retry_at = None;
        self.retry_refused_at(Instant::now());
    }

    fn retry_refused_at(&mut self, now: Instant) {
        for refused in self.refused.values_mut() {
            refused.retry_at = now;
        }
    }

    /// Drops everything that waits, and counts it as lost.
    pub(super) fn discard_all(&mut self, counters: &EngineCounters) {
        let count = self.count();
        self.records.clear();
        self.refused.clear();
        lost(counters, count);
    }

    fn write_batches(
        &mut self,
        store: &dyn Store,
        counters: &EngineCounters,
        now: Instant,
        refusals: &mut usize,
    ) -> Result<(), StoreError> {
        while !self.records.is_empty() {
            let some = self.records.len().min(RECORDS_PER_WRITE);
            let batch: Vec<_> = self.records.drain(..some).collect();
            match store.append_history(batch.clone()) {
                Ok(()) => {}
                // A full disk affects every workspace; any other error may concern only one.
                Err(error @ StoreError::NoSpace(_)) => {
                    self.put_back(batch);
                    return Err(error);
                }
                Err(_) => self.write_alone(store, counters, batch, now, refusals)?,
            }
        }
        Ok(())
    }

    /// Writes each workspace of a batch by itself, and keeps the refused ones apart.
    fn write_alone(
        &mut self,
        store: &dyn Store,
        counters: &EngineCounters,
        batch: Vec<HistoryRecord>,
        now: Instant,
        refusals: &mut usize,
    ) -> Result<(), StoreError> {
        let mut by_workspace: BTreeMap<WorkspaceId, Vec<HistoryRecord>> = BTreeMap::new();
        for record in batch {
            by_workspace
                .entry(record.id.clone())
                .or_default()
                .push(record);
        }
        while let Some((id, mut records)) = by_workspace.pop_first() {
            let stop = match append_alone(store, counters, &id, &mut records) {
                Answer::Settled => None,
                Answer::Refused(error) => {
                    self.set_apart(id, records, now);
                    *refusals += 1;
                    (*refusals >= REFUSALS_PER_WRITE).then_some(error)
                }
                Answer::Full(error) => {
                    self.put_back(records);
                    Some(error)
                }
            };
            if let Some(error) = stop {
                self.put_back(by_workspace.into_values().flatten());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Retries the refused workspaces that are due, the longest overdue first.
    fn write_refused(
        &mut self,
        store: &dyn Store,
        counters: &EngineCounters,
        now: Instant,
        refusals: &mut usize,
    ) -> Result<(), StoreError> {
        let mut due: Vec<_> = self
            .refused
            .iter()
            .filter(|(_, refused)| refused.retry_at <= now)
            .map(|(id, refused)| (refused.retry_at, id.clone()))
            .collect();
        due.sort();
        for (_, id) in due {
            if *refusals >= REFUSALS_PER_WRITE {
                // The others keep their `retry_at`, so the next write begins with them.
                break;
            }
            let Some(mut refused) = self.refused.remove(&id) else {
                continue;
            };
            match refused.write(store, counters, &id) {
                Answer::Settled => {}
                Answer::Refused(error) => {
                    *refusals += 1;
                    refused.retry_after = (refused.retry_after * 2).min(MAX_RETRY_AFTER);
                    refused.retry_at = now + refused.retry_after;
                    if refused.logged.as_ref() != Some(&error) {
                        tracing::error!(workspace = %id, %error, "the history of a workspace cannot be written; it is tried again");
                    }
                    refused.logged = Some(error);
                    self.refused.insert(id, refused);
                }
                Answer::Full(error) => {
                    self.refused.insert(id, refused);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Keeps a refused workspace apart, with all its waiting transitions.
    fn set_apart(&mut self, id: WorkspaceId, records: Vec<HistoryRecord>, now: Instant) {
        tracing::debug!(workspace = %id, "the history of a workspace cannot be written; it is tried by itself");
        let mut records = VecDeque::from(records);
        self.records.retain(|record| {
            let is_its = record.id == id;
            if is_its {
                records.push_back(record.clone());
            }
            !is_its
        });
        let refused = Refused {
            records,
            retry_at: now + RETRY_AFTER,
            retry_after: RETRY_AFTER,
            logged: None,
        };
        self.refused.insert(id, refused);
    }

    /// Puts records in front of the waiting ones; they are the oldest of each workspace.
    fn put_back(&mut self, records: impl IntoIterator<Item = HistoryRecord>) {
        put_before(&mut self.records, records);
    }

    fn count(&self) -> usize {
        let refused = self.refused.values().map(|refused| refused.records.len());
        self.records.len() + refused.sum::<usize>()
    }

    /// Drops the oldest transitions beyond the limit: those of the refused workspace with the most, while there is one.
    fn keep_few(&mut self, counters: &EngineCounters) {
        let mut excess = self.count().saturating_sub(MAX_RECORDS_WAITING);
        while excess > 0 {
            let most = self
                .refused
                .values_mut()
                .map(|refused| &mut refused.records)
                .max_by_key(|records| records.len());
            let from = most
                .filter(|records| !records.is_empty())
                .unwrap_or(&mut self.records);
            let some = excess.min(from.len());
            from.drain(..some);
            lost(counters, some);
            excess -= some;
        }
    }
}

impl Refused {
    /// Writes as much as the store accepts.
    fn write(&mut self, store: &dyn Store, counters: &EngineCounters, id: &WorkspaceId) -> Answer {
        while !self.records.is_empty() {
            let some = self.records.len().min(RECORDS_PER_WRITE);
            let mut records: Vec<_> = self.records.drain(..some).collect();
            match append_alone(store, counters, id, &mut records) {
                Answer::Settled => {}
                answer @ (Answer::Refused(_) | Answer::Full(_)) => {
                    put_before(&mut self.records, records);
                    return answer;
                }
            }
        }
        Answer::Settled
    }
}

fn put_before(
    waiting: &mut VecDeque<HistoryRecord>,
    records: impl IntoIterator<Item = HistoryRecord>,
) {
    let mut all: VecDeque<_> = records.into_iter().collect();
    all.append(waiting);
    *waiting = all;
}

/// Writes transitions of one workspace. A permanent error, such as a damaged file, loses them all; a fenced epoch,
/// which belongs to another owner, loses only its own transitions.
fn append_alone(
    store: &dyn Store,
    counters: &EngineCounters,
    id: &WorkspaceId,
    records: &mut Vec<HistoryRecord>,
) -> Answer {
    match store.append_history(records.clone()) {
        Ok(()) => Answer::Settled,
        Err(error @ StoreError::Fenced { attempted, .. })
            if records.iter().any(|record| record.epoch == attempted) =>
        {
            tracing::warn!(workspace = %id, %error, "the history of a workspace takes none of a load that another owner made");
            let before = records.len();
            records.retain(|record| record.epoch != attempted);
            lost(counters, before - records.len());
            append_alone(store, counters, id, records)
        }
        Err(error @ StoreError::NoSpace(_)) => Answer::Full(error),
        Err(error @ (StoreError::Unavailable(_) | StoreError::NotServed { .. })) => {
            Answer::Refused(error)
        }
        Err(
            error @ (StoreError::Corrupt { .. }
            | StoreError::Refused { .. }
            | StoreError::Fenced { .. }
            | StoreError::OtherLog { .. }
            | StoreError::LostEnd { .. }
            | StoreError::UnknownWorkspace(_)),
        ) => {
            tracing::error!(workspace = %id, %error, "the history of a workspace takes no more transitions");
            lost(counters, records.len());
            Answer::Settled
        }
    }
}

fn lost(counters: &EngineCounters, count: usize) {
    if count > 0 {
        counters
            .history_lost
            .add(u64::try_from(count).unwrap_or(u64::MAX));
        tracing::error!(count, "transitions are missing in the durable history");
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::store::conformance::{HeldUp, id, transition};
    use crate::store::{
        Claim, Deletion, EntrySink, Erase, HistoryCursor, MemoryStore, Ownership, Save,
        SaveRefused, StoredWorkspace,
    };
    use parking_lot::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use workspace_lifecycle::{Offset, PartitionId};
    use workspace_status::Epoch;

    /// A store that refuses the histories of some workspaces, or the saves of a partition.
    #[derive(Default)]
    pub(crate) struct Choosy {
        pub(crate) ownership: HeldUp,
        memory: MemoryStore,
        against: Mutex<HashMap<WorkspaceId, StoreError>>,
        /// Appends that were refused.
        refusals: AtomicUsize,
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
        fn ownership(&self) -> &dyn Ownership {
            &self.ownership
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
        fn reset(&self, erase: Erase) -> Result<StoredWorkspace, StoreError> {
            self.memory.reset(erase)
        }
        fn delete(&self, erase: Erase) -> Result<Deletion, StoreError> {
            self.memory.delete(erase)
        }
        fn deletions(&self, partition: PartitionId) -> Result<Vec<Deletion>, StoreError> {
            self.memory.deletions(partition)
        }
        fn purge(&self, id: &WorkspaceId) -> Result<(), StoreError> {
            self.memory.purge(id)
        }
        fn append_history(&self, records: Vec<HistoryRecord>) -> Result<(), StoreError> {
            let against = self.against.lock();
            let mut first = Ok(());
            for record in &records {
                let has_epoch = |epoch| {
                    records
                        .iter()
                        .any(|of| (&of.id, of.epoch) == (&record.id, epoch))
                };
                match against.get(&record.id) {
                    Some(StoreError::Fenced { attempted, .. }) if !has_epoch(*attempted) => {
                        self.memory.append_history(vec![record.clone()])?;
                    }
                    Some(error) => first = first.and(Err(error.clone())),
                    None => self.memory.append_history(vec![record.clone()])?,
                }
            }
            if first.is_err() {
                self.refusals.fetch_add(1, Ordering::Relaxed);
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
        fn needs_restart(&self) -> Option<String> {
            None
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
                waiting.push(transition("acme", 1, number));
                waiting.push(transition("other", 1, number));
            }
            waiting.write(&store, &counters, now);
            assert_eq!(store.numbers("other"), [1, 2], "harmed by no other");
            assert_eq!(counters.history_lost.get(), lost);

            store.against.lock().clear();
            waiting.push(transition("acme", 1, 3));
            waiting.write(&store, &counters, now);
            if lost == 0 {
                assert!(
                    store.numbers("acme").is_empty(),
                    "not before the wait is over"
                );
            }
            waiting.write(&store, &counters, now + RETRY_AFTER);
            let expected: &[u64] = if lost == 0 { &[1, 2, 3] } else { &[3] };
            assert_eq!(store.numbers("acme"), expected);
            assert_eq!(waiting.count(), 0);
        }
    }

    #[test]
    fn transitions_of_an_epoch_that_another_owner_began_are_lost_alone() {
        let (store, counters) = (Choosy::default(), EngineCounters::default());
        let mut waiting = Waiting::default();
        let fenced = StoreError::Fenced {
            id: id("acme"),
            attempted: Epoch::new(2),
            stored: Epoch::new(2),
        };
        store.against.lock().insert(id("acme"), fenced);
        for (epoch, number) in [(1, 1), (2, 2), (2, 3), (3, 4)] {
            waiting.push(transition("acme", epoch, number));
        }
        waiting.write(&store, &counters, Instant::now());
        assert_eq!(store.numbers("acme"), [1, 4]);
        assert_eq!((waiting.count(), counters.history_lost.get()), (0, 2));
    }

    #[test]
    fn of_too_many_that_wait_the_oldest_are_given_up_and_counted() {
        let (store, counters) = (Choosy::default(), EngineCounters::default());
        let error = StoreError::Unavailable("away".to_owned());
        store.against.lock().insert(id("acme"), error);
        let mut waiting = Waiting::default();
        let most = u64::try_from(MAX_RECORDS_WAITING).expect("small");
        for number in 1..=most + 7 {
            waiting.push(transition("acme", 1, number));
        }
        waiting.write(&store, &counters, Instant::now());
        assert_eq!(waiting.count(), MAX_RECORDS_WAITING);
        assert_eq!(counters.history_lost.get(), 7);
        store.against.lock().clear();
        waiting.write(&store, &counters, Instant::now() + RETRY_AFTER);
        assert_eq!(store.numbers("acme").last(), Some(&(most + 7)));
    }

    #[test]
    fn a_history_that_cannot_be_written_holds_up_no_other_and_is_asked_for_less_and_less() {
        let (store, counters) = (Choosy::default(), EngineCounters::default());
        let away = StoreError::Unavailable("its file cannot be written".to_owned());
        store.against.lock().insert(id("acme"), away);
        let mut waiting = Waiting::default();
        // The first batch holds only transitions of the refused workspace.
        let many = u64::try_from(RECORDS_PER_WRITE).expect("small") + 5;
        for number in 1..=many {
            waiting.push(transition("acme", 1, number));
        }
        let began = Instant::now();
        let mut asked_at = Vec::new();
        for second in 0..100 {
            waiting.push(transition("other", 1, second + 1));
            store.refusals.store(0, Ordering::Relaxed);
            waiting.write(&store, &counters, began + Duration::from_secs(second));
            assert_eq!(store.numbers("other").last(), Some(&(second + 1)));
            if store.refusals.load(Ordering::Relaxed) > 0 {
                asked_at.push(second);
            }
        }
        assert_eq!(asked_at, [0, 1, 3, 7, 15, 31, 61, 91]);

        store.against.lock().clear();
        waiting.push(transition("acme", 1, many + 1));
        waiting.retry_now();
        waiting.write(&store, &counters, Instant::now());
        assert!(store.numbers("acme").into_iter().eq(1..=many + 1));
        assert_eq!((waiting.count(), counters.history_lost.get()), (0, 0));
    }

    #[test]
    fn a_store_that_refuses_everybody_is_asked_a_limited_number_of_times_and_gets_all_when_it_is_back()
     {
        let (store, counters) = (Choosy::default(), EngineCounters::default());
        let away = StoreError::Unavailable("away".to_owned());
        let names: Vec<_> = (0..1000).map(|number| format!("w-{number}")).collect();
        let mut waiting = Waiting::default();
        for name in &names {
            store.against.lock().insert(id(name), away.clone());
            waiting.push(transition(name, 1, 1));
        }
        let now = Instant::now();
        for second in 0..3 {
            store.refusals.store(0, Ordering::Relaxed);
            waiting.write(&store, &counters, now + RETRY_AFTER * second);
            let refusals = store.refusals.load(Ordering::Relaxed);
            assert!(refusals <= REFUSALS_PER_WRITE + 1, "{refusals}");
        }
        store.against.lock().clear();
        waiting.write(&store, &counters, now + RETRY_AFTER * 3);
        assert!(names.iter().all(|name| store.numbers(name) == [1]));
        assert_eq!((waiting.count(), counters.history_lost.get()), (0, 0));
    }
}
