//! Reads a partition: a fetch runs on from where the last read ended, and what it brought too much is kept.
//!
//! Two lanes read a partition, the one behind the other, so it has two fetches, each of another client.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;
use workspace_engine_core::log::{Batch, ReadError, ReadLimit, Record};
use workspace_lifecycle::{Offset, PartitionId};

use super::cluster::{Cluster, Part};
use super::native::{Failure, Fetch, Fetched, Topic};
use crate::seen::{self, Seen};

/// Clients that fetch; a partition has at most one fetch of each.
pub(super) const READERS: usize = 2;

/// How long a read waits for the first of the records that should be there: a new fetch begins when the one
/// under way at that broker is over.
const WAIT: Duration = Duration::from_millis(100);

/// How long a read that has records may take for more of them.
const WAIT_FOR_MORE: Duration = Duration::from_millis(40);

/// A fetch that nobody reads on from for this long is stopped where another one is read.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// The most that one read returns, whatever is asked for.
const MAX_RECORDS: usize = 100_000;
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The fetches of one partition.
#[derive(Default)]
pub(super) struct Place {
    runs: [Option<Run>; READERS],
}

/// A fetch that goes on, and what it has brought.
struct Run {
    fetch: Fetch,
    buffer: VecDeque<Record>,
    /// Where the last read ended.
    next: Offset,
    /// Everything below was brought, and is in the buffer or was read.
    brought: Offset,
    /// The last records that were brought, a leader each, until they are noted.
    seen: Vec<Seen>,
    /// Where the partition had ended the last time that was told.
    ended: Option<Offset>,
    /// Why it goes no further, behind what is in the buffer.
    failure: Option<Failure>,
    used: Instant,
}

impl Run {
    fn start(topic: &Arc<Topic>, partition: PartitionId, from: Offset) -> Result<Self, ReadError> {
        Ok(Self {
            fetch: Fetch::start(topic, partition, from).map_err(ReadError::Unavailable)?,
            buffer: VecDeque::new(),
            next: from,
            brought: from,
            seen: Vec::new(),
            ended: None,
            failure: None,
            used: Instant::now(),
        })
    }

    /// Takes in what has arrived; where nothing has, waits for it.
    fn take(&mut self, wait: Duration) {
        if self.pull(Duration::ZERO) || self.pass() || wait.is_zero() {
            return;
        }
        if !self.pull(wait) {
            self.pass();
        }
    }

    /// Takes in what comes within `wait`. Tells whether anything did.
    fn pull(&mut self, wait: Duration) -> bool {
        let Self {
            fetch,
            buffer,
            brought,
            seen,
            ended,
            failure,
            ..
        } = self;
        fetch.take(wait, |fetched| match fetched {
            // What lies behind a failure is fetched again from there.
            _ if failure.is_some() => {}
            Fetched::Record(record, _) if record.offset < *brought => {}
            Fetched::Record(record, leader_epoch) => {
                *brought = record.offset.next();
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
                *brought = (*brought).max(offset);
                *ended = (*ended).max(Some(offset));
            }
            Fetched::Failed(why) => *failure = Some(why),
        }) > 0
    }

    /// Passes the control records behind what was taken: they come without a word. Tells whether there were any.
    fn pass(&mut self) -> bool {
        let Some(position) = self.fetch.position() else {
            return false;
        };
        // The client counts the end of a partition as if it were a record at that offset: a position right behind
        // it says nothing, and the next record may stand there.
        let is_told = self.ended.is_none_or(|end| position > end.next());
        let passed = is_told && position > self.brought && self.failure.is_none();
        if passed {
            self.brought = position;
        }
        passed
    }

    /// Reads up to a limit. `end` is where the partition ends: nothing is waited for beyond it.
    fn read(&mut self, limit: &ReadLimit, end: Offset) -> Vec<Record> {
        let began = Instant::now();
        let records_most = limit.records.clamp(1, MAX_RECORDS);
        let bytes_most = limit.bytes.min(MAX_BYTES);
        let mut records = Vec::new();
        let mut bytes = 0_usize;
        loop {
            while let Some(record) = self.buffer.pop_front_if(|record| {
                record.offset < limit.until
                    && records.len() < records_most
                    && (records.is_empty() || bytes.saturating_add(record.bytes()) <= bytes_most)
            }) {
                bytes = bytes.saturating_add(record.bytes());
                records.push(record);
            }
            if !self.buffer.is_empty()
                || records.len() >= records_most
                || self.failure.is_some()
                || self.brought >= limit.until.min(end)
            {
                break;
            }
            let wait = if records.is_empty() {
                WAIT
            } else {
                WAIT_FOR_MORE
            };
            let left = wait.saturating_sub(began.elapsed());
            let before = self.brought;
            self.take(left);
            if left.is_zero() && self.brought == before && self.failure.is_none() {
                break;
            }
        }
        let reached = self
            .buffer
            .front()
            .map_or(self.brought, |record| record.offset);
        self.next = reached.min(limit.until);
        self.used = Instant::now();
        records
    }
}

