//! The clients that read the changelog: a few consumers that are lent to partitions, and two that query ends.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use workspace_engine_core::store::StoreError;
use workspace_lifecycle::PartitionId;

use crate::bootstrap;
use crate::config::KafkaConfig;
use crate::context::Plain;
use crate::polled::{self, poll};

/// Most partitions that are read at the same time: each consumer has its own threads and buffers.
const MAX_READERS: usize = 4;

/// Most events that are discarded from a consumer that was idle.
const MAX_STALE_EVENTS: usize = 10_000;

type Client = BaseConsumer<Plain>;

/// The clients that read.
pub(super) struct Readers {
    pub(super) topic: String,
    config: ClientConfig,
    /// Queries the last stable offset.
    stable: Arc<Client>,
    /// Queries the high watermark.
    all: Arc<Client>,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Client>,
    lent: usize,
}

/// The ends of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) low: u64,
    /// The last stable offset: every transaction below it is decided.
    pub(super) stable: u64,
    pub(super) high: u64,
}

impl Readers {
    pub(super) fn new(config: &KafkaConfig) -> KafkaResult<Self> {
        let group = format!("{}-changelog-readers", config.group);
        let defaults = [
            // The client requires a group for an assignment; it never joins the group.
            ("group.id", group.as_str()),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("isolation.level", "read_committed"),
            ("auto.offset.reset", "error"),
            ("check.crcs", "true"),
            ("fetch.wait.max.ms", "100"),
            ("fetch.queue.backoff.ms", "1"),
            ("max.partition.fetch.bytes", "4194304"),
            ("queued.max.messages.kbytes", "32768"),
        ];
        let ends = |level| {
            let client: Client = config
                .client("changelog-ends", &[])
                .set("isolation.level", level)
                .create_with_context(Plain)?;
            let client = Arc::new(client);
            bootstrap::register(&client, &config.brokers, &config.changelog_topic());
            Ok::<_, KafkaError>(client)
        };
        Ok(Self {
            topic: config.changelog_topic(),
            stable: ends("read_committed")?,
            all: ends("read_uncommitted")?,
            // These override the operator's properties: the copy holds what is committed.
            config: config
                .client("changelog-reader", &defaults)
                .set("isolation.level", "read_committed")
                .set("enable.partition.eof", "true")
                // The ends are the leader's: a follower may be behind, and the reader would poll it for long.
                .remove("client.rack")
                .clone(),
            pool: Mutex::default(),
        })
    }

    /// Where the events of a partition begin, and their last stable offset.
    pub(super) fn ends_of_events(
        &self,
        topic: &str,
        partition: PartitionId,
        timeout: Duration,
    ) -> Result<(u64, u64), StoreError> {
        let ends = self
            .stable
            .fetch_watermarks(topic, number(partition), timeout);
        let (low, high) = ends.map_err(|error| {
            StoreError::Unavailable(format!(
                "the brokers do not report where topic {topic} partition {partition} begins and ends: {error}"
            ))
        })?;
        let from_signed = |offset: i64| u64::try_from(offset).unwrap_or_default();
        Ok((from_signed(low), from_signed(high)))
    }

    /// How many partitions the changelog has.
    pub(super) fn partitions(&self, timeout: Duration) -> Result<u32, StoreError> {
        let metadata = self
            .stable
            .fetch_metadata(Some(&self.topic), timeout)
            .map_err(|error| self.unavailable(&error))?;
        let topic = metadata
            .topics()
            .iter()
            .find(|topic| topic.name() == self.topic);
        let partitions = topic.map_or(0, |topic| topic.partitions().len());
        if partitions == 0 {
            return Err(StoreError::Unavailable(format!(
                "topic {} does not exist, or the brokers do not list it yet",
                self.topic
            )));
        }
        Ok(u32::try_from(partitions).unwrap_or(u32::MAX))
    }

    /// The ends of a partition. It queries the high watermark first: if the stable end is not below it, everything up
    /// to it is decided.
    pub(super) fn ends(
        &self,
        partition: PartitionId,
        timeout: Duration,
    ) -> Result<Ends, StoreError> {
        let query = |client: &Client| {
            client
                .fetch_watermarks(&self.topic, number(partition), timeout)
                .map_err(|error| self.unavailable(&error))
        };
        let from_signed = |offset: i64| u64::try_from(offset).unwrap_or_default();
        let (_, high) = query(&self.all)?;
        let (low, stable) = query(&self.stable)?;
        Ok(Ends {
            low: from_signed(low),
            stable: from_signed(stable),
            high: from_signed(high),
        })
    }

