//! Against the mock broker in this process: it has no compaction, shows aborted records, and accepts offsets in
//! transactions but does not store them.

use super::*;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use workspace_engine_core::store::{CachePlace, Change};

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> Cluster {
    MockCluster::new(1).expect("a cluster")
}

fn place(cluster: &Cluster) -> Place {
    let place = Place::new(&cluster.bootstrap_servers());
    for topic in [place.config.topic.clone(), place.config.changelog_topic()] {
        cluster
            .create_topic(&topic, i32::try_from(PARTITIONS).expect("small"), 1)
            .expect("created");
    }
    place
}

type Spoil = fn(CachePlace) -> CachePlace;

fn one_change(number: u64) -> Vec<Change> {
    vec![set("kind", "one", &number.to_string(), number)]
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(StoreError::Unavailable(error_text)) => error_text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_changelog_does_what_every_store_must() {
    let cluster = cluster();
    all_cases(|| place(&cluster));
}

#[test]
fn what_was_saved_is_there() {
    let cluster = cluster();
    let place = place(&cluster);
    what_was_saved_is_there_with_an_empty_disk_and_with_a_warm_one(&place, Offset::ZERO);
}

#[test]
fn a_reader_tells_where_the_end_was() {
    let cluster = cluster();
    a_reader_tells_where_it_has_met_the_end(&place(&cluster));
}

#[test]
fn a_damaged_record_parks_its_workspace_alone_and_deleting_is_the_way_out() {
    let cluster = cluster();
    let place = place(&cluster);
    let (first, second) = (dir(), dir());
    let store = place.store(first.path(), "one");
    open(&store, 1);
    fill(&store);
    store.claim(claim_of("third", 9)).expect("claimed");
    drop(store);
    // A value of an unreadable version, one that is cut, an unknown key, and an empty key.
    place.write_raw(1, b"w\x04acme", Some(b"\xff?"));
    place.write_raw(1, b"e\x05other\0\0\0\x04kind7", Some(b"\x01\0"));
    place.write_raw(1, b"?", Some(b"?"));
    place.write_raw(1, b"", None);

    let store = place.store(second.path(), "two");
    open(&store, 1);
    let listed = store.workspaces(PartitionId(1)).expect("listed");
    let listed: Vec<_> = listed
        .iter()
        .map(|about| (about.id.as_str(), about.epoch.get()))
        .collect();
    assert_eq!(listed, [("acme", 0), ("other", 1), ("third", 9)]);
    assert!(matches!(
        load(&store, "acme"),
        Err(StoreError::Corrupt { .. })
    ));
    assert!(matches!(
        store.claim(claim_of("acme", 99)),
        Err(StoreError::Corrupt { .. })
    ));
    match load(&store, "other") {
        Err(StoreError::Corrupt { place, .. }) => {
            assert_eq!(place, "entry kind/7 of workspace other");
        }
        other => panic!("{other:?}"),
    }
    load(&store, "third").expect("harmed by no other");
    for text in ["acme", "other"] {
        store.purge(&id(text)).expect("deleted");
        store.claim(claim_of(text, 10)).expect("claimed anew");
        assert_eq!(load(&store, text).expect("loaded").1, []);
    }
}

#[test]
fn what_was_saved_from_a_topic_that_has_gone_is_claimed_no_more() {
    let cluster = cluster();
    let place = place(&cluster);
    let (copy, empty) = (dir(), dir());
    *place.group.topic_id.lock() = TopicId::new(1);
    let store = place.store(copy.path(), "one");
    open(&store, 1);
    fill(&store);
    drop(store);
    // A topic whose id is not known counts as the same topic.
    for (number, (dir, topic, is_other)) in (100..).zip([
        (&copy, None, false),
        (&copy, TopicId::new(1), false),
        (&copy, TopicId::new(2), true),
        (&copy, TopicId::new(2), true),
        (&empty, TopicId::new(2), true),
        (&empty, None, true),
    ]) {
        *place.group.topic_id.lock() = topic;
        let store = place.store(dir.path(), &format!("node-{number}"));
        open(&store, 1);
        let claimed = store.claim(claim_of("other", number));
        if is_other {
            assert!(
                matches!(&claimed, Err(StoreError::OtherLog { id, .. }) if id.as_str() == "other"),
                "{number}: {claimed:?}"
            );
            load(&store, "other").expect("what it was is still told");
        } else {
            claimed.expect("claimed");
        }
        store
            .claim(claim_of("acme", number))
            .map_or_else(|error| assert!(is_other, "{error}"), |_| assert!(!is_other));
        store
            .claim(claim_of(&format!("new-{number}"), number))
            .expect("claimed");
    }
    let store = place.store(empty.path(), "last");
    open(&store, 1);
    store.purge(&id("other")).expect("deleted");
    store.claim(claim_of("other", 999)).expect("claimed anew");
    store.claim(claim_of("new-105", 999)).expect("claimed");
}

#[test]
fn what_was_deleted_of_a_topic_that_has_gone_hides_nothing_of_the_next() {
    let cluster = cluster();
    let place = place(&cluster);
    let (copy, empty) = (dir(), dir());
    *place.group.topic_id.lock() = TopicId::new(1);
    let store = place.store(copy.path(), "one");
    open(&store, 1);
    fill(&store);
    let epoch = store.first_epoch(PartitionId(1)).get();
    store
        .delete(conformance::erase_of("acme", epoch + 1, 12))
        .expect("deleted");
    drop(store);
    *place.group.topic_id.lock() = TopicId::new(2);
    for (dir, name) in [(&copy, "two"), (&empty, "three")] {
        let store = place.store(dir.path(), name);
        open(&store, 1);
        let deletions = store.deletions(PartitionId(1)).expect("listed");
        let marks: Vec<_> = deletions.iter().map(|mark| mark.next_offset).collect();
        assert_eq!(marks, [Offset::ZERO], "{name}");
    }
    let store = place.store(empty.path(), "four");
    open(&store, 1);
    let epoch = store.first_epoch(PartitionId(1)).get();
    let claimed = store.claim(claim_of("acme", epoch)).expect("claimed");
    assert_eq!((claimed.next_offset, claimed.entries), (Offset(5), 0));
}

#[test]
fn who_is_not_in_the_group_writes_nothing() {
    let cluster = cluster();
    let place = place(&cluster);
    let dir = dir();
    let store = place.store(dir.path(), "one");
    place.group.member.store(false, Ordering::Relaxed);
    let until = Instant::now() + LONG;
    let error_text = loop {
        match store.open(PartitionId(1)) {
            Ok(Opening::Reading { .. }) if Instant::now() < until => {}
            other => break unavailable(other),
        }
    };
    assert_eq!(error_text, "this process is not in the consumer group now");
    place.group.member.store(true, Ordering::Relaxed);
    open(&store, 1);
    store.claim(claim_of("acme", 1)).expect("claimed");
    place.group.member.store(false, Ordering::Relaxed);
    let saves = [save_of("acme", 1, 9, one_change(8))];
    unavailable(store.save(&saves, &[(PartitionId(1), Offset(9))]));
    unavailable(store.append_history(vec![transition("acme", 1, 1)]));
    unavailable(store.purge(&id("acme")));
    assert_eq!(load(&store, "acme").expect("loaded").1, []);
    assert_eq!(store.committed(PartitionId(1)), Ok(Offset::ZERO));
    place.group.member.store(true, Ordering::Relaxed);
    assert_eq!(store.save(&saves, &[]), Ok(Vec::new()));
}

#[test]
fn a_transaction_that_the_group_refuses_leaves_nothing_and_may_be_tried_again() {
    let cluster = cluster();
    let place = place(&cluster);
    let (first, second) = (dir(), dir());
    let store = place.store(first.path(), "one");
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
            error_text.starts_with("the group does not take the offsets of the transaction"),
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
    let store = place.store(second.path(), "one");
    open(&store, 1);
    assert_eq!(contents(&store, 1), written);
}

#[test]
fn after_a_commit_of_unknown_outcome_the_changelog_is_read_again_and_the_save_may_be_repeated() {
    let error_text = unknown_outcome(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE]);
    assert!(error_text.contains("not known"), "{error_text}");
}

