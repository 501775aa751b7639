//! Workspaces out of memory without events of their own: they must hold back neither retention nor a restart.
//!
//! The live lane names the workspaces of every batch. If a workspace left memory at the lane's cursor, the
//! batches since show whether it has an event, without an extra read. If it was out of memory when the
//! partition was assigned, the log between its stored `next_offset` and the live lane must be searched once.
//! A round that yields to everything else does that; other rounds do it in passing.
//!
//! Invariant: the store is written before the floor rises. So a workspace never needs an event below the floor,
//! also after a restart.
//!
//! Invariant: everything that a lane passes unread (a damaged record, a range removed by retention or lost) counts
//! as an event of every workspace that the lane looks for.

use super::Partition;
use super::lanes::{LaneRun, NextEvent};
use crate::workspace::{Phase, Quiet};
use crate::{Lane, Offset, Slot};

impl Partition {
    /// The round of the catch-up lane that workspaces wait for.
    pub(super) fn replay_round(&self) -> Option<&LaneRun> {
        self.round.as_ref().filter(|round| !round.looks_only)
    }

    /// Below this offset a workspace out of memory has no event that it has not applied.
    pub(super) fn quiet_until(&self, slot: Slot) -> Offset {
        match self.workspaces.at(slot).quiet {
            Quiet::Until(offset) | Quiet::Ends(offset) => offset,
            Quiet::With { lane, from } => self.run(lane).map_or(from, |run| run.cursor.max(from)),
        }
    }

    pub(super) fn set_quiet(&mut self, slot: Slot, quiet: Quiet) {
        let with_round = matches!(
            quiet,
            Quiet::With {
                lane: Lane::CatchUp,
                ..
            }
        );
        if with_round {
            self.looked_for.insert(slot);
        } else {
            self.looked_for.remove(&slot);
        }
        self.workspaces.at_mut(slot).quiet = quiet;
        self.note_evicted(slot);
    }

    /// What is known of a workspace that leaves its lane now; `None` if its `quiet` is up to date already.
    pub(super) fn quiet_after(&self, slot: Slot, next_offset: Offset) -> Option<Quiet> {
        match self.workspaces.at(slot).phase {
            Phase::Following { lane } => {
                let run = self.run(lane)?;
                Some(match run.next_event(slot) {
                    NextEvent::None => Quiet::With {
                        lane,
                        from: next_offset,
                    },
                    NextEvent::At(first) => Quiet::Ends(first.max(next_offset)),
                    NextEvent::Unknown => Quiet::Until(next_offset),
                })
            }
            Phase::Waiting => Some(Quiet::Until(next_offset)),
            Phase::Cold
            | Phase::Queued
            | Phase::Loading
            | Phase::Retrying { .. }
            | Phase::Parked
            | Phase::Stopped { .. }
            | Phase::Leaving { .. }
            | Phase::Erasing(_)
            | Phase::Deleted => None,
        }
    }

    /// Notes that a lane has met events of a workspace.
    pub(super) fn note_event(&mut self, slot: Slot, lane: Lane, first: Offset, last: Offset) {
        if let Quiet::With { lane: looks, from } = self.workspaces.at(slot).quiet
            && looks == lane
            && last >= from
        {
            self.set_quiet(slot, Quiet::Ends(first.max(from)));
        }
    }

    /// Notes that a lane passes records that may have been events of any workspace.
    pub(super) fn note_events_of_all(&mut self, lane: Lane, first: Offset, last: Offset) {
        for slot in self.workspaces.slots() {
            self.note_event(slot, lane, first, last);
        }
    }

    /// The workspaces out of memory whose `next_offset` in the store can be advanced. Sets `look_wanted` if a
    /// lane must first look for the events of others.
    pub(super) fn behind(&mut self) -> Vec<Slot> {
        let mut behind = Vec::new();
        for (slot, workspace) in self.workspaces.iter() {
            if !workspace.rests() || self.unclaimed.contains(&slot) {
                continue;
            }
            if self.quiet_until(slot) > workspace.saved_next_offset {
                behind.push(slot);
            }
            self.look_wanted |=
                matches!(workspace.quiet, Quiet::Until(offset) if offset < self.live.cursor);
        }
        behind
    }

    /// Begins a round that only looks for events of workspaces out of memory.
    pub(super) fn begin_look(&mut self) {
        if !std::mem::take(&mut self.look_wanted) {
            return;
        }
        let lowest = self
            .workspaces
            .iter()
            .filter(|(slot, workspace)| workspace.rests() && !self.unclaimed.contains(slot))
            .filter_map(|(_, workspace)| match workspace.quiet {
                Quiet::Until(offset) => Some(offset),
                Quiet::With { .. } | Quiet::Ends(_) => None,
            })
            .min();
        let Some(start) = lowest.filter(|start| *start < self.live.cursor) else {
            return;
        };
        let mut round = LaneRun::at(start);
        round.looks_only = true;
        self.round = Some(round);
        self.join_look(start);
    }

    /// Lets a round that begins look for events of the workspaces out of memory that are not behind it.
    pub(super) fn join_look(&mut self, start: Offset) {
        for slot in self.workspaces.slots() {
            let workspace = self.workspaces.at(slot);
            let is_out = !workspace.in_memory() || matches!(workspace.phase, Phase::Leaving { .. });
            if let Quiet::Until(from) = workspace.quiet
                && is_out
                && from >= start
            {
                if from >= self.live.cursor {
                    self.look_with_live(slot, from);
                } else {
                    let lane = Lane::CatchUp;
                    self.set_quiet(slot, Quiet::With { lane, from });
                }
            }
        }
    }

    /// Ends a round that only looks when a workspace waits for a round, or when nothing is left to look for.
    pub(super) fn abandon_scan(&mut self) {
        let Some(round) = &self.round else { return };
        if round.looks_only
            && round.is_at_rest()
            && (!self.waiting.is_empty() || self.looked_for.is_empty())
        {
            // It continues when no workspace waits for a round any more.
            self.look_wanted |= !self.looked_for.is_empty();
            self.end_look();
            self.round = None;
        }
    }

    /// The round ends before it reaches the live lane. The range that it has searched stays known.
    pub(super) fn end_look(&mut self) {
        for slot in std::mem::take(&mut self.looked_for) {
            let quiet = Quiet::Until(self.quiet_until(slot));
            self.set_quiet(slot, quiet);
        }
    }

    /// The round has reached the live lane, which continues to look.
    pub(super) fn look_on_live(&mut self) {
        for slot in std::mem::take(&mut self.looked_for) {
            let from = self.quiet_until(slot);
            self.look_with_live(slot, from);
        }
    }

    /// Lets the live lane look for the events of a workspace. The batch that the lane holds was noted before, so its
    /// events are looked up here.
    fn look_with_live(&mut self, slot: Slot, from: Offset) {
        let quiet = match self.live.next_event(slot) {
            NextEvent::None => Quiet::With {
                lane: Lane::Live,
                from,
            },
            NextEvent::At(first) => Quiet::Ends(first.max(from)),
            NextEvent::Unknown => Quiet::Until(from),
        };
        self.set_quiet(slot, quiet);
    }
}
