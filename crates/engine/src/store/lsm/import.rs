//! The LSM store as the local cache of a store that lives elsewhere, partition by partition.
//!
//! Whoever keeps the cache asks first what a claim, a save, transitions or a deletion would change, makes these
//! changes durable elsewhere, and then brings them in together with the place up to which the cache is complete.
//! Bringing in again what came after that place ends in the same state, so a crash in between does no harm.
//!
//! The place of a partition lies in the keyspace `store-committed`, under the partition's number and
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
    /// Up to where the cache of a partition is complete; none where there is no cache of it.
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

    /// What the caches of all partitions are of.
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

    /// The partition of a workspace that the cache does not know, of so many.
    pub fn home_of(&self, id: &WorkspaceId, partitions: u32) -> PartitionId {
        self.dir.partitioner().partition_of(id, partitions)
    }

    /// How partitions are chosen.
    pub fn partitioner(&self) -> Partitioner {
        self.dir.partitioner()
    }

    /// In which partition the cache has a workspace.
    pub fn cached_in(&self, id: &WorkspaceId) -> Option<PartitionId> {
        self.places.lock().partition_of(id)
    }

    /// Refuses changes of this size for which the disk has no space.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`].
    pub fn check_room(&self, bytes: usize) -> Result<(), StoreError> {
        self.dir.check_space(bytes).map_err(write_error)
    }

    /// Forgets everything of a partition. `partitions` is how many there are: it tells where a workspace
    /// belongs of which only transitions are known.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; the rest is forgotten when it is called again. [`StoreError::Corrupt`] where the
    /// disk has lost what is to be forgotten.
    pub fn forget(&self, partition: PartitionId, partitions: u32) -> Result<(), StoreError> {
        // The place goes first: without it nobody relies on what is left.
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

    /// Brings changes of a partition in, in their order, and notes up to where the cache is complete then.
    /// What belongs to one workspace and comes in a row becomes visible whole.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Unavailable`] and [`StoreError::Corrupt`]: some may be there, the place is
    /// as it was.
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

    /// What a claim would make of a workspace.
    ///
    /// # Errors
    /// As [`Store::claim`](crate::store::Store::claim).
    pub fn plan_claim(&self, claim: Claim) -> Result<StoredWorkspace, StoreError> {
        let deletion = self.places.lock().deletion(&claim.id);
        fence::claimed(self.known(&claim.id)?, deletion.as_ref(), claim)
    }

    /// What a save would change, the workspace itself last.
    ///
    /// # Errors
    /// What stands against the workspace.
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

    /// What transitions of one workspace would change: those that are new, and those that go for them.
    ///
    /// # Errors
    /// What stands against the history of the workspace.
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

    /// What a reset would change, the workspace itself last, and what it is then.
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

    /// What a deletion would change, the workspace itself first, and the mark that it leaves.
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

    /// What it would change to remove a workspace without a trace, the workspace itself first.
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

/// Damage for tests, as of a disk that flips bits behind the checksums.
#[cfg(any(test, feature = "testing"))]
impl LsmStore {
    /// Damages what is known of a workspace.
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

/// The workspaces with anything in a keyspace; it looks at one key of each.
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
        // Behind everything that begins with the id and the separator, before any longer id.
        from = name.to_vec();
        from.push(1);
    }
    Ok(ids)
}
