//! The history of every workspace: its transitions by epoch and number, and their count.

use super::{corrupt, layout, read_error, write_error};
use crate::disk::codec::{Reader, Writer};
use crate::disk::{DataDir, DiskError};
use crate::store::epoch_numbering::EpochNumbering;
use crate::store::{self, HistoryCursor, HistoryRecord, MAX_HISTORY_TRANSITIONS, StoreError};
use fjall::{Keyspace, KeyspaceCreateOptions, OwnedWriteBatch};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use workspace_status::{Epoch, WorkspaceId};

/// Transitions are removed in groups of at least this many, so that not every append removes one.
pub(super) const TRANSITIONS_REMOVED: usize = 256;

/// The two keyspaces. For each workspace, only one caller at a time appends, or makes a draft and imports it.
pub(super) struct History {
    pub(super) transitions: Keyspace,
    pub(super) counts: Keyspace,
    /// One for each workspace that had a transition since the store was opened.
    epoch_numbering: Mutex<HashMap<WorkspaceId, EpochNumbering>>,
}

impl History {
    pub(super) fn open(dir: &DataDir) -> Result<Self, DiskError> {
        let plain = KeyspaceCreateOptions::default;
        Ok(Self {
            transitions: dir.keyspace("store-history", plain)?,
            counts: dir.keyspace("store-history-counts", plain)?,
            epoch_numbering: Mutex::default(),
        })
    }

    /// Forgets the numbering of a workspace that is deleted.
    pub(super) fn forget(&self, id: &WorkspaceId) {
        self.epoch_numbering.lock().remove(id);
    }

    /// The epoch of the last transition of a workspace, if it can be read.
    pub(super) fn newest_epoch(&self, id: &WorkspaceId) -> Option<Epoch> {
        let prefix = layout::workspace_prefix(id);
        let key = self.transitions.prefix(prefix).next_back()?.key().ok()?;
        let (epoch, _) = layout::history_place(id, &key).ok()?;
        Some(epoch)
    }

    pub(super) fn append(
        &self,
        dir: &DataDir,
        records: &[HistoryRecord],
    ) -> Result<(), StoreError> {
        let mut by_workspace: BTreeMap<&WorkspaceId, Vec<&HistoryRecord>> = BTreeMap::new();
        for record in records {
            by_workspace.entry(&record.id).or_default().push(record);
        }
        let mut batch = dir.database().batch();
        let mut bytes = 0;
        let mut first = Ok(());
        for (id, records) in by_workspace {
            // Everything that can fail happens before the batch is changed.
            match self.draft(id, &records) {
                Ok(Some(draft)) => bytes += draft.insert(self, id, &mut batch),
                Ok(None) => {}
                Err(error) => first = first.and(Err(error)),
            }
        }
        if !batch.is_empty() {
            dir.write(batch, bytes).map_err(write_error)?;
        }
        first
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

    pub(super) fn contains(&self, id: &WorkspaceId, key: &[u8]) -> Result<bool, StoreError> {
        self.transitions
            .contains_key(key)
            .map_err(|error| read_error(&place_of(id), &error))
    }

    /// Number of transitions of a workspace; recounted if the stored count is damaged.
    pub(super) fn count(&self, id: &WorkspaceId) -> Result<u64, StoreError> {
        let key = id.as_str();
        let stored = match self.counts.get(key) {
            Ok(None) => return Ok(0),
            Ok(Some(value)) => Reader::open(key.as_bytes(), value.into())
                .and_then(|mut reader| reader.u64())
                .map_err(|damage| corrupt(place_of(id), damage)),
            Err(error) => Err(read_error(&place_of(id), &error)),
        };
        let Err(StoreError::Corrupt { reason, .. }) = stored else {
            return stored;
        };
        tracing::warn!(workspace = %id, reason, "the number of transitions is damaged; they are counted");
        let mut count = 0;
        for entry in self.transitions.prefix(layout::workspace_prefix(id)) {
            entry
                .key()
                .map_err(|error| read_error(&place_of(id), &error))?;
            count += 1;
        }
        Ok(count)
    }

    /// Number of the last stored transition of an epoch.
    fn last_of(&self, id: &WorkspaceId, epoch: Epoch) -> Result<u64, StoreError> {
        let all = layout::history_key(id, epoch, 0)..=layout::history_key(id, epoch, u64::MAX);
        let Some(last) = self.transitions.range(all).next_back() else {
            return Ok(0);
        };
        let key = last
            .key()
            .map_err(|error| read_error(&place_of(id), &error))?;
        let (_, number) =
            layout::history_place(id, &key).map_err(|damage| corrupt(place_of(id), damage))?;
        Ok(number)
    }

    /// Which of these transitions are new, and which old ones are removed for them; `None` if all are known. Records
    /// their epochs, so that the transitions get the same numbers when they are repeated.
    pub(super) fn draft<'a>(
        &self,
        id: &WorkspaceId,
        records: &[&'a HistoryRecord],
    ) -> Result<Option<Draft<'a>>, StoreError> {
        let mut epoch_numbering = self
            .epoch_numbering
            .lock()
            .get(id)
            .cloned()
            .unwrap_or_default();
        let mut added = BTreeMap::new();
        for record in records {
            let last_of = |epoch| self.last_of(id, epoch);
            let number = epoch_numbering.number(record, last_of)?;
            let key = layout::history_key(id, record.epoch, number);
            if !self.contains(id, &key)? {
                added.entry((record.epoch, number)).or_insert(*record);
            }
        }
        self.epoch_numbering
            .lock()
            .insert(id.clone(), epoch_numbering);
        if added.is_empty() {
            return Ok(None);
        }
        let mut count = self.count(id)? + store::count(added.len());
        let mut dropped = Vec::new();
        let most = store::count(MAX_HISTORY_TRANSITIONS);
        if count > most {
            let excess = usize::try_from(count - most)
                .unwrap_or(usize::MAX)
                .max(TRANSITIONS_REMOVED);
            let oldest = self.transitions.prefix(layout::workspace_prefix(id));
            for entry in oldest.take(excess) {
                let key = entry.key();
                dropped.push(key.map_err(|error| read_error(&place_of(id), &error))?);
            }
            count -= store::count(dropped.len());
        }
        Ok(Some(Draft {
            added,
            dropped,
            count,
        }))
    }
}

/// Transitions of one workspace, to be added to a batch.
pub(super) struct Draft<'a> {
    /// By epoch and number.
    pub(super) added: BTreeMap<(Epoch, u64), &'a HistoryRecord>,
    /// Keys of the transitions that are removed for them.
    pub(super) dropped: Vec<fjall::Slice>,
    /// Number of transitions afterwards.
    count: u64,
}

impl Draft<'_> {
    /// Adds them to a batch and returns their size in bytes.
    fn insert(self, history: &History, id: &WorkspaceId, batch: &mut OwnedWriteBatch) -> usize {
        let mut bytes = 0;
        for ((epoch, number), record) in self.added {
            let key = layout::history_key(id, epoch, number);
            let value = layout::encode_history(&key, record);
            bytes += key.len() + value.len();
            batch.insert(&history.transitions, key, value);
        }
        for key in self.dropped {
            bytes += key.len();
            batch.remove(&history.transitions, key);
        }
        let key = id.as_str();
        let count = Writer::default().u64(self.count).seal(key.as_bytes());
        bytes += key.len() + count.len();
        batch.insert(&history.counts, key, count);
        bytes
    }
}

pub(super) fn place_of(id: &WorkspaceId) -> String {
    format!("the history of workspace {id}")
}
