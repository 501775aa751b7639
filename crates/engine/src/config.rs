//! The engine's configuration: limits and intervals.

use std::time::Duration;

use workspace_lifecycle::{AdmissionLimits, Limits};

/// Most concurrent loads.
pub const MAX_PERMITS: usize = 1024;

/// The engine's configuration.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Name of this process, shown as the owner of its workspaces.
    pub owner: String,
    /// Consumer group that assigns partitions to this process, shown in the metadata of its workspaces.
    pub group: Option<String>,
    /// Limits of concurrent loads and of the urgent queue.
    pub admission: AdmissionLimits,
    /// When partitions save, wait and retry.
    pub limits: Limits,
    /// Most records of one fetch.
    pub fetch_records: usize,
    /// Most bytes of one fetch.
    pub fetch_bytes: usize,
    /// A load that makes no progress for this long is abandoned and retried.
    pub load_timeout: Duration,
    /// Most memory that the workspaces may take, in bytes, as their types estimate it ([`Workspace::memory_bytes`]); above
    /// it those that were read or written longest ago are evicted. `None`: no limit.
    ///
    /// [`Workspace::memory_bytes`]: crate::Workspace::memory_bytes
    pub memory_limit: Option<u64>,
    /// Longest wait of an operator for the end of a command.
    pub command_timeout: Duration,
    /// Time between two syncs of the store; after each the log may remove what the store holds.
    pub trim_every: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            owner: "engine".to_owned(),
            group: None,
            admission: AdmissionLimits::default(),
            limits: Limits::default(),
            fetch_records: 4096,
            fetch_bytes: 4 * 1024 * 1024,
            load_timeout: Duration::from_mins(5),
            memory_limit: None,
            command_timeout: Duration::from_secs(30),
            trim_every: Duration::from_secs(10),
        }
    }
}
