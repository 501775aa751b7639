//! The event log on a Kafka topic.
//!
//! Partitions are read without a consumer group, each by its own fetch that runs ahead of its reader; the consumer
//! group's client decides which process owns which partition. All appends of this process go through one idempotent
//! producer. Opening the log does not wait for the brokers: they may be down, which health and reads report later.

mod appends;
mod dead_letter_codec;
mod dead_letters;
mod ends;
mod fetches;
#[expect(
    unsafe_code,
    reason = "rdkafka does not wrap fetching in batches without a group"
)]
mod native;
mod origin;
mod pending;
mod queries;
mod reader;
mod recovery;
mod tail;
mod topic_state;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use tokio::sync::oneshot;
use workspace_engine_core::log::{
    Append, AppendError, AppendListener, Appended, Batch, DeadLetter, DeletedDeadLetters, EventLog,
    ReadError, ReadLimit,
};
use workspace_engine_core::routing::Partitioner;
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

use crate::bootstrap;
use crate::client_errors::ClientErrors;
use crate::config::KafkaConfig;
use crate::last_reads::LastReads;
use appends::Appends;
use dead_letters::DeadLetters;
use fetches::READERS;
use native::{Client, TopicHandle};
use recovery::Recovery;
use topic_state::{PartitionState, TopicState};
use upkeep::Upkeep;

/// Largest record that is appended; the topic may take less.
const MAX_RECORD_BYTES: &str = "16777216";

/// Memory for records fetched ahead, for all partitions together with one fetch each.
const MAX_FETCHED_KBYTES: u32 = 128 * 1024;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum KafkaLogError {
    /// The client refuses its configuration.
    #[error("the Kafka client cannot be configured: {0}")]
    Client(String),
    /// The client refuses the name of a topic.
    #[error("topic {topic} cannot be used: {reason}")]
    Topic {
        /// Which topic.
        topic: String,
        /// The client's error text.
        reason: String,
    },
    /// The operating system cannot start a thread.
    #[error("cannot start the thread of the event log")]
    Thread(#[source] std::io::Error),
}

/// The events of a topic, appended and read by partition.
///
/// A partition must be [opened](EventLog::open) before its ends are queried. Dropping the log waits at most
/// a few seconds for requests under way, and refuses the rest.
///
/// Repeats of named producers are recognised also when another process received the request first, such as one that
/// was killed before it answered. If this process does not know the producer, or the request is out of sequence or
/// failed here before, the committed records at the end of the topic are scanned first (up to 5 minutes old, at most
/// 200,000 of each partition). Events found there are not appended again; if all are found, the request is answered as
/// a repeat. A request whose number is at most 7 below the highest one found, and of which nothing is found, was lost
/// in transit and is appended. One scan serves all waiting requests, continues where the last one ended, and runs on
/// its own thread. A request that waits for 20 seconds is refused as [`AppendError::Unavailable`] and can be repeated.
/// Requests without a producer name never wait for the scan.
///
/// Limits: the scan ends at the partition ends that the leaders report after the request arrived; where a broker (a
/// new leader, a follower) has less than that, the scan waits for it. The scan does not see records still in flight
/// from the process that ended, records behind an open transaction, or records beyond the bounds above; such a request
/// is appended twice when it is repeated. So is a request that another process has appended and that is repeated here,
/// if this process received all earlier requests of that producer: a producer must repeat a request where it sent it
/// first.
///
/// ```
/// use workspace_engine_core::log::EventLog;
/// use workspace_engine_kafka::{KafkaConfig, KafkaLog};
/// use workspace_lifecycle::PartitionId;
///
/// // No broker listens there: the log still opens, and its health reports the failure.
/// let config = KafkaConfig { brokers: "127.0.0.1:1".to_owned(), ..KafkaConfig::default() };
/// let log = KafkaLog::open(&config, 12)?;
/// assert_eq!(log.partitions(), 12);
/// assert!(log.health().is_err());
/// assert!(log.open(PartitionId(0)).is_err(), "to be tried again");
/// # Ok::<(), workspace_engine_kafka::KafkaLogError>(())
/// ```
pub struct KafkaLog {
    // Dropped from top to bottom: first what answers appends, then the upkeep thread, then the readers.
    recovery: Recovery,
    appends: Arc<Appends>,
    _upkeep: Upkeep,
    dead_letters: DeadLetters,
    topic: Arc<TopicState>,
    readers: [Arc<TopicHandle>; READERS],
}

impl std::fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaLog")
            .field("brokers", &self.topic.queries.brokers)
            .field("topic", &self.topic.name())
            .field("partitions", &self.topic.partitions.len())
            .finish_non_exhaustive()
    }
}

