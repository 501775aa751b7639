//! Appends through one idempotent producer: a request is answered when all of its records are acknowledged.
//!
//! A request is refused before any of it is sent where that can be known. One whose records fail later is refused
//! as a whole, though some of them may be there: the topic is not transactional.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use workspace_engine_core::log::{
    Append, AppendError, Appended, AppendedRange, PRODUCER_ID_BYTES_MOST, ProducerSequence,
    QUEUED_BYTES_MOST, QUEUED_REQUESTS_MOST,
};
use workspace_engine_core::routing::partition_of;
use workspace_lifecycle::{Offset, PartitionId};

use super::cluster::Shared;
use super::sequences::{Sequences, Verdict};
use super::words::Words;

/// What a record takes in the producer's queue beside key and value.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// How long what is under way may take when the log is closed.
const FLUSH: Duration = Duration::from_secs(2);

/// Gives the answer to whoever waits for it.
pub(super) type Waiter = Box<dyn FnOnce(Result<Appended, AppendError>) + Send>;

/// One record to be appended.
pub(super) struct Outgoing<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: PartitionId,
    pub(super) key: &'a [u8],
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: Option<OwnedHeaders>,
}

impl Outgoing<'_> {
    fn bytes(&self) -> usize {
        self.key.len() + self.value.map_or(0, <[u8]>::len) + RECORD_OVERHEAD_BYTES
    }
}

/// A request whose records are on their way.
pub(super) struct Pending {
    sequence: Option<ProducerSequence>,
    /// Whether its records are events, of which readers are told.
    is_events: bool,
    bytes: usize,
    state: Mutex<PendingState>,
}

struct PendingState {
    /// Records that are neither acknowledged nor failed.
    open: usize,
    accepted: u64,
    /// Where they stand; none where the brokers did not say so.
    ranges: BTreeMap<PartitionId, Option<(Offset, Offset)>>,
    failed: Option<AppendError>,
    waiters: Vec<(Waiter, Turn)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Repeat,
}

/// What the producer's threads and those who append share.
struct Desk {
    cluster: Shared,
    words: Words,
    sequences: Mutex<Sequences<Pending>>,
    queued_bytes: AtomicUsize,
    queued_requests: AtomicUsize,
    closing: AtomicBool,
}

/// The producer of a log.
pub(super) struct Appends {
    desk: Arc<Desk>,
    config: ClientConfig,
    record_bytes_most: usize,
    /// Held while a request is sent, so that its records stand beside each other.
    producer: Mutex<ThreadedProducer<Deliveries>>,
}

/// Hears of deliveries, on the producer's thread.
struct Deliveries(Arc<Desk>);

impl Appends {
    pub(super) fn new(config: ClientConfig, cluster: Shared) -> Result<Self, KafkaError> {
        let desk = Arc::new(Desk {
            cluster,
            words: Words::default(),
            sequences: Mutex::default(),
            queued_bytes: AtomicUsize::new(0),
            queued_requests: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        });
        let producer = config.create_with_context(Deliveries(Arc::clone(&desk)))?;
        let record_bytes_most = config
            .get("message.max.bytes")
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or(1_000_000);
        Ok(Self {
            desk,
            config,
            record_bytes_most,
            producer: Mutex::new(producer),
        })
    }

    /// Appends events; the answer goes to `waiter`.
    pub(super) fn events(&self, append: &Append, waiter: Waiter) {
        if let Some(Err(error)) = append.producer.as_ref().map(check) {
            return waiter(Err(error));
        }
        let cluster = &self.desk.cluster;
        let partitions = u32::try_from(cluster.parts.len()).unwrap_or(u32::MAX);
        let records: Vec<Outgoing<'_>> = append
            .events
            .iter()
            .enumerate()
            .map(|(index, (id, event))| Outgoing {
                topic: &cluster.topic,
                partition: partition_of(id, partitions),
                key: id.as_str().as_bytes(),
                value: Some(event.as_ref()),
                headers: append
                    .producer
                    .as_ref()
                    .map(|producer| headers(producer, index)),
            })
            .collect();
        self.send(records, append.producer.clone(), true, waiter);
    }

    /// Appends one record that is no event; the answer goes to `waiter`.
    pub(super) fn other(&self, record: Outgoing<'_>, waiter: Waiter) {
        self.send(vec![record], None, false, waiter);
    }

