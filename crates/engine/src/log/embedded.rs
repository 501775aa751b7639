//! The embedded log: partitions in the database of the data directory, no server to install.
//!
//! One thread commits appends in groups (see [`writer`](super::writer)); reads go straight to the database and see only
//! durable records.

use super::gaps::{Gap, read_gaps};
use super::partitions::{
    OpenLog, Partition, RetentionConfig, append_error, offset_of, record_bytes,
};
use super::producers::{AnsweredProducers, FirstRequest};
use super::record::{self, RECORD_OVERHEAD_BYTES};
use super::writer::{ContinueAt, Request, Tail, Work, Writer};
use super::{
    Append, AppendError, AppendListener, Appended, Batch, DeadLetter, DeletedDeadLetters, EventLog,
    ProducerSequence, ReadError, ReadLimit, dead_letters,
};
use crate::disk::{DataDir, DiskError, LostRange, WriteError};
use crossbeam_channel::{Sender, TrySendError};
use fjall::{Keyspace, KeyspaceCreateOptions};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

/// Most requests that wait for the next group commit; one more is refused with [`AppendError::Busy`].
pub const MAX_QUEUED_REQUESTS: usize = 1024;

/// Most bytes of events that wait; a request beyond it is accepted only if no other is waiting or being committed.
pub const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;

/// Configuration of an embedded log.
#[derive(Debug, Clone)]
pub struct EmbeddedLogConfig {
    /// Name of the topic; it appears in statuses and dead letters.
    pub topic: String,
    /// What may be removed once the store holds it; by default nothing.
    pub retention: RetentionConfig,
}

impl Default for EmbeddedLogConfig {
    fn default() -> Self {
        Self {
            topic: "workspace-events".to_owned(),
            retention: RetentionConfig::default(),
        }
    }
}

/// An event log in a data directory. Dropping it answers the queued requests, then closes it.
pub struct EmbeddedLog {
    shared: Arc<OpenLog>,
    queue: Option<Sender<Work>>,
    writer: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedLog")
            .field("dir", &self.shared.dir)
            .finish_non_exhaustive()
    }
}

impl EmbeddedLog {
    /// Opens the log of a data directory.
    ///
    /// # Errors
    /// [`DiskError`] if the database cannot be read, or lacks acknowledged data.
    pub fn open(dir: &DataDir, config: EmbeddedLogConfig) -> Result<Self, DiskError> {
        let beginnings = dir.keyspace("log-beginnings", KeyspaceCreateOptions::default)?;
        let gaps = dir.keyspace("log-gaps", KeyspaceCreateOptions::default)?;
        let mut partitions = Vec::new();
        let mut tails = Vec::new();
        for id in (0..dir.partitions()).map(PartitionId) {
            let (partition, tail) = open_partition(dir, id, &beginnings, &gaps)?;
            partitions.push(partition);
            tails.push(tail);
        }
        let answers = dir.keyspace("log-answers", KeyspaceCreateOptions::default)?;
        let producers = read_producers(dir, &answers)?;
        let shared = Arc::new(OpenLog {
            dir: dir.clone(),
            topic: config.topic,
            retention: config.retention,
            partitions,
            answers,
            beginnings,
            gaps,
            dead_letters: dir.keyspace("log-dead-letters", KeyspaceCreateOptions::default)?,
            queued_bytes: AtomicUsize::new(0),
            last_error: Mutex::new(None),
            listener: RwLock::new(None),
        });
        let (queue, requests) = crossbeam_channel::bounded(MAX_QUEUED_REQUESTS);
        let writer = Writer {
            shared: Arc::clone(&shared),
            queue: requests,
            producers,
            tails,
        };
        // A thread of its own, because a commit blocks on the disk.
        let writer = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(DiskError::io("start the writer of the log in", dir.path()))?;
        Ok(Self {
            shared,
            queue: Some(queue),
            writer: Some(writer),
        })
    }
}

impl EmbeddedLog {
    fn found(&self, id: PartitionId) -> Result<&Partition, ReadError> {
        let partition = self.shared.partition(id);
        partition.ok_or_else(|| ReadError::Unavailable(format!("there is no partition {id}")))
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the log ended in a panic");
        }
    }
}

/// Upper bound of the bytes that a gap takes in a batch.
const GAP_BYTES: usize = 64;

/// Options of a keyspace of records: written and read in order; only keys that exist are looked up, so no filter is
/// needed.
fn record_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .filter_policy(fjall::config::FilterPolicy::disabled())
        .data_block_size_policy(fjall::config::BlockSizePolicy::all(16 * 1024))
}

