use super::*;

fn asked(id: &str, sequence: u64) -> ProducerSequence {
    ProducerSequence {
        producer_id: id.to_owned(),
        sequence,
    }
}

fn answer(accepted: u64) -> Appended {
    Appended {
        accepted,
        partitions: Vec::new(),
        repeated: false,
    }
}

fn append(sequences: &mut Sequences<()>, sequence: u64) {
    let asked = asked("p", sequence);
    assert!(
        matches!(sequences.judge(&asked), Ok(Verdict::New)),
        "{sequence}"
    );
    sequences.begin(&asked, Arc::new(()));
    sequences.end(&asked, Some(&answer(sequence)));
}

fn refused(sequences: &Sequences<()>, sequence: u64) -> AppendError {
    sequences
        .judge(&asked("p", sequence))
        .expect_err("out of turn")
}

#[test]
fn a_repeat_is_answered_as_the_first_was_as_long_as_the_answer_is_kept() {
    let mut sequences = Sequences::default();
    (1..=20).for_each(|sequence| append(&mut sequences, sequence));
    for sequence in 13..=20 {
        match sequences.judge(&asked("p", sequence)) {
            Ok(Verdict::Answered(kept)) => assert_eq!(kept, answer(sequence)),
            other => panic!("{sequence}: {other:?}"),
        }
    }
    for sequence in [0, 12, 22, u64::MAX] {
        let error = refused(&sequences, sequence);
        assert!(
            matches!(error, AppendError::Sequence { expected: 21, .. }),
            "{sequence}: {error}"
        );
    }
}

#[test]
fn an_unknown_producer_begins_anywhere() {
    let mut sequences = Sequences::default();
    append(&mut sequences, 7);
    append(&mut sequences, 8);
    assert!(matches!(
        refused(&sequences, 6),
        AppendError::Sequence { expected: 9, .. }
    ));
}

