//! The event log on a Kafka topic.
//!
//! Partitions are read without a group, each by a fetch of its own that runs ahead of its reader; who owns
//! which partition is decided elsewhere. What this process appends goes through one idempotent producer.
//! Nothing here waits for the brokers when the log is opened: they may be away, and say so later.

mod appends;
mod cluster;
mod dead_letter_codec;
mod dead_letters;
mod ends;
#[expect(
    unsafe_code,
    reason = "rdkafka does not wrap fetching in batches without a group"
)]
mod native;
mod origin;
mod pending;
mod reader;
mod recovery;
mod sequences;
mod tail;
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
use crate::seen::SeenRecords;
use appends::Appends;
use cluster::Cluster;
use dead_letters::DeadLetters;
use native::{Client, Topic};
use reader::READERS;
use recovery::Recovery;
use upkeep::Upkeep;

/// Largest record that is appended; the topic may take less.
const MAX_RECORD_BYTES: &str = "16777216";

/// Memory for what is fetched ahead, all partitions together, a fetch each.
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
        /// In the client's words.
        reason: String,
    },
    /// The operating system gives no thread.
    #[error("cannot start the thread of the event log")]
    Thread(#[source] std::io::Error),
}

/// The events of a topic, appended and read by partition.
///
/// A partition must be [opened](EventLog::open) before its ends are asked for. Dropping the log waits at most
/// a few seconds for requests under way, and refuses the rest.
///
/// Repeats of named producers are recognised also when another process had the request, such as one that was killed
/// before it answered. Before a request is appended of a producer that this process does not know, that is out of
/// its turn, or that failed here before, the records at the end of the topic are read (up to 5 minutes old, and
/// 200,000 of each partition), committed ones only: what is there of it is not appended again, and where all of it
/// is there, it is answered as a repeat. A number at most 7 below the last one that is there, of which nothing is
/// found, was lost on its way and is appended. One look serves all requests that wait, reads on from where the last
/// one ended, and happens on a thread of its own; a request that waits for 20 seconds is refused as
/// [`AppendError::Unavailable`], to be repeated. Requests without a name never wait for it.
///
/// What remains: the look ends where the leaders say, after the request came, that the partitions end; a broker that
/// has less than its leader named (a new leader, a follower) is waited for. Records that are still on their way from the
/// process that is gone, or stand behind an open transaction, are not seen, nor are those beyond the bounds above; such a
/// request is doubled when it is repeated. So is the request of a producer that another process has appended and that is
/// repeated here, where all before it were sent here: a producer repeats a request where it sent it first.
///
/// ```
/// use workspace_engine_core::log::EventLog;
/// use workspace_engine_kafka::{KafkaConfig, KafkaLog};
/// use workspace_lifecycle::PartitionId;
///
/// // Nobody answers there; the log opens all the same, and says so.
/// let config = KafkaConfig { brokers: "127.0.0.1:1".to_owned(), ..KafkaConfig::default() };
/// let log = KafkaLog::open(&config, 12)?;
/// assert_eq!(log.partitions(), 12);
/// assert!(log.health().is_err());
/// assert!(log.open(PartitionId(0)).is_err(), "to be tried again");
/// # Ok::<(), workspace_engine_kafka::KafkaLogError>(())
/// ```
pub struct KafkaLog {
    // Dropped from top to bottom: who appends, answers, then who looks after the rest, then the readers.
    recovery: Recovery,
    appends: Arc<Appends>,
    _upkeep: Upkeep,
    dead_letters: DeadLetters,
    cluster: Arc<Cluster>,
    readers: [Arc<Topic>; READERS],
}

impl std::fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaLog")
            .field("brokers", &self.cluster.brokers)
            .field("topic", &self.cluster.topic)
            .field("partitions", &self.cluster.parts.len())
            .finish_non_exhaustive()
    }
}

impl KafkaLog {
    /// A log on the topic of the configuration, which has so many partitions. Asks the brokers nothing yet.
    ///
    /// # Errors
    /// [`KafkaLogError::Client`] names the property that librdkafka does not take.
    pub fn open(config: &KafkaConfig, partitions: u32) -> Result<Self, KafkaLogError> {
        let asking = consumer(config, "log-ends", partitions)?;
        let fetching = [
            consumer(config, "log-reader-0", partitions)?,
            consumer(config, "log-reader-1", partitions)?,
        ];
        let topics = |name: &str| -> Result<[Arc<Topic>; READERS], KafkaLogError> {
            let [one, other] = &fetching;
            let topic = |client: &Arc<Client>| {
                Topic::new(Arc::clone(client), name).map_err(|reason| KafkaLogError::Topic {
                    topic: name.to_owned(),
                    reason,
                })
            };
            Ok([topic(one)?, topic(other)?])
        };
        let cluster = Arc::new(Cluster::new(
            &config.topic,
            &config.brokers,
            partitions,
            config.partitioner,
            Arc::clone(&asking),
        ));
        let letter_topic = config.dead_letter_topic();
        let dead_letters = DeadLetters::new(
            Cluster::new(
                &letter_topic,
                &config.brokers,
                1,
                config.partitioner,
                asking,
            ),
            topics(&letter_topic)?,
        );
        let readers = topics(&config.topic)?;
        let appends = Arc::new(Appends::new(producer(config), Arc::clone(&cluster))?);
        let recovery = Recovery::start(
            Arc::clone(&appends),
            Arc::clone(&cluster),
            recovering(config),
        )
        .map_err(KafkaLogError::Thread)?;
        let upkeep =
            Upkeep::start(Arc::clone(&cluster), readers.clone()).map_err(KafkaLogError::Thread)?;
        Ok(Self {
            recovery,
            appends,
            _upkeep: upkeep,
            dead_letters,
            cluster,
            readers,
        })
    }
}

