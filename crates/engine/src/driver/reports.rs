//! Writes the machine's reports into the status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use workspace_lifecycle::{Offset, Report, Residence, Slot};
use workspace_status::{Attempt, AttemptError, Epoch, State, Unit, Value};

use super::Driver;
use super::presence::{InMemory, Presence};
use crate::absent::AbsentWorkspace;
use crate::loaded::Following;

/// Shortest time between two updates of the progress of replays.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// Updates of progress take at most one in this many parts of the time, unless that makes progress too old.
const PROGRESS_SHARE: u32 = 20;

/// Longest time between two updates of the progress of replays.
const MAX_PROGRESS_AGE: Duration = Duration::from_secs(5);

impl Driver {
    pub(super) fn report(&mut self, slot: Slot, report: Report) {
        let reported = match report {
            Report::Begin { epoch } => {
                self.begin(slot, epoch);
                Ok(())
            }
            Report::Removed { residence } => {
                self.removed(slot, residence);
                Ok(())
            }
            Report::Unloading { why } => {
                self.unfollow(slot);
                self.with_attempt(slot, |attempt| attempt.set_state(State::Unloading, why))
            }
            Report::Load => self.with_attempt(slot, |attempt| {
                let _ = attempt.status().remove_metadata("queue_position");
                attempt.set_state(
                    State::LoadingFromPersistence,
                    "claiming the epoch and reading it from the store",
                )
            }),
            Report::Replay { from, target } => self.begin_replay(slot, from, target),
            Report::Ready => self.ready(slot),
            Report::Retrying {
                reason,
                attempt: number,
                retry_in,
            } => {
                self.withdraw(slot);
                self.with_attempt(slot, |attempt| {
                    attempt.set_retrying(&reason, number, retry_in)
                })
            }
            Report::Parked { reason } => {
                self.unfollow(slot);
                self.publish_workspace(slot);
                tracing::warn!(workspace = %self.machine.workspace_id(slot), %reason, "parked");
                self.with_attempt(slot, |attempt| attempt.set_parked(&reason))
            }
        };
        if let Err(error) = reported {
            tracing::warn!(workspace = %self.machine.workspace_id(slot), %error, "the status refused a report");
        }
    }

    fn begin(&mut self, slot: Slot, epoch: Epoch) {
        let id = self.machine.workspace_id(slot);
        let partition = self.id;
        let shared = &self.shared;
        shared.begun(partition, epoch);
        let begin = || shared.misrouted.own_status(id, &shared.tracker);
        let status = match shared.absent.leave(id, begin) {
            Ok(status) => status,
            Err(error) => {
                tracing::error!(workspace = %id, %error, "no status for it");
                return;
            }
        };
        self.assignment.announced().begin(id);
        let presence =
            match status.begin_attempt(epoch, format!("assigned with partition {partition}")) {
                Ok(attempt) => {
                    let position = shared.permits.counts().1;
                    let group = shared.config.group.as_deref();
                    let metadata = [
                        ("topic", Value::from(shared.log.topic())),
                        ("partition", Value::from(partition.0)),
                        ("queue_position", Value::from(position)),
                    ];
                    let reported = attempt
                        .set_state(State::LoadingKafkaPartitions, "waiting for a load permit")
                        .and_then(|()| {
                            let group = group.map(|group| ("group", Value::from(group)));
                            attempt.update_metadata_many(metadata.into_iter().chain(group))
                        });
                    if let Err(error) = reported {
                        tracing::warn!(workspace = %id, %error, "the status refused a report");
                    }
                    Presence::Shown(attempt)
                }
                Err(error) => {
                    tracing::error!(workspace = %id, %error, "another load is known to the status");
                    Presence::Refused(status)
                }
            };
        self.presences.set(slot, presence);
    }

    fn begin_replay(
        &mut self,
        slot: Slot,
        from: Offset,
        target: Offset,
    ) -> Result<(), AttemptError> {
        let Some(resident) = self.presences.resident_mut(slot) else {
            return Ok(());
        };
        let (attempt, replay) = (&resident.attempt, &mut resident.replay);
        let positions = target.since(from);
        (replay.from, replay.target, replay.reported) = (from, target, None);
        attempt.set_state(
            State::ReplayingEvents,
            format!("replaying {positions} positions up to offset {target}"),
        )?;
        let progress =
            attempt.start_progress(State::ReplayingEvents, Unit::Positions, Some(positions))?;
        replay.progress = Some(progress);
        attempt.update_metadata_many([
            ("partition_status", Value::from("seeking_offset")),
            ("partition_offset", Value::from(from.0)),
            ("events_total", Value::from(positions)),
        ])
    }

