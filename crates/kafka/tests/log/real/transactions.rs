//! Transactions of other producers: markers, aborted records, and transactions that stay open.

use std::time::{Duration, Instant};

use rdkafka::producer::Producer;
use workspace_engine_core::log::EventLog;
use workspace_engine_core::log::conformance::{EVERYTHING, append, request};
use workspace_lifecycle::Offset;

use crate::support::{P0, offsets, read_to, text};
use crate::testing::{PATIENCE, TestTopic, until};

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn aborted_records_and_markers_are_skipped() {
    let topic = TestTopic::new("transactions", 1, &[]);
    let producer = topic.transactional("p");
    topic.transaction(&producer, &["a", "b"]);
    producer.commit_transaction(PATIENCE).expect("committed");
    topic.transaction(&producer, &["no", "no", "no"]);
    producer.abort_transaction(PATIENCE).expect("aborted");
    topic.transaction(&producer, &["c"]);
    producer.commit_transaction(PATIENCE).expect("committed");
    topic.transaction(&producer, &["no"]);
    producer.abort_transaction(PATIENCE).expect("aborted");

    let log = topic.log();
    // Two records and a marker, three and a marker, one and a marker, one and a marker.
    let end = Offset(11);
    // The last marker is written after the answer to its commit.
    until("the end is known", || {
        (log.high_watermark(P0) == end).then_some(())
    });
    let records = read_to(&log, P0, Offset(0), end);
    assert_eq!(
        records.iter().map(text).collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
    assert_eq!(offsets(&records), [0, 1, 7]);
    for from in 0..=11 {
        let records = read_to(&log, P0, Offset(from), end);
        assert_eq!(
            records.len(),
            [3, 2, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0][usize::try_from(from).unwrap()]
        );
    }
    // Records that arrive later are read, after any of these reads.
    topic.transaction(&producer, &["d"]);
    producer.commit_transaction(PATIENCE).expect("committed");
    until("the end is known", || {
        (log.high_watermark(P0) == Offset(13)).then_some(())
    });
    let records = read_to(&log, P0, end, Offset(13));
    assert_eq!(records.iter().map(text).collect::<Vec<_>>(), ["d"]);
}

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn a_reader_does_not_wait_for_markers() {
    let topic = TestTopic::new("markers", 1, &[]);
    let log = topic.log();
    let producer = topic.transactional("p");
    let mut next = Offset(0);
    let mut took = Vec::new();
    for round in 0..20_u64 {
        let word = round.to_string();
        topic.transaction(&producer, &[&word]);
        producer.commit_transaction(PATIENCE).expect("committed");
        let end = Offset(next.0 + 2);
        until("the end is known", || {
            (log.high_watermark(P0) == end).then_some(())
        });
        let began = Instant::now();
        let records = read_to(&log, P0, next, end);
        took.push(began.elapsed());
        assert_eq!(records.iter().map(text).collect::<Vec<_>>(), [word]);
        next = end;
    }
    took.sort();
    println!("reads of a record and its marker: {took:?}");
    assert!(took[10] < Duration::from_millis(500), "{took:?}");
}

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn no_reader_waits_for_the_transaction_of_another_producer() {
    let topic = TestTopic::new("open-transaction", 1, &[]);
    let log = topic.log();
    append(&log, request("acme", 3, None)).expect("appended");
    let producer = topic.transactional("p");
    topic.transaction(&producer, &["late"]);
    // Acknowledged after a record that is not committed, so no reader can see it yet.
    append(&log, request("acme", 2, None)).expect("appended");
    until("the end is what can be read", || {
        (log.high_watermark(P0) == Offset(3)).then_some(())
    });
    assert_eq!(read_to(&log, P0, Offset(0), Offset(3)).len(), 3);
    append(&log, request("acme", 1, None)).expect("appended");
    assert_eq!(log.high_watermark(P0), Offset(3));
    let other = topic.log();
    assert_eq!(
        other.high_watermark(P0),
        Offset(3),
        "a load begins here, and has a target that it reaches"
    );
    let batch = until("a read", || other.read(P0, Offset(3), EVERYTHING).ok());
    assert_eq!((batch.records.len(), batch.next_offset), (0, Offset(3)));
    producer.commit_transaction(PATIENCE).expect("committed");
    until("the end is known", || {
        (log.high_watermark(P0) == Offset(8)).then_some(())
    });
    assert_eq!(
        offsets(&read_to(&log, P0, Offset(3), Offset(8))),
        [3, 4, 5, 6]
    );
}
