use super::*;

#[test]
fn a_workspace_is_loaded_and_replayed_and_at_its_target_it_is_ready() {
    let mut story = Story::new();
    story.check(Input::Assigned, "list");
    story.check(
        Input::Listed(listing(&[("a", 4)], 10, 10)),
        "report #0 initializing at epoch 2; request a permit for #0, ordinary",
    );
    story.check(
        granted(0),
        "report #0 loading; load #0 at epoch 2, if unknown from 4",
    );
    story.check(
        loaded(0, 2, 4, 10),
        "report #0 replaying 4..10; fetch 4..10 for the catch-up lane",
    );
    story.check(
        fetched(Lane::CatchUp, 8, 10, &[("a", 5)]),
        "apply the batch of the catch-up lane to #0 from 5",
    );
    story.check(
        applied(Lane::CatchUp, &[0]),
        "fetch 8..10 for the catch-up lane",
    );
    story.check(
        fetched(Lane::CatchUp, 10, 10, &[]),
        "follow the live lane: #0; report #0 ready",
    );
    story.check(appended(12), "fetch 10..12 for the live lane");
}

#[test]
fn a_list_that_fails_is_requested_again() {
    let mut story = Story::new();
    story.send(Input::Assigned);
    let reason = "no".to_owned();
    story.check(Input::ListFailed { reason }, "");
    assert_eq!(story.wake(), "list");
}

#[test]
fn ready_is_not_reported_before_the_target_frozen_at_the_load() {
    let mut story = Story::owned(&[("a", 10)], 10, 10);
    assert_eq!(
        story.load(0, 2, 10, 12),
        "report #0 replaying 10..12; fetch 10..12 for the live lane"
    );
    story.check(
        fetched(Lane::Live, 11, 20, &[]),
        "fetch 11..20 for the live lane",
    );
    story.check(
        fetched(Lane::Live, 12, 20, &[]),
        "report #0 ready; fetch 12..20 for the live lane",
    );
}

#[test]
fn a_permit_that_arrives_too_late_is_returned() {
    let mut story = Story::owned(&[("a", 0)], 0, 0);
    story.check_command(
        "a",
        Command::Unload,
        "cancel the permit of #0; report #0 unloading: an operator unloads it; \
         report #0 removed, unloaded; reply to 0: done",
    );
    story.check(granted(0), "return a permit");
}

#[test]
fn a_fenced_load_is_tried_again_above_the_epoch_in_the_store() {
    let mut story = Story::owned(&[("a", 0)], 0, 0);
    story.send(granted(0));
    let stored = Epoch::new(7);
    story.send(load_failed(LoadFailure::Fenced { stored }));
    assert_eq!(first(&story.wake()), "report #0 initializing at epoch 8");
}

#[test]
fn a_load_that_is_parked_waits_for_an_operator() {
    let mut story = Story::owned(&[("a", 0)], 0, 0);
    story.send(granted(0));
    let failure = LoadFailure::Park("entry 3 is damaged".to_owned());
    story.check(load_failed(failure), "report #0 parked: entry 3 is damaged");
    story.check_after(seconds(3600), "");
    assert_eq!(
        first(&story.command("a", Command::Load)),
        "report #0 initializing at epoch 3"
    );
}

#[test]
fn a_store_that_is_ahead_of_the_log_parks_its_workspace() {
    let mut story = Story::owned(&[("a", 9)], 4, 4);
    let wanted = "drop #0; report #0 parked: the store is at offset 9 of partition 0, but the log ends at 4: \
                  the log was replaced or lost its end";
    let actions = story.load(0, 2, 9, 4);
    assert!(actions.starts_with(wanted), "{actions}");
}
