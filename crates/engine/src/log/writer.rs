//! The thread that appends: it takes the queued requests, commits them as one group, then answers each.
//!
//! While one group is synced, the next one gathers in the queue: the more producers there are, the more of them share
//! one sync.

use super::gaps::Gap;
use super::partitions::{OpenLog, append_error, record_bytes};
use super::producers::{AnsweredProducers, Staged};
use super::record::{self, RECORD_OVERHEAD_BYTES, Stamp};
use super::{Append, AppendError, Appended, AppendedRange};
use crate::clock::now_ms;
use crate::routing::partition_of;
use crossbeam_channel::{Receiver, Sender};
use fjall::OwnedWriteBatch;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;
use workspace_lifecycle::{Offset, PartitionId};

/// A group is closed when it holds this many bytes, which bounds the memory and the time of a commit.
const MAX_GROUP_BYTES: usize = 8 * 1024 * 1024;

/// A request to the writer.
pub(super) enum Work {
    Append(Request),
    ContinueAt(ContinueAt),
}

/// The next append to a partition must get offset `next` or a later one.
pub(super) struct ContinueAt {
    pub(super) partition: PartitionId,
    pub(super) next: Offset,
    pub(super) answer: Sender<Result<Option<Offset>, AppendError>>,
}

/// An append in the queue.
pub(super) struct Request {
    pub(super) append: Append,
    pub(super) answer: oneshot::Sender<Result<Appended, AppendError>>,
    pub(super) bytes: usize,
}

/// The end of a partition as the writer knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    pub(super) next_offset: Offset,
    /// Total size of all records that were ever appended.
    pub(super) bytes: u64,
}

pub(super) struct Writer {
    pub(super) shared: Arc<OpenLog>,
    pub(super) queue: Receiver<Work>,
    pub(super) producers: AnsweredProducers,
    pub(super) tails: Vec<Tail>,
}

/// A group in progress.
struct Group<'a> {
    shared: &'a OpenLog,
    batch: OwnedWriteBatch,
    batch_bytes: usize,
    tails: Vec<Tail>,
    ends: BTreeMap<PartitionId, Offset>,
    staged: Staged<'a>,
    now_ms: u64,
}

