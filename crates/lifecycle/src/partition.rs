//! A partition and its workspaces: one state machine that makes every decision between the log and the store.
//!
//! The partition is read in two lanes. The *live* lane begins at the end of
//! the partition and follows it. Everything below is read by *rounds* of the
//! catch-up lane. A round begins at the smallest `next_offset` of the
//! workspaces that wait for it. Workspaces loaded while it runs join it if they
//! are not behind it. It ends at the cursor of the live lane; then its
//! workspaces follow the live lane. So a late workspace never delays the
//! others, and reading never takes longer than the loads it waits for.

mod commands;
mod erasures;
mod evictions;
mod fetch_failures;
mod lanes;
mod loads;
mod quiet;
mod saves;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use workspace_status::{Epoch, WorkspaceId};

use self::evictions::Evicted;
use self::lanes::{LaneRun, Waiting};
use self::saves::Saving;
pub use self::view::{Holder, Position};
use crate::retry::Failures;
use crate::workspace::{AfterLeaving, Phase, Quiet, Slots, StoredEpoch, Workspace};
use crate::{
    Action, CommandError, Deleted, Input, Lane, Listing, Offset, PartitionId, Report, Residence,
    RetryPolicy, Slot, Time,
};

/// Limits of a partition, and how long it waits to batch work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A save begins when this many events are unsaved.
    pub save_every_events: u64,
    /// A save begins when something has been unsaved for this long.
    pub save_every: Duration,
    /// Replaces `save_every` while a round of the catch-up lane runs, which also ignores `save_every_events`: of an
    /// entity that the round sets many times, only the last value is written.
    pub save_every_in_round: Duration,
    /// No further event is fetched while this many events are unsaved; at half of it a save begins.
    pub max_unsaved_events: u64,
    /// No further event is fetched while the unsaved changes have this many bytes; at half of it a save begins.
    /// The save of a single workspace may be this large: the store must accept that in one write, within its
    /// transaction timeout if it has one.
    pub max_unsaved_bytes: u64,
    /// Workspaces without events of their own are saved each time the live lane has advanced by this many offsets.
    pub stale_positions: u64,
    /// They are also saved after this long.
    pub stale_after: Duration,
    /// How long a batch of the catch-up lane waits for loads of its workspaces.
    pub hold_catch_up: Duration,
    /// How long a batch of the live lane waits for such loads.
    pub hold_live: Duration,
    /// How long a round waits for the other loads of the partition before it begins.
    pub gather: Duration,
    /// An evicted workspace is loaded once the live lane is this many offsets beyond its first unapplied event.
    pub max_evicted_lag: u64,
    /// It is also loaded this long after the lane has met that event.
    pub max_evicted_age: Duration,
    /// Waits between attempts.
    pub retry: RetryPolicy,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            save_every_events: 10_000,
            save_every: Duration::from_secs(1),
            save_every_in_round: Duration::from_secs(30),
            max_unsaved_events: 1_000_000,
            max_unsaved_bytes: 64 * 1024 * 1024,
            stale_positions: 50_000,
            stale_after: Duration::from_mins(1),
            hold_catch_up: Duration::from_secs(2),
            hold_live: Duration::from_millis(100),
            gather: Duration::from_millis(500),
            max_evicted_lag: 50_000,
            max_evicted_age: Duration::from_mins(1),
            retry: RetryPolicy::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ownership {
    New,
    Listing,
    ListAgain { at: Time },
    Owned,
    Leaving,
    Over,
}

/// The state machine of one partition for one assignment. It ends with [`Action::Released`].
#[derive(Debug)]
pub struct Partition {
    id: PartitionId,
    limits: Limits,
    now: Time,
    ownership: Ownership,
    list_failures: Failures,
    workspaces: Slots,
    by_id: HashMap<WorkspaceId, Slot>,
    /// Number of workspaces in `Phase::Deleted`.
    deleted: usize,
    high_watermark: Offset,
    live: LaneRun,
    round: Option<LaneRun>,
    /// Every workspace with an event below this is in `by_id`.
    discovered: Offset,
    /// Loads that are queued or under way.
    loading: usize,
    /// Workspaces in `Phase::Waiting`.
    waiting: Waiting,
    /// Workspaces that stop before an event that broke them.
    stopping: BTreeSet<Slot>,
    /// Offset of a damaged record that was passed: it may have been the first event of any workspace met after it.
    damaged_from: Option<Offset>,
    /// The next round begins at this time at the latest.
    gather_until: Option<Time>,
    retries: BTreeSet<(Time, Slot)>,
    /// The epoch before the first of this assignment.
    epoch_before: Epoch,
    /// Met in the log and not yet in the store: `committed` does not pass their first events.
    unclaimed: BTreeSet<Slot>,
    saving: Saving,
    /// Workspaces out of memory whose events a round looks for.
    looked_for: BTreeSet<Slot>,
    /// Some workspaces are behind, and no lane looks for their events yet.
    look_wanted: bool,
    /// Evicted workspaces with unapplied events.
    evicted: Evicted,
    /// After a revocation: workspaces that may still hold the partition.
    leaving: Vec<Slot>,
    out: Vec<Action>,
}

