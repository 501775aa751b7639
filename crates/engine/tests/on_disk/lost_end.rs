use super::support::{NO_AGE, copy, fill, open, open_with, tick};
use std::path::Path;
use workspace_engine_core::disk::{DataDir, DiskError};
use workspace_engine_core::log::conformance::{EVERYTHING, append, read_all, request};
use workspace_engine_core::log::{EmbeddedLog, EventLog, ReadError, ReadLimit, RetentionConfig};
use workspace_lifecycle::{Offset, PartitionId};

const ID: &str = "acme";

/// The partition of [`ID`].
fn partition(log: &EmbeddedLog) -> PartitionId {
    workspace_engine_core::routing::partition_of(&ID.parse().expect("valid"), log.partitions())
}

/// A log of ten events, a gap up to offset 30, and five events after it.
fn with_gap(path: &Path) -> (DataDir, EmbeddedLog) {
    let (dir, log) = open(path).expect("opened");
    append(&log, request(ID, 10, None)).expect("appended");
    let partition = partition(&log);
    let before = log.continue_at(partition, Offset(30)).expect("continued");
    assert_eq!(before, Some(Offset(10)));
    let appended = append(&log, request(ID, 5, None)).expect("appended");
    assert_eq!(appended.partitions[0].first_offset, Offset(30));
    (dir, log)
}

#[test]
fn offsets_that_were_left_out_stay_out_over_restarts() {
    let path = tempfile::tempdir().expect("a directory");
    let (dir, log) = open(path.path()).expect("opened");
    let partition = partition(&log);
    append(&log, request(ID, 10, None)).expect("appended");
    assert_eq!(log.continue_at(partition, Offset(10)), Ok(None));
    assert_eq!(log.continue_at(partition, Offset(30)), Ok(Some(Offset(10))));
    assert_eq!(log.high_watermark(partition), Offset(30));
    drop((dir, log));
    // First with the gap at the end, then with another gap after it.
    for (next, end) in [(30, 30), (40, 40)] {
        let (_dir, log) = open(path.path()).expect("opened");
        log.continue_at(partition, Offset(next)).expect("continued");
        assert_eq!(log.high_watermark(partition), Offset(end));
    }
    let (_dir, log) = open(path.path()).expect("opened");
    let appended = append(&log, request(ID, 5, None)).expect("appended");
    assert_eq!(appended.partitions[0].first_offset, Offset(40));
}

#[test]
fn a_reader_gets_what_is_before_a_gap_then_its_bounds_then_the_rest() {
    let path = tempfile::tempdir().expect("a directory");
    drop(with_gap(path.path()));
    let (_dir, log) = open(path.path()).expect("opened");
    let partition = partition(&log);
    let before = log
        .read(partition, Offset(4), EVERYTHING)
        .expect("readable");
    assert_eq!((before.records.len(), before.next_offset), (6, Offset(10)));
    for requested in [10, 29] {
        let lost = ReadError::Lost {
            partition,
            requested: Offset(requested),
            until: Offset(30),
        };
        let read = log.read(partition, Offset(requested), EVERYTHING);
        assert_eq!(read.expect_err("lost"), lost);
    }
    // A read with a limit inside the gap does not skip beyond its limit.
    let limit = ReadLimit {
        until: Offset(20),
        ..EVERYTHING
    };
    let read = log.read(partition, Offset(12), limit);
    assert!(matches!(
        read,
        Err(ReadError::Lost {
            until: Offset(20),
            ..
        })
    ));
    let behind = log
        .read(partition, Offset(30), EVERYTHING)
        .expect("readable");
    assert_eq!((behind.records.len(), behind.next_offset), (5, Offset(35)));
}

#[test]
fn an_operator_who_accepts_the_loss_lets_readers_pass() {
    let path = tempfile::tempdir().expect("a directory");
    drop(with_gap(path.path()));
    let witness = path.path().join("witness");
    std::fs::rename(&witness, path.path().join("witness.accepted")).expect("renamed");
    for _ in 0..2 {
        let (_dir, log) = open(path.path()).expect("opened");
        assert!(witness.exists() && !path.path().join("witness.accepted").exists());
        let all = read_all(&log, partition(&log), Offset::ZERO);
        let offsets: Vec<u64> = all.records.iter().map(|record| record.offset.0).collect();
        let expected: Vec<u64> = (0..10).chain(30..35).collect();
        assert_eq!((offsets, all.next_offset), (expected, Offset(35)));
    }
}

#[test]
fn retention_forgets_what_is_before_a_gap() {
    let path = tempfile::tempdir().expect("a directory");
    drop(with_gap(path.path()));
    let size = RetentionConfig {
        partition_bytes: Some(150),
        ..RetentionConfig::default()
    };
    for (retention, floor, low) in [
        (NO_AGE, 4, 4),
        (size, 12, 12),
        (NO_AGE, 12, 12),
        (size, 40, 33),
    ] {
        let (_dir, log) = open_with(path.path(), retention).expect("opened");
        let partition = partition(&log);
        tick();
        log.trim(partition, Offset(floor)).expect("trimmed");
        assert_eq!(log.low_watermark(partition), Offset(low), "up to {floor}");
    }
    // With no record at all, there is nothing to remove.
    let path = tempfile::tempdir().expect("a directory");
    let (_dir, log) = open(path.path()).expect("opened");
    let partition = partition(&log);
    log.continue_at(partition, Offset(30)).expect("continued");
    log.trim(partition, Offset(30)).expect("trimmed");
    assert_eq!(log.low_watermark(partition), Offset::ZERO);
}

#[test]
fn offsets_of_an_accepted_loss_are_left_out() {
    let whole = tempfile::tempdir().expect("a directory");
    let (dir, log) = open(whole.path()).expect("opened");
    fill(&log, 1, 4);
    drop((dir, log));
    let older = tempfile::tempdir().expect("a directory");
    copy(whole.path(), older.path());
    let (dir, log) = open(whole.path()).expect("opened");
    fill(&log, 5, 20);
    let ends: Vec<Offset> = (0..2)
        .map(|id| log.high_watermark(PartitionId(id)))
        .collect();
    drop((dir, log));
    std::fs::copy(whole.path().join("witness"), older.path().join("witness")).expect("copied");
    match open(older.path()) {
        Err(DiskError::Lost { witness, .. }) => {
            let accepted = witness.with_file_name("witness.accepted");
            std::fs::rename(witness, accepted).expect("the error names the file to rename");
        }
        other => panic!("{other:?}"),
    }
    for _ in 0..2 {
        let (_dir, log) = open(older.path()).expect("opened");
        let found: Vec<Offset> = (0..2)
            .map(|id| log.high_watermark(PartitionId(id)))
            .collect();
        assert_eq!(found, ends);
    }
}
