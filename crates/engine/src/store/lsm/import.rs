//! The LSM store as the local cache of a remote store, partition by partition.
//!
//! The owner of the cache first queries what a claim, a save, transitions or a deletion would change. It makes these
//! changes durable in the remote store, and then imports them together with the position up to which the cache is
//! complete. Importing changes after that position again ends in the same state, so a crash in between does no harm.
//!
//! The place of a partition is stored in the keyspace `store-committed`, under the partition's number and
//! [`PLACE_MARK`].

use super::cache::{CacheChange, CacheKey, CachePlace};
use super::history::place_of as history_of;
use super::import_batch::ImportBatch;
use super::{
    Claim, Deletion, Erase, HistoryRecord, LsmStore, Save, StoreError, StoredWorkspace, corrupt,
    keyed, layout, place_of, read_error, write_error,
};
use crate::disk::codec::{Reader, Writer};
use crate::routing::Partitioner;
use crate::store::{Change, fence};
use fjall::Keyspace;
use std::collections::BTreeSet;
use std::sync::Arc;
use workspace_lifecycle::PartitionId;
use workspace_status::{Epoch, WorkspaceId};

const PLACE_MARK: u8 = b'@';

impl LsmStore {
    /// The position up to which the cache of a partition is complete; `None` if there is no cache of it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::Corrupt`].
    pub fn cached_place(&self, partition: PartitionId) -> Result<Option<CachePlace>, StoreError> {
        let key = place_key(partition);
        let named = || format!("the cache's place in partition {partition}");
        let value = self
            .committed
            .get(key)
            .map_err(|error| read_error(&named(), &error))?;
        let Some(value) = value else { return Ok(None) };
        let decode = || {
            let mut reader = Reader::open(&key, value.into())?;
            Ok(CachePlace {
                position: reader.u64()?,
                last_assignment_offset: reader.u64()?,
                highest_epoch: Epoch::new(reader.u64()?),
                at_ms: reader.u64()?,
                source: reader.text()?,
            })
        };
        decode()
            .map(Some)
            .map_err(|damage| corrupt(named(), damage))
    }

    /// The sources of the caches of all partitions.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::Corrupt`].
    pub fn cached_sources(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut sources = BTreeSet::new();
        for partition in 0..self.dir.partitions() {
            sources.extend(
                self.cached_place(PartitionId(partition))?
                    .map(|place| place.source),
            );
        }
        Ok(sources)
    }

    /// The partition of a workspace that the cache does not know, out of `partitions`.
    pub fn home_of(&self, id: &WorkspaceId, partitions: u32) -> PartitionId {
        self.dir.partitioner().partition_of(id, partitions)
    }

    /// How partitions are chosen.
    pub fn partitioner(&self) -> Partitioner {
        self.dir.partitioner()
    }

    /// The partition in which the cache has a workspace.
    pub fn cached_in(&self, id: &WorkspaceId) -> Option<PartitionId> {
        self.places.lock().partition_of(id)
    }

    /// Refuses changes of this size if the disk has too little space.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`].
    pub fn check_room(&self, bytes: usize) -> Result<(), StoreError> {
        self.dir.check_space(bytes).map_err(write_error)
    }

    /// Removes everything of a partition. `partitions` is the number of partitions: it determines the partition of a
    /// workspace of which only entries or transitions are known.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; another call removes the rest. [`StoreError::Corrupt`] if the disk has lost what is
    /// to be removed.
    pub fn forget(&self, partition: PartitionId, partitions: u32) -> Result<(), StoreError> {
        // The place is removed first: without it no caller relies on the rest.
        let mut batch = self.dir.database().batch();
        batch.remove(&self.committed, place_key(partition));
        self.dir
            .write_removal(batch, place_key(partition).len())
            .map_err(write_error)?;
        let mut ids: BTreeSet<WorkspaceId> = self.places.lock().of(partition).into_iter().collect();
        for keyspace in [
            &self.workspaces,
            &self.entries,
            &self.history.transitions,
            &self.history.counts,
        ] {
            for id in ids_in(keyspace)? {
                let place = self.places.lock().partition_of(&id);
                if place.unwrap_or_else(|| self.home_of(&id, partitions)) == partition {
                    ids.insert(id);
                }
            }
        }
        for id in ids {
            let _locks = self.lock(std::iter::once(&id));
            self.places.lock().remove(&id);
            self.remove_all(&id)?;
        }
        Ok(())
    }

