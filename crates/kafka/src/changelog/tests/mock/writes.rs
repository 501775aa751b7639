//! Transactions, and partitions that are closed or released while they are written.

use super::*;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

/// Waits until the transaction in progress holds the partition.
fn until_in_transaction(store: &ChangelogStore, partition: PartitionId) {
    let until = Instant::now() + LONG;
    while !store.shared.partitions.is_in_transaction(partition) {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
}

#[test]
fn a_process_outside_the_group_writes_nothing() {
    let cluster = cluster();
    let topics = topics(&cluster);
    let dir = dir();
    let store = topics.store(dir.path(), "one");
    topics.group.set_member(Member::None);
    let until = Instant::now() + LONG;
    let error_text = loop {
        match store.open(PartitionId(1)) {
            Ok(Opening::Waiting | Opening::Reading { .. }) if Instant::now() < until => {}
            other => break unavailable(other),
        }
    };
    assert_eq!(error_text, "this process is not in the consumer group now");
    topics.group.set_member(Member::Live);
    open(&store, 1);
    store.claim(claim_of("acme", 1)).expect("claimed");
    topics.group.set_member(Member::None);
    let saves = [save_of("acme", 1, 9, one_change(8))];
    unavailable(store.save(&saves, &[(PartitionId(1), Offset(9))]));
    unavailable(store.append_history(vec![transition("acme", 1, 1)]));
    unavailable(store.purge(&id("acme")));
    assert_eq!(load(&store, "acme").expect("loaded").1, []);
    assert_eq!(store.committed(PartitionId(1)), Ok(Offset::ZERO));
    topics.group.set_member(Member::Live);
    assert_eq!(store.save(&saves, &[]), Ok(Vec::new()));
}

#[test]
fn a_transaction_that_the_group_refuses_may_be_repeated() {
    let cluster = cluster();
    let topics = topics(&cluster);
    let (first, second) = (dir(), dir());
    let store = topics.store(first.path(), "one");
    open(&store, 1);
    store.claim(claim_of("acme", 1)).expect("claimed");
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID,
    ] {
        cluster.request_errors(RDKafkaApiKey::TxnOffsetCommit, &[error]);
        let saves = [save_of("acme", 1, 9, one_change(8))];
        let error_text = unavailable(store.save(&saves, &[(PartitionId(1), Offset(9))]));
        assert!(
            error_text.starts_with("the group refuses the offsets of the transaction"),
            "{error_text}"
        );
        assert_eq!(load(&store, "acme").expect("loaded").1, []);
        assert_eq!(store.committed(PartitionId(1)), Ok(Offset::ZERO));
    }
    assert_eq!(store.counts().transactions_aborted, 3);
    let saves = [save_of("acme", 1, 10, one_change(9))];
    let saved = store.save(&saves, &[(PartitionId(1), Offset(10))]);
    assert_eq!(saved, Ok(Vec::new()));
    let written = contents(&store, 1);
    drop(store);
    let store = topics.store(second.path(), "one");
    open(&store, 1);
    assert_eq!(contents(&store, 1), written);
}

#[test]
fn a_save_of_unknown_outcome_may_be_repeated_after_a_re_read() {
    let error_text = unknown_outcome(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE]);
    assert!(
        error_text.contains("outcome of the commit is unknown"),
        "{error_text}"
    );
}

#[test]
fn a_commit_whose_abort_fails_may_have_been_done() {
    let error_text = unknown_outcome(&[
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE,
    ]);
    assert!(error_text.contains("cannot be committed"), "{error_text}");
}

/// Saves while the broker answers the end of the transaction with these errors. Returns the error message of the save.
fn unknown_outcome(errors: &[RDKafkaRespErr]) -> String {
    let Opened { cluster, store, .. } = &opened();
    store.claim(claim_of("acme", 1)).expect("claimed");
    cluster.request_errors(RDKafkaApiKey::EndTxn, errors);
    let saves = [save_of("acme", 1, 9, one_change(8))];
    let error_text = unavailable(store.save(&saves, &[]));
    assert_eq!(store.counts().transactions_unknown, 1);
    assert_eq!(store.counts().transactions_aborted, 0);
    let until = Instant::now() + LONG;
    while let Err(error) = store.workspaces(PartitionId(1)) {
        assert!(Instant::now() < until, "{error}");
        std::thread::sleep(Duration::from_millis(10));
    }
    // The mock broker shows uncommitted records, so the save counts as done.
    let (about, entries) = load(store, "acme").expect("loaded");
    assert_eq!((about.next_offset, entries.len()), (Offset(9), 1));
    assert_eq!(store.save(&saves, &[]), Ok(Vec::new()));
    assert_eq!(load(store, "acme").expect("loaded"), (about, entries));
    error_text
}

