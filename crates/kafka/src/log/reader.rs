//! Reads a partition: a fetch continues from where the last read ended, and its surplus records are kept.
//!
//! Two lanes read a partition at different offsets, so it has two fetches, one from each client.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;
use workspace_engine_core::log::{Batch, ReadError, ReadLimit, Record};
use workspace_lifecycle::{Offset, PartitionId};

use super::native::{Failure, Fetch, Fetched, TopicHandle};
use super::topic_state::{PartitionState, TopicState};
use crate::seen::{self, Seen};

/// Clients that fetch; a partition has at most one fetch from each.
pub(super) const READERS: usize = 2;

/// How long a read waits for the first of the records that should exist: a new fetch begins only when the one under
/// way at that broker has ended.
const FIRST_RECORD_WAIT: Duration = Duration::from_millis(100);

/// How long a read that has records waits for more of them.
const MORE_RECORDS_WAIT: Duration = Duration::from_millis(40);

/// A fetch that is not read for this long is stopped if the partition's other fetch was read later.
const UNUSED: Duration = Duration::from_secs(10);

/// The most that one read returns, whatever its limit.
const MAX_RECORDS: usize = 100_000;
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The fetches of one partition.
#[derive(Default)]
pub(super) struct Fetches {
    runs: [Option<RunningFetch>; READERS],
}

/// A running fetch, and the records it has received.
struct RunningFetch {
    fetch: Fetch,
    buffer: VecDeque<Record>,
    /// Where the last read ended.
    next: Offset,
    /// Everything below was received, and is in the buffer or was read.
    received: Offset,
    /// The last record received of each leader, until it is noted.
    seen: Vec<Seen>,
    /// The last end of the partition that the client reported.
    ended: Option<Offset>,
    /// Why it stopped after the records in the buffer.
    failure: Option<Failure>,
    used: Instant,
}

impl RunningFetch {
    fn start(
        topic: &Arc<TopicHandle>,
        partition: PartitionId,
        from: Offset,
    ) -> Result<Self, ReadError> {
        Ok(Self {
            fetch: Fetch::start(topic, partition, from).map_err(ReadError::Unavailable)?,
            buffer: VecDeque::new(),
            next: from,
            received: from,
            seen: Vec::new(),
            ended: None,
            failure: None,
            used: Instant::now(),
        })
    }

    /// Takes in what has arrived; if nothing has, waits for it.
    fn take(&mut self, wait: Duration) {
        if self.pull(Duration::ZERO) || self.skip() || wait.is_zero() {
            return;
        }
        if !self.pull(wait) {
            self.skip();
        }
    }

    /// Takes in what arrives within `wait`. Returns whether anything did.
    fn pull(&mut self, wait: Duration) -> bool {
        let Self {
            fetch,
            buffer,
            received,
            seen,
            ended,
            failure,
            ..
        } = self;
        fetch.take(wait, |fetched| match fetched {
            // Records after a failure are fetched again from there.
            _ if failure.is_some() => {}
            Fetched::Record(record, _) if record.offset < *received => {}
            Fetched::Record(record, leader_epoch) => {
                *received = record.offset.next();
                let offset = record.offset.0;
                seen::note(
                    seen,
                    Seen {
                        leader_epoch,
                        offset,
                    },
                );
                buffer.push_back(record);
            }
            Fetched::End(offset) => {
                *received = (*received).max(offset);
                *ended = (*ended).max(Some(offset));
            }
            Fetched::Failed(why) => *failure = Some(why),
        }) > 0
    }

    /// Skips control records after what was taken, which the client does not report. Returns whether it skipped any.
    fn skip(&mut self) -> bool {
        let Some(position) = self.fetch.position() else {
            return false;
        };
        // The client counts the end of a partition as if it were a record at that offset: a position right after the
        // end means nothing, and the next record may be at the end itself.
        let is_reported = self.ended.is_none_or(|end| position > end.next());
        let skips = is_reported && position > self.received && self.failure.is_none();
        if skips {
            self.received = position;
        }
        skips
    }

