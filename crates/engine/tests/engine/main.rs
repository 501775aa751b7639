//! The engine over the embedded log and each store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and may say where it is"
)]

mod support;

mod assignments;
mod erasures;
mod evictions;
mod faults;
mod lives;
mod own_type;
mod retention;
