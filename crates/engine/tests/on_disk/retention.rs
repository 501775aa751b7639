use super::support::{NO_AGE, NOTHING_KEPT, open_with, tick};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use workspace_engine_core::log::conformance::{EVERYTHING, append, read_all, request};
use workspace_engine_core::log::{EmbeddedLog, EventLog, ReadError, RetentionConfig};
use workspace_lifecycle::{Offset, PartitionId};

fn open(path: &Path, retention: RetentionConfig) -> EmbeddedLog {
    open_with(path, retention).expect("opened").1
}

/// A log with this many events of one workspace, and their partition.
fn filled(path: &Path, retention: RetentionConfig, events: usize) -> (EmbeddedLog, PartitionId) {
    let log = open(path, retention);
    let answer = append(&log, request("acme", events, None)).expect("appended");
    let partition = answer.partitions[0].partition;
    (log, partition)
}

#[test]
fn nothing_is_removed_by_default() {
    let path = tempfile::tempdir().expect("a directory");
    let (log, partition) = filled(path.path(), RetentionConfig::default(), 100);
    log.trim(partition, Offset(100)).expect("nothing to do");
    assert_eq!(log.low_watermark(partition), Offset::ZERO);
}

#[test]
fn nothing_at_or_above_the_floor_is_removed() {
    let path = tempfile::tempdir().expect("a directory");
    let (log, partition) = filled(path.path(), NOTHING_KEPT, 100);
    for floor in [0, 10, 5, 60] {
        log.trim(partition, Offset(floor)).expect("trimmed");
        let low = if floor == 5 { 10 } else { floor };
        assert_eq!(log.low_watermark(partition), Offset(low));
        assert_eq!(
            read_all(&log, partition, Offset(low)).records.len(),
            100 - usize::try_from(low).expect("small")
        );
    }
    log.trim(partition, Offset(1_000_000)).expect("trimmed");
    assert_eq!(
        log.low_watermark(partition),
        Offset(99),
        "the last record stays"
    );
}

#[test]
fn a_reader_below_the_low_watermark_gets_the_offset_where_it_begins() {
    let path = tempfile::tempdir().expect("a directory");
    let (log, partition) = filled(path.path(), NOTHING_KEPT, 100);
    log.trim(partition, Offset(40)).expect("trimmed");
    match log.read(partition, Offset(39), EVERYTHING) {
        Err(ReadError::FellOut {
            requested,
            low_watermark,
            ..
        }) => assert_eq!((requested, low_watermark), (Offset(39), Offset(40))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_low_watermark_and_the_end_of_a_trimmed_log_survive_a_restart() {
    let path = tempfile::tempdir().expect("a directory");
    let (log, partition) = filled(path.path(), NOTHING_KEPT, 100);
    log.trim(partition, Offset(100)).expect("trimmed");
    drop(log);
    let log = open(path.path(), NOTHING_KEPT);
    assert_eq!(
        (log.low_watermark(partition), log.high_watermark(partition)),
        (Offset(99), Offset(100))
    );
    let answer = append(&log, request("acme", 1, None)).expect("appended");
    assert_eq!(answer.partitions[0].first_offset, Offset(100));
}

#[test]
fn retention_by_size_keeps_the_newest_bytes() {
    let path = tempfile::tempdir().expect("a directory");
    let bytes = 10_000;
    let retention = RetentionConfig {
        partition_bytes: Some(bytes),
        age: None,
    };
    let (log, partition) = filled(path.path(), retention, 1000);
    log.trim(partition, Offset(1000)).expect("trimmed");
    let kept = read_all(&log, partition, log.low_watermark(partition)).records;
    let size: usize = kept
        .iter()
        .map(|record| record.value().expect("a value").len() + 4 + 31)
        .sum();
    assert!(
        size.abs_diff(10_000) < 300,
        "{size} bytes in {} records",
        kept.len()
    );
    log.trim(partition, Offset(1000)).expect("nothing to do");
    assert_eq!(
        kept.len(),
        read_all(&log, partition, log.low_watermark(partition))
            .records
            .len()
    );
}

#[test]
fn retention_by_age_keeps_what_is_young() {
    let path = tempfile::tempdir().expect("a directory");
    let young = RetentionConfig {
        partition_bytes: None,
        age: Some(Duration::from_hours(1)),
    };
    let (log, partition) = filled(path.path(), young, 50);
    log.trim(partition, Offset(50)).expect("nothing to do");
    assert_eq!(log.low_watermark(partition), Offset::ZERO);
    drop(log);
    let log = open(path.path(), NO_AGE);
    tick();
    log.trim(partition, Offset(30)).expect("trimmed");
    assert_eq!(log.low_watermark(partition), Offset(30));
}

#[test]
fn readers_of_what_stays_notice_nothing_of_a_removal() {
    let path = tempfile::tempdir().expect("a directory");
    let (log, partition) = filled(path.path(), NOTHING_KEPT, 30_000);
    let reads = AtomicU64::new(0);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                match log.read(partition, log.low_watermark(partition), EVERYTHING) {
                    Ok(batch) => assert_eq!(batch.next_offset, Offset(30_000)),
                    Err(ReadError::FellOut { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
                reads.fetch_add(1, Ordering::AcqRel);
            }
        });
        for floor in (1000..=25_000).step_by(1000) {
            // The second read from here on begins after the previous removal.
            let enough = reads.load(Ordering::Acquire) + 2;
            while reads.load(Ordering::Acquire) < enough && !reader.is_finished() {
                std::thread::yield_now();
            }
            log.trim(partition, Offset(floor)).expect("trimmed");
        }
        ended.store(true, Ordering::Release);
        reader.join().expect("every read was of what stays");
    });
}