#[test]
fn a_commit_whose_abort_fails_as_well_may_have_been_done() {
    let error_text = unknown_outcome(&[
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE,
    ]);
    assert!(error_text.contains("cannot be committed"), "{error_text}");
}

/// Saves while the broker answers the end of the transaction with these errors. Returns the error message of the save.
fn unknown_outcome(errors: &[RDKafkaRespErr]) -> String {
    let cluster = cluster();
    let place = place(&cluster);
    let dir = dir();
    let store = place.store(dir.path(), "one");
    open(&store, 1);
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
    let (about, entries) = load(&store, "acme").expect("loaded");
    assert_eq!((about.next_offset, entries.len()), (Offset(9), 1));
    assert_eq!(store.save(&saves, &[]), Ok(Vec::new()));
    assert_eq!(load(&store, "acme").expect("loaded"), (about, entries));
    error_text
}

#[test]
fn what_is_closed_is_refused_and_harms_no_other() {
    let cluster = cluster();
    let place = place(&cluster);
    let dir = dir();
    let store = place.store(dir.path(), "one");
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
fn a_cache_of_something_else_or_of_long_ago_is_forgotten() {
    let cluster = cluster();
    let place = place(&cluster);
    let dir = dir();
    let store = place.store(dir.path(), "one");
    open(&store, 1);
    fill(&store);
    let written = contents(&store, 1);
    drop(store);
    let spoilt: [(&str, Spoil); 4] = [
        ("another lineage", |place| CachePlace {
            source: {
                let (topic, lineage) = place.source.split_once('#').expect("both");
                let lineage = u64::from_str_radix(lineage, 16).expect("a number");
                lineage::source(topic, Some(lineage ^ 1))
            },
            ..place
        }),
        ("beyond the end", |place| CachePlace {
            position: place.position + 1_000_000,
            ..place
        }),
        ("of two days ago", |place| CachePlace {
            at_ms: place.at_ms - 2 * 24 * 3600 * 1000,
            ..place
        }),
        ("without a source", |place| CachePlace {
            source: String::new(),
            ..place
        }),
    ];
    for (what, spoil) in spoilt {
        let cached = cache(dir.path());
        let at = cached.cached_place(PartitionId(1)).expect("readable");
        // An entry that is not in the changelog shows whether the cache is discarded.
        let foreign = workspace_engine_core::store::Mutation::Entry(
            id("acme"),
            conformance::entry("kind", "foreign", "1", 1),
        );
        let at = spoil(at.expect("cached"));
        cached
            .import(PartitionId(1), &[foreign], &at)
            .expect("spoilt");
        drop(cached);
        let store = place.store(dir.path(), "one");
        open(&store, 1);
        assert_eq!(contents(&store, 1), written, "{what}");
        assert_eq!(store.counts().partitions_rebuilt, 1, "{what}");
    }
}

#[test]
fn an_entity_that_no_topic_takes_is_refused_alone() {
    let cluster = cluster();
    let place = place(&cluster);
    let dir = dir();
    let store = place.store(dir.path(), "one");
    open(&store, 1);
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
    assert_eq!(load(&store, "acme").expect("loaded").1, []);
    assert_eq!(load(&store, "other").expect("loaded").1.len(), 1);
}

#[test]
fn without_a_broker_it_opens_at_once_and_everything_is_refused_in_time() {
    let place = Place::new("127.0.0.1:1");
    let dir = dir();
    let mut open = None;
    quick(Duration::from_secs(2), "opening", || {
        // The previous store must release its directory first.
        drop(open.take());
        open = Some(place.store(dir.path(), "one"));
    });
    let store = open.expect("opened");
    for _ in 0..3 {
        quick(Duration::from_secs(3), "opening a partition", || {
            unavailable(store.open(PartitionId(1)));
        });
    }
    unavailable(store.claim(claim_of("acme", 1)));
    store.close(PartitionId(1));
}

#[test]
fn a_cache_that_is_ahead_of_its_place_reads_again_and_ends_as_it_was() {
    let cluster = cluster();
    let place = place(&cluster);
    let dir = dir();
    let store = place.store(dir.path(), "one");
    open(&store, 1);
    fill(&store);
    let written = contents(&store, 1);
    let end = store.counts().records_written;
    drop(store);
    // As after a crash of the machine, which may lose the last writes.
    for position in [1, end / 3, end / 2, end - 1] {
        let cached = cache(dir.path());
        let at = cached.cached_place(PartitionId(1)).expect("readable");
        let at = CachePlace {
            position,
            last_assignment_offset: 0,
            ..at.expect("cached")
        };
        cached.import(PartitionId(1), &[], &at).expect("set back");
        drop(cached);
        let store = place.store(dir.path(), "one");
        open(&store, 1);
        assert_eq!(contents(&store, 1), written, "from {position}");
        let counts = store.counts();
        assert_eq!(counts.partitions_rebuilt, 0, "from {position}");
        assert!(counts.records_read >= end - position, "{counts:?}");
    }
}

#[test]
fn a_load_of_an_earlier_assignment_is_fenced_where_nobody_has_loaded_since() {
    let cluster = cluster();
    let place = place(&cluster);
    let dir = dir();
    let store = place.store(dir.path(), "one");
    open(&store, 1);
    store.claim(claim_of("acme", 1)).expect("claimed");
    store.close(PartitionId(1));
    open(&store, 1);
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
    store
        .claim(claim_of("acme", first_epoch))
        .expect("claimed anew");
}

#[test]
fn an_epoch_that_the_next_owner_has_used_takes_no_late_transitions_of_the_one_before() {
    for reports in [true, false] {
        epoch_used_by_the_next_owner(reports);
    }
}

/// The next owner claims the workspace, and with `reports` false loses the partition before it writes its transitions.
fn epoch_used_by_the_next_owner(reports: bool) {
    let cluster = cluster();
    let place = place(&cluster);
    let (one, other) = (dir(), dir());
    let frozen = place.store(one.path(), "one");
    open(&frozen, 1);
    let of = |owner: &str, epoch, sequence| HistoryRecord {
        owner: owner.to_owned(),
        ..transition("acme", epoch, sequence)
    };
    frozen.claim(claim_of("acme", 1)).expect("claimed");
    frozen.append_history(vec![of("one", 1, 1)]).expect("kept");
    let next = place.store(other.path(), "other");
    open(&next, 1);
    let epoch = next.first_epoch(PartitionId(1)).get();
    next.claim(claim_of("acme", epoch)).expect("claimed");
    if reports {
        next.append_history(vec![of("other", epoch, 1)])
            .expect("kept");
    }
    next.close(PartitionId(1));

    // The first process was frozen meanwhile, and is assigned the partition again.
    frozen.close(PartitionId(1));
    open(&frozen, 1);
    frozen
        .append_history(vec![of("one", 1, 2)])
        .expect("late, and its own");
    let refused = frozen.append_history(vec![of("one", epoch, 2)]);
    assert!(
        matches!(&refused, Err(StoreError::Fenced { attempted, .. }) if attempted.get() == epoch),
        "{refused:?}"
    );
    let history = frozen.history(&id("acme"), None, 10).expect("readable");
    let reported: Vec<_> = history
        .iter()
        .map(|record| (record.epoch.get(), record.owner.as_str()))
        .collect();
    let mut expected = vec![(1, "one"), (1, "one")];
    expected.extend(reports.then_some((epoch, "other")));
    assert_eq!(reported, expected);
}

#[test]
fn letting_go_waits_for_the_transaction_under_way() {
    let cluster = cluster();
    let place = place(&cluster);
    let dir = dir();
    let store = place.store(dir.path(), "one");
    open(&store, 1);
    store.claim(claim_of("acme", 1)).expect("claimed");
    cluster
        .broker_round_trip_time(1, Duration::from_millis(300))
        .expect("slow now");
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| store.save(&[save_of("acme", 1, 9, one_change(8))], &[]));
        // Wait until the transaction holds the partition.
        let until = Instant::now() + LONG;
        while !store.shared.partitions.is_pinned(PartitionId(1)) {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
        store.close(PartitionId(1));
        assert_eq!(store.counts().transactions_committed, 3, "it is over");
        assert_eq!(saving.join().expect("no panic"), Ok(Vec::new()));
        unavailable(store.claim(claim_of("acme", 2)));
        assert_eq!(store.counts().transactions_committed, 3);
    });
}

