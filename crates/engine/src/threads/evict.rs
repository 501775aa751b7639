//! Evicts the workspaces that were read or written longest ago, once they take more memory than the limit.
//!
//! It begins above the limit and stops at 15/16 of it, so that one more workspace does not evict one more. The
//! partitions decide: a workspace is saved before it leaves, and one that is not ready, or that a client waits for,
//! stays. While the workspaces are above the limit, only urgent loads get a permit.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use workspace_lifecycle::PartitionId;
use workspace_status::WorkspaceId;

use crate::loaded::Resident;
use crate::message::Message;
use crate::shared::EngineShared;

/// Time between two passes.
const PASS_EVERY: Duration = Duration::from_millis(50);

/// A workspace that was to leave counts as leaving for this long: its save takes a while, or its partition keeps it.
const LEAVES_WITHIN: Duration = Duration::from_secs(2);

/// Part of the limit that is freed beyond the excess.
const ROOM_SHARE: u64 = 16;

/// Runs until the engine ends.
pub(super) fn run(shared: &EngineShared) {
    let Some(limit) = shared.memory.limit() else {
        return;
    };
    let mut leaving = HashMap::new();
    while !shared.ending.load(Ordering::Acquire) {
        std::thread::park_timeout(PASS_EVERY);
        shared
            .memory
            .begin_pass(shared.absent.counted(|absent| absent));
        let now = Instant::now();
        leaving.retain(|_, (until, _)| *until > now);
        if shared.memory.excess() == 0 {
            shared.permits.grant_waiting();
            continue;
        }
        let low = limit - limit / ROOM_SHARE;
        evict(shared, low, now + LEAVES_WITHIN, &mut leaving);
    }
}

/// Workspaces that were to leave: until when they count as leaving, and their bytes.
type Leaving = HashMap<WorkspaceId, (Instant, u64)>;

fn evict(shared: &EngineShared, low: u64, until: Instant, leaving: &mut Leaving) {
    let candidates: Vec<(u32, Arc<Resident>)> = {
        let workspaces = shared.workspaces.read();
        leaving.retain(|id, _| workspaces.contains_key(id));
        let evictable = workspaces.values();
        evictable
            .filter(|resident| resident.may_be_evicted() && !leaving.contains_key(resident.id()))
            .map(|resident| (resident.memory().used_in(), Arc::clone(resident)))
            .collect()
    };
    let going: u64 = leaving.values().map(|(_, bytes)| bytes).sum();
    let used = shared.memory.used().saturating_sub(going);
    let mut excess = used.saturating_sub(low);
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
