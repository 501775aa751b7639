//! The partition of each workspace, and the deletions, so that one partition is listed without reading the others.
//!
//! It is read once, when the store is opened, and takes as much memory as the ids of all workspaces.

use crate::store::Deletion;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use workspace_lifecycle::PartitionId;
use workspace_status::WorkspaceId;

#[derive(Debug, Default)]
pub(super) struct Places {
    partitions: HashMap<WorkspaceId, PartitionId>,
    workspaces: HashMap<PartitionId, BTreeSet<WorkspaceId>>,
    deletions: BTreeMap<WorkspaceId, Deletion>,
}

impl Places {
    /// Records the partition of a workspace, and removes it from the previous one.
    pub(super) fn put(&mut self, id: &WorkspaceId, partition: PartitionId) {
        match self.partitions.insert(id.clone(), partition) {
            Some(before) if before == partition => return,
            Some(before) => self.leave(id, before),
            None => {}
        }
        let of_partition = self.workspaces.entry(partition).or_default();
        of_partition.insert(id.clone());
    }

    pub(super) fn remove(&mut self, id: &WorkspaceId) {
        if let Some(partition) = self.partitions.remove(id) {
            self.leave(id, partition);
        }
    }

    /// The partition of a workspace.
    pub(super) fn partition_of(&self, id: &WorkspaceId) -> Option<PartitionId> {
        self.partitions.get(id).copied()
    }

    /// The workspaces of a partition, ordered by id.
    pub(super) fn of(&self, partition: PartitionId) -> Vec<WorkspaceId> {
        let of_partition = self.workspaces.get(&partition);
        of_partition.into_iter().flatten().cloned().collect()
    }

    /// Records a deletion. The place of the workspace stays: it may belong to a later one of the same name.
    pub(super) fn note_deletion(&mut self, deletion: Deletion) {
        self.deletions.insert(deletion.id.clone(), deletion);
    }

    pub(super) fn remove_deletion(&mut self, id: &WorkspaceId) {
        self.deletions.remove(id);
    }

    pub(super) fn deletion(&self, id: &WorkspaceId) -> Option<Deletion> {
        self.deletions.get(id).cloned()
    }

    /// The deletions of a partition, ordered by id.
    pub(super) fn deletions_of(&self, partition: PartitionId) -> Vec<Deletion> {
        let deletions = self.deletions.values();
        deletions
            .filter(|deletion| deletion.partition == partition)
            .cloned()
            .collect()
    }

    fn leave(&mut self, id: &WorkspaceId, partition: PartitionId) {
        if let Some(of_partition) = self.workspaces.get_mut(&partition) {
            of_partition.remove(id);
        }
    }
}
