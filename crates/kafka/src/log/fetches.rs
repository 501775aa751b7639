//! The running fetches of a partition, and the records that they have received and no read has returned.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use workspace_engine_core::log::{ReadError, ReadLimit, Record};
use workspace_lifecycle::{Offset, PartitionId};

use super::native::{Failure, Fetch, Fetched, TopicHandle};
use crate::last_reads::{self, LastRead};

/// Clients that fetch; a partition has at most one fetch from each.
pub(super) const READERS: usize = 2;

/// How long a read waits for the first of the records that should exist: a new fetch begins only when the one under
/// way at that broker has ended.
const FIRST_RECORD_WAIT: Duration = Duration::from_millis(100);

/// How long a read that has records waits for more of them.
const MORE_RECORDS_WAIT: Duration = Duration::from_millis(40);

/// A fetch that is not read for this long is stopped if the partition's other fetch was read later.
const UNUSED_AFTER: Duration = Duration::from_secs(10);

/// The most that one read returns, whatever its limit.
const MAX_RECORDS: usize = 100_000;
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The fetches of one partition.
#[derive(Default)]
pub(super) struct Fetches {
    runs: [Option<RunningFetch>; READERS],
}

/// A running fetch, and the records it has received.
pub(super) struct RunningFetch {
    fetch: Fetch,
    buffer: VecDeque<Record>,
    /// Where the last read ended.
    pub(super) next: Offset,
    /// Everything below was received, and is in the buffer or was read.
    received: Offset,
    /// The last record received of each leader, until it is noted.
    pub(super) last_reads: Vec<LastRead>,
    /// The last end of the partition that the client reported.
    ended: Option<Offset>,
    /// Why it stopped after the records in the buffer.
    pub(super) failure: Option<Failure>,
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
            last_reads: Vec::new(),
            ended: None,
            failure: None,
            used: Instant::now(),
        })
    }

    /// Takes what has arrived; if nothing has, waits for it.
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
            last_reads,
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
                last_reads::note(
                    last_reads,
                    LastRead {
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
    pub(super) fn read(&mut self, limit: &ReadLimit, end: Offset) -> Vec<Record> {
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
    pub(super) fn run(
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
    pub(super) fn continue_at(&self, from: Offset) -> bool {
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
                .is_some_and(|run| Some(run.used) != newest && run.used.elapsed() > UNUSED_AFTER)
            {
                *run = None;
            }
        }
    }
}