    /// Reads up to a limit. `end` is where the partition ends: the read does not wait for records beyond it.
    fn read(&mut self, limit: &ReadLimit, end: Offset) -> Vec<Record> {
        let began = Instant::now();
        let max_records = limit.records.clamp(1, MAX_RECORDS);
        let max_bytes = limit.bytes.min(MAX_BYTES);
        let mut records = Vec::new();
        let mut bytes = 0_usize;
        loop {
            while let Some(record) = self.buffer.pop_front_if(|record| {
                record.offset < limit.until
                    && records.len() < max_records
                    && (records.is_empty() || bytes.saturating_add(record.bytes()) <= max_bytes)
            }) {
                bytes = bytes.saturating_add(record.bytes());
                records.push(record);
            }
            if !self.buffer.is_empty()
                || records.len() >= max_records
                || self.failure.is_some()
                || self.received >= limit.until.min(end)
            {
                break;
            }
            let wait = if records.is_empty() {
                FIRST_RECORD_WAIT
            } else {
                MORE_RECORDS_WAIT
            };
            let left = wait.saturating_sub(began.elapsed());
            let before = self.received;
            self.take(left);
            if left.is_zero() && self.received == before && self.failure.is_none() {
                break;
            }
        }
        let reached = self
            .buffer
            .front()
            .map_or(self.received, |record| record.offset);
        self.next = reached.min(limit.until);
        self.used = Instant::now();
        records
    }
}

impl Fetches {
    /// The fetch that continues at `from`; if none does, the least recently used one is restarted there.
    fn run(
        &mut self,
        handles: &[Arc<TopicHandle>; READERS],
        partition: PartitionId,
        from: Offset,
    ) -> Result<&mut Option<RunningFetch>, ReadError> {
        let continues =
            |run: &Option<RunningFetch>| run.as_ref().is_some_and(|run| run.next == from);
        let even = partition.0.is_multiple_of(2);
        let mut order: Vec<_> = self.runs.iter_mut().zip(handles).collect();
        if !even {
            // So that partitions are spread evenly over the clients.
            order.reverse();
        }
        let index = order
            .iter()
            .position(|(run, _)| continues(run))
            .or_else(|| {
                let used = |(_, (run, _)): &(usize, &(&mut Option<RunningFetch>, _))| {
                    run.as_ref().map(|run| run.used)
                };
                order
                    .iter()
                    .enumerate()
                    .min_by_key(used)
                    .map(|(index, _)| index)
            });
        let Some((run, topic)) = index.map(|index| order.swap_remove(index)) else {
            return Err(ReadError::Unavailable("there is no reader".to_owned()));
        };
        if !continues(run) {
            // The old fetch is stopped first: a client has at most one fetch for each partition.
            *run = None;
            *run = Some(RunningFetch::start(topic, partition, from)?);
        }
        Ok(run)
    }

    /// Whether a fetch continues at `from`.
    fn continue_at(&self, from: Offset) -> bool {
        self.runs.iter().flatten().any(|run| run.next == from)
    }

    /// Stops all fetches.
    pub(super) fn clear(&mut self) {
        self.runs = [None, None];
    }

    /// Stops a fetch that is no longer read while the other one is: it would keep its buffers.
    pub(super) fn stop_unused(&mut self) {
        let newest = self.runs.iter().flatten().map(|run| run.used).max();
        for run in &mut self.runs {
            if run
                .as_ref()
                .is_some_and(|run| Some(run.used) != newest && run.used.elapsed() > UNUSED)
            {
                *run = None;
            }
        }
    }
}

