//! Against the mock broker in this process: it has no compaction, shows aborted records, and accepts offsets in
//! transactions but does not store them.

mod writes;

use super::*;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use workspace_engine_core::store::{Change, CopyPosition};

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> Cluster {
    MockCluster::new(1).expect("a cluster")
}

fn topics(cluster: &Cluster) -> TestTopics {
    let topics = TestTopics::new(&cluster.bootstrap_servers());
    for topic in [topics.config.topic.clone(), topics.config.changelog_topic()] {
        cluster
            .create_topic(&topic, i32::try_from(PARTITIONS).expect("small"), 1)
            .expect("created");
    }
    topics
}

type Spoil = fn(CopyPosition) -> CopyPosition;

fn one_change(number: u64) -> Vec<Change> {
    vec![set("kind", "one", &number.to_string(), number)]
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(StoreError::Unavailable(error_text)) => error_text,
        other => panic!("{other:?}"),
    }
}

/// A store on a cluster of its own; its partition 1 is open.
struct Opened {
    store: ChangelogStore,
    _dir: tempfile::TempDir,
    cluster: Cluster,
}

fn opened() -> Opened {
    let cluster = cluster();
    let topics = topics(&cluster);
    let dir = dir();
    let store = topics.store(dir.path(), "one");
    open(&store, 1);
    Opened {
        store,
        _dir: dir,
        cluster,
    }
}

#[test]
fn the_changelog_does_what_every_store_must() {
    let cluster = cluster();
    all_cases(|| topics(&cluster));
}

#[test]
fn saved_state_is_found_with_an_empty_and_a_warm_disk() {
    let cluster = cluster();
    let topics = topics(&cluster);
    super::saved_state_is_found_with_an_empty_and_a_warm_disk(&topics, Offset::ZERO);
}

#[test]
fn a_reader_reports_where_the_end_was() {
    let cluster = cluster();
    a_reader_reports_the_end_behind_the_markers(&topics(&cluster));
}

#[test]
fn a_damaged_record_parks_only_its_workspace_until_it_is_deleted() {
    let cluster = cluster();
    let topics = topics(&cluster);
    let (first, second) = (dir(), dir());
    let store = topics.store(first.path(), "one");
    open(&store, 1);
    fill(&store);
    store.claim(claim_of("third", 9)).expect("claimed");
    drop(store);
    // A value of an unreadable version, one that is cut, an unknown key, and an empty key.
    topics.write_raw(1, b"w\x04acme", Some(b"\xff?"));
    topics.write_raw(1, b"e\x05other\0\0\0\x04kind7", Some(b"\x01\0"));
    topics.write_raw(1, b"?", Some(b"?"));
    topics.write_raw(1, b"", None);

    let store = topics.store(second.path(), "two");
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
        store.claim(claim_of(text, 10)).expect("claimed");
        assert_eq!(load(&store, text).expect("loaded").1, []);
    }
}

#[test]
fn a_changelog_of_another_version_is_not_served() {
    for (version, expected) in [(b'\x01', "has version 1"), (b'\xff', "a newer version")] {
        let cluster = cluster();
        let topics = topics(&cluster);
        topics.write_raw(1, b"a", Some(&[version, b'{', b'}']));
        let dir = dir();
        let store = topics.store(dir.path(), "one");
        let refused = loop {
            match store.open(PartitionId(1)) {
                Ok(Opening::Done) => panic!("it is served"),
                Ok(_) | Err(StoreError::Unavailable(_)) => {}
                Err(error) => break error.to_string(),
            }
        };
        assert!(
            refused.contains(expected) && refused.contains("another --group"),
            "{refused}"
        );
    }
}

#[test]
fn a_takeover_fences_a_producer_once_however_often_it_fails() {
    let cluster = cluster();
    let topics = topics(&cluster);
    let dir = dir();
    let store = topics.store(dir.path(), "next");
    let earlier = ownership::CommitMark {
        producer: format!("{}-earlier", topics.config.changelog_topic()),
        lineage: 1,
        first_epoch: Epoch::FIRST,
        highest_epoch: Epoch::FIRST,
        position: 0,
        topic_id: None,
        last_reads: Vec::new(),
        misrouted_from: None,
    };
    *topics.group.open_transaction.lock() = Some(Committed {
        offset: 7,
        metadata: earlier.encode(),
    });
    let probes = || topics.group.probes.load(Ordering::Relaxed);
    unavailable(store.open(PartitionId(1)));
    assert_eq!(probes(), 2, "before and after the offset is queried again");
    for _ in 0..5 {
        unavailable(store.open(PartitionId(1)));
    }
    assert_eq!(probes(), 2);
    // The next assignment may find another dead owner.
    store.close(PartitionId(1));
    unavailable(store.open(PartitionId(1)));
    assert_eq!(probes(), 4);
    *topics.group.open_transaction.lock() = None;
    open(&store, 1);
}

