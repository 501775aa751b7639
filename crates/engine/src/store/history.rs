//! The history of a workspace: transitions, stored in parts of loads.
//!
//! A part has the transitions of one load that were written together. Its place is its name in a store: a part that is
//! written again, with the same transitions or more, replaces the first. Parts of a load may overlap; a reader takes
//! each transition once.
//!
//! A claim is not synced, so after a crash of the machine an epoch may be used by a second load. The begin of its load
//! is in the place of a part, so the second load replaces nothing of the first. A reader numbers the transitions of the
//! second after those of the first, so that a cursor names one transition.

use std::time::{Duration, SystemTime};

use workspace_status::{Epoch, Snapshot, State, Transition, WorkspaceId};

use crate::clock;

/// Most transitions that a store keeps of one workspace; beyond that the oldest are removed. They are counted now and
/// then ([`HistoryPart::is_counted`]), so a few more may be stored for a while.
pub const MAX_HISTORY_TRANSITIONS: usize = 10_000;

/// A history is counted when it has grown by about so many transitions or loads.
const COUNTED_EVERY: u64 = 64;

/// Cursor of a page of history: the page begins after this transition, given by epoch and sequence.
pub type HistoryCursor = (Epoch, u64);

/// One transition as it is kept permanently (up to the store's limit per workspace).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRecord {
    /// The workspace.
    pub id: WorkspaceId,
    /// Number of the transition; it rises within an epoch.
    pub sequence: u64,
    /// Epoch of the load it belongs to.
    pub epoch: Epoch,
    /// Time of the first transition of that load, in milliseconds since the Unix epoch.
    pub begun_ms: u64,
    /// The owner of the workspace at that time.
    pub owner: String,
    /// State before.
    pub from: State,
    /// State after.
    pub to: State,
    /// Time of the transition, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Duration of the state before, in microseconds.
    pub time_in_from_us: u64,
    /// The message of the transition.
    pub message: String,
}

impl HistoryRecord {
    /// The record of a transition in a snapshot of its workspace, as the first of its load.
    pub fn of(snapshot: &Snapshot, transition: &Transition) -> Self {
        let at_ms = clock::unix_ms(transition.timestamp());
        Self {
            id: snapshot.id().clone(),
            sequence: transition.sequence(),
            epoch: transition.epoch(),
            begun_ms: at_ms,
            owner: snapshot.owner().unwrap_or_default().to_owned(),
            from: transition.from_state(),
            to: transition.to_state(),
            at_ms,
            time_in_from_us: clock::micros(transition.time_in_from()),
            message: transition.message().to_owned(),
        }
    }

    /// Time of the transition.
    pub fn at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.at_ms)
    }
}

/// Where a part of a history begins; parts are ordered by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryPlace {
    /// Epoch of the load.
    pub epoch: Epoch,
    /// Time of the first transition of the load, in milliseconds since the Unix epoch.
    pub begun_ms: u64,
    /// Number of the first transition of the part.
    pub sequence: u64,
}

/// Transitions of one load that follow each other, as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPart {
    /// The workspace.
    pub id: WorkspaceId,
    /// Epoch of the load.
    pub epoch: Epoch,
    /// Time of the first transition of the load, in milliseconds since the Unix epoch.
    pub begun_ms: u64,
    /// The owner of the workspace.
    pub owner: String,
    /// Oldest first, at least one.
    pub transitions: Vec<PartTransition>,
}

/// A transition of a [`HistoryPart`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartTransition {
    /// Its number.
    pub sequence: u64,
    /// State before.
    pub from: State,
    /// State after.
    pub to: State,
    /// Its time, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Duration of the state before, in microseconds.
    pub time_in_from_us: u64,
    /// Its message.
    pub message: String,
}

