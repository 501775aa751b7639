//! What follows when a lane cannot read the log: a retry, a stop of the workspaces that need the events, or both.

use super::Partition;
use super::lanes::LaneState;
use crate::{FetchFailure, Lane, Offset};

/// Consecutive failed fetches after which replays report an error. A single failure is often transient.
const FAILURE_ATTEMPTS: u32 = 2;

impl Partition {
    pub(super) fn fetch_failed(&mut self, lane: Lane, failure: FetchFailure) {
        let (now, retry, id) = (self.now, self.limits.retry, self.id);
        let Some(run) = self.run_mut(lane) else {
            return;
        };
        if !matches!(run.state, LaneState::Fetching) {
            return;
        }
        let from = run.cursor;
        run.state = LaneState::Idle;
        match failure {
            FetchFailure::Retry(reason) => {
                let (attempt, wait) = run.failures.fail(&retry, &id);
                run.state = LaneState::Failed { until: now + wait };
                if attempt >= FAILURE_ATTEMPTS {
                    self.stop_replays(lane, &reason);
                }
            }
            FetchFailure::Damaged { offset, .. } if offset > from => run.damaged = Some(offset),
            FetchFailure::Damaged { offset, reason } => {
                self.stop_followers(lane, offset, &reason);
                self.note_events_of_all(lane, offset, offset);
                if from <= self.discovered && offset >= self.discovered {
                    self.note_damage(offset);
                }
                self.pass(lane, offset.next());
            }
            FetchFailure::FellOut { low_watermark } => {
                let reason = format!(
                    "events of partition {id} from offset {from} on were removed by retention before they were applied; \
                     the log begins at {low_watermark}"
                );
                let last = Offset(low_watermark.0.saturating_sub(1));
                self.stop_followers(lane, last, &reason);
                self.note_events_of_all(lane, from, last);
                self.pass(lane, low_watermark);
            }
            FetchFailure::Lost { until } => {
                let last = Offset(until.0.saturating_sub(1));
                let reason = format!(
                    "the log of partition {id} has lost the events from offset {from} to {last}; \
                     whether this workspace had any of them is not known: skip continues without them"
                );
                self.stop_followers(lane, last, &reason);
                self.note_events_of_all(lane, from, last);
                if from <= self.discovered && until > self.discovered {
                    self.note_damage(self.discovered);
                }
                self.pass(lane, until);
            }
            FetchFailure::BeyondEnd { high_watermark } => {
                let reason = format!(
                    "the log of partition {id} ends at offset {high_watermark}, before offset {from}: \
                     it was replaced or lost its end"
                );
                self.stop_followers(lane, from, &reason);
                if let Some(run) = self.run_mut(lane) {
                    run.state = LaneState::Failed {
                        until: now + retry.longest,
                    };
                }
            }
        }
    }

    /// The unreadable record at `offset` may have been the first event of any workspace met after it.
    fn note_damage(&mut self, offset: Offset) {
        let first = self
            .damaged_from
            .map_or(offset, |before| before.min(offset));
        self.damaged_from = Some(first);
    }

    /// The log cannot be read for a while, so replays do not progress. They report a retrying error;
    /// workspaces that are ready stay ready.
    fn stop_replays(&mut self, lane: Lane, reason: &str) {
        for slot in self.workspaces.slots() {
            let workspace = self.workspaces.at(slot);
            if workspace.follows(lane) && workspace.target.is_some() {
                self.load_again(slot, format!("the event log cannot be read: {reason}"));
            }
        }
    }

    /// Stops the followers that have not passed `offset` at it.
    fn stop_followers(&mut self, lane: Lane, offset: Offset, reason: &str) {
        for slot in self.workspaces.slots() {
            if self.workspaces.at(slot).follows(lane) && self.next_offset(slot) <= offset {
                self.stop_at(slot, offset, reason.to_owned());
            }
        }
    }
}
