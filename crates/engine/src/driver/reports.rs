//! Writes the machine's reports into the status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use workspace_lifecycle::{Lane, Report, Slot};
use workspace_status::{Attempt, AttemptError, Epoch, State, Unit, Value};

use super::Driver;
use crate::absent::AbsentWorkspace;
use crate::loaded::Following;

/// Shortest time between two updates of replay metadata; progress is always current.
const METADATA_EVERY: Duration = Duration::from_millis(250);

impl Driver {
    pub(super) fn report(&mut self, slot: Slot, report: Report) {
        let reported = match report {
            Report::Begin { epoch } => {
                self.begin(slot, epoch);
                Ok(())
            }
            Report::Removed => {
                self.gone(slot);
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
            Report::Replay { from, target } => {
                let positions = target.since(from);
                let local = self.local(slot);
                local.replay_from = from;
                local.replay_target = target;
                local.reported_offset = None;
                let mut progress = None;
                let reported = self.with_attempt(slot, |attempt| {
                    attempt.set_state(
                        State::ReplayingEvents,
                        format!("replaying {positions} positions up to offset {target}"),
                    )?;
                    progress = Some(attempt.start_progress(
                        State::ReplayingEvents,
                        Unit::Positions,
                        Some(positions),
                    )?);
                    attempt.update_metadata_many([
                        ("partition_status", Value::from("seeking_offset")),
                        ("partition_offset", Value::from(from.0)),
                        ("events_total", Value::from(positions)),
                    ])
                });
                self.local(slot).progress = progress;
                reported
            }
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
        let id = self.machine.workspace_id(slot).clone();
        let partition = self.id;
        self.shared.begun(partition, epoch);
        let position = self.shared.queued();
        let shared = &self.shared;
        let begin = || shared.misrouted.own_status(&id, &shared.tracker);
        let status = match shared.absent.leave(&id, begin) {
            Ok(status) => status,
            Err(error) => {
                tracing::error!(workspace = %id, %error, "no status for it");
                return;
            }
        };
        self.assignment.announced().begin(&id);
        match status.begin_attempt(epoch, format!("assigned with partition {partition}")) {
            Ok(attempt) => {
                let topic = Value::from(self.shared.log.topic());
                let group = self.shared.config.group.as_deref();
                let reported = attempt
                    .set_state(State::LoadingKafkaPartitions, "waiting for a load permit")
                    .and_then(|()| {
                        attempt.update_metadata_many(
                            [
                                ("topic", topic),
                                ("partition", Value::from(partition.0)),
                                ("queue_position", Value::from(position)),
                            ]
                            .into_iter()
                            .chain(group.map(|group| ("group", Value::from(group)))),
                        )
                    });
                if let Err(error) = reported {
                    tracing::warn!(workspace = %id, %error, "the status refused a report");
                }
                self.local(slot).attempt = Some(attempt);
            }
            Err(error) => {
                tracing::error!(workspace = %id, %error, "another load is known to the status");
                self.local(slot).attempt = None;
            }
        }
        self.local(slot).status = Some(status);
    }

    fn ready(&mut self, slot: Slot) -> Result<(), AttemptError> {
        self.publish_workspace(slot);
        self.finish_load_clock(slot);
        let follows = self.machine.follows_live(slot);
        let events = self.machine.events_applied(slot);
        let next_offset = self.machine.next_offset(slot);
        let local = self.local(slot);
        let replayed = events.saturating_sub(local.applied_before_replay);
        let total = local.replay_target.since(local.replay_from);
        if let Some(progress) = local.progress.take() {
            progress.set(total);
        }
        if let Some(workspace) = &local.workspace {
            if follows {
                workspace.set_follows_live(Following::Live);
            }
            // `ready` is reported only after the workspace answered a read.
            let answered = workspace.applied().events_applied;
            debug_assert_eq!(
                answered, events,
                "the machine and the workspace count alike"
            );
        }
        self.with_attempt(slot, |attempt| {
            attempt.update_metadata_many([
                ("partition_status", Value::from("caught_up")),
                ("partition_offset", Value::from(next_offset.0)),
                ("events_processed", Value::from(total)),
                ("events_replayed", Value::from(replayed)),
                ("progress_percent", Value::from(100.0)),
            ])?;
            attempt.set_state(State::Ready, "ready")
        })
    }

    fn gone(&mut self, slot: Slot) {
        self.withdraw(slot);
        let partition = self.id;
        let id = self.machine.workspace_id(slot).clone();
        let local = self.local(slot);
        local.attempt = None;
        if let Some(status) = local.status.take() {
            let is_unloaded = self.shared.is_current(&self.assignment);
            let absent = AbsentWorkspace::leaving(&status.snapshot(), partition, is_unloaded);
            self.shared.left.lock().push(status);
            let leave = || {
                self.shared.tracker.remove(&id);
            };
            if self.machine.is_deleted(slot) {
                self.shared.absent.leave(&id, leave);
            } else {
                self.shared.absent.enter(absent, leave);
            }
        }
    }

    fn with_attempt(
        &mut self,
        slot: Slot,
        report: impl FnOnce(&Attempt) -> Result<(), AttemptError>,
    ) -> Result<(), AttemptError> {
        match &self.local(slot).attempt {
            Some(attempt) => report(attempt),
            None => Ok(()),
        }
    }

    /// Makes the workspace visible to readers.
    fn publish_workspace(&mut self, slot: Slot) {
        let id = self.machine.workspace_id(slot).clone();
        if let Some(workspace) = &self.local(slot).workspace {
            let workspace = Arc::clone(workspace);
            self.shared.workspaces.write().insert(id, workspace);
        }
    }

    /// Hides the workspace from readers.
    pub(super) fn withdraw(&mut self, slot: Slot) {
        self.unfollow(slot);
        self.shared
            .workspaces
            .write()
            .remove(self.machine.workspace_id(slot));
    }

    /// Stops following the live lane: from now on only its own `next_offset` says what it has applied.
    fn unfollow(&mut self, slot: Slot) {
        let next_offset = self.machine.next_offset(slot);
        if let Some(workspace) = &self.local(slot).workspace {
            workspace
                .write(|_, applied| applied.next_offset = applied.next_offset.max(next_offset));
            workspace.set_follows_live(Following::Not);
        }
    }

    /// Updates the metadata of replaying workspaces, at most every [`METADATA_EVERY`].
    pub(super) fn replay_metadata(&mut self) {
        let now = Instant::now();
        if self
            .metadata_at
            .is_some_and(|at| now.duration_since(at) < METADATA_EVERY)
        {
            return;
        }
        self.metadata_at = Some(now);
        for lane in Lane::ALL {
            for slot in self.machine.replaying(lane) {
                let Some(local) = self.locals.get_mut(slot.index()) else {
                    continue;
                };
                let Some(attempt) = &local.attempt else {
                    continue;
                };
                let next_offset = self.machine.next_offset(*slot);
                if local.reported_offset.replace(next_offset) == Some(next_offset) {
                    continue;
                }
                let done = next_offset.since(local.replay_from);
                let total = local.replay_target.since(local.replay_from);
                let replayed = self
                    .machine
                    .events_applied(*slot)
                    .saturating_sub(local.applied_before_replay);
                #[expect(clippy::cast_precision_loss, reason = "a share shown to people")]
                let percent = if total == 0 {
                    100.0
                } else {
                    done as f64 * 100.0 / total as f64
                };
                // A refusal means that a newer load owns the status; the machine finds that out by itself.
                let _ = attempt.update_metadata_many([
                    ("partition_status", Value::from("reading")),
                    ("partition_offset", Value::from(next_offset.0)),
                    ("events_processed", Value::from(done)),
                    ("events_replayed", Value::from(replayed)),
                    ("progress_percent", Value::from(percent.min(100.0))),
                ]);
            }
        }
    }
}
