//! Loads, restores, replays, serves, saves, hands over and unloads workspaces over a log and a store.

pub mod counters;
pub mod disk;
mod driver;
pub mod engine;
pub mod entities;
pub mod event;
pub mod loaded;
pub mod log;
pub mod populate;
pub mod report;
pub mod routing;
pub mod store;
pub mod workspace;

pub use engine::{ActionError, Engine, EngineConfig, ShutdownReport, StartError};
pub use entities::Entities;
pub use workspace::{Rejection, Workspace};
pub use workspace_lifecycle as lifecycle;
