//! Applies a batch to the workspaces of a partition: grouped by workspace, each in the order of its offsets.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use workspace_lifecycle::{AppliedTo, ApplyTo, Offset, Poison, Touched};
use workspace_status::WorkspaceId;

use crate::event::Event;
use crate::loaded::{Applied, LoadedWorkspace};
use crate::log::{Batch, Record};
use crate::workspace::Workspace;

/// A batch whose records are grouped by workspace.
#[derive(Debug)]
pub(crate) struct Grouped {
    groups: Vec<Group>,
    pub(crate) unroutable: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: WorkspaceId,
    records: Vec<Record>,
}

impl Grouped {
    /// Groups records by their keys; those without a valid one are counted and left out.
    pub(crate) fn new(batch: Batch) -> Self {
        let mut grouped = Self {
            groups: Vec::new(),
            unroutable: 0,
            bytes: 0,
        };
        let mut by_key: HashMap<Bytes, Option<usize>> = HashMap::new();
        let mut last: Option<(Bytes, usize)> = None;
        for record in batch.records {
            let Some(key) = record.key.clone() else {
                grouped.unroutable += 1;
                continue;
            };
            grouped.bytes +=
                u64::try_from(record.value.as_ref().map_or(0, Bytes::len)).unwrap_or(0);
            let index = match &last {
                Some((last_key, index)) if *last_key == key => Some(*index),
                _ => *by_key
                    .entry(key.clone())
                    .or_insert_with(|| grouped.open_group(&key)),
            };
            let Some((index, group)) =
                index.and_then(|index| Some((index, grouped.groups.get_mut(index)?)))
            else {
                grouped.unroutable += 1;
                continue;
            };
            group.records.push(record);
            last = Some((key, index));
        }
        grouped
    }

    fn open_group(&mut self, key: &Bytes) -> Option<usize> {
        let id = WorkspaceId::new(std::str::from_utf8(key).ok()?).ok()?;
        self.groups.push(Group {
            id,
            records: Vec::new(),
        });
        Some(self.groups.len() - 1)
    }

    /// The workspaces of the batch, each with its first offset.
    pub(crate) fn touched(&self) -> Vec<Touched> {
        self.groups
            .iter()
            .filter_map(|group| {
                let first_offset = group.records.first()?.offset;
                Some(Touched {
                    id: group.id.clone(),
                    first_offset,
                })
            })
            .collect()
    }

    pub(crate) fn into_groups(self) -> impl Iterator<Item = Group> {
        self.groups.into_iter()
    }

    pub(crate) fn records(&self) -> u64 {
        self.groups
            .iter()
            .map(|group| u64::try_from(group.records.len()).unwrap_or(0))
            .sum()
    }
}

/// Where an event comes from, for the text that names a poison event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: workspace_lifecycle::PartitionId,
}

/// Applies a group to its workspace from `plan.from` on, up to the first event that it cannot apply.
/// After the last of them the workspace stands at `end`.
pub(crate) fn apply<W: Workspace>(
    loaded: &LoadedWorkspace<W>,
    group: &Group,
    plan: ApplyTo,
    end: Offset,
    source: Source<'_>,
) -> AppliedTo {
    loaded.write(|workspace, applied| {
        let mut result = AppliedTo { slot: plan.slot, events: 0, save_requested: false, poison: None };
        let mut stopped = None;
        for record in group.records.iter().filter(|record| record.offset >= plan.from) {
            // A panic of a user's workspace type must not take the partition with it.
            let outcome = catch_unwind(AssertUnwindSafe(|| apply_one(workspace, &group.id, record)))
                .unwrap_or_else(|panic| Err(format!("applying it panicked: {}", panic_text(&*panic))));
            match outcome {
                Ok(Effect::Applied) => {}
                Ok(Effect::SaveRequested) => result.save_requested = true,
                Err(reason) => {
                    stopped = Some(Poison {
                        offset: record.offset,
                        reason: format!(
                            "event at topic {} partition {} offset {} key {} cannot be applied: {reason}",
                            source.topic, source.partition, record.offset, group.id
                        ),
                    });
                    break;
                }
            }
            result.events += 1;
        }
        let reached = stopped.as_ref().map_or(end, |poison| poison.offset);
        *applied = Applied {
            next_offset: applied.next_offset.max(reached),
            events_applied: applied.events_applied + result.events,
        };
        result.poison = stopped;
        result
    })
}

enum Effect {
    Applied,
    SaveRequested,
}

fn apply_one<W: Workspace>(
    workspace: &mut W,
    id: &WorkspaceId,
    record: &Record,
) -> Result<Effect, String> {
    let event = Event::parse(record.offset, id, record.value.as_deref())
        .map_err(|error| error.to_string())?;
    match event.event_type() {
        "workspace.save" => Ok(Effect::SaveRequested),
        "workspace.tick" => Ok(Effect::Applied),
        _ => workspace
            .apply(&event)
            .map(|()| Effect::Applied)
            .map_err(|rejection| rejection.0),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