impl KafkaLog {
    /// What was read of the topic.
    pub(crate) fn seen(&self) -> Arc<SeenRecords> {
        Arc::clone(&self.cluster.seen)
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.recovery.stop();
        self.appends.close();
    }
}

/// A client that reads by itself, without a group.
fn consumer(config: &KafkaConfig, role: &str, partitions: u32) -> Result<Arc<Client>, KafkaError> {
    let client = reading(config, role, partitions).create_with_context(ClientErrors::default())?;
    let client = Arc::new(client);
    bootstrap::register(&client, &config.brokers, &config.topic);
    Ok(client)
}

/// As a reader, but all partitions together, as a client that is assigned them: librdkafka wants a group's name for
/// that. Without a subscription it is never a member.
fn recovering(config: &KafkaConfig) -> ClientConfig {
    let mut client = reading(config, "log-recovery", 1);
    client
        .set("group.id", &config.group)
        // It reads to the ends that the leaders name: a follower may be behind them.
        .remove("client.rack");
    client
}

fn reading(config: &KafkaConfig, role: &str, partitions: u32) -> ClientConfig {
    // Each partition has a share, with room for some records of the usual size.
    let queued = (MAX_FETCHED_KBYTES / partitions.max(1)).clamp(1024, 8 * 1024);
    let defaults = [
        ("isolation.level", "read_committed"),
        ("fetch.queue.backoff.ms", "1"),
        // As long a fetch that finds nothing holds up the next one, which may begin elsewhere.
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
    // Those that a reader depends on are nobody's choice; a group would take its partitions away.
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
        // A request that nobody acknowledges for so long is refused.
        ("message.timeout.ms", "30000"),
        ("reconnect.backoff.max.ms", "1000"),
    ];
    let mut client: ClientConfig = config.client("log-appends", &defaults);
    client
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // What waits is counted by requests, whole ones.
        .set("queue.buffering.max.messages", "0")
        .set("queue.buffering.max.kbytes", "2097151");
    client
}

impl EventLog for KafkaLog {
    fn topic(&self) -> &str {
        &self.cluster.topic
    }

    fn partitions(&self) -> u32 {
        u32::try_from(self.cluster.parts.len()).unwrap_or(u32::MAX)
    }

    fn partitioner(&self) -> Partitioner {
        self.cluster.partitioner
    }

    fn keeps_until_trimmed(&self) -> bool {
        // What is removed, and when, is the cluster's.
        false
    }

    fn open(&self, partition: PartitionId) -> Result<(), ReadError> {
        let part = self.cluster.part(partition)?;
        self.cluster.ask(partition)?;
        self.cluster.opened(part);
        Ok(())
    }

    fn close(&self, partition: PartitionId) {
        if let Ok(part) = self.cluster.part(partition) {
            part.open.store(false, Ordering::Release);
            part.place.lock().clear();
        }
    }

    fn submit(&self, append: Append) -> oneshot::Receiver<Result<Appended, AppendError>> {
        let (answer, answered) = oneshot::channel();
        let waiter = Box::new(move |result| {
            // Nobody waits any more: then nobody needs the answer.
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
        reader::read(&self.cluster, &self.readers, partition, from, &limit)
    }

    fn is_replaced(&self, partition: PartitionId) -> bool {
        self.cluster
            .part(partition)
            .is_ok_and(|part| self.cluster.is_replaced(part))
    }

    fn end(&self, partition: PartitionId) -> Result<Offset, ReadError> {
        self.cluster.ask(partition).map(|(_, end)| end)
    }

    fn low_watermark(&self, partition: PartitionId) -> Offset {
        self.cluster
            .part(partition)
            .map(|part| part.ends.lock().low())
            .unwrap_or_default()
    }

    fn high_watermark(&self, partition: PartitionId) -> Offset {
        self.cluster
            .part(partition)
            .map(|part| part.ends.lock().high())
            .unwrap_or_default()
    }

    fn health(&self) -> Result<(), String> {
        self.cluster.health()
    }

    fn set_listener(&self, listener: AppendListener) {
        *self.cluster.listener.write() = Some(listener);
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
