//! What has to be done from time to time: progress samples, queue positions, syncs and trims.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use workspace_status::{State, Value};

use crate::shared::Shared;
use crate::workspace::Workspace;

/// Between two samples of everybody's progress.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);

/// Most waiting workspaces whose queue position is refreshed at a time.
const POSITIONS_SHOWN: usize = 1000;

/// Keeps up until the engine ends.
pub(crate) fn run<W: Workspace>(shared: &Shared<W>) {
    let mut trimmed_at = Instant::now();
    while !shared.ending.load(Ordering::Acquire) {
        std::thread::park_timeout(SAMPLE_EVERY);
        shared.tracker.sample_progress();
        for post in shared.posts() {
            post.sample_rate();
        }
        show_queue(shared);
        if trimmed_at.elapsed() >= shared.config.trim_every {
            trimmed_at = Instant::now();
            trim(shared);
        }
    }
}

fn show_queue<W: Workspace>(shared: &Shared<W>) {
    for (position, id) in shared.queue(POSITIONS_SHOWN).into_iter().enumerate() {
        if let Some(status) = shared.tracker.get(&id)
            && status.state() == State::LoadingKafkaPartitions
        {
            // Refused only where a user's own metadata fills all keys.
            let _ = status.update_metadata("queue_position", Value::from(position));
        }
    }
}

/// Lets the log forget what is durable in the store. The floors are taken before the sync, so that it covers them.
fn trim<W: Workspace>(shared: &Shared<W>) {
    if !shared.store.is_durable() {
        return;
    }
    let floors = shared.trim_floors();
    if let Err(error) = shared.store.sync() {
        tracing::error!(%error, "the store cannot be synced; the log keeps everything");
        shared.store_answered(Err(error.to_string()));
        return;
    }
    for (partition, floor) in floors {
        if let Err(error) = shared.log.trim(partition, floor) {
            tracing::error!(%partition, %error, "the log cannot be trimmed");
        }
    }
}