impl Place {
    /// The fetch that stands at `from`; where none does, the one that was not used the longest begins there.
    fn run(
        &mut self,
        topics: &[Arc<Topic>; READERS],
        partition: PartitionId,
        from: Offset,
    ) -> Result<&mut Option<Run>, ReadError> {
        let stands = |run: &Option<Run>| run.as_ref().is_some_and(|run| run.next == from);
        let even = partition.0.is_multiple_of(2);
        let mut order: Vec<_> = self.runs.iter_mut().zip(topics).collect();
        if !even {
            // Partitions share the clients evenly.
            order.reverse();
        }
        let place = order.iter().position(|(run, _)| stands(run)).or_else(|| {
            let used =
                |(_, (run, _)): &(usize, &(&mut Option<Run>, _))| run.as_ref().map(|run| run.used);
            order
                .iter()
                .enumerate()
                .min_by_key(used)
                .map(|(place, _)| place)
        });
        let Some((run, topic)) = place.map(|place| order.swap_remove(place)) else {
            return Err(ReadError::Unavailable("there is no reader".to_owned()));
        };
        if !stands(run) {
            // The old one is stopped first: a client has at most one fetch a partition.
            *run = None;
            *run = Some(Run::start(topic, partition, from)?);
        }
        Ok(run)
    }

    /// Whether a fetch goes on from there.
    fn stands_at(&self, from: Offset) -> bool {
        self.runs.iter().flatten().any(|run| run.next == from)
    }

    /// Stops all fetches.
    pub(super) fn clear(&mut self) {
        self.runs = [None, None];
    }

    /// Stops a fetch that nobody reads on from, where another one is read: it would keep its buffers.
    pub(super) fn rest(&mut self) {
        let newest = self.runs.iter().flatten().map(|run| run.used).max();
        for run in &mut self.runs {
            if run
                .as_ref()
                .is_some_and(|run| Some(run.used) != newest && run.used.elapsed() > FORGOTTEN)
            {
                *run = None;
            }
        }
    }
}

/// Reads a partition of the events.
pub(super) fn read(
    cluster: &Cluster,
    topics: &[Arc<Topic>; READERS],
    partition: PartitionId,
    from: Offset,
    limit: &ReadLimit,
) -> Result<Batch, ReadError> {
    let part = cluster.part(partition)?;
    let mut place = part.place.lock();
    let end = if place.stands_at(from) {
        // It may hold what the cluster has removed since; where it does not, its fetch fails.
        check(cluster, part, partition, from, Side::End)?
    } else {
        check(cluster, part, partition, from, Side::Both)?
    };
    if limit.until <= from {
        return Ok(Batch {
            records: Vec::new(),
            next_offset: from,
            high_watermark: end,
        });
    }
    let slot = place.run(topics, partition, from)?;
    let Some(run) = slot else {
        return Err(ReadError::Unavailable("there is no reader".to_owned()));
    };
    let records = run.read(limit, end);
    for record in run.seen.drain(..) {
        cluster.seen.note(partition, record);
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
        // It begins again at the next read, from wherever that is.
        *slot = None;
        return Err(failed(cluster, part, partition, from, failure));
    }
    if from < limit.until.min(end)
        && let Some(words) = cluster.trouble(part)
    {
        return Err(ReadError::Unavailable(words));
    }
    Ok(Batch {
        records,
        next_offset,
        high_watermark: part.ends.lock().high(),
    })
}

/// Which ends of a partition an offset is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Both,
    End,
}

/// Whether a partition holds an offset, by the brokers' word where it does not seem to. Tells its end.
fn check(
    cluster: &Cluster,
    part: &Part,
    partition: PartitionId,
    asked: Offset,
    side: Side,
) -> Result<Offset, ReadError> {
    let (low, high) = {
        let ends = part.ends.lock();
        (ends.low(), ends.high())
    };
    if asked <= high && (side == Side::End || asked >= low) {
        return Ok(high);
    }
    let (low_watermark, high_watermark) = cluster.ask(partition)?;
    if asked < low_watermark {
        return Err(ReadError::FellOut {
            partition,
            asked,
            low_watermark,
        });
    }
    // Behind a transaction that another producer holds open it is there and cannot be read yet.
    if asked > high_watermark && asked > part.ends.lock().written() {
        return Err(ReadError::BeyondEnd {
            partition,
            asked,
            high_watermark,
        });
    }
    Ok(high_watermark)
}

/// What a failed fetch means to a reader that stands at `from`.
fn failed(
    cluster: &Cluster,
    part: &Part,
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
            reason: failure.words,
        };
    }
    let is_out_of_range = matches!(
        failure.code,
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange
    );
    if is_out_of_range {
        if let Err(error) = cluster
            .ask(partition)
            .and_then(|_| check(cluster, part, partition, from, Side::Both))
        {
            return error;
        }
        // The client compares the epochs of the leaders: it was within the partition, but not of what was read before.
        tracing::error!(%partition, %from, words = failure.words, "the partition has lost its end, or seems to have");
        part.lose_end();
    }
    ReadError::Unavailable(format!(
        "topic {} partition {partition} cannot be read at offset {from}: {}",
        cluster.topic, failure.words
    ))
}
