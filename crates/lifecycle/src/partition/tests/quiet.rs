use super::*;

/// A partition up to 10 whose only workspace was unloaded at 4 before the assignment.
fn unloaded() -> Story {
    let mut story = Story::new();
    let mut listing = listing(&[("a", 4)], 10, 10);
    listing.workspaces[0].residence = Residence::Unloaded;
    story.own(listing);
    story
}

/// Waits until workspaces without events of their own are saved.
fn advance(story: &mut Story) -> String {
    story.pass(seconds(60));
    story.pass(seconds(1))
}

#[test]
fn a_workspace_out_of_memory_without_events_holds_nothing_back() {
    let mut story = Story::loaded(&[("a", 10), ("b", 10)], 10);
    story.command("a", Command::Unload);
    story.send(saved());
    story.apply_live(20, &[("b", 12)]);
    story.pass(seconds(2));
    story.send(saved());
    assert_eq!(story.floor(), 10);
    assert_eq!(story.held_by(), None, "only a save is due");

    assert_eq!(
        advance(&mut story),
        "save only advance #0 to 20 epoch 2, committed 20"
    );
    story.send(saved());
    assert_eq!(story.held_by(), None);
    assert_eq!(story.floor(), 20);

    story.apply_live(22, &[("b", 21)]);
    story.fetch_live(24, &[("a", 22)]);
    let saves = story.pass(seconds(60));
    let up_to_its_own_event = "only advance #0 to 22";
    assert!(saves.contains(up_to_its_own_event), "{saves}");
    story.send(saved());
    assert_eq!(story.floor(), 22);
    assert_eq!(story.held_by(), Some((0, 22)));
}

#[test]
fn the_log_is_searched_once_for_a_workspace_out_of_memory_before() {
    let mut story = unloaded();
    assert_eq!(story.held_by(), Some((0, 4)), "it may need them");
    story.check_after(seconds(60), "fetch 4..10 for the catch-up lane");
    story.send(fetched(Lane::CatchUp, 10, 10, &[]));
    assert_eq!(
        advance(&mut story),
        "save only advance #0 to 10 epoch 2, committed 10"
    );
    story.send(saved());
    assert_eq!(story.floor(), 10);
    assert_eq!(story.pass(seconds(120)), "", "only once");
}

#[test]
fn what_cannot_be_read_may_be_of_a_workspace_out_of_memory() {
    let end = Offset(10);
    for failure in [
        FetchFailure::Damaged {
            offset: Offset(4),
            reason: "damaged".to_owned(),
        },
        FetchFailure::Lost { until: end },
        FetchFailure::FellOut { low_watermark: end },
    ] {
        let mut story = unloaded();
        story.pass(seconds(60));
        story.send(failed(Lane::CatchUp, failure.clone()));
        story.send(fetched(Lane::CatchUp, 10, 10, &[]));
        let saves = story.pass(seconds(180));
        assert!(!saves.contains("only advance"), "{failure:?}: {saves}");
        assert_eq!(story.floor(), 4, "{failure:?}");
        assert_eq!(story.held_by(), Some((0, 4)), "{failure:?}");
    }
}

#[test]
fn a_parked_workspace_without_events_of_its_own_holds_nothing_back() {
    let mut story = Story::owned(&[("a", 10)], 10, 10);
    story.send(granted(0));
    let failure = LoadFailure::Park("entry 3 is damaged".to_owned());
    story.send(load_failed(failure));
    story.fetch_live(20, &[]);
    assert_eq!(
        advance(&mut story),
        "save only advance #0 to 20 epoch 2, committed 20"
    );
    story.send(saved());
    assert_eq!(story.floor(), 20);
}

#[test]
fn a_workspace_that_another_owner_has_taken_over_is_not_advanced_again() {
    let mut story = unloaded();
    story.pass(seconds(60));
    story.send(fetched(Lane::CatchUp, 10, 10, &[]));
    assert_eq!(
        advance(&mut story),
        "save only advance #0 to 10 epoch 2, committed 10"
    );
    story.send(refused(Refusal::TakenOver));
    assert_eq!(story.floor(), 4);
    assert_eq!(advance(&mut story), "", "only a load can find out");
}
