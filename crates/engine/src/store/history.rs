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
    /// Epoch of the load it belongs to.
    pub epoch: Epoch,
    /// Time of the first transition of that load, in milliseconds since the Unix epoch.
    pub begun_ms: u64,
    /// The owner of the workspace at that time.
    pub owner: String,
    /// The transition itself.
    pub transition: StoredTransition,
}

/// A transition of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTransition {
    /// Its number; it rises within an epoch.
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

impl HistoryRecord {
    /// The record of a transition in a snapshot of its workspace, as the first of its load.
    pub fn of(snapshot: &Snapshot, transition: &Transition) -> Self {
        let at_ms = clock::unix_ms(transition.timestamp());
        Self {
            id: snapshot.id().clone(),
            epoch: transition.epoch(),
            begun_ms: at_ms,
            owner: snapshot.owner().unwrap_or_default().to_owned(),
            transition: StoredTransition {
                sequence: transition.sequence(),
                from: transition.from_state(),
                to: transition.to_state(),
                at_ms,
                time_in_from_us: clock::micros(transition.time_in_from()),
                message: transition.message().to_owned(),
            },
        }
    }

    /// Time of the transition.
    pub fn at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.transition.at_ms)
    }

    /// The cursor of the page that begins after it.
    pub fn cursor(&self) -> HistoryCursor {
        (self.epoch, self.transition.sequence)
    }

    /// The place of a part that begins with it.
    pub(super) fn place(&self) -> HistoryPlace {
        HistoryPlace {
            epoch: self.epoch,
            begun_ms: self.begun_ms,
            sequence: self.transition.sequence,
        }
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
    pub transitions: Vec<StoredTransition>,
}

impl HistoryPart {
    /// The parts that transitions of one workspace make, ordered.
    pub fn of(mut records: Vec<HistoryRecord>) -> Vec<Self> {
        records.sort_by_key(HistoryRecord::place);
        records.dedup_by_key(|record| record.place());
        let mut parts: Vec<Self> = Vec::new();
        for record in records {
            let HistoryRecord {
                id,
                epoch,
                begun_ms,
                owner,
                transition,
            } = record;
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

    /// Its transitions, each by itself.
    pub(super) fn records(self) -> impl Iterator<Item = HistoryRecord> {
        let Self {
            id,
            epoch,
            begun_ms,
            owner,
            transitions,
        } = self;
        transitions
            .into_iter()
            .map(move |transition| HistoryRecord {
                id: id.clone(),
                epoch,
                begun_ms,
                owner: owner.clone(),
                transition,
            })
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
    /// The last transition that was added, whether the page has it or not.
    last: Option<HistoryPlace>,
    /// The last number that was given in its epoch.
    number: u64,
}

impl Page {
    pub(super) fn new(after: Option<HistoryCursor>, limit: usize) -> Self {
        Self {
            after,
            limit,
            records: Vec::new(),
            last: None,
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
        for record in part.records() {
            self.push(record);
        }
    }

    /// Adds the next transition, unless a part before had it.
    pub(super) fn push(&mut self, mut record: HistoryRecord) {
        let place = record.place();
        let load = |place: HistoryPlace| (place.epoch, place.begun_ms);
        if self
            .last
            .is_some_and(|last| load(last) == load(place) && place <= last)
        {
            return;
        }
        if self.last.is_none_or(|last| last.epoch != place.epoch) {
            self.number = 0;
        }
        self.last = Some(place);
        self.number = place.sequence.max(self.number.saturating_add(1));
        record.transition.sequence = self.number;
        if !self.is_full() && self.after.is_none_or(|after| record.cursor() > after) {
            self.records.push(record);
        }
    }
}

#[cfg(test)]
mod tests;
