//! The interface of an event log ([`EventLog`]): appends, reads, dead letters and its health.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod dead_letters;
mod embedded;
mod gaps;
mod partitions;
pub mod producers;
mod record;
mod retention;
mod writer;

pub use embedded::{EmbeddedLog, EmbeddedLogConfig, MAX_QUEUED_BYTES, MAX_QUEUED_REQUESTS};
pub use partitions::RetentionConfig;
pub use producers::{
    ANSWERS_KEPT, MAX_PRODUCER_ID_BYTES, MAX_PRODUCERS, MAX_PRODUCERS_OF_PREFIX, PRODUCER_IDLE,
};

use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

use crate::routing::Partitioner;

/// One record read from a partition.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its offset in its partition.
    pub offset: Offset,
    /// The key followed by the value: one buffer, because a replay holds thousands of records.
    body: Bytes,
    key_bytes: Option<u32>,
    has_value: bool,
}

impl Record {
    /// A record of a key and a value; `None` for a value is a tombstone.
    pub fn new(offset: Offset, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        let mut body =
            BytesMut::with_capacity(key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len));
        body.extend_from_slice(key.unwrap_or_default());
        body.extend_from_slice(value.unwrap_or_default());
        Self {
            offset,
            body: body.freeze(),
            key_bytes: key.map(|key| u32::try_from(key.len()).unwrap_or(u32::MAX)),
            has_value: value.is_some(),
        }
    }

    /// Its key: the workspace id, if the producer set one.
    pub fn key(&self) -> Option<&[u8]> {
        self.key_bytes.map(|_| self.parts().0)
    }

    /// Its value: the event as JSON; `None` is a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.has_value.then(|| self.parts().1)
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        let key_bytes = usize::try_from(self.key_bytes.unwrap_or(0)).unwrap_or(usize::MAX);
        self.body
            .split_at_checked(key_bytes)
            .unwrap_or((&self.body, &[]))
    }

    /// Length of its key and value in bytes.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }
}

/// Result of one read of a partition.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Records in offset order; gaps are possible.
    pub records: Vec<Record>,
    /// Where the next read begins: after the last record, or further if no records follow up to there.
    pub next_offset: Offset,
    /// End of the partition at the time of the read.
    pub high_watermark: Offset,
}

/// Limits of one read; at least one record is returned if there is one.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimit {
    /// Most records.
    pub records: usize,
    /// Most bytes of keys and values.
    pub bytes: usize,
    /// No record at or above this offset is read.
    pub until: Offset,
}

/// A request of one producer; it is appended as a whole or not at all.
#[derive(Debug)]
pub struct Append {
    /// The producer's name and the number of this request, if repeats are to be detected.
    pub producer: Option<ProducerSequence>,
    /// Events in order, each with its workspace, which decides its partition. Values are event JSON without line
    /// breaks.
    pub events: Vec<(WorkspaceId, Bytes)>,
}

impl Append {
    /// A request of no named producer.
    pub fn new(events: Vec<(WorkspaceId, Bytes)>) -> Self {
        Self {
            producer: None,
            events,
        }
    }
}

/// The producer of a request, and the number of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerSequence {
    /// The producer's name, 1 to 255 bytes.
    pub producer_id: String,
    /// Number of the request, from 1, growing by 1.
    pub sequence: u64,
}

/// Offsets of the events of one request in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendedRange {
    /// The partition.
    pub partition: PartitionId,
    /// Offset of its first event there.
    pub first_offset: Offset,
    /// Offset of its last event there.
    pub last_offset: Offset,
}

/// The answer to an [`Append`]; a repeated request gets the answer to the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Number of events in the request.
    pub accepted: u64,
    /// One range for each partition, ordered by partition.
    pub partitions: Vec<AppendedRange>,
    /// The request was answered before, and appended nothing now.
    pub repeated: bool,
}

