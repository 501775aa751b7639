//! What only a real Apache Kafka does: transactions, compaction, removal, topics that are recreated.
//!
//! `KAFKA_BROKERS=$(scripts/kafka.sh start) cargo test -p workspace-engine-kafka --test log -- --ignored`
//! With `KAFKA_DATA`, where the broker keeps its logs (`target/kafka/1/data`), a segment is damaged as well.

mod load;
mod producers;
mod removal;
mod transactions;

use rdkafka::producer::{BaseProducer, Producer};
use workspace_engine_kafka::KafkaLog;

use crate::support::open_all;
use crate::testing::{TestTopic, raw, send};

impl TestTopic {
    fn log(&self) -> KafkaLog {
        let log = KafkaLog::open(&self.config, self.partitions).expect("opened");
        open_all(&log);
        log
    }

    /// Sends records within a transaction, which the caller ends.
    fn transaction(&self, producer: &BaseProducer, texts: &[&str]) {
        producer.begin_transaction().expect("begun");
        let records = texts.iter().map(|text| raw("acme", text));
        send(producer, &self.config.topic, 0, records);
    }
}