#[test]
fn a_repeat_of_a_request_under_way_is_that_one() {
    let mut sequences = Sequences::default();
    let pending = Arc::new(5);
    sequences.begin(&asked("p", 1), Arc::clone(&pending));
    match sequences.judge(&asked("p", 1)) {
        Ok(Verdict::Pending(found)) => assert!(Arc::ptr_eq(&found, &pending)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(sequences.judge(&asked("p", 2)), Ok(Verdict::New)));
}

#[test]
fn a_request_that_failed_comes_again_before_any_later_one() {
    let mut sequences = Sequences::default();
    append(&mut sequences, 1);
    sequences.begin(&asked("p", 2), Arc::new(()));
    sequences.begin(&asked("p", 3), Arc::new(()));
    sequences.end(&asked("p", 3), Some(&answer(3)));
    sequences.end(&asked("p", 2), None);
    assert!(matches!(
        refused(&sequences, 4),
        AppendError::Sequence { expected: 2, .. }
    ));
    assert!(matches!(
        sequences.judge(&asked("p", 2)),
        Ok(Verdict::Again(_))
    ));
    sequences.begin(&asked("p", 2), Arc::new(()));
    sequences.end(&asked("p", 2), Some(&answer(2)));
    append(&mut sequences, 4);
}

#[test]
fn what_another_process_has_had_is_looked_for_in_the_topic() {
    let mut sequences = Sequences::default();
    assert!(!sequences.knows(&asked("p", 1)), "a producer nobody knows");
    sequences.reach("p", 20, |_, ()| false);
    let check = |sequences: &Sequences<()>, sequence, knows: bool, is_new: bool| {
        let asked = asked("p", sequence);
        assert_eq!(sequences.knows(&asked), knows, "{sequence}");
        let judged = matches!(sequences.judge(&asked), Ok(Verdict::New));
        assert_eq!(judged, is_new, "{sequence}");
    };
    check(&sequences, 12, false, false);
    check(&sequences, 13, false, true);
    check(&sequences, 20, false, true);
    check(&sequences, 21, true, true);
    check(&sequences, 22, false, false);
    append(&mut sequences, 19);
    check(&sequences, 19, true, false);
    check(&sequences, 20, false, true);
    append(&mut sequences, 21);
    sequences.reach("p", 24, |_, ()| false);
    check(&sequences, 22, false, true);
    check(&sequences, 25, true, true);
    sequences.reach("p", 3, |_, ()| false);
    check(&sequences, 25, true, true);
    sequences.reach("p", u64::MAX, |_, ()| false);
}

#[test]
fn one_that_failed_is_looked_for_in_the_topic_before_it_is_sent_again() {
    let mut sequences = Sequences::default();
    append(&mut sequences, 1);
    sequences.begin(&asked("p", 2), Arc::new(()));
    sequences.begin(&asked("p", 3), Arc::new(()));
    sequences.end(&asked("p", 2), None);
    assert!(!sequences.knows(&asked("p", 2)));
    assert!(sequences.knows(&asked("p", 3)), "under way");
    assert!(!sequences.knows(&asked("p", 4)), "it may be there");
    sequences.reach("p", 3, |number, ()| number == 1);
    assert!(matches!(
        refused(&sequences, 4),
        AppendError::Sequence { expected: 2, .. }
    ));
    sequences.end(&asked("p", 3), Some(&answer(3)));
    sequences.reach("p", 3, |number, ()| number == 2);
    assert!(sequences.knows(&asked("p", 4)), "it is there");
}

#[test]
fn a_producer_whose_requests_all_failed_may_begin_anew() {
    let mut sequences = Sequences::default();
    sequences.begin(&asked("p", 9), Arc::new(()));
    sequences.end(&asked("p", 9), None);
    assert!(matches!(
        sequences.judge(&asked("p", 9)),
        Ok(Verdict::Again(_))
    ));
    append(&mut sequences, 1);
    append(&mut sequences, 2);
}

#[test]
fn no_more_requests_are_under_way_than_answers_are_kept() {
    let mut sequences = Sequences::default();
    for sequence in 1..=8 {
        sequences.begin(&asked("p", sequence), Arc::new(()));
    }
    assert_eq!(refused(&sequences, 9), AppendError::Busy);
    sequences.end(&asked("p", 1), Some(&answer(1)));
    append(&mut sequences, 9);
}

/// As many producers as are remembered.
fn full() -> Sequences<()> {
    let mut sequences = Sequences::default();
    for number in 0..MAX_PRODUCERS {
        use_one(&mut sequences, &format!("p{number}"), 1);
    }
    sequences
}

fn use_one(sequences: &mut Sequences<()>, id: &str, sequence: u64) {
    sequences.begin(&asked(id, sequence), Arc::new(()));
    sequences.end(&asked(id, sequence), Some(&answer(1)));
}

#[test]
fn a_new_producer_is_refused_while_all_others_were_heard_of_late() {
    let mut sequences = full();
    let judged = sequences.judge(&asked("one more", 1));
    assert!(matches!(judged, Err(AppendError::Producers { .. })));
    // What the topic holds of it replaces no other producer either.
    sequences.reach("one more", 3, |_, ()| false);
    let judged = sequences.judge(&asked("one more", 4));
    assert!(matches!(judged, Err(AppendError::Producers { .. })));
    assert!(matches!(
        sequences.judge(&asked("p0", 1)),
        Ok(Verdict::Answered(_))
    ));
    assert!(matches!(sequences.judge(&asked("p0", 2)), Ok(Verdict::New)));
}

#[test]
fn the_producers_of_one_prefix_take_no_place_from_others() {
    let mut sequences = Sequences::default();
    for number in 0..MAX_PRODUCERS_OF_PREFIX {
        use_one(&mut sequences, &format!("acme-/p{number}"), 1);
    }
    let judged = sequences.judge(&asked("acme-/one more", 1));
    assert!(
        matches!(judged, Err(AppendError::Producers { most, .. }) if most == MAX_PRODUCERS_OF_PREFIX)
    );
    // Known producers continue, and producers of other prefixes are accepted.
    let known = sequences.judge(&asked("acme-/p1", 2));
    assert!(matches!(known, Ok(Verdict::New)), "{known:?}");
    for id in ["acme-2/p", "p", "acme-"] {
        let judged = sequences.judge(&asked(id, 1));
        assert!(matches!(judged, Ok(Verdict::New)), "{id}: {judged:?}");
        use_one(&mut sequences, id, 1);
    }
    // A new producer replaces the longest silent one of its own prefix, not that of another.
    use_one(&mut sequences, "acme-/p0", 2);
    for id in ["acme-/p1", "acme-2/p"] {
        make_idle(&mut sequences, id);
    }
    use_one(&mut sequences, "acme-/one more", 1);
    assert_eq!(sequences.by_use.len_of("acme-"), MAX_PRODUCERS_OF_PREFIX);
    assert_eq!(sequences.by_use.len(), sequences.by_id.len());
    assert!(!sequences.by_id.contains_key("acme-/p1"));
    assert!(sequences.by_id.contains_key("acme-2/p"));
}

fn make_idle(sequences: &mut Sequences<()>, id: &str) {
    let silent = sequences.by_id.get_mut(id).expect("known");
    silent.heard_at = Instant::now()
        .checked_sub(PRODUCER_IDLE)
        .expect("the clock began earlier");
}

#[test]
fn the_producer_that_was_silent_the_longest_is_forgotten_first() {
    let mut sequences = full();
    use_one(&mut sequences, "p0", 2);
    make_idle(&mut sequences, "p1");
    let judged = sequences.judge(&asked("one more", 1));
    assert!(matches!(judged, Ok(Verdict::New)));
    use_one(&mut sequences, "one more", 1);
    assert_eq!(sequences.by_id.len(), MAX_PRODUCERS);
    assert_eq!(sequences.by_use.len(), MAX_PRODUCERS);
    assert!(sequences.by_id.contains_key("p0"));
    assert!(!sequences.by_id.contains_key("p1"));
    let judged = sequences.judge(&asked("another", 1));
    assert!(matches!(judged, Err(AppendError::Producers { .. })));
}
