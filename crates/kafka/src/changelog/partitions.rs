//! Which partitions this process writes, and the state of each.
//!
//! ```text
//! closed -> opening -> writing record -> open <-> behind
//!    ^_________|_____________|____________|________|
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use workspace_engine_core::store::{CopyPosition, StoreError};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::Epoch;

use super::ownership::OwnershipRecord;
use super::plan::Notice;

/// The most records before the group's offset that discovery re-reads to find those that belong to another partition:
/// that takes about a second.
const MAX_MISROUTED_REREAD: u64 = 1_000_000;

/// How far the takeover of a partition is, or whether it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnershipState {
    /// The changelog is being read into the copy.
    Opening,
    /// The ownership record is being written.
    WritingRecord,
    /// It answers reads and takes writes.
    Open,
    /// The copy may lack what is in the changelog; it is being read again.
    Behind,
}

/// A partition that this process owns.
#[derive(Debug, Clone)]
pub(super) struct OwnedPartition {
    pub(super) state: OwnershipState,
    /// The offset of the events that the group has committed.
    pub(super) committed: Offset,
    pub(super) first_epoch: Epoch,
    /// The first known record of the events that belongs to another partition.
    pub(super) misrouted_from: Option<Offset>,
    /// The ownership record of this process; none before the takeover is planned.
    pub(super) record: Option<Arc<OwnershipRecord>>,
    /// What the takeover found missing.
    pub(super) notices: Vec<Notice>,
    /// Up to where the copy is complete; none before the changelog was read.
    pub(super) position: Option<CopyPosition>,
    /// Why nothing of it is saved until it is taken over again.
    pub(super) broken: Option<Arc<str>>,
}

impl OwnedPartition {
    /// Where discovery begins: at the first record that belongs to another partition, at most
    /// [`MAX_MISROUTED_REREAD`] before the committed offset.
    pub(super) fn discovered(&self) -> Offset {
        let furthest = Offset(self.committed.0.saturating_sub(MAX_MISROUTED_REREAD));
        let misrouted = self.misrouted_from.unwrap_or(self.committed);
        misrouted.max(furthest).min(self.committed)
    }
}

#[derive(Debug, Default)]
struct Inner {
    owned: BTreeMap<PartitionId, OwnedPartition>,
    /// Partitions in the transaction in progress.
    in_transaction: BTreeSet<PartitionId>,
    /// Partitions that the group has revoked and not assigned again: they cannot be opened.
    revoked: BTreeSet<PartitionId>,
}

/// The partitions of this process.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    inner: Mutex<Inner>,
    /// Notified when a transaction has ended.
    transaction_ended: Condvar,
}

impl Partitions {
    pub(super) fn of(&self, partition: PartitionId) -> Option<OwnedPartition> {
        self.inner.lock().owned.get(&partition).cloned()
    }

    /// What is known of a partition that is open.
    pub(super) fn open(&self, partition: PartitionId) -> Result<OwnedPartition, StoreError> {
        let owned = self.of(partition);
        match owned.as_ref().map(|owned| owned.state) {
            Some(OwnershipState::Open) => owned.ok_or_else(|| not_open(partition)),
            Some(OwnershipState::Behind) => {
                Err(behind(partition, owned.and_then(|owned| owned.broken)))
            }
            Some(OwnershipState::Opening | OwnershipState::WritingRecord) | None => {
                Err(not_open(partition))
            }
        }
    }

