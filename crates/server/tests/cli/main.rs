//! The built program, used as its users do: commands, HTTP, signals and invalid input.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::format_collect,
    clippy::too_many_lines,
    reason = "a test fails where it is surprised"
)]

mod support;

mod commands;
mod demo;

mod absent;
mod access;
mod actions;
mod appends;
mod audit;
mod authority;
mod bad_input;
mod client_certificates;
mod connections;
#[cfg(target_os = "linux")]
mod disk;
mod evictions;
mod history;
#[cfg(target_os = "linux")]
mod hung;
mod openapi;
mod operator;
mod origin;
mod retention;
mod startup;
mod tls;
mod waits;
mod ways_out;