/// Reads a partition of the events.
pub(super) fn read(
    topic: &TopicState,
    handles: &[Arc<TopicHandle>; READERS],
    partition: PartitionId,
    from: Offset,
    limit: &ReadLimit,
) -> Result<Batch, ReadError> {
    let part = topic.part(partition)?;
    let mut fetches = part.fetches.lock();
    let end = if fetches.continue_at(from) {
        // The buffer may still hold records that the cluster has removed since; if it does not, the fetch fails.
        check(topic, part, partition, from, Bounds::End)?
    } else {
        check(topic, part, partition, from, Bounds::Both)?
    };
    if limit.until <= from {
        return Ok(Batch {
            records: Vec::new(),
            next_offset: from,
            high_watermark: end,
        });
    }
    let kept = fetches.run(handles, partition, from)?;
    let Some(run) = kept else {
        return Err(ReadError::Unavailable("there is no reader".to_owned()));
    };
    let records = run.read(limit, end);
    for record in run.seen.drain(..) {
        topic.seen.note(partition, record);
    }
    let next_offset = run.next;
    if next_offset > from {
        let mut ends = part.ends.lock();
        ends.see(next_offset);
        return Ok(Batch {
            records,
            next_offset,
            high_watermark: ends.high(),
        });
    }
    if let Some(failure) = run.failure.take() {
        // The next read starts another fetch, at its own offset.
        *kept = None;
        return Err(failed(topic, part, partition, from, failure));
    }
    if from < limit.until.min(end)
        && let Some(error_text) = topic.last_error(part)
    {
        return Err(ReadError::Unavailable(error_text));
    }
    Ok(Batch {
        records,
        next_offset,
        high_watermark: part.ends.lock().high(),
    })
}

/// Which ends of a partition an offset is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bounds {
    Both,
    End,
}

/// Checks that a partition holds an offset, and returns its end. Queries the brokers if the offset seems outside.
fn check(
    topic: &TopicState,
    part: &PartitionState,
    partition: PartitionId,
    asked: Offset,
    bounds: Bounds,
) -> Result<Offset, ReadError> {
    let (low, high) = {
        let ends = part.ends.lock();
        (ends.low(), ends.high())
    };
    if asked <= high && (bounds == Bounds::End || asked >= low) {
        return Ok(high);
    }
    let (low_watermark, high_watermark) = topic.ask(partition)?;
    if asked < low_watermark {
        return Err(ReadError::FellOut {
            partition,
            asked,
            low_watermark,
        });
    }
    // An offset after another producer's open transaction exists but cannot be read yet.
    if asked > high_watermark && asked > part.ends.lock().written() {
        return Err(ReadError::BeyondEnd {
            partition,
            asked,
            high_watermark,
        });
    }
    Ok(high_watermark)
}

/// Maps a failed fetch to the error for a reader at `from`.
fn failed(
    topic: &TopicState,
    part: &PartitionState,
    partition: PartitionId,
    from: Offset,
    failure: Failure,
) -> ReadError {
    tracing::debug!(%partition, %from, ?failure, "a fetch failed");
    let is_damaged = matches!(
        failure.code,
        RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::BadCompression
            | RDKafkaErrorCode::NotImplemented
            | RDKafkaErrorCode::InvalidMessage
    );
    if is_damaged {
        return ReadError::Corrupt {
            partition,
            offset: failure.offset.max(from),
            reason: failure.error_text,
        };
    }
    let is_out_of_range = matches!(
        failure.code,
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange
    );
    if is_out_of_range {
        if let Err(error) = topic
            .ask(partition)
            .and_then(|_| check(topic, part, partition, from, Bounds::Both))
        {
            return error;
        }
        // The client compares leader epochs: the offset is in the partition, but its log differs from what was read.
        tracing::error!(%partition, %from, error_text = failure.error_text, "the partition has lost its end, or seems to have");
        part.replaced();
    }
    ReadError::Unavailable(format!(
        "topic {} partition {partition} cannot be read at offset {from}: {}",
        topic.name(),
        failure.error_text
    ))
}