    /// Fails only where a partition is behind.
    pub(super) fn not_behind(&self, partition: PartitionId) -> Result<(), StoreError> {
        match self.of(partition) {
            Some(owned) if owned.state == OwnershipState::Behind => {
                Err(behind(partition, owned.broken))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Adds a partition to the transaction that is being built; fails where it is not in this state.
    pub(super) fn add_to_transaction(
        &self,
        partition: PartitionId,
        state: OwnershipState,
    ) -> Result<OwnedPartition, StoreError> {
        let mut inner = self.inner.lock();
        let Some(owned) = inner.owned.get(&partition).cloned() else {
            return Err(not_open(partition));
        };
        if owned.state != state {
            return Err(not_open(partition));
        }
        inner.in_transaction.insert(partition);
        Ok(owned)
    }

    /// Whether the transaction in progress holds a partition.
    #[cfg(test)]
    pub(super) fn is_in_transaction(&self, partition: PartitionId) -> bool {
        self.inner.lock().in_transaction.contains(&partition)
    }

    /// Removes all partitions from the transaction, which has ended.
    pub(super) fn end_transaction(&self) {
        self.inner.lock().in_transaction.clear();
        self.transaction_ended.notify_all();
    }

    /// Begins to open a partition. False where an earlier transaction still holds it at the deadline.
    pub(super) fn begin(
        &self,
        partition: PartitionId,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        let mut inner = self.inner.lock();
        while inner.in_transaction.contains(&partition) {
            if self
                .transaction_ended
                .wait_until(&mut inner, deadline)
                .timed_out()
            {
                return Ok(false);
            }
        }
        if inner.revoked.contains(&partition) {
            return Err(not_open(partition));
        }
        let owned = OwnedPartition {
            state: OwnershipState::Opening,
            committed: Offset::ZERO,
            first_epoch: Epoch::FIRST,
            misrouted_from: None,
            record: None,
            notices: Vec::new(),
            position: None,
            broken: None,
        };
        inner.owned.insert(partition, owned);
        Ok(true)
    }

    /// Changes what is known of a partition. False where it is not in this state.
    pub(super) fn change(
        &self,
        partition: PartitionId,
        state: OwnershipState,
        change: impl FnOnce(&mut OwnedPartition),
    ) -> bool {
        let mut inner = self.inner.lock();
        let owned = inner.owned.get_mut(&partition);
        let Some(owned) = owned.filter(|owned| owned.state == state) else {
            return false;
        };
        change(owned);
        true
    }

    /// Notes a record that belongs to another partition; the lowest offset is kept.
    pub(super) fn note_misrouted(&self, partition: PartitionId, offset: Offset) {
        let mut inner = self.inner.lock();
        if let Some(owned) = inner.owned.get_mut(&partition) {
            let first = owned.misrouted_from.get_or_insert(offset);
            *first = offset.min(*first);
        }
    }

    /// The open partitions.
    pub(super) fn all_open(&self) -> Vec<PartitionId> {
        let inner = self.inner.lock();
        let open = inner.owned.iter();
        open.filter(|(_, owned)| owned.state == OwnershipState::Open)
            .map(|(partition, _)| *partition)
            .collect()
    }

    /// The partitions that must be read again and are not broken.
    pub(super) fn behind(&self) -> Vec<PartitionId> {
        let inner = self.inner.lock();
        let behind = inner.owned.iter();
        behind
            .filter(|(_, owned)| owned.state == OwnershipState::Behind && owned.broken.is_none())
            .map(|(partition, _)| *partition)
            .collect()
    }

    /// Marks a partition as broken: nothing of it is saved any more. The first reason is kept. True where it was not
    /// broken before.
    pub(super) fn mark_broken(&self, partition: PartitionId, reason: &str) -> bool {
        let mut inner = self.inner.lock();
        let Some(owned) = inner.owned.get_mut(&partition) else {
            return false;
        };
        owned.state = OwnershipState::Behind;
        let is_new = owned.broken.is_none();
        owned.broken.get_or_insert_with(|| reason.into());
        is_new
    }

    /// The reason of a broken partition, if any is broken.
    pub(super) fn broken(&self) -> Option<Arc<str>> {
        let inner = self.inner.lock();
        inner.owned.values().find_map(|owned| owned.broken.clone())
    }

    /// Releases partitions that the group revokes. It does not block: jobs that a transaction takes from now on find
    /// the partitions closed, and they cannot be opened until [`Self::assigned`].
    pub(super) fn release(&self, partitions: &[PartitionId]) {
        let mut inner = self.inner.lock();
        for partition in partitions {
            inner.owned.remove(partition);
            inner.revoked.insert(*partition);
        }
    }

    /// Allows opening partitions that the group has assigned to this process.
    pub(super) fn assigned(&self, partitions: &[PartitionId]) {
        let mut inner = self.inner.lock();
        for partition in partitions {
            inner.revoked.remove(partition);
        }
    }

    /// Releases a partition, waits until no transaction holds it, and returns its last state; none where it was not
    /// owned or the transaction has not ended at the deadline.
    pub(super) fn close(
        &self,
        partition: PartitionId,
        deadline: Instant,
    ) -> Option<OwnedPartition> {
        let mut inner = self.inner.lock();
        let owned = inner.owned.remove(&partition);
        while inner.in_transaction.contains(&partition) {
            if self
                .transaction_ended
                .wait_until(&mut inner, deadline)
                .timed_out()
            {
                tracing::error!(%partition, "the transaction in progress has not ended in time; the next owner waits for it, or the group refuses it");
                return None;
            }
        }
        owned
    }
}

fn behind(partition: PartitionId, broken: Option<Arc<str>>) -> StoreError {
    StoreError::Unavailable(broken.map_or_else(
        || format!("partition {partition} is being read again from the changelog"),
        |reason| reason.to_string(),
    ))
}

pub(super) fn not_open(partition: PartitionId) -> StoreError {
    StoreError::Unavailable(format!("partition {partition} is not open in this process"))
}
