//! Saves: one thread gathers what the partitions want saved and writes it in one go.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use workspace_lifecycle::{Input, Offset, PartitionId, Slot};

use super::Message;
use crate::shared::Shared;
use crate::store::{Change, Save, StoreError};
use crate::workspace::Workspace;

/// Most saves of partitions that are written together.
const PARTITIONS_PER_WRITE: usize = 64;

/// What one partition wants saved.
pub(crate) struct SaveJob {
    pub(crate) partition: PartitionId,
    pub(crate) saves: Vec<(Slot, Save)>,
    pub(crate) committed: Offset,
}

/// Saves until the engine ends.
pub(crate) fn run<W: Workspace>(shared: &Shared<W>, jobs: &Receiver<SaveJob>) {
    crate::engine::work(shared, jobs, |first| {
        let mut gathered = vec![first];
        gathered.extend(jobs.try_iter().take(PARTITIONS_PER_WRITE - 1));
        save(shared, gathered);
    });
}

fn save<W: Workspace>(shared: &Shared<W>, jobs: Vec<SaveJob>) {
    let began = Instant::now();
    let committed: Vec<_> = jobs
        .iter()
        .map(|job| (job.partition, job.committed))
        .collect();
    let mut slots = Vec::new();
    let mut saves = Vec::new();
    for job in jobs {
        for (slot, save) in job.saves {
            slots.push((job.partition, slot, save.id.clone()));
            saves.push(save);
        }
    }
    let count = |saves: &[Save], each: fn(&Change) -> u64| -> u64 {
        saves.iter().flat_map(|save| &save.changes).map(each).sum()
    };
    let workspaces = u64::try_from(saves.len()).unwrap_or(u64::MAX);
    let changes = count(&saves, |_| 1);
    let bytes = count(&saves, |change| match change {
        Change::Set(entry) => u64::try_from(entry.data.len()).unwrap_or(u64::MAX),
        Change::Unset { .. } => 0,
    });
    let saved = shared.store.save(saves, &committed);
    shared.counters.save_micros.add(micros(began.elapsed()));
    match saved {
        Ok(refusals) => {
            shared.store_answered(Ok(()));
            shared.counters.workspaces_saved.add(workspaces);
            shared.counters.changes_saved.add(changes);
            shared.counters.bytes_saved.add(bytes);
            for (partition, _) in committed {
                let refused = slots
                    .iter()
                    .filter(|(of, _, id)| {
                        *of == partition && refusals.iter().any(|refusal| refuses(refusal, id))
                    })
                    .map(|(_, slot, _)| *slot)
                    .collect();
                shared.tell(partition, Message::Input(Input::Saved { refused }));
            }
        }
        Err(error) => {
            shared.counters.save_failures.add(1);
            tracing::error!(%error, workspaces, "save failed; it is tried again");
            shared.store_answered(Err(error.to_string()));
            for (partition, _) in committed {
                let reason = error.to_string();
                shared.tell(partition, Message::Input(Input::SaveFailed { reason }));
            }
        }
    }
}

fn refuses(refusal: &StoreError, workspace: &workspace_status::WorkspaceId) -> bool {
    match refusal {
        StoreError::Fenced { id, .. } | StoreError::UnknownWorkspace(id) => id == workspace,
        StoreError::Corrupt { .. }
        | StoreError::Refused { .. }
        | StoreError::NoSpace(_)
        | StoreError::Unavailable(_) => false,
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
