//! Which partitions this process writes, and what it must remember of each.
//!
//! ```text
//! closed -> opening -> assigning -> open <-> behind
//!    ^_________|___________|__________|________|
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use workspace_engine_core::store::{CachePlace, StoreError};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::Epoch;

use super::ownership::OwnershipRecord;
use super::plan::Notice;

/// How many records before the group's offset are read again, at most, for those among them that belong to another
/// partition: that takes about a second.
const MAX_MISROUTED_REREAD: u64 = 1_000_000;

/// Where a partition stands that this process owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The changelog is being read into the cache.
    Opening,
    /// The ownership record is being written.
    Assigning,
    /// It answers.
    Open,
    /// The cache may lack what is in the changelog; it is being read again.
    Behind,
}

/// What is remembered of a partition.
#[derive(Debug, Clone)]
pub(super) struct Owned {
    pub(super) standing: Standing,
    /// What the group has committed of the events.
    pub(super) committed: Offset,
    pub(super) first_epoch: Epoch,
    /// The first record of the events that belongs to another partition, as far as it is remembered.
    pub(super) misrouted_from: Option<Offset>,
    /// The beginning of this ownership; none before it is decided.
    pub(super) record: Option<Arc<OwnershipRecord>>,
    /// What was missing when it was taken over.
    pub(super) notices: Vec<Notice>,
    /// Up to where the cache is complete; none before it was read.
    pub(super) place: Option<CachePlace>,
    /// Why nothing is saved of it until it is taken over again.
    pub(super) broken: Option<Arc<str>>,
}

impl Owned {
    /// Where discovery begins: at the first record that belongs to another partition, within bounds.
    pub(super) fn discovered(&self) -> Offset {
        let furthest = Offset(self.committed.0.saturating_sub(MAX_MISROUTED_REREAD));
        let misrouted = self.misrouted_from.unwrap_or(self.committed);
        misrouted.max(furthest).min(self.committed)
    }
}

#[derive(Debug, Default)]
struct Inner {
    owned: BTreeMap<PartitionId, Owned>,
    /// Those with records in the transaction under way.
    pinned: BTreeSet<PartitionId>,
    /// Those that the group has taken away and not given back: nobody may open them.
    gone: BTreeSet<PartitionId>,
}

/// The partitions of this process.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    inner: Mutex<Inner>,
    unpinned: Condvar,
}

impl Partitions {
    pub(super) fn of(&self, partition: PartitionId) -> Option<Owned> {
        self.inner.lock().owned.get(&partition).cloned()
    }

    /// What is remembered of a partition that answers.
    pub(super) fn open(&self, partition: PartitionId) -> Result<Owned, StoreError> {
        let owned = self.of(partition);
        match owned.as_ref().map(|owned| owned.standing) {
            Some(Standing::Open) => owned.ok_or_else(|| not_open(partition)),
            Some(Standing::Behind) => Err(behind(partition, owned.and_then(|owned| owned.broken))),
            Some(Standing::Opening | Standing::Assigning) | None => Err(not_open(partition)),
        }
    }

