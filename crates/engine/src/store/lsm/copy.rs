//! The LSM store as the local copy of a changelog, partition by partition.
//!
//! The owner of a partition plans against the copy, makes the mutations durable in the changelog, and then imports them
//! together with the position up to which the copy is complete. Importing mutations after that position again ends in
//! the same state, so a crash in between does no harm.
//!
//! The position of a partition is stored in the keyspace `store-committed`, under the partition's number and
//! [`POSITION_MARK`].

use super::{LsmStore, StoreError, corrupt, layout, place_of, read_error, write_error};
use crate::disk::codec::{Reader, Writer};
use crate::routing::Partitioner;
use crate::store::{Erasure, Key, Mutation};
use fjall::Keyspace;
use std::collections::BTreeSet;
use workspace_lifecycle::PartitionId;
use workspace_status::{Epoch, WorkspaceId};

const POSITION_MARK: u8 = b'@';

/// The position up to which the copy of a partition is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyPosition {
    /// What it is a copy of; a copy of another source is discarded.
    pub source: String,
    /// The first offset of the source that is not in the copy.
    pub next_offset: u64,
    /// Offset of the last ownership record in the copy, by which the source is recognised.
    pub ownership_record_offset: u64,
    /// The highest epoch in the partition.
    pub highest_epoch: Epoch,
    /// When the copy was last known to be complete up to `next_offset`, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl LsmStore {
    /// The position up to which the copy of a partition is complete; `None` if there is no copy of it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::Corrupt`].
    pub fn copy_position(
        &self,
        partition: PartitionId,
    ) -> Result<Option<CopyPosition>, StoreError> {
        let key = position_key(partition);
        let named = || format!("the position of the copy of partition {partition}");
        let value = self
            .committed
            .get(key)
            .map_err(|error| read_error(&named(), &error))?;
        let Some(value) = value else { return Ok(None) };
        let decode = || {
            let mut reader = Reader::open(&key, value.into())?;
            Ok(CopyPosition {
                next_offset: reader.u64()?,
                ownership_record_offset: reader.u64()?,
                highest_epoch: Epoch::new(reader.u64()?),
                at_ms: reader.u64()?,
                source: reader.text()?,
            })
        };
        decode()
            .map(Some)
            .map_err(|damage| corrupt(named(), damage))
    }

    /// The sources of the copies of all partitions.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::Corrupt`].
    pub fn copy_sources(&self) -> Result<BTreeSet<String>, StoreError> {
        let partitions = (0..self.dir.partitions()).map(PartitionId);
        let positions =
            partitions.filter_map(|partition| self.copy_position(partition).transpose());
        positions
            .map(|position| position.map(|position| position.source))
            .collect()
    }

    /// The partition of a workspace that the copy does not know, out of `partitions`.
    pub fn home_of(&self, id: &WorkspaceId, partitions: u32) -> PartitionId {
        self.dir.partitioner().partition_of(id, partitions)
    }

    /// How partitions are chosen.
    pub fn partitioner(&self) -> Partitioner {
        self.dir.partitioner()
    }

    /// The partition in which the copy has a workspace.
    pub fn partition_of(&self, id: &WorkspaceId) -> Option<PartitionId> {
        self.index.lock().partition_of(id)
    }

    /// Refuses mutations of this size if the disk has too little space.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`].
    pub fn check_room(&self, bytes: usize) -> Result<(), StoreError> {
        self.dir.check_space(bytes).map_err(write_error)
    }

    /// Imports mutations of a partition in order, and records the position up to which the copy is then complete.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Unavailable`] and [`StoreError::Corrupt`]: some mutations may be imported,
    /// the position is unchanged.
    pub fn import(
        &self,
        partition: PartitionId,
        mutations: &[Mutation],
        position: &CopyPosition,
    ) -> Result<(), StoreError> {
        let key = position_key(partition).to_vec();
        let value = Writer::with_capacity(40 + position.source.len())
            .u64(position.next_offset)
            .u64(position.ownership_record_offset)
            .u64(position.highest_epoch.get())
            .u64(position.at_ms)
            .block(position.source.as_bytes())
            .seal(&key);
        self.write(mutations, [(key, value)])
    }

    /// An erasure as single mutations: a changelog has a record for each value, and so a removal for each.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] and [`StoreError::Corrupt`].
    pub fn single_mutations(&self, erasure: Erasure) -> Result<Vec<Mutation>, StoreError> {
        let id = erasure.workspace().clone();
        let mut mutations = Vec::new();
        let prefix = layout::workspace_prefix(&id);
        for entry in self.entries.prefix(&prefix) {
            let key = entry
                .key()
                .map_err(|error| read_error(&place_of(&id), &error))?;
            let name = layout::entry_name(key.get(prefix.len()..).unwrap_or_default());
            let (kind, entity) = name.map_err(|damage| corrupt(place_of(&id), damage))?;
            mutations.push(Mutation::Removed(Key::Entry {
                id: id.clone(),
                kind: kind.into(),
                entity: entity.into(),
            }));
        }
        let last = match erasure {
            Erasure::Reset(workspace) => {
                mutations.push(Mutation::Workspace(workspace));
                return Ok(mutations);
            }
            Erasure::Delete(deletion) => Mutation::Deletion(deletion),
            Erasure::Purge(id) => Mutation::Removed(Key::Deletion(id)),
        };
        mutations.insert(0, Mutation::Removed(Key::Workspace(id.clone())));
        for place in self.history.places(&id) {
            mutations.push(Mutation::Removed(Key::History {
                id: id.clone(),
                place: place?,
            }));
        }
        mutations.push(last);
        Ok(mutations)
    }

    /// Removes everything of a partition. `partitions` is the number of partitions: it determines the partition of a
    /// workspace of which only entries or transitions are known.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; another call removes the rest. [`StoreError::Corrupt`] if the disk has lost what is
    /// to be removed.
    pub fn forget(&self, partition: PartitionId, partitions: u32) -> Result<(), StoreError> {
        // The position is removed first: without it no caller relies on the rest.
        let mut batch = self.dir.database().batch();
        let key = position_key(partition);
        batch.remove(&self.committed, key);
        self.dir
            .write_removal(batch, key.len())
            .map_err(write_error)?;
        let mut ids: BTreeSet<WorkspaceId> = self.index.lock().of(partition).into_iter().collect();
        for keyspace in [&self.workspaces, &self.entries, &self.history.parts] {
            for id in ids_in(keyspace)? {
                let known = self.partition_of(&id);
                if known.unwrap_or_else(|| self.home_of(&id, partitions)) == partition {
                    ids.insert(id);
                }
            }
        }
        for id in ids {
            self.index.lock().remove(&id);
            self.remove(&id)?;
            self.remove_deletion(&id)?;
        }
        Ok(())
    }
}

/// Damage for tests, like that of a disk that flips bits despite the checksums.
#[cfg(any(test, feature = "testing"))]
impl LsmStore {
    /// Damages a stored value.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub fn damage(&self, key: &Key) -> Result<(), StoreError> {
        let (keyspace, key) = self.locate(key);
        let mut batch = self.dir.database().batch();
        batch.insert(keyspace, key, [0; 64]);
        self.dir.write(batch, 64).map_err(write_error)
    }
}

fn position_key(partition: PartitionId) -> [u8; 5] {
    let [a, b, c, d] = partition.0.to_be_bytes();
    [a, b, c, d, POSITION_MARK]
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
        ids.extend(layout::id_of(name));
        // After every key that begins with the id and the separator, before any longer id.
        from = name.to_vec();
        from.push(1);
    }
    Ok(ids)
}
