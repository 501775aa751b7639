//! The event log on Kafka: on librdkafka's in-process mock cluster and, in ignored tests, on a real one.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

mod support;
#[path = "../testing/mod.rs"]
mod testing;

mod appends;
mod conformance;
mod dead_letters;
mod engine;
mod outages;
mod producers;
mod reads;
mod real;
