//! The engine's seams on a Kafka cluster: the event log, the store, and which partitions this process owns.

mod config;

mod group;

pub use config::{GroupProtocol, KafkaConfig};