#[test]
fn what_waits_while_its_partition_is_let_go_of_is_refused_and_not_written() {
    let cluster = cluster();
    let place = place(&cluster);
    let dir = dir();
    let store = place.store(dir.path(), "one");
    open(&store, 1);
    open(&store, 2);
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
        let until = Instant::now() + LONG;
        while !store.shared.partitions.is_pinned(PartitionId(2)) {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
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
    store.given(&[PartitionId(1)]);
    open(&store, 1);
    assert_eq!(load(&store, "acme").expect("loaded").1, []);
    assert_eq!(store.committed(PartitionId(1)), Ok(Offset::ZERO));
}

#[test]
fn who_is_let_go_of_while_the_membership_is_asked_for_is_not_written_in_its_name() {
    let cluster = cluster();
    let place = place(&cluster);
    let dir = dir();
    let group = Arc::new(Interrupted {
        live: Arc::clone(&place.group),
        hook: Mutex::default(),
    });
    let store = place.store_of(dir.path(), "one", Arc::clone(&group) as Arc<dyn Group>);
    let store = Arc::new(store);
    open(&store, 1);
    store.claim(claim_of("acme", 1)).expect("claimed");
    let saves = [save_of("acme", 1, 9, one_change(8))];
    let interrupt = || {
        let store = Arc::downgrade(&store);
        let hook = move || {
            let store = store.upgrade().expect("the test has it");
            store.release(&[PartitionId(1)]);
        };
        *group.hook.lock() = Some(Box::new(hook));
    };
    let committed = store.counts().transactions_committed;
    interrupt();
    let refused = store.save(&saves, &[(PartitionId(1), Offset(9))]);
    assert_eq!(refused.expect("answered").len(), 1);
    assert_eq!(store.counts().transactions_committed, committed);
    store.close(PartitionId(1));

    // The same for the ownership record of an assignment that the group has ended by then.
    store.given(&[PartitionId(1)]);
    interrupt();
    let until = Instant::now() + LONG;
    let refused = loop {
        match store.open(PartitionId(1)) {
            Ok(Opening::Reading { .. }) if Instant::now() < until => {}
            other => break unavailable(other),
        }
    };
    assert_eq!(refused, "partition 1 is not open in this process");
    assert_eq!(store.counts().transactions_committed, committed);
}

#[test]
fn while_a_partition_is_read_again_a_save_fails_as_a_whole_and_nothing_of_it_is_written() {
    let cluster = cluster();
    let place = place(&cluster);
    let dir = dir();
    let store = place.store(dir.path(), "one");
    open(&store, 1);
    open(&store, 2);
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
        .change(PartitionId(1), Standing::Open, |owned| {
            owned.standing = Standing::Behind;
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
    assert_eq!(load(&store, "acme").expect("loaded").1.len(), 1);
    assert_eq!(store.committed(PartitionId(2)), Ok(Offset(9)));
}

#[test]
fn the_end_does_not_wait_for_a_broker_that_takes_its_time() {
    let cluster = cluster();
    let place = place(&cluster);
    let dir = dir();
    let store = place.store(dir.path(), "one");
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
    store.send(job).expect("sent");
    let until = Instant::now() + LONG;
    while !store.shared.partitions.is_pinned(PartitionId(1)) {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    let began = Instant::now();
    drop(store);
    assert!(
        began.elapsed() < Duration::from_mins(1),
        "{:?}",
        began.elapsed()
    );
}
