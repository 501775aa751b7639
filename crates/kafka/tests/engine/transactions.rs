//! Replays over markers, aborted records, and gaps of compaction between events.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer;

use crate::node::{Node, P0, disk};
use crate::testing::{PATIENCE, TestTopic, event, events, send, until};

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_replay_over_aborted_records_applies_what_was_committed() {
    let topic = TestTopic::new("markers", 1, &[]);
    let producer = topic.transactional("p");
    let transaction = |from: u32, to: u32| {
        producer.begin_transaction().expect("begun");
        send(&producer, &topic.config.topic, P0, events("acme", from..to));
    };
    let commit = || producer.commit_transaction(PATIENCE).expect("committed");
    let abort = || producer.abort_transaction(PATIENCE).expect("aborted");
    for round in 0..20 {
        transaction(round * 10, round * 10 + 5);
        commit();
        transaction(round * 10 + 5, round * 10 + 10);
        abort();
    }
    // 20 rounds of five records, a marker, five that were aborted and a marker: it ends with a marker.
    let end = 20 * 12;
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 100, 100);
    until("it is at the end", || {
        let report = &node.engine.partitions()[0];
        ((report.high_watermark.0, report.lag) == (end, 0)).then_some(())
    });
    assert_eq!(node.engine.counters().events_applied.get(), 100);

    // The same while it runs; no event of a transaction is applied before its commit.
    transaction(1000, 1010);
    abort();
    transaction(2000, 2003);
    assert_eq!(node.contents("acme"), Some((100, 100)));
    commit();
    node.wait_ready("acme", 103, 103);
    node.stop();

    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 103, 103);
    assert_eq!(node.engine.counters().events_applied.get(), 0, "saved");
    node.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn an_engine_that_starts_before_an_open_transaction_is_ready_without_it() {
    let topic = TestTopic::new("open", 1, &[]);
    topic.produce(P0, events("acme", 0..5));
    let producer = topic.transactional("p");
    producer.begin_transaction().expect("begun");
    send(&producer, &topic.config.topic, P0, events("acme", 5..7));
    topic.produce(P0, events("acme", 7..9));
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 5, 5);
    producer.commit_transaction(PATIENCE).expect("committed");
    node.wait_ready("acme", 9, 9);
    node.stop();
}

/// How many records of each key a reader gets.
fn counts(topic: &TestTopic) -> BTreeMap<String, u64> {
    let consumer = topic.consumer(P0);
    let deadline = Instant::now() + PATIENCE;
    let mut counts = BTreeMap::new();
    loop {
        assert!(Instant::now() < deadline, "the end is reached");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(record)) => {
                let key = std::str::from_utf8(record.key().unwrap()).unwrap();
                *counts.entry(key.to_owned()).or_default() += 1;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return counts,
            Some(Err(error)) => panic!("{error}"),
        }
    }
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_replay_over_gaps_of_compaction_reaches_its_target() {
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "1000"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "1000"),
    ];
    let topic = TestTopic::new("compacted", 1, &settings);
    for round in 0..100 {
        let all = ["a", "b", "c", "d"];
        topic.produce(P0, all.map(|workspace| event(workspace, round)));
    }
    let deadline = Instant::now() + PATIENCE;
    // The last segment is never compacted: a record per second starts another one.
    while counts(&topic).values().any(|count| *count > 40) {
        assert!(Instant::now() < deadline, "it is compacted");
        std::thread::sleep(Duration::from_millis(1100));
        topic.produce(P0, [event("tail", 0)]);
    }
    // No compaction from now on.
    topic.configure(&[("cleanup.policy", "delete")]);
    topic.produce(P0, events("a", 1000..1020));
    let mut left = counts(&topic);
    until("nothing is compacted any more", || {
        let before = std::mem::replace(&mut left, counts(&topic));
        (before == left).then_some(())
    });
    println!("{left:?}");

    let disk = disk();
    let node = Node::start(&topic, &disk);
    for (workspace, events) in &left {
        // Each event is about its own entity, except in the last workspace.
        let entities = if workspace == "tail" { 1 } else { *events };
        node.wait_ready(workspace, *events, usize::try_from(entities).unwrap());
    }
    let report = until("it is at the end", || {
        let report = node.engine.partitions().remove(0);
        (report.lag == 0).then_some(report)
    });
    let total: u64 = left.values().sum();
    assert!(report.high_watermark.0 >= 420 && total < 420, "{total}");
    assert_eq!(node.engine.counters().events_applied.get(), total);
    node.stop();
}
