//! Records whose key belongs on another partition: their producer does not partition as Kafka does by default.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

/// Most workspaces of which it is remembered where their records stand.
pub const MISPLACED_MOST: usize = 1_000;

/// The last record of a workspace that was met on a partition that is not its own. It is never applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a record on partition {found} offset {offset} belongs on partition {expected}: its producer must partition \
     by murmur2 as Kafka's default partitioner does (librdkafka: partitioner=murmur2_random); it is not applied"
)]
pub struct Misplaced {
    /// The partition it was met on.
    pub found: PartitionId,
    /// Its offset there.
    pub offset: Offset,
    /// The partition of its key.
    pub expected: PartitionId,
}

/// What was met on the wrong partition, for those who look for it.
#[derive(Debug, Default)]
pub(crate) struct MisplacedRecords(Mutex<BTreeMap<WorkspaceId, Misplaced>>);

impl MisplacedRecords {
    /// Remembers a record. Tells whether it is the first of its workspace.
    pub(crate) fn note(&self, id: &WorkspaceId, record: Misplaced) -> bool {
        let mut known = self.0.lock();
        if let Some(last) = known.get_mut(id) {
            *last = record;
            return false;
        }
        if known.len() < MISPLACED_MOST {
            known.insert(id.clone(), record);
        }
        known.len() < MISPLACED_MOST
    }

    pub(crate) fn of(&self, id: &WorkspaceId) -> Option<Misplaced> {
        self.0.lock().get(id).copied()
    }
}
