//! What every event log must do, whatever implements it.
//!
//! ```text
//! for (name, case) in log::conformance::CASES { case(&open(name)); }
//! ```
//!
//! Each case needs its own log of at least two partitions, empty or not.

#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    clippy::print_stdout,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use super::{
    Append, AppendError, Appended, Batch, DeadLetter, EventLog, ProducerSequence, ReadError,
    ReadLimit,
};
use crate::routing::partition_of;
use bytes::Bytes;
use std::fmt::Display;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::WorkspaceId;

/// One requirement on a log.
pub type Case = fn(&dyn EventLog);

/// All requirements, by name.
pub const CASES: &[(&str, Case)] = &[
    (
        "an append is readable when it is answered",
        an_append_is_readable_when_it_is_answered,
    ),
    (
        "a request of many workspaces keeps their order",
        a_request_of_many_workspaces_keeps_their_order,
    ),
    ("a read stops at its limits", a_read_stops_at_its_limits),
    (
        "a read at the end is empty and beyond it an error",
        a_read_at_the_end_is_empty_and_beyond_it_an_error,
    ),
    (
        "the listener is called for every append",
        the_listener_is_called_for_every_append,
    ),
    (
        "requests of many threads share the log without gaps",
        requests_of_many_threads_share_the_log_without_gaps,
    ),
    (
        "a dead letter is kept once by its address and workspace",
        a_dead_letter_is_kept_once_by_its_address_and_workspace,
    ),
];

/// Requirements on a log that recognises repeated requests of producers.
pub const PRODUCER_CASES: &[(&str, Case)] = &[
    (
        "a repeated request appends nothing",
        a_repeated_request_appends_nothing,
    ),
    (
        "a repeat in the queue is answered with the first",
        a_repeat_in_the_queue_is_answered_with_the_first,
    ),
    (
        "a gap of a producer is refused",
        a_gap_of_a_producer_is_refused,
    ),
    (
        "an invalid producer is refused",
        an_invalid_producer_is_refused,
    ),
];

/// Requirements on a log that remembers every producer it ever answered, because no other process appends to it.
pub const OWN_PRODUCER_CASES: &[(&str, Case)] = &[(
    "an unknown producer begins with request 1",
    an_unknown_producer_begins_with_request_1,
)];

pub const EVERYTHING: ReadLimit = ReadLimit {
    records: usize::MAX,
    bytes: usize::MAX,
    until: Offset(u64::MAX),
};

pub fn id(text: &str) -> WorkspaceId {
    WorkspaceId::new(text).expect("a valid id")
}

