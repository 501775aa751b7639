//! The two lanes of a partition: fetch, hold for loads, apply, and hand rounds over to the live lane.

use std::collections::BTreeSet;

use workspace_status::Epoch;

use super::{KnownToStore, Ownership, Partition};
use crate::retry::Failures;
use crate::workspace::{Phase, Workspace};
use crate::{
    Action, AppliedTo, ApplyTo, Lane, Offset, Poison, Report, Slot, StateAfter, StoppedAt, Time,
    Touched,
};

/// Batches of a running round for each batch of the live lane, so that the round reaches the live lane.
const ROUND_BATCHES_PER_LIVE_BATCH: u32 = 2;

/// One lane's position and state.
#[derive(Debug)]
pub(super) struct LaneRun {
    /// First offset not yet passed.
    pub(super) cursor: Offset,
    /// Following workspaces that are not ready, by their targets.
    replaying: BTreeSet<(Offset, Slot)>,
    /// Of a round: every workspace that has followed it.
    followers: Vec<Slot>,
    pub(super) state: LaneState,
    pub(super) failures: Failures,
    /// Offset of a damaged record ahead: the records before it are read first.
    pub(super) damaged: Option<Offset>,
    /// Of a round: batches passed since the live lane passed one.
    batches: u32,
    /// The round only looks for events of workspaces out of memory, so it yields to everything else.
    pub(super) looks_only: bool,
}

#[derive(Debug)]
pub(super) enum LaneState {
    Idle,
    Fetching,
    /// Some workspaces of the batch are being loaded; at `until` the lane continues without them.
    Holding {
        batch: Held,
        until: Time,
    },
    Applying {
        next_offset: Offset,
    },
    Failed {
        until: Time,
    },
}

/// The next event of a workspace in the batch of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextEvent {
    None,
    At(Offset),
    Unknown,
}

/// A fetched batch.
#[derive(Debug)]
pub(super) struct Held {
    next_offset: Offset,
    /// Each workspace of the batch with its first event there, in the order of slots.
    touched: Vec<(Slot, Offset)>,
    /// How many of `touched`, from the first, are not waited for any more.
    settled: usize,
}

/// Loaded workspaces that wait for the next round.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    by_offset: BTreeSet<(Offset, Slot)>,
    urgent: BTreeSet<Slot>,
}

impl Waiting {
    pub(super) fn insert(&mut self, slot: Slot, workspace: &Workspace) {
        self.by_offset.insert((workspace.next_offset, slot));
        if workspace.urgent {
            self.urgent.insert(slot);
        }
    }

    fn remove(&mut self, slot: Slot, next_offset: Offset) {
        self.by_offset.remove(&(next_offset, slot));
        self.urgent.remove(&slot);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_offset.is_empty()
    }

    fn lowest(&self) -> Option<Offset> {
        self.by_offset.first().map(|(offset, _)| *offset)
    }
}

impl LaneRun {
    pub(super) fn at(cursor: Offset) -> Self {
        Self {
            cursor,
            replaying: BTreeSet::new(),
            followers: Vec::new(),
            state: LaneState::Idle,
            failures: Failures::default(),
            damaged: None,
            batches: 0,
            looks_only: false,
        }
    }

    pub(super) fn wake_at(&self) -> Option<Time> {
        match self.state {
            LaneState::Holding { until, .. } | LaneState::Failed { until } => Some(until),
            LaneState::Idle | LaneState::Fetching | LaneState::Applying { .. } => None,
        }
    }

    /// Whether it can be dropped: no fetch, batch or apply is under way.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(self.state, LaneState::Idle | LaneState::Failed { .. })
    }

    /// The first event of a workspace that leaves the lane now, in the batch that the lane would apply next.
    pub(super) fn next_event(&self, slot: Slot) -> NextEvent {
        match &self.state {
            LaneState::Applying { .. } => NextEvent::Unknown,
            LaneState::Holding { batch, .. } => {
                let found = batch.touched.binary_search_by_key(&slot, |(of, _)| *of);
                let found = found.ok().and_then(|index| batch.touched.get(index));
                found.map_or(NextEvent::None, |(_, first)| NextEvent::At(*first))
            }
            LaneState::Idle | LaneState::Fetching | LaneState::Failed { .. } => NextEvent::None,
        }
    }

    /// Workspaces that have not reached their targets.
    pub(super) fn replaying(&self) -> impl ExactSizeIterator<Item = Slot> {
        self.replaying.iter().map(|(_, slot)| *slot)
    }

    fn is_reading(&self) -> bool {
        matches!(
            self.state,
            LaneState::Idle | LaneState::Fetching | LaneState::Applying { .. }
        )
    }
}

