//! Appends through one idempotent producer: a request is answered when all of its records are acknowledged.
//!
//! Where possible, a request is refused before any of its records is sent. The error of one that fails later reports
//! what was appended, because the appends are not transactional. When a named producer repeats it, only records that
//! were neither acknowledged nor found in the topic are sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use workspace_engine_core::log::producers::{FirstRequest, Producers, Verdict};
use workspace_engine_core::log::{
    Append, AppendError, Appended, MAX_PRODUCER_ID_BYTES, MAX_QUEUED_BYTES, MAX_QUEUED_REQUESTS,
    ProducerSequence,
};
use workspace_lifecycle::{Offset, PartitionId};

use super::origin;
use super::pending::{Acknowledged, Kind, Outgoing, Pending, Settled, Turn, Waiter};
use super::tail::RecentRequests;
use super::topic_state::TopicState;
use crate::bootstrap;
use crate::client_errors::ClientErrors;

/// How long closing the log waits for requests under way.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What the producer's threads and the appending callers share.
struct Requests {
    topic: Arc<TopicState>,
    client_errors: ClientErrors,
    producers: Mutex<Producers<Pending>>,
    /// Since when the producers are remembered.
    opened: Instant,
    queued_bytes: AtomicUsize,
    queued_requests: AtomicUsize,
    closing: AtomicBool,
}

/// The producer of a log.
pub(super) struct Appends {
    requests: Arc<Requests>,
    config: ClientConfig,
    max_record_bytes: usize,
    /// Held while a request is sent, so that its records stay adjacent.
    producer: Mutex<Arc<AppendProducer>>,
}

type AppendProducer = ThreadedProducer<Deliveries>;

/// One record on its way.
pub(super) struct Delivery {
    pending: Arc<Pending>,
    index: usize,
}

/// Receives delivery reports, on the producer's thread.
struct Deliveries(Arc<Requests>);

impl Appends {
    pub(super) fn new(config: ClientConfig, topic: Arc<TopicState>) -> Result<Self, KafkaError> {
        let requests = Arc::new(Requests {
            topic,
            client_errors: ClientErrors::default(),
            producers: Mutex::new(Producers::new(FirstRequest::Any)),
            opened: Instant::now(),
            queued_bytes: AtomicUsize::new(0),
            queued_requests: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        });
        let producer = requests.client(&config)?;
        let max_record_bytes = config
            .get("message.max.bytes")
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or(1_000_000);
        Ok(Self {
            requests,
            config,
            max_record_bytes,
            producer: Mutex::new(producer),
        })
    }

    /// Whether a request can be appended, or refused, without a scan of the topic.
    pub(super) fn knows(&self, append: &Append) -> bool {
        append.producer.as_ref().is_none_or(|request| {
            request.check().is_err() || self.requests.producers.lock().knows(request)
        })
    }

    /// Reserves room in the queue, which the caller must release. False if the queue is full.
    pub(super) fn reserve(&self, bytes: usize) -> bool {
        self.requests.reserve(bytes)
    }

    pub(super) fn release(&self, bytes: usize) {
        self.requests.release(bytes);
    }

    /// Appends the events that were not found in the topic; the answer goes to `waiter`.
    pub(super) fn events(&self, append: &Append, recent: Option<&RecentRequests>, waiter: Waiter) {
        if let Some(Err(error)) = append.producer.as_ref().map(ProducerSequence::check) {
            return waiter(Err(error));
        }
        let topic = &self.requests.topic;
        let partitions = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        let records: Vec<Outgoing<'_>> = append
            .events
            .iter()
            .enumerate()
            .map(|(index, (id, event))| Outgoing {
                topic: topic.name(),
                partition: topic.partitioner.partition_of(id, partitions),
                key: id.as_str().as_bytes(),
                value: event.as_ref(),
                headers: append
                    .producer
                    .as_ref()
                    .map(|producer| origin::write(producer, index)),
            })
            .collect();
        self.send(
            records,
            append.producer.clone(),
            Kind::Events,
            recent,
            waiter,
        );
    }

    /// Appends one record that is not an event; the answer goes to `waiter`.
    pub(super) fn other(&self, record: Outgoing<'_>, waiter: Waiter) {
        self.send(vec![record], None, Kind::Other, None, waiter);
    }

