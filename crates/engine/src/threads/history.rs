//! Takes every transition from the status and writes it to the store.
//!
//! The change feed says which workspaces change. What `kill -9` loses of the history is at most the phases of about the
//! last second ([`MAX_AGE`](history_changes::MAX_AGE)) of loads that have not ended, and the loads that ended within the
//! last pass: [`GATHER`] and the write before it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use workspace_status::{
    ChangeKind, Epoch, FeedItem, Revision, Watcher, WorkspaceId, WorkspaceStatus,
};

use super::history_changes::{self, Changes};
use super::history_waiting::Waiting;
use crate::shared::EngineShared;
use crate::store::{HistoryCursor, HistoryRecord};

/// How long ends of loads are gathered before they are written.
const GATHER: Duration = Duration::from_millis(100);

/// How long the feed fills while ends of loads are gathered: far less than it takes to overflow.
const POLL: Duration = Duration::from_millis(10);

/// Longest wait for a change whose number is given out and which is not in the feed yet.
const LATE: Duration = Duration::from_millis(10);

/// Most workspaces whose transitions are taken before a write; the feed is read between two writes.
const WORKSPACES_PER_WRITE: usize = 1024;

/// Most workspaces that are due before they are written without waiting for more.
const MAX_DUE: usize = 4096;

/// Writes until the engine ends, and once more after that. The watcher must be created before the first partition is
/// assigned: the feed keeps nothing before it has a watcher.
pub(crate) fn run(shared: &EngineShared, watcher: Watcher) {
    let mut writer = HistoryWriter::new(shared, watcher);
    loop {
        shared.history.begin();
        let ending = shared.ending.load(Ordering::Acquire);
        if ending {
            writer.waiting.retry_now();
        }
        writer.pass(ending);
        shared.history.end();
        if ending {
            shared.history.finish();
            writer.waiting.discard_all(&shared.counters);
            return;
        }
    }
}

struct HistoryWriter<'a> {
    shared: &'a EngineShared,
    watcher: Watcher,
    /// The last change that was read from the feed.
    read: Revision,
    changes: Changes,
    /// Removed from the tracker since the last write.
    removed: Vec<WorkspaceId>,
    taken: Taken,
    waiting: Waiting,
}

