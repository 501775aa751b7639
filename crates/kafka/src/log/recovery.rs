//! Scans the topic for the records of a producer that this process does not know.
//!
//! A process that ends between the append of a request and its answer loses its memory of the request, but its records
//! identify it. The end of every partition is scanned, because requests that were under way together may have gone to
//! different partitions: a number missing in one partition may be found in another.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Offset as At, TopicPartitionList};
use workspace_engine_core::log::{Append, AppendError};
use workspace_lifecycle::{Offset, PartitionId};

use super::appends::Appends;
use super::native::Client;
use super::origin;
use super::pending::Waiter;
use super::queries::drain;
use super::tail::{FoundRecord, MAX_AGE, TopicTail};
use super::topic_state::{OFFSETS_TIMEOUT, TopicState};
use crate::client_errors::ClientErrors;
use crate::polled::{Found, Polled, poll};

/// How long a request waits for the scan; then it is refused, and the scan for its repeat continues from there.
const SCAN_TIMEOUT: Duration = Duration::from_secs(20);

/// Pause before a failed scan is retried.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long one poll waits: closing the log waits for it.
const POLL_TIMEOUT: Duration = Duration::from_millis(50);

/// Most requests that wait; as one scan serves all of them, this bounds only the memory. Their bytes count against the
/// same limit as those of queued appends.
const MAX_WAITING: usize = 256;

struct Job {
    append: Append,
    bytes: usize,
    waiter: Waiter,
    until: Instant,
}

/// Handle of the scanning thread; dropping it ends the thread and refuses waiting requests.
pub(super) struct Recovery {
    jobs: Option<Sender<Job>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Recovery {
    /// `reading` configures the client that reads; it is created when there is something to read.
    pub(super) fn start(
        appends: Arc<Appends>,
        topic: Arc<TopicState>,
        reading: ClientConfig,
    ) -> std::io::Result<Self> {
        let (jobs, waiting) = crossbeam_channel::bounded(MAX_WAITING);
        let stop = Arc::new(AtomicBool::new(false));
        let scan = TopicScan {
            tail: TopicTail::new(topic.partitions.len()),
            topic,
            reading,
            client: None,
            stop: Arc::clone(&stop),
        };
        // A separate thread, because queries and reads block.
        let thread = std::thread::Builder::new()
            .name("kafka-recovery".to_owned())
            .spawn(move || run(scan, &appends, &waiting))?;
        Ok(Self {
            jobs: Some(jobs),
            stop,
            thread: Some(thread),
        })
    }

    /// Queues a request to be appended after the scan of the topic. Never blocks.
    pub(super) fn submit(&self, appends: &Appends, append: Append, waiter: Waiter) {
        let Some(jobs) = &self.jobs else {
            return waiter(Err(AppendError::Closed));
        };
        let bytes = append.events.iter().map(|(_, event)| event.len()).sum();
        if !appends.reserve(bytes) {
            return waiter(Err(AppendError::Busy));
        }
        let job = Job {
            append,
            bytes,
            waiter,
            until: Instant::now() + SCAN_TIMEOUT,
        };
        let (job, error) = match jobs.try_send(job) {
            Ok(()) => return,
            Err(TrySendError::Full(job)) => (job, AppendError::Busy),
            Err(TrySendError::Disconnected(job)) => (job, AppendError::Closed),
        };
        appends.release(job.bytes);
        (job.waiter)(Err(error));
    }

    /// Refuses the waiting requests and joins the thread.
    pub(super) fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that scans the topic for producers ended in a panic");
        }
    }
}

