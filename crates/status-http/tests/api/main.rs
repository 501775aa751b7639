//! The API as a client sees it: one request, one answer, on a clock that the tests move.

mod embedding;
mod errors;
mod golden;
mod history;
mod probes;
mod status;
mod statuses;
mod support;
