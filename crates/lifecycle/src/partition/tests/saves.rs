use super::*;

#[test]
fn a_workspace_new_to_the_store_holds_committed_until_it_is_claimed() {
    let mut story = Story::loaded(&[("a", 0)], 0);
    story.fetch_live(4, &[("a", 0), ("b", 2)]);
    story.pass(Duration::from_millis(100));
    story.send(applied(Lane::Live, &[0]));
    story.check_after(seconds(1), "save #0 at 4 epoch 2, committed 2");
    assert_eq!(story.floor(), 0);
    story.send(saved());
    assert_eq!(story.floor(), 2);
}

#[test]
fn the_floor_of_the_log_rises_only_when_a_save_is_answered() {
    let mut story = Story::owned(&[("a", 0)], 0, 4);
    story.load(0, 2, 0, 4);
    story.read(Lane::CatchUp, 4, 4, &[("a", 0)]);
    story.check_after(seconds(1), "save #0 at 4 epoch 2, committed 4");
    story.check(save_failed(), "");
    assert_eq!(story.floor(), 0);
    assert_eq!(story.wake(), "save #0 at 4 epoch 2, committed 4");
    story.send(saved());
    assert_eq!(story.floor(), 4);
}

#[test]
fn a_workspace_without_events_is_saved_when_the_store_is_far_behind() {
    let limits = Limits {
        stale_positions: 100,
        ..Limits::default()
    };
    let mut story = Story::replaying(limits, 0);
    story.fetch_live(100, &[]);
    story.check_after(seconds(1), "save #0 at 100 epoch 2, committed 100");
}

#[test]
fn a_workspace_taken_over_is_loaded_again_after_the_longest_wait() {
    let mut story = Story::loaded(&[("a", 0)], 0);
    story.apply_live(1, &[("a", 0)]);
    story.pass(seconds(1));
    story.check(
        refused(Refusal::TakenOver),
        "drop #0; report #0 retrying after failure 1, in 30s: a newer load than epoch 2 has taken it over",
    );
    assert_eq!(
        first(&story.pass(seconds(30))),
        "report #0 initializing at epoch 3"
    );
}

#[test]
fn a_workspace_refused_for_good_is_parked_and_the_log_keeps_its_events() {
    let mut story = Story::loaded(&[("a", 0), ("b", 0)], 0);
    story.apply_live(9, &[("a", 0), ("b", 5)]);
    story.pass(seconds(1));
    story.check(
        refused(Refusal::ForGood("no room in its key".to_owned())),
        "drop #0; report #0 parked: it cannot be saved: no room in its key",
    );
    assert_eq!(story.floor(), 0);
}

#[test]
fn a_workspace_that_the_store_cannot_save_now_is_loaded_again() {
    let mut story = Story::loaded(&[("a", 0)], 0);
    story.apply_live(1, &[("a", 0)]);
    story.pass(seconds(1));
    let actions = story.send(refused(Refusal::ForNow("its file is missing".to_owned())));
    assert!(
        actions.starts_with("drop #0; report #0 retrying")
            && actions.ends_with("it cannot be saved: its file is missing"),
        "{actions}"
    );
    assert_eq!(
        first(&story.pass(seconds(2))),
        "report #0 initializing at epoch 3"
    );
}

#[test]
fn events_of_a_workspace_taken_over_do_not_hold_up_the_others() {
    let limits = Limits {
        save_every_events: 1,
        max_unsaved_events: 2,
        ..Limits::default()
    };
    let mut story = Story::replaying(limits, 10);
    assert_eq!(
        story.read(Lane::CatchUp, 1, 10, &[("a", 0)]),
        "fetch 1..10 for the catch-up lane; save #0 at 1 epoch 2, committed 10"
    );
    story.send(fetched(Lane::CatchUp, 3, 10, &[("a", 1)]));
    story.check(applied(Lane::CatchUp, &[0, 0]), "");
    assert_eq!(
        last(&story.send(refused(Refusal::TakenOver))),
        "fetch 3..10 for the catch-up lane"
    );
}

#[test]
fn a_round_is_saved_at_its_end_and_at_intervals_while_it_runs() {
    let limits = Limits {
        save_every_events: 1,
        save_every_in_round: seconds(10),
        ..Limits::default()
    };
    let mut story = Story::replaying(limits, 10);
    for end in 1..=3 {
        let actions = story.read(Lane::CatchUp, end, 10, &[("a", end - 1)]);
        assert_eq!(actions, format!("fetch {end}..10 for the catch-up lane"));
    }
    story.check_after(seconds(10), "save #0 at 3 epoch 2, committed 10");
    story.send(saved());
    story.read(Lane::CatchUp, 5, 10, &[("a", 3)]);
    assert_eq!(
        last(&story.read(Lane::CatchUp, 10, 10, &[("a", 5)])),
        "save #0 at 10 epoch 2, committed 10"
    );
}
