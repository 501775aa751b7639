//! How the engine works: its limits and intervals.

use std::time::Duration;

use workspace_lifecycle::{AdmissionLimits, Limits};

/// How the engine works.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Name of this process, shown as the owner of its workspaces.
    pub owner: String,
    /// Consumer group that gives this process its partitions, shown in the metadata of its workspaces.
    pub group: Option<String>,
    /// Loads at once and urgent places.
    pub admission: AdmissionLimits,
    /// When partitions save, wait and retry.
    pub limits: Limits,
    /// Most records of one fetch.
    pub fetch_records: usize,
    /// Most bytes of one fetch.
    pub fetch_bytes: usize,
    /// A load that makes no progress for this long is abandoned and retried.
    pub load_timeout: Duration,
    /// How long an operator waits for the end of a command at most.
    pub command_timeout: Duration,
    /// Between two syncs of the store, after which the log may forget.
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
            command_timeout: Duration::from_secs(30),
            trim_every: Duration::from_secs(10),
        }
    }
}
