//! What the engine answers about itself and its workspaces.

use std::sync::Arc;
use std::time::Duration;

use workspace_lifecycle::{Offset, PartitionId, Residence};
use workspace_status::{Absence, Check, Tracker, WorkspaceId};

use super::Engine;
use crate::absent::{AbsentWorkspace, AbsentWorkspaces};
use crate::counters::EngineCounters;
use crate::driver;
use crate::event::Event;
use crate::loaded::LoadedWorkspace;
use crate::log::{Appended, EventLog};
use crate::misrouted::Misrouted;
use crate::report::{Health, PartitionReport};
use crate::store::{HistoryCursor, HistoryRecord, StoreError, StoredWorkspace};
use crate::workspace::Rejection;

/// Time between two checks of a waiting reader whether the partition is assigned.
const ASSIGNMENT_LOOK: Duration = Duration::from_millis(100);

impl<W: ?Sized> Engine<W> {
    /// The workspaces that are known and not in memory.
    pub fn absent(&self) -> &AbsentWorkspaces {
        &self.shared.absent
    }

    /// Why a workspace is not in memory here.
    pub fn absence(&self, absent: &AbsentWorkspace) -> Absence {
        match self.shared.assignment(absent.partition) {
            Some(assignment) if assignment.is_listed() => match absent.residence {
                Residence::Unloaded => Absence::Unloaded,
                Residence::Evicted => Absence::Evicted,
                Residence::Memory => Absence::Opening,
            },
            Some(_) => Absence::Opening,
            None if self.shared.is_lost(absent.partition) => Absence::OwnerLost,
            None => Absence::OwnedElsewhere,
        }
    }

    /// Whether every workspace that the store holds of the assigned partitions is known.
    pub fn is_listed(&self) -> bool {
        self.shared
            .assignments()
            .iter()
            .all(|assignment| assignment.is_listed())
    }

    /// The last record of a workspace that this process read on a wrong partition.
    pub fn misrouted(&self, id: &WorkspaceId) -> Option<Misrouted> {
        self.shared.misrouted.of(id)
    }

    /// The partition of a workspace, assigned to this process or not.
    pub fn partition_of(&self, id: &WorkspaceId) -> PartitionId {
        self.shared.log.partition_of(id)
    }

    /// Whether this process owns a partition.
    pub fn is_assigned(&self, partition: PartitionId) -> bool {
        self.shared.assignment(partition).is_some()
    }

    /// What log and store still have to do before an assigned partition can be served; `None` when it is served.
    pub fn opening(&self, partition: PartitionId) -> Option<String> {
        self.shared.assignment(partition)?.opening()
    }

    /// The status of every workspace.
    pub fn tracker(&self) -> &Tracker {
        &self.shared.tracker
    }

