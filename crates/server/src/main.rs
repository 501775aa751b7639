//! The `workspace-engine` binary: the engine with its HTTP server, and the operator's commands.

mod exit;
mod output;
mod secret;
mod values;

mod config;

mod telemetry;

mod access;
mod tls;

mod http_counters;
mod memory;

mod app;
mod lists;
mod operations;
mod problems;
mod reads;

mod routes;

mod metrics;
mod source;

mod serve;

mod client;

mod produce;

mod demo;

mod commands;

#[cfg(test)]
mod test_log;

use clap::error::ErrorKind;
use exit::Exit;
use std::{error::Error, fmt::Write, process::ExitCode};

/// One thread of the engine often frees what another allocated; the system allocator is slow at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match commands::Cli::read() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error).into(),
    };
    match cli.run() {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::error(with_sources(&error));
            error.exit().into()
        }
    }
}

/// Prints the requested help, or the error in the command line.
fn refuse(error: &clap::Error) -> Exit {
    // If the terminal is closed, there is no other place to report to.
    let _ = error.print();
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the kinds of error are many and all mean the same here"
    )]
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done,
        _ => Exit::Usage,
    }
}

/// An error followed by its sources, except those that its own text already contains.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {said}");
        }
        source = cause.source();
    }
    text
}
