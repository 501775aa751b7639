//! What a partition shows of itself: its offsets, its workspaces and its next wakeup. Nothing here decides.

use workspace_status::{Epoch, WorkspaceId};

use super::lanes::LaneRun;
use super::{Ownership, Partition};
use crate::workspace::Phase;
use crate::{Lane, Offset, PartitionId, Slot, StoppedAt, Time};

/// Progress of a partition, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// First offset that some following workspace has not passed.
    pub position: Offset,
    /// Every workspace with an event below this is known.
    pub discovered: Offset,
    /// End of the catch-up round, while one runs.
    pub target: Option<Offset>,
    /// Last known end of the partition.
    pub high_watermark: Offset,
    /// Known workspaces, without deleted ones.
    pub workspaces: usize,
}

/// The workspace that holds retention back most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Which one.
    pub slot: Slot,
    /// The first offset that the log must keep for it.
    pub offset: Offset,
}

impl Partition {
    /// When [`Input::Tick`](crate::Input::Tick) is due at the latest; `None` if only another input can change anything.
    pub fn wake_at(&self) -> Option<Time> {
        let list = if let Ownership::ListAgain { at } = self.ownership {
            Some(at)
        } else {
            None
        };
        let retry = self.retries.first().map(|(at, _)| *at);
        let evicted = match self.ownership {
            Ownership::Owned => self.evicted.due_at(),
            Ownership::New
            | Ownership::Listing
            | Ownership::ListAgain { .. }
            | Ownership::Leaving
            | Ownership::Over => None,
        };
        let lanes = Lane::ALL
            .into_iter()
            .filter_map(|lane| self.run(lane)?.wake_at());
        [
            list,
            retry,
            evicted,
            self.round_due_at(),
            self.save_due_at(),
        ]
        .into_iter()
        .flatten()
        .chain(lanes)
        .min()
    }

    /// Id of the partition.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// The slot of a known workspace.
    pub fn slot(&self, id: &str) -> Option<Slot> {
        self.by_id.get(id).copied()
    }

    /// The id of a workspace.
    pub fn workspace_id(&self, slot: Slot) -> &WorkspaceId {
        &self.workspaces.at(slot).id
    }

    /// Epoch of the load under way or done.
    pub fn epoch(&self, slot: Slot) -> Epoch {
        self.workspaces.at(slot).epoch
    }

    /// First offset that a workspace has not applied; events of other workspaces count as applied.
    pub fn next_offset(&self, slot: Slot) -> Offset {
        let workspace = self.workspaces.at(slot);
        if let Phase::Following { lane } = workspace.phase
            && let Some(run) = self.run(lane)
        {
            return workspace.next_offset.max(run.cursor);
        }
        workspace.next_offset
    }

    /// Events that a workspace has applied.
    pub fn events_applied(&self, slot: Slot) -> u64 {
        self.workspaces.at(slot).events_applied
    }

    /// End of the replay under way; `None` if there is none.
    pub fn target(&self, slot: Slot) -> Option<Offset> {
        self.workspaces.at(slot).target
    }

    /// The event that stopped a workspace because it cannot apply it, if any.
    pub fn stopped_at(&self, slot: Slot) -> Option<&StoppedAt> {
        if let Phase::Stopped { at, .. } = &self.workspaces.at(slot).phase {
            return Some(at);
        }
        None
    }

    /// Whether the load of this epoch is the one under way. An answer to any other load must change nothing.
    pub fn awaits_load(&self, slot: Slot, epoch: Epoch) -> bool {
        let workspace = self.workspaces.at(slot);
        workspace.phase == Phase::Loading && workspace.epoch == epoch
    }

    /// Whether a workspace was deleted and no later event has begun a new one.
    pub fn is_deleted(&self, slot: Slot) -> bool {
        self.workspaces.at(slot).phase == Phase::Deleted
    }

    /// Workspaces in the lanes that have not reached their targets.
    pub fn replaying(&self) -> impl Iterator<Item = Slot> {
        let round = self.round.iter().flat_map(LaneRun::replaying);
        self.live.replaying().chain(round)
    }

    /// Every known workspace, deleted ones included.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        self.workspaces.slots()
    }

    /// Whether a workspace applies the batches of the live lane.
    pub fn follows_live(&self, slot: Slot) -> bool {
        self.workspaces.at(slot).follows(Lane::Live)
    }

    /// Cursor of the live lane: everything below it is applied to the workspaces that follow it.
    pub fn live_position(&self) -> Offset {
        self.live.cursor
    }

    /// Progress of the partition.
    pub fn position(&self) -> Position {
        Position {
            position: self
                .replay_round()
                .map_or(self.live.cursor.min(self.discovered), |round| round.cursor),
            discovered: self.discovered,
            target: self.replay_round().map(|_| self.live.cursor),
            high_watermark: self.high_watermark,
            workspaces: self.workspaces.len() - self.deleted,
        }
    }

    /// The log may trim below this offset as soon as everything saved so far is durable.
    pub fn trim_floor(&self) -> Offset {
        if self.ownership != Ownership::Owned {
            return Offset::ZERO;
        }
        self.workspaces
            .iter()
            .filter_map(|(_, workspace)| workspace.floor())
            .fold(self.saving.committed(), Ord::min)
    }

    /// The workspace that holds the most of the log back; `None` if no workspace needs it and only saves are due.
    pub fn held_by(&self) -> Option<Holder> {
        if self.ownership != Ownership::Owned {
            return None;
        }
        let holders = self.workspaces.iter().filter_map(|(slot, workspace)| {
            let offset = if matches!(workspace.phase, Phase::Following { .. }) {
                self.next_offset(slot)
            } else if workspace.rests() {
                self.quiet_until(slot)
            } else {
                workspace.floor()?
            };
            Some(Holder { slot, offset })
        });
        holders
            .min_by_key(|holder| holder.offset)
            .filter(|holder| holder.offset < self.live.cursor)
    }
}
