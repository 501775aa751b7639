//! The engine's seams on a Kafka cluster: the event log, the store, and which partitions this process owns.

mod config;
mod topics;

mod group;
mod membership;

#[cfg_attr(not(test), expect(dead_code, reason = "for the engine over Kafka"))]
mod changelog;

pub use changelog::{ChangelogCounts, ChangelogError};
pub use config::{GroupProtocol, KafkaConfig};
pub use membership::{Assignments, MemberReport, Membership, MembershipError};
pub use topics::{TopicError, prepare};
