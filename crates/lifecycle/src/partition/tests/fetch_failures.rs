use super::*;

#[test]
fn what_precedes_a_damaged_record_is_applied_before_a_stop_at_it() {
    let mut story = Story::loaded(&[("a", 0)], 10);
    let damaged = || FetchFailure::Damaged {
        offset: Offset(6),
        reason: "record 6 is damaged".to_owned(),
    };
    story.check(
        failed(Lane::CatchUp, damaged()),
        "fetch 0..6 for the catch-up lane",
    );
    assert_eq!(
        story.read(Lane::CatchUp, 6, 10, &[("a", 2)]),
        "fetch 6..10 for the catch-up lane"
    );
    story.check(
        failed(Lane::CatchUp, damaged()),
        "report #0 parked: record 6 is damaged; fetch 7..10 for the catch-up lane",
    );
    assert_eq!(story.next_offset(0), 6);
}

#[test]
fn events_the_log_no_longer_has_stop_a_workspace_and_a_skip_passes_them() {
    let removed = FetchFailure::FellOut {
        low_watermark: Offset(6),
    };
    let lost = FetchFailure::Lost { until: Offset(6) };
    for (failure, reason) in [
        (
            removed,
            "events of partition 0 from offset 0 on were removed by retention before they were applied; \
             the log begins at 6",
        ),
        (
            lost,
            "the log of partition 0 has lost the events from offset 0 to 5; whether this workspace had any of them \
             is not known: skip continues without them",
        ),
    ] {
        let mut story = Story::loaded(&[("a", 0)], 10);
        story.check(
            failed(Lane::CatchUp, failure),
            &format!("report #0 parked: {reason}; fetch 6..10 for the catch-up lane"),
        );
        story.check_command(
            "a",
            Command::Skip,
            &format!("dead-letter 5 of #0: {reason}"),
        );
        assert_eq!(
            last(&story.send(dead_lettered(5))),
            "save #0 at 6 epoch 2, committed 10"
        );
    }
}

#[test]
fn a_log_that_lost_its_end_stops_those_that_wait_for_a_round_too() {
    let mut story = Story::owned(&[("a", 2), ("b", 0)], 10, 10);
    story.send(granted(1));
    story.load(0, 2, 2, 10);
    story.pass(seconds(1));
    story.check(loaded(1, 2, 0, 10), "report #1 replaying 0..10");
    let high_watermark = Offset(1);
    let actions = story.send(failed(
        Lane::CatchUp,
        FetchFailure::BeyondEnd { high_watermark },
    ));
    assert!(actions.starts_with("report #0 parked"), "{actions}");
    story.check_after(seconds(30), "fetch 0..10 for the catch-up lane");
    story.check(
        fetched(Lane::CatchUp, 1, 1, &[]),
        "fetch 1..10 for the catch-up lane",
    );
}

#[test]
fn a_log_that_fails_twice_is_an_error_of_replays_and_not_of_the_ready() {
    let mut story = Story::loaded(&[("a", 10), ("b", 0)], 10);
    story.pass(seconds(1));
    let failure = || failed(Lane::CatchUp, FetchFailure::Retry("no brokers".to_owned()));
    story.check(failure(), "");
    story.check_after(seconds(1), "fetch 0..10 for the catch-up lane");
    let actions = story.send(failure());
    assert!(
        actions.starts_with("drop #1; report #1 retrying") && actions.ends_with("no brokers"),
        "{actions}"
    );
    assert_eq!(
        first(&story.pass(seconds(1))),
        "report #1 initializing at epoch 3"
    );
}
