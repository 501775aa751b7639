//! What the engine tells of itself: partitions and health.

use std::time::SystemTime;

use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

/// Where a partition stands.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionReport {
    /// Which one.
    pub partition: PartitionId,
    /// First offset that some workspace in memory has not seen.
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
    /// Positions passed in a second, over the last second or so.
    pub rate_per_second: f64,
    /// Workspaces known.
    pub workspaces: usize,
    /// Who owns it.
    pub owner: String,
    /// The workspace that holds retention back the most; none where only saves are due.
    pub held_by: Option<HeldBy>,
    /// What log and store still do before it can be served; none when it is.
    pub opening: Option<String>,
    /// What was missing when it was opened, and what was done about it; none where nothing was.
    pub notice: Option<String>,
}

/// A workspace whose events retention must not remove: it has not applied them, or may not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBy {
    /// Which one.
    pub workspace_id: WorkspaceId,
    /// First offset that the log must keep for it.
    pub offset: Offset,
    /// Since when this workspace has been the one.
    pub since: SystemTime,
}

/// Whether the engine is alive and can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What must hold for the process to be left running.
    pub alive: Vec<Check>,
    /// What must hold for it to be sent requests.
    pub ready: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Fine, or what is wrong.
    pub outcome: Result<(), String>,
}

impl Check {
    pub(crate) fn new(name: &'static str, outcome: Result<(), String>) -> Self {
        Self { name, outcome }
    }
}
