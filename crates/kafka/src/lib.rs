//! The engine's seams on a Kafka cluster: the event log, the store, and which partitions this process owns.

mod config;
mod topics;

mod log;

#[expect(dead_code, reason = "for the store over Kafka")]
mod group;
mod membership;

pub use config::{GroupProtocol, KafkaConfig, PropertyError, read_properties};
pub use log::{KafkaLog, KafkaLogError};
pub use membership::{Assignments, MemberReport, Membership, MembershipError};
pub use topics::{TopicError, prepare};
