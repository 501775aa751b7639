//! Workspaces out of memory that have no events of their own hold neither retention nor a restart back.
//!
//! The live lane names the workspaces of every batch. So of one that left memory where the lane was, it is
//! known whether it has an event since, without reading anything for it. Of one that was out of memory when
//! the partition was assigned, the part of the log between its stored `next_offset` and the live lane must be
//! looked through once: a round does that which gives way to everything else, and other rounds do it in passing.
//!
//! Invariant: the store is written before the floor rises. So a workspace never needs an event that is below it, also
//! after a restart.
//!
//! Invariant: whatever a lane passes unread (a damaged record, a part that fell out or was lost) counts as an event of
//! every workspace that the lane looks for.

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
    }

    /// What is known of a workspace that leaves memory, or its lane, now; `None` where that is noted already.
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

    /// A lane has met events of a workspace.
    pub(super) fn note_event(&mut self, slot: Slot, lane: Lane, first: Offset, last: Offset) {
        if let Quiet::With { lane: looks, from } = self.workspaces.at(slot).quiet
            && looks == lane
            && last >= from
        {
            self.set_quiet(slot, Quiet::Ends(first.max(from)));
        }
    }

    /// A lane passes what may have been events of any workspace.
    pub(super) fn note_events_of_all(&mut self, lane: Lane, first: Offset, last: Offset) {
        for slot in self.workspaces.slots() {
            self.note_event(slot, lane, first, last);
        }
    }

    /// The workspaces out of memory whose `next_offset` in the store can be moved on. Notes whether others
    /// could be, if a lane looked for their events.
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

    /// A round begins: it looks for the events of workspaces out of memory that are not behind it.
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

    /// A round that only looks gives way, and ends where nothing is left to look for.
    pub(super) fn give_up_look(&mut self) {
        let Some(round) = &self.round else { return };
        if round.looks_only
            && round.is_at_rest()
            && (!self.waiting.is_empty() || self.looked_for.is_empty())
        {
            self.end_look();
            self.round = None;
        }
    }

    /// The round ends before it has arrived: what it has looked at is known.
    pub(super) fn end_look(&mut self) {
        for slot in std::mem::take(&mut self.looked_for) {
            let quiet = Quiet::Until(self.quiet_until(slot));
            self.set_quiet(slot, quiet);
        }
    }

    /// The round has arrived where the live lane is, which goes on looking.
    pub(super) fn look_on_live(&mut self) {
        for slot in std::mem::take(&mut self.looked_for) {
            let from = self.quiet_until(slot);
            self.look_with_live(slot, from);
        }
    }

    /// The live lane looks for the events of a workspace from now on; those of the batch that it holds were met before.
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