#[test]
fn a_closed_partition_is_refused_and_harms_no_other() {
    let cluster = cluster();
    let topics = topics(&cluster);
    let dir = dir();
    let store = topics.store(dir.path(), "one");
    let in_two = |claim| Claim {
        partition: PartitionId(2),
        ..claim
    };
    unavailable(store.claim(claim_of("acme", 1)));
    open(&store, 1);
    open(&store, 2);
    store.claim(claim_of("acme", 1)).expect("claimed");
    store.claim(in_two(claim_of("other", 1))).expect("claimed");
    store.close(PartitionId(1));
    unavailable(store.claim(claim_of("acme", 2)));
    unavailable(store.workspaces(PartitionId(1)));
    unavailable(store.workspace(&id("acme")));
    unavailable(load(&store, "acme"));
    unavailable(store.committed(PartitionId(1)));
    unavailable(store.append_history(vec![transition("acme", 1, 1)]));
    let saves = [
        save_of("acme", 1, 9, one_change(8)),
        save_of("other", 1, 9, one_change(8)),
    ];
    let committed = [(PartitionId(1), Offset(9)), (PartitionId(2), Offset(9))];
    let refused = store.save(&saves, &committed).expect("saved");
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].id, id("acme"));
    assert!(matches!(refused[0].error, StoreError::Unavailable(_)));
    assert_eq!(store.committed(PartitionId(2)), Ok(Offset(9)));
    assert_eq!(load(&store, "other").expect("loaded").1.len(), 1);
    open(&store, 1);
    assert_eq!(load(&store, "acme").expect("loaded").1, []);
}

#[test]
fn an_entity_that_is_too_large_is_refused_alone() {
    let Opened { store, .. } = &opened();
    store.claim(claim_of("acme", 1)).expect("claimed");
    store.claim(claim_of("other", 1)).expect("claimed");
    let huge = "1".repeat(17 * 1024 * 1024);
    let saves = [
        save_of("acme", 1, 9, vec![set("kind", "huge", &huge, 1)]),
        save_of("other", 1, 9, one_change(8)),
    ];
    let refused = store.save(&saves, &[]).expect("saved");
    assert_eq!(refused.len(), 1);
    assert!(matches!(&refused[0].error, StoreError::Refused { id, .. } if id == "huge"));
    assert_eq!(load(store, "acme").expect("loaded").1, []);
    assert_eq!(load(store, "other").expect("loaded").1.len(), 1);
}

#[test]
fn a_load_of_an_earlier_assignment_is_fenced_before_a_later_load() {
    let Opened { store, .. } = &opened();
    store.claim(claim_of("acme", 1)).expect("claimed");
    store.close(PartitionId(1));
    open(store, 1);
    let late = [save_of("acme", 1, 9, one_change(8))];
    let refused = store.save(&late, &[(PartitionId(1), Offset(9))]);
    match refused.expect("the others would be saved").as_slice() {
        [
            SaveRefused {
                error: StoreError::Fenced { stored, .. },
                ..
            },
        ] => assert_eq!(*stored, Epoch::new(1)),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.committed(PartitionId(1)), Ok(Offset::ZERO));
    let first_epoch = store.first_epoch(PartitionId(1)).get();
    assert_eq!(first_epoch, 2);
    store.claim(claim_of("acme", first_epoch)).expect("claimed");
}

#[test]
fn closing_waits_for_the_transaction_in_progress() {
    let Opened { cluster, store, .. } = &opened();
    store.claim(claim_of("acme", 1)).expect("claimed");
    cluster
        .broker_round_trip_time(1, Duration::from_millis(300))
        .expect("slow now");
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| store.save(&[save_of("acme", 1, 9, one_change(8))], &[]));
        until_in_transaction(store, PartitionId(1));
        store.close(PartitionId(1));
        assert_eq!(store.counts().transactions_committed, 3, "it is over");
        assert_eq!(saving.join().expect("no panic"), Ok(Vec::new()));
        unavailable(store.claim(claim_of("acme", 2)));
        assert_eq!(store.counts().transactions_committed, 3);
    });
}

#[test]
fn jobs_that_wait_while_a_partition_is_released_are_refused() {
    let Opened { cluster, store, .. } = &opened();
    open(store, 2);
    let in_two = |text, epoch| Claim {
        partition: PartitionId(2),
        ..claim_of(text, epoch)
    };
    store.claim(claim_of("acme", 1)).expect("claimed");
    store.claim(in_two("other", 1)).expect("claimed");
    cluster
        .broker_round_trip_time(1, Duration::from_millis(300))
        .expect("slow now");
    let before = store.counts();
    std::thread::scope(|scope| {
        let under_way = scope.spawn(|| store.claim(in_two("third", 1)));
        until_in_transaction(store, PartitionId(2));
        let saves = [
            save_of("acme", 1, 9, one_change(8)),
            save_of("other", 1, 9, one_change(8)),
        ];
        let committed = [(PartitionId(1), Offset(9)), (PartitionId(2), Offset(9))];
        let job = |reply| Job::Save {
            saves: saves.to_vec(),
            committed: committed.to_vec(),
            reply,
        };
        let waiting = store.send(job).expect("sent");
        store.release(&[PartitionId(1)]);
        under_way.join().expect("no panic").expect("claimed");
        match waiting.recv().expect("answered") {
            Ok(refused) => {
                assert_eq!(refused.len(), 1);
                assert_eq!(refused[0].id, id("acme"));
                assert!(matches!(refused[0].error, StoreError::Unavailable(_)));
            }
            Err(error) => panic!("{error:?}"),
        }
    });
    // The claim of "third" and the save of "other" (2 records); none of the released partition.
    let written = store.counts().records_written - before.records_written;
    assert_eq!(written, 3);
    unavailable(store.workspace(&id("acme")));
    assert_eq!(store.committed(PartitionId(2)), Ok(Offset(9)));
    store.close(PartitionId(1));
    unavailable(store.open(PartitionId(1)));
    cluster
        .broker_round_trip_time(1, Duration::ZERO)
        .expect("quick again");
    store.assigned(&[PartitionId(1)]);
    open(store, 1);
    assert_eq!(load(store, "acme").expect("loaded").1, []);
    assert_eq!(store.committed(PartitionId(1)), Ok(Offset::ZERO));
}

