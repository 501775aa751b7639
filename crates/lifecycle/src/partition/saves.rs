//! Saves of a partition: when to save, what to save, and what the store holds.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::Duration;

use super::{Ownership, Partition};
use crate::retry::Failures;
use crate::workspace::{AfterLeaving, Phase, StoredEpoch};
use crate::{
    Action, Advance, AppliedTo, Lane, Offset, Refusal, Refused, Residence, SaveOne, SavePlan, Slot,
    Time, Urgency,
};

/// Maximum of offsets that one save advances for workspaces out of memory; further ones wait for the next save.
const MAX_ADVANCES: usize = 4096;

/// Unsaved changes and the save under way. At most one save is under way.
#[derive(Debug, Default)]
pub(super) struct Saving {
    unsaved: Vec<Slot>,
    unsaved_events: Amount,
    unsaved_since: Option<Time>,
    soon: bool,
    under_way: Option<UnderWay>,
    again_at: Option<Time>,
    failures: Failures,
    committed: Offset,
    /// Time of the last check for workspaces with outdated stored offsets, and the live lane's cursor at that time.
    stale_at: Time,
    stale_from: Offset,
    /// Workspaces out of memory whose `next_offset` in the store must be advanced.
    advances: Vec<Slot>,
}

#[derive(Debug)]
struct UnderWay {
    plan: SavePlan,
    events: Amount,
}

/// Amount of applied events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Amount {
    events: u64,
    bytes: u64,
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.bytes += other.bytes;
    }
}

impl Saving {
    pub(super) fn new(committed: Offset, now: Time) -> Self {
        Self {
            committed,
            stale_at: now,
            ..Self::default()
        }
    }

    /// The committed offset in the store: below it the store knows every workspace with events.
    pub(super) fn committed(&self) -> Offset {
        self.committed
    }

    /// Cancels the wait before the next attempt: a handover has a deadline.
    pub(super) fn try_at_once(&mut self) {
        self.again_at = None;
        self.failures.clear();
    }

    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn unsaved(&self) -> Amount {
        let mut unsaved = self.unsaved_events;
        if let Some(save) = &self.under_way {
            unsaved += save.events;
        }
        unsaved
    }
}

impl Partition {
    pub(super) fn mark_applied(&mut self, applied: &AppliedTo) {
        self.saving.unsaved_events += Amount {
            events: applied.events,
            bytes: applied.bytes,
        };
        self.mark_unsaved(applied.slot);
    }

    pub(super) fn mark_unsaved(&mut self, slot: Slot) {
        let workspace = self.workspaces.at_mut(slot);
        if !workspace.unsaved {
            workspace.unsaved = true;
            self.saving.unsaved.push(slot);
        }
        self.saving.unsaved_since.get_or_insert(self.now);
    }

    pub(super) fn save_soon(&mut self) {
        self.saving.soon = true;
    }

    /// Whether so much is unsaved that nothing more may be fetched.
    pub(super) fn must_save_first(&self) -> bool {
        let Amount { events, bytes } = self.saving.unsaved();
        events >= self.limits.max_unsaved_events || bytes >= self.limits.max_unsaved_bytes
    }

    pub(super) fn save_due_at(&self) -> Option<Time> {
        match self.ownership {
            Ownership::Owned | Ownership::Leaving if self.saving.under_way.is_none() => {}
            Ownership::Owned
            | Ownership::Leaving
            | Ownership::New
            | Ownership::Listing
            | Ownership::ListAgain { .. }
            | Ownership::Over => return None,
        }
        if let Some(again) = self.saving.again_at {
            return Some(again);
        }
        let stale = match self.ownership {
            Ownership::Owned => Some(self.saving.stale_at + self.limits.stale_after),
            Ownership::Leaving
            | Ownership::New
            | Ownership::Listing
            | Ownership::ListAgain { .. }
            | Ownership::Over => None,
        };
        let unsaved = self
            .saving
            .unsaved_since
            .map(|since| since + self.save_every());
        [unsaved, stale].into_iter().flatten().min()
    }

