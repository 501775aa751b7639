//! The log seam: what the engine asks of an event log, whoever keeps it.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod dead_letters;
mod embedded;
mod gaps;
mod partitions;
mod producers;
mod producers_by_use;
mod record;
mod retention;
mod writer;

pub use embedded::{EmbeddedLog, EmbeddedLogConfig, MAX_QUEUED_BYTES, MAX_QUEUED_REQUESTS};
pub use partitions::RetentionConfig;
pub use producers::{ANSWERS_KEPT, MAX_PRODUCER_ID_BYTES, MAX_PRODUCERS, PRODUCER_IDLE};
pub use producers_by_use::{MAX_PRODUCERS_OF_PREFIX, ProducersByUse, producer_prefix};

use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

use crate::routing::Partitioner;

/// One record as it is read from a partition.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it stands in its partition.
    pub offset: Offset,
    /// The key, and behind it the value: one buffer, because a replay holds thousands of records.
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

    /// Its key: the workspace id, where the producer set one.
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

    /// Bytes of its key and value.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }
}

/// What one read of a partition gave.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Records in the order of their offsets; gaps are possible.
    pub records: Vec<Record>,
    /// Where the next read begins: after the last record, or further where nothing follows.
    pub next_offset: Offset,
    /// End of the partition at the time of the read.
    pub high_watermark: Offset,
}

/// The most that one read returns; at least one record is returned where there is one.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimit {
    /// Most records.
    pub records: usize,
    /// Most bytes of keys and values.
    pub bytes: usize,
    /// Reads nothing at or above this offset.
    pub until: Offset,
}

/// A request of one producer, to be appended whole or not at all.
#[derive(Debug)]
pub struct Append {
    /// The producer's own name and the number of this request, where it wants repeats to be recognised.
    pub producer: Option<ProducerSequence>,
    /// Events with the workspace whose partition they go to, in order. Values are event JSON without line ends.
    pub events: Vec<(WorkspaceId, Bytes)>,
}

/// Who asks, and which of its requests this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerSequence {
    /// The producer's name, 1 to 255 bytes.
    pub producer_id: String,
    /// Number of the request, from 1, growing by 1.
    pub sequence: u64,
}

/// Where the events of one request stand in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendedRange {
    /// The partition.
    pub partition: PartitionId,
    /// Offset of the first of them.
    pub first_offset: Offset,
    /// Offset of the last of them.
    pub last_offset: Offset,
}

/// The answer to an [`Append`]; a repeated request gets the answer of the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// How many events the request held.
    pub accepted: u64,
    /// One range a partition, ordered by partition.
    pub partitions: Vec<AppendedRange>,
    /// The request had been answered before and appended nothing now.
    pub repeated: bool,
}

/// Why an append was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The queue of requests is full; try again in a moment.
    #[error("too many requests are waiting to be appended, try again")]
    Busy,
    /// The producer left out a sequence number or repeated one whose answer is no longer kept.
    #[error("producer {producer_id} sent request {sequence}, but {expected} is next")]
    Sequence {
        /// The producer.
        producer_id: String,
        /// What it sent.
        sequence: u64,
        /// What would have been accepted.
        expected: u64,
    },
    /// The producer's name or number is not valid.
    #[error("producer {0}")]
    Producer(String),
    /// As many producers as are remembered have sent requests of late, so a new one cannot be recognised.
    #[error(
        "{most} producers have sent a request within {} minutes, the most that are remembered: send with one of \
         their names or without one, or try again when one of them was silent for that long", PRODUCER_IDLE.as_secs() / 60
    )]
    Producers {
        /// How many are remembered.
        most: usize,
        /// When there is room for a new one, if no other takes it and none that is known sends until then.
        retry_after: Duration,
    },
    /// The disk is full; nothing was appended.
    #[error("no space left for the event log: {0}")]
    NoSpace(String),
    /// The log cannot write; nothing was acknowledged.
    #[error("the event log cannot write: {0}")]
    Unavailable(String),
    /// Some events of the request are in the log; of the others that is not known. Only a log whose partitions fail one by
    /// one refuses so. The same request of the same producer, repeated, appends what is missing alone.
    #[error("{appended} of {events} events were appended, the others may be missing: {reason}")]
    Partly {
        /// How many are in the log.
        appended: u64,
        /// How many the request held.
        events: u64,
        /// Where those that are in the log are, one range a partition.
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
    /// Retention removed what was asked for.
    #[error(
        "partition {partition} begins at offset {low_watermark}, offset {asked} was removed by retention"
    )]
    FellOut {
        /// The partition.
        partition: PartitionId,
        /// The offset that was asked for.
        asked: Offset,
        /// The first offset that is still there.
        low_watermark: Offset,
    },
    /// The partition ends before what was asked for.
    #[error("partition {partition} ends at offset {high_watermark}, before offset {asked}")]
    BeyondEnd {
        /// The partition.
        partition: PartitionId,
        /// The offset that was asked for.
        asked: Offset,
        /// The end of the partition.
        high_watermark: Offset,
    },
    /// The log has lost what it had there: it was restored from an older copy, or lost its end.
    #[error(
        "events of partition {partition} from offset {asked} to before {until} are lost: the log had lost its end"
    )]
    Lost {
        /// The partition.
        partition: PartitionId,
        /// The offset that was asked for.
        asked: Offset,
        /// The first offset behind what is lost.
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

/// An event that an operator skipped, kept with its address and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The topic it stood in.
    pub topic: String,
    /// The partition it stood in.
    pub partition: PartitionId,
    /// The offset it stood at.
    pub offset: Offset,
    /// The workspace it belonged to.
    pub workspace_id: WorkspaceId,
    /// Its key as it was.
    pub key: Option<Bytes>,
    /// Its value as it was.
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
    /// Those of events below this offset; the others are of a workspace that has its name now.
    pub below: Offset,
}

