//! Loads, restores, replays, serves, saves, hands over and unloads workspaces over a log and a store.

// In the order of a workspace's life: its events, the disk, its state in memory, the threads that move it.
pub mod event;
pub mod routing;

pub mod disk;
pub mod log;
pub mod store;

pub mod workspace;

pub mod entities;
pub mod loaded;
pub mod populate;

pub mod absent;
pub mod config;
pub mod counters;
pub mod misrouted;
pub mod report;

mod announced;
mod assignment;
mod clock;
mod failures;
mod history_passes;
mod jobs;
mod memory;
mod message;
mod panics;
mod permits;
mod running_loads;
mod shared;
mod start_error;

mod driver;
mod engine;
mod threads;

mod builder;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use builder::{EngineBuilder, StoreKind};
pub use config::EngineConfig;
pub use engine::{Engine, ShutdownReport};
pub use entities::Entities;
pub use message::ActionError;
pub use start_error::StartError;
pub use workspace::{EntityRef, ReadEntities, Rejection, Workspace, WorkspaceType};
pub use workspace_lifecycle as lifecycle;
