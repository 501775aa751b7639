//! Reads: pages, limits, offsets, and kinds of records.

use std::time::{Duration, Instant};

use workspace_engine_core::log::conformance::{self, EVERYTHING};
use workspace_engine_core::log::{EventLog, ReadError, ReadLimit};
use workspace_lifecycle::Offset;

use crate::support::{Mock, P0, offsets, produce, produce_numbers, quick, read_to, text};
use crate::testing::until;

#[test]
fn pages_give_every_record_once_and_in_order() {
    let mock = Mock::new(1);
    produce_numbers(&mock.config, P0, 0..5000);
    let log = mock.log();
    assert_eq!(log.high_watermark(P0), Offset(5000));
    let mut next = Offset(0);
    for page in [1, 7, 1000, 1, 99, 2500, 3000] {
        let limit = ReadLimit {
            records: page,
            ..EVERYTHING
        };
        let mut found = Vec::new();
        until("a page", || {
            let limit = ReadLimit {
                records: page - found.len(),
                ..limit
            };
            let batch = log.read(P0, next, limit).ok()?;
            next = batch.next_offset;
            found.extend(batch.records);
            (found.len() == page || next == Offset(5000)).then_some(())
        });
        let first = next.0 - u64::try_from(found.len()).expect("few");
        assert_eq!(offsets(&found), (first..next.0).collect::<Vec<_>>());
        assert!(found.iter().all(|r| text(r) == r.offset.0.to_string()));
    }
    assert_eq!(next, Offset(5000));
}

#[test]
fn a_read_goes_back_and_forth() {
    let mock = Mock::new(1);
    produce_numbers(&mock.config, P0, 0..1000);
    let log = mock.log();
    for (from, end) in [
        (500, 600),
        (0, 10),
        (10, 20),
        (990, 1000),
        (999, 1000),
        (20, 30),
        (600, 700),
    ] {
        let records = read_to(&log, P0, Offset(from), Offset(end));
        assert_eq!(offsets(&records), (from..end).collect::<Vec<_>>());
    }
}

#[test]
fn two_lanes_read_a_partition_side_by_side() {
    let mock = Mock::new(2);
    produce_numbers(&mock.config, P0, 0..2000);
    let log = mock.log();
    let mut took = Vec::new();
    for step in 0..20 {
        let began = Instant::now();
        for lane in [0, 1000] {
            let from = lane + step * 50;
            let records = read_to(&log, P0, Offset(from), Offset(from + 50));
            assert_eq!(offsets(&records), (from..from + 50).collect::<Vec<_>>());
        }
        took.push(began.elapsed());
    }
    // From the second step on both fetches run: most steps do not wait for a new one, which takes 100 ms and more.
    took.sort();
    assert!(took[10] < Duration::from_millis(100), "{took:?}");
}

#[test]
fn nothing_is_read_at_or_after_the_limit() {
    let mock = Mock::new(1);
    produce_numbers(&mock.config, P0, 0..100);
    let log = mock.log();
    let until = |end| ReadLimit {
        until: Offset(end),
        ..EVERYTHING
    };
    let batch = log.read(P0, Offset(10), until(10)).expect("read");
    assert!(batch.records.is_empty());
    assert_eq!(batch.next_offset, Offset(10));
    let batch = log.read(P0, Offset(10), until(5)).expect("read");
    assert_eq!((batch.records.len(), batch.next_offset), (0, Offset(10)));
    let records = read_to(&log, P0, Offset(10), Offset(11));
    assert_eq!(offsets(&records), [10]);
}

#[test]
fn a_read_of_an_empty_topic_is_empty_and_short() {
    let mock = Mock::new(1);
    let log = mock.log();
    assert_eq!(log.low_watermark(P0), Offset(0));
    assert_eq!(log.high_watermark(P0), Offset(0));
    let batch = quick(Duration::from_millis(200), "a read", || {
        log.read(P0, Offset(0), EVERYTHING).expect("read")
    });
    assert!(batch.records.is_empty());
    assert_eq!(
        (batch.next_offset, batch.high_watermark),
        (Offset(0), Offset(0))
    );
    assert_eq!(
        log.read(P0, Offset(1), EVERYTHING).err(),
        Some(ReadError::BeyondEnd {
            partition: P0,
            requested: Offset(1),
            high_watermark: Offset(0)
        })
    );
}