/// Called after an append with the partition and its new high watermark. It must not block.
pub type AppendListener = Arc<dyn Fn(PartitionId, Offset) + Send + Sync>;

/// An event log of a fixed number of partitions, each a row of records by offset.
pub trait EventLog: Send + Sync + 'static {
    /// Name of the topic.
    fn topic(&self) -> &str;

    /// Number of partitions.
    fn partitions(&self) -> u32;

    /// How the partition of a workspace is chosen. A log that only engines write keeps the default.
    fn partitioner(&self) -> Partitioner {
        Partitioner::default()
    }

    /// The partition of a workspace.
    fn partition_of(&self, id: &WorkspaceId) -> PartitionId {
        self.partitioner().partition_of(id, self.partitions())
    }

    /// Whether records stay until [`EventLog::trim`] lets them go. Then a store that holds less than
    /// the log has forgotten cannot be the store of this log.
    fn keeps_until_trimmed(&self) -> bool;

    /// Makes the log ready to be read from `partition`, which this process owns from now on. Called on the
    /// partition's own thread before anything else is asked of the partition, and again after an error.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] where the log cannot tell yet where the partition begins and ends.
    fn open(&self, partition: PartitionId) -> Result<(), ReadError> {
        let _ = partition;
        Ok(())
    }

    /// This process does not read `partition` any more.
    fn close(&self, partition: PartitionId) {
        let _ = partition;
    }

    /// Asks for an append. The answer comes when the events are durable, or with the reason why they are not there.
    fn submit(&self, append: Append) -> oneshot::Receiver<Result<Appended, AppendError>>;

    /// Reads records from `from` on; an empty batch at the end of the partition.
    ///
    /// # Errors
    /// [`ReadError`] tells whether to wait, give up or start elsewhere.
    fn read(
        &self,
        partition: PartitionId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Batch, ReadError>;

    /// First offset that is still there.
    fn low_watermark(&self, partition: PartitionId) -> Offset;

    /// The first offsets from `from` on, up to before the second, whose events the log has lost; none where it has all of
    /// them, or does not know.
    fn lost_after(&self, partition: PartitionId, from: Offset) -> Option<(Offset, Offset)> {
        let _ = (partition, from);
        None
    }

    /// End of the partition at the time of the call, also of what others have appended a moment ago. It may block.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] where nobody tells it now.
    fn end(&self, partition: PartitionId) -> Result<Offset, ReadError> {
        Ok(self.high_watermark(partition))
    }

    /// Whether an open partition is of another log than when it was opened, under the same name: offsets of the one
    /// say nothing about the other. It must be closed and opened again then.
    fn is_replaced(&self, partition: PartitionId) -> bool {
        let _ = partition;
        false
    }

    /// End of what is durable; readers never see more.
    fn high_watermark(&self, partition: PartitionId) -> Offset;

    /// Whether appends are accepted; the text says what stands against it.
    ///
    /// # Errors
    /// What an operator can read and act on.
    fn health(&self) -> Result<(), String>;

    /// Why nothing helps the log but a restart of the process; none where it works, or may work again by itself.
    fn needs_restart(&self) -> Option<String> {
        None
    }

    /// Sets who is told of appends; one listener a log.
    fn set_listener(&self, listener: AppendListener);

    /// Lets the log remove what its retention says may go, but nothing at or above `floor`.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] when the removal could not be written.
    fn trim(&self, partition: PartitionId, floor: Offset) -> Result<(), ReadError>;

    /// Gives no offset below `next` to an event from now on: the store has seen other events there. Returns where the
    /// partition had ended, if that was before `next`. It changes nothing in a log whose offsets others give.
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

    /// Keeps a skipped event; one of a workspace with the same address is kept once.
    ///
    /// # Errors
    /// [`AppendError`] when it could not be made durable.
    fn append_dead_letter(&self, dead_letter: DeadLetter) -> Result<(), AppendError>;

    /// Skipped events of a workspace (or of all), ordered by partition, offset and workspace, after an address.
    /// Where several workspaces skipped the same record, all of them are given, also beyond `limit`.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] when they cannot be read.
    fn dead_letters(
        &self,
        workspace: Option<&WorkspaceId>,
        after: Option<(PartitionId, Offset)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadError>;

    /// Removes skipped events of workspaces that were deleted, durably. Those that are gone already are no error.
    ///
    /// # Errors
    /// [`AppendError`] when not all of them could be removed.
    fn delete_dead_letters(&self, deleted: &[DeletedDeadLetters]) -> Result<(), AppendError>;
}
