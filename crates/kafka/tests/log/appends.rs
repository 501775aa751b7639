//! Appends, and notifications of what other producers append.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use workspace_engine_core::log::conformance::{append, id, request};
use workspace_engine_core::log::{Append, AppendError, EventLog, ProducerSequence};
use workspace_engine_core::routing::partition_of;
use workspace_lifecycle::{Offset, PartitionId};

use crate::support::{Mock, P0, TOPIC, insist_on, produce_numbers, read_to};
use crate::testing::{PATIENCE, until};

#[test]
fn the_listener_is_notified_of_appends_of_other_producers() {
    let mock = Mock::new(2);
    let log = mock.log();
    let (sender, heard) = std::sync::mpsc::channel();
    log.set_listener(Arc::new(move |partition, end| {
        let _ = sender.send((partition, end));
    }));
    let partition = PartitionId(1);
    produce_numbers(&mock.config, partition, 0..10);
    let deadline = Instant::now() + PATIENCE;
    let end = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let (reported, end) = heard.recv_timeout(left).expect("notified");
        assert_eq!(reported, partition);
        if end == Offset(10) {
            break end;
        }
    };
    assert_eq!(log.high_watermark(partition), end);
    assert_eq!(read_to(&log, partition, Offset(0), end).len(), 10);
}

#[test]
fn the_largest_record_is_appended() {
    let mock = Mock::new(1);
    let log = mock.log();
    let value = Bytes::from(vec![b'x'; 4 * 1024 * 1024]);
    let events = vec![(id("acme"), value.clone())];
    append(
        &log,
        Append {
            producer: None,
            events,
        },
    )
    .expect("appended");
    let records = read_to(&log, P0, Offset(0), Offset(1));
    assert_eq!(records[0].value(), Some(&value[..]));
}

#[test]
fn a_record_that_is_too_large_refuses_the_whole_request() {
    let mut mock = Mock::new(1);
    mock.config
        .properties
        .set("message.max.bytes", "10000")
        .unwrap();
    let log = mock.log();
    let small = Bytes::from_static(b"{}");
    let large = Bytes::from(vec![b'x'; 20_000]);
    let events = vec![(id("acme"), small.clone()), (id("acme"), large)];
    match append(
        &log,
        Append {
            producer: None,
            events,
        },
    ) {
        Err(AppendError::Unavailable(error_text)) => {
            assert!(
                error_text.contains("20004 bytes is too large"),
                "{error_text}"
            );
            assert!(error_text.contains("10000 bytes"), "{error_text}");
        }
        other => panic!("{other:?}"),
    }
    let events = vec![(id("acme"), small)];
    let answer = append(
        &log,
        Append {
            producer: None,
            events,
        },
    )
    .expect("appended");
    assert_eq!(
        answer.partitions[0].first_offset,
        Offset(0),
        "nothing of the other one"
    );
    until("healthy", || log.health().ok());
}

#[test]
fn an_unknown_producer_begins_with_any_request() {
    let mock = Mock::new(1);
    let log = mock.log();
    append(&log, request("acme", 1, Some(("p", 7)))).expect("appended");
    append(&log, request("acme", 1, Some(("p", 8)))).expect("appended");
    assert!(
        append(&log, request("acme", 1, Some(("p", 7))))
            .expect("answered")
            .repeated
    );
    assert!(matches!(
        append(&log, request("acme", 1, Some(("p", 10)))),
        Err(AppendError::Sequence { expected: 9, .. })
    ));
}

#[test]
fn an_empty_request_is_answered() {
    let mock = Mock::new(1);
    let log = mock.log();
    let answer = append(&log, request("acme", 0, Some(("p", 1)))).expect("answered");
    assert_eq!((answer.accepted, answer.partitions.len()), (0, 0));
}

#[test]
fn requests_of_many_threads_do_not_mix() {
    let mock = Mock::new(4);
    let log = mock.log();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || {
                for round in 0..20 {
                    let name = format!("w{thread}-{round}");
                    let answer = append(log, request(&name, 50, None)).expect("appended");
                    let range = answer.partitions[0];
                    assert_eq!(range.partition, partition_of(&id(&name), 4));
                    assert_eq!(range.last_offset.since(range.first_offset), 49);
                    let end = range.last_offset.next();
                    let records = read_to(log, range.partition, range.first_offset, end);
                    assert!(records.iter().all(|r| r.key() == Some(name.as_bytes())));
                }
            });
        }
    });
}

#[test]
fn requests_beyond_the_queue_are_refused() {
    let mock = Mock::new(1);
    let log = mock.log();
    mock.cluster.broker_down(-1).expect("down");
    let large = |log: &dyn EventLog| {
        let value = Bytes::from(vec![b'x'; 8 * 1024 * 1024]);
        log.submit(Append {
            producer: None,
            events: vec![(id("acme"), value)],
        })
    };
    let mut waiting: Vec<_> = (0..8).map(|_| large(&log)).collect();
    let last = waiting.pop().expect("eight");
    assert_eq!(
        last.blocking_recv().expect("answered"),
        Err(AppendError::Busy)
    );
    // No broker answers, so only closing the log can end the requests.
    drop(log);
    for answer in waiting {
        let answer = answer.blocking_recv().expect("answered");
        assert!(matches!(answer, Err(AppendError::Closed)), "{answer:?}");
    }
}

#[test]
fn a_repeat_completes_a_request_that_was_appended_in_part() {
    let mut mock = Mock::of_brokers(2, 2);
    for (partition, broker) in [(0, 1), (1, 2)] {
        let led = mock
            .cluster
            .partition_leader(TOPIC, partition, Some(broker));
        led.expect("a leader");
    }
    mock.config
        .properties
        .set("message.timeout.ms", "1500")
        .unwrap();
    let log = mock.log();
    let name_in = |partition| {
        let names = (0..).map(|number| id(&format!("w{number}")));
        names
            .take(100)
            .find(|id| partition_of(id, 2) == PartitionId(partition))
            .expect("one of them")
    };
    let request = |sequence| Append {
        producer: Some(ProducerSequence {
            producer_id: "p".to_owned(),
            sequence,
        }),
        events: vec![
            (name_in(0), Bytes::from_static(b"1")),
            (name_in(1), Bytes::from_static(b"2")),
        ],
    };
    insist_on(&log, || request(1));
    mock.cluster.broker_down(2).expect("down");
    let error = append(&log, request(2)).expect_err("one partition takes nothing");
    let AppendError::Partly {
        appended,
        events,
        partitions,
        ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!((*appended, *events), (1, 2));
    assert_eq!(partitions[0].partition, PartitionId(0));
    // The topic cannot be scanned for its records meanwhile.
    let error = append(&log, request(2)).expect_err("one partition takes nothing");
    assert!(
        matches!(
            error,
            AppendError::Unavailable(_) | AppendError::Partly { .. }
        ),
        "{error}"
    );
    mock.cluster.broker_up(2).expect("up");
    let answer = insist_on(&log, || request(2));
    for range in answer.partitions {
        assert_eq!(
            (range.first_offset, range.last_offset),
            (Offset(1), Offset(1))
        );
        let end = until("the end is known", || {
            let end = log.high_watermark(range.partition);
            (end >= Offset(2)).then_some(end)
        });
        assert_eq!(end, Offset(2), "partition {}", range.partition);
    }
}
