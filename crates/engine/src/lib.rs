//! Loads, restores, replays, serves, saves, hands over and unloads workspaces over a log and a store.

pub mod log;
pub mod store;