    fn send(
        &self,
        records: Vec<Outgoing<'_>>,
        sequence: Option<ProducerSequence>,
        kind: Kind,
        recent: Option<&RecentRequests>,
        waiter: Waiter,
    ) {
        if let Some(error) = self.too_large(&records) {
            return waiter(Err(error));
        }
        let mut producer = self.producer.lock();
        if let Err(error) = self.replace_failed(&mut producer) {
            return waiter(Err(error));
        }
        let pending = Arc::new(Pending::new(sequence, kind, &records));
        let Some(waiter) = self.requests.admit(&pending, recent, waiter) else {
            return;
        };
        let open = pending.open();
        if !open.contains(&true) {
            // A request without events is not a repeat.
            let is_empty = records.is_empty();
            pending.wait(waiter, if is_empty { Turn::First } else { Turn::Repeat });
            return self.requests.finish(&pending);
        }
        pending.wait(waiter, Turn::First);
        let records = records.into_iter().enumerate().zip(open);
        for ((index, record), _) in records.filter(|(_, is_open)| *is_open) {
            let number = i32::try_from(record.partition.0).unwrap_or(i32::MAX);
            let delivery = Box::new(Delivery {
                pending: Arc::clone(&pending),
                index,
            });
            let mut base = BaseRecord::with_opaque_to(record.topic, delivery)
                .partition(number)
                .key(record.key)
                .payload(record.value);
            if let Some(headers) = record.headers {
                base = base.headers(headers);
            }
            if let Err((error, _)) = producer.send(base) {
                let code = error.rdkafka_error_code();
                let error_text = self.requests.client_errors.explain(&error);
                let refused = refusal(record.topic, code, &error_text);
                self.requests.settle(&pending, index, Err(refused));
            }
        }
    }

    /// A record that the producer would refuse fails its request before any of it is sent.
    fn too_large(&self, records: &[Outgoing<'_>]) -> Option<AppendError> {
        let largest = records.iter().max_by_key(|record| record.bytes())?;
        let max_header_bytes = 2 * MAX_PRODUCER_ID_BYTES;
        (largest.bytes() + max_header_bytes > self.max_record_bytes).then(|| {
            AppendError::Unavailable(format!(
                "a record of {} bytes is too large: topic {} is sent records up to {} bytes (message.max.bytes)",
                largest.key.len() + largest.value.len(),
                largest.topic,
                self.max_record_bytes
            ))
        })
    }

    /// A producer with a fatal error appends nothing any more, so it is replaced.
    fn replace_failed(&self, producer: &mut Arc<AppendProducer>) -> Result<(), AppendError> {
        let Some((code, error_text)) = producer.client().fatal_error() else {
            return Ok(());
        };
        tracing::error!(%code, error_text, "the producer has a fatal error and is replaced");
        *producer = self
            .requests
            .client(&self.config)
            .map_err(|error| AppendError::Unavailable(error.to_string()))?;
        Ok(())
    }

    /// Waits up to [`FLUSH_TIMEOUT`] for requests under way, if the brokers answer.
    pub(super) fn close(&self) {
        self.requests.closing.store(true, Ordering::Release);
        let producer = self.producer.lock();
        if producer.in_flight_count() > 0
            && self.requests.topic.is_answered()
            && let Err(error) = producer.flush(FLUSH_TIMEOUT)
        {
            tracing::warn!(%error, "requests were still under way when the log was closed; they are refused");
        }
    }
}

impl Requests {
    fn client(self: &Arc<Self>, config: &ClientConfig) -> Result<Arc<AppendProducer>, KafkaError> {
        let client: AppendProducer = config.create_with_context(Deliveries(Arc::clone(self)))?;
        let client = Arc::new(client);
        bootstrap::register(&client, &self.topic.queries.brokers, self.topic.name());
        Ok(client)
    }

