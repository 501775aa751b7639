use super::Event::{
    Assigned, BrokersAnswer, CoordinatorAnswers, CutOff, InGroup, Left, Lost, NotInGroup,
    NotRejoined, Rejoined, Released, Subscribed,
};
use super::*;

const SESSION: Duration = Duration::from_secs(10);

fn ids(numbers: &[u32]) -> Vec<PartitionId> {
    numbers.iter().copied().map(PartitionId).collect()
}

fn connections(error_text: &str) -> Event {
    Event::Failed(MemberFailure::Connections(error_text.to_owned()))
}

fn refused(error_text: &str) -> Event {
    Event::Failed(MemberFailure::Group(error_text.to_owned()))
}

fn fatal() -> Event {
    Event::Fatal("fenced".to_owned())
}

/// What follows from an event, and the state after it, as one line.
fn shown(action: Option<Action>, member: &Member, now: Instant) -> String {
    let action = match action {
        None => String::new(),
        Some(Action::Take(ids)) => format!("take {ids:?}, "),
        Some(Action::Lose(ids)) => format!("lose {ids:?}, "),
    };
    let report = member.report(now);
    let state = match (member.state, report.joining_for) {
        (State::Outside, _) => "outside".to_owned(),
        (State::Retired { until, .. }, Some(waited)) => {
            let left = until.saturating_duration_since(now);
            format!("joining for {waited:?}, next client in {left:?}")
        }
        (_, Some(waited)) => format!("joining for {waited:?}"),
        (_, None) => format!("member of {:?}", member.partitions),
    };
    let failure = match report.last_error {
        None => String::new(),
        Some(MemberFailure::Connections(error_text)) => format!(", brokers: {error_text}"),
        Some(MemberFailure::Group(error_text)) => format!(", group: {error_text}"),
    };
    let line = action + &state + &failure;
    line.replace("PartitionId(", "").replace(')', "")
}

/// Takes in events, each at its second, and compares what follows from the last one and the state after it.
#[track_caller]
fn check(events: impl IntoIterator<Item = (u64, Event)>, expected: &str) {
    let start = Instant::now();
    let mut member = Member::new(SESSION, start);
    let (mut action, mut now) = (None, start);
    for (second, event) in events {
        now = start + Duration::from_secs(second);
        action = member.on(event, now);
    }
    assert_eq!(shown(action, &member, now), expected);
}

/// As [`check`], of a member that owns two partitions.
#[track_caller]
fn check_owner(events: impl IntoIterator<Item = (u64, Event)>, expected: &str) {
    let owner = [(0, Subscribed), (1, Assigned(ids(&[0, 1])))];
    check(owner.into_iter().chain(events), expected);
}

#[test]
fn a_member_owns_what_the_group_assigns_until_it_is_released_or_lost() {
    check([], "outside");
    check([(0, Subscribed)], "joining for 0ns");
    check_owner([], "take [0, 1], member of {0, 1}");
    let standby = (1, Assigned(vec![]));
    check([(0, Subscribed), standby], "member of {}");
    check_owner([(2, Released(ids(&[1])))], "member of {0}");
    check_owner([(2, Lost(ids(&[0, 1])))], "lose [0, 1], joining for 0ns");
    let again = (3, Assigned(ids(&[1])));
    check_owner([(2, Lost(ids(&[0, 1]))), again], "take [1], member of {1}");
    check_owner([(2, Left)], "outside");
}

#[test]
fn a_client_without_an_assignment_is_in_the_group_by_its_generation() {
    check([(0, Subscribed), (1, InGroup)], "member of {}");
    check(
        [(0, Subscribed), (1, InGroup), (2, NotInGroup)],
        "joining for 0ns",
    );
    check_owner([(2, NotInGroup)], "member of {0, 1}");
}

#[test]
fn all_partitions_of_a_retired_client_are_lost_and_another_one_joins() {
    let silent = "brokers: the group's coordinator does not answer";
    check_owner(
        [(9, CutOff)],
        &format!("lose [0, 1], joining for 0ns, next client in 0ns, {silent}"),
    );
    check_owner(
        [(9, CutOff), (10, CutOff)],
        &format!("joining for 1s, next client in 0ns, {silent}"),
    );
    let again = (11, Assigned(ids(&[0])));
    check_owner(
        [(9, CutOff), (10, Rejoined), again],
        "take [0], member of {0}",
    );
    check([(9, fatal())], "outside, group: fenced");
    check_owner(
        [(9, fatal())],
        "lose [0, 1], joining for 0ns, next client in 10s, group: fenced",
    );
}