#[test]
fn workspaces_of_a_topic_that_was_recreated_are_not_claimed() {
    let cluster = cluster();
    let topics = topics(&cluster);
    let (copy, empty) = (dir(), dir());
    *topics.group.topic_id.lock() = TopicId::new(1);
    let store = topics.store(copy.path(), "one");
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
        *topics.group.topic_id.lock() = topic;
        let store = topics.store(dir.path(), &format!("node-{number}"));
        open(&store, 1);
        let claimed = store.claim(claim_of("other", number));
        if is_other {
            assert!(
                matches!(&claimed, Err(StoreError::OtherLog { id, .. }) if id.as_str() == "other"),
                "{number}: {claimed:?}"
            );
            load(&store, "other").expect("its earlier state is still readable");
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
    let store = topics.store(empty.path(), "last");
    open(&store, 1);
    store.purge(&id("other")).expect("deleted");
    store.claim(claim_of("other", 999)).expect("claimed");
    store.claim(claim_of("new-105", 999)).expect("claimed");
}

#[test]
fn a_deletion_hides_nothing_of_a_recreated_topic() {
    let cluster = cluster();
    let topics = topics(&cluster);
    let (copy, empty) = (dir(), dir());
    *topics.group.topic_id.lock() = TopicId::new(1);
    let store = topics.store(copy.path(), "one");
    open(&store, 1);
    fill(&store);
    let epoch = store.first_epoch(PartitionId(1)).get();
    store
        .delete(conformance::erase_of("acme", epoch + 1, 12))
        .expect("deleted");
    drop(store);
    *topics.group.topic_id.lock() = TopicId::new(2);
    for (dir, name) in [(&copy, "two"), (&empty, "three")] {
        let store = topics.store(dir.path(), name);
        open(&store, 1);
        let deletions = store.deletions(PartitionId(1)).expect("listed");
        let marks: Vec<_> = deletions.iter().map(|mark| mark.next_offset).collect();
        assert_eq!(marks, [Offset::ZERO], "{name}");
    }
    let store = topics.store(empty.path(), "four");
    open(&store, 1);
    let epoch = store.first_epoch(PartitionId(1)).get();
    let claimed = store.claim(claim_of("acme", epoch)).expect("claimed");
    assert_eq!((claimed.next_offset, claimed.entries), (Offset(5), 0));
}

#[test]
fn a_copy_of_another_changelog_or_of_long_ago_is_rebuilt() {
    let cluster = cluster();
    let topics = topics(&cluster);
    let dir = dir();
    let store = topics.store(dir.path(), "one");
    open(&store, 1);
    fill(&store);
    let written = contents(&store, 1);
    drop(store);
    let spoilt: [(&str, Spoil); 2] = [
        ("another lineage", |position| CopyPosition {
            source: {
                let (topic, lineage) = position.source.split_once('#').expect("both");
                let lineage = u64::from_str_radix(lineage, 16).expect("a number");
                crate::copy_source::source(topic, Some(lineage ^ 1))
            },
            ..position
        }),
        ("of two days ago", |position| CopyPosition {
            at_ms: position.at_ms - 2 * 24 * 3600 * 1000,
            ..position
        }),
    ];
    for (what, spoil) in spoilt {
        let copy = copy(dir.path());
        let at = copy.copy_position(PartitionId(1)).expect("readable");
        // An entry that is not in the changelog shows whether the copy is discarded.
        let foreign = workspace_engine_core::store::Mutation::Entry(
            id("acme"),
            conformance::entry("kind", "foreign", "1", 1),
        );
        let at = spoil(at.expect("there is one"));
        copy.import(PartitionId(1), &[foreign], &at)
            .expect("spoilt");
        drop(copy);
        let store = topics.store(dir.path(), "one");
        open(&store, 1);
        assert_eq!(contents(&store, 1), written, "{what}");
        assert_eq!(store.counts().partitions_rebuilt, 1, "{what}");
    }
}

#[test]
fn without_a_broker_everything_is_refused_in_time() {
    let topics = TestTopics::new("127.0.0.1:1");
    let dir = dir();
    let mut open = None;
    quick(Duration::from_secs(2), "opening", || {
        // The previous store must release its directory first.
        drop(open.take());
        open = Some(topics.store(dir.path(), "one"));
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
fn a_copy_that_is_ahead_of_its_position_ends_as_it_was() {
    let cluster = cluster();
    let topics = topics(&cluster);
    let dir = dir();
    let store = topics.store(dir.path(), "one");
    open(&store, 1);
    fill(&store);
    let written = contents(&store, 1);
    let end = store.counts().records_written;
    drop(store);
    // As after a crash of the machine, which may lose the last writes.
    for position in [1, end / 3, end / 2, end - 1] {
        let copy = copy(dir.path());
        let at = copy.copy_position(PartitionId(1)).expect("readable");
        let at = CopyPosition {
            next_offset: position,
            ownership_record_offset: 0,
            ..at.expect("there is one")
        };
        copy.import(PartitionId(1), &[], &at).expect("set back");
        drop(copy);
        let store = topics.store(dir.path(), "one");
        open(&store, 1);
        assert_eq!(contents(&store, 1), written, "from {position}");
        let counts = store.counts();
        assert_eq!(counts.partitions_rebuilt, 0, "from {position}");
        assert!(counts.records_read >= end - position, "{counts:?}");
    }
}

#[test]
fn an_epoch_of_the_next_owner_takes_no_late_transitions() {
    for reports in [true, false] {
        epoch_used_by_the_next_owner(reports);
    }
}

/// The next owner claims the workspace, and with `reports` false loses the partition before it writes its transitions.
fn epoch_used_by_the_next_owner(reports: bool) {
    let cluster = cluster();
    let topics = topics(&cluster);
    let (one, other) = (dir(), dir());
    let frozen = topics.store(one.path(), "one");
    open(&frozen, 1);
    let of = |owner: &str, epoch, sequence| HistoryRecord {
        owner: owner.to_owned(),
        ..transition("acme", epoch, sequence)
    };
    frozen.claim(claim_of("acme", 1)).expect("claimed");
    frozen.append_history(vec![of("one", 1, 1)]).expect("kept");
    let next = topics.store(other.path(), "other");
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