    /// Imports changes of a partition in order, and records the position up to which the cache is then complete.
    /// Consecutive changes of one workspace become visible together.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Unavailable`] and [`StoreError::Corrupt`]: some changes may be imported,
    /// the place is unchanged.
    pub fn import(
        &self,
        partition: PartitionId,
        changes: &[CacheChange],
        place: &CachePlace,
    ) -> Result<(), StoreError> {
        let _locks = self.lock(changes.iter().map(CacheChange::workspace));
        let mut import_batch = ImportBatch::new(self, partition);
        let mut last = None;
        for change in changes {
            let id = change.workspace();
            if import_batch.bytes >= super::PIECE_BYTES && last != Some(id) {
                std::mem::replace(&mut import_batch, ImportBatch::new(self, partition)).write()?;
            }
            import_batch.take(change)?;
            last = Some(id);
        }
        let key = place_key(partition);
        let value = Writer::with_capacity(40 + place.source.len())
            .u64(place.position)
            .u64(place.last_assignment_offset)
            .u64(place.highest_epoch.get())
            .u64(place.at_ms)
            .block(place.source.as_bytes())
            .seal(&key);
        import_batch.note(key.to_vec(), value);
        import_batch.write()
    }

    /// The workspace as a claim would leave it.
    ///
    /// # Errors
    /// As [`Store::claim`](crate::store::Store::claim).
    pub fn plan_claim(&self, claim: Claim) -> Result<StoredWorkspace, StoreError> {
        let deletion = self.places.lock().deletion(&claim.id);
        fence::claimed(self.known(&claim.id)?, deletion.as_ref(), claim)
    }

    /// The changes of a save, the workspace itself last.
    ///
    /// # Errors
    /// Why the save of the workspace is refused.
    pub fn plan_save(&self, save: &Save) -> Result<Vec<CacheChange>, StoreError> {
        let workspace = fence::saved(self.known(&save.id)?, save)?;
        let mut changes = Vec::with_capacity(save.changes.len() + 1);
        for (_, change) in keyed(&save.id, &save.changes)? {
            changes.push(match change {
                Change::Set(entry) => CacheChange::Entry(save.id.clone(), entry.clone()),
                Change::Unset { kind, id } => CacheChange::Gone(CacheKey::Entry {
                    id: save.id.clone(),
                    kind: Arc::clone(kind),
                    entity: id.clone(),
                }),
            });
        }
        changes.push(CacheChange::Workspace(workspace));
        Ok(changes)
    }

    /// The changes of adding transitions of one workspace: new transitions, and old ones that are removed for them.
    ///
    /// # Errors
    /// Why the history of the workspace cannot be written.
    pub fn plan_history(
        &self,
        id: &WorkspaceId,
        records: &[&HistoryRecord],
    ) -> Result<Vec<CacheChange>, StoreError> {
        let _locks = self.lock(std::iter::once(id));
        let deletion = self.places.lock().deletion(id);
        let of_now = |record: &&&HistoryRecord| {
            let deleted = deletion.as_ref().map(|deletion| deletion.epoch);
            deleted.is_none_or(|deleted| record.epoch > deleted)
        };
        let records: Vec<&HistoryRecord> = records.iter().filter(of_now).copied().collect();
        let Some(draft) = self.history.draft(id, &records)? else {
            return Ok(Vec::new());
        };
        let mut changes = Vec::with_capacity(draft.added.len() + draft.dropped.len());
        for ((_, sequence), record) in draft.added {
            changes.push(CacheChange::Transition(HistoryRecord {
                sequence,
                ..record.clone()
            }));
        }
        for key in draft.dropped {
            changes.push(CacheChange::Gone(transition_key(id, &key)?));
        }
        Ok(changes)
    }

    /// The changes of a reset, the workspace itself last, and the workspace afterwards.
    ///
    /// # Errors
    /// As [`Store::reset`](crate::store::Store::reset).
    pub fn plan_reset(
        &self,
        erase: Erase,
    ) -> Result<(Vec<CacheChange>, StoredWorkspace), StoreError> {
        let newest = self.check_erasure(&erase)?;
        let deletion = self.places.lock().deletion(&erase.id);
        let workspace = fence::emptied(erase, newest, deletion.as_ref());
        let mut changes = self.entries_gone(&workspace.id)?;
        changes.push(CacheChange::Workspace(workspace.clone()));
        Ok((changes, workspace))
    }

