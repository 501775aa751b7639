//! Whole engines on a real Apache Kafka, with topics and records that are not as they should be.
//!
//! `KAFKA_BROKERS=$(scripts/kafka.sh start) cargo test -p workspace-engine-kafka --test engine -- --ignored`
//!
//! Every workspace ends ready, or in an error that names its reason and its position; none waits forever.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

mod node;
mod slow;
#[path = "../testing/mod.rs"]
mod testing;

mod damaged_copy;
mod deletion;
mod growth;
mod lost_changelog;
mod rebalance;
mod records;
mod recreated_topic;
mod removal;
mod sizes;
mod transactions;
