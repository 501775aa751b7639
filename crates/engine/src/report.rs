//! The engine's reports about itself: partitions and health.

use std::time::SystemTime;

use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{Check, WorkspaceId};

/// Position and state of a partition.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionReport {
    /// Which one.
    pub partition: PartitionId,
    /// First offset that some workspace in memory has not passed.
    pub position: Offset,
    /// Every workspace with an event below this is known.
    pub discovered: Offset,
    /// End of the replay under way.
    pub target: Option<Offset>,
    /// End of the partition.
    pub high_watermark: Offset,
    /// First offset that is still in the log.
    pub low_watermark: Offset,
    /// Positions between the position and the end.
    pub lag: u64,
    /// Positions passed per second, measured over about the last second.
    pub rate_per_second: f64,
    /// Number of known workspaces.
    pub workspaces: usize,
    /// The process that owns it.
    pub owner: String,
    /// The workspace that holds retention back the most; `None` if only saves are due.
    pub held_by: Option<HeldBy>,
    /// What log and store still have to do before it can be served; `None` when it is served.
    pub opening: Option<String>,
    /// What was missing when it was opened, and what was done about it; `None` if nothing was.
    pub notice: Option<String>,
}

/// A workspace whose events retention must not remove: it has not applied them, or may not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBy {
    /// Which one.
    pub workspace_id: WorkspaceId,
    /// First offset that the log must keep for it.
    pub offset: Offset,
    /// When this workspace became the one that holds retention back.
    pub since: SystemTime,
}

/// Whether the engine is alive and can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Checks that must pass, or the process should be restarted.
    pub alive: Vec<Check>,
    /// Checks that must pass for the process to get requests.
    pub ready: Vec<Check>,
}