    fn ready(&mut self, slot: Slot) -> Result<(), AttemptError> {
        self.publish_workspace(slot);
        let Some(resident) = self.presences.resident_mut(slot) else {
            return Ok(());
        };
        if self.machine.follows_live(slot) {
            resident.workspace.set_follows_live(Following::Live);
        }
        // `ready` is reported only after the workspace answered a read.
        let answered = resident.workspace.applied().events_applied;
        let events = self.machine.events_applied(slot);
        debug_assert_eq!(
            answered, events,
            "the machine and the workspace count alike"
        );
        let (attempt, replay) = (&resident.attempt, &mut resident.replay);
        if let Some(progress) = replay.progress.take() {
            progress.set(replay.target.since(replay.from));
            let millis = resident.load_began.elapsed().as_millis();
            resident.load_ms = Some(u64::try_from(millis).unwrap_or(u64::MAX));
        }
        let next_offset = self.machine.next_offset(slot);
        attempt.update_metadata_many(replay.metadata("caught_up", next_offset, events))?;
        attempt.set_state(State::Ready, "ready")
    }

    fn removed(&mut self, slot: Slot, residence: Residence) {
        self.withdraw(slot);
        let status = match self.presences.take(slot) {
            Presence::Absent => {
                let id = self.machine.workspace_id(slot);
                self.shared.absent.set_residence(id, residence);
                return;
            }
            Presence::Refused(status) => status,
            Presence::Shown(attempt) => Arc::clone(attempt.status()),
            Presence::InMemory(resident) => Arc::clone(resident.attempt.status()),
        };
        let shared = &self.shared;
        let id = self.machine.workspace_id(slot);
        let absent = AbsentWorkspace::leaving(&status.snapshot(), self.id, residence);
        if residence == Residence::Evicted {
            shared.counters.evictions.add(1);
        }
        shared.left.lock().push(status);
        let leave = || {
            shared.tracker.remove(id);
        };
        if self.machine.is_deleted(slot) {
            shared.absent.leave(id, leave);
        } else {
            shared.absent.enter(absent, leave);
        }
    }

    fn with_attempt(
        &self,
        slot: Slot,
        report: impl FnOnce(&Attempt) -> Result<(), AttemptError>,
    ) -> Result<(), AttemptError> {
        self.presences.attempt(slot).map_or(Ok(()), report)
    }

    /// Makes the workspace visible to readers.
    fn publish_workspace(&self, slot: Slot) {
        if let Some(resident) = self.presences.resident(slot) {
            let id = self.machine.workspace_id(slot).clone();
            let workspace = Arc::clone(&resident.workspace);
            self.shared.workspaces.write().insert(id, workspace);
        }
    }

    /// Hides the workspace from readers.
    pub(super) fn withdraw(&self, slot: Slot) {
        self.unfollow(slot);
        self.shared
            .workspaces
            .write()
            .remove(self.machine.workspace_id(slot));
    }

    /// Stops following the live lane: from now on only its own `next_offset` says what it has applied.
    fn unfollow(&self, slot: Slot) {
        let next_offset = self.machine.next_offset(slot);
        if let Some(InMemory { workspace, .. }) = self.presences.resident(slot) {
            workspace
                .write(|_, applied| applied.next_offset = applied.next_offset.max(next_offset));
            workspace.set_follows_live(Following::Not);
        }
    }

    /// Shows the progress of replaying workspaces: every [`PROGRESS_EVERY`], or less often where they are so many that
    /// this would take too large a share of the time.
    pub(super) fn report_progress(&mut self) {
        let began = Instant::now();
        if began < self.progress_at {
            return;
        }
        for slot in self.machine.replaying() {
            let Some(resident) = self.presences.resident_mut(slot) else {
                continue;
            };
            let (attempt, replay) = (&resident.attempt, &mut resident.replay);
            let next_offset = self.machine.next_offset(slot);
            if replay.reported.replace(next_offset) == Some(next_offset) {
                continue;
            }
            if let Some(progress) = &replay.progress {
                progress.set(next_offset.since(replay.from));
            }
            let events = self.machine.events_applied(slot);
            // A refusal means that a newer load owns the status; the machine finds that out by itself.
            let _ = attempt.update_metadata_many(replay.metadata("reading", next_offset, events));
        }
        self.progress_at = Instant::now() + progress_pause(began.elapsed());
    }
}

/// The pause after an update of the progress that took this long.
fn progress_pause(took: Duration) -> Duration {
    (took * PROGRESS_SHARE).clamp(PROGRESS_EVERY, MAX_PROGRESS_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_updated_every_250_ms_and_after_slow_updates_up_to_5_s() {
        for (took_ms, pause_ms) in [
            (0, 250),
            (12, 250),
            (13, 260),
            (100, 2_000),
            (250, 5_000),
            (251, 5_000),
            (60_000, 5_000),
        ] {
            let pause = progress_pause(Duration::from_millis(took_ms));
            assert_eq!(pause, Duration::from_millis(pause_ms), "{took_ms} ms");
        }
    }
}
