use super::*;

#[test]
fn a_workspace_that_is_caught_up_does_not_wait_for_a_round() {
    let mut story = Story::owned(&[("a", 0), ("b", 10)], 10, 10);
    story.load(0, 2, 0, 10);
    story.pass(seconds(1));
    assert_eq!(
        story.load(1, 2, 10, 10),
        "report #1 replaying 10..10; report #1 ready"
    );
    assert!(story.machine.follows_live(Slot(1)));
}

#[test]
fn a_workspace_that_loads_late_gets_a_round_of_its_own() {
    let mut story = Story::owned(&[("a", 0), ("b", 0)], 10, 10);
    story.send(granted(1));
    story.load(0, 2, 0, 10);
    story.pass(seconds(1));
    story.check(
        fetched(Lane::CatchUp, 5, 10, &[("a", 0)]),
        "apply the batch of the catch-up lane to #0 from 0",
    );
    story.send(applied(Lane::CatchUp, &[0]));
    story.check(loaded(1, 2, 0, 10), "report #1 replaying 0..10");
    story.check(
        fetched(Lane::CatchUp, 10, 10, &[]),
        "follow the live lane: #0; fetch 0..10 for the catch-up lane; report #0 ready",
    );
}

#[test]
fn a_requested_workspace_does_not_wait_for_other_loads() {
    let round = "fetch 0..10 for the catch-up lane";
    let mut story = Story::owned(&[("a", 0), ("b", 0)], 10, 10);
    let waits = story.load(0, 2, 0, 10);
    assert!(!waits.contains(round), "{waits}");
    let requested = story.command("a", Command::Load);
    assert!(requested.contains(round), "{requested}");

    let mut story = Story::owned(&[("a", 0), ("b", 0)], 10, 10);
    story.send(granted(0));
    story.command("a", Command::Load);
    let loads = story.send(loaded(0, 2, 0, 10));
    assert!(loads.contains(round), "{loads}");
}

#[test]
fn a_batch_waits_for_the_load_of_its_workspace_but_not_beyond_its_hold() {
    let mut story = Story::owned(&[], 0, 0);
    assert_eq!(
        story.fetch_live(4, &[("a", 0)]),
        "report #0 initializing at epoch 1; request a permit for #0, ordinary"
    );
    assert_eq!(
        story.load(0, 1, 0, 4),
        "report #0 replaying 0..4; apply the batch of the live lane to #0 from 0"
    );
    story.check(applied(Lane::Live, &[0]), "report #0 ready");

    story.fetch_live(6, &[("b", 4)]);
    story.send(appended(7));
    story.check_after(Duration::from_millis(99), "");
    story.check_after(Duration::from_millis(1), "fetch 6..7 for the live lane");
}

#[test]
fn a_batch_waits_for_each_of_its_loads_but_not_for_a_reload() {
    let mut story = Story::owned(&[], 0, 0);
    story.fetch_live(6, &[("a", 0), ("b", 2), ("c", 4)]);
    for slot in [0, 1] {
        let actions = story.load(slot, 1, 0, 6);
        assert!(!actions.contains("apply"), "{actions}");
    }
    story.command("b", Command::Reload);
    let actions = story.send(saved());
    assert!(actions.contains("request a permit for #1"), "{actions}");
    let actions = story.load(2, 1, 0, 6);
    let batch = "apply the batch of the live lane to #0 from 0 #2 from 4";
    assert!(actions.ends_with(batch), "{actions}");
}

#[test]
fn a_workspace_met_by_the_live_lane_begins_where_the_unread_log_begins() {
    let mut story = Story::owned(&[], 3, 10);
    let failure = FetchFailure::Retry("no".to_owned());
    story.send(failed(Lane::CatchUp, failure));
    story.check(appended(12), "fetch 10..12 for the live lane");
    story.send(fetched(Lane::Live, 12, 12, &[("a", 11)]));
    story.check(
        granted(0),
        "report #0 loading; load #0 at epoch 1, if unknown from 3",
    );
}

#[test]
fn a_round_hands_over_before_the_live_lane_plans_its_batch() {
    let mut story = Story::loaded(&[("a", 0), ("b", 10)], 10);
    story.send(granted(0));
    // Both lanes hold a batch for a new workspace, and both waits end at the same time.
    story.send(appended(12));
    story.send(fetched(Lane::CatchUp, 10, 12, &[("a", 0), ("c", 5)]));
    let touched = [("a", 10), ("b", 11), ("d", 10)];
    story.send(fetched(Lane::Live, 12, 12, &touched));
    story.check_after(
        seconds(2),
        "apply the batch of the catch-up lane to #0 from 0",
    );
    let actions = story.send(applied(Lane::CatchUp, &[0]));
    let batch =
        "follow the live lane: #0; apply the batch of the live lane to #0 from 10 #1 from 11";
    assert!(actions.starts_with(batch), "{actions}");
}

#[test]
fn nothing_is_fetched_while_too_much_is_unsaved_and_no_wakeup_spins() {
    let limits = Limits {
        save_every_events: 1,
        max_unsaved_events: 1,
        ..Limits::default()
    };
    let retry = || FetchFailure::Retry("no".to_owned());
    let mut story = Story::replaying(limits, 4);
    story.send(failed(Lane::CatchUp, retry()));
    story.pass(Duration::from_millis(500));
    story.check(appended(6), "fetch 4..6 for the live lane");
    story.send(failed(Lane::Live, retry()));
    assert_eq!(story.wake(), "fetch 0..4 for the catch-up lane");
    assert_eq!(
        story.read(Lane::CatchUp, 2, 6, &[("a", 0)]),
        "save #0 at 2 epoch 2, committed 4"
    );
    story.check_after(seconds(5), "");
    let wake_at = story.machine.wake_at();
    assert!(wake_at.is_none_or(|at| at > story.now), "it must not spin");
    assert_eq!(
        first(&story.send(saved())),
        "fetch 2..4 for the catch-up lane"
    );
}
