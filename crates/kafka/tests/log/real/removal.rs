//! Records that no longer exist or cannot be read: compacted, deleted, of a recreated topic, damaged.

use std::time::Duration;

use workspace_engine_core::log::conformance::{EVERYTHING, append, request};
use workspace_engine_core::log::{EventLog, ReadError, ReadLimit};
use workspace_lifecycle::Offset;

use crate::support::{P0, offsets, produce, produce_numbers, read_to};
use crate::testing::{TestTopic, until};

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn gaps_of_a_compacted_topic_are_skipped() {
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "1000"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "1000"),
    ];
    let topic = TestTopic::new("compacted", 1, &settings);
    for round in 0..20 {
        let record = |n: u64| {
            (
                Some(format!("key-{}", n % 10).into_bytes()),
                Some(vec![round; 100]),
            )
        };
        produce(&topic.config, P0, (0..100).map(record));
    }
    let end = Offset(2000);
    let mut log = topic.log();
    assert_eq!(log.high_watermark(P0), end);
    until("records are removed", || {
        // The last segment is not compacted, so another one must begin.
        std::thread::sleep(Duration::from_millis(1100));
        produce(
            &topic.config,
            P0,
            [(Some(b"tail".to_vec()), Some(b"x".to_vec()))],
        );
        log = topic.log();
        let records = read_to(&log, P0, Offset(0), end);
        println!("{} records below {end}", records.len());
        (records.len() <= 100).then_some(())
    });
    let whole = read_to(&log, P0, Offset(0), end);
    for from in [1, 500, 1500, 1990, 1999] {
        let part = read_to(&log, P0, Offset(from), end);
        let expected: Vec<_> = offsets(&whole)
            .into_iter()
            .filter(|offset| *offset >= from)
            .collect();
        assert_eq!(offsets(&part), expected, "from {from}");
    }
    // A read whose end is inside a gap.
    assert_eq!(read_to(&log, P0, Offset(0), Offset(1000)).len(), 0);
    assert_eq!(
        offsets(&read_to(&log, P0, Offset(1000), end)),
        offsets(&whole)
    );
}

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn records_that_were_deleted_have_fallen_out() {
    let topic = TestTopic::new("deleted-records", 1, &[]);
    produce_numbers(&topic.config, P0, 0..100);
    let log = topic.log();
    read_to(&log, P0, Offset(0), Offset(10));
    topic.remove_below(0, 60);
    let fell_out = |error: Option<ReadError>| match error {
        Some(ReadError::FellOut {
            requested,
            low_watermark,
            ..
        }) => (requested, low_watermark),
        other => panic!("{other:?}"),
    };
    // A new reader gets the error at once; one that continues has fetched some of the records already.
    assert_eq!(
        fell_out(topic.log().read(P0, Offset(20), EVERYTHING).err()),
        (Offset(20), Offset(60))
    );
    let removed = Offset(5);
    let error = until("it is noticed", || log.read(P0, removed, EVERYTHING).err());
    assert_eq!(fell_out(Some(error)), (removed, Offset(60)));
    until("the beginning is known", || {
        (log.low_watermark(P0) == Offset(60)).then_some(())
    });
    assert_eq!(
        offsets(&read_to(&log, P0, Offset(60), Offset(100))),
        (60..100).collect::<Vec<_>>()
    );
}

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn a_recreated_topic_ends_before_its_readers() {
    let topic = TestTopic::new("recreated", 1, &[]);
    produce_numbers(&topic.config, P0, 0..100);
    let log = topic.log();
    read_to(&log, P0, Offset(0), Offset(100));
    topic.delete();
    let error_text = until("the topic is missing", || log.health().err());
    println!("{error_text}");
    topic.create(&[]);
    produce_numbers(&topic.config, P0, 0..5);
    until("healthy", || log.health().ok());
    until("its end is known", || {
        (log.high_watermark(P0) == Offset(5)).then_some(())
    });
    let beyond = until("an answer", || {
        match log.read(P0, Offset(100), EVERYTHING) {
            Err(ReadError::Unavailable(_)) => None,
            answer => Some(answer),
        }
    });
    match beyond {
        Err(ReadError::BeyondEnd {
            requested,
            high_watermark,
            ..
        }) => {
            assert_eq!((requested, high_watermark), (Offset(100), Offset(5)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        offsets(&read_to(&log, P0, Offset(0), Offset(5))),
        [0, 1, 2, 3, 4]
    );
    let answer = append(&log, request("acme", 1, None)).expect("appended");
    assert_eq!(answer.partitions[0].first_offset, Offset(5));
    assert_eq!(read_to(&log, P0, Offset(5), Offset(6)).len(), 1);
}

#[test]
#[ignore = "needs KAFKA_BROKERS, and KAFKA_DATA, where the broker keeps its logs"]
fn a_flipped_bit_is_damage_with_its_offset() {
    let Ok(data) = std::env::var("KAFKA_DATA") else {
        println!("left out: KAFKA_DATA is not set");
        return;
    };
    let topic = TestTopic::new("damaged", 1, &[]);
    let word = |text: &str| [(Some(b"acme".to_vec()), Some(text.as_bytes().to_vec()))];
    for text in ["whole-0", "broken-1", "whole-2"] {
        produce(&topic.config, P0, word(text));
    }
    let segment = format!("{data}/{}-0/00000000000000000000.log", topic.config.topic);
    let mut bytes = std::fs::read(&segment).expect("the segment");
    let at = bytes
        .windows(8)
        .position(|window| window == b"broken-1")
        .expect("not compressed");
    bytes[at] = b'B';
    std::fs::write(&segment, bytes).expect("written");
    let log = topic.log();
    let limit = ReadLimit {
        until: Offset(3),
        ..EVERYTHING
    };
    let batch = until("the first one", || {
        let batch = log.read(P0, Offset(0), limit).ok()?;
        (!batch.records.is_empty()).then_some(batch)
    });
    assert_eq!(
        (offsets(&batch.records), batch.next_offset),
        (vec![0], Offset(1))
    );
    let error = until("the damage", || log.read(P0, Offset(1), limit).err());
    println!("{error}");
    assert!(
        matches!(
            error,
            ReadError::Corrupt {
                partition: P0,
                offset: Offset(1),
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(offsets(&read_to(&log, P0, Offset(2), Offset(3))), [2]);
}
