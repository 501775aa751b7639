//! The engine with its HTTP server and the operator's commands, for a workspace type of one's own.
//!
//! [`run`] makes a binary of a type: `serve` with HTTP and Kafka, configuration, help, and every command. A service that
//! needs the engine alone embeds it by [`Engine::builder`].
//!
//! ```no_run
//! use std::process::ExitCode;
//! use workspace_engine::{Change, Event, Rejection, StoredEntry, Workspace, WorkspaceId};
//!
//! /// A workspace that counts its events.
//! struct Counter {
//!     events: u64,
//!     changed: Option<StoredEntry>,
//! }
//!
//! impl Workspace for Counter {
//!     fn new(_id: &WorkspaceId) -> Self {
//!         Self { events: 0, changed: None }
//!     }
//!
//!     fn restore(&mut self, entry: StoredEntry) -> Result<(), Rejection> {
//!         self.events = serde_json::from_slice(&entry.data)?;
//!         Ok(())
//!     }
//!
//!     fn apply(&mut self, event: &Event<'_>) -> Result<(), Rejection> {
//!         self.events += 1;
//!         self.changed = Some(StoredEntry {
//!             kind: "counter".into(),
//!             id: "events".into(),
//!             data: self.events.to_string().into(),
//!             offset: event.offset(),
//!         });
//!         Ok(())
//!     }
//!
//!     fn take_changes(&mut self) -> Vec<Change> {
//!         self.changed.take().map(Change::Set).into_iter().collect()
//!     }
//!
//!     fn entries(&self) -> u64 {
//!         u64::from(self.events > 0)
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     workspace_engine::run::<Counter>()
//! }
//! ```

// In the order of a process's life: its configuration, the HTTP server with its routes, the commands.
mod exit;
mod output;
mod secret;
mod values;

mod memory_limit;

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

#[cfg(feature = "kafka")]
mod group;
#[cfg(not(feature = "kafka"))]
#[path = "group/none.rs"]
mod group;

mod client;

mod produce;

mod demo;

mod commands;

#[cfg(test)]
mod test_log;

use clap::error::ErrorKind;
use exit::Exit;
use std::{error::Error, fmt::Write, process::ExitCode};
use workspace_engine_core::WorkspaceType;

pub use workspace_engine_core as engine;
pub use workspace_engine_core::{
    Engine, Entities, EntityRef, ReadEntities, Rejection, Workspace,
    event::Event,
    lifecycle::Offset,
    store::{Change, StoredEntry},
};
#[cfg(feature = "kafka")]
pub use workspace_engine_kafka as kafka;
pub use workspace_status as status;
pub use workspace_status::WorkspaceId;

/// Runs the command line of this process with workspaces of type `W`; returns its exit code.
///
/// `demo` shows the engine with workspaces of type [`Entities`]. One thread of the engine often frees what another
/// allocated, and the system's allocator is slow at that: the shipped binary sets mimalloc as its global allocator.
pub fn run<W: Workspace>() -> ExitCode {
    run_type(WorkspaceType::of::<W>())
}

fn run_type(workspace_type: WorkspaceType) -> ExitCode {
    let cli = match commands::Cli::read() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error).into(),
    };
    match cli.run(workspace_type) {
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
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}