impl HistoryPart {
    /// The parts that transitions of one workspace make, ordered.
    pub fn of(mut records: Vec<HistoryRecord>) -> Vec<Self> {
        let place = |record: &HistoryRecord| (record.epoch, record.begun_ms, record.sequence);
        records.sort_by_key(place);
        records.dedup_by_key(|record| place(record));
        let mut parts: Vec<Self> = Vec::new();
        for record in records {
            let HistoryRecord {
                id,
                sequence,
                epoch,
                begun_ms,
                owner,
                from,
                to,
                at_ms,
                time_in_from_us,
                message,
            } = record;
            let transition = PartTransition {
                sequence,
                from,
                to,
                at_ms,
                time_in_from_us,
                message,
            };
            match parts.last_mut() {
                Some(part)
                    if (part.epoch, part.begun_ms) == (epoch, begun_ms) && part.owner == owner =>
                {
                    part.transitions.push(transition);
                }
                Some(_) | None => parts.push(Self {
                    id,
                    epoch,
                    begun_ms,
                    owner,
                    transitions: vec![transition],
                }),
            }
        }
        parts
    }

    /// Where it begins.
    pub fn place(&self) -> HistoryPlace {
        HistoryPlace {
            epoch: self.epoch,
            begun_ms: self.begun_ms,
            sequence: self.first(),
        }
    }

    fn first(&self) -> u64 {
        self.transitions.first().map_or(0, |first| first.sequence)
    }

    /// Whether the history is counted when the part is added.
    ///
    /// The sums of epoch and sequence of a workspace's transitions rise by one, by two where a load begins in the same
    /// process. So the part covers the sums from its first one to the one after its last, and every multiple of 64 is
    /// in a part.
    pub fn is_counted(&self) -> bool {
        let sum = |sequence: u64| self.epoch.get().saturating_add(sequence);
        let last = self.transitions.last().map_or(0, |last| last.sequence);
        let end = sum(last).saturating_add(1);
        end / COUNTED_EVERY * COUNTED_EVERY >= sum(self.first())
    }
}

/// A page of a history, built from parts in their order, all of the cursor's epoch included.
#[derive(Debug)]
pub(super) struct Page {
    after: Option<HistoryCursor>,
    limit: usize,
    records: Vec<HistoryRecord>,
    /// Epoch and begin of the last load, and the last sequence of its own.
    load: Option<(Epoch, u64, u64)>,
    /// The last number that was given in its epoch.
    number: u64,
}

impl Page {
    pub(super) fn new(after: Option<HistoryCursor>, limit: usize) -> Self {
        Self {
            after,
            limit,
            records: Vec::new(),
            load: None,
            number: 0,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.records.len() >= self.limit
    }

    pub(super) fn records(self) -> Vec<HistoryRecord> {
        self.records
    }

    /// Adds the next part.
    pub(super) fn add(&mut self, part: HistoryPart) {
        let HistoryPart {
            id,
            epoch,
            begun_ms,
            owner,
            transitions,
        } = part;
        let mut last = match self.load {
            Some((same_epoch, same_begin, last))
                if (same_epoch, same_begin) == (epoch, begun_ms) =>
            {
                Some(last)
            }
            Some(_) | None => None,
        };
        if self.load.is_none_or(|(before, ..)| before != epoch) {
            self.number = 0;
        }
        for transition in transitions {
            if last.is_some_and(|last| transition.sequence <= last) {
                continue;
            }
            last = Some(transition.sequence);
            self.number = transition.sequence.max(self.number.saturating_add(1));
            let cursor = (epoch, self.number);
            if self.is_full() || self.after.is_some_and(|after| cursor <= after) {
                continue;
            }
            self.records.push(HistoryRecord {
                id: id.clone(),
                sequence: self.number,
                epoch,
                begun_ms,
                owner: owner.clone(),
                from: transition.from,
                to: transition.to,
                at_ms: transition.at_ms,
                time_in_from_us: transition.time_in_from_us,
                message: transition.message,
            });
        }
        self.load = Some((epoch, begun_ms, last.unwrap_or_default()));
    }
}

#[cfg(test)]
mod tests;
