//! The rules of a partition, each as a transcript: its inputs, and the actions that it returns.

use workspace_status::WorkspaceId;

use super::*;
use crate::{
    AppliedTo, Command, EraseFailure, FetchFailure, Known, LoadFailure, Poison, Refusal, Refused,
    StateAfter, Ticket, Touched,
};

/// A partition and the current time.
struct Story {
    machine: Partition,
    now: Time,
    tickets: u64,
    low_watermark: Offset,
}

impl Story {
    fn new() -> Self {
        Self::with(Limits {
            save_every: Duration::from_secs(1),
            ..Limits::default()
        })
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
        story.own(known, committed, high);
        story
    }

    fn own(&mut self, known: &[(&str, u64)], committed: u64, high: u64) {
        self.send(Input::Assigned);
        self.send(listed(known, committed, high));
    }

    /// Passes the input and returns the actions, one per line.
    fn send(&mut self, input: Input) -> Vec<String> {
        let actions = self.machine.handle(self.now, input);
        actions.iter().map(ToString::to_string).collect()
    }

    #[track_caller]
    fn expect(&mut self, input: Input, wanted: &[&str]) {
        let text = format!("{input:?}");
        assert_eq!(self.send(input), wanted, "after {text}");
    }

    fn pass(&mut self, wait: Duration) -> Vec<String> {
        self.now = self.now + wait;
        self.send(Input::Tick)
    }

    /// Advances the time to `wake_at` and passes `Tick`.
    #[track_caller]
    fn wake(&mut self) -> Vec<String> {
        self.now = self.machine.wake_at().expect("it waits for a time");
        self.send(Input::Tick)
    }

    fn command(&mut self, id: &str, command: Command) -> Vec<String> {
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        self.send(Input::Operator {
            id: workspace(id),
            command,
            ticket,
            low_watermark: self.low_watermark,
        })
    }

    /// Brings a workspace into memory at `next_offset`.
    fn load(&mut self, slot: usize, epoch: u64, next_offset: u64, high: u64) -> Vec<String> {
        self.send(granted(slot));
        self.send(loaded(slot, epoch, next_offset, high))
    }

    /// Passes a batch up to `next_offset` and applies the resulting plan.
    fn read(
        &mut self,
        lane: Lane,
        next_offset: u64,
        high: u64,
        touched: &[(&str, u64)],
    ) -> Vec<String> {
        self.send(fetched(lane, next_offset, high, touched));
        let slots: Vec<usize> = touched
            .iter()
            .map(|(id, _)| self.machine.slot(id).expect("met").index())
            .filter(|slot| self.machine.workspaces.at(Slot(*slot)).follows(lane))
            .collect();
        self.send(applied(lane, &slots))
    }
}

fn workspace(id: &str) -> WorkspaceId {
    WorkspaceId::new(id).expect("a valid id")
}

