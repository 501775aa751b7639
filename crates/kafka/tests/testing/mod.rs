//! What both test programs share: a topic and a group for one test on a real cluster, what other clients do to them,
//! and waits with a deadline.
#![allow(dead_code, reason = "each of the test programs uses a part")]

use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset as At, TopicPartitionList};
use tokio::runtime::Runtime;
use workspace_engine_core::routing::partition_of_key;
use workspace_engine_kafka::{KafkaConfig, prepare};

/// Longest wait for anything that must happen; the tests share a machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// Key and value of a record that another application writes.
pub(crate) type Raw = (Option<Vec<u8>>, Option<Vec<u8>>);

/// A topic and a group for one test.
pub(crate) struct TestTopic {
    pub(crate) config: KafkaConfig,
    pub(crate) partitions: u32,
    admin: AdminClient<DefaultClientContext>,
    producer: BaseProducer,
    runtime: Runtime,
}

impl TestTopic {
    /// An empty topic, and the engine's own topics.
    pub(crate) fn new(name: &str, partitions: u32, settings: &[(&str, &str)]) -> Self {
        let brokers = std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS names the brokers");
        let config = KafkaConfig {
            topic: format!("{name}-{:08x}", fastrand::u32(..)),
            session_timeout: Duration::from_secs(6),
            brokers,
            ..KafkaConfig::default()
        };
        let config = KafkaConfig {
            group: format!("engine-{}", config.topic),
            ..config
        };
        let admin = ClientConfig::new()
            .set("bootstrap.servers", &config.brokers)
            .create()
            .expect("a client");
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &config.brokers)
            .set("message.max.bytes", "20000000")
            .set("enable.idempotence", "true")
            .set("linger.ms", "1")
            .create()
            .expect("a producer");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let topic = Self {
            config,
            partitions,
            admin,
            producer,
            runtime,
        };
        topic.create(settings);
        until("the engine's topics exist", || prepare(&topic.config).ok());
        topic
    }

    pub(crate) fn create(&self, settings: &[(&str, &str)]) {
        let count = i32::try_from(self.partitions).expect("few");
        let mut topic = NewTopic::new(&self.config.topic, count, TopicReplication::Fixed(-1));
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        until("the topic is created", || {
            let created = self.admin.create_topics([&topic], &AdminOptions::new());
            match &self.runtime.block_on(created).expect("answered")[0] {
                Ok(_) => Some(()),
                // A topic of this name is still being deleted.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => None,
                Err(error) => panic!("{error:?}"),
            }
        });
    }

    pub(crate) fn delete(&self) {
        self.delete_topic(&self.config.topic);
    }

    /// Deletes the changelog topic, and waits until the brokers no longer list it.
    pub(crate) fn delete_changelog(&self) {
        let topic = self.config.changelog_topic();
        self.delete_topic(&topic);
        until("the changelog is deleted", || {
            let client = self.producer.client();
            let metadata = client.fetch_metadata(None, PATIENCE).expect("answered");
            let mut topics = metadata.topics().iter();
            topics.all(|found| found.name() != topic).then_some(())
        });
    }

    fn delete_topic(&self, topic: &str) {
        let deleted = self.admin.delete_topics(&[topic], &AdminOptions::new());
        self.runtime.block_on(deleted).expect("answered")[0]
            .as_ref()
            .expect("deleted");
    }

    /// Commits an offset of the engine's group, as another application does.
    pub(crate) fn commit(&self, partition: u32, offset: i64, metadata: &str) {
        let number = i32::try_from(partition).expect("small");
        let mut offsets = TopicPartitionList::new();
        let mut element = offsets.add_partition(&self.config.topic, number);
        element.set_offset(At::Offset(offset)).expect("an offset");
        element.set_metadata(metadata);
        let group = self.group();
        until("the offset is committed", || {
            group.commit(&offsets, CommitMode::Sync).ok()
        });
    }

    /// Deletes the offsets of the engine's group, which must have no member.
    pub(crate) fn delete_offsets(&self) {
        until("the group is deleted", || {
            let groups = [self.config.group.as_str()];
            let deleted = self.admin.delete_groups(&groups, &AdminOptions::new());
            self.runtime.block_on(deleted).expect("answered")[0]
                .is_ok()
                .then_some(())
        });
    }

    /// A client that queries what the engine's group has committed, without being a member.
    fn group(&self) -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", &self.config.brokers)
            .set("group.id", &self.config.group)
            .create()
            .expect("a client")
    }

    /// Raises the number of partitions to `partitions`.
    pub(crate) fn grow(&self, partitions: usize) {
        let more = NewPartitions::new(&self.config.topic, partitions);
        let grown = self.admin.create_partitions([&more], &AdminOptions::new());
        self.runtime.block_on(grown).expect("answered")[0]
            .as_ref()
            .expect("grown");
    }

    /// Changes settings of the topic.
    pub(crate) fn configure(&self, settings: &[(&str, &str)]) {
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(&self.config.topic));
        for (name, value) in settings {
            change = change.set(name, value);
        }
        let changed = self.admin.alter_configs([&change], &AdminOptions::new());
        self.runtime.block_on(changed).expect("answered")[0]
            .as_ref()
            .expect("changed");
    }

    /// Removes the records of a partition below an offset.
    pub(crate) fn remove_below(&self, partition: u32, offset: i64) {
        let number = i32::try_from(partition).expect("small");
        let mut before = TopicPartitionList::new();
        before
            .add_partition_offset(&self.config.topic, number, At::Offset(offset))
            .expect("an offset");
        let removed = self.admin.delete_records(&before, &AdminOptions::new());
        self.runtime.block_on(removed).expect("removed");
    }

    /// Produces records to a given partition, as another application does.
    pub(crate) fn produce(&self, partition: u32, records: impl IntoIterator<Item = Raw>) {
        send(&self.producer, &self.config.topic, partition, records);
    }

    pub(crate) fn transactional(&self, name: &str) -> BaseProducer {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.config.brokers)
            .set("transactional.id", format!("{}-{name}", self.config.topic))
            .create()
            .expect("a producer");
        producer.init_transactions(PATIENCE).expect("ready");
        producer
    }

    /// A consumer of committed records at the beginning of a partition, which reports its end.
    pub(crate) fn consumer(&self, partition: u32) -> BaseConsumer {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.config.brokers)
            .set("group.id", format!("{}-observer", self.config.group))
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .create()
            .expect("a consumer");
        let number = i32::try_from(partition).expect("small");
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(&self.config.topic, number, At::Beginning)
            .expect("an offset");
        consumer.assign(&from).expect("assigned");
        consumer
    }

    /// What the engine's group has committed for a partition.
    pub(crate) fn committed(&self, partition: u32) -> At {
        let group = self.group();
        let number = i32::try_from(partition).expect("small");
        let mut queried = TopicPartitionList::new();
        queried.add_partition(&self.config.topic, number);
        let reported = group
            .committed_offsets(queried, PATIENCE)
            .expect("answered");
        reported.elements()[0].offset()
    }

    /// The partition of a workspace.
    pub(crate) fn home(&self, workspace: &str) -> u32 {
        partition_of_key(workspace.as_bytes(), self.partitions).0
    }

    /// A workspace name that belongs to the partition.
    pub(crate) fn name_on(&self, partition: u32, prefix: &str) -> String {
        (0..10_000)
            .map(|number| format!("{prefix}{number}"))
            .find(|name| self.home(name) == partition)
            .expect("there is one for each partition")
    }
}

