//! The partitions of the embedded log on disk, and how they are read.

use super::gaps::Gap;
use super::record;
use super::{AppendError, AppendListener, Batch, ReadError, ReadLimit};
use crate::disk::{DataDir, WriteError};
use bytes::Bytes;
use fjall::Keyspace;
use parking_lot::{Mutex, RwLock};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use workspace_lifecycle::{Offset, PartitionId};

/// What may be removed from each partition once the store holds it durably.
///
/// The default removes nothing: the disk is the limit, and every workspace can be rebuilt from its first event.
/// The last record of a partition always stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetentionConfig {
    /// Most bytes of records that one partition keeps; `None` is no limit.
    pub partition_bytes: Option<u64>,
    /// How long a record is kept; `None` is no limit.
    pub age: Option<Duration>,
}

/// Most records for which a read reserves memory in advance.
const MAX_RECORDS_RESERVED: usize = 4096;

/// State that readers and the writer share.
pub(super) struct OpenLog {
    pub(super) dir: DataDir,
    pub(super) topic: String,
    pub(super) retention: RetentionConfig,
    pub(super) partitions: Vec<Partition>,
    /// The last answers to producers.
    pub(super) answers: Keyspace,
    /// The beginning of each partition.
    pub(super) beginnings: Keyspace,
    /// The offsets that each partition skips.
    pub(super) gaps: Keyspace,
    pub(super) dead_letters: Keyspace,
    pub(super) queued_bytes: AtomicUsize,
    /// Error of the last group of appends, and its size in bytes; `None` if it was written.
    pub(super) last_error: Mutex<Option<(WriteError, usize)>>,
    pub(super) listener: RwLock<Option<AppendListener>>,
}

/// One partition on disk.
pub(super) struct Partition {
    pub(super) id: PartitionId,
    pub(super) records: Keyspace,
    pub(super) low: AtomicU64,
    pub(super) high: AtomicU64,
    /// All records below this offset are removed. Held while records are removed.
    pub(super) removed: Mutex<Offset>,
    /// Ranges of offsets without records, ordered; one for each time the log lost its end.
    pub(super) gaps: RwLock<Vec<Gap>>,
}

impl Partition {
    pub(super) fn low_watermark(&self) -> Offset {
        Offset(self.low.load(Ordering::Acquire))
    }

    pub(super) fn high_watermark(&self) -> Offset {
        Offset(self.high.load(Ordering::Acquire))
    }

    /// The gap that contains an offset.
    pub(super) fn gap_at(&self, offset: Offset) -> Option<Gap> {
        let gaps = self.gaps.read();
        gaps.iter().find(|gap| gap.covers(offset)).copied()
    }

    /// The first gap that contains an offset or begins after it.
    pub(super) fn gap_from(&self, offset: Offset) -> Option<Gap> {
        let gaps = self.gaps.read();
        gaps.iter().find(|gap| gap.until > offset).copied()
    }

    /// Start of the first gap after an offset.
    fn gap_after(&self, offset: Offset) -> Option<Offset> {
        let gaps = self.gaps.read();
        gaps.iter().map(|gap| gap.from).find(|from| *from > offset)
    }
}

impl OpenLog {
    pub(super) fn partition(&self, id: PartitionId) -> Option<&Partition> {
        self.partitions.get(usize::try_from(id.0).ok()?)
    }

    /// Publishes the new end of a partition to readers, and notifies the listener.
    pub(super) fn publish(&self, id: PartitionId, end: Offset) {
        if let Some(partition) = self.partition(id) {
            partition.high.store(end.0, Ordering::Release);
        }
        let listener = self.listener.read().clone();
        if let Some(listener) = listener {
            listener(id, end);
        }
    }
}

