//! Loads: claims the epoch in the store, restores or populates the workspace, and sends it to its partition.
//!
//! A load blocks on the store, so there are as many load threads as permits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use workspace_lifecycle::{Input, LoadFailure};
use workspace_status::{State, Unit, Value};

use crate::jobs::LoadJob;
use crate::loaded::{Applied, Resident};
use crate::message::{LoadDone, Message};
use crate::panics::caught;
use crate::populate::PopulateError;
use crate::running_loads::{HungThread, RunningLoad};
use crate::shared::EngineShared;
use crate::store::{Change, Claim, StoreError, StoreErrorKind, StoredEntry, StoredWorkspace};
use crate::workspace::Workspace;

/// Time between two checks whether the engine is shutting down.
const JOB_LOOK: Duration = Duration::from_millis(100);

/// Entries between two updates of the progress.
const PROGRESS_EVERY_ENTRIES: u64 = 256;

/// What a load thread does after a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    TakesTheNext,
    /// A replacement thread runs, because the load hung.
    Ends,
}

/// Loads until the engine ends, or another thread has replaced this one.
pub(super) fn run(shared: &EngineShared, jobs: &Receiver<LoadJob>) {
    while !shared.ending.load(Ordering::Acquire) {
        if let Ok(job) = jobs.recv_timeout(JOB_LOOK)
            && load(shared, job) == Then::Ends
        {
            return;
        }
    }
}

/// Does one load and sends the result to the partition.
fn load(shared: &EngineShared, job: LoadJob) -> Then {
    let (assignment, slot, epoch) = (Arc::clone(&job.assignment), job.slot, job.epoch);
    let partition = assignment.id();
    let Some((number, running)) = shared
        .running_loads
        .begin(&assignment, &job.id, slot, epoch)
    else {
        let reason =
            "an earlier load of it still hangs; the next begins when that has ended".to_owned();
        drop(job);
        let _ = assignment.send(Message::Input(Input::LoadFailed {
            slot,
            epoch,
            claimed: false,
            failure: LoadFailure::Retry(reason),
        }));
        shared.permits.release();
        return Then::TakesTheNext;
    };
    // The workspace type, the populate source and the database may all panic on bad data.
    let loaded = caught("loading it", || try_load(shared, &job, &running))
        .unwrap_or_else(|reason| Err(LoadFailure::Park(reason)));
    if let Some(thread) = shared.running_loads.end(number) {
        tracing::warn!(workspace = %job.id, %partition, %epoch, "a load that was abandoned has returned; its result is dropped");
        drop((loaded, job));
        match thread {
            HungThread::Replaced => return Then::Ends,
            HungThread::KeepsPermit => shared.permits.release(),
        }
        return Then::TakesTheNext;
    }
    let message = match loaded {
        Ok(done) => {
            shared.counters.loads.add(1);
            shared.counters.entries_loaded.add(done.entries);
            Message::Loaded(Box::new(done))
        }
        Err(failure) => {
            shared.counters.load_failures.add(1);
            // Debug level: the status shows it, and an unavailable store fails thousands of loads.
            tracing::debug!(workspace = %job.id, %partition, %epoch, ?failure, "load failed");
            Message::Input(Input::LoadFailed {
                slot,
                epoch,
                claimed: running.is_claimed(),
                failure,
            })
        }
    };
    drop(job);
    // A closed assignment needs no answer; the loaded workspace is dropped with the message.
    let _ = assignment.send(message);
    shared.permits.release();
    Then::TakesTheNext
}