    /// Lends a consumer; none while all are lent.
    pub(super) fn lend(self: &Arc<Self>) -> Result<Option<Reader>, StoreError> {
        let mut pool = self.pool.lock();
        if pool.lent >= MAX_READERS {
            return Ok(None);
        }
        let idle = pool.idle.pop();
        pool.lent += 1;
        drop(pool);
        let mut reader = Reader {
            consumer: idle,
            readers: Arc::clone(self),
        };
        if let Some(consumer) = &reader.consumer {
            // Errors from the time when it was idle.
            for _ in 0..MAX_STALE_EVENTS {
                if consumer.poll(Duration::ZERO).is_none() {
                    break;
                }
            }
        } else {
            let made = self.config.create_with_context(Plain);
            reader.consumer = Some(made.map_err(|error| self.unavailable(&error))?);
        }
        Ok(Some(reader))
    }

    pub(super) fn unavailable(&self, error: &KafkaError) -> StoreError {
        StoreError::Unavailable(format!(
            "the changelog {} cannot be read: {error}",
            self.topic
        ))
    }
}

/// A consumer that is lent.
pub(super) struct Reader {
    /// None after a failure.
    consumer: Option<Client>,
    readers: Arc<Readers>,
}

/// What a consumer returns next.
#[derive(Clone, Copy)]
pub(super) enum Found<'a> {
    Record {
        offset: u64,
        /// Epoch of the leader that wrote it; below 0 where the brokers report none.
        leader_epoch: i32,
        key: &'a [u8],
        value: Option<&'a [u8]>,
    },
    /// The consumer has read up to the stable end that its broker knows. Right after a change of leader that may be
    /// below the end that the previous leader reported.
    End { offset: u64 },
    /// Nothing yet.
    Nothing,
}

impl Reader {
    /// Reads a partition of the changelog from an offset on, and nothing else.
    pub(super) fn assign(&self, partition: PartitionId, from: u64) -> Result<(), StoreError> {
        self.assign_of(&self.readers.topic, partition, from)
    }

    /// As [`Self::assign`], for any topic.
    pub(super) fn assign_of(
        &self,
        topic: &str,
        partition: PartitionId,
        from: u64,
    ) -> Result<(), StoreError> {
        let Some(consumer) = &self.consumer else {
            return Ok(());
        };
        let from = Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
        let mut assigned = TopicPartitionList::new();
        assigned
            .add_partition_offset(topic, number(partition), from)
            .and_then(|()| consumer.assign(&assigned))
            .map_err(|error| self.readers.unavailable(&error))
    }

    /// Passes the next result to `take`. After an error this reader returns only [`Found::Nothing`].
    pub(super) fn next<T>(
        &mut self,
        partition: PartitionId,
        timeout: Duration,
        take: impl FnOnce(Found<'_>) -> T,
    ) -> Result<T, StoreError> {
        let Some(polled) = self.consumer.as_ref().and_then(|one| poll(one, timeout)) else {
            return Ok(take(Found::Nothing));
        };
        let of_it = number(partition);
        let error = match polled.found() {
            Ok(polled::Found::Record {
                partition,
                offset,
                leader_epoch,
                key,
                value,
            }) if partition == of_it => {
                return Ok(take(Found::Record {
                    offset,
                    leader_epoch,
                    key: key.unwrap_or_default(),
                    value,
                }));
            }
            Ok(polled::Found::End { partition, offset }) if partition == of_it => {
                return Ok(take(Found::End { offset }));
            }
            Ok(polled::Found::Record { .. } | polled::Found::End { .. }) => {
                return Ok(take(Found::Nothing));
            }
            // One broker of several may be unavailable for long while the leader of the partition can be read. A client
            // that has lost all brokers is replaced.
            Err(error) if is_about_connections(&error) => {
                tracing::debug!(%error, "a reader of the changelog continues");
                return Ok(take(Found::Nothing));
            }
            Err(error) => self.readers.unavailable(&error),
        };
        drop(polled);
        // A new consumer retries at once; this one would wait for its backoff.
        self.consumer = None;
        Err(error)
    }
}

fn is_about_connections(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::Resolve)
    )
}

impl Drop for Reader {
    fn drop(&mut self) {
        let consumer = self.consumer.take();
        let reusable = consumer.filter(|consumer| consumer.unassign().is_ok());
        let mut pool = self.readers.pool.lock();
        pool.lent = pool.lent.saturating_sub(1);
        pool.idle.extend(reusable);
    }
}

/// The number of a partition in Kafka's type.
pub(super) fn number(partition: PartitionId) -> i32 {
    i32::try_from(partition.0).unwrap_or(i32::MAX)
}