    /// The log, for appends and dead letters.
    ///
    /// An append to it is neither checked nor shown. Call [`Engine::check`] for each event before: one that no workspace
    /// can apply parks its workspace. Call [`Engine::announce`] after: a new workspace has no status until its partition
    /// has read its first event. `POST /api/v1/events` of the server does both.
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.shared.log
    }

    /// The consumer group that assigns partitions to this process, if there is one.
    pub fn group(&self) -> Option<&str> {
        self.shared.config.group.as_deref()
    }

    /// The engine's counters.
    pub fn counters(&self) -> &EngineCounters {
        &self.shared.counters
    }

    /// Bytes that the workspaces take, as their types estimate it, and their limit, if there is one.
    pub fn memory(&self) -> (u64, Option<u64>) {
        (self.shared.memory.used(), self.shared.memory.limit())
    }

    /// A workspace in memory that has been ready since it was loaded, or is parked at an event that it cannot apply.
    pub fn workspace(&self, id: &WorkspaceId) -> Option<LoadedWorkspace<W>> {
        let resident = self.shared.workspaces.read().get(id).cloned();
        resident.map(LoadedWorkspace::new)
    }

    /// What the store holds of a workspace, in memory or not. Blocks on the store.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub fn stored(&self, id: &WorkspaceId) -> Result<Option<StoredWorkspace>, StoreError> {
        self.shared.store.workspace(id)
    }

    /// At most `limit` transitions of a workspace, oldest first, after a cursor. Blocks on the store.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub fn history(
        &self,
        id: &WorkspaceId,
        after: Option<HistoryCursor>,
        limit: usize,
    ) -> Result<Vec<HistoryRecord>, StoreError> {
        self.shared.store.history(id, after, limit)
    }

    /// Whether a workspace could ever apply an event: the check before an event is appended.
    ///
    /// # Errors
    /// [`Rejection`] with the reason why no workspace could.
    pub fn check(&self, event: &Event<'_>) -> Result<(), Rejection> {
        driver::check(self.shared.workspace_type, event)
    }

    /// Shows workspaces whose events were appended before their partitions have read them: each one that has no status
    /// here and is not in the store is `initializing` from now on. Only for partitions that this process owns. Blocks
    /// on the store.
    pub fn announce(&self, ids: &[WorkspaceId], appended: &Appended) {
        for id in ids {
            let partition = self.partition_of(id);
            let range = appended
                .partitions
                .iter()
                .find(|range| range.partition == partition);
            if let Some(range) = range {
                self.announce_one(id, partition, range.last_offset);
            }
        }
    }

    fn announce_one(&self, id: &WorkspaceId, partition: PartitionId, offset: Offset) {
        let shared = &self.shared;
        let Some(assignment) = shared.assignment(partition) else {
            return;
        };
        if shared.tracker.get(id).is_some() || shared.absent.get(id).is_some() {
            return;
        }
        // While a partition is being opened, it is not known yet what the store has of it.
        if assignment.opening().is_none() && !matches!(shared.store.workspace(id), Ok(None)) {
            return;
        }
        let mut announced = assignment.announced();
        let discovered = assignment.view().position.discovered;
        announced.announce(&shared.tracker, id, offset, discovered);
    }

    /// Whether a workspace has a status only because its first event was acknowledged: its partition has not read it
    /// yet.
    pub fn is_announced(&self, id: &WorkspaceId) -> bool {
        self.shared
            .assignment(self.partition_of(id))
            .is_some_and(|assignment| assignment.announced().contains(id))
    }

    /// Waits until the workspace is served from memory and has applied `offset`, and returns it.
    ///
    /// It requests no load, returns no error and has no deadline: it waits on while the workspace is unloaded, parked
    /// before `offset` or owned by another process, and while the engine is shutting down. Limit it with
    /// `tokio::time::timeout`; after a timeout [`Engine::tracker`] has the status. Dropping the future ends the wait and
    /// nothing else.
    pub async fn wait_applied(&self, id: &WorkspaceId, offset: Offset) -> LoadedWorkspace<W> {
        let partition = self.partition_of(id);
        loop {
            let mut passes = self
                .shared
                .assignment(partition)
                .map(|assignment| assignment.passes());
            if let Some(workspace) = self.workspace(id)
                && workspace.applied().next_offset > offset
            {
                return workspace;
            }
            match &mut passes {
                // An assignment that ends also changes it.
                Some(passes) => drop(passes.changed().await),
                None => tokio::time::sleep(ASSIGNMENT_LOOK).await,
            }
        }
    }

    /// How many workspaces wait for a permit before this one; `None` when it does not wait.
    pub fn queue_position(&self, id: &WorkspaceId) -> Option<usize> {
        self.shared.permits.position(id)
    }

    /// Loads under way, and how many wait for a permit.
    pub fn admission(&self) -> (usize, usize) {
        self.shared.permits.counts()
    }

    /// Loads that were abandoned because they made no progress, and have not returned.
    pub fn hung_loads(&self) -> usize {
        self.shared.running_loads.hung()
    }

    /// The position and state of every assigned partition.
    pub fn partitions(&self) -> Vec<PartitionReport> {
        let shared = &self.shared;
        let assignments = shared.assignments();
        assignments
            .iter()
            .map(|assignment| {
                let (partition, view) = (assignment.id(), assignment.view());
                let high_watermark = shared.log.high_watermark(partition);
                PartitionReport {
                    partition,
                    position: view.position.position,
                    discovered: view.position.discovered,
                    target: view.position.target,
                    high_watermark,
                    low_watermark: shared.log.low_watermark(partition),
                    lag: high_watermark.since(view.position.position),
                    rate_per_second: view.rate_per_second,
                    workspaces: view.position.workspaces,
                    owner: shared.config.owner.clone(),
                    held_by: view.held_by,
                    opening: assignment.opening(),
                    notice: shared.store.ownership().notice(partition),
                }
            })
            .collect()
    }

    /// Whether the loops advance, and whether the log and the store answer.
    pub fn health(&self) -> Health {
        let shared = &self.shared;
        let now = shared.now();
        let assignments = shared.assignments();
        let stuck: Vec<String> = assignments
            .iter()
            .filter(|assignment| assignment.is_stuck(now))
            .map(|assignment| assignment.id().to_string())
            .collect();
        let loops = Check::new(
            "loops",
            stuck
                .is_empty()
                .then_some(())
                .ok_or_else(|| format!("partitions {} do not advance", stuck.join(", "))),
        );
        let unreadable = shared
            .failures
            .of_log()
            .map(|(partition, reason)| format!("partition {partition} cannot be read: {reason}"));
        let log = Check::new("log", unreadable.map_or_else(|| shared.log.health(), Err));
        let passes_without = |failure: Option<String>| failure.map_or(Ok(()), Err);
        let store = Check::new("store", passes_without(shared.failures.of_store()));
        let log_lives = Check::new("log", passes_without(shared.log.needs_restart()));
        let store_lives = Check::new("store", passes_without(shared.store.needs_restart()));
        Health {
            alive: vec![loops, log_lives, store_lives],
            ready: vec![log, store],
        }
    }
}