pub fn event(id: &WorkspaceId, number: usize) -> Bytes {
    format!(r#"{{"eventType":"thing.updated","workspaceId":"{id}","timestamp":{number},"data":{{"id":"{number}"}}}}"#).into()
}

/// A request of `count` events of one workspace.
pub fn request(workspace: &str, count: usize, producer: Option<(&str, u64)>) -> Append {
    let id = id(workspace);
    Append {
        producer: producer.map(|(id, sequence)| ProducerSequence {
            producer_id: id.to_owned(),
            sequence,
        }),
        events: (0..count)
            .map(|number| (id.clone(), event(&id, number)))
            .collect(),
    }
}

/// Appends and waits for the answer.
pub fn append(log: &dyn EventLog, append: Append) -> Result<Appended, AppendError> {
    log.submit(append)
        .blocking_recv()
        .expect("the log answers every request")
}

/// Deadline for anything that must happen, also on a machine that is busy with other work.
const PATIENCE: Duration = Duration::from_mins(2);

/// Retries what the log temporarily cannot do, as the engine does.
fn insist<T, E: Display>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_passing: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if is_passing(&error) => {
                assert!(Instant::now() < deadline, "it lasts: {error}");
                thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

/// One read. It may return fewer records than exist, or none: a log on a network returns what has arrived.
fn read(
    log: &dyn EventLog,
    partition: PartitionId,
    from: Offset,
    limit: ReadLimit,
) -> Result<Batch, ReadError> {
    let is_passing = |error: &ReadError| matches!(error, ReadError::Unavailable(_));
    insist(|| log.read(partition, from, limit), is_passing)
}

/// Reads repeatedly with one limit until an offset is reached. Returns every batch.
fn read_to(
    log: &dyn EventLog,
    partition: PartitionId,
    from: Offset,
    limit: ReadLimit,
    end: Offset,
) -> Vec<Batch> {
    let deadline = Instant::now() + PATIENCE;
    let mut next = from;
    let mut batches = Vec::new();
    while next < end {
        let batch = read(log, partition, next, limit).expect("readable");
        assert!(batch.next_offset >= next, "a read never goes back");
        assert!(
            batch.next_offset > next || Instant::now() < deadline,
            "partition {partition} is read up to {next} and not to {end}"
        );
        next = batch.next_offset;
        batches.push(batch);
    }
    batches
}

/// All records from an offset to the end of a partition.
pub fn read_all(log: &dyn EventLog, partition: PartitionId, from: Offset) -> Batch {
    let mut all = read(log, partition, from, EVERYTHING).expect("readable");
    let end = all.high_watermark;
    for more in read_to(log, partition, all.next_offset, EVERYTHING, end) {
        all.records.extend(more.records);
        all.next_offset = more.next_offset;
        all.high_watermark = more.high_watermark;
    }
    all
}

/// Stores a dead letter, with retries: one that was stored without an answer may be stored again.
pub fn keep(log: &dyn EventLog, dead_letter: &DeadLetter) {
    insist(
        || log.append_dead_letter(dead_letter.clone()),
        |error| matches!(error, AppendError::Unavailable(_)),
    )
    .expect("kept");
}

/// Dead letters of a workspace, or of all.
pub fn listed(
    log: &dyn EventLog,
    workspace: Option<&str>,
    after: Option<(PartitionId, Offset)>,
    limit: usize,
) -> Vec<DeadLetter> {
    let workspace = workspace.map(id);
    insist(
        || log.dead_letters(workspace.as_ref(), after, limit),
        |error| matches!(error, ReadError::Unavailable(_)),
    )
    .expect("listed")
}

fn an_append_is_readable_when_it_is_answered(log: &dyn EventLog) {
    let workspace = id("acme");
    let partition = partition_of(&workspace, log.partitions());
    for round in 0..3 {
        let before = log.high_watermark(partition);
        let answer = append(log, request("acme", 5, None)).expect("appended");
        assert_eq!(
            (answer.accepted, answer.repeated),
            (5, false),
            "round {round}"
        );
        let [range] = answer.partitions.as_slice() else {
            panic!("one range: {answer:?}")
        };
        assert_eq!(range.partition, partition);
        assert_eq!(range.first_offset, before);
        assert_eq!(log.high_watermark(partition), range.last_offset.next());
        let batch = read_all(log, partition, range.first_offset);
        let keys: Vec<_> = batch
            .records
            .iter()
            .map(|record| record.key().map(<[u8]>::to_vec))
            .collect();
        assert_eq!(keys, vec![Some(b"acme".to_vec()); 5]);
        for (number, record) in batch.records.iter().enumerate() {
            assert_eq!(record.value(), Some(&*event(&workspace, number)));
        }
    }
}

fn a_request_of_many_workspaces_keeps_their_order(log: &dyn EventLog) {
    let workspaces: Vec<_> = (0..20)
        .map(|number| id(&format!("many-{number}")))
        .collect();
    let events = (0..200).map(|number| {
        let workspace = &workspaces[number % workspaces.len()];
        (workspace.clone(), event(workspace, number))
    });
    let answer = append(
        log,
        Append {
            producer: None,
            events: events.collect(),
        },
    )
    .expect("appended");
    assert_eq!(answer.accepted, 200);
    assert!(answer.partitions.is_sorted_by_key(|range| range.partition));
    let total: u64 = answer
        .partitions
        .iter()
        .map(|range| range.last_offset.next().since(range.first_offset))
        .sum();
    assert_eq!(total, 200);
    for range in &answer.partitions {
        let batch = read_all(log, range.partition, range.first_offset);
        let numbers: Vec<usize> = batch
            .records
            .iter()
            .map(|record| number_of(record.value()))
            .collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
        for record in &batch.records {
            let key = id(std::str::from_utf8(record.key().expect("a key")).expect("text"));
            assert_eq!(partition_of(&key, log.partitions()), range.partition);
        }
    }
}

fn number_of(value: Option<&[u8]>) -> usize {
    let value: serde_json::Value = serde_json::from_slice(value.expect("a value")).expect("JSON");
    usize::try_from(value["timestamp"].as_u64().expect("a number")).expect("small")
}

fn a_read_stops_at_its_limits(log: &dyn EventLog) {
    let answer = append(log, request("limits", 50, None)).expect("appended");
    let range = answer.partitions[0];
    let (partition, first) = (range.partition, range.first_offset);
    let end = range.last_offset.next();
    let batches = |limit, end| read_to(log, partition, first, limit, end);
    let offsets = |batches: &[Batch]| -> Vec<Offset> {
        let records = batches.iter().flat_map(|batch| &batch.records);
        records.map(|record| record.offset).collect()
    };
    let every: Vec<Offset> = (first.0..end.0).map(Offset).collect();

    let sevens = ReadLimit {
        records: 7,
        ..EVERYTHING
    };
    let found = batches(sevens, end);
    assert!(found.iter().all(|batch| batch.records.len() <= 7));
    assert_eq!(
        offsets(&found),
        every,
        "what one read leaves the next gives"
    );

    let single = ReadLimit {
        bytes: 1,
        ..EVERYTHING
    };
    let found = batches(single, end);
    assert!(
        found.iter().all(|batch| batch.records.len() <= 1),
        "no more than one record is over the limit"
    );
    assert_eq!(offsets(&found), every, "at least one record");

    let until = Offset(first.0 + 20);
    let below = ReadLimit {
        until,
        ..EVERYTHING
    };
    let found = batches(below, until);
    assert_eq!(offsets(&found), every[..20]);
    let last = found.last().expect("at least one read");
    assert_eq!(last.next_offset, until);
    assert_eq!(last.high_watermark, log.high_watermark(partition));
}

fn a_read_at_the_end_is_empty_and_beyond_it_an_error(log: &dyn EventLog) {
    let answer = append(log, request("end", 1, None)).expect("appended");
    let partition = answer.partitions[0].partition;
    let end = log.high_watermark(partition);
    let batch = read(log, partition, end, EVERYTHING).expect("the end is readable");
    assert!(batch.records.is_empty());
    assert_eq!((batch.next_offset, batch.high_watermark), (end, end));
    let requested = end.next();
    match read(log, partition, requested, EVERYTHING) {
        Err(ReadError::BeyondEnd {
            partition: p,
            requested: a,
            high_watermark,
        }) => {
            assert_eq!((p, a, high_watermark), (partition, requested, end));
        }
        other => panic!("{other:?}"),
    }
}

fn the_listener_is_called_for_every_append(log: &dyn EventLog) {
    let (sender, ends) = std::sync::mpsc::channel();
    log.set_listener(Arc::new(move |partition, end| {
        let _ = sender.send((partition, end));
    }));
    let answer = append(log, request("listener", 3, None)).expect("appended");
    let range = answer.partitions[0];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let (partition, end) = ends.recv_timeout(left).expect("the listener is called");
        if partition == range.partition && end >= range.last_offset.next() {
            break;
        }
    }
    log.set_listener(Arc::new(|_, _| {}));
}

fn requests_of_many_threads_share_the_log_without_gaps(log: &dyn EventLog) {
    let partitions: Vec<_> = (0..log.partitions()).map(PartitionId).collect();
    let before: Vec<_> = partitions
        .iter()
        .map(|partition| log.high_watermark(*partition))
        .collect();
    thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for number in 0..25 {
                    append(log, request(&format!("thread-{thread}-{number}"), 3, None))
                        .expect("appended");
                }
            });
        }
    });
    let mut total = 0;
    for (partition, before) in partitions.into_iter().zip(before) {
        let batch = read_all(log, partition, before);
        total += batch.records.len();
        let offsets: Vec<_> = batch.records.iter().map(|record| record.offset).collect();
        assert!(offsets.is_sorted_by(|a, b| a < b));
        assert_eq!(batch.next_offset, log.high_watermark(partition));
    }
    assert_eq!(total, 4 * 25 * 3);
}