    /// Fails where a partition is being read again, whatever else it is.
    pub(super) fn not_behind(&self, partition: PartitionId) -> Result<(), StoreError> {
        match self.of(partition) {
            Some(owned) if owned.standing == Standing::Behind => {
                Err(behind(partition, owned.broken))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Takes a partition into the transaction that is being put together, if it stands like this.
    pub(super) fn pin(
        &self,
        partition: PartitionId,
        standing: Standing,
    ) -> Result<Owned, StoreError> {
        let mut inner = self.inner.lock();
        let Some(owned) = inner.owned.get(&partition).cloned() else {
            return Err(not_open(partition));
        };
        if owned.standing != standing {
            return Err(not_open(partition));
        }
        inner.pinned.insert(partition);
        Ok(owned)
    }

    /// Whether the transaction under way holds a partition.
    #[cfg(test)]
    pub(super) fn is_pinned(&self, partition: PartitionId) -> bool {
        self.inner.lock().pinned.contains(&partition)
    }

    /// The transaction is over.
    pub(super) fn unpin_all(&self) {
        self.inner.lock().pinned.clear();
        self.unpinned.notify_all();
    }

    /// Begins to open a partition, unless a transaction from before still holds it at the deadline.
    pub(super) fn begin(
        &self,
        partition: PartitionId,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        let mut inner = self.inner.lock();
        while inner.pinned.contains(&partition) {
            if self.unpinned.wait_until(&mut inner, deadline).timed_out() {
                return Ok(false);
            }
        }
        if inner.gone.contains(&partition) {
            return Err(not_open(partition));
        }
        let owned = Owned {
            standing: Standing::Opening,
            committed: Offset::ZERO,
            first_epoch: Epoch::FIRST,
            misrouted_from: None,
            record: None,
            notices: Vec::new(),
            place: None,
            broken: None,
        };
        inner.owned.insert(partition, owned);
        Ok(true)
    }

    /// Changes what is remembered of a partition, if it stands like this.
    pub(super) fn change(
        &self,
        partition: PartitionId,
        standing: Standing,
        change: impl FnOnce(&mut Owned),
    ) -> bool {
        let mut inner = self.inner.lock();
        let owned = inner.owned.get_mut(&partition);
        let Some(owned) = owned.filter(|owned| owned.standing == standing) else {
            return false;
        };
        change(owned);
        true
    }

    /// A record that belongs to another partition was met.
    pub(super) fn note_misrouted(&self, partition: PartitionId, offset: Offset) {
        let mut inner = self.inner.lock();
        if let Some(owned) = inner.owned.get_mut(&partition) {
            let first = owned.misrouted_from.get_or_insert(offset);
            *first = offset.min(*first);
        }
    }

    /// Those that answer.
    pub(super) fn answering(&self) -> Vec<PartitionId> {
        let inner = self.inner.lock();
        let open = inner.owned.iter();
        open.filter(|(_, owned)| owned.standing == Standing::Open)
            .map(|(partition, _)| *partition)
            .collect()
    }

    /// Those that must be read again, and can be.
    pub(super) fn behind(&self) -> Vec<PartitionId> {
        let inner = self.inner.lock();
        let behind = inner.owned.iter();
        behind
            .filter(|(_, owned)| owned.standing == Standing::Behind && owned.broken.is_none())
            .map(|(partition, _)| *partition)
            .collect()
    }

    /// Nothing more is saved of a partition, and why. True where that is news.
    pub(super) fn break_off(&self, partition: PartitionId, reason: &str) -> bool {
        let mut inner = self.inner.lock();
        let Some(owned) = inner.owned.get_mut(&partition) else {
            return false;
        };
        owned.standing = Standing::Behind;
        let is_news = owned.broken.is_none();
        owned.broken.get_or_insert_with(|| reason.into());
        is_news
    }

    /// Why nothing is saved of a partition until it is taken over again, where there is one.
    pub(super) fn broken(&self) -> Option<Arc<str>> {
        let inner = self.inner.lock();
        inner.owned.values().find_map(|owned| owned.broken.clone())
    }

    /// Lets go of partitions that the group takes away, without a wait: what is taken into a transaction from now on
    /// finds them closed, and they are not opened before they are given back.
    pub(super) fn let_go(&self, partitions: &[PartitionId]) {
        let mut inner = self.inner.lock();
        for partition in partitions {
            inner.owned.remove(partition);
            inner.gone.insert(*partition);
        }
    }

    /// The group has given them to this process.
    pub(super) fn given(&self, partitions: &[PartitionId]) {
        let mut inner = self.inner.lock();
        for partition in partitions {
            inner.gone.remove(partition);
        }
    }

    /// Lets go of a partition, and waits for the transaction under way that holds it. Tells how it was.
    pub(super) fn close(&self, partition: PartitionId, deadline: Instant) -> Option<Owned> {
        let mut inner = self.inner.lock();
        let owned = inner.owned.remove(&partition);
        while inner.pinned.contains(&partition) {
            if self.unpinned.wait_until(&mut inner, deadline).timed_out() {
                tracing::error!(%partition, "the transaction under way is not over in time; whoever has the partition next waits for it, or the group refuses it");
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
