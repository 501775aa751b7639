//! Saves: one thread gathers the saves that partitions request and writes them together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;
use workspace_lifecycle::{Input, Refusal, Refused, Slot};
use workspace_status::{Epoch, WorkspaceId};

use crate::clock::micros;
use crate::failures::StoreRequest;
use crate::jobs::SaveJob;
use crate::message::Message;
use crate::panics::caught;
use crate::shared::EngineShared;
use crate::store::{Change, Save, SaveRefused, StoreError, StoreErrorKind};

/// Most partitions whose saves are written together.
const PARTITIONS_PER_WRITE: usize = 64;

/// Saves until the engine ends.
pub(crate) fn run(shared: &EngineShared, jobs: &Receiver<SaveJob>) {
    shared.work(jobs, |first| {
        let mut gathered = vec![first];
        gathered.extend(jobs.try_iter().take(PARTITIONS_PER_WRITE - 1));
        save(shared, gathered);
    });
}

fn save(shared: &EngineShared, jobs: Vec<SaveJob>) {
    let began = Instant::now();
    let assignments: Vec<_> = jobs.iter().map(|job| Arc::clone(&job.assignment)).collect();
    // Held until the store has answered, so that an assignment does not end in the middle of its save.
    let guards: Vec<_> = assignments
        .iter()
        .map(|assignment| assignment.begin_save())
        .collect();
    let mut partitions = Vec::with_capacity(jobs.len());
    let mut slots = Vec::new();
    let mut saves = Vec::new();
    for (job, guard) in jobs.into_iter().zip(&guards) {
        // The assignment has ended and the partition may be assigned again: its committed offset is outdated.
        if guard.is_none() {
            continue;
        }
        let request = StoreRequest::SavesOf(job.assignment.id());
        let ownership = shared.store.ownership();
        if let Err(error) = ownership.takes_saves(job.assignment.id()) {
            let reason = error.to_string();
            shared.counters.save_failures.add(1);
            report_failure(shared, request, &error);
            let _ = job.assignment.send(Message::SaveFailed {
                back: job.saves,
                reason,
            });
            continue;
        }
        shared.failures.store_answered(request, Ok(()));
        let workspaces = job.saves.len();
        partitions.push((job.assignment, job.committed, job.refused, workspaces));
        for (slot, save) in job.saves {
            slots.push(slot);
            saves.push(save);
        }
    }
    if partitions.is_empty() {
        return;
    }
    let committed: Vec<_> = partitions
        .iter()
        .map(|(assignment, committed, ..)| (assignment.id(), *committed))
        .collect();
    // The database panics on some damage; a panic must not end the only thread that saves.
    let saved = caught("it", || shared.store.save(&saves, &committed))
        .unwrap_or_else(|reason| Err(StoreError::Unavailable(reason)));
    drop(guards);
    shared.counters.save_micros.add(micros(began.elapsed()));
    match &saved {
        Ok(_) => {
            shared.failures.store_answered(StoreRequest::Saves, Ok(()));
            count(shared, &saves);
        }
        Err(error) => {
            shared.counters.save_failures.add(1);
            report_failure(shared, StoreRequest::Saves, error);
        }
    }
    let mut saves = slots.into_iter().zip(saves);
    let outcome = saved.map(|refused| {
        refused
            .into_iter()
            .map(|SaveRefused { id, epoch, error }| ((id, epoch), error))
            .collect::<HashMap<_, _>>()
    });
    for (assignment, _, refused, workspaces) in partitions {
        let of_partition = saves.by_ref().take(workspaces);
        let message = match &outcome {
            Ok(refusals) => answer(of_partition, refused, refusals),
            Err(error) => Message::SaveFailed {
                back: of_partition.collect(),
                reason: error.to_string(),
            },
        };
        // A closed assignment needs no answer.
        let _ = assignment.send(message);
    }
}

fn report_failure(shared: &EngineShared, request: StoreRequest, error: &StoreError) {
    if shared
        .failures
        .store_answered(request, Err(error.to_string()))
    {
        tracing::error!(%error, "save failed; it is tried again");
    }
}

