//! The rules of a partition, each as a transcript: its inputs, and the actions that it returns.

mod commands;
mod erasures;
mod evictions;
mod fetch_failures;
mod lanes;
mod leaving;
mod loads;
mod poison;
mod quiet;
mod saves;

use workspace_status::WorkspaceId;

use super::*;
use crate::{
    AppliedTo, Command, EraseFailure, FetchFailure, Known, LoadFailure, Poison, Refusal, Refused,
    StateAfter, Ticket, Touched,
};

/// A partition and the current time. Actions are text, with `; ` between them.
struct Story {
    machine: Partition,
    now: Time,
    tickets: u64,
    low_watermark: Offset,
}

impl Story {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self {
            machine: Partition::new(PartitionId(0), limits),
            now: Time::default(),
            tickets: 0,
            low_watermark: Offset::ZERO,
        }
    }

    /// A partition that is assigned and listed; `known` are ids with their `next_offset`.
    fn owned(known: &[(&str, u64)], committed: u64, high: u64) -> Self {
        let mut story = Self::new();
        story.own(listing(known, committed, high));
        story
    }

    /// A partition that ends at `high`, with all of `known` in memory.
    fn loaded(known: &[(&str, u64)], high: u64) -> Self {
        let mut story = Self::owned(known, high, high);
        for (slot, (_, next_offset)) in known.iter().enumerate() {
            story.load(slot, 2, *next_offset, high);
        }
        story
    }

    /// The same of one workspace whose replay has begun, with these limits.
    fn replaying(limits: Limits, high: u64) -> Self {
        let mut story = Self::with(limits);
        story.own(listing(&[("a", 0)], high, high));
        story.load(0, 2, 0, high);
        story
    }

    fn own(&mut self, listing: Listing) -> String {
        self.send(Input::Assigned);
        self.send(Input::Listed(listing))
    }

    /// Passes the input and returns the actions.
    fn send(&mut self, input: Input) -> String {
        let actions = self.machine.handle(self.now, input);
        let lines: Vec<_> = actions.iter().map(ToString::to_string).collect();
        lines.join("; ")
    }

    #[track_caller]
    fn check(&mut self, input: Input, wanted: &str) {
        let text = format!("{input:?}");
        assert_eq!(self.send(input), wanted, "after {text}");
    }

    fn pass(&mut self, wait: Duration) -> String {
        self.now = self.now + wait;
        self.send(Input::Tick)
    }

    #[track_caller]
    fn check_after(&mut self, wait: Duration, wanted: &str) {
        assert_eq!(self.pass(wait), wanted, "after {wait:?}");
    }

    /// Advances the time to `wake_at` and passes `Tick`.
    #[track_caller]
    fn wake(&mut self) -> String {
        self.now = self.machine.wake_at().expect("it waits for a time");
        self.send(Input::Tick)
    }

    fn command(&mut self, id: &str, command: Command) -> String {
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        self.send(Input::Operator {
            id: workspace(id),
            command,
            ticket,
            low_watermark: self.low_watermark,
        })
    }

    #[track_caller]
    fn check_command(&mut self, id: &str, command: Command, wanted: &str) {
        assert_eq!(self.command(id, command), wanted, "after {command:?}");
    }

    /// Brings a workspace into memory at `next_offset`.
    fn load(&mut self, slot: usize, epoch: u64, next_offset: u64, high: u64) -> String {
        self.send(granted(slot));
        self.send(loaded(slot, epoch, next_offset, high))
    }

    /// Passes a batch up to `next_offset` and applies the resulting plan.
    fn read(&mut self, lane: Lane, next_offset: u64, high: u64, touched: &[(&str, u64)]) -> String {
        self.send(fetched(lane, next_offset, high, touched));
        let slots: Vec<usize> = touched
            .iter()
            .map(|(id, _)| self.machine.slot(id).expect("met").index())
            .filter(|slot| self.machine.workspaces.at(Slot(*slot)).follows(lane))
            .collect();
        self.send(applied(lane, &slots))
    }

    /// Appends up to `high`; the live lane fetches that.
    fn fetch_live(&mut self, high: u64, touched: &[(&str, u64)]) -> String {
        self.send(appended(high));
        self.send(fetched(Lane::Live, high, high, touched))
    }

    /// The same, and applies it.
    fn apply_live(&mut self, high: u64, touched: &[(&str, u64)]) -> String {
        self.send(appended(high));
        self.read(Lane::Live, high, high, touched)
    }

    fn floor(&self) -> u64 {
        self.machine.trim_floor().0
    }

    fn next_offset(&self, slot: usize) -> u64 {
        self.machine.next_offset(Slot(slot)).0
    }

    /// What holds retention back: a slot and an offset.
    fn held_by(&self) -> Option<(usize, u64)> {
        let holder = self.machine.held_by()?;
        Some((holder.slot.index(), holder.offset.0))
    }
}