/// Sends records and waits until they are acknowledged.
pub(crate) fn send(
    producer: &BaseProducer,
    topic: &str,
    partition: u32,
    records: impl IntoIterator<Item = Raw>,
) {
    let number = i32::try_from(partition).expect("small");
    for (key, value) in records {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(number);
        record.key = key.as_deref();
        record.payload = value.as_deref();
        while let Err((error, back)) = producer.send(record) {
            let full = RDKafkaErrorCode::QueueFull;
            assert_eq!(error.rdkafka_error_code(), Some(full), "{error}");
            producer.poll(Duration::from_millis(10));
            record = back;
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(PATIENCE).expect("acknowledged");
    assert_eq!(producer.in_flight_count(), 0);
}

/// Some events of a workspace, each about its own entity.
pub(crate) fn events(workspace: &str, numbers: std::ops::Range<u32>) -> Vec<Raw> {
    numbers.map(|number| event(workspace, number)).collect()
}

pub(crate) fn event(workspace: &str, number: u32) -> Raw {
    raw(workspace, &json(workspace, number))
}

pub(crate) fn json(workspace: &str, number: u32) -> String {
    format!(
        r#"{{"eventType":"resource.created","workspaceId":"{workspace}","timestamp":1,"data":{{"id":"e{number}","n":{number}}}}}"#
    )
}

pub(crate) fn raw(key: &str, value: &str) -> Raw {
    (
        Some(key.as_bytes().to_vec()),
        Some(value.as_bytes().to_vec()),
    )
}

/// Repeats `query` until it returns a value; panics after [`PATIENCE`].
pub(crate) fn until<T>(what: &str, mut query: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = query() {
            return answer;
        }
        assert!(Instant::now() < deadline, "in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