fn open_partition(
    dir: &DataDir,
    id: PartitionId,
    beginnings: &Keyspace,
    gaps_keyspace: &Keyspace,
) -> Result<(Partition, Tail), DiskError> {
    let records = dir.keyspace(&format!("log-{}", id.0), record_options)?;
    let beginning = super::retention::read_beginning(beginnings, id)
        .map_err(|reason| dir.unreadable(reason))?;
    let last = match records.last_key_value() {
        None => None,
        Some(last) => Some(last.into_inner().map_err(|error| dir.failed(&error))?),
    };
    let mut gaps = read_gaps(gaps_keyspace, id).map_err(|reason| dir.unreadable(reason))?;
    let mut tail = match last {
        None => Tail {
            next_offset: beginning.low,
            bytes: 0,
        },
        Some((key, value)) => {
            let damaged = |reason| {
                dir.unreadable(format!(
                    "the last record of partition {id} is damaged: {reason}"
                ))
            };
            let offset = offset_of(&key).ok_or_else(|| damaged("its key has a wrong length"))?;
            let stamp = record::stamp(&value).map_err(damaged)?;
            record::decode(offset, value.clone().into()).map_err(damaged)?;
            Tail {
                next_offset: offset.next(),
                bytes: stamp.bytes_before + record_bytes(&value),
            }
        }
    };
    if let Some(gap) = gaps.last() {
        tail.next_offset = tail.next_offset.max(gap.until);
    }
    let acknowledged = dir.acknowledged_end(id);
    if tail.next_offset != acknowledged {
        let range = LostRange {
            partition: id,
            found: tail.next_offset,
            acknowledged,
        };
        dir.accept_end(&range)?;
    }
    let mut batch = dir.database().batch();
    if tail.next_offset < acknowledged {
        // Skip the lost offsets: a reader that has seen the lost events must not take other events for them.
        gaps.push(Gap {
            from: tail.next_offset,
            until: acknowledged,
            is_accepted: true,
        });
        tail.next_offset = acknowledged;
    }
    if dir.loss_accepted() {
        for gap in &mut gaps {
            gap.is_accepted = true;
            batch.insert(gaps_keyspace, gap.key(id), gap.encode(id));
        }
    }
    if tail.next_offset != acknowledged || !batch.is_empty() {
        let bytes = batch.len() * GAP_BYTES;
        dir.commit(batch, bytes, &[(id, tail.next_offset)])
            .map_err(|error| dir.unreadable(error.to_string()))?;
    }
    let partition = Partition {
        id,
        records,
        low: AtomicU64::new(beginning.low.0),
        high: AtomicU64::new(tail.next_offset.0),
        removed: Mutex::new(beginning.removed),
        gaps: RwLock::new(gaps),
    };
    Ok((partition, tail))
}

fn read_producers(dir: &DataDir, answers: &Keyspace) -> Result<AnsweredProducers, DiskError> {
    let mut producers = AnsweredProducers::new(FirstRequest::One);
    for entry in answers.iter() {
        let (key, value) = entry.into_inner().map_err(|error| dir.failed(&error))?;
        producers.restore(&key, value.into()).map_err(|reason| {
            let name = key.get(1..).unwrap_or_default().escape_ascii();
            dir.unreadable(format!("producer \"{name}\" is damaged: {reason}"))
        })?;
    }
    Ok(producers)
}

impl EventLog for EmbeddedLog {
    fn topic(&self) -> &str {
        &self.shared.topic
    }

    fn partitions(&self) -> u32 {
        self.shared.dir.partitions()
    }

    fn keeps_until_trimmed(&self) -> bool {
        true
    }

    fn submit(&self, append: Append) -> oneshot::Receiver<Result<Appended, AppendError>> {
        let (answer, answered) = oneshot::channel();
        let refuse = |answer: oneshot::Sender<_>, error| {
            // The send fails only if the requester stopped waiting, and then it needs no answer.
            let _ = answer.send(Err(error));
        };
        if let Some(Err(error)) = append.producer.as_ref().map(ProducerSequence::check) {
            refuse(answer, error);
            return answered;
        }
        let bytes = append
            .events
            .iter()
            .map(|(id, event)| RECORD_OVERHEAD_BYTES + id.as_str().len() + event.len())
            .sum();
        let queued = self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let request = Request {
            append,
            answer,
            bytes,
        };
        let sent = match &self.queue {
            Some(queue) if queued == 0 || queued.saturating_add(bytes) <= MAX_QUEUED_BYTES => {
                queue.try_send(Work::Append(request))
            }
            Some(_) => Err(TrySendError::Full(Work::Append(request))),
            None => Err(TrySendError::Disconnected(Work::Append(request))),
        };
        let (refused, error) = match sent {
            Ok(()) => return answered,
            Err(TrySendError::Full(refused)) => (refused, AppendError::Busy),
            Err(TrySendError::Disconnected(refused)) => (refused, AppendError::Closed),
        };
        if let Work::Append(request) = refused {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            refuse(request.answer, error);
        }
        answered
    }

