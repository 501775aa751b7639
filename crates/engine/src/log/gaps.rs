//! Offsets that a partition skips, because the log has lost the events there.
//!
//! A log that was restored from an older copy, or that lost its end, does not assign the lost offsets to other events:
//! a store or a reader that has seen the lost events could not distinguish the two. So the next append gets an offset
//! after them, and the gap is recorded here.

use crate::disk::codec::{Damage, Reader, Writer};
use crate::disk::describe;
use bytes::Bytes;
use fjall::Keyspace;
use workspace_lifecycle::{Offset, PartitionId};

/// A range of offsets without records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) from: Offset,
    /// First offset after it.
    pub(super) until: Offset,
    /// Whether the operator accepted the loss: readers skip the gap then, otherwise they stop there.
    pub(super) is_accepted: bool,
}

const KEY_BYTES: usize = 4 + 8;

impl Gap {
    pub(super) fn covers(&self, offset: Offset) -> bool {
        (self.from..self.until).contains(&offset)
    }

    /// Its key: the partition and its first offset.
    pub(super) fn key(&self, partition: PartitionId) -> [u8; KEY_BYTES] {
        let mut key = [0; KEY_BYTES];
        let (left, right) = key.split_at_mut(4);
        left.copy_from_slice(&partition.0.to_be_bytes());
        right.copy_from_slice(&self.from.0.to_be_bytes());
        key
    }

    pub(super) fn encode(&self, partition: PartitionId) -> Vec<u8> {
        let accepted = u32::from(self.is_accepted);
        Writer::with_capacity(16)
            .u64(self.until.0)
            .u32(accepted)
            .seal(&self.key(partition))
    }

    fn decode(key: &[u8], value: Bytes) -> Result<Self, Damage> {
        let from = key.last_chunk().ok_or("its key is cut short")?;
        let mut reader = Reader::open(key, value)?;
        let until = Offset(reader.u64()?);
        let is_accepted = reader.u32()? != 0;
        Ok(Self {
            from: Offset(u64::from_be_bytes(*from)),
            until,
            is_accepted,
        })
    }
}

/// The gaps of a partition, ordered by offset.
pub(super) fn read_gaps(keyspace: &Keyspace, partition: PartitionId) -> Result<Vec<Gap>, String> {
    let damaged = |reason: &str| format!("a gap of partition {partition} is damaged: {reason}");
    let mut gaps = Vec::new();
    for entry in keyspace.prefix(partition.0.to_be_bytes()) {
        let (key, value) = entry.into_inner().map_err(|error| describe(&error))?;
        gaps.push(Gap::decode(&key, value.into()).map_err(damaged)?);
    }
    Ok(gaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_reads_as_it_was_written() {
        for is_accepted in [true, false] {
            let gap = Gap {
                from: Offset(10),
                until: Offset(30),
                is_accepted,
            };
            let key = gap.key(PartitionId(3));
            let value = gap.encode(PartitionId(3));
            assert_eq!(Gap::decode(&key, value.into()), Ok(gap));
            assert!(Gap::decode(&key, gap.encode(PartitionId(4)).into()).is_err());
            assert!(gap.covers(Offset(10)) && gap.covers(Offset(29)));
            assert!(!gap.covers(Offset(9)) && !gap.covers(Offset(30)));
        }
    }
}