fn try_load(
    shared: &EngineShared,
    job: &LoadJob,
    running: &RunningLoad,
) -> Result<LoadDone, LoadFailure> {
    let began = Instant::now();
    let claimed = shared
        .store
        .claim(Claim {
            id: job.id.clone(),
            partition: job.assignment.id(),
            epoch: job.epoch,
            owner: shared.config.owner.clone(),
            first_offset: job.first_offset,
        })
        .map_err(|error| failure(&error))?;
    running.claimed();
    let mut workspace = (shared.workspace_type.new)(&job.id);
    let mut populated = Vec::new();
    let nothing_stored = claimed.entries == 0 && claimed.events_applied == 0;
    let entries = if nothing_stored {
        enter(
            job,
            running,
            "it was populated",
            State::PopulatingInitialState,
            "the store has nothing of it",
        )?;
        populate(shared, job, running, &mut *workspace, &mut populated)?
    } else {
        enter(
            job,
            running,
            "its entries were read",
            State::RestoringFromSnapshot,
            format!("restoring {} entries", claimed.entries),
        )?;
        restore(shared, job, running, &claimed, &mut *workspace)?
    };
    running.begin_step("its workspace type completed it");
    workspace.restored();
    job.attempt
        .update_metadata("changes_loaded", Value::from(entries))
        .map_err(|error| LoadFailure::Retry(error.to_string()))?;
    let applied = Applied {
        next_offset: claimed.next_offset,
        events_applied: claimed.events_applied,
    };
    Ok(LoadDone {
        slot: job.slot,
        epoch: job.epoch,
        attempt: job.attempt.clone(),
        workspace: Arc::new(Resident::new(
            job.id.clone(),
            workspace,
            applied,
            Arc::clone(&job.live),
            &shared.memory,
        )),
        first_offset: claimed.first_offset,
        applied,
        populated,
        entries,
        began,
    })
}

fn enter(
    job: &LoadJob,
    running: &RunningLoad,
    step: &'static str,
    state: State,
    message: impl Into<workspace_status::Message>,
) -> Result<(), LoadFailure> {
    if !running.begin_step(step) {
        return Err(LoadFailure::Retry("it was abandoned".to_owned()));
    }
    job.attempt
        .set_state(state, message)
        .map_err(|error| LoadFailure::Retry(error.to_string()))
}

fn restore(
    shared: &EngineShared,
    job: &LoadJob,
    running: &RunningLoad,
    claimed: &StoredWorkspace,
    workspace: &mut dyn Workspace,
) -> Result<u64, LoadFailure> {
    let progress = job
        .attempt
        .start_progress(
            State::RestoringFromSnapshot,
            Unit::Entities,
            Some(claimed.entries),
        )
        .map_err(|error| LoadFailure::Retry(error.to_string()))?;
    let mut entries = 0_u64;
    let loaded = shared
        .store
        .load(&job.id, &mut |entry| {
            entries += 1;
            running.tick();
            if entries.is_multiple_of(PROGRESS_EVERY_ENTRIES) {
                progress.set(entries);
            }
            workspace.restore(entry).map_err(|rejection| rejection.0)
        })
        .map_err(|error| failure(&error))?;
    if loaded.epoch != claimed.epoch {
        // A newer owner may have saved entries that the claimed next_offset does not cover.
        return Err(LoadFailure::Fenced {
            stored: loaded.epoch,
        });
    }
    progress.set(entries);
    if entries != claimed.entries {
        return Err(LoadFailure::Park(format!(
            "the store counts {} entries but gave {entries}: it lost or kept some by mistake",
            claimed.entries
        )));
    }
    Ok(entries)
}

fn populate(
    shared: &EngineShared,
    job: &LoadJob,
    running: &RunningLoad,
    workspace: &mut dyn Workspace,
    populated: &mut Vec<Change>,
) -> Result<u64, LoadFailure> {
    shared
        .populate
        .populate(&job.id, &mut |entry: StoredEntry| {
            running.tick();
            populated.push(Change::Set(entry.clone()));
            workspace.restore(entry).map_err(|rejection| rejection.0)
        })
        .map_err(|error| match error {
            PopulateError::Unavailable(_) => LoadFailure::Retry(error.to_string()),
            PopulateError::Invalid { .. } => LoadFailure::Park(error.to_string()),
        })?;
    Ok(u64::try_from(populated.len()).unwrap_or(u64::MAX))
}

fn failure(error: &StoreError) -> LoadFailure {
    match error.kind() {
        StoreErrorKind::Fenced { stored } => LoadFailure::Fenced { stored },
        StoreErrorKind::Permanent => LoadFailure::Park(error.to_string()),
        StoreErrorKind::Unknown | StoreErrorKind::Temporary => {
            LoadFailure::Retry(error.to_string())
        }
    }
}
