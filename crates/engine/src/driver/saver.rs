//! Saves: one thread gathers what the partitions want saved and writes it in one go.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use workspace_lifecycle::{Input, Refusal, Refused, Slot};
use workspace_status::{Epoch, WorkspaceId};

use super::apply::panic_text;
use crate::jobs::SaveJob;
use crate::message::Message;
use crate::shared::Shared;
use crate::store::{Change, Save, SaveRefused, StoreError};
use crate::workspace::Workspace;

/// Most saves of partitions that are written together.
const PARTITIONS_PER_WRITE: usize = 64;

/// Saves until the engine ends.
pub(crate) fn run<W: Workspace>(shared: &Shared<W>, jobs: &Receiver<SaveJob<W>>) {
    shared.work(jobs, |first| {
        let mut gathered = vec![first];
        gathered.extend(jobs.try_iter().take(PARTITIONS_PER_WRITE - 1));
        save(shared, gathered);
    });
}

fn save<W: Workspace>(shared: &Shared<W>, jobs: Vec<SaveJob<W>>) {
    let began = Instant::now();
    let mut partitions = Vec::with_capacity(jobs.len());
    let mut slots = Vec::new();
    let mut saves = Vec::new();
    for job in jobs {
        let workspaces = job.saves.len();
        partitions.push((job.post, job.committed, job.refused, workspaces));
        for (slot, save) in job.saves {
            slots.push(slot);
            saves.push(save);
        }
    }
    let committed: Vec<_> = partitions
        .iter()
        .map(|(post, committed, ..)| (post.id(), *committed))
        .collect();
    // The database asserts on some damage; a panic must not end the only thread that saves.
    let saved = catch_unwind(AssertUnwindSafe(|| shared.store.save(&saves, &committed)))
        .unwrap_or_else(|panic| {
            let text = format!("it panicked: {}", panic_text(&*panic));
            Err(StoreError::Unavailable(text))
        });
    shared.counters.save_micros.add(micros(began.elapsed()));
    match &saved {
        Ok(_) => {
            shared.store_answered(Ok(()));
            count(shared, &saves);
        }
        Err(error) => {
            shared.counters.save_failures.add(1);
            tracing::error!(%error, workspaces = saves.len(), "save failed; it is tried again");
            shared.store_answered(Err(error.to_string()));
        }
    }
    let mut saves = slots.into_iter().zip(saves);
    let outcome = saved.map(|refused| {
        refused
            .into_iter()
            .map(|SaveRefused { id, epoch, error }| ((id, epoch), error))
            .collect::<HashMap<_, _>>()
    });
    for (post, _, refused, workspaces) in partitions {
        let of_partition = saves.by_ref().take(workspaces);
        let message = match &outcome {
            Ok(refusals) => answer(of_partition, refused, refusals),
            Err(error) => Message::SaveFailed {
                back: of_partition.collect(),
                reason: error.to_string(),
            },
        };
        // An assignment that was lost needs no answer.
        let _ = post.tell(message);
    }
}

fn answer<W>(
    saves: impl Iterator<Item = (Slot, Save)>,
    mut refused: Vec<Refused>,
    refusals: &HashMap<(WorkspaceId, Epoch), StoreError>,
) -> Message<W> {
    for (slot, save) in saves {
        if let Some(error) = refusals.get(&(save.id.clone(), save.epoch)) {
            tracing::error!(workspace = %save.id, %error, "the store refused to save a workspace");
            let refusal = refusal(error);
            refused.push(Refused { slot, refusal });
        }
    }
    Message::Input(Input::Saved { refused })
}

fn refusal(error: &StoreError) -> Refusal {
    match error {
        StoreError::Fenced { .. } | StoreError::UnknownWorkspace(_) => Refusal::TakenOver,
        StoreError::Corrupt { .. } | StoreError::Refused { .. } => {
            Refusal::ForGood(error.to_string())
        }
        StoreError::NoSpace(_) | StoreError::Unavailable(_) => Refusal::ForNow(error.to_string()),
    }
}

fn count<W: Workspace>(shared: &Shared<W>, saves: &[Save]) {
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let (mut changes, mut bytes) = (0, 0);
    for save in saves {
        changes += save.changes.len();
        for change in &save.changes {
            if let Change::Set(entry) = change {
                bytes += entry.data.len();
            }
        }
    }
    let counters = &shared.counters;
    counters.workspaces_saved.add(number(saves.len()));
    counters.changes_saved.add(number(changes));
    counters.bytes_saved.add(number(bytes));
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
