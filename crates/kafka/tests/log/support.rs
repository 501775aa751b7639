//! A mock cluster in this process, and producers other than the engine's.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DefaultProducerContext};
use workspace_engine_core::log::conformance::{EVERYTHING, append};
use workspace_engine_core::log::{Append, Appended, EventLog, ReadError, ReadLimit, Record};
use workspace_engine_kafka::{KafkaConfig, KafkaLog};
use workspace_lifecycle::{Offset, PartitionId};

use crate::testing::{Raw, send, until};

pub(crate) const TOPIC: &str = "events";
pub(crate) const P0: PartitionId = PartitionId(0);

/// Attempts at something that should be quick, because the machine may be busy.
const ATTEMPTS: usize = 10;

pub(crate) struct Mock {
    pub(crate) cluster: MockCluster<'static, DefaultProducerContext>,
    pub(crate) config: KafkaConfig,
    pub(crate) partitions: u32,
}

impl Mock {
    pub(crate) fn new(partitions: u32) -> Self {
        Self::of_brokers(1, partitions)
    }

    pub(crate) fn of_brokers(brokers: i32, partitions: u32) -> Self {
        let cluster = MockCluster::new(brokers).expect("a cluster");
        let config = KafkaConfig {
            brokers: cluster.bootstrap_servers(),
            topic: TOPIC.to_owned(),
            group: "engine".to_owned(),
            ..KafkaConfig::default()
        };
        let count = i32::try_from(partitions).expect("few");
        cluster.create_topic(TOPIC, count, 1).expect("a topic");
        cluster
            .create_topic(&config.dead_letter_topic(), 1, 1)
            .expect("a topic");
        Self {
            cluster,
            config,
            partitions,
        }
    }

    /// A log with every partition open.
    pub(crate) fn log(&self) -> KafkaLog {
        let log = KafkaLog::open(&self.config, self.partitions).expect("opened");
        open_all(&log);
        log
    }
}

pub(crate) fn open_all(log: &KafkaLog) {
    for partition in (0..log.partitions()).map(PartitionId) {
        until("the partition is open", || log.open(partition).ok());
    }
}

/// Requires an attempt that takes less than `limit`. A slower one is retried, because the machine may have been busy.
pub(crate) fn quick<T>(limit: Duration, what: &str, mut attempt: impl FnMut() -> T) -> T {
    let mut took = Vec::new();
    for _ in 0..ATTEMPTS {
        let began = Instant::now();
        let done = attempt();
        took.push(began.elapsed());
        if took.last() < Some(&limit) {
            return done;
        }
    }
    panic!("{what} never took less than {limit:?}: {took:?}");
}

/// Appends, with as many retries as needed: if the cluster kept records that it did not acknowledge in time, the
/// request is a repeat.
pub(crate) fn insist_on(log: &KafkaLog, request: impl Fn() -> Append) -> Appended {
    until("it is appended", || {
        append(log, request())
            .inspect_err(|error| println!("{error}"))
            .ok()
    })
}

/// Produces records as another application does.
pub(crate) fn produce(
    config: &KafkaConfig,
    partition: PartitionId,
    records: impl IntoIterator<Item = Raw>,
) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &config.brokers)
        .set("message.max.bytes", "20000000")
        .set("linger.ms", "1")
        .create()
        .expect("a producer");
    send(&producer, &config.topic, partition.0, records);
}

/// Produces records with the numbers of a range as values.
pub(crate) fn produce_numbers(
    config: &KafkaConfig,
    partition: PartitionId,
    numbers: std::ops::Range<u64>,
) {
    let record = |number: u64| {
        (
            Some(b"acme".to_vec()),
            Some(number.to_string().into_bytes()),
        )
    };
    produce(config, partition, numbers.map(record));
}

/// Reads until `end`; an empty batch is retried.
pub(crate) fn read_to(
    log: &KafkaLog,
    partition: PartitionId,
    from: Offset,
    end: Offset,
) -> Vec<Record> {
    let mut records = Vec::new();
    let mut next = from;
    until("the end is reached", || {
        let limit = ReadLimit {
            until: end,
            ..EVERYTHING
        };
        match log.read(partition, next, limit) {
            Ok(batch) => {
                records.extend(batch.records);
                next = batch.next_offset;
            }
            Err(ReadError::Unavailable(error_text)) => println!("{error_text}"),
            Err(error) => panic!("{error}"),
        }
        (next >= end).then_some(())
    });
    records
}

pub(crate) fn offsets(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.offset.0).collect()
}

pub(crate) fn text(record: &Record) -> &str {
    std::str::from_utf8(record.value().expect("a value")).expect("text")
}