fn a_dead_letter_is_kept_once_by_its_address_and_workspace(log: &dyn EventLog) {
    let dead_letter = |partition, offset, workspace: &str| DeadLetter {
        topic: log.topic().to_owned(),
        partition: PartitionId(partition),
        offset: Offset(offset),
        workspace_id: id(workspace),
        key: Some(Bytes::from_static(b"key")),
        value: None,
        reason: "no such type".to_owned(),
        skipped_at_ms: 5,
    };
    let kept = [
        dead_letter(0, 3, "bad"),
        dead_letter(0, 3, "bad-2"),
        dead_letter(0, 900, "other"),
        dead_letter(1, 1, "bad"),
    ];
    for place in [3, 1, 0, 2, 0, 3] {
        keep(log, &kept[place]);
    }
    assert_eq!(listed(log, None, None, 10), kept);
    assert_eq!(listed(log, None, None, 3), kept[..3]);
    assert_eq!(
        listed(log, None, None, 1),
        kept[..2],
        "those of an address are not torn apart"
    );
    let after = Some((PartitionId(0), Offset(3)));
    assert_eq!(listed(log, None, after, 10), kept[2..]);
    let of_one = listed(log, Some("bad"), None, 10);
    assert_eq!(of_one, [kept[0].clone(), kept[3].clone()]);
}

