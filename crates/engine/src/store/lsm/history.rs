//! The history of every workspace: its transitions by epoch and number.

use super::{corrupt, layout, read_error};
use crate::disk::{DataDir, DiskError};
use crate::store::{
    HistoryCursor, HistoryRecord, Key, MAX_HISTORY_TRANSITIONS, Mutation, StoreError,
};
use fjall::{Keyspace, KeyspaceCreateOptions};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Bound;
use workspace_status::{Epoch, WorkspaceId};

/// Transitions are removed in groups of at least this many, so that not every append removes one.
pub(super) const MIN_REMOVED: usize = 256;

pub(super) struct History {
    pub(super) transitions: Keyspace,
    /// One for each workspace to which a transition was added since the store was opened.
    tails: Mutex<HashMap<WorkspaceId, Tail>>,
}

/// How many transitions a workspace has, and the last of them. Mutations of a changelog that is read a second time are
/// counted twice; then they are counted again before any is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tail {
    count: usize,
    last: Option<HistoryCursor>,
}

impl History {
    pub(super) fn open(dir: &DataDir) -> Result<Self, DiskError> {
        Ok(Self {
            transitions: dir.keyspace("store-history", KeyspaceCreateOptions::default)?,
            tails: Mutex::default(),
        })
    }

    /// Forgets what is known of a workspace that is erased.
    pub(super) fn forget(&self, id: &WorkspaceId) {
        self.tails.lock().remove(id);
    }

    /// Follows a mutation that was written.
    pub(super) fn note(&self, mutation: &Mutation) {
        let (Mutation::Transition(HistoryRecord {
            id,
            epoch,
            sequence,
            ..
        })
        | Mutation::Removed(Key::Transition {
            id,
            epoch,
            sequence,
        })
        | Mutation::Damaged(
            _,
            Key::Transition {
                id,
                epoch,
                sequence,
            },
        )) = mutation
        else {
            return;
        };
        if let Some(tail) = self.tails.lock().get_mut(id) {
            if matches!(mutation, Mutation::Removed(_)) {
                tail.count = tail.count.saturating_sub(1);
            } else {
                tail.count += 1;
                tail.last = tail.last.max(Some((*epoch, *sequence)));
            }
        }
    }

    pub(super) fn last(&self, id: &WorkspaceId) -> Result<Option<HistoryCursor>, StoreError> {
        let known = self.tails.lock().get(id).copied();
        let tail = known.map_or_else(|| self.count(id), Ok)?;
        Ok(tail.last)
    }

    /// The oldest transitions, to be removed for new ones.
    pub(super) fn surplus(
        &self,
        id: &WorkspaceId,
        added: usize,
    ) -> Result<Vec<HistoryCursor>, StoreError> {
        let known = self.tails.lock().get(id).copied();
        if known.is_some_and(|tail| tail.count + added <= MAX_HISTORY_TRANSITIONS) {
            return Ok(Vec::new());
        }
        let count = self.count(id)?.count + added;
        if count <= MAX_HISTORY_TRANSITIONS {
            return Ok(Vec::new());
        }
        let surplus = (count - MAX_HISTORY_TRANSITIONS).max(MIN_REMOVED);
        self.cursors(id).take(surplus).collect()
    }

    /// Counts the transitions of a workspace.
    fn count(&self, id: &WorkspaceId) -> Result<Tail, StoreError> {
        let mut tail = Tail::default();
        for cursor in self.cursors(id) {
            tail.last = Some(cursor?);
            tail.count += 1;
        }
        self.tails.lock().insert(id.clone(), tail);
        Ok(tail)
    }

    /// Epoch and number of each transition, oldest first.
    pub(super) fn cursors(
        &self,
        id: &WorkspaceId,
    ) -> impl Iterator<Item = Result<HistoryCursor, StoreError>> {
        let keys = self.transitions.prefix(layout::workspace_prefix(id));
        keys.map(move |entry| {
            let key = entry
                .key()
                .map_err(|error| read_error(&place_of(id), &error))?;
            layout::history_place(id, &key).map_err(|damage| corrupt(place_of(id), damage))
        })
    }

    pub(super) fn read(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        let prefix = layout::workspace_prefix(id);
        let from = after.map_or(Bound::Included(prefix), |(epoch, sequence)| {
            Bound::Excluded(layout::history_key(id, epoch, sequence))
        });
        let until = Bound::Included(layout::history_key(id, Epoch::new(u64::MAX), u64::MAX));
        let mut records = Vec::new();
        for entry in self.transitions.range((from, until)).take(limit) {
            let (key, value) = entry
                .into_inner()
                .map_err(|error| read_error(&place_of(id), &error))?;
            let record = layout::decode_history(id, &key, value.into());
            records.push(record.map_err(|damage| corrupt(place_of(id), damage))?);
        }
        Ok(records)
    }
}

fn place_of(id: &WorkspaceId) -> String {
    format!("the history of workspace {id}")
}
