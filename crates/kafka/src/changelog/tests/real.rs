//! Against a real Apache Kafka: `KAFKA_BROKERS=$(scripts/kafka.sh start) cargo test -- --ignored`.

use super::*;
use crate::changelog::takeover::{Step, Takeover};
use rdkafka::{Offset as At, TopicPartitionList};

const SETTINGS: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("max.message.bytes", "16777216"),
];

/// More events than any test commits: an offset beyond their end would mean that the topic has lost them.
const EVENTS: usize = 20_000;

/// Topic settings with which compaction takes seconds.
const QUICK: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("max.message.bytes", "16777216"),
    ("segment.ms", "1000"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("max.compaction.lag.ms", "1000"),
];

fn topics() -> TestTopics {
    topics_with(SETTINGS)
}

fn topics_with(settings: &[(&str, &str)]) -> TestTopics {
    let brokers = std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS names the brokers");
    let mut topics = TestTopics::new(&brokers);
    topics.config.group = format!("engine-{:08x}", fastrand::u32(..));
    topics.group = group(&topics.config);
    let topics = topics.with_topics(settings);
    topics.fill_events(EVENTS);
    topics
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn the_changelog_does_what_every_store_must() {
    all_cases(topics);
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn what_was_saved_is_there() {
    saved_state_is_found_with_an_empty_and_a_warm_disk(&topics(), Offset(12));
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_reader_reports_where_the_end_was() {
    a_reader_reports_the_end_behind_the_markers(&topics());
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_fenced_process_writes_again_what_is_its_own() {
    let topics = topics();
    let (first, second) = (dir(), dir());
    let one = topics.store(first.path(), "same");
    open(&one, 1);
    one.claim(claim_of("acme", 1)).expect("claimed");
    let two = topics.store(second.path(), "same");
    open(&two, 1);
    let refused = one.claim(claim_of("acme", 99));
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    let deadline = Instant::now() + LONG;
    while let Err(error) = one.claim(claim_of("acme", 99)) {
        assert!(Instant::now() < deadline, "{error}");
    }
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_transaction_of_a_dead_process_does_not_hold_up_the_next_owner() {
    let topics = topics();
    let (first, second) = (dir(), dir());
    let dead = topics.store(first.path(), "dead");
    open(&dead, 1);
    drop(dead);
    let id = format!("{}-dead", topics.config.changelog_topic());
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &topics.config.brokers)
        .set("transactional.id", &id)
        .create()
        .expect("a client");
    producer.init_transactions(LONG).expect("let in");
    producer.begin_transaction().expect("begun");
    let mut offsets = TopicPartitionList::new();
    let mut offset = offsets.add_partition(&topics.config.topic, 1);
    offset.set_offset(At::Offset(7)).expect("an offset");
    offset.set_metadata(&id);
    let member = topics.group.metadata().expect("a member");
    producer
        .send_offsets_to_transaction(&offsets, &member, LONG)
        .expect("taken");
    // Without fencing, the broker would wait for the transaction timeout of a minute.
    let began = Instant::now();
    let next = topics.store(second.path(), "next");
    open(&next, 1);
    assert!(
        began.elapsed() < Duration::from_secs(50),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(next.committed(PartitionId(1)), Ok(Offset::ZERO));
    producer.commit_transaction(LONG).expect_err("fenced");
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_process_of_an_earlier_generation_of_the_group_writes_nothing() {
    an_earlier_generation_writes_nothing(&[
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("session.timeout.ms", "6000"),
    ]);
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_process_of_an_earlier_epoch_of_the_group_writes_nothing() {
    an_earlier_generation_writes_nothing(&[("group.protocol", "consumer")]);
}

fn an_earlier_generation_writes_nothing(protocol: &[(&str, &str)]) {
    let topics = topics();
    let (first, second) = (dir(), dir());
    let member = || -> BaseConsumer {
        let mut properties = vec![("group.id", topics.config.group.as_str())];
        properties.extend_from_slice(protocol);
        let client = topics.config.client("group", &properties);
        client.create().expect("a client")
    };
    let joined = |consumers: &[&BaseConsumer], each: usize| {
        let until = Instant::now() + LONG;
        while consumers
            .iter()
            .any(|one| one.assignment().expect("reported").count() != each)
        {
            assert!(Instant::now() < until);
            for one in consumers {
                let _ = one.poll(Duration::from_millis(20));
            }
        }
    };
    let zombie = member();
    zombie
        .subscribe(&[&topics.config.topic])
        .expect("subscribed");
    joined(&[&zombie], 4);
    let frozen = group(&topics.config);
    let copies = (0..30).filter_map(|_| zombie.group_metadata());
    frozen.set_member(Member::Frozen(copies.collect()));
    let old = topics.store_of(first.path(), "old", frozen);
    let in_partition = |partition: u32, epoch| Claim {
        partition: PartitionId(partition),
        ..claim_of(&format!("w-{partition}"), epoch)
    };
    open_all(&old);
    for partition in 0..PARTITIONS {
        old.claim(in_partition(partition, 1)).expect("claimed");
    }
    let committed_before = old.counts().transactions_committed;

    let heir = member();
    heir.subscribe(&[&topics.config.topic]).expect("subscribed");
    joined(&[&zombie, &heir], 2);
    // A partition that moved to the heir; with the newer protocol an earlier epoch may write what it still owns.
    let moved = {
        // A client is not closed while a list that it returned exists.
        let assigned = heir.assignment().expect("reported");
        let first = assigned.elements().first().expect("two").partition();
        u32::try_from(first).expect("small")
    };
    let text = format!("w-{moved}");
    let saves = [save_of(&text, 1, 9, vec![set("kind", "one", "1", 8)])];
    match old.save(&saves, &[(PartitionId(moved), Offset(9))]) {
        Err(StoreError::Unavailable(error_text)) => println!("{error_text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(old.counts().transactions_aborted, 1);
    assert_eq!(old.counts().transactions_committed, committed_before);

    let fresh = FakeGroup::of(&topics.config, heir);
    let new = topics.store_of(second.path(), "new", fresh);
    open(&new, moved);
    assert_eq!(load(&new, &text).expect("loaded").1, []);
    assert_eq!(new.committed(PartitionId(moved)), Ok(Offset(0)));
    new.claim(in_partition(moved, 2)).expect("claimed");
}

/// Begins a transaction as an owner does, and leaves it open as a killed process does.
fn killed_within_a_transaction(topics: &TestTopics, name: &str, timeout_ms: &str) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &topics.config.brokers)
        .set(
            "transactional.id",
            format!("{}-{name}", topics.config.changelog_topic()),
        )
        .set("transaction.timeout.ms", timeout_ms)
        .create()
        .expect("a client");
    producer.init_transactions(LONG).expect("let in");
    producer.begin_transaction().expect("begun");
    let topic = topics.config.changelog_topic();
    let change = workspace_engine_core::store::Mutation::Entry(
        id("acme"),
        conformance::entry("kind", "torn", "1", 99),
    );
    let (key, value) = record::encode(&change);
    let mut record = BaseRecord::<[u8], [u8]>::to(&topic).partition(1).key(&key);
    record.payload = value.as_deref();
    producer
        .send(record)
        .map_err(|(error, _)| error)
        .expect("sent");
    producer.flush(LONG).expect("written");
    let mut offsets = TopicPartitionList::new();
    offsets
        .add_partition_offset(&topics.config.topic, 1, At::Offset(99))
        .expect("added");
    let member = topics.group.metadata().expect("a member");
    producer
        .send_offsets_to_transaction(&offsets, &member, LONG)
        .expect("taken");
    // Neither committed nor aborted: the broker sees only a closed connection.
    drop(producer);
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_transaction_of_a_killed_owner_is_awaited_and_never_seen() {
    let topics = topics();
    let (first, second) = (dir(), dir());
    let store = topics.store(first.path(), "one");
    open(&store, 1);
    fill(&store);
    let written = contents(&store, 1);
    drop(store);
    killed_within_a_transaction(&topics, "other", "15000");

    let store = topics.store(second.path(), "two");
    let began = Instant::now();
    let early = std::iter::repeat_with(|| store.open(PartitionId(1)))
        .take_while(|opening| !matches!(opening, Ok(Opening::Done)))
        .take_while(|_| began.elapsed() < Duration::from_secs(3))
        .count();
    assert!(early > 0, "it must wait for the transaction");
    assert!(
        began.elapsed() >= Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    open(&store, 1);
    println!("waited {:?}", began.elapsed());
    assert_eq!(contents(&store, 1), written);
    assert_eq!(store.committed(PartitionId(1)), Ok(Offset(12)));
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_restarted_owner_does_not_await_the_timeout_of_its_transaction() {
    let topics = topics();
    let dir = dir();
    let store = topics.store(dir.path(), "one");
    open(&store, 1);
    fill(&store);
    let written = contents(&store, 1);
    drop(store);
    killed_within_a_transaction(&topics, "one", "60000");

    let store = topics.store(dir.path(), "one");
    let began = Instant::now();
    open(&store, 1);
    assert!(
        began.elapsed() < Duration::from_secs(50),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(contents(&store, 1), written);
    assert_eq!(store.committed(PartitionId(1)), Ok(Offset(12)));
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn what_compaction_leaves_is_the_same() {
    let topics = topics_with(QUICK);
    let (first, second, third) = (dir(), dir(), dir());
    let store = topics.store(first.path(), "one");
    open(&store, 1);
    fill(&store);
    drop(store);
    let store = topics.store(second.path(), "two");
    open(&store, 1);
    let epoch = store.first_epoch(PartitionId(1)).get();
    store.claim(claim_of("acme", epoch)).expect("claimed");
    for round in 20..60_u64 {
        let names = (0..10).map(|number: u64| number.to_string());
        let mut changes: Vec<_> = names
            .map(|name| set("kind", &name, &round.to_string(), round))
            .collect();
        if round % 2 == 1 {
            changes.push(unset("kind", "5"));
        }
        let save = counted(&store, save_of("acme", epoch, round + 1, changes));
        let saved = store.save(&[save], &[]);
        assert_eq!(saved, Ok(Vec::new()));
    }
    store.purge(&id("other")).expect("deleted");
    let written = contents(&store, 1);
    let records = store.counts().records_written + 40;

    // The newest segment is never compacted, so records are written until the others are compacted.
    let until = Instant::now() + 2 * LONG;
    let mut round = 100;
    let left = loop {
        let save = counted(&store, save_of("acme", epoch, round, Vec::new()));
        let saved = store.save(&[save], &[]);
        assert_eq!(saved, Ok(Vec::new()));
        round += 1;
        std::thread::sleep(Duration::from_secs(1));
        let probe = topics.store(tempfile::tempdir().expect("a directory").path(), "probe");
        let mut takeover = Takeover::new(&probe.shared, PartitionId(1));
        while !matches!(takeover.step(&probe.shared), Ok(Step::Done(_))) {}
        let read = probe.counts().records_read;
        if read < records / 3 {
            break read;
        }
        assert!(Instant::now() < until, "{read} of {records} after {LONG:?}");
    };
    println!("{left} of more than {records} records are left");
    let now = contents(&store, 1);
    assert_eq!(now[0].1, written[0].1);
    drop(store);
    for (what, dir) in [("cold", &third), ("older", &first), ("warm", &second)] {
        let store = topics.store(dir.path(), what);
        open(&store, 1);
        assert_eq!(contents(&store, 1), now, "{what}");
        println!("{what}: {:?}", store.counts());
        let forgotten = u64::from(what == "cold");
        assert_eq!(store.counts().partitions_rebuilt, forgotten, "{what}");
    }
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn acknowledged_state_is_kept_whatever_was_refused_meanwhile() {
    let topics = topics_with(QUICK);
    // A run in which brokers are killed needs longer.
    let seconds =
        std::env::var("STRESS_SECONDS").map_or(10, |text| text.parse().expect("a number"));
    stress::what_was_acknowledged_is_there(&topics, Duration::from_secs(seconds), || {
        std::thread::sleep(Duration::from_millis(400));
        topics.group.set_member(Member::None);
        std::thread::sleep(Duration::from_millis(30));
        topics.group.set_member(Member::Live);
    });
}

/// Prints how fast saving and re-reading are; needs an idle machine.
#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS, and measures"]
fn how_fast_it_saves_and_is_read_again() {
    let topics = topics();
    let (warm, cold) = (dir(), dir());
    let store = topics.store(warm.path(), "one");
    open(&store, 1);
    let data = format!("\"{}\"", "x".repeat(250));
    let names: Vec<_> = (0..50).map(|number| format!("w-{number}")).collect();
    for name in &names {
        store.claim(claim_of(name, 1)).expect("claimed");
    }
    let began = Instant::now();
    let mut changes = 0;
    for round in 1..=10_u64 {
        let saves: Vec<_> = names
            .iter()
            .map(|name| {
                let entity =
                    |number: u64| set("kind", &(round * 1000 + number).to_string(), &data, round);
                Save {
                    entries: round * 200,
                    ..save_of(name, 1, round, (0..200).map(entity).collect())
                }
            })
            .collect();
        changes += saves.iter().map(|save| save.changes.len()).sum::<usize>();
        assert_eq!(store.save(&saves, &[]), Ok(Vec::new()));
    }
    println!("{changes} changes saved in {:?}", began.elapsed());
    drop(store);
    let store = topics.store(cold.path(), "two");
    let began = Instant::now();
    open(&store, 1);
    println!("read again in {:?}: {:?}", began.elapsed(), store.counts());
}
