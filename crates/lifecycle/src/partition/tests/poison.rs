use super::*;

/// The batch of the live lane stops the first workspace before an event.
fn stopped(offset: u64, events: u64, state: StateAfter, reason: &str) -> Input {
    Input::Applied {
        lane: Lane::Live,
        results: vec![AppliedTo {
            slot: Slot(0),
            bytes: 0,
            events,
            save_requested: false,
            poison: Some(Poison {
                offset: Offset(offset),
                reason: reason.to_owned(),
                state,
            }),
        }],
    }
}

#[test]
fn a_poison_event_stops_its_workspace_alone_and_a_skip_advances_it() {
    let mut story = Story::loaded(&[("a", 0), ("b", 0)], 0);
    story.fetch_live(3, &[("a", 0)]);
    story.check(
        stopped(1, 0, StateAfter::Intact, "it is poison"),
        "report #0 parked: it is poison",
    );
    assert_eq!(story.apply_live(5, &[("b", 3)]), "");
    assert_eq!(story.next_offset(1), 5);

    story.check_command("a", Command::Skip, "dead-letter 1 of #0: it is poison");
    story.check_command(
        "a",
        Command::Skip,
        "reply to 1: the workspace is busy with another command, try again",
    );
    story.check(
        dead_lettered(1),
        "report #0 unloading: the event that stopped it is skipped; \
         save #0 at 2 epoch 2, #1 at 5 epoch 2, committed 5",
    );
    story.check(
        saved(),
        "drop #0; report #0 initializing at epoch 3; request a permit for #0, urgent; reply to 0: done",
    );
}

#[test]
fn a_skip_that_cannot_be_dead_lettered_changes_nothing() {
    let mut story = Story::loaded(&[("a", 0)], 0);
    story.fetch_live(3, &[("a", 0)]);
    story.send(stopped(1, 0, StateAfter::Intact, "it is poison"));
    story.command("a", Command::Skip);
    story.check(
        Input::DeadLetterFailed {
            slot: Slot(0),
            reason: "no space left".to_owned(),
        },
        "reply to 0: no space left",
    );
    assert_eq!(story.machine.stopped_at(Slot(0)).unwrap().offset, Offset(1));
}

#[test]
fn a_workspace_that_an_event_broke_is_loaded_again_and_stops_before_it() {
    let mut story = Story::loaded(&[("a", 0)], 0);
    story.fetch_live(9, &[("a", 0)]);
    let actions = story.send(stopped(5, 4, StateAfter::Broken, "it panicked"));
    let wanted = "drop #0; report #0 retrying";
    assert!(actions.starts_with(wanted), "{actions}");
    story.pass(seconds(2));
    story.load(0, 3, 0, 9);
    story.pass(seconds(1));
    story.check(
        fetched(Lane::CatchUp, 9, 9, &[("a", 0)]),
        "apply the batch of the catch-up lane to #0 from 0 until 5",
    );
    assert_eq!(
        first(&story.send(applied(Lane::CatchUp, &[0]))),
        "report #0 parked: it panicked"
    );
    assert_eq!(story.next_offset(0), 5);
}