    fn read(
        &self,
        partition: PartitionId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Batch, ReadError> {
        self.found(partition)?.read(from, limit)
    }

    fn low_watermark(&self, partition: PartitionId) -> Offset {
        self.shared
            .partition(partition)
            .map(Partition::low_watermark)
            .unwrap_or_default()
    }

    fn lost_after(&self, partition: PartitionId, from: Offset) -> Option<(Offset, Offset)> {
        let gap = self.shared.partition(partition)?.gap_from(from)?;
        Some((gap.from.max(from), gap.until))
    }

    fn high_watermark(&self, partition: PartitionId) -> Offset {
        self.shared
            .partition(partition)
            .map(Partition::high_watermark)
            .unwrap_or_default()
    }

    fn health(&self) -> Result<(), String> {
        let last_error = self.shared.last_error.lock().clone();
        match last_error {
            None => Ok(()),
            // Checked again: callers may stop appending to a log that reports a full disk, and then no append clears
            // the error.
            Some((WriteError::NoSpace(_), bytes)) => self.shared.dir.check_space(bytes),
            Some((broken @ WriteError::Broken(_), _)) => Err(broken),
        }
        .map_err(|error| append_error(error).to_string())
    }

    fn needs_restart(&self) -> Option<String> {
        self.shared.dir.fatal_error().map(str::to_owned)
    }

    fn set_listener(&self, listener: AppendListener) {
        *self.shared.listener.write() = Some(listener);
    }

    fn trim(&self, partition: PartitionId, floor: Offset) -> Result<(), ReadError> {
        super::retention::trim(&self.shared, self.found(partition)?, floor)
    }

    fn continue_at(
        &self,
        partition: PartitionId,
        next: Offset,
    ) -> Result<Option<Offset>, AppendError> {
        let (answer, answered) = crossbeam_channel::bounded(1);
        let work = Work::ContinueAt(ContinueAt {
            partition,
            next,
            answer,
        });
        let queue = self.queue.as_ref().ok_or(AppendError::Closed)?;
        queue.send(work).map_err(|_| AppendError::Closed)?;
        answered.recv().map_err(|_| AppendError::Closed)?
    }

    fn append_dead_letter(&self, dead_letter: DeadLetter) -> Result<(), AppendError> {
        dead_letters::append(&self.shared, &dead_letter)
    }

    fn dead_letters(
        &self,
        workspace: Option<&WorkspaceId>,
        after: Option<(PartitionId, Offset)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadError> {
        dead_letters::list(&self.shared, workspace, after, limit)
    }

    fn delete_dead_letters(&self, deleted: &[DeletedDeadLetters]) -> Result<(), AppendError> {
        dead_letters::delete(&self.shared, deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::DataDirSpec;
    use crate::log::conformance;

    #[test]
    fn the_embedded_log_does_what_every_log_must() {
        let cases = [
            conformance::CASES,
            conformance::PRODUCER_CASES,
            conformance::OWN_PRODUCER_CASES,
        ];
        for (name, case) in cases.into_iter().flatten() {
            println!("{name}");
            let path = tempfile::tempdir().expect("a directory");
            let dir = DataDir::open(path.path(), &DataDirSpec::default()).expect("opened");
            case(&EmbeddedLog::open(&dir, EmbeddedLogConfig::default()).expect("opened"));
        }
    }

    #[test]
    fn the_health_of_the_log_is_that_of_its_last_commit() {
        let path = tempfile::tempdir().expect("a directory");
        let dir = DataDir::open(path.path(), &DataDirSpec::default()).expect("opened");
        let log = EmbeddedLog::open(&dir, EmbeddedLogConfig::default()).expect("opened");
        assert_eq!(log.health(), Ok(()));
        let fail = |error| *log.shared.last_error.lock() = Some((error, 100));
        fail(WriteError::Broken("the disk is gone".to_owned()));
        let last_error = log.health().expect_err("appends were refused");
        assert!(last_error.contains("the disk is gone; start the engine again"));
        let request = conformance::request("acme", 1, None);
        conformance::append(&log, request).expect("appended");
        assert_eq!(log.health(), Ok(()));
        fail(WriteError::NoSpace("full".to_owned()));
        assert_eq!(log.health(), Ok(()), "there is space");
    }
}
