//! What only a real Apache Kafka does: transactions, compaction, removal, topics that are recreated.
//!
//! `KAFKA_BROKERS=$(scripts/kafka.sh start) cargo test -p workspace-engine-kafka --test log -- --ignored`
//! With `KAFKA_DATA`, where the broker keeps its logs (`target/kafka/1/data`), a segment is damaged as well.

mod load;
mod producers;
mod removal;
mod transactions;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use workspace_engine_kafka::{KafkaConfig, KafkaLog};

use crate::cluster::{PATIENCE, open_all, until};

/// A new topic for one test on the real cluster.
struct Real {
    config: KafkaConfig,
    partitions: u32,
    admin: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
}

impl Real {
    fn new(name: &str, partitions: u32, settings: &[(&str, &str)]) -> Self {
        let brokers = std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS");
        let config = KafkaConfig {
            topic: format!("{name}-{:08x}", fastrand::u32(..)),
            group: "engine".to_owned(),
            brokers,
            ..KafkaConfig::default()
        };
        let admin = ClientConfig::new()
            .set("bootstrap.servers", &config.brokers)
            .create()
            .expect("a client");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let real = Self {
            config,
            partitions,
            admin,
            runtime,
        };
        real.create(settings);
        real.create_topic(&real.config.dead_letter_topic(), 1, &[]);
        real
    }

    fn create(&self, settings: &[(&str, &str)]) {
        self.create_topic(&self.config.topic, self.partitions, settings);
    }

    fn create_topic(&self, name: &str, partitions: u32, settings: &[(&str, &str)]) {
        let count = i32::try_from(partitions).expect("few");
        let mut topic = NewTopic::new(name, count, TopicReplication::Fixed(-1));
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        until("the topic is created", || {
            let created = self.admin.create_topics([&topic], &AdminOptions::new());
            match &self.runtime.block_on(created).expect("answered")[0] {
                Ok(_) => Some(()),
                Err(error) => {
                    println!("{error:?}");
                    None
                }
            }
        });
    }

    fn delete(&self) {
        let topics = [self.config.topic.as_str()];
        let deleted = self.admin.delete_topics(&topics, &AdminOptions::new());
        self.runtime.block_on(deleted).expect("answered")[0]
            .as_ref()
            .expect("deleted");
    }

    fn log(&self) -> KafkaLog {
        let log = KafkaLog::open(&self.config, self.partitions).expect("opened");
        open_all(&log);
        log
    }

    fn transactional(&self, name: &str) -> BaseProducer {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.config.brokers)
            .set("transactional.id", format!("{}-{name}", self.config.topic))
            .create()
            .expect("a producer");
        producer.init_transactions(PATIENCE).expect("ready");
        producer
    }

    fn send(&self, producer: &BaseProducer, texts: &[&str]) {
        for text in texts {
            let record = BaseRecord::<str, str>::to(&self.config.topic).partition(0);
            producer
                .send(record.key("acme").payload(text))
                .map_err(|(error, _)| error)
                .expect("sent");
        }
        producer.flush(PATIENCE).expect("flushed");
    }

    fn transaction(&self, producer: &BaseProducer, texts: &[&str]) {
        producer.begin_transaction().expect("begun");
        self.send(producer, texts);
    }
}
