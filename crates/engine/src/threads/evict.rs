//! Evicts the workspaces that were read or written longest ago, once they take more memory than the limit.
//!
//! It begins above the limit and stops at 15/16 of it, so that one more workspace does not evict one more. The
//! partitions decide: a workspace is saved before it leaves, and one that is not ready, or that a client waits for,
//! stays. While the workspaces are above the limit, ordinary loads get no permit.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use workspace_lifecycle::{PartitionId, Urgency};
use workspace_status::WorkspaceId;

use crate::loaded::Resident;
use crate::message::Message;
use crate::shared::EngineShared;

/// Time between two passes.
const PASS_EVERY: Duration = Duration::from_millis(50);

/// A workspace that its partition keeps counts as leaving for this long.
const LEAVES_WITHIN: Duration = Duration::from_secs(2);

/// Part of the limit that is freed beyond the excess.
const ROOM_SHARE: u64 = 16;

/// Time between two warnings that nothing can be evicted.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// Runs until the engine ends.
pub(super) fn run(shared: &EngineShared) {
    let Some(limit) = shared.memory.limit() else {
        return;
    };
    let mut leaving = HashMap::new();
    let mut warned_at: Option<Instant> = None;
    while !shared.ending.load(Ordering::Acquire) {
        std::thread::park_timeout(PASS_EVERY);
        let absent = shared.absent.counted(|absent| absent);
        shared.memory.begin_pass(absent);
        let now = Instant::now();
        forget_settled(shared, now, &mut leaving);
        if shared.memory.excess() == 0 {
            shared.permits.grant();
            continue;
        }
        let low = limit - limit / ROOM_SHARE;
        evict(shared, low, now + LEAVES_WITHIN, &mut leaving);
        if leaving.is_empty() {
            // Otherwise no other workspace would ever load.
            shared.permits.grant_one(Urgency::Ordinary);
            if warned_at.is_none_or(|at| now >= at + WARN_EVERY) {
                warned_at = Some(now);
                let used = shared.memory.used();
                tracing::warn!(
                    limit,
                    used,
                    absent,
                    "the workspaces are above the memory limit, and none can be evicted: they replay or are parked, or the limit is too small for their number"
                );
            }
        }
    }
}

/// Workspaces that were to leave: until when they count as leaving, and their bytes.
type Leaving = HashMap<WorkspaceId, (Instant, u64)>;

/// Forgets the workspaces that have left, and those that their partitions kept. One that waits for its save counts as
/// leaving however long that takes: a store that fails must not make all others wait for it, too.
fn forget_settled(shared: &EngineShared, now: Instant, leaving: &mut Leaving) {
    if leaving.is_empty() {
        return;
    }
    let workspaces = shared.workspaces.read();
    leaving.retain(|id, (until, _)| {
        let resident = workspaces.get(id);
        resident.is_some_and(|resident| *until > now || !resident.may_be_evicted())
    });
}

fn evict(shared: &EngineShared, low: u64, until: Instant, leaving: &mut Leaving) {
    let going: u64 = leaving.values().map(|(_, bytes)| bytes).sum();
    let used = shared.memory.used().saturating_sub(going);
    let mut excess = used.saturating_sub(low);
    if excess == 0 {
        return;
    }
    let candidates: Vec<(u32, Arc<Resident>)> = {
        let workspaces = shared.workspaces.read();
        let evictable = workspaces.values();
        evictable
            .filter(|resident| resident.may_be_evicted() && !leaving.contains_key(resident.id()))
            .map(|resident| (resident.memory().used_in(), Arc::clone(resident)))
            .collect()
    };
    let mut chosen: HashMap<PartitionId, Vec<WorkspaceId>> = HashMap::new();
    for resident in oldest_first(candidates) {
        if excess == 0 {
            break;
        }
        let (id, bytes) = (resident.id(), resident.memory().bytes());
        excess = excess.saturating_sub(bytes);
        leaving.insert(id.clone(), (until, bytes));
        chosen
            .entry(shared.log.partition_of(id))
            .or_default()
            .push(id.clone());
    }
    for (partition, ids) in chosen {
        if let Some(assignment) = shared.assignment(partition) {
            // A closed assignment has no workspaces left.
            let _ = assignment.send(Message::Evict(ids));
        }
    }
}

fn oldest_first(mut candidates: Vec<(u32, Arc<Resident>)>) -> impl Iterator<Item = Arc<Resident>> {
    candidates.sort_unstable_by_key(|(used_in, _)| *used_in);
    candidates.into_iter().map(|(_, resident)| resident)
}