/// Why an append was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The queue of requests is full; try again in a moment.
    #[error("too many requests are waiting to be appended, try again")]
    Busy,
    /// The producer skipped a sequence number, or repeated one whose answer is no longer kept.
    #[error("producer {producer_id} sent request {sequence}, but {expected} is next")]
    Sequence {
        /// The producer.
        producer_id: String,
        /// The sequence number that it sent.
        sequence: u64,
        /// The sequence number that would have been accepted.
        expected: u64,
    },
    /// The producer's name or number is not valid.
    #[error("producer {0}")]
    Producer(String),
    /// The limit of remembered producers is reached and all were active recently, so repeats of a new one could not be
    /// detected.
    #[error(
        "{most} producers have sent a request within {} minutes, the most that are remembered: send with one of \
         their names or without one, or try again when one of them was silent for that long", PRODUCER_IDLE.as_secs() / 60
    )]
    Producers {
        /// The limit.
        most: usize,
        /// When there is room for a new one, unless another takes it or a remembered one sends before then.
        retry_after: Duration,
    },
    /// The disk is full; nothing was appended.
    #[error("no space left for the event log: {0}")]
    NoSpace(String),
    /// The log cannot write; nothing was acknowledged.
    #[error("the event log cannot write: {0}")]
    Unavailable(String),
    /// Some events of the request are in the log; whether the others are is not known. Only a log whose partitions fail
    /// separately returns this. If the same producer repeats the same request, only the missing events are appended.
    #[error("{appended} of {events} events were appended, the others may be missing: {reason}")]
    Partly {
        /// Number of its events in the log.
        appended: u64,
        /// Number of events in the request.
        events: u64,
        /// Where the events in the log are, one range for each partition.
        partitions: Vec<AppendedRange>,
        /// Why the others were not acknowledged.
        reason: String,
    },
    /// The log is closed.
    #[error("the event log is closed")]
    Closed,
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Retention removed the requested offset.
    #[error(
        "partition {partition} begins at offset {low_watermark}, offset {requested} was removed by retention"
    )]
    FellOut {
        /// The partition.
        partition: PartitionId,
        /// The requested offset.
        requested: Offset,
        /// The first offset that is still in the log.
        low_watermark: Offset,
    },
    /// The partition ends before the requested offset.
    #[error("partition {partition} ends at offset {high_watermark}, before offset {requested}")]
    BeyondEnd {
        /// The partition.
        partition: PartitionId,
        /// The requested offset.
        requested: Offset,
        /// The end of the partition.
        high_watermark: Offset,
    },
    /// The log has lost the records there: it was restored from an older copy, or lost its end.
    #[error(
        "events of partition {partition} from offset {requested} to before {until} are lost: the log had lost its end"
    )]
    Lost {
        /// The partition.
        partition: PartitionId,
        /// The requested offset.
        requested: Offset,
        /// The first offset after the lost ones.
        until: Offset,
    },
    /// A record is damaged.
    #[error("record at partition {partition} offset {offset} is damaged: {reason}")]
    Corrupt {
        /// The partition.
        partition: PartitionId,
        /// The offset.
        offset: Offset,
        /// What is wrong with it.
        reason: String,
    },
    /// The log cannot be read now.
    #[error("the event log cannot be read: {0}")]
    Unavailable(String),
}

/// An event that an operator skipped, with its address and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// The workspace to which it belonged.
    pub workspace_id: WorkspaceId,
    /// Its key, unchanged.
    pub key: Option<Bytes>,
    /// Its value, unchanged.
    pub value: Option<Bytes>,
    /// Why it could not be applied.
    pub reason: String,
    /// When it was skipped, in milliseconds since the Unix epoch.
    pub skipped_at_ms: u64,
}

/// The dead letters of a workspace that was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedDeadLetters {
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// Its partition.
    pub partition: PartitionId,
    /// Only dead letters of events below this offset; later ones belong to a new workspace of the same name.
    pub below: Offset,
}

/// Called after an append with the partition and its new high watermark. It must not block.
pub type AppendListener = Arc<dyn Fn(PartitionId, Offset) + Send + Sync>;

