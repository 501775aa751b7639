//! The event log on Kafka: on librdkafka's in-process cluster, and on a real one where it is named.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

mod appends;
mod cluster;
mod conformance;
mod dead_letters;
mod engine;
mod outages;
mod producers;
mod reads;
mod real;
