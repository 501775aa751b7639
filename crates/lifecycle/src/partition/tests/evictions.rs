use super::*;

fn evict(slots: &[usize]) -> Input {
    Input::Evict {
        slots: slots.iter().copied().map(Slot).collect(),
    }
}

/// A partition up to 10 whose first workspace is evicted; `b` follows the live lane.
fn evicted() -> Story {
    let mut story = Story::loaded(&[("a", 10), ("b", 10)], 10);
    story.send(evict(&[0]));
    story.send(saved());
    story
}

#[test]
fn an_evicted_workspace_is_saved_before_it_leaves_memory() {
    let mut story = Story::loaded(&[("a", 10), ("b", 10)], 10);
    story.check(
        evict(&[0]),
        "report #0 unloading: its memory is needed; save #0 at 10 epoch 2 evicted, committed 10",
    );
    story.check(saved(), "drop #0; report #0 removed, evicted");
}

#[test]
fn only_a_ready_workspace_that_no_client_waits_for_is_evicted() {
    let mut story = Story::replaying(Limits::default(), 10);
    story.check(evict(&[0]), "");
    let mut story = evicted();
    story.check(evict(&[0]), "");
    story.command("a", Command::Load);
    story.check(evict(&[0]), "");
    let mut story = Story::loaded(&[("a", 10)], 10);
    story.send(Input::Revoked);
    story.check(evict(&[0]), "");
}

#[test]
fn its_events_bring_it_back_after_a_while_or_a_number_of_offsets() {
    let mut story = evicted();
    let live = story.apply_live(20, &[("b", 12)]);
    assert!(!live.contains("#0"), "{live}");
    story.pass(seconds(2));
    story.send(saved());
    story.fetch_live(30, &[("a", 24)]);
    assert_eq!(story.machine.wake_at(), Some(story.now + seconds(58)));
    let loads = story.pass(seconds(60));
    let urgent = "report #0 initializing at epoch 3; request a permit for #0, due";
    assert!(loads.contains(urgent), "{loads}");

    let mut story = evicted();
    story.fetch_live(30, &[("a", 24)]);
    let loads = story.fetch_live(24 + 49_999, &[]);
    assert!(!loads.contains("#0"), "{loads}");
    let loads = story.fetch_live(24 + 50_000, &[]);
    assert!(loads.contains(urgent), "{loads}");
}

#[test]
fn it_stays_evicted_after_a_restart_and_holds_nothing_back() {
    let mut story = Story::new();
    let mut listing = listing(&[("a", 4)], 10, 10);
    listing.workspaces[0].residence = Residence::Evicted;
    story.own(listing);
    story.check_after(seconds(60), "fetch 4..10 for the catch-up lane");
    story.send(fetched(Lane::CatchUp, 10, 10, &[]));
    story.pass(seconds(60));
    story.pass(seconds(1));
    story.send(saved());
    assert_eq!(story.floor(), 10);
}

#[test]
fn an_operator_keeps_an_evicted_workspace_out_of_memory() {
    let mut story = evicted();
    story.fetch_live(30, &[("a", 24)]);
    story.check_command(
        "a",
        Command::Unload,
        "report #0 removed, unloaded; reply to 0: done",
    );
    let later = story.pass(seconds(61));
    assert!(!later.contains("permit"), "{later}");
}

#[test]
fn a_load_that_is_requested_while_it_leaves_follows_its_save() {
    let mut story = Story::loaded(&[("a", 10)], 10);
    story.send(evict(&[0]));
    story.check_command("a", Command::Load, "reply to 0: done");
    let loads = story.send(saved());
    assert!(loads.contains("request a permit for #0, urgent"), "{loads}");
}
