//! The partition of each workspace, and the deletion marks, so that one partition is listed without reading the others.
//!
//! It is read once, when the store is opened, and takes as much memory as the ids of all workspaces.

use super::layout::Condition;
use crate::store::{Deletion, Key, Mutation, StoredWorkspace};
use std::collections::{BTreeMap, BTreeSet};
use workspace_lifecycle::PartitionId;
use workspace_status::WorkspaceId;

#[derive(Debug, Default)]
pub(super) struct PartitionIndex {
    partitions: BTreeMap<WorkspaceId, PartitionId>,
    deletions: BTreeMap<WorkspaceId, Deletion>,
    /// Workspaces whose erasure is not finished: it is under way, or has failed.
    interrupted: BTreeSet<WorkspaceId>,
}

impl PartitionIndex {
    /// Follows a mutation that was written.
    pub(super) fn note(&mut self, mutation: &Mutation) {
        match mutation {
            Mutation::Workspace(workspace) => self.put(&workspace.id, workspace.partition),
            Mutation::Damaged(partition, Key::Workspace(id)) => self.put(id, *partition),
            Mutation::Removed(Key::Workspace(id)) => self.remove(id),
            Mutation::Deletion(deletion) => self.note_deletion(deletion.clone()),
            Mutation::Removed(Key::Deletion(id)) | Mutation::Damaged(_, Key::Deletion(id)) => {
                self.remove_deletion(id);
            }
            Mutation::Entry(..)
            | Mutation::History(_)
            | Mutation::Removed(Key::Entry { .. } | Key::History { .. })
            | Mutation::Damaged(_, Key::Entry { .. } | Key::History { .. }) => {}
        }
    }

    /// Follows the record of a workspace as it is stored.
    pub(super) fn read(&mut self, condition: Condition, workspace: &StoredWorkspace) {
        if condition != Condition::Whole {
            self.interrupted.insert(workspace.id.clone());
        }
        if condition.is_there() {
            self.put(&workspace.id, workspace.partition);
        } else {
            self.remove(&workspace.id);
        }
    }

    /// The workspaces of these mutations whose erasure must be finished first.
    pub(super) fn interrupted_among(&self, mutations: &[Mutation]) -> BTreeSet<WorkspaceId> {
        if self.interrupted.is_empty() {
            return BTreeSet::new();
        }
        let ids = mutations.iter().map(Mutation::workspace);
        ids.filter(|id| self.interrupted.contains(*id))
            .cloned()
            .collect()
    }

    pub(super) fn finished(&mut self, id: &WorkspaceId) {
        self.interrupted.remove(id);
    }

    /// Records the partition of a workspace.
    pub(super) fn put(&mut self, id: &WorkspaceId, partition: PartitionId) {
        // Most workspaces are known: their ids are not cloned.
        match self.partitions.get_mut(id) {
            Some(known) => *known = partition,
            None => drop(self.partitions.insert(id.clone(), partition)),
        }
    }

    pub(super) fn remove(&mut self, id: &WorkspaceId) {
        self.partitions.remove(id);
    }

    /// The partition of a workspace.
    pub(super) fn partition_of(&self, id: &WorkspaceId) -> Option<PartitionId> {
        self.partitions.get(id).copied()
    }

    /// The workspaces of a partition, ordered by id.
    pub(super) fn of(&self, partition: PartitionId) -> Vec<WorkspaceId> {
        let all = self.partitions.iter();
        let of_partition = all.filter(|(_, of)| **of == partition);
        of_partition.map(|(id, _)| id.clone()).collect()
    }

    /// Records a deletion. The partition of the workspace stays: it may belong to a later one of the same name.
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
}