    pub(super) fn save_if_due(&mut self) {
        if self.saving.under_way.is_some() || self.saving.again_at.is_some_and(|at| at > self.now) {
            return;
        }
        // A save must hold a batch that is being applied entirely or not at all.
        if self.is_applying() {
            return;
        }
        self.mark_stale();
        let due = self.saving.soon
            || self.saving.unsaved_events.events >= self.save_every_events()
            || self.saving.unsaved_events.bytes >= self.limits.max_unsaved_bytes / 2
            || self
                .saving
                .unsaved_since
                .is_some_and(|since| self.now >= since + self.save_every());
        if !due {
            return;
        }
        self.saving.soon = false;
        self.saving.again_at = None;
        self.saving.unsaved_since = None;
        let slots = std::mem::take(&mut self.saving.unsaved);
        let mut plan = SavePlan {
            workspaces: Vec::with_capacity(slots.len()),
            advances: self.take_advances(),
            committed: self.committable(),
        };
        for slot in slots {
            let next_offset = self.next_offset(slot);
            let workspace = self.workspaces.at_mut(slot);
            workspace.unsaved = false;
            if !workspace.in_memory() {
                continue;
            }
            let residence = if let Phase::Leaving { then, planned } = &mut workspace.phase {
                *planned = true;
                match then {
                    AfterLeaving::Cold(_) => Residence::Unloaded,
                    AfterLeaving::Evicted => Residence::Evicted,
                    AfterLeaving::Reload(_) | AfterLeaving::HandedOver => Residence::Memory,
                }
            } else {
                Residence::Memory
            };
            plan.workspaces.push(SaveOne {
                slot,
                epoch: workspace.epoch,
                next_offset,
                events_applied: workspace.events_applied,
                residence,
            });
        }
        let events = std::mem::take(&mut self.saving.unsaved_events);
        if plan.workspaces.is_empty()
            && plan.advances.is_empty()
            && plan.committed <= self.saving.committed
        {
            // The unsaved events of dropped workspaces will be replayed. They no longer block fetches, so continue.
            if events != Amount::default() && self.ownership == Ownership::Owned {
                self.drive_lanes();
            }
            return;
        }
        self.saving.under_way = Some(UnderWay {
            plan: plan.clone(),
            events,
        });
        self.out.push(Action::Save(plan));
    }

    /// How long something may be unsaved. Losing an unsaved round only costs the time to read it again.
    fn save_every(&self) -> Duration {
        match self.replay_round() {
            Some(_) => self.limits.save_every_in_round,
            None => self.limits.save_every,
        }
    }

    fn save_every_events(&self) -> u64 {
        let half = (self.limits.max_unsaved_events / 2).max(1);
        match self.replay_round() {
            Some(_) => half,
            None => self.limits.save_every_events.min(half),
        }
    }

    /// Marks workspaces whose `next_offset` in the store is behind, every `stale_after` or `stale_positions`
    /// offsets of the live lane, so that a restart reads little and the log can be trimmed.
    fn mark_stale(&mut self) {
        if self.ownership != Ownership::Owned {
            return;
        }
        let far = self.live.cursor.since(self.saving.stale_from) >= self.limits.stale_positions;
        if !far && self.now < self.saving.stale_at + self.limits.stale_after {
            return;
        }
        self.saving.stale_at = self.now;
        self.saving.stale_from = self.live.cursor;
        for slot in self.workspaces.slots() {
            let workspace = self.workspaces.at(slot);
            let follows = Lane::ALL.into_iter().any(|lane| workspace.follows(lane));
            let stopped = matches!(workspace.phase, Phase::Stopped { .. });
            if (follows || stopped)
                && self.next_offset(slot) > self.workspaces.at(slot).saved_next_offset
            {
                self.mark_unsaved(slot);
            }
        }
        self.saving.advances = self.behind();
        if !self.saving.advances.is_empty() || self.committable() > self.saving.committed {
            self.saving.unsaved_since.get_or_insert(self.now);
        }
    }

