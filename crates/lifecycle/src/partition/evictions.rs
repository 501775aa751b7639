//! Workspaces that leave memory because it is needed, and what brings them back.
//!
//! An evicted workspace is cold: the lanes only look whether it has events. Those stay in the log until it is worth
//! loading it: a load costs as much for one event as for a thousand, so the events of some time are applied at once.
//! Its first unapplied event holds the trim floor no longer back than the unsaved events of a workspace in memory do.

use std::collections::{BTreeSet, HashMap};

use super::{Ownership, Partition};
use crate::workspace::{AfterLeaving, Phase, Quiet};
use crate::{Offset, Report, Residence, Slot, Time, Urgency};

/// Evicted workspaces with unapplied events.
#[derive(Debug, Default)]
pub(super) struct Evicted {
    /// The first unapplied event of each, and when it must be loaded at the latest.
    behind: HashMap<Slot, (Offset, Time)>,
    by_offset: BTreeSet<(Offset, Slot)>,
    by_time: BTreeSet<(Time, Slot)>,
}

impl Evicted {
    fn note(&mut self, slot: Slot, first: Offset, due: Time) {
        let due = self.behind.get(&slot).map_or(due, |(_, earlier)| *earlier);
        self.forget(slot);
        self.behind.insert(slot, (first, due));
        self.by_offset.insert((first, slot));
        self.by_time.insert((due, slot));
    }

    pub(super) fn forget(&mut self, slot: Slot) {
        if let Some((first, due)) = self.behind.remove(&slot) {
            self.by_offset.remove(&(first, slot));
            self.by_time.remove(&(due, slot));
        }
    }

    pub(super) fn due_at(&self) -> Option<Time> {
        self.by_time.first().map(|(due, _)| *due)
    }
}

impl Partition {
    pub(super) fn evict(&mut self, slots: &[Slot]) {
        if self.ownership != Ownership::Owned {
            return;
        }
        for slot in slots {
            let workspace = self.workspaces.at(*slot);
            let follows = matches!(workspace.phase, Phase::Following { .. });
            if follows && workspace.ready_since.is_some() && !workspace.urgent {
                self.leave(*slot, AfterLeaving::Evicted, "its memory is needed");
            }
        }
    }

    /// Completes the eviction of a workspace after its last save.
    pub(super) fn left_evicted(&mut self, slot: Slot) {
        self.release(slot, "its memory is needed", Residence::Evicted);
        self.note_evicted(slot);
    }

    /// Notes whether an evicted workspace has unapplied events.
    pub(super) fn note_evicted(&mut self, slot: Slot) {
        let workspace = self.workspaces.at(slot);
        if workspace.residence != Residence::Evicted {
            return;
        }
        match workspace.quiet {
            Quiet::Ends(first) => {
                let due = self.now + self.limits.max_evicted_age;
                self.evicted.note(slot, first, due);
            }
            Quiet::Until(_) | Quiet::With { .. } => self.evicted.forget(slot),
        }
    }

    /// Loads the evicted workspaces whose events have waited long enough, before ordinary loads. No client waits, so
    /// they share the next round.
    pub(super) fn load_evicted(&mut self) {
        let reached = self.live.cursor;
        loop {
            let late = self.evicted.by_offset.first().copied();
            let late =
                late.filter(|(first, _)| reached.since(*first) >= self.limits.max_evicted_lag);
            let old = self.evicted.by_time.first().copied();
            let old = old.filter(|(due, _)| *due <= self.now);
            let late = late.map(|(_, slot)| slot);
            let Some(slot) = late.or_else(|| old.map(|(_, slot)| slot)) else {
                return;
            };
            self.evicted.forget(slot);
            // An erasure under way ends with a load, or with the deletion.
            if self.workspaces.at(slot).phase == Phase::Cold {
                self.begin_load_in_turn(slot, Urgency::Due);
            }
        }
    }

    /// An operator unloads a workspace that is not in memory: its events do not bring it back.
    pub(super) fn stays_unloaded(&mut self, slot: Slot) {
        let residence = Residence::Unloaded;
        let before = std::mem::replace(&mut self.workspaces.at_mut(slot).residence, residence);
        if before == Residence::Evicted {
            self.evicted.forget(slot);
            self.report(slot, Report::Removed { residence });
        }
    }
}