impl Writer {
    /// Runs until the log is dropped and the queue is empty.
    pub(super) fn run(mut self) {
        let mut after_group = None;
        while let Some(work) = after_group.take().or_else(|| self.queue.recv().ok()) {
            let first = match work {
                Work::Append(first) => first,
                Work::ContinueAt(request) => {
                    let result = self.continue_at(request.partition, request.next);
                    // The send fails only if the requester stopped waiting, and then it needs no answer.
                    let _ = request.answer.send(result);
                    continue;
                }
            };
            let mut bytes = first.bytes;
            let mut group = vec![first];
            while bytes < MAX_GROUP_BYTES
                && let Ok(work) = self.queue.try_recv()
            {
                match work {
                    Work::Append(request) => {
                        bytes += request.bytes;
                        group.push(request);
                    }
                    Work::ContinueAt(_) => {
                        after_group = Some(work);
                        break;
                    }
                }
            }
            self.append(group);
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Skips the offsets from the end of a partition to `next`, durably. Returns the previous end if it was below
    /// `next`.
    fn continue_at(
        &mut self,
        id: PartitionId,
        next: Offset,
    ) -> Result<Option<Offset>, AppendError> {
        let place = usize::try_from(id.0)
            .ok()
            .and_then(|place| self.tails.get_mut(place));
        let (Some(tail), Some(partition)) = (place, self.shared.partition(id)) else {
            return Err(no_partition(id));
        };
        if tail.next_offset >= next {
            return Ok(None);
        }
        let gap = Gap {
            from: tail.next_offset,
            until: next,
            is_accepted: self.shared.dir.loss_accepted(),
        };
        let (key, value) = (gap.key(id), gap.encode(id));
        let bytes = key.len() + value.len();
        let mut batch = self.shared.dir.database().batch();
        batch.insert(&self.shared.gaps, key, value);
        self.shared
            .dir
            .commit(batch, bytes, &[(id, next)])
            .map_err(append_error)?;
        tail.next_offset = next;
        partition.gaps.write().push(gap);
        self.shared.publish(id, next);
        Ok(Some(gap.from))
    }

    fn append(&mut self, requests: Vec<Request>) {
        let now_ms = now_ms();
        let mut group = Group {
            shared: &self.shared,
            batch: self.shared.dir.database().batch(),
            batch_bytes: 0,
            tails: self.tails.clone(),
            ends: BTreeMap::new(),
            staged: self.producers.stage(Duration::from_millis(now_ms)),
            now_ms,
        };
        let answers: Vec<_> = requests
            .into_iter()
            .map(|request| (group.take(&request.append), request.answer))
            .collect();
        let Group {
            mut batch,
            batch_bytes,
            tails,
            ends,
            staged,
            ..
        } = group;
        let changes = staged.changes();
        let mut bytes = batch_bytes;
        for (key, value) in &changes.written {
            bytes += key.len() + value.len();
            batch.insert(&self.shared.answers, key.as_slice(), value.as_slice());
        }
        for key in &changes.removed {
            bytes += key.len();
            batch.remove(&self.shared.answers, key.as_slice());
        }
        let committed = if batch.is_empty() {
            Ok(())
        } else {
            let ends: Vec<_> = ends.iter().map(|(id, end)| (*id, *end)).collect();
            let committed = self.shared.dir.commit(batch, bytes, &ends);
            let last_error = committed.as_ref().err().cloned();
            *self.shared.last_error.lock() = last_error.map(|error| (error, bytes));
            committed
        };
        let failed = match committed {
            Ok(()) => {
                self.tails = tails;
                // Publish the ends before answering the producers, so that they can query `atLeast` their offsets at
                // once.
                for (id, end) in ends {
                    self.shared.publish(id, end);
                }
                None
            }
            Err(error) => {
                tracing::error!(%error, "a group of appends was refused");
                staged.roll_back();
                Some(append_error(error))
            }
        };
        for (result, answer) in answers {
            let result = match &failed {
                None => result,
                Some(error) => result.and(Err(error.clone())),
            };
            // A requester that stopped waiting gets the answer when it repeats the request.
            let _ = answer.send(result);
        }
    }
}

impl Group<'_> {
    /// Adds a request to the batch, and returns the answer to send when the batch is durable.
    fn take(&mut self, append: &Append) -> Result<Appended, AppendError> {
        if let Some(producer) = &append.producer
            && let Some(answer) = self.staged.judge(producer)?
        {
            return Ok(answer);
        }
        let accepted = u64::try_from(append.events.len()).unwrap_or(u64::MAX);
        let mut ranges: BTreeMap<PartitionId, AppendedRange> = BTreeMap::new();
        for (id, event) in &append.events {
            let partition = partition_of(id, self.shared.dir.partitions());
            let offset = self.insert(partition, id.as_str().as_bytes(), event)?;
            ranges
                .entry(partition)
                .and_modify(|range| range.last_offset = offset)
                .or_insert(AppendedRange {
                    partition,
                    first_offset: offset,
                    last_offset: offset,
                });
        }
        let answer = Appended {
            accepted,
            partitions: ranges.into_values().collect(),
            repeated: false,
        };
        if let Some(producer) = &append.producer {
            self.staged.answered(producer, answer.clone());
        }
        Ok(answer)
    }

    fn insert(&mut self, id: PartitionId, key: &[u8], event: &[u8]) -> Result<Offset, AppendError> {
        let place = usize::try_from(id.0)
            .ok()
            .and_then(|place| self.tails.get_mut(place));
        let (Some(tail), Some(partition)) = (place, self.shared.partition(id)) else {
            return Err(no_partition(id));
        };
        let offset = tail.next_offset;
        let stamp = Stamp {
            appended_at_ms: self.now_ms,
            bytes_before: tail.bytes,
        };
        let value = record::encode(offset, key, event, stamp);
        *tail = Tail {
            next_offset: offset.next(),
            bytes: tail.bytes + record_bytes(&value),
        };
        self.batch_bytes += value.len() + RECORD_OVERHEAD_BYTES;
        self.batch
            .insert(&partition.records, offset.0.to_be_bytes(), value);
        self.ends.insert(id, tail.next_offset);
        Ok(offset)
    }
}

fn no_partition(id: PartitionId) -> AppendError {
    AppendError::Unavailable(format!("there is no partition {id}"))
}
