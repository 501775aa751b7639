//! What the engine needs of a Kafka cluster: the event log, the store, and which partitions this process owns.

#[expect(
    unsafe_code,
    reason = "functions of librdkafka that rdkafka does not wrap"
)]
mod bootstrap;
mod client_errors;
mod clock;
mod config;
mod context;
mod copy_source;
mod last_reads;
mod local_copy;
#[expect(
    unsafe_code,
    reason = "functions of librdkafka that rdkafka does not wrap"
)]
mod polled;
mod properties;
#[expect(
    unsafe_code,
    reason = "functions of librdkafka that rdkafka does not wrap"
)]
mod topic_id;
mod topics;

mod log;

mod coordinator;
#[expect(
    unsafe_code,
    reason = "a function of librdkafka that rdkafka does not wrap"
)]
mod generation;
mod group;
mod membership;
mod owners;

mod changelog;

mod cluster;

mod builder;

pub use builder::{KafkaBuilder, KafkaEngine, KafkaStartError, OnKafka};
pub use changelog::{ChangelogCounts, ChangelogError, ChangelogStore};
pub use cluster::{Cluster, ClusterError};
pub use config::{AcceptLoss, GroupProtocol, KafkaConfig};
pub use local_copy::LocalCopy;
pub use log::{KafkaLog, KafkaLogError};
pub use membership::{Assignments, MemberFailure, MemberReport, Membership, MembershipError};
pub use properties::{Properties, PropertyError, ReservedProperty};
pub use topics::{TopicError, prepare};
