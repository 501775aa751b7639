//! Counters of what the changelog has done.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a changelog has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChangelogCounts {
    /// Transactions that were committed.
    pub transactions_committed: u64,
    /// Transactions that were aborted: nothing of them is visible.
    pub transactions_aborted: u64,
    /// Transactions whose outcome was not known at first.
    pub transactions_unknown: u64,
    /// Records written in committed transactions.
    pub records_written: u64,
    /// Bytes of their keys and values.
    pub bytes_written: u64,
    /// Records read when partitions were taken over or re-read.
    pub records_read: u64,
    /// Bytes of their keys and values.
    pub bytes_read: u64,
    /// Times that a partition was read from its beginning, because it had no usable copy.
    pub partitions_rebuilt: u64,
}

/// The counters behind [`ChangelogCounts`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) committed: Count,
    pub(super) aborted: Count,
    pub(super) unknown: Count,
    pub(super) records_written: Count,
    pub(super) bytes_written: Count,
    pub(super) records_read: Count,
    pub(super) bytes_read: Count,
    pub(super) rebuilt: Count,
}

#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(super) fn read(&self) -> ChangelogCounts {
        ChangelogCounts {
            transactions_committed: self.committed.get(),
            transactions_aborted: self.aborted.get(),
            transactions_unknown: self.unknown.get(),
            records_written: self.records_written.get(),
            bytes_written: self.bytes_written.get(),
            records_read: self.records_read.get(),
            bytes_read: self.bytes_read.get(),
            partitions_rebuilt: self.rebuilt.get(),
        }
    }
}