#[test]
fn a_release_during_the_membership_query_prevents_the_write() {
    let cluster = cluster();
    let topics = topics(&cluster);
    let dir = dir();
    let store = Arc::new(topics.store(dir.path(), "one"));
    open(&store, 1);
    store.claim(claim_of("acme", 1)).expect("claimed");
    let saves = [save_of("acme", 1, 9, one_change(8))];
    let interrupt = || {
        let store = Arc::downgrade(&store);
        let hook = move || {
            let store = store.upgrade().expect("the test has it");
            store.release(&[PartitionId(1)]);
        };
        *topics.group.hook.lock() = Some(Box::new(hook));
    };
    let committed = store.counts().transactions_committed;
    interrupt();
    let refused = store.save(&saves, &[(PartitionId(1), Offset(9))]);
    assert_eq!(refused.expect("answered").len(), 1);
    assert_eq!(store.counts().transactions_committed, committed);
    store.close(PartitionId(1));

    // The same for the ownership record of an assignment that the group has ended by then.
    store.assigned(&[PartitionId(1)]);
    interrupt();
    let until = Instant::now() + LONG;
    let refused = loop {
        match store.open(PartitionId(1)) {
            Ok(Opening::Waiting | Opening::Reading { .. }) if Instant::now() < until => {}
            other => break unavailable(other),
        }
    };
    assert_eq!(refused, "partition 1 is not open in this process");
    assert_eq!(store.counts().transactions_committed, committed);
}

#[test]
fn a_save_fails_as_a_whole_while_a_partition_is_re_read() {
    let Opened { store, .. } = &opened();
    open(store, 2);
    store.claim(claim_of("acme", 1)).expect("claimed");
    let other = Claim {
        partition: PartitionId(2),
        ..claim_of("other", 1)
    };
    store.claim(other).expect("claimed");
    // The re-read must wait for a consumer: all are lent.
    let mut readers = Vec::new();
    while let Some(reader) = store.shared.readers.lend().expect("made") {
        readers.push(reader);
    }
    let was_open = store
        .shared
        .partitions
        .change(PartitionId(1), OwnershipState::Open, |owned| {
            owned.state = OwnershipState::Behind;
        });
    assert!(was_open);
    let written = store.counts().records_written;
    let saves = [
        save_of("other", 1, 9, one_change(8)),
        save_of("acme", 1, 9, one_change(8)),
    ];
    let committed = [(PartitionId(1), Offset(9)), (PartitionId(2), Offset(9))];
    for (saves, committed) in [
        (&saves[..], &committed[..]),
        (&saves[1..], &[]),
        (&saves[..1], &committed[..]),
    ] {
        let error_text = unavailable(store.save(saves, committed));
        assert_eq!(
            error_text,
            "partition 1 is being read again from the changelog"
        );
    }
    assert_eq!(store.counts().records_written, written);
    assert_eq!(store.committed(PartitionId(2)), Ok(Offset::ZERO));
    drop(readers);
    let until = Instant::now() + LONG;
    while let Err(error) = store.save(&saves, &committed) {
        assert!(Instant::now() < until, "{error}");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(load(store, "acme").expect("loaded").1.len(), 1);
    assert_eq!(store.committed(PartitionId(2)), Ok(Offset(9)));
}

#[test]
fn dropping_the_store_does_not_wait_for_a_slow_broker() {
    let cluster = cluster();
    let topics = topics(&cluster);
    let dir = dir();
    let store = topics.store(dir.path(), "one");
    open(&store, 1);
    store.claim(claim_of("acme", 1)).expect("claimed");
    cluster
        .broker_round_trip_time(1, Duration::from_mins(2))
        .expect("slow now");
    let job = |reply| Job::Save {
        saves: vec![save_of("acme", 1, 9, one_change(8))],
        committed: Vec::new(),
        reply,
    };
    let answer = store.send(job).expect("sent");
    until_in_transaction(&store, PartitionId(1));
    let began = Instant::now();
    drop(store);
    assert!(
        began.elapsed() < Duration::from_mins(1),
        "{:?}",
        began.elapsed()
    );
    drop(answer);
}