    /// Takes at most `MAX_ADVANCES` advances; a further save is scheduled for the others.
    fn take_advances(&mut self) -> Vec<Advance> {
        if self.ownership != Ownership::Owned {
            return Vec::new();
        }
        let mut slots = std::mem::take(&mut self.saving.advances);
        if slots.len() > MAX_ADVANCES {
            self.saving.advances = slots.split_off(MAX_ADVANCES);
            self.saving.unsaved_since = Some(self.now);
        }
        let mut advances = Vec::with_capacity(slots.len());
        for slot in slots {
            let next_offset = self.quiet_until(slot);
            let workspace = self.workspaces.at_mut(slot);
            if !workspace.rests() || next_offset <= workspace.saved_next_offset {
                continue;
            }
            let (stored, epoch) = match workspace.stored_epoch {
                // Only a load finds the stored epoch.
                StoredEpoch::Unknown => continue,
                StoredEpoch::Listed(stored) => {
                    workspace.epoch = workspace.epoch.next();
                    (stored, workspace.epoch)
                }
                StoredEpoch::Own(own) => (own, own),
            };
            advances.push(Advance {
                slot,
                stored,
                epoch,
                next_offset,
            });
        }
        advances
    }

    /// Below this offset the store knows every workspace with events.
    fn committable(&self) -> Offset {
        self.unclaimed
            .iter()
            .map(|slot| self.workspaces.at(*slot).next_offset)
            .fold(self.discovered, Ord::min)
            .max(self.saving.committed)
    }

    pub(super) fn saved(&mut self, refused: Vec<Refused>) {
        let Some(save) = self.saving.under_way.take() else {
            return;
        };
        self.saving.failures.clear();
        self.saving.committed = save.plan.committed;
        let mut refused: BTreeMap<Slot, Refusal> = refused
            .into_iter()
            .map(|refused| (refused.slot, refused.refusal))
            .collect();
        let mut to_load = Vec::new();
        for one in &save.plan.advances {
            let refusal = refused.remove(&one.slot);
            let workspace = self.workspaces.at_mut(one.slot);
            let (StoredEpoch::Listed(stored) | StoredEpoch::Own(stored)) = workspace.stored_epoch
            else {
                continue;
            };
            // It was loaded or erased meanwhile, or is about to be loaded or erased.
            if !workspace.rests() || stored != one.stored {
                continue;
            }
            match refusal {
                None => {
                    workspace.stored_epoch = StoredEpoch::Own(one.epoch);
                    workspace.saved_next_offset = workspace.saved_next_offset.max(one.next_offset);
                    workspace.next_offset = workspace.next_offset.max(one.next_offset);
                }
                Some(Refusal::TakenOver) => workspace.stored_epoch = StoredEpoch::Unknown,
                // The next check for outdated offsets tries again.
                Some(Refusal::ForNow(_)) => {}
                Some(Refusal::ForGood(_)) => workspace.damaged = true,
            }
            // No operator keeps an evicted workspace out of memory: its load finds out, or parks it.
            let is_stuck = workspace.damaged || workspace.stored_epoch == StoredEpoch::Unknown;
            let is_evicted = workspace.residence == Residence::Evicted;
            if is_stuck && is_evicted && self.ownership == Ownership::Owned {
                to_load.push(one.slot);
            }
        }
        for slot in to_load {
            self.begin_load_in_turn(slot, Urgency::Due);
        }
        for one in &save.plan.workspaces {
            if let Some(refusal) = refused.remove(&one.slot) {
                let workspace = self.workspaces.at(one.slot);
                if workspace.in_memory() && workspace.epoch == one.epoch {
                    self.save_refused(one.slot, &refusal);
                }
                continue;
            }
            let workspace = self.workspaces.at_mut(one.slot);
            // A later epoch may be of an erasure: then the store holds less than this save wrote.
            if workspace.epoch == one.epoch {
                workspace.saved_next_offset = workspace.saved_next_offset.max(one.next_offset);
            }
            if let Phase::Leaving {
                then,
                planned: true,
            } = workspace.phase
            {
                self.left(one.slot, then);
            }
        }
    }

    pub(super) fn save_failed(&mut self) {
        let Some(save) = self.saving.under_way.take() else {
            return;
        };
        let (_, wait) = self.saving.failures.fail(&self.limits.retry, &self.id);
        self.saving.again_at = Some(self.now + wait);
        self.saving.soon = true;
        self.saving.unsaved_events += save.events;
        for one in save.plan.workspaces {
            if let Phase::Leaving { planned, .. } = &mut self.workspaces.at_mut(one.slot).phase {
                *planned = false;
            }
            self.mark_unsaved(one.slot);
        }
    }
}
