//! Takes every transition from the status' change feed and writes it to the store.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use workspace_status::{ChangeKind, Epoch, FeedItem, Watcher, WorkspaceId, WorkspaceStatus};

use super::history_waiting::Waiting;
use crate::shared::EngineShared;
use crate::store::HistoryRecord;

/// How long transitions are gathered before they are written.
const GATHER: Duration = Duration::from_millis(100);

/// Most workspaces whose transitions are gathered before a write.
const WORKSPACES_PER_WRITE: usize = 1024;

/// The last transition taken from the status, of each workspace in the tracker.
#[derive(Default)]
struct Taken(HashMap<WorkspaceId, (Epoch, u64)>);

/// Writes until the engine ends, and once more after that. The watcher must be created before the first partition is
/// assigned: the feed keeps nothing before it has a watcher.
pub(crate) fn run(shared: &EngineShared, mut watcher: Watcher) {
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
                // The feed has dropped changes that this reader missed: the last 20 transitions of each workspace are
                // still in memory.
                FeedItem::Resync { .. } => {
                    for snapshot in shared.tracker.list_all() {
                        changed.extend(WorkspaceId::new(snapshot.workspace_id()));
                    }
                }
            }
        }
        // Statuses that left the tracker first: they are older than the current statuses of the same id.
        for status in std::mem::take(&mut *shared.left.lock()) {
            taken.take(&status, &mut waiting);
        }
        for id in changed.iter().filter(|id| !shared.misrouted.is_shown(id)) {
            if let Some(status) = shared.tracker.get(id) {
                taken.take(&status, &mut waiting);
            }
        }
        for id in removed {
            if shared.tracker.get(&id).is_none() {
                taken.0.remove(&id);
            }
        }
        if ending {
            waiting.retry_now();
        }
        waiting.write(&*shared.store, &shared.counters, Instant::now());
        shared.history.end();
        if ending {
            shared.history.finish();
            waiting.discard_all(&shared.counters);
            return;
        }
    }
}

impl Taken {
    /// Takes the transitions that were not taken yet.
    fn take(&mut self, status: &WorkspaceStatus, waiting: &mut Waiting) {
        let snapshot = status.snapshot();
        let id = status.id();
        let taken = self.0.entry(id.clone()).or_insert((Epoch::new(0), 0));
        for transition in snapshot.state_history() {
            let cursor = (transition.epoch(), transition.sequence());
            if cursor <= *taken {
                continue;
            }
            *taken = cursor;
            waiting.push(HistoryRecord::of(&snapshot, transition));
        }
    }
}