fn a_repeated_request_appends_nothing(log: &dyn EventLog) {
    let mut answers = Vec::new();
    for sequence in 1..=6 {
        answers
            .push(append(log, request("repeat", 2, Some(("again", sequence)))).expect("appended"));
    }
    let partition = answers[0].partitions[0].partition;
    let end = log.high_watermark(partition);
    for sequence in 2..=6 {
        let again = append(log, request("repeat", 2, Some(("again", sequence)))).expect("answered");
        let first = &answers[usize::try_from(sequence).expect("small") - 1];
        assert_eq!(
            again,
            Appended {
                repeated: true,
                ..first.clone()
            }
        );
    }
    assert_eq!(log.high_watermark(partition), end);
}

fn a_repeat_in_the_queue_is_answered_with_the_first(log: &dyn EventLog) {
    let partition = partition_of(&id("twice"), log.partitions());
    let before = log.high_watermark(partition);
    let pending: Vec<_> = (0..3)
        .map(|_| log.submit(request("twice", 4, Some(("impatient", 1)))))
        .collect();
    let answers: Vec<_> = pending
        .into_iter()
        .map(|answer| answer.blocking_recv().expect("answered").expect("appended"))
        .collect();
    assert_eq!(answers.iter().filter(|answer| answer.repeated).count(), 2);
    assert!(
        answers
            .iter()
            .all(|answer| answer.partitions == answers[0].partitions)
    );
    assert_eq!(log.high_watermark(partition).since(before), 4);
}

fn a_gap_of_a_producer_is_refused(log: &dyn EventLog) {
    append(log, request("gap", 1, Some(("jumper", 1)))).expect("appended");
    match append(log, request("gap", 1, Some(("jumper", 3)))) {
        Err(AppendError::Sequence {
            producer_id,
            sequence,
            expected,
        }) => {
            assert_eq!((producer_id.as_str(), sequence, expected), ("jumper", 3, 2));
        }
        other => panic!("{other:?}"),
    }
    append(log, request("gap", 1, Some(("jumper", 2)))).expect("the next one is accepted");
}

fn an_unknown_producer_begins_with_request_1(log: &dyn EventLog) {
    match append(log, request("gap", 1, Some(("unknown", 7)))) {
        Err(AppendError::Sequence { expected, .. }) => assert_eq!(expected, 1),
        other => panic!("{other:?}"),
    }
}

fn an_invalid_producer_is_refused(log: &dyn EventLog) {
    let long = "x".repeat(256);
    for producer in [("", 1), (long.as_str(), 1), ("zero", 0)] {
        match append(log, request("invalid", 1, Some(producer))) {
            Err(AppendError::Producer(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}