impl Drop for Recovery {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(mut scan: TopicScan, appends: &Appends, waiting: &Receiver<Job>) {
    while let Ok(first) = waiting.recv() {
        // One scan serves all requests that arrived before it began. They are appended in order of arrival.
        let until = first.until;
        let jobs: Vec<Job> = std::iter::once(first).chain(waiting.try_iter()).collect();
        let scanned = scan.read_to_end(until);
        for job in jobs {
            appends.release(job.bytes);
            match (&scanned, &job.append.producer) {
                _ if scan.is_stopped() => (job.waiter)(Err(AppendError::Closed)),
                (Err(error_text), Some(request)) => {
                    (job.waiter)(Err(AppendError::Unavailable(format!(
                        "it is unknown whether request {} of producer {} was appended before, repeat it: {error_text}",
                        request.sequence, request.producer_id
                    ))));
                }
                (Ok(()), Some(request)) => {
                    let recent = scan.tail.requests_of(&request.producer_id);
                    appends.events(&job.append, Some(&recent), job.waiter);
                }
                (_, None) => appends.events(&job.append, None, job.waiter),
            }
        }
    }
}

/// The scan of the topic's end, and its client.
struct TopicScan {
    topic: Arc<TopicState>,
    reading: ClientConfig,
    client: Option<Client>,
    tail: TopicTail,
    stop: Arc<AtomicBool>,
}

/// A range of a partition to be read.
#[derive(Debug, Clone, Copy)]
struct Span {
    partition: PartitionId,
    from: Offset,
    end: Offset,
}

impl TopicScan {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Reads to where every partition ended after this was called; a failed attempt is retried.
    ///
    /// # Errors
    /// Why the ends were not reached in time. What was read is kept.
    fn read_to_end(&mut self, until: Instant) -> Result<(), String> {
        loop {
            let began = Instant::now();
            let read = self.spans().and_then(|spans| self.read(&spans, until));
            self.tail.forget(began);
            match read {
                Err(error_text) if Instant::now() < until && !self.is_stopped() => {
                    tracing::debug!(
                        error_text,
                        "the end of the topic is read again for a producer"
                    );
                    std::thread::sleep(RETRY_PAUSE);
                }
                over => return over,
            }
        }
    }

    /// The ranges to be read.
    fn spans(&mut self) -> Result<Vec<Span>, String> {
        let count = u32::try_from(self.topic.partitions.len()).unwrap_or(u32::MAX);
        let partitions: Vec<PartitionId> = (0..count).map(PartitionId).collect();
        let since = SystemTime::now() - MAX_AGE;
        let since_ms = since
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()
            .and_then(|since| i64::try_from(since.as_millis()).ok())
            .unwrap_or_default();
        let query = |at| self.topic.queries.offsets(&partitions, at, OFFSETS_TIMEOUT);
        let low = query(At::Beginning)?;
        let newer = query(At::Offset(since_ms))?;
        // Last, so that the end covers everything that was in the topic when the request arrived.
        let end = query(At::End)?;
        let mut ends = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let low = self.topic.queries.found(&low, partition)?;
            let end = self.topic.queries.found(&end, partition)?;
            let newer = self.newer(&newer, partition)?;
            ends.push((partition, low, newer, end));
        }
        if ends
            .iter()
            .any(|(id, _, _, end)| self.tail.is_beyond(*id, *end))
        {
            self.tail = TopicTail::new(self.topic.partitions.len());
        }
        let spans = ends.into_iter().map(|(partition, low, newer, end)| Span {
            partition,
            from: self.tail.begin(partition, low, newer, end),
            end,
        });
        Ok(spans.filter(|span| span.from < span.end).collect())
    }

    /// The first record of a partition that is young enough; none if the brokers return the end instead.
    fn newer(
        &self,
        answers: &TopicPartitionList,
        partition: PartitionId,
    ) -> Result<Option<Offset>, String> {
        let number = i32::try_from(partition.0).unwrap_or(i32::MAX);
        let is_none = answers
            .find_partition(self.topic.name(), number)
            .is_some_and(|answer| answer.error().is_ok() && answer.offset() == At::End);
        if is_none {
            return Ok(None);
        }
        self.topic.queries.found(answers, partition).map(Some)
    }