fn listed(known: &[(&str, u64)], committed: u64, high: u64) -> Input {
    Input::Listed(Listing {
        workspaces: known
            .iter()
            .map(|(id, next_offset)| Known {
                id: workspace(id),
                epoch: Epoch::new(1),
                next_offset: Offset(*next_offset),
                first_offset: Offset::ZERO,
                unloaded: false,
                damaged: false,
            })
            .collect(),
        deleted: Vec::new(),
        committed: Offset(committed),
        low_watermark: Offset::ZERO,
        high_watermark: Offset(high),
        first_epoch: Epoch::FIRST,
    })
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

fn stopped(lane: Lane, slot: usize, offset: u64) -> Input {
    let poison = Poison {
        offset: Offset(offset),
        reason: format!("event {offset} is poison"),
        state: StateAfter::Intact,
    };
    let result = AppliedTo {
        slot: Slot(slot),
        bytes: 0,
        events: 0,
        save_requested: false,
        poison: Some(poison),
    };
    Input::Applied {
        lane,
        results: vec![result],
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

fn failed(lane: Lane, failure: FetchFailure) -> Input {
    Input::FetchFailed { lane, failure }
}

#[test]
fn a_workspace_is_loaded_and_replayed_to_its_target_and_then_it_is_ready() {
    let mut story = Story::new();
    story.expect(Input::Assigned, &["list"]);
    story.expect(
        listed(&[("a", 4)], 10, 10),
        &[
            "report #0 initializing at epoch 2",
            "ask a permit for #0, ordinary",
        ],
    );
    story.expect(
        granted(0),
        &["report #0 loading", "load #0 at epoch 2, if unknown from 4"],
    );
    story.expect(
        loaded(0, 2, 4, 10),
        &[
            "report #0 replaying 4..10",
            "fetch 4..10 for the catch-up lane",
        ],
    );
    story.expect(
        fetched(Lane::CatchUp, 8, 10, &[("a", 5)]),
        &["apply the batch of the catch-up lane to #0 from 5"],
    );
    story.expect(
        applied(Lane::CatchUp, &[0]),
        &["fetch 8..10 for the catch-up lane"],
    );
    story.expect(fetched(Lane::CatchUp, 10, 10, &[]), &["report #0 ready"]);
    story.expect(appended(12), &["fetch 10..12 for the live lane"]);
}

#[test]
fn a_list_that_fails_is_asked_for_again() {
    let mut story = Story::new();
    story.send(Input::Assigned);
    story.expect(
        Input::ListFailed {
            reason: "no".to_owned(),
        },
        &[],
    );
    assert_eq!(story.wake(), ["list"]);
}

#[test]
fn ready_is_not_said_before_the_target_that_was_frozen_at_the_load() {
    let mut story = Story::owned(&[("a", 10)], 10, 10);
    let fetch = "fetch 10..12 for the live lane";
    assert_eq!(
        story.load(0, 2, 10, 12),
        ["report #0 replaying 10..12", fetch]
    );
    story.expect(
        fetched(Lane::Live, 11, 20, &[]),
        &["fetch 11..20 for the live lane"],
    );
    story.expect(
        fetched(Lane::Live, 12, 20, &[]),
        &["report #0 ready", "fetch 12..20 for the live lane"],
    );
}

#[test]
fn a_workspace_that_is_caught_up_does_not_wait_for_a_round() {
    let mut story = Story::owned(&[("a", 0), ("b", 10)], 10, 10);
    story.load(0, 2, 0, 10);
    story.pass(Duration::from_secs(1));
    assert_eq!(
        story.load(1, 2, 10, 10),
        ["report #1 replaying 10..10", "report #1 ready"]
    );
    assert!(story.machine.follows_live(Slot(1)));
}

#[test]
fn one_that_loads_late_gets_a_round_of_its_own() {
    let mut story = Story::owned(&[("a", 0), ("b", 0)], 10, 10);
    story.send(granted(1));
    story.load(0, 2, 0, 10);
    story.pass(Duration::from_secs(1));
    story.expect(
        fetched(Lane::CatchUp, 5, 10, &[("a", 0)]),
        &["apply the batch of the catch-up lane to #0 from 0"],
    );
    story.send(applied(Lane::CatchUp, &[0]));
    story.expect(loaded(1, 2, 0, 10), &["report #1 replaying 0..10"]);
    story.expect(
        fetched(Lane::CatchUp, 10, 10, &[]),
        &["fetch 0..10 for the catch-up lane", "report #0 ready"],
    );
}

#[test]
fn a_batch_waits_for_the_load_of_a_workspace_in_it_but_not_longer_than_its_hold() {
    let mut story = Story::owned(&[], 0, 0);
    story.send(appended(4));
    story.expect(
        fetched(Lane::Live, 4, 4, &[("a", 0)]),
        &[
            "report #0 initializing at epoch 1",
            "ask a permit for #0, ordinary",
        ],
    );
    story.send(granted(0));
    story.expect(
        loaded(0, 1, 0, 4),
        &[
            "report #0 replaying 0..4",
            "apply the batch of the live lane to #0 from 0",
        ],
    );
    story.expect(applied(Lane::Live, &[0]), &["report #0 ready"]);

    story.send(appended(6));
    story.send(fetched(Lane::Live, 6, 6, &[("b", 4)]));
    story.send(appended(7));
    assert_eq!(story.pass(Duration::from_millis(99)), [""; 0]);
    assert_eq!(
        story.pass(Duration::from_millis(1)),
        ["fetch 6..7 for the live lane"]
    );
}

#[test]
fn one_met_by_the_live_lane_begins_where_the_unread_part_of_the_log_begins() {
    let mut story = Story::owned(&[], 3, 10);
    let failure = FetchFailure::Retry("no".to_owned());
    story.send(failed(Lane::CatchUp, failure));
    story.expect(appended(12), &["fetch 10..12 for the live lane"]);
    story.send(fetched(Lane::Live, 12, 12, &[("a", 11)]));
    story.expect(
        granted(0),
        &["report #0 loading", "load #0 at epoch 1, if unknown from 3"],
    );
}

#[test]
fn a_workspace_that_the_store_does_not_know_holds_committed_until_it_is_claimed() {
    let mut story = Story::owned(&[("a", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    story.send(appended(4));
    story.send(fetched(Lane::Live, 4, 4, &[("a", 0), ("b", 2)]));
    story.pass(Duration::from_millis(100));
    story.send(applied(Lane::Live, &[0]));
    assert_eq!(
        story.pass(Duration::from_secs(1)),
        ["save #0 at 4 epoch 2, committed 2"]
    );
    assert_eq!(story.machine.trim_floor(), Offset(0));
    story.send(saved());
    assert_eq!(story.machine.trim_floor(), Offset(2));
}

#[test]
fn the_floor_of_the_log_rises_only_when_a_save_is_answered() {
    let mut story = Story::owned(&[("a", 0)], 0, 4);
    story.load(0, 2, 0, 4);
    story.read(Lane::CatchUp, 4, 4, &[("a", 0)]);
    assert_eq!(
        story.pass(Duration::from_secs(1)),
        ["save #0 at 4 epoch 2, committed 4"]
    );
    story.expect(
        Input::SaveFailed {
            reason: "no".to_owned(),
        },
        &[],
    );
    assert_eq!(story.machine.trim_floor(), Offset(0));
    assert_eq!(story.wake(), ["save #0 at 4 epoch 2, committed 4"]);
    story.send(saved());
    assert_eq!(story.machine.trim_floor(), Offset(4));
}

#[test]
fn a_workspace_without_events_is_saved_when_the_store_is_far_behind() {
    let mut story = Story::with(Limits {
        stale_positions: 100,
        ..Limits::default()
    });
    story.own(&[("a", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    story.send(appended(100));
    story.send(fetched(Lane::Live, 100, 100, &[]));
    assert_eq!(
        story.pass(Duration::from_secs(1)),
        ["save #0 at 100 epoch 2, committed 100"]
    );
}

#[test]
fn a_round_that_ends_hands_its_workspaces_over_before_the_live_lane_plans_its_batch() {
    let mut story = Story::owned(&[("a", 0), ("b", 10)], 10, 10);
    story.load(0, 2, 0, 10);
    story.load(1, 2, 10, 10);
    story.send(granted(0));
    // Both lanes hold a batch for a new workspace, and both waits end at the same time.
    story.send(appended(12));
    story.send(fetched(Lane::CatchUp, 10, 12, &[("a", 0), ("c", 5)]));
    story.send(fetched(
        Lane::Live,
        12,
        12,
        &[("a", 10), ("b", 11), ("d", 10)],
    ));
    assert_eq!(
        story.pass(Duration::from_secs(2)),
        ["apply the batch of the catch-up lane to #0 from 0"]
    );
    let live = story.send(applied(Lane::CatchUp, &[0]));
    assert_eq!(
        live[0],
        "apply the batch of the live lane to #0 from 10 #1 from 11"
    );
}

#[test]
fn what_lies_before_a_damaged_record_is_applied_before_anybody_stops_at_it() {
    let mut story = Story::owned(&[("a", 0)], 10, 10);
    story.load(0, 2, 0, 10);
    let damaged = || FetchFailure::Damaged {
        offset: Offset(6),
        reason: "record 6 is damaged".to_owned(),
    };
    story.expect(
        failed(Lane::CatchUp, damaged()),
        &["fetch 0..6 for the catch-up lane"],
    );
    story.send(fetched(Lane::CatchUp, 6, 10, &[("a", 2)]));
    story.expect(
        applied(Lane::CatchUp, &[0]),
        &["fetch 6..10 for the catch-up lane"],
    );
    story.expect(
        failed(Lane::CatchUp, damaged()),
        &[
            "report #0 parked: record 6 is damaged",
            "fetch 7..10 for the catch-up lane",
        ],
    );
    assert_eq!(story.machine.next_offset(Slot(0)), Offset(6));
}

#[test]
fn a_poison_event_stops_its_workspace_alone_and_a_skip_moves_it_on() {
    let mut story = Story::owned(&[("a", 0), ("b", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    story.load(1, 2, 0, 0);
    story.send(appended(3));
    story.send(fetched(Lane::Live, 3, 3, &[("a", 0)]));
    story.expect(
        stopped(Lane::Live, 0, 1),
        &["report #0 parked: event 1 is poison"],
    );
    story.send(appended(5));
    assert_eq!(story.read(Lane::Live, 5, 5, &[("b", 3)]), [""; 0]);
    assert_eq!(story.machine.next_offset(Slot(1)), Offset(5));

    assert_eq!(
        story.command("a", Command::Skip),
        ["dead-letter 1 of #0: event 1 is poison"]
    );
    assert_eq!(
        story.command("a", Command::Skip),
        ["reply to 1: the workspace is busy with another command, try again"]
    );
    story.expect(
        Input::DeadLettered {
            slot: Slot(0),
            offset: Offset(1),
        },
        &[
            "report #0 unloading: the event it stood at is skipped",
            "save #0 at 2 epoch 2, #1 at 5 epoch 2, committed 5",
        ],
    );
    story.expect(
        saved(),
        &[
            "drop #0",
            "report #0 initializing at epoch 3",
            "ask a permit for #0, urgent",
            "reply to 0: done",
        ],
    );
}

#[test]
fn a_skip_that_cannot_be_kept_is_no_skip() {
    let mut story = Story::owned(&[("a", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    story.send(appended(3));
    story.send(fetched(Lane::Live, 3, 3, &[("a", 0)]));
    story.send(stopped(Lane::Live, 0, 1));
    story.command("a", Command::Skip);
    let reason = "no space left".to_owned();
    story.expect(
        Input::DeadLetterFailed {
            slot: Slot(0),
            reason,
        },
        &["reply to 0: no space left"],
    );
    assert_eq!(story.machine.stands_at(Slot(0)).unwrap().offset, Offset(1));
}

#[test]
fn an_unload_is_answered_when_it_is_saved() {
    let mut story = Story::owned(&[("a", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    assert_eq!(
        story.command("a", Command::Unload),
        [
            "report #0 unloading: an operator unloads it",
            "save #0 at 0 epoch 2 unloaded, committed 0"
        ]
    );
    story.expect(saved(), &["drop #0", "report #0 gone", "reply to 0: done"]);
    assert_eq!(
        story.command("a", Command::Load),
        [
            "report #0 initializing at epoch 3",
            "ask a permit for #0, urgent",
            "reply to 1: done"
        ]
    );
}

#[test]
fn events_of_an_unloaded_workspace_wait_for_its_load() {
    let mut story = Story::owned(&[("a", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    story.command("a", Command::Unload);
    story.send(saved());
    story.send(appended(3));
    story.expect(fetched(Lane::Live, 3, 3, &[("a", 0)]), &[]);
    story.command("a", Command::Load);
    let begun = story.load(0, 3, 0, 3);
    assert_eq!(
        begun,
        [
            "report #0 replaying 0..3",
            "fetch 0..3 for the catch-up lane"
        ]
    );
}

#[test]
fn commands_at_the_wrong_moment_say_what_stands_against_them() {
    let busy = "reply to 0: the workspace is busy with another command, try again";
    let not_stopped = "reply to 0: the workspace does not stand at an event that it cannot apply";
    let unknown = "reply to 0: no such workspace";
    let leaving = "reply to 0: the partition is being handed over";
    let loading: fn() -> Story = || {
        let mut story = Story::owned(&[("a", 0)], 0, 0);
        story.send(granted(0));
        story
    };
    let ready: fn() -> Story = || {
        let mut story = Story::owned(&[("a", 0)], 0, 0);
        story.load(0, 2, 0, 0);
        story
    };
    let over: fn() -> Story = || {
        let mut story = Story::owned(&[("a", 0)], 0, 0);
        story.send(Input::Lost);
        story
    };
    let listing: fn() -> Story = || {
        let mut story = Story::new();
        story.send(Input::Assigned);
        story
    };
    for (name, story, id, command, answer) in [
        ("loading", loading, "a", Command::Unload, busy),
        ("loading", loading, "a", Command::Reload, busy),
        ("loading", loading, "a", Command::Skip, not_stopped),
        ("ready", ready, "a", Command::Load, "reply to 0: done"),
        ("ready", ready, "a", Command::Skip, not_stopped),
        ("ready", ready, "b", Command::Load, unknown),
        ("over", over, "a", Command::Load, leaving),
        ("listing", listing, "a", Command::Load, busy),
    ] {
        assert_eq!(
            story().command(id, command),
            [answer],
            "{command:?} of {id} while {name}"
        );
    }
}

#[test]
fn a_permit_that_comes_too_late_is_returned() {
    let mut story = Story::owned(&[("a", 0)], 0, 0);
    assert_eq!(
        story.command("a", Command::Unload),
        [
            "cancel the permit of #0",
            "report #0 unloading: an operator unloads it",
            "report #0 gone",
            "reply to 0: done"
        ]
    );
    story.expect(granted(0), &["return a permit"]);
}

#[test]
fn a_fenced_load_is_tried_again_above_the_epoch_in_the_store() {
    let mut story = Story::owned(&[("a", 0)], 0, 0);
    story.send(granted(0));
    let failure = LoadFailure::Fenced {
        stored: Epoch::new(7),
    };
    story.send(Input::LoadFailed {
        slot: Slot(0),
        epoch: Epoch::new(2),
        claimed: false,
        failure,
    });
    assert_eq!(story.wake()[0], "report #0 initializing at epoch 8");
}

#[test]
fn a_load_that_is_parked_waits_for_an_operator() {
    let mut story = Story::owned(&[("a", 0)], 0, 0);
    story.send(granted(0));
    let failure = LoadFailure::Park("entry 3 is damaged".to_owned());
    story.expect(
        Input::LoadFailed {
            slot: Slot(0),
            epoch: Epoch::new(2),
            claimed: true,
            failure,
        },
        &["report #0 parked: entry 3 is damaged"],
    );
    assert_eq!(story.pass(Duration::from_hours(1)), [""; 0]);
    assert_eq!(
        story.command("a", Command::Load)[0],
        "report #0 initializing at epoch 3"
    );
}

#[test]
fn a_revoked_partition_is_released_when_everything_is_saved() {
    let mut story = Story::owned(&[("a", 0), ("b", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    story.expect(
        Input::Revoked,
        &[
            "report #0 unloading: the partition is handed over",
            "cancel the permit of #1",
            "report #1 unloading: the partition is handed over",
            "report #1 gone",
            "save #0 at 0 epoch 2, committed 0",
        ],
    );
    story.expect(saved(), &["drop #0", "report #0 gone", "released"]);
}

#[test]
fn a_handover_does_not_wait_until_a_failed_save_is_due_again() {
    let mut story = Story::owned(&[("a", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    story.send(appended(1));
    story.read(Lane::Live, 1, 1, &[("a", 0)]);
    story.pass(Duration::from_secs(1));
    story.send(Input::SaveFailed {
        reason: "no".to_owned(),
    });
    let wanted = story.send(Input::Revoked);
    assert_eq!(wanted.last().unwrap(), "save #0 at 1 epoch 2, committed 1");
}

#[test]
fn a_lost_partition_is_let_go_without_a_save_and_late_answers_change_nothing() {
    let mut story = Story::owned(&[("a", 0), ("b", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    story.send(granted(1));
    story.expect(
        Input::Lost,
        &[
            "drop #0",
            "report #0 unloading: the partition is lost",
            "report #0 gone",
            "report #1 unloading: the partition is lost",
            "report #1 gone",
            "released",
        ],
    );
    story.expect(loaded(1, 2, 0, 0), &["drop #1"]);
    story.expect(saved(), &[]);
    story.expect(fetched(Lane::Live, 4, 4, &[("c", 0)]), &[]);
    assert_eq!(story.machine.wake_at(), None);
}

#[test]
fn one_whose_save_is_refused_is_dropped_and_loaded_again_after_the_longest_wait() {
    let mut story = Story::owned(&[("a", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    story.send(appended(1));
    story.read(Lane::Live, 1, 1, &[("a", 0)]);
    story.pass(Duration::from_secs(1));
    story.expect(
        Input::Saved { refused: vec![refused(0, Refusal::TakenOver)] },
        &[
            "drop #0",
            "report #0 retrying after failure 1, in 30s: a newer load than epoch 2 has taken it over",
        ],
    );
    assert_eq!(
        story.pass(Duration::from_secs(30))[0],
        "report #0 initializing at epoch 3"
    );
}

fn refused(slot: usize, refusal: Refusal) -> Refused {
    Refused {
        slot: Slot(slot),
        refusal,
    }
}

#[test]
fn one_that_the_store_will_not_save_is_parked_and_its_events_stay_in_the_log() {
    let mut story = Story::owned(&[("a", 0), ("b", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    story.load(1, 2, 0, 0);
    story.send(appended(9));
    story.read(Lane::Live, 9, 9, &[("a", 0), ("b", 5)]);
    story.pass(Duration::from_secs(1));
    story.expect(
        Input::Saved {
            refused: vec![refused(
                0,
                Refusal::ForGood("no room in its key".to_owned()),
            )],
        },
        &[
            "drop #0",
            "report #0 parked: it cannot be saved: no room in its key",
        ],
    );
    assert_eq!(story.machine.trim_floor(), Offset(0));
}

#[test]
fn one_that_the_store_cannot_save_now_is_loaded_again() {
    let mut story = Story::owned(&[("a", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    story.send(appended(1));
    story.read(Lane::Live, 1, 1, &[("a", 0)]);
    story.pass(Duration::from_secs(1));
    let wanted = story.send(Input::Saved {
        refused: vec![refused(0, Refusal::ForNow("its file is gone".to_owned()))],
    });
    assert_eq!(wanted[0], "drop #0");
    assert!(
        wanted[1].ends_with("it cannot be saved: its file is gone"),
        "{wanted:?}"
    );
    assert_eq!(
        story.pass(Duration::from_secs(2))[0],
        "report #0 initializing at epoch 3"
    );
}

#[test]
fn one_that_an_event_broke_is_loaded_again_and_stops_before_it() {
    let mut story = Story::owned(&[("a", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    story.send(appended(9));
    story.send(fetched(Lane::Live, 9, 9, &[("a", 0)]));
    let wanted = story.send(Input::Applied {
        lane: Lane::Live,
        results: vec![AppliedTo {
            slot: Slot(0),
            bytes: 10,
            events: 4,
            save_requested: false,
            poison: Some(Poison {
                offset: Offset(5),
                reason: "it panicked".to_owned(),
                state: StateAfter::Broken,
            }),
        }],
    });
    assert_eq!(wanted[0], "drop #0");
    assert!(wanted[1].starts_with("report #0 retrying"), "{wanted:?}");
    story.pass(Duration::from_secs(2));
    story.send(Input::PermitGranted { slot: Slot(0) });
    story.send(loaded(0, 3, 0, 9));
    story.pass(Duration::from_secs(1));
    let wanted = story.send(fetched(Lane::CatchUp, 9, 9, &[("a", 0)]));
    assert_eq!(
        wanted,
        ["apply the batch of the catch-up lane to #0 from 0 until 5"]
    );
    let wanted = story.send(applied(Lane::CatchUp, &[0]));
    assert_eq!(wanted[0], "report #0 parked: it panicked");
    assert_eq!(story.machine.next_offset(Slot(0)), Offset(5));
}

#[test]
fn events_of_one_that_was_taken_over_do_not_hold_up_the_others() {
    let mut story = Story::with(Limits {
        save_every_events: 1,
        most_unsaved_events: 2,
        ..Limits::default()
    });
    story.own(&[("a", 0)], 10, 10);
    story.load(0, 2, 0, 10);
    story.send(fetched(Lane::CatchUp, 1, 10, &[("a", 0)]));
    story.expect(
        applied(Lane::CatchUp, &[0]),
        &[
            "fetch 1..10 for the catch-up lane",
            "save #0 at 1 epoch 2, committed 10",
        ],
    );
    story.send(fetched(Lane::CatchUp, 3, 10, &[("a", 1)]));
    story.expect(applied(Lane::CatchUp, &[0, 0]), &[]);
    let wanted = story.send(Input::Saved {
        refused: vec![refused(0, Refusal::TakenOver)],
    });
    assert_eq!(wanted.last().unwrap(), "fetch 3..10 for the catch-up lane");
}

#[test]
fn a_round_is_saved_when_it_is_over_and_now_and_then_while_it_runs() {
    let mut story = Story::with(Limits {
        save_every_events: 1,
        save_every_in_round: Duration::from_secs(10),
        ..Limits::default()
    });
    story.own(&[("a", 0)], 10, 10);
    story.load(0, 2, 0, 10);
    for end in 1..=3 {
        let wanted = story.read(Lane::CatchUp, end, 10, &[("a", end - 1)]);
        assert_eq!(wanted, [format!("fetch {end}..10 for the catch-up lane")]);
    }
    let wanted = story.pass(Duration::from_secs(10));
    assert_eq!(wanted, ["save #0 at 3 epoch 2, committed 10"]);
    story.send(saved());
    story.read(Lane::CatchUp, 5, 10, &[("a", 3)]);
    let wanted = story.read(Lane::CatchUp, 10, 10, &[("a", 5)]);
    assert_eq!(
        wanted.last().unwrap(),
        "save #0 at 10 epoch 2, committed 10"
    );
}

#[test]
fn nothing_is_fetched_while_too_much_is_unsaved_and_nobody_is_woken_for_it() {
    let mut story = Story::with(Limits {
        save_every_events: 1,
        most_unsaved_events: 1,
        ..Limits::default()
    });
    let retry = || FetchFailure::Retry("no".to_owned());
    story.own(&[("a", 0)], 4, 4);
    story.load(0, 2, 0, 4);
    story.send(failed(Lane::CatchUp, retry()));
    story.pass(Duration::from_millis(500));
    story.expect(appended(6), &["fetch 4..6 for the live lane"]);
    story.send(failed(Lane::Live, retry()));
    assert_eq!(story.wake(), ["fetch 0..4 for the catch-up lane"]);
    story.send(fetched(Lane::CatchUp, 2, 6, &[("a", 0)]));
    story.expect(
        applied(Lane::CatchUp, &[0]),
        &["save #0 at 2 epoch 2, committed 4"],
    );
    assert_eq!(story.pass(Duration::from_secs(5)), [""; 0]);
    let wake_at = story.machine.wake_at();
    assert!(wake_at.is_none_or(|at| at > story.now), "it must not spin");
    let wanted = story.send(saved());
    assert_eq!(wanted[0], "fetch 2..4 for the catch-up lane");
}

#[test]
fn what_retention_removed_stops_its_workspaces_before_it_and_a_skip_goes_on_after_it() {
    let mut story = Story::owned(&[("a", 0)], 10, 10);
    story.load(0, 2, 0, 10);
    let failure = FetchFailure::FellOut {
        low_watermark: Offset(6),
    };
    let wanted = story.send(failed(Lane::CatchUp, failure));
    assert_eq!(
        wanted,
        [
            "report #0 parked: events of partition 0 from offset 0 on were removed by retention before they were \
             applied; the log begins at 6",
            "fetch 6..10 for the catch-up lane",
        ]
    );
    assert_eq!(story.command("a", Command::Skip).len(), 1);
    let wanted = story.send(Input::DeadLettered {
        slot: Slot(0),
        offset: Offset(5),
    });
    assert_eq!(wanted[1], "save #0 at 6 epoch 2, committed 10");
}

#[test]
fn what_the_log_has_lost_stops_those_that_did_not_pass_it_and_a_skip_goes_on() {
    let mut story = Story::owned(&[("a", 0)], 10, 10);
    story.load(0, 2, 0, 10);
    let failure = FetchFailure::Lost { until: Offset(6) };
    let wanted = story.send(failed(Lane::CatchUp, failure));
    assert_eq!(
        wanted,
        [
            "report #0 parked: the log of partition 0 has lost the events from offset 0 to 5; whether this workspace \
             had any of them is not known: skip goes on without them",
            "fetch 6..10 for the catch-up lane",
        ]
    );
    assert_eq!(story.command("a", Command::Skip).len(), 1);
    let wanted = story.send(Input::DeadLettered {
        slot: Slot(0),
        offset: Offset(5),
    });
    assert_eq!(wanted[1], "save #0 at 6 epoch 2, committed 10");
}

#[test]
fn a_store_that_is_ahead_of_the_log_parks_its_workspace() {
    let mut story = Story::owned(&[("a", 9)], 4, 4);
    let wanted = story.load(0, 2, 9, 4);
    assert_eq!(
        wanted[..2],
        [
            "drop #0",
            "report #0 parked: the store is at offset 9 of partition 0, but the log ends at 4: \
             the log was replaced or lost its end",
        ]
    );
}

#[test]
fn when_the_log_lost_its_end_those_who_wait_meet_it_too() {
    let mut story = Story::owned(&[("a", 2), ("b", 0)], 10, 10);
    story.send(granted(1));
    story.load(0, 2, 2, 10);
    story.pass(Duration::from_secs(1));
    story.expect(loaded(1, 2, 0, 10), &["report #1 replaying 0..10"]);
    let lost = || FetchFailure::BeyondEnd {
        high_watermark: Offset(1),
    };
    let wanted = story.send(failed(Lane::CatchUp, lost()));
    assert!(wanted[0].starts_with("report #0 parked"), "{wanted:?}");
    let wanted = story.pass(Duration::from_secs(30));
    assert_eq!(wanted, ["fetch 0..10 for the catch-up lane"]);
    story.expect(
        fetched(Lane::CatchUp, 1, 1, &[]),
        &["fetch 1..10 for the catch-up lane"],
    );
}

#[test]
fn a_log_that_fails_twice_is_an_error_of_those_who_replay_and_not_of_those_who_are_ready() {
    let mut story = Story::owned(&[("a", 10), ("b", 0)], 10, 10);
    story.load(0, 2, 10, 10);
    story.load(1, 2, 0, 10);
    story.pass(Duration::from_secs(1));
    let failure = || FetchFailure::Retry("no brokers".to_owned());
    let wanted = story.send(failed(Lane::CatchUp, failure()));
    assert_eq!(wanted, [""; 0], "one failure may be over the next moment");
    let wanted = story.pass(Duration::from_secs(1));
    assert_eq!(wanted, ["fetch 0..10 for the catch-up lane"]);
    let wanted = story.send(failed(Lane::CatchUp, failure()));
    assert_eq!(wanted[0], "drop #1");
    assert!(
        wanted[1].starts_with("report #1 retrying") && wanted[1].ends_with("no brokers"),
        "{wanted:?}"
    );
    let wanted = story.pass(Duration::from_secs(1));
    assert_eq!(wanted[0], "report #1 initializing at epoch 3");
}

fn touched(id: &str, first: u64, last: u64) -> Touched {
    Touched {
        id: workspace(id),
        first_offset: Offset(first),
        last_offset: Offset(last),
    }
}

fn read_to(lane: Lane, next_offset: u64, high: u64, touched: Vec<Touched>) -> Input {
    Input::Fetched {
        lane,
        next_offset: Offset(next_offset),
        high_watermark: Offset(high),
        touched,
    }
}

fn erased(slot: usize, epoch: u64, next_offset: u64) -> Input {
    Input::Erased {
        slot: Slot(slot),
        epoch: Epoch::new(epoch),
        stored: Epoch::new(epoch),
        next_offset: Offset(next_offset),
        left_over: None,
    }
}

fn erase_failed(slot: usize, epoch: u64, failure: EraseFailure) -> Input {
    Input::EraseFailed {
        slot: Slot(slot),
        epoch: Epoch::new(epoch),
        failure,
    }
}

const RESET: Command = Command::Reset { force: false };

#[test]
fn a_reset_leaves_memory_erases_and_loads_again_from_the_beginning() {
    let mut story = Story::owned(&[("a", 10)], 10, 10);
    story.load(0, 2, 10, 10);
    assert_eq!(
        story.command("a", RESET),
        [
            "drop #0",
            "report #0 unloading: an operator resets it",
            "erase #0 at epoch 3, reset to 0",
        ]
    );
    assert_eq!(
        story.command("a", Command::Load),
        ["reply to 1: the workspace is busy with another command, try again"]
    );
    assert_eq!(story.machine.trim_floor(), Offset::ZERO, "it needs all");
    story.expect(
        erased(0, 3, 0),
        &[
            "report #0 initializing at epoch 4",
            "ask a permit for #0, urgent",
            "reply to 0: done",
        ],
    );
}

#[test]
fn a_parked_workspace_and_one_that_loads_are_reset_and_the_late_load_changes_nothing() {
    let mut story = Story::owned(&[("a", 4), ("b", 4)], 10, 10);
    story.send(granted(0));
    let failure = LoadFailure::Park("it is damaged".to_owned());
    story.send(Input::LoadFailed {
        slot: Slot(0),
        epoch: Epoch::new(2),
        claimed: true,
        failure,
    });
    story.send(granted(1));
    for (slot, id) in [(0, "a"), (1, "b")] {
        assert_eq!(
            story.command(id, RESET),
            [
                format!("report #{slot} unloading: an operator resets it"),
                format!("erase #{slot} at epoch 3, reset to 0"),
            ]
        );
    }
    story.expect(loaded(1, 2, 4, 10), &["drop #1"]);
    assert!(!story.machine.awaits_load(Slot(1), Epoch::new(2)));
}

#[test]
fn a_reset_is_refused_where_the_log_begins_later_unless_by_force() {
    let mut story = Story::owned(&[("a", 10)], 10, 10);
    story.load(0, 2, 10, 10);
    story.low_watermark = Offset(7);
    let refused = story.command("a", RESET);
    assert_eq!(refused.len(), 1);
    assert!(
        refused[0].starts_with("reply to 0: the log has all events from offset 7 on only, but the workspace begins at 0"),
        "{refused:?}"
    );
    let forced = story.command("a", Command::Reset { force: true });
    assert_eq!(
        forced.last().map(String::as_str),
        Some("erase #0 at epoch 3, reset to 7 by force")
    );
}

#[test]
fn after_a_reset_of_which_it_is_not_known_whether_it_happened_the_log_keeps_all() {
    let mut story = Story::owned(&[("a", 10)], 10, 10);
    story.load(0, 2, 10, 10);
    story.command("a", RESET);
    let failure = EraseFailure::Failed("no answer".to_owned());
    story.expect(
        erase_failed(0, 3, failure),
        &[
            "report #0 initializing at epoch 4",
            "ask a permit for #0, ordinary",
            "reply to 0: no answer",
        ],
    );
    assert_eq!(story.machine.trim_floor(), Offset::ZERO);
    story.load(0, 4, 10, 10);
    assert_eq!(story.machine.trim_floor(), Offset(10));
}

#[test]
fn events_before_a_deletion_are_passed_and_the_first_after_it_begins_a_new_workspace() {
    let mut story = Story::owned(&[("a", 10)], 10, 10);
    story.load(0, 2, 10, 10);
    story.send(appended(12));
    assert_eq!(
        story.command("a", Command::Delete),
        [
            "drop #0",
            "report #0 unloading: an operator deletes it",
            "erase #0 at epoch 3, delete below 12",
        ]
    );
    story.expect(erased(0, 3, 12), &["report #0 gone", "reply to 0: done"]);
    assert!(story.machine.is_deleted(Slot(0)));
    assert_eq!(story.machine.position().workspaces, 0);
    assert_eq!(
        story.command("a", Command::Load),
        ["reply to 1: no such workspace"]
    );
    story.expect(read_to(Lane::Live, 12, 12, vec![touched("a", 10, 11)]), &[]);
    story.send(appended(14));
    story.expect(
        read_to(Lane::Live, 14, 14, vec![touched("a", 12, 13)]),
        &[
            "report #0 initializing at epoch 4",
            "ask a permit for #0, ordinary",
        ],
    );
    assert_eq!(
        story.send(granted(0)),
        [
            "report #0 loading",
            "load #0 at epoch 4, if unknown from 12"
        ]
    );
}

#[test]
fn a_deleted_workspace_that_is_listed_comes_back_with_an_event_after_its_deletion_alone() {
    let mut story = Story::new();
    story.send(Input::Assigned);
    let Input::Listed(listing) = listed(&[], 0, 10) else {
        unreachable!()
    };
    let deleted = Deleted {
        id: workspace("a"),
        epoch: Epoch::new(5),
        next_offset: Offset(8),
    };
    story.expect(
        Input::Listed(Listing {
            deleted: vec![deleted],
            ..listing
        }),
        &["fetch 0..10 for the catch-up lane"],
    );
    story.expect(
        read_to(Lane::CatchUp, 8, 10, vec![touched("a", 2, 7)]),
        &["fetch 8..10 for the catch-up lane"],
    );
    story.expect(
        read_to(Lane::CatchUp, 10, 10, vec![touched("a", 8, 9)]),
        &[
            "report #0 initializing at epoch 6",
            "ask a permit for #0, ordinary",
        ],
    );
}

#[test]
fn an_event_that_arrives_while_a_workspace_is_deleted_begins_a_new_one_then() {
    let mut story = Story::owned(&[("a", 10)], 10, 10);
    story.load(0, 2, 10, 10);
    story.command("a", Command::Delete);
    story.send(appended(11));
    story.send(read_to(Lane::Live, 11, 11, vec![touched("a", 10, 10)]));
    story.expect(
        erased(0, 3, 10),
        &[
            "report #0 gone",
            "report #0 initializing at epoch 4",
            "ask a permit for #0, ordinary",
            "reply to 0: done",
        ],
    );
}

#[test]
fn a_workspace_out_of_memory_without_events_of_its_own_holds_nothing_back() {
    let mut story = Story::owned(&[("a", 10), ("b", 10)], 10, 10);
    story.load(0, 2, 10, 10);
    story.load(1, 2, 10, 10);
    story.command("a", Command::Unload);
    story.send(saved());
    story.send(appended(20));
    story.read(Lane::Live, 20, 20, &[("b", 12)]);
    story.pass(Duration::from_secs(2));
    story.send(saved());
    assert_eq!(story.machine.trim_floor(), Offset(10));
    assert_eq!(story.machine.held_by(), None, "only a save is due");

    story.pass(Duration::from_mins(1));
    assert_eq!(
        story.pass(Duration::from_secs(1)),
        ["save only advance #0 to 20 epoch 2, committed 20"]
    );
    story.send(saved());
    assert_eq!(story.machine.held_by(), None);
    assert_eq!(story.machine.trim_floor(), Offset(20));

    story.send(appended(22));
    story.read(Lane::Live, 22, 22, &[("b", 21)]);
    story.send(appended(24));
    story.send(read_to(Lane::Live, 24, 24, vec![touched("a", 22, 23)]));
    let saves = story.pass(Duration::from_mins(1));
    let up_to_its_own_event = saves
        .iter()
        .any(|save| save.contains("only advance #0 to 22"));
    assert!(up_to_its_own_event, "{saves:?}");
    story.send(saved());
    assert_eq!(story.machine.trim_floor(), Offset(22));
    let held_by = Holder {
        slot: Slot(0),
        offset: Offset(22),
    };
    assert_eq!(story.machine.held_by(), Some(held_by));
}

#[test]
fn the_log_is_looked_through_once_for_one_that_was_out_of_memory_before() {
    let mut story = Story::new();
    story.send(Input::Assigned);
    let Input::Listed(mut listing) = listed(&[("a", 4)], 10, 10) else {
        unreachable!()
    };
    listing.workspaces[0].unloaded = true;
    story.send(Input::Listed(listing));
    let held_by = Holder {
        slot: Slot(0),
        offset: Offset(4),
    };
    assert_eq!(story.machine.held_by(), Some(held_by), "it may need them");
    assert_eq!(
        story.pass(Duration::from_mins(1)),
        ["fetch 4..10 for the catch-up lane"]
    );
    story.send(read_to(Lane::CatchUp, 10, 10, Vec::new()));
    story.pass(Duration::from_mins(1));
    let saves = story.pass(Duration::from_secs(1));
    assert_eq!(saves, ["save only advance #0 to 10 epoch 2, committed 10"]);
    story.send(saved());
    assert_eq!(story.machine.trim_floor(), Offset(10));
    assert_eq!(story.pass(Duration::from_mins(2)), [""; 0], "only once");
}

/// A partition with `a` unloaded at 4 before, and the log searched for its events up to 10.
fn looked_through(meanwhile: impl FnOnce(&mut Story)) -> Story {
    let mut story = Story::new();
    story.send(Input::Assigned);
    let Input::Listed(mut listing) = listed(&[("a", 4)], 10, 10) else {
        unreachable!()
    };
    listing.workspaces[0].unloaded = true;
    story.send(Input::Listed(listing));
    story.pass(Duration::from_mins(1));
    meanwhile(&mut story);
    story
}

#[test]
fn what_cannot_be_read_may_be_of_one_that_is_out_of_memory() {
    let failures = [
        FetchFailure::Damaged {
            offset: Offset(4),
            reason: "damaged".to_owned(),
        },
        FetchFailure::Lost { until: Offset(10) },
        FetchFailure::FellOut {
            low_watermark: Offset(10),
        },
    ];
    for failure in failures {
        let mut story = looked_through(|story| {
            story.send(Input::FetchFailed {
                lane: Lane::CatchUp,
                failure: failure.clone(),
            });
            story.send(read_to(Lane::CatchUp, 10, 10, Vec::new()));
        });
        let saves = story.pass(Duration::from_mins(3));
        let advances = saves.iter().any(|save| save.contains("only advance"));
        assert!(!advances, "{failure:?}: {saves:?}");
        assert_eq!(story.machine.trim_floor(), Offset(4), "{failure:?}");
        let offset = story.machine.held_by().map(|held| held.offset);
        assert_eq!(offset, Some(Offset(4)), "{failure:?}");
    }
}

#[test]
fn a_parked_workspace_without_events_of_its_own_holds_nothing_back() {
    let mut story = Story::owned(&[("a", 10)], 10, 10);
    story.send(granted(0));
    story.send(Input::LoadFailed {
        slot: Slot(0),
        epoch: Epoch::new(2),
        claimed: true,
        failure: LoadFailure::Park("entry 3 is damaged".to_owned()),
    });
    story.send(appended(20));
    story.send(read_to(Lane::Live, 20, 20, Vec::new()));
    story.pass(Duration::from_mins(1));
    assert_eq!(
        story.pass(Duration::from_secs(1)),
        ["save only advance #0 to 20 epoch 2, committed 20"]
    );
    story.send(saved());
    assert_eq!(story.machine.trim_floor(), Offset(20));
}

#[test]
fn one_that_another_owner_has_taken_over_is_not_moved_on_again() {
    let mut story = looked_through(|story| {
        story.send(read_to(Lane::CatchUp, 10, 10, Vec::new()));
    });
    let advance = |story: &mut Story| {
        story.pass(Duration::from_mins(1));
        story.pass(Duration::from_secs(1))
    };
    assert_eq!(
        advance(&mut story),
        ["save only advance #0 to 10 epoch 2, committed 10"]
    );
    let refused = Refused {
        slot: Slot(0),
        refusal: Refusal::TakenOver,
    };
    story.send(Input::Saved {
        refused: vec![refused],
    });
    assert_eq!(story.machine.trim_floor(), Offset(4));
    assert_eq!(advance(&mut story), [""; 0], "only a load can tell");
}

#[test]
fn a_deletion_of_which_it_is_not_known_whether_it_happened_holds_back() {
    let mut story = Story::owned(&[("a", 10)], 10, 10);
    story.load(0, 2, 10, 10);
    story.command("a", Command::Delete);
    let failure = EraseFailure::Failed("no answer".to_owned());
    story.send(erase_failed(0, 3, failure));
    story.send(appended(20));
    story.send(read_to(Lane::Live, 20, 20, vec![touched("b", 12, 12)]));
    story.send(granted(1));
    story.send(loaded(1, 1, 12, 20));
    story.send(applied(Lane::Live, &[1]));
    let commits = |story: &mut Story| {
        let saves = story.pass(Duration::from_mins(2));
        story.send(saved());
        saves.iter().any(|save| save.ends_with("committed 20"))
    };
    assert!(
        !(0..2).any(|_| commits(&mut story)),
        "the store may not know it"
    );
    assert_eq!(story.machine.trim_floor(), Offset(10));
    story.load(0, 4, 10, 20);
    assert!((0..2).any(|_| commits(&mut story)), "it is loaded");
}
