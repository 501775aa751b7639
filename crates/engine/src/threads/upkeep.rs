//! Periodic work: progress samples, queue positions, syncs and trims.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use workspace_status::{State, Value};

use crate::failures::StoreRequest;
use crate::shared::EngineShared;

/// Time between two samples of every workspace's progress.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);

/// Most waiting workspaces whose queue position is updated at a time.
const POSITIONS_SHOWN: usize = 1000;

/// Runs until the engine ends.
pub(crate) fn run(shared: &EngineShared) {
    let mut trimmed_at = Instant::now();
    let mut last_sync = Synced::Yes;
    while !shared.ending.load(Ordering::Acquire) {
        std::thread::park_timeout(SAMPLE_EVERY);
        shared.tracker.sample_progress();
        for assignment in shared.assignments() {
            assignment.sample_rate();
        }
        show_queue(shared);
        if trimmed_at.elapsed() >= shared.config.trim_every {
            trimmed_at = Instant::now();
            last_sync = trim(shared, last_sync);
        }
    }
}

fn show_queue(shared: &EngineShared) {
    for (position, id) in shared
        .permits
        .queue(POSITIONS_SHOWN)
        .into_iter()
        .enumerate()
    {
        if let Some(status) = shared.tracker.get(&id)
            && status.state() == State::LoadingKafkaPartitions
        {
            // Refused only if a user's own metadata fills all keys.
            let _ = status.update_metadata("queue_position", Value::from(position));
        }
    }
}

/// Whether the last sync of the store succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Synced {
    Yes,
    No,
}

/// Lets the log remove what is durable in the store. The floors are taken before the sync, so that it covers them.
fn trim(shared: &EngineShared, last_sync: Synced) -> Synced {
    if !shared.store.is_durable() {
        return Synced::Yes;
    }
    // A reset waits for this lock, because the floor may have been taken before the reset.
    let _trimming = shared.trimming.lock();
    let floors = shared.trim_floors();
    if let Err(error) = shared.store.sync() {
        if shared
            .failures
            .store_answered(StoreRequest::Saves, Err(error.to_string()))
        {
            tracing::error!(%error, "the store cannot be synced; the log keeps everything");
        }
        return Synced::No;
    }
    // Clears only the error of a failed sync: a sync also succeeds while saves are refused because the disk is full.
    if last_sync == Synced::No {
        shared.failures.store_answered(StoreRequest::Saves, Ok(()));
    }
    for (partition, floor) in floors {
        if let Err(error) = shared.log.trim(partition, floor) {
            tracing::error!(%partition, %error, "the log cannot be trimmed");
        }
    }
    Synced::Yes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FileStore;
    use crate::testing;
    use std::sync::Arc;
    use workspace_lifecycle::{Offset, PartitionId};

    #[test]
    fn a_store_that_can_be_synced_again_is_ready_without_a_save() {
        let path = tempfile::tempdir().expect("a directory");
        let root = path.path();
        let store = FileStore::open(root).expect("opened");
        let (_log, shared) = testing::shared(Arc::new(store));
        let is_ready = || shared.failures.of_store().is_none();

        // Replace the index by a directory, which cannot be appended to.
        let index = root.join("index.jsonl");
        let away = root.join("index.away");
        let commit = [(PartitionId(0), Offset(1))];
        shared.store.save(&[], &commit).expect("saved");
        std::fs::rename(&index, &away).expect("renamed");
        std::fs::create_dir(&index).expect("created");
        let last_sync = trim(&shared, Synced::Yes);
        assert!(last_sync == Synced::No && !is_ready());

        std::fs::remove_dir(&index).expect("removed");
        std::fs::rename(&away, &index).expect("renamed");
        assert_eq!(trim(&shared, last_sync), Synced::Yes);
        assert!(is_ready());

        shared
            .failures
            .store_answered(StoreRequest::Saves, Err("a save failed".to_owned()));
        trim(&shared, Synced::Yes);
        assert!(!is_ready(), "a sync does not clear the error of a save");
    }
}