#[test]
fn tombstones_and_records_without_a_key_are_read_as_they_are() {
    let mock = Mock::new(1);
    let records = [
        (Some(b"acme".to_vec()), None),
        (None, Some(b"no key".to_vec())),
        (Some(Vec::new()), Some(Vec::new())),
        (None, None),
        (Some(vec![0xff, 0]), Some(vec![0, 0xff])),
    ];
    produce(&mock.config, P0, records.clone());
    let log = mock.log();
    let read = read_to(&log, P0, Offset(0), Offset(5));
    let read: Vec<_> = read
        .iter()
        .map(|record| {
            (
                record.key().map(<[u8]>::to_vec),
                record.value().map(<[u8]>::to_vec),
            )
        })
        .collect();
    assert_eq!(read, records);
}

#[test]
fn a_record_as_large_as_the_cluster_keeps_is_read_between_small_ones() {
    let mock = Mock::new(1);
    let large = vec![b'x'; 4 * 1024 * 1024];
    let log = mock.log();
    produce_numbers(&mock.config, P0, 0..3);
    produce(
        &mock.config,
        P0,
        [(Some(b"acme".to_vec()), Some(large.clone()))],
    );
    produce_numbers(&mock.config, P0, 4..5);
    until("the end is known", || {
        (log.high_watermark(P0) == Offset(5)).then_some(())
    });
    let from = log.low_watermark(P0);
    let records = read_to(&log, P0, from, Offset(5));
    let read = records.iter().find(|record| record.offset == Offset(3));
    assert_eq!(read.and_then(|record| record.value()), Some(&large[..]));
}

#[test]
fn events_that_the_cluster_removed_are_reported() {
    let mock = Mock::new(1);
    let log = mock.log();
    // The mock cluster keeps 5 MiB of each partition.
    let records = (0..100).map(|_| (None, Some(vec![b'x'; 100_000])));
    produce(&mock.config, P0, records);
    let low_watermark = until("the beginning is known", || {
        match log.read(P0, Offset(0), EVERYTHING) {
            Err(ReadError::FellOut {
                partition,
                requested,
                low_watermark,
            }) => {
                assert_eq!((partition, requested), (P0, Offset(0)));
                Some(low_watermark)
            }
            Ok(batch) => {
                assert!(batch.records.is_empty());
                None
            }
            Err(error) => {
                println!("{error}");
                None
            }
        }
    });
    assert!(low_watermark > Offset(0));
    let records = read_to(&log, P0, low_watermark, Offset(100));
    assert_eq!(
        offsets(&records),
        (low_watermark.0..100).collect::<Vec<_>>()
    );
}

#[test]
fn a_partition_that_does_not_exist_is_not_read() {
    let mock = Mock::new(1);
    let log = mock.log();
    let other = workspace_lifecycle::PartitionId(1);
    assert!(log.open(other).is_err());
    assert!(log.read(other, Offset(0), EVERYTHING).is_err());
    log.close(other);
}

#[test]
fn a_partition_that_was_closed_is_read_again_after_it_is_opened() {
    let mock = Mock::new(1);
    let log = mock.log();
    conformance::append(&log, conformance::request("acme", 10, None)).expect("appended");
    read_to(&log, P0, Offset(0), Offset(10));
    log.close(P0);
    produce_numbers(&mock.config, P0, 10..20);
    until("it is open again", || log.open(P0).ok());
    assert_eq!(log.high_watermark(P0), Offset(20));
    assert_eq!(read_to(&log, P0, Offset(5), Offset(20)).len(), 15);
}

#[test]
fn a_record_after_a_reported_end_is_read() {
    let mock = Mock::new(1);
    let log = mock.log();
    for end in 1..=15 {
        conformance::append(&log, conformance::request("acme", 1, None)).expect("appended");
        let records = read_to(&log, P0, Offset(end - 1), Offset(end));
        assert_eq!(offsets(&records), [end - 1]);
        // Long enough for the fetch to report the end.
        std::thread::sleep(Duration::from_millis(120));
    }
}
