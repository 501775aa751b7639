//! Removes the oldest records of a partition: those beyond the retention limits that the store already holds.
//!
//! The low watermark moves first, then the records are removed. A crash in between leaves records that no reader sees;
//! the next removal deletes them.

use super::partitions::{OpenLog, Partition, RetentionConfig, offset_of};
use super::record;
use super::{Offset, PartitionId, ReadError};
use crate::clock::now_ms;
use crate::disk::codec::{Reader, Writer};
use crate::disk::{WriteError, describe};
use fjall::Keyspace;
use std::sync::atomic::Ordering;

/// Most records removed in one batch; few enough for the space that is left on a full disk.
const REMOVALS_A_BATCH: usize = 2_000;

/// Bytes that one removal takes in a batch.
const REMOVAL_BYTES: usize = 64;

/// The beginning of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Beginning {
    /// First offset that readers may read.
    pub(super) low: Offset,
    /// All records below this offset are removed.
    pub(super) removed: Offset,
}

impl Beginning {
    fn encode(self, partition: PartitionId) -> Vec<u8> {
        Writer::with_capacity(20)
            .u64(self.low.0)
            .u64(self.removed.0)
            .seal(&partition.0.to_be_bytes())
    }
}

pub(super) fn read_beginning(
    beginnings: &Keyspace,
    partition: PartitionId,
) -> Result<Beginning, String> {
    let key = partition.0.to_be_bytes();
    let Some(value) = beginnings.get(key).map_err(|error| describe(&error))? else {
        return Ok(Beginning::default());
    };
    let read = || {
        let mut reader = Reader::open(&key, value.into())?;
        Ok::<_, &str>(Beginning {
            low: Offset(reader.u64()?),
            removed: Offset(reader.u64()?),
        })
    };
    read().map_err(|damage| format!("the beginning of partition {partition} is damaged: {damage}"))
}

/// Removes what retention allows, but nothing at or above `floor`.
pub(super) fn trim(
    shared: &OpenLog,
    partition: &Partition,
    floor: Offset,
) -> Result<(), ReadError> {
    let mut removed = partition.removed.lock();
    let low = partition.low_watermark();
    let target = target(shared.retention, partition, floor)?.max(low);
    if target > low {
        let mut batch = shared.dir.database().batch();
        let beginning = Beginning {
            low: target,
            removed: *removed,
        };
        batch.insert(
            &shared.beginnings,
            partition.id.0.to_be_bytes(),
            beginning.encode(partition.id),
        );
        shared.dir.commit_removal(batch).map_err(unavailable)?;
        partition.low.store(target.0, Ordering::Release);
    }
    while *removed < target {
        let mut batch = shared.dir.database().batch();
        let mut next = *removed;
        for entry in partition
            .records
            .range(removed.0.to_be_bytes()..target.0.to_be_bytes())
            .take(REMOVALS_A_BATCH)
        {
            let key = entry
                .key()
                .map_err(|error| partition.read_error(next, &error))?;
            next = offset_of(&key).unwrap_or(next).next();
            batch.remove(&partition.records, key);
        }
        if batch.len() < REMOVALS_A_BATCH {
            next = target;
        }
        let bytes = (batch.len() + 1) * REMOVAL_BYTES;
        let beginning = Beginning {
            low: target,
            removed: next,
        };
        batch.insert(
            &shared.beginnings,
            partition.id.0.to_be_bytes(),
            beginning.encode(partition.id),
        );
        if let Err(error) = shared.dir.write_removal(batch, bytes) {
            if matches!(error, WriteError::NoSpace(_)) {
                make_room(partition);
            }
            return Err(unavailable(error));
        }
        *removed = next;
    }
    Ok(())
}

/// Flushes the partition's appends and removals to tables; the space for that is reserved. Removed records take no
/// space in a table, so the next removal gets further. (The database does not document this call. Without it, a
/// partition is flushed only when enough was written to it.)
fn make_room(partition: &Partition) {
    if let Err(error) = partition.records.rotate_memtable() {
        tracing::warn!(partition = %partition.id, error = describe(&error), "a partition cannot be flushed");
    }
}

/// The first offset to keep.
fn target(
    retention: RetentionConfig,
    partition: &Partition,
    floor: Offset,
) -> Result<Offset, ReadError> {
    let low = partition.low_watermark();
    let Some(last) = last_record(partition) else {
        return Ok(low);
    };
    let most = floor.min(last);
    let mut target = low;
    if let Some(partition_bytes) = retention.partition_bytes {
        let end = stamp(partition, last)?;
        // The size of the last record itself is not counted; it is small beside any sensible limit.
        let keep = |stamp: record::Stamp| {
            end.bytes_before.saturating_sub(stamp.bytes_before) <= partition_bytes
        };
        target = target.max(first(partition, target, most, keep)?);
    }
    if let Some(age) = retention.age {
        let oldest_ms = now_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        target = target.max(first(partition, target, most, |stamp| {
            stamp.appended_at_ms >= oldest_ms
        })?);
    }
    Ok(target)
}

/// The last offset that has a record, if any.
fn last_record(partition: &Partition) -> Option<Offset> {
    let mut end = partition.high_watermark();
    loop {
        let last = Offset(end.0.checked_sub(1)?);
        match partition.gap_at(last) {
            Some(gap) => end = gap.from,
            None if last >= partition.low_watermark() => return Some(last),
            None => return None,
        }
    }
}

/// The first offset from `from` on that is kept, at most `until`; all offsets after a kept one are kept.
fn first(
    partition: &Partition,
    from: Offset,
    until: Offset,
    keep: impl Fn(record::Stamp) -> bool,
) -> Result<Offset, ReadError> {
    let (mut low, mut high) = (from.0, until.0);
    while low < high {
        let middle = low + (high - low) / 2;
        if keep(stamp(partition, Offset(middle))?) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(Offset(low))
}

/// The stamp of the record at an offset or, in a gap, of the first record after it. That record exists: no caller
/// passes an offset after the last record.
fn stamp(partition: &Partition, offset: Offset) -> Result<record::Stamp, ReadError> {
    let mut offset = offset;
    while let Some(gap) = partition.gap_at(offset) {
        offset = gap.until;
    }
    let corrupt = |reason: &str| ReadError::Corrupt {
        partition: partition.id,
        offset,
        reason: reason.to_owned(),
    };
    let value = partition
        .records
        .get(offset.0.to_be_bytes())
        .map_err(|error| partition.read_error(offset, &error))?;
    record::stamp(&value.ok_or_else(|| corrupt("it is missing"))?).map_err(corrupt)
}

#[allow(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn unavailable(error: WriteError) -> ReadError {
    ReadError::Unavailable(error.to_string())
}
