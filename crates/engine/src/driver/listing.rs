//! Lists what the store holds of a partition: its workspaces, and the deletion marks of former ones.

use workspace_lifecycle::{Deleted, Input, Known, Listing, Offset};
use workspace_status::Epoch;

use super::Driver;
use crate::failures::StoreRequest;
use crate::jobs::EraseJob;
use crate::log::DeletedDeadLetters;
use crate::store::{Deletion, StoreError, StoredWorkspace};

/// Most deletion marks that are removed when a partition is listed: each is a write.
const MAX_PURGES: usize = 100;

impl Driver {
    pub(super) fn list(&mut self) -> Input {
        let listed = self.read_list();
        let answer = listed.as_ref().map(|_| ()).map_err(ToString::to_string);
        let is_new = self
            .shared
            .failures
            .store_answered(StoreRequest::Partition(self.id), answer);
        match listed {
            Ok(listing) => {
                self.assignment.set_listed();
                Input::Listed(listing)
            }
            Err(error) => {
                if is_new {
                    tracing::error!(partition = %self.id, %error, "the store cannot list the partition; the engine retries");
                }
                Input::ListFailed {
                    reason: error.to_string(),
                }
            }
        }
    }

    fn read_list(&self) -> Result<Listing, StoreError> {
        let shared = &self.shared;
        // Read first: a workspace that another owner claims in between is then in the list.
        let committed = shared.store.committed(self.id)?;
        let workspaces = shared.store.workspaces(self.id)?;
        let deletions = shared.store.deletions(self.id)?;
        let now = shared.tracker.clock().wall();
        shared
            .absent
            .listed(self.id, &workspaces, &*shared.store, now);
        let high_watermark = shared.log.high_watermark(self.id);
        let low_watermark = shared.log.low_watermark(self.id);
        Ok(Listing {
            deleted: self.deleted(&workspaces, deletions, low_watermark),
            workspaces: workspaces
                .into_iter()
                .map(|stored| Known {
                    id: stored.id,
                    epoch: stored.epoch,
                    next_offset: stored.next_offset,
                    first_offset: stored.first_offset,
                    residence: stored.residence,
                    // Epoch 0, which no load has, marks a workspace whose record cannot be read.
                    damaged: stored.epoch == Epoch::new(0),
                })
                .collect(),
            // A committed offset beyond the end belongs to another log of the same name: discovery starts again.
            committed: if committed > high_watermark {
                Offset::ZERO
            } else {
                committed
            },
            low_watermark,
            high_watermark,
            first_epoch: shared.first_epoch(self.id),
        })
    }

    /// Every deletion of the partition. Deletion marks that are not needed any more (the log has removed the events, and
    /// the name is not taken) are purged from the store, at most [`MAX_PURGES`] at each assignment.
    fn deleted(
        &self,
        workspaces: &[StoredWorkspace],
        deletions: Vec<Deletion>,
        low_watermark: Offset,
    ) -> Vec<Deleted> {
        let is_needed = |deletion: &&Deletion| {
            deletion.next_offset > low_watermark
                || workspaces
                    .binary_search_by(|workspace| workspace.id.cmp(&deletion.id))
                    .is_ok()
        };
        for deletion in deletions
            .iter()
            .filter(|one| !is_needed(one))
            .take(MAX_PURGES)
        {
            if let Err(error) = self.shared.store.purge(&deletion.id) {
                tracing::warn!(workspace = %deletion.id, %error, "the deletion mark cannot be removed");
            }
        }
        if !deletions.is_empty() {
            // A crash may have interrupted a delete before its dead letters were removed.
            let dead_letters = deletions.iter().map(|deletion| DeletedDeadLetters {
                workspace_id: deletion.id.clone(),
                partition: self.id,
                below: deletion.next_offset,
            });
            self.shared
                .erase(EraseJob::DeadLetters(dead_letters.collect()));
        }
        deletions
            .into_iter()
            .map(|deletion| Deleted {
                id: deletion.id,
                epoch: deletion.epoch,
                next_offset: deletion.next_offset,
            })
            .collect()
    }
}