impl KafkaLog {
    /// A log on the topic of the configuration, which has `partitions`. Sends no request to the brokers yet.
    ///
    /// # Errors
    /// [`KafkaLogError::Client`] names the property that librdkafka refuses.
    pub fn open(config: &KafkaConfig, partitions: u32) -> Result<Self, KafkaLogError> {
        let query_client = consumer(config, "log-ends", partitions)?;
        let fetching = [
            consumer(config, "log-reader-0", partitions)?,
            consumer(config, "log-reader-1", partitions)?,
        ];
        let handles = |name: &str| -> Result<[Arc<TopicHandle>; READERS], KafkaLogError> {
            let [one, other] = &fetching;
            let handle = |client: &Arc<Client>| {
                TopicHandle::new(Arc::clone(client), name).map_err(|reason| KafkaLogError::Topic {
                    topic: name.to_owned(),
                    reason,
                })
            };
            Ok([handle(one)?, handle(other)?])
        };
        let state = Arc::new(TopicState::new(
            &config.topic,
            &config.brokers,
            partitions,
            config.partitioner,
            Arc::clone(&query_client),
        ));
        let dead_letter_topic = config.dead_letter_topic();
        let dead_letters = DeadLetters::new(
            TopicState::new(
                &dead_letter_topic,
                &config.brokers,
                1,
                config.partitioner,
                query_client,
            ),
            handles(&dead_letter_topic)?,
        );
        let readers = handles(&config.topic)?;
        let appends = Arc::new(Appends::new(producer(config), Arc::clone(&state))?);
        let recovery =
            Recovery::start(Arc::clone(&appends), Arc::clone(&state), recovering(config))
                .map_err(KafkaLogError::Thread)?;
        let upkeep =
            Upkeep::start(Arc::clone(&state), readers.clone()).map_err(KafkaLogError::Thread)?;
        Ok(Self {
            recovery,
            appends,
            _upkeep: upkeep,
            dead_letters,
            topic: state,
            readers,
        })
    }
}

impl KafkaLog {
    /// The last records that this process has read of the topic.
    pub(crate) fn last_reads(&self) -> Arc<LastReads> {
        Arc::clone(&self.topic.last_reads)
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.recovery.stop();
        self.appends.close();
    }
}

/// A client that reads without a group.
fn consumer(config: &KafkaConfig, role: &str, partitions: u32) -> Result<Arc<Client>, KafkaError> {
    let client = reading(config, role, partitions).create_with_context(ClientErrors::default())?;
    let client = Arc::new(client);
    bootstrap::register(&client, &config.brokers, &config.topic);
    Ok(client)
}

/// The reader's settings for a client that is assigned all partitions together: librdkafka requires a group name for
/// that. Without a subscription it never becomes a member.
fn recovering(config: &KafkaConfig) -> ClientConfig {
    let mut client = reading(config, "log-recovery", 1);
    client
        .set("group.id", &config.group)
        // It reads to the ends that the leaders report: a follower may be behind them.
        .remove("client.rack");
    client
}

fn reading(config: &KafkaConfig, role: &str, partitions: u32) -> ClientConfig {
    // Each partition gets a share, with room for some records of the usual size.
    let queued = (MAX_FETCHED_KBYTES / partitions.max(1)).clamp(1024, 8 * 1024);
    let defaults = [
        ("isolation.level", "read_committed"),
        ("fetch.queue.backoff.ms", "1"),
        // A fetch that finds nothing delays the next one, which may start at another offset, by this long.
        ("fetch.wait.max.ms", "50"),
        ("fetch.error.backoff.ms", "100"),
        // A flipped bit must be an error, never an event.
        ("check.crcs", "true"),
        ("fetch.message.max.bytes", "2097152"),
        ("queued.min.messages", "100000"),
        ("queued.max.messages.kbytes", &queued.to_string()),
        ("reconnect.backoff.max.ms", "1000"),
    ];
    let mut client: ClientConfig = config.client(role, &defaults);
    // The reader depends on these, so no configured property may change them; a group could revoke its partitions.
    client
        .remove("group.id")
        .remove("group.instance.id")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error");
    client
}

