//! Whole engines on a real Apache Kafka, where topics and records are not what they should be.
//!
//! `KAFKA_BROKERS=$(scripts/kafka.sh start) cargo test -p workspace-engine-kafka --test engine -- --ignored`
//!
//! Every workspace ends ready, or in an error that names its reason and its place; none waits for ever.
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
mod place;
mod slow;

mod anew;
mod damaged_copy;
mod erased;
mod growth;
mod lost_changelog;
mod rebalance;
mod records;
mod removal;
mod sizes;
mod transactions;
