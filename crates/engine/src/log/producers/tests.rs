use super::*;
use crate::log::AppendedRange;
use std::collections::BTreeMap;
use workspace_lifecycle::{Offset, PartitionId};

const NOW: Duration = Duration::from_secs(1_700_000_000);

fn request(id: &str, sequence: u64) -> ProducerSequence {
    ProducerSequence {
        producer_id: id.to_owned(),
        sequence,
    }
}

fn answer(accepted: u64) -> Appended {
    let range = |p| AppendedRange {
        partition: PartitionId(p),
        first_offset: Offset(accepted),
        last_offset: Offset(accepted + 1),
    };
    Appended {
        accepted,
        partitions: vec![range(1), range(4)],
        repeated: false,
    }
}

/// What happens to requests of producer `p`, in order.
enum Step {
    Begin(u64),
    Answer(u64),
    Fail(u64),
    /// The topic holds records up to this request, and all of those that failed.
    Reach(u64),
    /// The verdict on this request.
    Judge(u64, &'static str),
    /// Whether this request can be judged without the topic.
    Knows(u64, bool),
}
use Step::{Answer, Begin, Fail, Judge, Knows, Reach};

fn check(first: FirstRequest, steps: &[Step]) {
    let mut producers = Producers::new(first);
    for (place, step) in steps.iter().enumerate() {
        match *step {
            Begin(n) => producers.begin(&request("p", n), Arc::new(n), NOW),
            Answer(n) => producers.end(&request("p", n), Some(&answer(n))),
            Fail(n) => producers.end(&request("p", n), None),
            Reach(highest) => producers.reach("p", highest, NOW, |_, _| true),
            Judge(n, expected) => {
                assert_eq!(verdict(&producers, "p", n), expected, "step {place}: {n}");
            }
            Knows(n, expected) => {
                let knows = producers.knows(&request("p", n));
                assert_eq!(knows, expected, "step {place}: {n}");
            }
        }
    }
}

fn verdict(producers: &Producers<u64>, id: &str, sequence: u64) -> String {
    match producers.judge(&request(id, sequence), NOW) {
        Ok(Verdict::New) => "new".to_owned(),
        Ok(Verdict::Again(failed)) => format!("again {failed}"),
        Ok(Verdict::Pending(pending)) => format!("pending {pending}"),
        Ok(Verdict::Answered(kept)) => {
            assert_eq!(kept, answer(kept.accepted));
            format!("answered {}", kept.accepted)
        }
        Err(AppendError::Sequence { expected, .. }) => format!("expected {expected}"),
        Err(AppendError::Busy) => "busy".to_owned(),
        Err(error) => panic!("{error}"),
    }
}

/// The steps of requests that are answered one after the other.
fn answered(requests: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = Step> {
    requests.flat_map(|n| [Judge(n, "new"), Begin(n), Answer(n)])
}

#[test]
fn a_repeat_gets_the_first_answer_as_long_as_it_is_kept() {
    for first in [FirstRequest::One, FirstRequest::Any] {
        let mut steps: Vec<Step> = answered(1..=20).collect();
        steps.extend([Judge(13, "answered 13"), Judge(20, "answered 20")]);
        steps.extend([0, 12, 22, u64::MAX].map(|n| Judge(n, "expected 21")));
        steps.push(Judge(21, "new"));
        check(first, &steps);
    }
}

#[test]
fn an_unknown_producer_begins_with_1_or_where_another_process_ended() {
    check(
        FirstRequest::One,
        &[Judge(7, "expected 1"), Judge(1, "new")],
    );
    let mut steps: Vec<Step> = answered(7..=8).collect();
    steps.push(Judge(6, "expected 9"));
    check(FirstRequest::Any, &steps);
}

#[test]
fn a_repeat_of_a_request_under_way_is_that_one() {
    let steps = [Begin(1), Judge(1, "pending 1"), Judge(2, "new")];
    check(FirstRequest::Any, &steps);
}

#[test]
fn a_request_that_failed_is_repeated_before_any_later_one() {
    let mut steps: Vec<Step> = answered(1..=1).collect();
    steps.extend([Begin(2), Begin(3), Answer(3), Fail(2)]);
    steps.extend([Judge(4, "expected 2"), Judge(2, "again 2")]);
    steps.extend([Begin(2), Answer(2)]);
    steps.extend(answered(4..=4));
    check(FirstRequest::Any, &steps);
}

#[test]
fn a_producer_whose_requests_all_failed_may_begin_anywhere() {
    let mut steps = vec![Begin(9), Fail(9), Judge(9, "again 9")];
    steps.extend(answered(1..=2));
    check(FirstRequest::Any, &steps);
}

#[test]
fn no_more_requests_are_under_way_than_answers_are_kept() {
    let mut steps: Vec<Step> = (1..=8).map(Begin).collect();
    steps.extend([Judge(9, "busy"), Answer(1)]);
    steps.extend(answered(9..=9));
    check(FirstRequest::Any, &steps);
}

#[test]
fn requests_that_another_process_received_are_searched_in_the_topic() {
    let mut steps = vec![Knows(1, false), Reach(20)];
    for (n, knows, verdict) in [
        (12, false, "expected 21"),
        (13, false, "new"),
        (20, false, "new"),
        (21, true, "new"),
        (22, false, "expected 21"),
    ] {
        steps.extend([Knows(n, knows), Judge(n, verdict)]);
    }
    steps.extend(answered(19..=19));
    steps.extend([Knows(19, true), Judge(19, "answered 19")]);
    steps.extend([Knows(20, false), Judge(20, "new")]);
    steps.extend(answered(21..=21));
    steps.extend([Reach(24), Knows(22, false), Judge(22, "new")]);
    steps.extend([Knows(25, true), Judge(25, "new")]);
    steps.extend([Reach(3), Knows(25, true), Judge(25, "new"), Reach(u64::MAX)]);
    check(FirstRequest::Any, &steps);
}

#[test]
fn a_failed_request_is_searched_in_the_topic_before_it_is_sent_again() {
    let mut steps: Vec<Step> = answered(1..=1).collect();
    steps.extend([Begin(2), Begin(3), Fail(2)]);
    steps.extend([Knows(2, false), Knows(3, true), Knows(4, false)]);
    steps.extend([Judge(4, "expected 2"), Answer(3), Reach(3), Knows(4, true)]);
    check(FirstRequest::Any, &steps);

    let mut producers = Producers::new(FirstRequest::Any);
    producers.begin(&request("p", 1), Arc::new(1), NOW);
    producers.end(&request("p", 1), None);
    producers.reach("p", 1, NOW, |_, _| false);
    assert_eq!(verdict(&producers, "p", 1), "again 1", "not whole there");
}

fn empty() -> AnsweredProducers {
    Producers::new(FirstRequest::One)
}

/// Sends the next request of a producer, in a group of its own.
fn send(producers: &mut AnsweredProducers, now: Duration, id: &str) -> Result<(), AppendError> {
    let known = producers.by_id.get(id);
    let next = request(id, known.map_or(1, |known| known.window.next()));
    let mut staged = producers.stage(now);
    assert_eq!(staged.judge(&next)?, None);
    staged.answered(&next, answer(1));
    Ok(())
}

/// The producers that are remembered of those that a name describes, least recently used first.
fn by_use(producers: &AnsweredProducers) -> Vec<String> {
    assert_eq!(producers.by_use.len(), producers.by_id.len());
    let silent = producers.by_use.silent();
    silent.map(|(_, id)| id.to_owned()).collect()
}

/// As many producers as are remembered, `p0` to `p9999`, each used a millisecond after the previous one.
fn full() -> AnsweredProducers {
    let mut producers = empty();
    for number in 0..MAX_PRODUCERS {
        let now = NOW + Duration::from_millis(number as u64);
        send(&mut producers, now, &format!("p{number}")).expect("there is room");
    }
    producers
}

#[test]
fn a_new_producer_is_refused_while_all_others_sent_recently() {
    let mut producers = full();
    let now = NOW + Duration::from_mins(1);
    let refused = send(&mut producers, now, "one more").expect_err("no room");
    let expected = AppendError::Producers {
        most: MAX_PRODUCERS,
        retry_after: PRODUCER_IDLE.saturating_sub(Duration::from_mins(1)),
    };
    assert_eq!(refused, expected);
    let text = refused.to_string();
    assert!(text.contains("within 60 minutes"), "{text}");
    // What a topic holds of it replaces no other producer either.
    producers.reach("one more", 3, now, |_, never| match *never {});
    // A gap is refused as a gap, with or without room, and known producers continue.
    let gap = producers.stage(NOW).judge(&request("one more", 2));
    assert!(matches!(
        gap,
        Err(AppendError::Sequence { expected: 1, .. })
    ));
    send(&mut producers, now, "p0").expect("known");
    let repeat = producers.stage(NOW).judge(&request("p1", 1));
    assert!(repeat.is_ok_and(|answer| answer.is_some_and(|answer| answer.repeated)));
    assert_eq!(by_use(&producers).len(), MAX_PRODUCERS);
}

#[test]
fn the_producers_of_one_prefix_take_no_place_from_others() {
    let mut producers = empty();
    for number in 0..MAX_PRODUCERS_OF_PREFIX {
        let now = NOW + Duration::from_millis(number as u64);
        send(&mut producers, now, &format!("acme-/p{number}")).expect("there is room");
    }
    let now = NOW + Duration::from_mins(1);
    let refused = send(&mut producers, now, "acme-/one more").expect_err("no room");
    let is_of_prefix =
        matches!(refused, AppendError::Producers { most, .. } if most == MAX_PRODUCERS_OF_PREFIX);
    assert!(is_of_prefix, "{refused}");
    // Known producers continue, and producers of other prefixes find room.
    for id in ["acme-/p1", "acme-2/p", "p", "acme-"] {
        send(&mut producers, now, id).expect(id);
    }
    // The least recently used producer of the same prefix is forgotten, not one of another prefix.
    send(&mut producers, NOW + PRODUCER_IDLE, "acme-/one more").expect("acme-/p0 is idle");
    assert_eq!(producers.by_use.len_of("acme-"), MAX_PRODUCERS_OF_PREFIX);
    assert!(!producers.by_id.contains_key("acme-/p0"));
    assert!(by_use(&producers).contains(&"acme-2/p".to_owned()));
}

#[test]
fn the_producer_that_was_silent_the_longest_is_forgotten_first() {
    let mut producers = full();
    send(&mut producers, NOW + Duration::from_secs(20), "p0").expect("known");
    // Of the others, only p1 and p2 are idle.
    let mut staged = producers.stage(NOW + Duration::from_millis(2) + PRODUCER_IDLE);
    for id in ["one more", "another"] {
        assert_eq!(staged.judge(&request(id, 1)), Ok(None));
        staged.answered(&request(id, 1), answer(1));
    }
    let refused = staged.judge(&request("a third", 1));
    assert!(matches!(refused, Err(AppendError::Producers { .. })));
    let changes = staged.changes();
    assert_eq!((changes.written.len(), changes.removed.len()), (2, 2));
    let by_use = by_use(&producers);
    assert_eq!(by_use.len(), MAX_PRODUCERS);
    assert_eq!(by_use[0], "p3");
    assert!(producers.by_id.contains_key("p0"));
}

#[test]
fn a_clock_that_was_set_back_leaves_room() {
    let mut producers = full();
    let earlier = NOW.saturating_sub(2 * PRODUCER_IDLE);
    send(&mut producers, earlier, "one more").expect("all are idle");
    assert_eq!(by_use(&producers)[0], "p1");
}

#[test]
fn a_repeat_in_the_same_group_gets_the_answer_of_the_first() {
    let mut producers = empty();
    let mut staged = producers.stage(NOW);
    staged.answered(&request("p", 1), answer(1));
    let repeated = Appended {
        repeated: true,
        ..answer(1)
    };
    assert_eq!(staged.judge(&request("p", 1)), Ok(Some(repeated)));
    assert_eq!(staged.judge(&request("p", 2)), Ok(None));
}

#[test]
fn a_group_that_failed_leaves_no_trace() {
    let mut producers = full();
    let before = by_use(&producers);
    let mut staged = producers.stage(NOW + PRODUCER_IDLE);
    for request in [request("one more", 1), request("p5", 2), request("p5", 3)] {
        staged.answered(&request, answer(7));
    }
    assert_eq!(staged.changes().removed.len(), 1, "p0 is forgotten");
    staged.roll_back();
    assert_eq!(by_use(&producers), before);
    let staged = producers.stage(NOW);
    for id in ["p0", "p5"] {
        assert_eq!(staged.judge(&request(id, 2)), Ok(None), "{id}");
        assert!(staged.judge(&request(id, 3)).is_err(), "{id}");
    }
}

fn restored(disk: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<AnsweredProducers, &'static str> {
    let mut restored = empty();
    for (key, value) in disk {
        restored.restore(key, value.clone().into())?;
    }
    Ok(restored)
}

#[test]
fn producers_read_as_they_were_written_also_after_many_groups() {
    let state = |producers: &AnsweredProducers| -> BTreeMap<String, String> {
        let by_id = producers.by_id.iter();
        by_id
            .map(|(id, producer)| (id.clone(), format!("{producer:?}")))
            .collect()
    };
    let mut disk = BTreeMap::new();
    let mut producers = empty();
    let mut next = BTreeMap::new();
    for round in 1..=30 {
        let mut staged = producers.stage(NOW);
        // One name is a prefix of another, and one producer has more answers at once than are kept.
        for (id, requests) in [("p", 1), ("p\0", 3), ("many", 10)] {
            if round % (requests + 1) == 0 {
                for _ in 0..requests {
                    let sequence = next.entry(id).or_insert(1);
                    staged.answered(&request(id, *sequence), answer(round));
                    *sequence += 1;
                }
            }
        }
        let changes = staged.changes();
        disk.extend(changes.written);
        for key in &changes.removed {
            assert!(
                disk.remove(key).is_some(),
                "only what was written is removed"
            );
        }
        let restored = restored(&disk).expect("intact");
        assert_eq!(state(&restored), state(&producers));
        assert_eq!(by_use(&restored), by_use(&producers));
    }
}

#[test]
fn a_request_writes_its_own_answer_alone() {
    let mut producers = empty();
    for sequence in 1..=20 {
        let mut staged = producers.stage(NOW);
        staged.answered(&request("p", sequence), answer(sequence));
        let changes = staged.changes();
        assert_eq!(changes.written.len(), 1);
        assert_eq!(changes.removed.len(), usize::from(sequence > 8));
    }
}

#[test]
fn an_answer_that_is_missing_between_others_is_noticed() {
    let mut producers = empty();
    let mut staged = producers.stage(NOW);
    for sequence in 1..=4 {
        staged.answered(&request("p", sequence), answer(sequence));
    }
    let mut disk: BTreeMap<_, _> = staged.changes().written.into_iter().collect();
    let third = disk.keys().nth(2).expect("four answers").clone();
    disk.remove(&third);
    let error = restored(&disk).expect_err("a gap");
    assert_eq!(error, "an answer before it is missing");
}