impl Partition {
    pub(super) fn is_applying(&self) -> bool {
        Lane::ALL.into_iter().any(|lane| {
            self.run(lane)
                .is_some_and(|run| matches!(run.state, LaneState::Applying { .. }))
        })
    }

    /// When the next round begins at the latest, without waiting for more loads.
    pub(super) fn round_due_at(&self) -> Option<Time> {
        let wanted = self.round.is_none()
            && (!self.waiting.is_empty() || self.discovered < self.live.cursor);
        self.gather_until.filter(|_| wanted)
    }

    pub(super) fn follow(&mut self, slot: Slot, lane: Lane) {
        let next_offset = self.next_offset(slot);
        let cursor = self.run(lane).map_or(next_offset, |run| run.cursor);
        let workspace = self.workspaces.at_mut(slot);
        workspace.phase = Phase::Following { lane };
        // A workspace that has reached its target already gets the lane's cursor as its target: it is ready at once.
        let target = workspace.target.filter(|target| next_offset < *target);
        let target = target.unwrap_or(cursor);
        workspace.target = Some(target);
        if let Some(run) = self.run_mut(lane) {
            run.replaying.insert((target, slot));
            run.looks_only = false;
            match lane {
                Lane::Live => {}
                Lane::CatchUp => run.followers.push(slot),
            }
        }
    }

    /// Removes a workspace from its lane and records its actual `next_offset`.
    pub(super) fn step_out(&mut self, slot: Slot) {
        let next_offset = self.next_offset(slot);
        if let Some(quiet) = self.quiet_after(slot, next_offset) {
            self.set_quiet(slot, quiet);
        }
        let workspace = self.workspaces.at_mut(slot);
        workspace.next_offset = next_offset;
        let target = workspace.target;
        if workspace.phase == Phase::Waiting {
            self.waiting.remove(slot, next_offset);
        } else if let Phase::Following { lane } = workspace.phase
            && let Some(target) = target
            && let Some(run) = self.run_mut(lane)
        {
            run.replaying.remove(&(target, slot));
        }
    }

    pub(super) fn stop_lanes(&mut self) {
        self.live = LaneRun::at(self.live.cursor);
        self.end_look();
        self.round = None;
        self.gather_until = None;
        self.waiting.clear();
    }

    pub(super) fn fetched(&mut self, lane: Lane, next_offset: Offset, touched: Vec<Touched>) {
        if self.ownership != Ownership::Owned {
            return;
        }
        let hold = match lane {
            Lane::Live => self.limits.hold_live,
            Lane::CatchUp => self.limits.hold_catch_up,
        };
        let discovered = self.discovered;
        let Some(run) = self.run_mut(lane) else {
            return;
        };
        if !matches!(run.state, LaneState::Fetching) {
            return;
        }
        run.failures.clear();
        // An unknown workspace has no events below `discovered`. Between there and
        // this batch it may have some that no lane has passed yet.
        let unread = (discovered < run.cursor).then_some(discovered);
        // A damaged record below the trim floor no longer matters.
        let damaged = self
            .damaged_from
            .filter(|damaged| *damaged >= self.trim_floor());
        let mut touched: Vec<(Slot, Offset)> = touched
            .into_iter()
            .map(|touch| {
                let first = unread.unwrap_or(touch.first_offset);
                let first = damaged.map_or(first, |damaged| damaged.min(first));
                let slot = if let Some(slot) = self.slot(&touch.id) {
                    self.note_event(slot, lane, touch.first_offset, touch.last_offset);
                    self.begin_successor(slot, first, touch.last_offset);
                    slot
                } else {
                    let slot = self.meet(touch.id, Epoch::new(0), first, KnownToStore::No);
                    self.begin_load(slot);
                    slot
                };
                (slot, touch.first_offset)
            })
            .collect();
        touched.sort_unstable();
        let until = self.now + hold;
        if let Some(run) = self.run_mut(lane) {
            run.state = LaneState::Holding {
                batch: Held {
                    next_offset,
                    touched,
                    settled: 0,
                },
                until,
            };
        }
    }