impl Partition {
    /// A partition before its assignment to this process.
    pub fn new(id: PartitionId, limits: Limits) -> Self {
        Self {
            id,
            limits,
            now: Time::default(),
            ownership: Ownership::New,
            list_failures: Failures::default(),
            workspaces: Slots::default(),
            by_id: HashMap::new(),
            deleted: 0,
            high_watermark: Offset::ZERO,
            live: LaneRun::at(Offset::ZERO),
            round: None,
            discovered: Offset::ZERO,
            loading: 0,
            waiting: Waiting::default(),
            stopping: BTreeSet::new(),
            damaged_from: None,
            gather_until: None,
            retries: BTreeSet::new(),
            epoch_before: Epoch::new(0),
            unclaimed: BTreeSet::new(),
            saving: Saving::default(),
            looked_for: BTreeSet::new(),
            look_wanted: false,
            evicted: Evicted::default(),
            leaving: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Processes one input and returns the actions to execute now, in order.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Action> {
        self.now = self.now.max(now);
        match input {
            Input::Assigned => self.assigned(),
            Input::Listed(listing) => self.listed(listing),
            Input::ListFailed { reason: _ } => self.list_failed(),
            Input::PermitGranted { slot } => self.permit_granted(slot),
            Input::Loaded {
                slot,
                epoch,
                first_offset,
                next_offset,
                events_applied,
                unsaved,
                high_watermark,
            } => {
                self.high_watermark = self.high_watermark.max(high_watermark);
                if self.end_of_load(slot, epoch) {
                    self.workspaces.at_mut(slot).first_offset = first_offset;
                    self.loaded(slot, next_offset, events_applied, unsaved);
                } else if !self.workspaces.at(slot).in_memory() {
                    self.out.push(Action::Drop { slot });
                }
            }
            Input::LoadFailed {
                slot,
                epoch,
                claimed,
                failure,
            } => self.load_failed(slot, epoch, claimed, failure),
            Input::Fetched {
                lane,
                next_offset,
                high_watermark,
                touched,
            } => {
                self.high_watermark = self.high_watermark.max(high_watermark);
                self.fetched(lane, next_offset, touched);
            }
            Input::FetchFailed { lane, failure } => self.fetch_failed(lane, failure),
            Input::Applied { lane, results } => self.applied(lane, results),
            Input::Appended { high_watermark } => {
                self.high_watermark = self.high_watermark.max(high_watermark);
            }
            Input::Saved { refused } => self.saved(refused),
            Input::SaveFailed { reason: _ } => self.save_failed(),
            Input::DeadLettered { slot, offset } => self.dead_lettered(slot, offset),
            Input::DeadLetterFailed { slot, reason } => self.dead_letter_failed(slot, reason),
            Input::Operator {
                id,
                command,
                ticket,
                low_watermark,
            } => self.operator(&id, command, ticket, low_watermark),
            Input::Erased {
                slot,
                epoch,
                stored,
                next_offset,
                left_over,
            } => {
                let result = left_over.map_or(Ok(()), |reason| Err(CommandError::Failed(reason)));
                self.erased(slot, epoch, stored, next_offset, result);
            }
            Input::EraseFailed {
                slot,
                epoch,
                failure,
            } => self.erase_failed(slot, epoch, failure),
            Input::Evict { slots } => self.evict(&slots),
            Input::Tick => {}
            Input::Revoked => self.revoked(),
            Input::Lost => self.lost(),
        }
        self.perform_due_work();
        std::mem::take(&mut self.out)
    }

    fn run(&self, lane: Lane) -> Option<&LaneRun> {
        match lane {
            Lane::Live => Some(&self.live),
            Lane::CatchUp => self.round.as_ref(),
        }
    }

    fn run_mut(&mut self, lane: Lane) -> Option<&mut LaneRun> {
        match lane {
            Lane::Live => Some(&mut self.live),
            Lane::CatchUp => self.round.as_mut(),
        }
    }

    fn report(&mut self, slot: Slot, report: Report) {
        self.out.push(Action::Report { slot, report });
    }

    fn assigned(&mut self) {
        if self.ownership == Ownership::New {
            self.ownership = Ownership::Listing;
            self.out.push(Action::List);
        }
    }

    fn list_failed(&mut self) {
        if self.ownership != Ownership::Listing {
            return;
        }
        let (_, wait) = self.list_failures.fail(&self.limits.retry, &self.id);
        self.ownership = Ownership::ListAgain {
            at: self.now + wait,
        };
    }

    fn listed(&mut self, listing: Listing) {
        if self.ownership != Ownership::Listing {
            return;
        }
        self.ownership = Ownership::Owned;
        self.high_watermark = listing.high_watermark;
        self.epoch_before = Epoch::new(listing.first_epoch.get().saturating_sub(1));
        self.live = LaneRun::at(listing.high_watermark);
        self.discovered = listing
            .committed
            .max(listing.low_watermark)
            .min(listing.high_watermark);
        self.saving = Saving::new(listing.committed.min(listing.high_watermark), self.now);
        self.gather_until = Some(self.now + self.limits.gather);
        for known in listing.workspaces {
            let slot = self.meet(known.id, known.epoch, known.next_offset, KnownToStore::Yes);
            let workspace = self.workspaces.at_mut(slot);
            workspace.first_offset = known.first_offset;
            workspace.damaged = known.damaged;
            workspace.residence = known.residence;
            match known.residence {
                Residence::Memory => self.begin_load(slot),
                Residence::Unloaded => {}
                Residence::Evicted => self.note_evicted(slot),
            }
        }
        for deleted in listing.deleted {
            if let Some(slot) = self.slot(&deleted.id) {
                // A new workspace of that name was begun since.
                let workspace = self.workspaces.at_mut(slot);
                workspace.first_offset = workspace.first_offset.max(deleted.next_offset);
            } else {
                let Deleted {
                    id,
                    epoch,
                    next_offset,
                } = deleted;
                let slot = self.meet(id, epoch, next_offset, KnownToStore::Yes);
                self.workspaces.at_mut(slot).phase = Phase::Deleted;
                self.deleted += 1;
            }
        }
    }

    fn meet(
        &mut self,
        id: WorkspaceId,
        epoch: Epoch,
        next_offset: Offset,
        known: KnownToStore,
    ) -> Slot {
        let stored_epoch = match known {
            KnownToStore::Yes => StoredEpoch::Listed(epoch),
            KnownToStore::No => StoredEpoch::Unknown,
        };
        let quiet = match known {
            KnownToStore::Yes if next_offset >= self.live.cursor => Quiet::With {
                lane: Lane::Live,
                from: next_offset,
            },
            KnownToStore::Yes => Quiet::Until(next_offset),
            KnownToStore::No => Quiet::Ends(next_offset),
        };
        let slot = self.workspaces.insert(Workspace {
            id: id.clone(),
            epoch: epoch.max(self.epoch_before),
            next_offset,
            first_offset: next_offset,
            saved_next_offset: next_offset,
            events_applied: 0,
            quiet,
            damaged: false,
            stored_epoch,
            stops_before: None,
            target: None,
            ready_since: None,
            urgent: false,
            residence: Residence::Memory,
            unsaved: false,
            failures: Failures::default(),
            phase: Phase::Cold,
        });
        if known == KnownToStore::No {
            self.unclaimed.insert(slot);
        }
        self.by_id.insert(id, slot);
        slot
    }

    /// Does everything that is due. Called after every input, so that no decision depends on having seen an edge.
    fn perform_due_work(&mut self) {
        match self.ownership {
            Ownership::ListAgain { at } if at <= self.now => {
                self.ownership = Ownership::Listing;
                self.out.push(Action::List);
            }
            Ownership::New | Ownership::Listing | Ownership::ListAgain { .. } | Ownership::Over => {
            }
            Ownership::Owned => {
                self.retry_loads();
                self.load_evicted();
                self.drive_lanes();
                self.save_if_due();
                // Planning a save may find that a round must look for events.
                if self.look_wanted && self.round.is_none() {
                    self.drive_lanes();
                }
                // The lanes may have found events of evicted workspaces.
                self.load_evicted();
            }
            Ownership::Leaving => {
                self.save_if_due();
                while self
                    .leaving
                    .pop_if(|slot| !self.workspaces.at(*slot).holds_partition())
                    .is_some()
                {}
                if self.leaving.is_empty() {
                    self.ownership = Ownership::Over;
                    self.out.push(Action::Released);
                }
            }
        }
    }

    fn revoked(&mut self) {
        match self.ownership {
            Ownership::Leaving | Ownership::Over => return,
            Ownership::New
            | Ownership::Listing
            | Ownership::ListAgain { .. }
            | Ownership::Owned => {}
        }
        self.ownership = Ownership::Leaving;
        self.saving.try_at_once();
        for slot in self.workspaces.slots() {
            if self.workspaces.at(slot).in_memory() {
                self.leave(
                    slot,
                    AfterLeaving::HandedOver,
                    "the partition is handed over",
                );
            } else if !matches!(self.workspaces.at(slot).phase, Phase::Erasing(_)) {
                self.release(slot, "the partition is handed over", Residence::Memory);
            }
        }
        self.stop_lanes();
        self.leaving = self
            .workspaces
            .iter()
            .filter(|(_, workspace)| workspace.holds_partition())
            .map(|(slot, _)| slot)
            .collect();
    }

    fn lost(&mut self) {
        if self.ownership == Ownership::Over {
            return;
        }
        for slot in self.workspaces.slots() {
            self.refuse_ticket(slot, CommandError::Leaving);
            if self.workspaces.at(slot).in_memory() {
                self.out.push(Action::Drop { slot });
            }
            self.release(slot, "the partition is lost", Residence::Memory);
        }
        self.stop_lanes();
        self.saving.forget();
        self.ownership = Ownership::Over;
        self.out.push(Action::Released);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KnownToStore {
    Yes,
    No,
}
