use super::*;

#[test]
fn an_unload_is_answered_when_it_is_saved() {
    let mut story = Story::loaded(&[("a", 0)], 0);
    story.check_command(
        "a",
        Command::Unload,
        "report #0 unloading: an operator unloads it; save #0 at 0 epoch 2 unloaded, committed 0",
    );
    story.check(
        saved(),
        "drop #0; report #0 removed, unloaded; reply to 0: done",
    );
    story.check_command(
        "a",
        Command::Load,
        "report #0 initializing at epoch 3; request a permit for #0, urgent; reply to 1: done",
    );
}

#[test]
fn events_of_an_unloaded_workspace_wait_for_its_load() {
    let mut story = Story::loaded(&[("a", 0)], 0);
    story.command("a", Command::Unload);
    story.send(saved());
    assert_eq!(story.fetch_live(3, &[("a", 0)]), "");
    story.command("a", Command::Load);
    assert_eq!(
        story.load(0, 3, 0, 3),
        "report #0 replaying 0..3; fetch 0..3 for the catch-up lane"
    );
}

#[test]
fn a_command_at_the_wrong_moment_is_refused_with_the_reason() {
    let done = "done";
    let busy = "the workspace is busy with another command, try again";
    let not_stopped = "the workspace is not stopped at an event that it cannot apply";
    let unknown = "no such workspace";
    let leaving = "the partition is being handed over";
    let opening = "the partition is being taken over, try again";
    let after = |input| {
        let mut story = Story::owned(&[("a", 0)], 0, 0);
        story.send(input);
        story
    };
    let loading = || after(granted(0));
    let over = || after(Input::Lost);
    let ready = || Story::loaded(&[("a", 0)], 0);
    let listing = || {
        let mut story = Story::new();
        story.send(Input::Assigned);
        story
    };
    for (mut story, id, command, answer) in [
        (loading(), "a", Command::Unload, busy),
        (loading(), "a", Command::Reload, busy),
        (loading(), "a", Command::Skip, not_stopped),
        (ready(), "a", Command::Load, done),
        (ready(), "a", Command::Skip, not_stopped),
        (ready(), "b", Command::Load, unknown),
        (over(), "a", Command::Load, leaving),
        (listing(), "a", Command::Load, opening),
    ] {
        story.check_command(id, command, &format!("reply to 0: {answer}"));
    }
}