    /// The changes of a deletion, the workspace itself first, and the mark that it leaves.
    ///
    /// # Errors
    /// As [`Store::delete`](crate::store::Store::delete).
    pub fn plan_delete(&self, erase: Erase) -> Result<(Vec<CacheChange>, Deletion), StoreError> {
        let newest = self.check_erasure(&erase)?;
        let deletion = fence::deletion(erase, newest);
        let mut changes = self.all_gone(&deletion.id)?;
        changes.push(CacheChange::Deleted(deletion.clone()));
        Ok((changes, deletion))
    }

    /// The changes of removing a workspace without a trace, the workspace itself first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub fn plan_purge(&self, id: &WorkspaceId) -> Result<Vec<CacheChange>, StoreError> {
        let mut changes = self.all_gone(id)?;
        changes.push(CacheChange::Gone(CacheKey::Deletion(id.clone())));
        Ok(changes)
    }

    fn entries_gone(&self, id: &WorkspaceId) -> Result<Vec<CacheChange>, StoreError> {
        let prefix = layout::workspace_prefix(id);
        let mut changes = Vec::new();
        for entry in self.entries.prefix(&prefix) {
            let key = entry
                .key()
                .map_err(|error| read_error(&place_of(id), &error))?;
            let name = layout::entry_name(key.get(prefix.len()..).unwrap_or_default());
            let (kind, entity) = name.map_err(|damage| corrupt(place_of(id), damage))?;
            changes.push(CacheChange::Gone(CacheKey::Entry {
                id: id.clone(),
                kind: kind.into(),
                entity: entity.into(),
            }));
        }
        Ok(changes)
    }

    fn all_gone(&self, id: &WorkspaceId) -> Result<Vec<CacheChange>, StoreError> {
        let prefix = layout::workspace_prefix(id);
        let mut changes = vec![CacheChange::Gone(CacheKey::Workspace(id.clone()))];
        changes.extend(self.entries_gone(id)?);
        for entry in self.history.transitions.prefix(&prefix) {
            let key = entry
                .key()
                .map_err(|error| read_error(&history_of(id), &error))?;
            changes.push(CacheChange::Gone(transition_key(id, &key)?));
        }
        Ok(changes)
    }
}

/// Damage for tests, like that of a disk that flips bits despite the checksums.
#[cfg(any(test, feature = "testing"))]
impl LsmStore {
    /// Damages the record of a workspace.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub fn damage_workspace(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        let mut batch = self.dir.database().batch();
        batch.insert(&self.workspaces, id.as_str(), [0; 64]);
        self.dir.write(batch, 64).map_err(write_error)
    }

    /// Damages an entry of a workspace.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub fn damage_entry(
        &self,
        id: &WorkspaceId,
        kind: &str,
        entity: &str,
    ) -> Result<(), StoreError> {
        let mut batch = self.dir.database().batch();
        let key = layout::entry_key(id, kind, entity);
        batch.insert(&self.entries, key, [0; 64]);
        self.dir.write(batch, 64).map_err(write_error)
    }
}

fn place_key(partition: PartitionId) -> [u8; 5] {
    let [a, b, c, d] = partition.0.to_be_bytes();
    [a, b, c, d, PLACE_MARK]
}

fn transition_key(id: &WorkspaceId, key: &[u8]) -> Result<CacheKey, StoreError> {
    let (epoch, sequence) =
        layout::history_place(id, key).map_err(|damage| corrupt(history_of(id), damage))?;
    Ok(CacheKey::Transition {
        id: id.clone(),
        epoch,
        sequence,
    })
}

/// The workspaces with any key in a keyspace; reads one key of each.
fn ids_in(keyspace: &Keyspace) -> Result<Vec<WorkspaceId>, StoreError> {
    let mut ids = Vec::new();
    let mut from = Vec::new();
    while let Some(entry) = keyspace.range(from.clone()..).next() {
        let key = entry
            .key()
            .map_err(|error| read_error("the list of workspaces", &error))?;
        let name = key.split(|byte| *byte == 0).next().unwrap_or_default();
        let id = std::str::from_utf8(name).ok();
        ids.extend(id.and_then(|id| WorkspaceId::new(id).ok()));
        // After every key that begins with the id and the separator, before any longer id.
        from = name.to_vec();
        from.push(1);
    }
    Ok(ids)
}