/// An event log of a fixed number of partitions, each a sequence of records by offset.
pub trait EventLog: Send + Sync + 'static {
    /// Name of the topic.
    fn topic(&self) -> &str;

    /// Number of partitions.
    fn partitions(&self) -> u32;

    /// How the partition of a workspace is chosen. A log that only engines write to keeps the default.
    fn partitioner(&self) -> Partitioner {
        Partitioner::default()
    }

    /// The partition of a workspace.
    fn partition_of(&self, id: &WorkspaceId) -> PartitionId {
        self.partitioner().partition_of(id, self.partitions())
    }

    /// Whether records stay until [`EventLog::trim`] removes them. If so, a store that does not hold everything that
    /// the log has removed is not the store of this log.
    fn keeps_until_trimmed(&self) -> bool;

    /// Prepares the log for reads from `partition`, which this process owns from now on. Called on the partition's own
    /// thread before any other call for the partition, and again after an error.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the log does not know yet where the partition begins and ends.
    fn open(&self, partition: PartitionId) -> Result<(), ReadError> {
        let _ = partition;
        Ok(())
    }

    /// This process does not read `partition` any more.
    fn close(&self, partition: PartitionId) {
        let _ = partition;
    }

    /// Requests an append. The answer arrives when the events are durable, or with the reason why they were not
    /// appended.
    fn submit(&self, append: Append) -> oneshot::Receiver<Result<Appended, AppendError>>;

    /// Reads records from `from` on; an empty batch at the end of the partition.
    ///
    /// # Errors
    /// [`ReadError`] says whether to wait, to stop or to start elsewhere.
    fn read(
        &self,
        partition: PartitionId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Batch, ReadError>;

    /// First offset that is still in the log.
    fn low_watermark(&self, partition: PartitionId) -> Offset;

    /// The first range of offsets at or after `from` whose events the log has lost: first offset, and the one after the
    /// last. `None` if it has lost none, or does not know.
    fn lost_after(&self, partition: PartitionId, from: Offset) -> Option<(Offset, Offset)> {
        let _ = (partition, from);
        None
    }

    /// End of the partition at the time of the call, including the latest appends of others. It may block.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the end cannot be read now.
    fn end(&self, partition: PartitionId) -> Result<Offset, ReadError> {
        Ok(self.high_watermark(partition))
    }

    /// Whether an open partition now belongs to another log of the same name than when it was opened: offsets of the
    /// one mean nothing in the other. The partition must then be closed and opened again.
    fn is_replaced(&self, partition: PartitionId) -> bool {
        let _ = partition;
        false
    }

    /// End of the durable records; readers never see more.
    fn high_watermark(&self, partition: PartitionId) -> Offset;

    /// Whether appends are accepted.
    ///
    /// # Errors
    /// The reason, as text that an operator can act on.
    fn health(&self) -> Result<(), String>;

    /// Why only a restart of the process can repair the log; `None` if it works, or may recover by itself.
    fn needs_restart(&self) -> Option<String> {
        None
    }

    /// Sets the listener that is notified of appends; a log has one.
    fn set_listener(&self, listener: AppendListener);

    /// Lets the log remove what its retention allows, but nothing at or above `floor`.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] when the removal could not be written.
    fn trim(&self, partition: PartitionId, floor: Offset) -> Result<(), ReadError>;

    /// Assigns no offset below `next` to an event from now on: the store has seen other events there. Returns the
    /// previous end of the partition if it was below `next`. Does nothing in a log whose offsets others assign.
    ///
    /// # Errors
    /// [`AppendError`] when it could not be made durable.
    fn continue_at(
        &self,
        partition: PartitionId,
        next: Offset,
    ) -> Result<Option<Offset>, AppendError> {
        let _ = (partition, next);
        Ok(None)
    }

    /// Keeps a skipped event; a repeat with the same workspace and address is kept once.
    ///
    /// # Errors
    /// [`AppendError`] when it could not be made durable.
    fn append_dead_letter(&self, dead_letter: DeadLetter) -> Result<(), AppendError>;

    /// Skipped events of a workspace (or of all), ordered by partition, offset and workspace, after an address. If
    /// several workspaces skipped the same record, all of them are returned, even beyond `limit`.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] when they cannot be read.
    fn dead_letters(
        &self,
        workspace: Option<&WorkspaceId>,
        after: Option<(PartitionId, Offset)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadError>;

    /// Removes skipped events of deleted workspaces, durably. Events that were removed before are no error.
    ///
    /// # Errors
    /// [`AppendError`] when not all of them could be removed.
    fn delete_dead_letters(&self, deleted: &[DeletedDeadLetters]) -> Result<(), AppendError>;
}