    pub(super) fn applied(&mut self, lane: Lane, results: Vec<AppliedTo>) {
        let Some(run) = self.run_mut(lane) else {
            return;
        };
        let LaneState::Applying { next_offset } = run.state else {
            return;
        };
        for result in results {
            let workspace = self.workspaces.at_mut(result.slot);
            workspace.events_applied += result.events;
            if !workspace.follows(lane) {
                continue;
            }
            if result.save_requested {
                self.save_soon();
            }
            if let Some(Poison {
                offset,
                reason,
                state: StateAfter::Broken,
            }) = result.poison
            {
                self.load_again_up_to(result.slot, StoppedAt { offset, reason });
                continue;
            }
            if result.events > 0 {
                self.mark_applied(&result);
            }
            if let Some(poison) = result.poison {
                self.stop_at(result.slot, poison.offset, poison.reason);
                self.mark_unsaved(result.slot);
            } else {
                self.workspaces.at_mut(result.slot).next_offset = next_offset;
            }
        }
        self.pass(lane, next_offset);
    }

    /// Records that the lane has passed everything below `next_offset`.
    pub(super) fn pass(&mut self, lane: Lane, next_offset: Offset) {
        for slot in self.stopping.clone() {
            let workspace = self.workspaces.at_mut(slot);
            if workspace.follows(lane)
                && let Some(at) = workspace.stops_before.take_if(|at| at.offset < next_offset)
            {
                self.stopping.remove(&slot);
                self.stop_at(slot, at.offset, at.reason);
                self.mark_unsaved(slot);
            }
        }
        let Some(run) = self.run_mut(lane) else {
            return;
        };
        let from = run.cursor;
        run.cursor = run.cursor.max(next_offset);
        run.state = LaneState::Idle;
        run.batches = run.batches.saturating_add(1);
        let cursor = run.cursor;
        match lane {
            Lane::CatchUp => {}
            Lane::Live => {
                if let Some(round) = &mut self.round {
                    round.batches = 0;
                }
            }
        }
        if from <= self.discovered {
            self.discovered = self.discovered.max(cursor);
        }
    }

    pub(super) fn drive_lanes(&mut self) {
        // A round that ends must hand its workspaces to the live lane before that
        // lane plans its next batch. It also makes room for the next round.
        self.release_held(Lane::CatchUp);
        self.abandon_round();
        self.abandon_scan();
        self.end_round();
        self.begin_round();
        if !self.is_applying() {
            self.release_held(Lane::Live);
        }
        for lane in Lane::ALL {
            self.announce_ready(lane);
            self.fetch(lane);
        }
    }

    fn release_held(&mut self, lane: Lane) {
        let run = match lane {
            Lane::Live => &mut self.live,
            Lane::CatchUp => match &mut self.round {
                Some(round) => round,
                None => return,
            },
        };
        let LaneState::Holding { batch, until } = &mut run.state else {
            return;
        };
        // Called after every input, so a workspace that is not being loaded is checked once. If a load of it begins
        // while the batch is held, it may need a round of its own.
        let waited_for = batch
            .touched
            .iter()
            .skip(batch.settled)
            .position(|(slot, _)| {
                let workspace = self.workspaces.at(*slot);
                matches!(workspace.phase, Phase::Queued | Phase::Loading)
                    && workspace.next_offset >= run.cursor
            });
        if let Some(settled) = waited_for
            && *until > self.now
        {
            batch.settled += settled;
            return;
        }
        let next_offset = batch.next_offset;
        let plan: Vec<ApplyTo> = batch
            .touched
            .iter()
            .filter(|(slot, _)| self.workspaces.at(*slot).follows(lane))
            .map(|(slot, first)| {
                let workspace = self.workspaces.at(*slot);
                let stop = workspace.stops_before.as_ref();
                ApplyTo {
                    slot: *slot,
                    from: workspace.next_offset.max(*first),
                    until: stop.map(|at| at.offset),
                }
            })
            .filter(|apply| apply.from < next_offset && apply.covers(apply.from))
            .collect();
        if plan.is_empty() {
            self.pass(lane, next_offset);
            return;
        }
        if let Some(run) = self.run_mut(lane) {
            run.state = LaneState::Applying { next_offset };
        }
        self.out.push(Action::Apply { lane, plan });
    }

