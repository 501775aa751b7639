//! The two lanes of a partition: fetch, hold for loads, apply, and hand rounds over to the live lane.

use workspace_status::Epoch;

use super::{KnownToStore, Ownership, Partition};
use crate::retry::Failures;
use crate::workspace::{Phase, Slots};
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
    /// Following workspaces below their target.
    pub(super) replaying: Vec<Slot>,
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

#[derive(Debug)]
pub(super) struct Held {
    next_offset: Offset,
    touched: Vec<(Slot, Offset)>,
}

impl LaneRun {
    pub(super) fn at(cursor: Offset) -> Self {
        Self {
            cursor,
            replaying: Vec::new(),
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
                let mut touched = batch.touched.iter();
                touched
                    .find(|(of, _)| *of == slot)
                    .map_or(NextEvent::None, |(_, first)| NextEvent::At(*first))
            }
            LaneState::Idle | LaneState::Fetching | LaneState::Failed { .. } => NextEvent::None,
        }
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
        self.workspaces.at_mut(slot).phase = Phase::Following { lane };
        if let Some(run) = self.run_mut(lane) {
            run.replaying.push(slot);
            run.looks_only = false;
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
        if workspace.phase == Phase::Waiting {
            self.waiting.retain(|waiting| *waiting != slot);
        } else if let Phase::Following { lane } = workspace.phase
            && let Some(run) = self.run_mut(lane)
        {
            run.replaying.retain(|replaying| *replaying != slot);
        }
    }

    /// Clears the lists of replaying and waiting workspaces before all of them step out: removing them one by
    /// one is quadratic.
    pub(super) fn forget_replays(&mut self) {
        self.waiting.clear();
        for lane in Lane::ALL {
            if let Some(run) = self.run_mut(lane) {
                run.replaying.clear();
            }
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
        let touched = touched
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
        let until = self.now + hold;
        if let Some(run) = self.run_mut(lane) {
            run.state = LaneState::Holding {
                batch: Held {
                    next_offset,
                    touched,
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
        let Some(run) = self.run(lane) else { return };
        let LaneState::Holding { batch, until } = &run.state else {
            return;
        };
        let (cursor, until) = (run.cursor, *until);
        let awaited = batch.touched.iter().any(|(slot, _)| {
            let workspace = self.workspaces.at(*slot);
            matches!(workspace.phase, Phase::Queued | Phase::Loading)
                && workspace.next_offset >= cursor
        });
        if awaited && until > self.now {
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
        let urgent = self
            .waiting
            .iter()
            .any(|slot| self.workspaces.at(*slot).urgent);
        let gathered = self.gather_until.is_none_or(|until| until <= self.now);
        if self.loading > 0 && !gathered && !urgent {
            return;
        }
        self.gather_until = None;
        let waiting = std::mem::take(&mut self.waiting);
        let lowest = waiting
            .iter()
            .map(|slot| self.workspaces.at(*slot).next_offset)
            .min();
        let discovery = undiscovered.then_some(self.discovered);
        let Some(start) = [lowest, discovery].into_iter().flatten().min() else {
            return;
        };
        self.round = Some(LaneRun::at(start));
        self.join_look(start);
        for slot in waiting {
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
        let followed = |workspaces: &Slots| {
            workspaces
                .iter()
                .any(|(_, workspace)| workspace.follows(Lane::CatchUp))
        };
        if until <= self.now && !self.waiting.is_empty() && !followed(&self.workspaces) {
            self.end_look();
            self.round = None;
        }
    }

    /// Ends a round that has reached the live lane.
    fn end_round(&mut self) {
        let Some(round) = &self.round else { return };
        if round.cursor < self.live.cursor || !matches!(round.state, LaneState::Idle) {
            return;
        }
        for slot in self.workspaces.slots() {
            if self.workspaces.at(slot).follows(Lane::CatchUp) {
                let next_offset = self.next_offset(slot);
                let workspace = self.workspaces.at_mut(slot);
                workspace.next_offset = next_offset;
                workspace.phase = Phase::Following { lane: Lane::Live };
            }
        }
        self.look_on_live();
        if let Some(round) = self.round.take() {
            self.rounds_ended += 1;
            self.live.replaying.extend(round.replaying);
        }
    }

    fn announce_ready(&mut self, lane: Lane) {
        let Some(run) = self.run_mut(lane) else {
            return;
        };
        let mut replaying = std::mem::take(&mut run.replaying);
        replaying.retain(|slot| {
            let reached = self
                .workspaces
                .at(*slot)
                .target
                .is_none_or(|target| self.next_offset(*slot) >= target);
            if reached {
                let workspace = self.workspaces.at_mut(*slot);
                workspace.target = None;
                workspace.urgent = false;
                workspace.ready_since = Some(self.now);
                self.report(*slot, Report::Ready);
            }
            !reached
        });
        if let Some(run) = self.run_mut(lane) {
            run.replaying = replaying;
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