    /// Admits a request and returns its waiter. Returns nothing if the request is refused, was answered before or is
    /// under way: then its waiter is called here or added to that request.
    fn admit(
        &self,
        pending: &Arc<Pending>,
        recent: Option<&RecentRequests>,
        waiter: Waiter,
    ) -> Option<Waiter> {
        let now = self.opened.elapsed();
        let mut producers = self.producers.lock();
        let (verdict, found) = match (&pending.sequence, recent) {
            (None, _) => (Ok(Verdict::New), &[][..]),
            // The producer was known when the request arrived and was forgotten since: the repeat scans the topic.
            (Some(request), None) if !producers.knows(request) => (Err(AppendError::Busy), &[][..]),
            (Some(request), None) => (producers.judge(request, now), &[][..]),
            (Some(request), Some(recent)) => {
                if let Some(highest) = recent.highest() {
                    producers.reach(&request.producer_id, highest, now, |number, failed| {
                        failed.note_found(recent.records(number))
                    });
                }
                (
                    producers.judge(request, now),
                    recent.records(request.sequence),
                )
            }
        };
        let answer = match verdict {
            Err(AppendError::Sequence { .. }) if pending.note_found(found) => {
                // Its number has passed, and all of its records are in the topic.
                pending
                    .answer(|partition| self.topic.last(partition))
                    .map(|answer| Appended {
                        repeated: true,
                        ..answer
                    })
            }
            Err(error) => Err(error),
            Ok(Verdict::Answered(answer)) => Ok(Appended {
                repeated: true,
                ..answer
            }),
            Ok(Verdict::Pending(first)) => {
                // That request cannot finish before the table is unlocked.
                first.wait(waiter, Turn::Repeat);
                return None;
            }
            Ok(Verdict::New | Verdict::Again(_)) if !self.reserve(pending.bytes) => {
                Err(AppendError::Busy)
            }
            Ok(verdict @ (Verdict::New | Verdict::Again(_))) => {
                if let Verdict::Again(earlier) = verdict {
                    pending.continue_from(&earlier);
                }
                pending.note_found(found);
                if let Some(request) = &pending.sequence {
                    producers.begin(request, Arc::clone(pending), now);
                }
                return Some(waiter);
            }
        };
        drop(producers);
        waiter(answer);
        None
    }

    /// Reserves room in the queue. A request that finds no bytes queued is accepted whatever its size.
    fn reserve(&self, bytes: usize) -> bool {
        let requests = self.queued_requests.fetch_add(1, Ordering::Relaxed);
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = requests < MAX_QUEUED_REQUESTS
            && (queued == 0 || queued.saturating_add(bytes) <= MAX_QUEUED_BYTES);
        if !fits {
            self.release(bytes);
        }
        fits
    }

    fn release(&self, bytes: usize) {
        self.queued_requests.fetch_sub(1, Ordering::Relaxed);
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn settle(&self, pending: &Pending, index: usize, result: Result<Acknowledged, AppendError>) {
        match pending.settle(index, result) {
            Settled::Partly => {}
            Settled::Whole => self.finish(pending),
        }
    }

    /// Answers a request of which every record is settled.
    fn finish(&self, pending: &Pending) {
        let answer = pending.answer(|partition| self.topic.last(partition));
        self.release(pending.bytes);
        if pending.kind == Kind::Events {
            for (partition, range) in pending.ranges() {
                if let Some((_, last)) = range {
                    self.topic.acknowledged(partition, last.next());
                }
            }
            if answer.is_ok() {
                *self.topic.last_append_error.lock() = None;
            }
        }
        let waiters = {
            // Under this lock, so that a repeat either adds its waiter before they are taken out or finds the answer.
            let mut producers = self.producers.lock();
            if let Some(request) = &pending.sequence {
                producers.end(request, answer.as_ref().ok());
            }
            pending.take_waiters()
        };
        for (waiter, turn) in waiters {
            waiter(answer.clone().map(|answer| Appended {
                repeated: turn == Turn::Repeat,
                ..answer
            }));
        }
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        self.0.client_errors.error(error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.client_errors.log(level, facility, message);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Delivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: Box<Delivery>) {
        let settled = match result {
            Ok(message) => {
                self.0.client_errors.forget();
                let partition = u32::try_from(message.partition()).unwrap_or(u32::MAX);
                Ok(Acknowledged {
                    partition: PartitionId(partition),
                    offset: u64::try_from(message.offset()).ok().map(Offset),
                })
            }
            Err((error, message)) => {
                let error_text = self.0.client_errors.explain(error);
                let code = error.rdkafka_error_code();
                tracing::debug!(%error, error_text, topic = message.topic(), "a record is not acknowledged");
                if code != Some(RDKafkaErrorCode::MessageSizeTooLarge) {
                    *self.0.topic.last_append_error.lock() =
                        Some((Instant::now(), error_text.clone()));
                }
                if self.0.closing.load(Ordering::Acquire) {
                    Err(AppendError::Closed)
                } else {
                    Err(refusal(message.topic(), code, &error_text))
                }
            }
        };
        self.0.settle(&delivery.pending, delivery.index, settled);
    }
}

fn refusal(topic: &str, code: Option<RDKafkaErrorCode>, error_text: &str) -> AppendError {
    match code {
        Some(RDKafkaErrorCode::QueueFull) => AppendError::Busy,
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => AppendError::Unavailable(format!(
            "a record is larger than topic {topic} takes (max.message.bytes): {error_text}"
        )),
        _ => AppendError::Unavailable(format!("topic {topic}: {error_text}")),
    }
}
