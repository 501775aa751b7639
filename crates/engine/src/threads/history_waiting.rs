//! Transitions that wait to be written to the store.
//!
//! What the store does not accept is kept and retried, because the status itself remembers only the last transitions of
//! a workspace. A store may refuse every workspace (its disk is full) or one (its file cannot be written). A refused
//! workspace is retried by itself, less and less often, so that it does not hold up the others.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use workspace_status::WorkspaceId;

use crate::counters::EngineCounters;
use crate::store::{HistoryRecord, Store, StoreError};

/// Most transitions that are written at once.
const RECORDS_PER_WRITE: usize = 4096;

/// Most transitions that wait while the store does not accept them, some hundred bytes each; beyond that the oldest of
/// the workspace with the most are dropped and counted as lost.
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
    queues: BTreeMap<WorkspaceId, Queue>,
    /// Earliest next write after the store refused every workspace.
    retry_at: Option<Instant>,
}

/// The transitions of one workspace.
#[derive(Debug, Default)]
struct Queue {
    /// Oldest first.
    records: VecDeque<HistoryRecord>,
    /// The store has refused this workspace while it may accept others.
    refused: Option<Refused>,
}

#[derive(Debug)]
struct Refused {
    retry_at: Instant,
    retry_after: Duration,
    /// The last error that was logged; it is logged again when it changes.
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

/// One write of what waits.
struct Write<'a> {
    store: &'a dyn Store,
    counters: &'a EngineCounters,
    now: Instant,
    /// Workspaces that were refused so far.
    refusals: usize,
}

