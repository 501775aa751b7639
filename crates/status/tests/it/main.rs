//! What a tracker promises, from outside.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unchecked_time_subtraction,
    clippy::unwrap_used,
    reason = "what tests call is not taken for a test by clippy"
)]

mod absent;
mod eta;
mod feed;
mod lists;
mod properties;
mod rules;
mod waits;
mod wakers;