    /// Begins a round if a workspace waits for one, or if part of the log was never
    /// searched for unknown workspaces. It first waits up to `gather` for the other
    /// loads of the partition, so that they need no round of their own.
    fn begin_round(&mut self) {
        let undiscovered = self.discovered < self.live.cursor;
        if self.round.is_some() {
            return;
        }
        if self.waiting.is_empty() && !undiscovered {
            self.begin_look();
            return;
        }
        let gathered = self.gather_until.is_none_or(|until| until <= self.now);
        if self.loading > 0 && !gathered && self.waiting.urgent.is_empty() {
            return;
        }
        self.gather_until = None;
        let waiting = std::mem::take(&mut self.waiting);
        let discovery = undiscovered.then_some(self.discovered);
        let Some(start) = [waiting.lowest(), discovery].into_iter().flatten().min() else {
            return;
        };
        self.round = Some(LaneRun::at(start));
        self.join_look(start);
        for (_, slot) in waiting.by_offset {
            self.follow(slot, Lane::CatchUp);
        }
    }

    /// Abandons a round that fails and has no workspaces left. The workspaces that
    /// wait for the next round then meet the failure themselves.
    fn abandon_round(&mut self) {
        let Some(round) = &self.round else { return };
        let LaneState::Failed { until } = round.state else {
            return;
        };
        let is_followed = || {
            let mut followers = round.followers.iter();
            followers.any(|slot| self.workspaces.at(*slot).follows(Lane::CatchUp))
        };
        if until <= self.now && !self.waiting.is_empty() && !is_followed() {
            self.end_look();
            self.round = None;
        }
    }

    /// Ends a round that has reached the live lane.
    fn end_round(&mut self) {
        let Some(round) = &mut self.round else { return };
        if round.cursor < self.live.cursor || !matches!(round.state, LaneState::Idle) {
            return;
        }
        let mut followers = std::mem::take(&mut round.followers);
        followers.retain(|slot| {
            let follows = self.workspaces.at(*slot).follows(Lane::CatchUp);
            if follows {
                let next_offset = self.next_offset(*slot);
                let workspace = self.workspaces.at_mut(*slot);
                workspace.next_offset = next_offset;
                workspace.phase = Phase::Following { lane: Lane::Live };
            }
            follows
        });
        self.look_on_live();
        if let Some(round) = self.round.take() {
            self.live.replaying.extend(round.replaying);
        }
        if !followers.is_empty() {
            self.out.push(Action::FollowLive { slots: followers });
        }
    }

    fn announce_ready(&mut self, lane: Lane) {
        while let Some(run) = self.run_mut(lane)
            && let Some((target, slot)) = run.replaying.first().copied()
            && target <= run.cursor
        {
            run.replaying.remove(&(target, slot));
            let workspace = self.workspaces.at_mut(slot);
            workspace.target = None;
            workspace.urgent = false;
            workspace.ready_since = Some(self.now);
            self.report(slot, Report::Ready);
        }
    }

    fn fetch(&mut self, lane: Lane) {
        let must_save_first = self.must_save_first();
        let (now, live, high_watermark) = (self.now, self.live.cursor, self.high_watermark);
        let yields = match lane {
            Lane::CatchUp => false,
            Lane::Live => self.replay_round().is_some_and(|round| {
                round.is_reading() && round.batches < ROUND_BATCHES_PER_LIVE_BATCH
            }),
        };
        let until = match lane {
            Lane::CatchUp => live,
            Lane::Live => high_watermark,
        };
        let Some(run) = self.run_mut(lane) else {
            return;
        };
        if let LaneState::Failed { until } = run.state
            && until <= now
        {
            run.state = LaneState::Idle;
        }
        if run.damaged.is_some_and(|damaged| damaged <= run.cursor) {
            run.damaged = None;
        }
        let until = run.damaged.map_or(until, |damaged| damaged.min(until));
        if must_save_first || yields || run.cursor >= until || !matches!(run.state, LaneState::Idle)
        {
            return;
        }
        run.state = LaneState::Fetching;
        let from = run.cursor;
        self.out.push(Action::Fetch { lane, from, until });
    }
}