#[test]
fn each_wait_after_a_fatal_error_is_longer_until_a_stable_membership() {
    let check_wait = |events: Vec<(u64, Event)>, waited: &str, wait: &str| {
        check_owner(
            events,
            &format!("joining for {waited}, next client in {wait}, group: fenced"),
        );
    };
    check_wait(vec![(9, fatal()), (19, NotRejoined)], "10s", "20s");
    check_wait(
        vec![(9, fatal()), (19, Rejoined), (20, fatal())],
        "11s",
        "20s",
    );
    let rounds = (0..9).flat_map(|round| [(round * 60, fatal()), (round * 60 + 60, Rejoined)]);
    check_wait(rounds.chain([(541, fatal())]).collect(), "541s", "60s");
    check_wait(
        vec![(9, fatal()), (19, Rejoined), (100, fatal())],
        "91s",
        "10s",
    );
}

#[test]
fn a_refusal_hides_failed_connections_and_outlasts_them() {
    let (no, down) = ((2, refused("no")), (3, connections("down")));
    check_owner([down.clone()], "member of {0, 1}, brokers: down");
    for (more, expected) in [
        (None, "member of {0, 1}, group: no"),
        (Some(BrokersAnswer), "member of {0, 1}, group: no"),
        (Some(CoordinatorAnswers), "member of {0, 1}, brokers: down"),
        (Some(Assigned(vec![])), "member of {0, 1}"),
    ] {
        let more = more.map(|event| (4, event));
        check_owner([no.clone(), down.clone()].into_iter().chain(more), expected);
    }
    check(
        [(0, Subscribed), (1, refused("no")), (2, InGroup)],
        "member of {}",
    );
}

#[test]
fn only_the_reports_of_the_current_client_count() {
    let start = Instant::now();
    let at = |second| start + Duration::from_secs(second);
    let mut member = Member::new(SESSION, start);
    member.on(Subscribed, start);
    assert!(member.is_current(1));
    assert_eq!(member.due_client(start), None);
    member.on(fatal(), at(5));
    assert!(!member.is_current(1) && !member.is_current(2));
    assert_eq!(member.due_client(at(14)), None);
    assert_eq!(member.due_client(at(15)), Some(2));
    member.on(Rejoined, at(15));
    assert!(!member.is_current(1) && member.is_current(2));
}

#[test]
fn a_failure_is_checked_once_a_second_and_a_refusal_not_at_once() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut member = Member::new(SESSION, start);
    member.on(Assigned(ids(&[0])), start);
    assert_eq!(member.due_checks(at(5_000)), None, "nothing has failed");
    let checks = |brokers, coordinator| {
        Some(Checks {
            brokers,
            coordinator,
        })
    };
    member.on(connections("down"), at(5_000));
    member.on(refused("no"), at(5_000));
    assert_eq!(member.due_checks(at(5_000)), checks(true, false));
    assert_eq!(member.due_checks(at(5_900)), None);
    member.on(BrokersAnswer, at(6_000));
    assert_eq!(member.due_checks(at(7_000)), checks(false, false));
    assert_eq!(member.due_checks(at(8_000)), checks(false, true));
    member.on(Lost(ids(&[0])), at(8_500));
    assert_eq!(
        member.due_checks(at(9_000)),
        checks(false, false),
        "not a member: it waits for an assignment"
    );
}

#[test]
fn rebalances_and_losses_are_counted() {
    let subscribed = (0, Subscribed);
    let assigned = || (1, Assigned(ids(&[0, 1])));
    for (events, counts) in [
        (vec![assigned(), (2, Assigned(vec![]))], (1, 0)),
        (vec![assigned(), (2, Released(ids(&[0])))], (2, 0)),
        (vec![assigned(), (2, Lost(ids(&[0, 1])))], (2, 1)),
        (vec![assigned(), (2, CutOff), (3, CutOff)], (1, 1)),
        (vec![(2, fatal())], (0, 0)),
    ] {
        let start = Instant::now();
        let mut member = Member::new(SESSION, start);
        for (second, event) in std::iter::once(subscribed.clone()).chain(events) {
            member.on(event, start + Duration::from_secs(second));
        }
        let report = member.report(start);
        assert_eq!((report.rebalances, report.losses), counts);
    }
}