    fn send(
        &self,
        records: Vec<Outgoing<'_>>,
        sequence: Option<ProducerSequence>,
        is_events: bool,
        waiter: Waiter,
    ) {
        if let Some(error) = self.too_large(&records) {
            return waiter(Err(error));
        }
        let mut producer = self.producer.lock();
        if let Err(error) = self.heal(&mut producer) {
            return waiter(Err(error));
        }
        let bytes = records.iter().map(Outgoing::bytes).sum();
        let pending = Arc::new(Pending {
            sequence,
            is_events,
            bytes,
            state: Mutex::new(PendingState {
                open: records.len(),
                accepted: u64::try_from(records.len()).unwrap_or(u64::MAX),
                ranges: BTreeMap::new(),
                failed: None,
                waiters: Vec::new(),
            }),
        });
        let Some(waiter) = self.desk.admit(&pending, waiter) else {
            return;
        };
        pending.state.lock().waiters.push((waiter, Turn::First));
        if records.is_empty() {
            return self.desk.over(&pending);
        }
        for record in records {
            let number = i32::try_from(record.partition.0).unwrap_or(i32::MAX);
            let mut base = BaseRecord::with_opaque_to(record.topic, Arc::clone(&pending))
                .partition(number)
                .key(record.key);
            if let Some(value) = record.value {
                base = base.payload(value);
            }
            if let Some(headers) = record.headers {
                base = base.headers(headers);
            }
            if let Err((error, _)) = producer.send(base) {
                let code = error.rdkafka_error_code();
                let words = self.desk.words.explain(&error);
                self.desk.settle(
                    &pending,
                    Err(refusal(&self.desk.cluster.topic, code, &words)),
                );
            }
        }
    }

    /// A record that the producer would not take refuses its request before any of it is sent.
    fn too_large(&self, records: &[Outgoing<'_>]) -> Option<AppendError> {
        let largest = records.iter().max_by_key(|record| record.bytes())?;
        let headers_most = 2 * PRODUCER_ID_BYTES_MOST;
        (largest.bytes() + headers_most > self.record_bytes_most).then(|| {
            AppendError::Unavailable(format!(
                "a record of {} bytes is too large: topic {} is sent records up to {} bytes (message.max.bytes)",
                largest.key.len() + largest.value.map_or(0, <[u8]>::len),
                largest.topic,
                self.record_bytes_most
            ))
        })
    }

    /// A producer with a fatal error appends nothing any more: another one takes its place.
    fn heal(&self, producer: &mut ThreadedProducer<Deliveries>) -> Result<(), AppendError> {
        let Some((code, words)) = producer.client().fatal_error() else {
            return Ok(());
        };
        tracing::error!(%code, words, "the producer cannot go on; a new one takes its place");
        let deliveries = Deliveries(Arc::clone(&self.desk));
        *producer = self
            .config
            .create_with_context(deliveries)
            .map_err(|error| AppendError::Unavailable(error.to_string()))?;
        Ok(())
    }

    /// Waits a moment for what is under way, where anybody takes it.
    pub(super) fn close(&self) {
        self.desk.closing.store(true, Ordering::Release);
        let producer = self.producer.lock();
        if producer.in_flight_count() > 0
            && self.desk.cluster.answers()
            && let Err(error) = producer.flush(FLUSH)
        {
            tracing::warn!(%error, "requests were still under way when the log was closed; they are refused");
        }
    }
}

impl Desk {
    /// Takes a request in, unless it is refused, was answered, or is under way; then its waiter is dealt with.
    fn admit(&self, pending: &Arc<Pending>, waiter: Waiter) -> Option<Waiter> {
        let mut sequences = self.sequences.lock();
        let verdict = pending
            .sequence
            .as_ref()
            .map_or(Ok(Verdict::New), |asked| sequences.judge(asked));
        let answer = match verdict {
            Err(error) => Err(error),
            Ok(Verdict::Answered(answer)) => Ok(Appended {
                repeated: true,
                ..answer
            }),
            Ok(Verdict::Pending(first)) => {
                // It cannot be over before the table is unlocked.
                first.state.lock().waiters.push((waiter, Turn::Repeat));
                return None;
            }
            Ok(Verdict::New) if !self.reserve(pending.bytes) => Err(AppendError::Busy),
            Ok(Verdict::New) => {
                if let Some(asked) = &pending.sequence {
                    sequences.begin(asked, Arc::clone(pending));
                }
                return Some(waiter);
            }
        };
        drop(sequences);
        waiter(answer);
        None
    }

    /// Room in the queue; a request that finds it empty is always taken.
    fn reserve(&self, bytes: usize) -> bool {
        let requests = self.queued_requests.fetch_add(1, Ordering::Relaxed);
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = requests < QUEUED_REQUESTS_MOST
            && (queued == 0 || queued.saturating_add(bytes) <= QUEUED_BYTES_MOST);
        if !fits {
            self.release(bytes);
        }
        fits
    }