fn answer(
    saves: impl Iterator<Item = (Slot, Save)>,
    mut refused: Vec<Refused>,
    refusals: &HashMap<(WorkspaceId, Epoch), StoreError>,
) -> Message {
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
    match error.kind() {
        StoreErrorKind::Fenced { .. } | StoreErrorKind::Unknown => Refusal::TakenOver,
        StoreErrorKind::Permanent => Refusal::ForGood(error.to_string()),
        StoreErrorKind::Temporary => Refusal::ForNow(error.to_string()),
    }
}

fn count(shared: &EngineShared, saves: &[Save]) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::Assignment;
    use crate::store::{MemoryStore, Store};
    use crate::testing::{self, FaultyStore, Request};
    use workspace_lifecycle::{Offset, PartitionId};

    fn job(assignment: &Arc<Assignment>, committed: u64) -> SaveJob {
        SaveJob {
            assignment: Arc::clone(assignment),
            saves: Vec::new(),
            refused: Vec::new(),
            committed: Offset(committed),
        }
    }

    #[test]
    fn a_partition_whose_saves_are_not_accepted_holds_up_no_other() {
        let store = Arc::new(FaultyStore::new(MemoryStore::new()));
        let (_log, shared) = testing::shared(Arc::clone(&store) as Arc<dyn Store>);
        let (one, answered) = shared.open(PartitionId(0)).expect("not assigned before");
        let (other, _) = shared.open(PartitionId(1)).expect("not assigned before");
        let committed = || [0, 1].map(|partition| store.committed(PartitionId(partition)));
        store.fail(|request| {
            if let Request::TakesSaves(PartitionId(0)) = request {
                return Err(StoreError::Unavailable("held".to_owned()));
            }
            Ok(())
        });
        save(&shared, vec![job(&one, 7), job(&other, 9)]);
        assert_eq!(committed(), [Ok(Offset::ZERO), Ok(Offset(9))]);
        assert!(matches!(
            answered.try_recv(),
            Ok(Message::SaveFailed { .. })
        ));
        save(&shared, vec![job(&other, 10)]);
        assert!(
            shared.failures.of_store().is_some(),
            "also while others are saved"
        );

        store.recover();
        save(&shared, vec![job(&one, 7)]);
        assert_eq!(committed(), [Ok(Offset(7)), Ok(Offset(10))]);
        assert_eq!(shared.failures.of_store(), None);
    }

    #[test]
    fn no_load_has_an_epoch_that_one_of_this_process_had() {
        let (_log, shared) = testing::shared(Arc::new(MemoryStore::new()));
        let partition = PartitionId(0);
        assert_eq!(shared.first_epoch(partition), Epoch::FIRST);
        shared.begun(partition, Epoch::new(7));
        shared.begun(partition, Epoch::new(3));
        assert_eq!(shared.first_epoch(partition), Epoch::new(8));
        assert_eq!(shared.first_epoch(PartitionId(1)), Epoch::FIRST);
    }

    #[test]
    fn what_an_assignment_leaves_behind_is_not_saved_after_its_end() {
        let store = Arc::new(MemoryStore::new());
        let (_log, shared) = testing::shared(Arc::clone(&store) as Arc<dyn Store>);
        let (over, unanswered) = shared.open(PartitionId(0)).expect("not assigned before");
        let (open, answered) = shared.open(PartitionId(1)).expect("not assigned before");
        let jobs = vec![job(&over, 7), job(&open, 9)];
        over.end_saves();
        save(&shared, jobs);
        let committed = [0, 1].map(|partition| store.committed(PartitionId(partition)));
        assert_eq!(committed, [Ok(Offset::ZERO), Ok(Offset(9))]);
        assert!(unanswered.try_recv().is_err(), "no caller waits for it");
        assert!(matches!(
            answered.try_recv(),
            Ok(Message::Input(Input::Saved { .. }))
        ));

        let under_way = open.begin_save().expect("it lasts");
        std::thread::scope(|scope| {
            let end = scope.spawn(|| open.end_saves());
            while open.begin_save().is_some() {
                std::thread::yield_now();
            }
            assert!(!end.is_finished(), "not before the save under way is over");
            drop(under_way);
        });
        assert!(open.begin_save().is_none());
    }
}
