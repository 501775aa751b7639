//! Applies a batch to the workspaces of a partition, each in offset order.

use std::collections::HashMap;

use workspace_lifecycle::{
    AppliedTo, ApplyTo, Input, Lane, Offset, PartitionId, Poison, Slot, StateAfter,
};
use workspace_status::WorkspaceId;

use super::Driver;
use crate::event::Event;
use crate::loaded::{Applied, Resident};
use crate::log::Record;
use crate::panics::caught;
use crate::workspace::{Rejection, Workspace, WorkspaceType};

impl Driver {
    /// Applies the batch last fetched for the lane to the workspaces of the plan.
    pub(super) fn apply(&mut self, lane: Lane, plan: &[ApplyTo]) -> Input {
        let mut results = Vec::with_capacity(plan.len());
        if let Some((grouped, end)) = self.batches.remove(&lane) {
            let plan: HashMap<Slot, ApplyTo> =
                plan.iter().map(|apply| (apply.slot, *apply)).collect();
            let source = Source {
                topic: self.shared.log.topic(),
                partition: self.id,
            };
            for (id, records) in grouped.groups() {
                let planned = self.machine.slot(id).and_then(|slot| plan.get(&slot));
                let Some(planned) = planned else { continue };
                let Some(resident) = self.presences.resident(planned.slot) else {
                    continue;
                };
                let result = apply(&resident.workspace, records, *planned, end, source);
                if let Some(poison) = &result.poison
                    && poison.state == StateAfter::Broken
                {
                    // The machine drops it later; until then no reader may see half an event.
                    self.shared.workspaces.write().remove(id);
                }
                results.push(result);
            }
            let counters = &self.shared.counters;
            let applied: u64 = results.iter().map(|result| result.events).sum();
            counters.events_applied.add(applied);
            counters
                .events_passed
                .add(grouped.routable().saturating_sub(applied));
            let poisoned = results
                .iter()
                .filter(|result| result.poison.is_some())
                .count();
            counters
                .events_poisoned
                .add(u64::try_from(poisoned).unwrap_or(0));
        }
        Input::Applied { lane, results }
    }
}

/// Origin of an event, for the error text of a poison event.
#[derive(Debug, Clone, Copy)]
struct Source<'a> {
    topic: &'a str,
    partition: PartitionId,
}

/// Applies the records that the plan covers to their workspace, up to the first event that cannot be applied. Without
/// such an event the workspace is then at `end`, or where the plan ends.
fn apply<'a>(
    loaded: &Resident,
    records: impl Iterator<Item = &'a Record>,
    plan: ApplyTo,
    end: Offset,
    source: Source<'_>,
) -> AppliedTo {
    loaded.memory().touch();
    loaded.write(|workspace, applied| {
        let mut result = AppliedTo { slot: plan.slot, events: 0, bytes: 0, save_requested: false, poison: None };
        let mut value_bytes = 0;
        let before = changed_bytes(workspace);
        let mut stopped = None;
        for record in records.filter(|record| plan.covers(record.offset)) {
            let outcome = caught("applying it", || apply_one(workspace, loaded.id(), record))
                .unwrap_or_else(|reason| Err((reason, StateAfter::Broken)));
            match outcome {
                Ok(Effect::Applied) => {}
                Ok(Effect::SaveRequested) => result.save_requested = true,
                Err((reason, state)) => {
                    stopped = Some(Poison {
                        offset: record.offset,
                        reason: format!(
                            "event at topic {} partition {} offset {} key {} cannot be applied: {reason}",
                            source.topic, source.partition, record.offset, loaded.id()
                        ),
                        state,
                    });
                    break;
                }
            }
            result.events += 1;
            value_bytes += u64::try_from(record.bytes()).unwrap_or(0);
        }
        result.bytes = before
            .zip(changed_bytes(workspace))
            .map_or(value_bytes, |(before, after)| after.saturating_sub(before));
        let end = plan.until.map_or(end, |until| until.min(end));
        let reached = stopped.as_ref().map_or(end, |poison| poison.offset);
        *applied = Applied {
            next_offset: applied.next_offset.max(reached),
            events_applied: applied.events_applied + result.events,
        };
        result.poison = stopped;
        result
    })
}

/// `None` also if the user's workspace type panics.
fn changed_bytes(workspace: &dyn Workspace) -> Option<u64> {
    caught("counting its changes", || workspace.changed_bytes()).ok()?
}

enum Effect {
    Applied,
    SaveRequested,
}

/// Whether a workspace of a type could ever apply an event.
pub(crate) fn check(workspace_type: WorkspaceType, event: &Event<'_>) -> Result<(), Rejection> {
    match event.event_type() {
        SAVE | TICK => Ok(()),
        _ => caught("checking it", || (workspace_type.check)(event))
            .unwrap_or_else(|reason| Err(Rejection(reason))),
    }
}

/// The events that the engine handles itself.
const SAVE: &str = "workspace.save";
const TICK: &str = "workspace.tick";

fn apply_one(
    workspace: &mut dyn Workspace,
    id: &WorkspaceId,
    record: &Record,
) -> Result<Effect, (String, StateAfter)> {
    let event = Event::parse(record.offset, id, record.value())
        .map_err(|error| (error.to_string(), StateAfter::Intact))?;
    match event.event_type() {
        SAVE => Ok(Effect::SaveRequested),
        TICK => Ok(Effect::Applied),
        _ => workspace
            .apply(&event)
            .map(|()| Effect::Applied)
            .map_err(|rejection| (rejection.0, StateAfter::Intact)),
    }
}