fn first(actions: &str) -> &str {
    actions.split("; ").next().unwrap_or_default()
}

fn last(actions: &str) -> &str {
    actions.rsplit("; ").next().unwrap_or_default()
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn workspace(id: &str) -> WorkspaceId {
    WorkspaceId::new(id).expect("a valid id")
}

fn listing(known: &[(&str, u64)], committed: u64, high: u64) -> Listing {
    Listing {
        workspaces: known
            .iter()
            .map(|(id, next_offset)| Known {
                id: workspace(id),
                epoch: Epoch::new(1),
                next_offset: Offset(*next_offset),
                first_offset: Offset::ZERO,
                residence: Residence::Memory,
                damaged: false,
            })
            .collect(),
        deleted: Vec::new(),
        committed: Offset(committed),
        low_watermark: Offset::ZERO,
        high_watermark: Offset(high),
        first_epoch: Epoch::FIRST,
    }
}

fn granted(slot: usize) -> Input {
    Input::PermitGranted { slot: Slot(slot) }
}

fn loaded(slot: usize, epoch: u64, next_offset: u64, high: u64) -> Input {
    Input::Loaded {
        slot: Slot(slot),
        epoch: Epoch::new(epoch),
        first_offset: Offset::ZERO,
        next_offset: Offset(next_offset),
        events_applied: 0,
        unsaved: false,
        high_watermark: Offset(high),
    }
}

/// The first load of the first workspace fails.
fn load_failed(failure: LoadFailure) -> Input {
    Input::LoadFailed {
        slot: Slot(0),
        epoch: Epoch::new(2),
        claimed: matches!(failure, LoadFailure::Park(_)),
        failure,
    }
}

/// A batch with events of these workspaces: each from its offset to the end of the batch.
fn fetched(lane: Lane, next_offset: u64, high: u64, touched: &[(&str, u64)]) -> Input {
    let touched = touched.iter().map(|(id, first)| Touched {
        id: workspace(id),
        first_offset: Offset(*first),
        last_offset: Offset(next_offset.saturating_sub(1)).max(Offset(*first)),
    });
    Input::Fetched {
        lane,
        next_offset: Offset(next_offset),
        high_watermark: Offset(high),
        touched: touched.collect(),
    }
}

/// One event of each of the slots was applied.
fn applied(lane: Lane, slots: &[usize]) -> Input {
    let results = slots.iter().map(|slot| AppliedTo {
        slot: Slot(*slot),
        bytes: 0,
        events: 1,
        save_requested: false,
        poison: None,
    });
    Input::Applied {
        lane,
        results: results.collect(),
    }
}

fn appended(high: u64) -> Input {
    Input::Appended {
        high_watermark: Offset(high),
    }
}

fn saved() -> Input {
    Input::Saved {
        refused: Vec::new(),
    }
}

/// The save of the first workspace is refused.
fn refused(refusal: Refusal) -> Input {
    let slot = Slot(0);
    Input::Saved {
        refused: vec![Refused { slot, refusal }],
    }
}

fn save_failed() -> Input {
    let reason = "no".to_owned();
    Input::SaveFailed { reason }
}

fn failed(lane: Lane, failure: FetchFailure) -> Input {
    Input::FetchFailed { lane, failure }
}

/// The event of the first workspace is in the dead-letter log.
fn dead_lettered(offset: u64) -> Input {
    Input::DeadLettered {
        slot: Slot(0),
        offset: Offset(offset),
    }
}