    fn release(&self, bytes: usize) {
        self.queued_requests.fetch_sub(1, Ordering::Relaxed);
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// One record of a request is acknowledged, or never will be.
    fn settle(
        &self,
        pending: &Pending,
        result: Result<(PartitionId, Option<Offset>), AppendError>,
    ) {
        let is_over = {
            let mut state = pending.state.lock();
            match result {
                Ok((partition, offset)) => {
                    let range = state.ranges.entry(partition).or_default();
                    if let Some(offset) = offset {
                        let (first, last) = range.unwrap_or((offset, offset));
                        *range = Some((first.min(offset), last.max(offset)));
                    }
                }
                Err(error) => {
                    state.failed.get_or_insert(error);
                }
            }
            state.open = state.open.saturating_sub(1);
            state.open == 0
        };
        if is_over {
            self.over(pending);
        }
    }

    /// Every record of a request is settled: it is answered.
    fn over(&self, pending: &Pending) {
        let answer = pending
            .state
            .lock()
            .answer(|partition| self.cluster.last(partition));
        self.release(pending.bytes);
        if pending.is_events {
            let ranges = pending.state.lock().ranges.clone();
            for (partition, range) in ranges {
                if let Some((_, last)) = range {
                    self.cluster.acknowledged(partition, last.next());
                }
            }
            if answer.is_ok() {
                *self.cluster.append_trouble.lock() = None;
            }
        }
        let waiters = {
            // A repeat that finds the request in the table adds itself before it is taken out, or finds the answer.
            let mut sequences = self.sequences.lock();
            if let Some(asked) = &pending.sequence {
                sequences.end(asked, answer.as_ref().ok());
            }
            std::mem::take(&mut pending.state.lock().waiters)
        };
        for (waiter, turn) in waiters {
            waiter(answer.clone().map(|answer| Appended {
                repeated: turn == Turn::Repeat,
                ..answer
            }));
        }
    }
}

impl PendingState {
    /// The answer. Of a batch that was sent twice the brokers may say only that they have it: it stands at or
    /// before the `last` record of its partition then.
    fn answer(&self, last: impl Fn(PartitionId) -> Offset) -> Result<Appended, AppendError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let ranges = self.ranges.iter();
        Ok(Appended {
            accepted: self.accepted,
            partitions: ranges
                .map(|(partition, range)| {
                    let (first_offset, last_offset) = range.unwrap_or_else(|| {
                        let last = last(*partition);
                        (last, last)
                    });
                    AppendedRange {
                        partition: *partition,
                        first_offset,
                        last_offset,
                    }
                })
                .collect(),
            repeated: false,
        })
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        self.0.words.error(error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.words.log(level, facility, message);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Arc<Pending>) {
        let settled = match result {
            Ok(message) => {
                self.0.words.forget();
                let partition = u32::try_from(message.partition()).unwrap_or(u32::MAX);
                let offset = u64::try_from(message.offset()).ok().map(Offset);
                Ok((PartitionId(partition), offset))
            }
            Err((error, message)) => {
                let words = self.0.words.explain(error);
                let code = error.rdkafka_error_code();
                tracing::debug!(%error, words, topic = message.topic(), "a record is not acknowledged");
                if code != Some(RDKafkaErrorCode::MessageSizeTooLarge) {
                    *self.0.cluster.append_trouble.lock() = Some(format!(
                        "events are not acknowledged by {}: {words}",
                        self.0.cluster.brokers
                    ));
                }
                if self.0.closing.load(Ordering::Acquire) {
                    Err(AppendError::Closed)
                } else {
                    Err(refusal(message.topic(), code, &words))
                }
            }
        };
        self.0.settle(&pending, settled);
    }
}

fn refusal(topic: &str, code: Option<RDKafkaErrorCode>, words: &str) -> AppendError {
    match code {
        Some(RDKafkaErrorCode::QueueFull) => AppendError::Busy,
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => AppendError::Unavailable(format!(
            "a record is larger than topic {topic} takes (max.message.bytes): {words}"
        )),
        _ => AppendError::Unavailable(format!("topic {topic}: {words}")),
    }
}

fn check(producer: &ProducerSequence) -> Result<(), AppendError> {
    if producer.producer_id.is_empty() || producer.producer_id.len() > PRODUCER_ID_BYTES_MOST {
        return Err(AppendError::Producer(format!(
            "ids have 1 to {PRODUCER_ID_BYTES_MOST} bytes"
        )));
    }
    if producer.sequence == 0 {
        return Err(AppendError::Producer("sequences begin with 1".to_owned()));
    }
    Ok(())
}

/// Who sent an event, for whoever reads the topic.
fn headers(producer: &ProducerSequence, index: usize) -> OwnedHeaders {
    let sequence = producer.sequence.to_string();
    let index = index.to_string();
    [
        ("producer-id", producer.producer_id.as_str()),
        ("producer-sequence", sequence.as_str()),
        ("producer-index", index.as_str()),
    ]
    .into_iter()
    .fold(
        OwnedHeaders::new_with_capacity(3),
        |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(value),
            })
        },
    )
}
