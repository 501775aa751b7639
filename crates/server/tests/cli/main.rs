//! The built program, tried as its users do: commands, HTTP, signals and wrong input.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails where it is surprised"
)]

mod support;

mod commands;
mod demo;

mod access;
mod absent;
mod actions;
mod bad_input;
mod connections;
#[cfg(target_os = "linux")]
mod disk;
mod door;
mod openapi;
mod operator;
mod origin;
mod startup;
mod tls;
mod waits;
mod ways_out;
