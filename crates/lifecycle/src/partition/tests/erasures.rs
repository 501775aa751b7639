use super::*;

const RESET: Command = Command::Reset { force: false };

/// The first workspace is erased at this epoch.
fn erased(epoch: u64, next_offset: u64) -> Input {
    Input::Erased {
        slot: Slot(0),
        epoch: Epoch::new(epoch),
        stored: Epoch::new(epoch),
        next_offset: Offset(next_offset),
        left_over: None,
    }
}

fn erase_failed() -> Input {
    Input::EraseFailed {
        slot: Slot(0),
        epoch: Epoch::new(3),
        failure: EraseFailure::Failed("no answer".to_owned()),
    }
}

#[test]
fn a_reset_leaves_memory_erases_and_loads_again_from_the_beginning() {
    let mut story = Story::loaded(&[("a", 10)], 10);
    story.check_command(
        "a",
        RESET,
        "drop #0; report #0 unloading: an operator resets it; erase #0 at epoch 3, reset to 0",
    );
    story.check_command(
        "a",
        Command::Load,
        "reply to 1: the workspace is busy with another command, try again",
    );
    assert_eq!(story.floor(), 0, "it needs all");
    story.check(
        erased(3, 0),
        "report #0 initializing at epoch 4; request a permit for #0, urgent; reply to 0: done",
    );
}

#[test]
fn a_parked_workspace_is_reset_as_one_that_loads_whose_load_is_ignored() {
    let mut story = Story::owned(&[("a", 4), ("b", 4)], 10, 10);
    story.send(granted(0));
    let failure = LoadFailure::Park("it is damaged".to_owned());
    story.send(load_failed(failure));
    story.send(granted(1));
    for (slot, id) in [(0, "a"), (1, "b")] {
        let wanted = format!(
            "report #{slot} unloading: an operator resets it; erase #{slot} at epoch 3, reset to 0"
        );
        story.check_command(id, RESET, &wanted);
    }
    story.check(loaded(1, 2, 4, 10), "drop #1");
    assert!(!story.machine.awaits_load(Slot(1), Epoch::new(2)));
}

#[test]
fn a_reset_is_refused_where_the_log_begins_later_unless_by_force() {
    let mut story = Story::loaded(&[("a", 10)], 10);
    story.low_watermark = Offset(7);
    let refused = story.command("a", RESET);
    let wanted =
        "reply to 0: the log has all events from offset 7 on only, but the workspace begins at 0";
    assert!(refused.starts_with(wanted), "{refused}");
    assert!(!refused.contains("erase"), "{refused}");
    assert_eq!(
        last(&story.command("a", Command::Reset { force: true })),
        "erase #0 at epoch 3, reset to 7 by force"
    );
}

#[test]
fn after_a_reset_that_may_have_happened_the_log_keeps_all() {
    let mut story = Story::loaded(&[("a", 10)], 10);
    story.command("a", RESET);
    story.check(
        erase_failed(),
        "report #0 initializing at epoch 4; request a permit for #0, ordinary; reply to 0: no answer",
    );
    assert_eq!(story.floor(), 0);
    story.load(0, 4, 10, 10);
    assert_eq!(story.floor(), 10);
}

#[test]
fn a_deletion_passes_earlier_events_and_a_later_one_begins_a_workspace() {
    let mut story = Story::loaded(&[("a", 10)], 10);
    story.send(appended(12));
    story.check_command(
        "a",
        Command::Delete,
        "drop #0; report #0 unloading: an operator deletes it; erase #0 at epoch 3, delete below 12",
    );
    story.check(erased(3, 12), "report #0 removed; reply to 0: done");
    assert!(story.machine.is_deleted(Slot(0)));
    assert_eq!(story.machine.position().workspaces, 0);
    story.check_command("a", Command::Load, "reply to 1: no such workspace");
    story.check(fetched(Lane::Live, 12, 12, &[("a", 10)]), "");
    assert_eq!(
        story.fetch_live(14, &[("a", 12)]),
        "report #0 initializing at epoch 4; request a permit for #0, ordinary"
    );
    story.check(
        granted(0),
        "report #0 loading; load #0 at epoch 4, if unknown from 12",
    );
}

#[test]
fn a_listed_deletion_is_ended_only_by_an_event_after_it() {
    let mut story = Story::new();
    let actions = story.own(Listing {
        deleted: vec![Deleted {
            id: workspace("a"),
            epoch: Epoch::new(5),
            next_offset: Offset(8),
        }],
        ..listing(&[], 0, 10)
    });
    assert_eq!(actions, "fetch 0..10 for the catch-up lane");
    story.check(
        fetched(Lane::CatchUp, 8, 10, &[("a", 2)]),
        "fetch 8..10 for the catch-up lane",
    );
    story.check(
        fetched(Lane::CatchUp, 10, 10, &[("a", 8)]),
        "report #0 initializing at epoch 6; request a permit for #0, ordinary",
    );
}

#[test]
fn an_event_that_arrives_during_a_deletion_begins_a_workspace_after_it() {
    let mut story = Story::loaded(&[("a", 10)], 10);
    story.command("a", Command::Delete);
    story.fetch_live(11, &[("a", 10)]);
    story.check(
        erased(3, 10),
        "report #0 removed; report #0 initializing at epoch 4; request a permit for #0, ordinary; reply to 0: done",
    );
}

#[test]
fn a_deletion_that_may_have_happened_holds_committed_back() {
    let mut story = Story::loaded(&[("a", 10)], 10);
    story.command("a", Command::Delete);
    story.send(erase_failed());
    story.fetch_live(20, &[("b", 12)]);
    story.load(1, 1, 12, 20);
    story.send(applied(Lane::Live, &[1]));
    let commits = |story: &mut Story| {
        let saves = story.pass(seconds(120));
        story.send(saved());
        saves.contains("committed 20")
    };
    assert!(
        !(0..2).any(|_| commits(&mut story)),
        "the store may not know it"
    );
    assert_eq!(story.floor(), 10);
    story.load(0, 4, 10, 20);
    assert!((0..2).any(|_| commits(&mut story)), "it is loaded");
}
