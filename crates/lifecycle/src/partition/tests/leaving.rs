use super::*;

#[test]
fn a_revoked_partition_is_released_when_everything_is_saved() {
    let mut story = Story::owned(&[("a", 0), ("b", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    story.check(
        Input::Revoked,
        "report #0 unloading: the partition is handed over; cancel the permit of #1; \
         report #1 unloading: the partition is handed over; report #1 removed; \
         save #0 at 0 epoch 2, committed 0",
    );
    story.check(saved(), "drop #0; report #0 removed; released");
}

#[test]
fn a_handover_does_not_wait_until_a_failed_save_is_due_again() {
    let mut story = Story::loaded(&[("a", 0)], 0);
    story.apply_live(1, &[("a", 0)]);
    story.pass(seconds(1));
    story.send(save_failed());
    assert_eq!(
        last(&story.send(Input::Revoked)),
        "save #0 at 1 epoch 2, committed 1"
    );
}

#[test]
fn a_lost_partition_is_released_unsaved_and_late_answers_change_nothing() {
    let mut story = Story::owned(&[("a", 0), ("b", 0)], 0, 0);
    story.load(0, 2, 0, 0);
    story.send(granted(1));
    story.check(
        Input::Lost,
        "drop #0; report #0 unloading: the partition is lost; report #0 removed; \
         report #1 unloading: the partition is lost; report #1 removed; released",
    );
    story.check(loaded(1, 2, 0, 0), "drop #1");
    story.check(saved(), "");
    story.check(fetched(Lane::Live, 4, 4, &[("c", 0)]), "");
    assert_eq!(story.machine.wake_at(), None);
}