    fn read(&mut self, spans: &[Span], until: Instant) -> Result<(), String> {
        if spans.is_empty() {
            return Ok(());
        }
        let client = match self.client.take() {
            Some(client) => client,
            None => self
                .reading
                .create_with_context(ClientErrors::default())
                .map_err(|error: KafkaError| error.to_string())?,
        };
        let read = self.take(&client, spans, until);
        // Nothing is fetched until the next scan, which sets its own offsets.
        let left = client.unassign();
        drain(&client);
        // A client that failed may have lost all its brokers, so it is not used again.
        if left.is_ok() && read.is_ok() {
            self.client = Some(client);
        }
        read.map_err(|error_text| {
            format!(
                "the end of topic {} cannot be read from {}: {error_text}",
                self.topic.name(),
                self.topic.queries.brokers
            )
        })
    }

    fn take(&mut self, client: &Client, spans: &[Span], until: Instant) -> Result<(), String> {
        let mut list = TopicPartitionList::with_capacity(spans.len());
        let mut unread = Unread::default();
        for Span {
            partition,
            from,
            end,
        } in spans
        {
            let number = i32::try_from(partition.0).unwrap_or(i32::MAX);
            let from = At::Offset(i64::try_from(from.0).unwrap_or(i64::MAX));
            list.add_partition_offset(self.topic.name(), number, from)
                .map_err(|error| error.to_string())?;
            unread.0.insert(*partition, *end);
        }
        client.assign(&list).map_err(|error| error.to_string())?;
        while !unread.0.is_empty() {
            if self.is_stopped() || Instant::now() >= until {
                return Err(format!(
                    "{} partitions are not read to their end yet",
                    unread.0.len()
                ));
            }
            let Some(polled) = poll(client, POLL_TIMEOUT) else {
                continue;
            };
            let (partition, next) = match polled.found() {
                Ok(found) => self.note(found, &polled),
                Err(error) => return Err(client.context().explain(&error)),
            };
            self.tail.reach(partition, next);
            unread.reach(partition, next);
        }
        client.context().forget();
        Ok(())
    }

    /// Records what was found. Returns its partition and the first offset that is not read yet.
    fn note(&mut self, found: Found<'_>, polled: &Polled<'_>) -> (PartitionId, Offset) {
        let id = |number: i32| PartitionId(u32::try_from(number).unwrap_or(u32::MAX));
        match found {
            Found::Record {
                partition,
                offset,
                key,
                value,
                ..
            } => {
                let (partition, offset) = (id(partition), Offset(offset));
                if let Some(origin) = origin::read(|name| polled.header(name)) {
                    let record = FoundRecord {
                        index: origin.index,
                        partition,
                        offset,
                        fingerprint: origin::fingerprint(
                            key.unwrap_or_default(),
                            value.unwrap_or_default(),
                        ),
                    };
                    self.tail.note(&origin, record, Instant::now());
                }
                (partition, offset.next())
            }
            // Only control records and gaps are between the last record and this end.
            Found::End { partition, offset } => (id(partition), Offset(offset)),
        }
    }
}

/// Partitions that are not read to the ends that their leaders reported.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unread(HashMap<PartitionId, Offset>);

impl Unread {
    /// Notes that everything of a partition below `next` was read. A broker whose log ends before the leader's end has
    /// not caught up, and records of the request may follow, so that does not count as the end.
    fn reach(&mut self, partition: PartitionId, next: Offset) {
        if self.0.get(&partition).is_some_and(|end| next >= *end) {
            self.0.remove(&partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_before_that_of_the_leader_is_no_end() {
        let p = PartitionId;
        let mut unread = Unread(HashMap::from([(p(0), Offset(7)), (p(1), Offset(3))]));
        unread.reach(p(1), Offset(4));
        assert_eq!(unread, Unread(HashMap::from([(p(0), Offset(7))])));
        // The first record, then the end of a lagging broker.
        unread.reach(p(0), Offset(1));
        unread.reach(p(0), Offset(6));
        assert_eq!(unread, Unread(HashMap::from([(p(0), Offset(7))])));
        // The end again, after a control record.
        unread.reach(p(0), Offset(7));
        assert_eq!(unread, Unread::default());
    }
}