/// The last transition taken from the status, of each workspace in the tracker.
#[derive(Default)]
struct Taken(HashMap<WorkspaceId, Last>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Last {
    epoch: Epoch,
    sequence: u64,
    /// Time of the first transition of its epoch.
    begun_ms: u64,
}

impl Last {
    fn cursor(&self) -> HistoryCursor {
        (self.epoch, self.sequence)
    }
}

impl<'a> HistoryWriter<'a> {
    fn new(shared: &'a EngineShared, watcher: Watcher) -> Self {
        Self {
            shared,
            watcher,
            read: Revision::default(),
            changes: Changes::default(),
            removed: Vec::new(),
            taken: Taken::default(),
            waiting: Waiting::default(),
        }
    }

    /// Gathers changes, then writes what is due: everything, if a caller waits for it or the engine ends.
    fn pass(&mut self, ending: bool) {
        let is_hurried = ending || self.shared.history.is_hurried();
        if is_hurried {
            self.read_feed();
        } else {
            self.gather();
        }
        let now = Instant::now();
        let until = if is_hurried {
            Some(now)
        } else {
            now.checked_sub(history_changes::MAX_AGE)
        };
        if let Some(until) = until {
            self.changes.due_until(until);
        }
        // What becomes due meanwhile is written by the next pass: a caller may wait for the end of this one.
        let mut count = self.changes.due_count();
        loop {
            let due = self.changes.take(count.min(WORKSPACES_PER_WRITE));
            count -= due.len();
            self.write(&due);
            if count == 0 {
                return;
            }
            self.read_feed();
        }
    }

    fn gather(&mut self) {
        let until = Instant::now() + GATHER;
        if self.changes.due_count() == 0
            && let Some(item) = self.watcher.next_deadline(until)
        {
            self.note(item, Instant::now());
        }
        loop {
            self.read_feed();
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero()
                || self.changes.due_count() >= MAX_DUE
                || self.shared.history.is_hurried()
            {
                return;
            }
            std::thread::sleep(rest.min(POLL));
        }
    }

    /// Reads the changes that were made before the call.
    fn read_feed(&mut self) {
        let now = Instant::now();
        let until = self.shared.tracker.revision();
        while self.read < until {
            let Some(item) = self.watcher.next_deadline(now + LATE) else {
                return;
            };
            self.note(item, now);
        }
    }

    fn note(&mut self, item: FeedItem, now: Instant) {
        match item {
            FeedItem::Change(change) => {
                self.read = change.revision;
                match change.kind {
                    ChangeKind::Transition { to, .. } => {
                        self.changes.entered(change.workspace_id, to, now);
                    }
                    ChangeKind::Removed => self.removed.push(change.workspace_id),
                    ChangeKind::Created | ChangeKind::Message | ChangeKind::Metadata => {}
                }
            }
            // The feed has dropped changes that this reader missed: the last 20 transitions of each workspace are still
            // in memory.
            FeedItem::Resync { revision } => {
                self.read = revision;
                let tracker = &self.shared.tracker;
                let absent = self.taken.0.keys().filter(|id| tracker.get(id).is_none());
                self.removed.extend(absent.cloned());
                let (taken, changes) = (&self.taken.0, &mut self.changes);
                self.shared.tracker.for_each(|status| {
                    if status.last_transition() > taken.get(status.id()).map(Last::cursor) {
                        changes.due(status.id().clone());
                    }
                });
            }
        }
    }

    /// Takes the transitions of workspaces, and those of all that left, and writes what waits.
    fn write(&mut self, due: &[WorkspaceId]) {
        let shared = self.shared;
        let removed = std::mem::take(&mut self.removed);
        let shown = due.iter().filter(|id| !shared.misrouted.is_shown(id));
        let statuses: Vec<_> = shown.filter_map(|id| shared.tracker.get(id)).collect();
        // Those that left are read after the current statuses of the same ids were found, and taken before them: they
        // are older.
        let left = std::mem::take(&mut *shared.left.lock());
        for some in left.chunks(WORKSPACES_PER_WRITE) {
            self.write_some(some);
            self.read_feed();
        }
        self.write_some(&statuses);
        for id in removed {
            if shared.tracker.get(&id).is_none() {
                self.taken.0.remove(&id);
            }
        }
    }

    fn write_some(&mut self, statuses: &[Arc<WorkspaceStatus>]) {
        for status in statuses {
            self.taken.take(status, &mut self.waiting);
        }
        let shared = self.shared;
        self.waiting
            .write(&*shared.store, &shared.counters, Instant::now());
    }
}

impl Taken {
    /// Takes the transitions that were not taken yet.
    fn take(&mut self, status: &WorkspaceStatus, waiting: &mut Waiting) {
        let snapshot = status.snapshot();
        let id = status.id();
        let taken = self.0.get(id).copied();
        let mut last = taken;
        let mut records = Vec::new();
        for transition in snapshot.state_history() {
            let (epoch, sequence) = (transition.epoch(), transition.sequence());
            if taken.is_some_and(|taken| (epoch, sequence) <= taken.cursor()) {
                continue;
            }
            let mut record = HistoryRecord::of(&snapshot, transition);
            if let Some(last) = last.filter(|last| last.epoch == epoch) {
                record.begun_ms = last.begun_ms;
            }
            last = Some(Last {
                epoch,
                sequence,
                begun_ms: record.begun_ms,
            });
            records.push(record);
        }
        let Some(last) = last.filter(|last| Some(*last) != taken) else {
            return;
        };
        waiting.extend(id, records);
        if let Some(taken) = self.0.get_mut(id) {
            *taken = last;
        } else {
            self.0.insert(id.clone(), last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::id;
    use crate::store::{MemoryStore, Store};
    use crate::testing::{FaultyStore, Request};
    use parking_lot::Mutex;
    use workspace_status::State::{self, Error, Initializing, Ready, ReplayingEvents, Unloading};

    /// A writer over a memory store that counts the appends.
    struct Setup {
        store: Arc<FaultyStore<MemoryStore>>,
        appends: Arc<Mutex<usize>>,
        shared: EngineShared,
        _directory: tempfile::TempDir,
    }

    impl Setup {
        fn new() -> Self {
            let store = Arc::new(FaultyStore::new(MemoryStore::new()));
            let appends = Arc::new(Mutex::new(0));
            let count = Arc::clone(&appends);
            store.fail(move |request| {
                *count.lock() += usize::from(matches!(request, Request::History(_)));
                Ok(())
            });
            let (directory, shared) = crate::testing::shared(Arc::clone(&store) as Arc<dyn Store>);
            Self {
                store,
                appends,
                shared,
                _directory: directory,
            }
        }

        fn writer(&self) -> HistoryWriter<'_> {
            HistoryWriter::new(&self.shared, self.shared.tracker.watch())
        }

        fn enter(&self, name: &str, states: &[State]) -> Arc<WorkspaceStatus> {
            let status = self.shared.tracker.get_or_create(name);
            for state in states {
                status.set_state(*state, "");
            }
            status
        }

        fn entered(&self, name: &str) -> Vec<State> {
            let history = self.store.history(&id(name), None, usize::MAX).unwrap();
            history.iter().map(|record| record.transition.to).collect()
        }
    }

    #[test]
    fn loads_that_end_are_appended_together_each_as_a_whole() {
        let setup = Setup::new();
        let mut writer = setup.writer();
        let ends = [("a", Ready), ("b", Error), ("c", Unloading)];
        for (name, end) in ends {
            setup.enter(name, &[ReplayingEvents, end]);
        }
        writer.pass(false);
        for (name, end) in ends {
            assert_eq!(setup.entered(name), [ReplayingEvents, end]);
        }
        assert_eq!(*setup.appends.lock(), 1);
    }

    #[test]
    fn the_last_pass_takes_loads_that_have_not_ended() {
        let setup = Setup::new();
        let mut writer = setup.writer();
        setup.enter("a", &[ReplayingEvents]);
        writer.pass(true);
        assert_eq!(setup.entered("a"), [ReplayingEvents]);
        writer.pass(true);
        assert_eq!(*setup.appends.lock(), 1, "nothing is appended twice");
    }

    #[test]
    fn what_the_feed_has_dropped_is_taken_from_the_statuses() {
        let setup = Setup::new();
        let mut writer = setup.writer();
        setup.enter("known", &[ReplayingEvents, Ready]);
        writer.pass(false);
        let status = setup.enter("a", &[ReplayingEvents, Error]);
        for number in 0..=workspace_status::FEED_CAPACITY {
            status.set_state(Error, format!("attempt {number}"));
        }
        writer.read_feed();
        assert_eq!(
            writer.changes.due_count(),
            1,
            "the other one was taken before"
        );
        writer.pass(false);
        assert_eq!(setup.entered("a"), [ReplayingEvents, Error]);
        assert_eq!(setup.entered("known"), [ReplayingEvents, Ready]);
    }

    #[test]
    fn a_workspace_that_left_and_returned_keeps_the_transitions_of_both() {
        let setup = Setup::new();
        let mut writer = setup.writer();
        let left = setup.enter("a", &[ReplayingEvents, Ready]);
        writer.pass(false);
        left.set_state(Unloading, "");
        setup.shared.left.lock().push(left);
        setup.shared.tracker.remove("a");
        let again = setup.enter("a", &[Ready, Initializing]);
        assert_eq!(again.epoch().get(), 2);
        writer.pass(true);
        let expected = [ReplayingEvents, Ready, Unloading];
        assert!(setup.entered("a").starts_with(&expected));
        assert!(setup.entered("a").ends_with(&[Initializing]));
    }
}