fn producer(config: &KafkaConfig) -> ClientConfig {
    let defaults = [
        ("compression.type", "lz4"),
        ("linger.ms", "2"),
        ("message.max.bytes", MAX_RECORD_BYTES),
        // A request that the brokers do not acknowledge for this long is refused.
        ("message.timeout.ms", "30000"),
        ("reconnect.backoff.max.ms", "1000"),
    ];
    let mut client: ClientConfig = config.client("log-appends", &defaults);
    client
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // Lifted, because the queue is bounded by whole requests instead.
        .set("queue.buffering.max.messages", "0")
        .set("queue.buffering.max.kbytes", "2097151");
    client
}

impl EventLog for KafkaLog {
    fn topic(&self) -> &str {
        self.topic.name()
    }

    fn partitions(&self) -> u32 {
        u32::try_from(self.topic.partitions.len()).unwrap_or(u32::MAX)
    }

    fn partitioner(&self) -> Partitioner {
        self.topic.partitioner
    }

    fn keeps_until_trimmed(&self) -> bool {
        // The cluster decides what is removed, and when.
        false
    }

    fn open(&self, partition: PartitionId) -> Result<(), ReadError> {
        let part = self.topic.part(partition)?;
        self.topic.query_ends(partition)?;
        part.open();
        Ok(())
    }

    fn close(&self, partition: PartitionId) {
        if let Ok(part) = self.topic.part(partition) {
            part.open.store(false, Ordering::Release);
            part.fetches.lock().clear();
        }
    }

    fn submit(&self, append: Append) -> oneshot::Receiver<Result<Appended, AppendError>> {
        let (answer, answered) = oneshot::channel();
        let waiter = Box::new(move |result| {
            // Fails only when the caller no longer waits for the answer.
            let _ = answer.send(result);
        });
        if self.appends.knows(&append) {
            self.appends.events(&append, None, waiter);
        } else {
            self.recovery.submit(&self.appends, append, waiter);
        }
        answered
    }

    fn read(
        &self,
        partition: PartitionId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Batch, ReadError> {
        reader::read(&self.topic, &self.readers, partition, from, &limit)
    }

    fn is_replaced(&self, partition: PartitionId) -> bool {
        self.topic
            .part(partition)
            .is_ok_and(PartitionState::is_replaced)
    }

    fn end(&self, partition: PartitionId) -> Result<Offset, ReadError> {
        self.topic.query_ends(partition).map(|(_, end)| end)
    }

    fn low_watermark(&self, partition: PartitionId) -> Offset {
        self.topic
            .part(partition)
            .map(|part| part.ends.lock().low())
            .unwrap_or_default()
    }

    fn high_watermark(&self, partition: PartitionId) -> Offset {
        self.topic
            .part(partition)
            .map(|part| part.ends.lock().high())
            .unwrap_or_default()
    }

    fn health(&self) -> Result<(), String> {
        self.topic.health()
    }

    fn set_listener(&self, listener: AppendListener) {
        *self.topic.listener.write() = Some(listener);
    }

    fn trim(&self, _partition: PartitionId, _floor: Offset) -> Result<(), ReadError> {
        Ok(())
    }

    fn append_dead_letter(&self, dead_letter: DeadLetter) -> Result<(), AppendError> {
        self.dead_letters.append(&self.appends, &dead_letter)
    }

    fn dead_letters(
        &self,
        workspace: Option<&WorkspaceId>,
        after: Option<(PartitionId, Offset)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadError> {
        self.dead_letters.list(workspace, after, limit)
    }

    fn delete_dead_letters(&self, deleted: &[DeletedDeadLetters]) -> Result<(), AppendError> {
        self.dead_letters.delete(&self.appends, deleted)
    }
}
