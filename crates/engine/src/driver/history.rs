//! Writes every transition to the store, from the status' change feed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use workspace_status::{
    ChangeKind, Epoch, FeedItem, Tracker, Watcher, WorkspaceId, WorkspaceStatus,
};

use super::saver::micros;
use crate::engine::Shared;
use crate::store::HistoryRecord;
use crate::workspace::Workspace;

/// How long transitions are gathered before they are written.
const GATHER: Duration = Duration::from_millis(100);

/// Most workspaces whose transitions are gathered before a write.
const WORKSPACES_PER_WRITE: usize = 1024;

/// What was written last of each workspace. The status is held, so that the last
/// transitions of one that leaves the tracker are not missed.
#[derive(Default)]
struct Written(HashMap<WorkspaceId, (Arc<WorkspaceStatus>, (Epoch, u64))>);

/// Writes until the engine ends, and once more then. The watcher is older than the first
/// partition: the feed keeps nothing before somebody watches.
pub(crate) fn run<W: Workspace>(shared: &Shared<W>, mut watcher: Watcher) {
    let mut written = Written::default();
    loop {
        let ending = shared.ending.load(Ordering::Acquire);
        let mut changed = HashSet::new();
        let mut records = Vec::new();
        let gather_until = Instant::now() + GATHER;
        while changed.len() < WORKSPACES_PER_WRITE {
            let Some(item) = watcher.next_deadline(gather_until) else {
                break;
            };
            match item {
                FeedItem::Change(change) => match change.kind {
                    ChangeKind::Created => {
                        written.hold(&shared.tracker, &change.workspace_id, &mut records);
                    }
                    ChangeKind::Transition { .. } => {
                        changed.insert(change.workspace_id);
                    }
                    ChangeKind::Removed => {
                        written.take(&change.workspace_id, &mut records);
                        if let Some((id, (status, _))) =
                            written.0.remove_entry(&change.workspace_id)
                            && shared
                                .tracker
                                .get(&id)
                                .is_some_and(|now| Arc::ptr_eq(&now, &status))
                        {
                            written.0.insert(id, (status, (Epoch::new(0), 0)));
                        }
                    }
                    ChangeKind::Message | ChangeKind::Metadata => {}
                },
                // The feed went on without this reader: the last 20 transitions of each are still in memory.
                FeedItem::Resync { .. } => {
                    changed.extend(written.0.keys().cloned());
                    for snapshot in shared.tracker.list_all() {
                        changed.extend(WorkspaceId::new(snapshot.workspace_id()));
                    }
                }
            }
        }
        for id in &changed {
            written.hold(&shared.tracker, id, &mut records);
            written.take(id, &mut records);
        }
        write(shared, records);
        if ending {
            return;
        }
    }
}

impl Written {
    /// Holds the status that the tracker has now; what an earlier one of the same name had to say is taken first.
    fn hold(&mut self, tracker: &Tracker, id: &WorkspaceId, records: &mut Vec<HistoryRecord>) {
        let Some(status) = tracker.get(id) else {
            return;
        };
        let known = self.0.get(id).map(|(known, _)| Arc::ptr_eq(known, &status));
        match known {
            Some(true) => {}
            Some(false) => {
                self.take(id, records);
                if let Some((held, _)) = self.0.get_mut(id) {
                    *held = status;
                }
            }
            None => {
                self.0.insert(id.clone(), (status, (Epoch::new(0), 0)));
            }
        }
    }

    /// Takes the transitions that were not written yet.
    fn take(&mut self, id: &WorkspaceId, records: &mut Vec<HistoryRecord>) {
        let Some((status, written)) = self.0.get_mut(id) else {
            return;
        };
        let snapshot = status.snapshot();
        for transition in snapshot.state_history() {
            let place = (transition.epoch(), transition.sequence());
            if place <= *written {
                continue;
            }
            *written = place;
            records.push(HistoryRecord {
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

fn write<W: Workspace>(shared: &Shared<W>, records: Vec<HistoryRecord>) {
    if records.is_empty() {
        return;
    }
    let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
    if let Err(error) = shared.store.append_history(records) {
        shared.counters.history_lost.add(count);
        tracing::error!(%error, count, "transitions are missing in the durable history");
    }
}