impl Partition {
    pub(super) fn read(&self, from: Offset, limit: ReadLimit) -> Result<Batch, ReadError> {
        let high_watermark = self.high_watermark();
        self.not_removed(from)?;
        if from > high_watermark {
            return Err(ReadError::BeyondEnd {
                partition: self.id,
                requested: from,
                high_watermark,
            });
        }
        let until = limit.until.min(high_watermark);
        let expected = usize::try_from(until.since(from)).unwrap_or(usize::MAX);
        let mut batch = Batch {
            records: Vec::with_capacity(expected.min(limit.records).min(MAX_RECORDS_RESERVED)),
            next_offset: from,
            high_watermark,
        };
        let mut bytes = 0;
        while batch.next_offset < until {
            match self.gap_at(batch.next_offset) {
                Some(gap) if gap.is_accepted => {
                    batch.next_offset = gap.until.min(until);
                }
                // Return the records before the gap first; the next read returns the error.
                Some(_) if !batch.records.is_empty() => break,
                Some(gap) => {
                    return Err(ReadError::Lost {
                        partition: self.id,
                        requested: batch.next_offset,
                        until: gap.until.min(until),
                    });
                }
                None => {
                    let end = self
                        .gap_after(batch.next_offset)
                        .map_or(until, |from| from.min(until));
                    if !self.read_run(&mut batch, &mut bytes, limit, end)? {
                        break;
                    }
                }
            }
        }
        Ok(batch)
    }

    /// Adds the records up to `end`; there is no gap before it. Returns false if a limit ended the batch first.
    fn read_run(
        &self,
        batch: &mut Batch,
        bytes: &mut usize,
        limit: ReadLimit,
        end: Offset,
    ) -> Result<bool, ReadError> {
        let from = batch.next_offset;
        for entry in self
            .records
            .range(from.0.to_be_bytes()..end.0.to_be_bytes())
        {
            let expected = batch.next_offset;
            let (key, value) = entry
                .into_inner()
                .map_err(|error| self.read_error(expected, &error))?;
            if offset_of(&key) != Some(expected) {
                break;
            }
            let record = record::decode(expected, Bytes::from(value))
                .map_err(|reason| self.corrupt(expected, reason.to_owned()))?;
            *bytes += record.bytes();
            batch.records.push(record);
            batch.next_offset = expected.next();
            if batch.records.len() >= limit.records || *bytes >= limit.bytes {
                return Ok(false);
            }
        }
        if batch.next_offset < end {
            // Retention may have removed it meanwhile; otherwise every offset outside the gaps has a record.
            self.not_removed(batch.next_offset)?;
            return Err(self.corrupt(batch.next_offset, "it is missing".to_owned()));
        }
        Ok(true)
    }

    fn not_removed(&self, requested: Offset) -> Result<(), ReadError> {
        let low_watermark = self.low_watermark();
        if requested < low_watermark {
            return Err(ReadError::FellOut {
                partition: self.id,
                requested,
                low_watermark,
            });
        }
        Ok(())
    }

    fn corrupt(&self, offset: Offset, reason: String) -> ReadError {
        ReadError::Corrupt {
            partition: self.id,
            offset,
            reason,
        }
    }

    pub(super) fn read_error(&self, offset: Offset, error: &fjall::Error) -> ReadError {
        let reason = crate::disk::describe(error);
        if crate::disk::is_damage(error) {
            return self.corrupt(offset, reason);
        }
        ReadError::Unavailable(reason)
    }
}

/// Bytes that a record adds to the size of its partition: its encoded value and its offset.
pub(super) fn record_bytes(value: &[u8]) -> u64 {
    u64::try_from(value.len() + size_of::<u64>()).unwrap_or(u64::MAX)
}

/// The offset that a key encodes.
pub(super) fn offset_of(key: &[u8]) -> Option<Offset> {
    key.try_into().ok().map(u64::from_be_bytes).map(Offset)
}

pub(super) fn append_error(error: WriteError) -> AppendError {
    match error {
        WriteError::NoSpace(text) => AppendError::NoSpace(text),
        broken @ WriteError::Broken(_) => AppendError::Unavailable(broken.to_string()),
    }
}