impl Waiting {
    /// Adds the newest transitions of a workspace, oldest first.
    pub(super) fn extend(&mut self, id: &WorkspaceId, records: Vec<HistoryRecord>) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.records.extend(records);
        } else if !records.is_empty() {
            let queue = Queue {
                records: records.into(),
                refused: None,
            };
            self.queues.insert(id.clone(), queue);
        }
    }

    /// Writes the waiting transitions, as far as the store accepts them.
    pub(super) fn write(&mut self, store: &dyn Store, counters: &EngineCounters, now: Instant) {
        if self.retry_at.is_none_or(|at| at <= now) {
            let mut write = Write {
                store,
                counters,
                now,
                refusals: 0,
            };
            let was_away = self.retry_at.take().is_some();
            let written = self.write_fresh(&mut write).and_then(|()| {
                if was_away {
                    // Workspaces refused during the outage may have been refused only because of it.
                    self.retry_refused_at(now);
                }
                self.write_refused(&mut write)
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
        let queues = self.queues.values_mut();
        for refused in queues.filter_map(|queue| queue.refused.as_mut()) {
            refused.retry_at = now;
        }
    }

    /// Drops everything that waits, and counts it as lost.
    pub(super) fn discard_all(&mut self, counters: &EngineCounters) {
        lost(counters, self.count());
        self.queues.clear();
    }

    /// Writes the workspaces that were not refused, many at a time; each by itself where the store refuses one of them.
    fn write_fresh(&mut self, write: &mut Write<'_>) -> Result<(), StoreError> {
        loop {
            let mut batch = Vec::with_capacity(self.count().min(RECORDS_PER_WRITE));
            let mut taken = Vec::new();
            for (id, queue) in &self.queues {
                if queue.refused.is_some() {
                    continue;
                }
                let room = RECORDS_PER_WRITE - batch.len();
                // A part of a load that is written again must have no fewer transitions, so only what is too large for
                // any batch is cut.
                if room < queue.records.len() && !batch.is_empty() {
                    break;
                }
                batch.extend(queue.records.iter().take(room).cloned());
                taken.push((id.clone(), queue.records.len().min(room)));
            }
            if batch.is_empty() {
                return Ok(());
            }
            match write.store.append_history(batch) {
                Ok(()) => {
                    for (id, count) in taken {
                        self.remove(&id, count);
                    }
                }
                // A full disk affects every workspace; any other error may concern only one.
                Err(error @ StoreError::NoSpace(_)) => return Err(error),
                Err(error) => {
                    for (id, _) in taken {
                        self.write_alone(&id, write)?;
                        if write.refusals >= REFUSALS_PER_WRITE {
                            return Err(error);
                        }
                    }
                }
            }
        }
    }

    /// Retries the refused workspaces that are due, the longest overdue first.
    fn write_refused(&mut self, write: &mut Write<'_>) -> Result<(), StoreError> {
        let mut due: Vec<_> = self
            .queues
            .iter()
            .filter_map(|(id, queue)| Some((queue.refused.as_ref()?.retry_at, id.clone())))
            .filter(|(retry_at, _)| *retry_at <= write.now)
            .collect();
        due.sort();
        for (_, id) in due {
            if write.refusals >= REFUSALS_PER_WRITE {
                // The others keep their `retry_at`, so the next write begins with them.
                break;
            }
            self.write_alone(&id, write)?;
        }
        Ok(())
    }

    /// Writes as much of one workspace as the store accepts. The error concerns every workspace.
    fn write_alone(&mut self, id: &WorkspaceId, write: &mut Write<'_>) -> Result<(), StoreError> {
        while let Some(queue) = self.queues.get_mut(id) {
            let count = queue.records.len().min(RECORDS_PER_WRITE);
            let records = queue.records.iter().take(count).cloned().collect();
            match write.append_alone(id, records) {
                Answer::Settled => self.remove(id, count),
                Answer::Refused(error) => {
                    write.refusals += 1;
                    queue.refuse(id, error, write.now);
                    break;
                }
                Answer::Full(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes the oldest transitions of a workspace.
    fn remove(&mut self, id: &WorkspaceId, count: usize) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.records.drain(..count);
            if queue.records.is_empty() {
                self.queues.remove(id);
            }
        }
    }

    fn count(&self) -> usize {
        self.queues.values().map(|queue| queue.records.len()).sum()
    }

    /// Drops the oldest transitions of the workspaces with the most, beyond the limit.
    fn keep_few(&mut self, counters: &EngineCounters) {
        let mut excess = self.count().saturating_sub(MAX_RECORDS_WAITING);
        while excess > 0 {
            let most = self
                .queues
                .iter()
                .max_by_key(|(_, queue)| queue.records.len());
            let Some((id, count)) = most.map(|(id, queue)| (id.clone(), queue.records.len()))
            else {
                return;
            };
            let count = count.min(excess);
            self.remove(&id, count);
            lost(counters, count);
            excess -= count;
        }
    }
}

impl Queue {
    fn refuse(&mut self, id: &WorkspaceId, error: StoreError, now: Instant) {
        let Some(refused) = &mut self.refused else {
            tracing::debug!(workspace = %id, %error, "the history of a workspace cannot be written; it is tried by itself");
            self.refused = Some(Refused {
                retry_at: now + RETRY_AFTER,
                retry_after: RETRY_AFTER,
                logged: None,
            });
            return;
        };
        refused.retry_after = (refused.retry_after * 2).min(MAX_RETRY_AFTER);
        refused.retry_at = now + refused.retry_after;
        if refused.logged.as_ref() != Some(&error) {
            tracing::error!(workspace = %id, %error, "the history of a workspace cannot be written; it is tried again");
            refused.logged = Some(error);
        }
    }
}

impl Write<'_> {
    /// Writes transitions of one workspace. A permanent error, such as a damaged file, loses them all; a fenced epoch,
    /// which belongs to another owner, loses only its own transitions.
    fn append_alone(&self, id: &WorkspaceId, mut records: Vec<HistoryRecord>) -> Answer {
        match self.store.append_history(records.clone()) {
            Ok(()) => Answer::Settled,
            Err(error @ StoreError::Fenced { attempted, .. })
                if records.iter().any(|record| record.epoch == attempted) =>
            {
                tracing::warn!(workspace = %id, %error, "the history of a workspace takes none of a load that another owner made");
                let before = records.len();
                records.retain(|record| record.epoch != attempted);
                lost(self.counters, before - records.len());
                self.append_alone(id, records)
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
                lost(self.counters, records.len());
                Answer::Settled
            }
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
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use crate::store::conformance::{id, transition};
    use crate::testing::{FaultyStore, Request};
    use parking_lot::Mutex;
    use std::collections::HashMap;
    use std::sync::Arc;
    use workspace_status::Epoch;

    /// Histories of some workspaces that a store refuses.
    struct Setup {
        store: FaultyStore<MemoryStore>,
        against: Arc<Mutex<HashMap<WorkspaceId, StoreError>>>,
        /// Appends that were refused.
        refusals: Arc<Mutex<usize>>,
        counters: EngineCounters,
        waiting: Waiting,
    }

    impl Setup {
        fn new() -> Self {
            let store = FaultyStore::new(MemoryStore::new());
            let against = Arc::new(Mutex::new(HashMap::<WorkspaceId, StoreError>::new()));
            let refusals = Arc::new(Mutex::new(0));
            let (refused, count) = (Arc::clone(&against), Arc::clone(&refusals));
            store.fail(move |request| {
                let refused = refused.lock();
                match request {
                    Request::History(all) => {
                        let mut ids = all.iter().map(|record| &record.id);
                        *count.lock() += usize::from(ids.any(|id| refused.contains_key(id)));
                        Ok(())
                    }
                    Request::Transition(record, all) => match refused.get(&record.id) {
                        Some(StoreError::Fenced { attempted, .. })
                            if all.iter().all(|record| record.epoch != *attempted) =>
                        {
                            Ok(())
                        }
                        Some(error) => Err(error.clone()),
                        None => Ok(()),
                    },
                    Request::TakesSaves(_)
                    | Request::Claim(_)
                    | Request::Saves(_)
                    | Request::Save(_) => Ok(()),
                }
            });
            Self {
                store,
                against,
                refusals,
                counters: EngineCounters::default(),
                waiting: Waiting::default(),
            }
        }

        fn refuse(&self, name: &str, error: StoreError) {
            self.against.lock().insert(id(name), error);
        }

        fn accept_all(&self) {
            self.against.lock().clear();
        }

        fn push(&mut self, name: &str, epoch: u64, number: u64) {
            let records = vec![transition(name, epoch, number)];
            self.waiting.extend(&id(name), records);
        }

        /// Writes, and returns how many appends were refused.
        fn write(&mut self, now: Instant) -> usize {
            *self.refusals.lock() = 0;
            self.waiting.write(&self.store, &self.counters, now);
            *self.refusals.lock()
        }

        fn numbers(&self, name: &str) -> Vec<u64> {
            let history = self.store.history(&id(name), None, usize::MAX).unwrap();
            history
                .iter()
                .map(|record| record.transition.sequence)
                .collect()
        }

        /// How many wait, and how many are lost.
        fn counts(&self) -> (usize, u64) {
            (self.waiting.count(), self.counters.history_lost.get())
        }
    }

    fn away() -> StoreError {
        StoreError::Unavailable("away".to_owned())
    }

    #[test]
    fn what_the_store_refuses_for_now_is_written_when_it_accepts_it() {
        let damage = StoreError::Corrupt {
            place: "its history".to_owned(),
            reason: "damaged".to_owned(),
        };
        let full = StoreError::NoSpace("full".to_owned());
        for (error, at_once, later, lost) in [
            (away(), &[][..], &[1, 2, 3][..], 0),
            (full, &[], &[1, 2, 3], 0),
            (damage, &[3], &[3], 2),
        ] {
            let mut setup = Setup::new();
            let now = Instant::now();
            setup.refuse("acme", error);
            for number in 1..=2 {
                setup.push("acme", 1, number);
                setup.push("other", 1, number);
            }
            setup.write(now);
            assert_eq!(setup.numbers("other"), [1, 2], "harmed by no other");

            setup.accept_all();
            setup.push("acme", 1, 3);
            setup.write(now);
            assert_eq!(setup.numbers("acme"), at_once);
            setup.write(now + RETRY_AFTER);
            assert_eq!(setup.numbers("acme"), later);
            assert_eq!(setup.counts(), (0, lost));
        }
    }

    #[test]
    fn transitions_of_an_epoch_that_another_owner_began_are_lost_alone() {
        let mut setup = Setup::new();
        let fenced = StoreError::Fenced {
            id: id("acme"),
            attempted: Epoch::new(2),
            stored: Epoch::new(2),
        };
        setup.refuse("acme", fenced);
        for (epoch, number) in [(1, 1), (2, 2), (2, 3), (3, 4)] {
            setup.push("acme", epoch, number);
        }
        setup.write(Instant::now());
        assert_eq!(setup.numbers("acme"), [1, 4]);
        assert_eq!(setup.counts(), (0, 2));
    }

    #[test]
    fn beyond_the_limit_the_oldest_transitions_are_lost_and_counted() {
        let mut setup = Setup::new();
        setup.refuse("acme", away());
        setup.refuse("other", away());
        let most = u64::try_from(MAX_RECORDS_WAITING).unwrap();
        setup.push("other", 1, 1);
        for number in 1..=most + 7 {
            setup.push("acme", 1, number);
        }
        setup.write(Instant::now());
        assert_eq!(setup.counts(), (MAX_RECORDS_WAITING, 8));
        let oldest = setup.waiting.queues[&id("acme")].records.front();
        assert_eq!(oldest.map(|record| record.transition.sequence), Some(9));
        setup.accept_all();
        setup.write(Instant::now() + RETRY_AFTER);
        assert_eq!(setup.numbers("acme").last(), Some(&(most + 7)));
        assert_eq!(setup.numbers("other"), [1], "it has few");
    }

    #[test]
    fn a_refused_history_holds_up_no_other_and_is_tried_less_and_less() {
        let mut setup = Setup::new();
        setup.refuse("acme", away());
        // The first batch holds only transitions of the refused workspace.
        let many = u64::try_from(RECORDS_PER_WRITE).unwrap() + 5;
        for number in 1..=many {
            setup.push("acme", 1, number);
        }
        let began = Instant::now();
        let mut tried_at = Vec::new();
        for second in 0..100 {
            setup.push("other", 1, second + 1);
            if setup.write(began + Duration::from_secs(second)) > 0 {
                tried_at.push(second);
            }
            assert_eq!(setup.numbers("other").last(), Some(&(second + 1)));
        }
        assert_eq!(tried_at, [0, 1, 3, 7, 15, 31, 61, 91]);

        setup.accept_all();
        setup.push("acme", 1, many + 1);
        setup.waiting.retry_now();
        setup.write(Instant::now());
        assert!(setup.numbers("acme").into_iter().eq(1..=many + 1));
        assert_eq!(setup.counts(), (0, 0));
    }

    #[test]
    fn a_store_that_refuses_all_gets_few_requests_and_later_everything() {
        let mut setup = Setup::new();
        let names: Vec<_> = (0..1000).map(|number| format!("w-{number}")).collect();
        for name in &names {
            setup.refuse(name, away());
            setup.push(name, 1, 1);
        }
        let now = Instant::now();
        for second in 0..3 {
            let refusals = setup.write(now + RETRY_AFTER * second);
            assert!(refusals <= REFUSALS_PER_WRITE + 1, "{refusals}");
        }
        setup.accept_all();
        setup.write(now + RETRY_AFTER * 3);
        assert!(names.iter().all(|name| setup.numbers(name) == [1]));
        assert_eq!(setup.counts(), (0, 0));
    }
}
