//! The API as a client sees it: one request, one answer, on a clock that the tests move.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what the tests share fails the test that uses it"
)]

mod embedding;
mod errors;
mod failing;
mod golden;
mod history;
mod probes;
mod status;
mod statuses;
mod support;
