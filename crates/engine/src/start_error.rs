//! Why the engine cannot start.

use workspace_lifecycle::{Offset, PartitionId};

use crate::config::MAX_PERMITS;
use crate::disk::DiskError;
use crate::log::AppendError;
use crate::store::StoreError;

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The builder has no data directory.
    #[error("no data directory is set: call `data_dir` before `start`")]
    NoDataDir,
    /// The number of permits is out of its range.
    #[error("permits is 1 to {MAX_PERMITS}, not {0}")]
    Permits(usize),
    /// The data directory cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The operating system cannot start a thread.
    #[error("cannot start thread {name}: {source}")]
    Thread {
        /// Name of the thread, by its purpose.
        name: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// Events that the log has removed are not in the store: workspaces would start in the middle of their events.
    #[error(
        "partition {partition} of the log begins at offset {low_watermark}, but the store holds it only up to \
         offset {committed}: this is not the store that the log was trimmed for; start with that store"
    )]
    ForeignStore {
        /// The partition.
        partition: PartitionId,
        /// Where the log begins.
        low_watermark: Offset,
        /// How far the store holds the partition.
        committed: Offset,
    },
    /// The store cannot be read.
    #[error("the store cannot be read: {0}")]
    Store(#[from] StoreError),
    /// The log ends before what the store has seen, and cannot be set to continue after it.
    #[error("the event log of partition {partition} cannot continue after what the store holds")]
    ContinueLog {
        /// The partition.
        partition: PartitionId,
        /// Why not.
        source: AppendError,
    },
}
