//! Producers whose requests another process received: one that ended before it answered, or one that still runs.

use std::time::Duration;

use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use workspace_engine_core::log::conformance::{append, id, request};
use workspace_engine_core::log::{
    Append, AppendError, Appended, AppendedRange, EventLog, ProducerSequence,
};
use workspace_engine_core::routing::partition_of;
use workspace_engine_kafka::{KafkaConfig, KafkaLog};
use workspace_lifecycle::{Offset, PartitionId};

use crate::support::{Mock, P0, produce_numbers, quick};
use crate::testing::{PATIENCE, until};

/// A request of producer `p` with one event for each workspace.
fn of_workspaces(names: &[&str], sequence: u64) -> Append {
    let events = names.iter().enumerate();
    Append {
        producer: Some(ProducerSequence {
            producer_id: "p".to_owned(),
            sequence,
        }),
        events: events
            .map(|(index, name)| (id(name), Bytes::from(format!("{{\"n\":{index}}}"))))
            .collect(),
    }
}

/// Writes some of the records of a request, as an engine does that ends before it has written all.
fn write_part(config: &KafkaConfig, partitions: u32, part: &Append, indices: &[usize]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &config.brokers)
        .create()
        .expect("a producer");
    let sender = part.producer.as_ref().expect("a name");
    for index in indices {
        let (workspace, value) = &part.events[*index];
        let headers = [
            ("producer-id", sender.producer_id.clone()),
            ("producer-sequence", sender.sequence.to_string()),
            ("producer-index", index.to_string()),
        ];
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(value),
                })
            });
        let number = partition_of(workspace, partitions).0;
        let record = BaseRecord::to(&config.topic)
            .partition(i32::try_from(number).expect("small"))
            .key(workspace.as_str())
            .payload(&value[..])
            .headers(headers);
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("sent");
    }
    producer.flush(PATIENCE).expect("acknowledged");
}

/// How many records the log's partitions hold.
fn count(log: &KafkaLog, at_least: u64) -> u64 {
    until("the ends are known", || {
        let mut total = 0;
        for partition in (0..log.partitions()).map(PartitionId) {
            log.open(partition).ok()?;
            total += log.high_watermark(partition).0;
        }
        (total >= at_least).then_some(total)
    })
}

fn repeated(answer: &Appended) -> Appended {
    Appended {
        repeated: true,
        ..answer.clone()
    }
}

fn expected(refused: Result<Appended, AppendError>) -> u64 {
    match refused {
        Err(AppendError::Sequence { expected, .. }) => expected,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_that_an_ended_engine_appended_is_not_doubled() {
    let mock = Mock::new(4);
    let names = ["a", "b", "c", "d", "e", "a"];
    let first = mock.log();
    let answers: Vec<Appended> = (1..=3)
        .map(|sequence| append(&first, of_workspaces(&names, sequence)).expect("appended"))
        .collect();
    drop(first);
    let second = mock.log();
    // The last request, and those before it.
    for sequence in [3, 1, 2] {
        let answer = append(&second, of_workspaces(&names, sequence)).expect("answered");
        let index = usize::try_from(sequence - 1).expect("small");
        assert_eq!(answer, repeated(&answers[index]), "{sequence}");
    }
    assert_eq!(count(&second, 18), 18);
    assert_eq!(expected(append(&second, of_workspaces(&names, 5))), 4);
    let next = append(&second, of_workspaces(&names, 4)).expect("appended");
    assert!(!next.repeated);
    assert_eq!(count(&second, 24), 24);
    assert_eq!(expected(append(&second, of_workspaces(&names, 6))), 5);
}

#[test]
fn requests_that_were_under_way_together_are_all_found() {
    let mock = Mock::new(4);
    let first = mock.log();
    let names = ["a", "b", "c", "d", "e", "f"];
    for (sequence, name) in (1..).zip(names) {
        append(&first, request(name, 1, Some(("p", sequence)))).expect("appended");
    }
    drop(first);
    let second = mock.log();
    let answers: Vec<_> = (2..)
        .zip(&names[1..])
        .map(|(sequence, name)| second.submit(request(name, 1, Some(("p", sequence)))))
        .collect();
    for answer in answers {
        let answer = answer.blocking_recv().expect("answered").expect("appended");
        assert!(answer.repeated);
    }
    assert_eq!(count(&second, 6), 6);
}

#[test]
fn the_next_engine_completes_a_request_that_was_written_in_part() {
    let mock = Mock::new(1);
    let names = ["a", "b", "c", "d"];
    let whole = || of_workspaces(&names, 7);
    write_part(&mock.config, 1, &whole(), &[0, 2]);
    produce_numbers(&mock.config, P0, 0..3);
    let log = mock.log();
    let answer = append(&log, whole()).expect("appended");
    let range = AppendedRange {
        partition: P0,
        first_offset: Offset(0),
        last_offset: Offset(6),
    };
    let expected = Appended {
        accepted: 4,
        partitions: vec![range],
        repeated: false,
    };
    assert_eq!(answer, expected);
    assert_eq!(count(&log, 7), 7);
    let again = append(&log, whole()).expect("answered");
    assert_eq!(again, repeated(&expected));
    append(&log, of_workspaces(&names, 8)).expect("appended");
    assert_eq!(count(&log, 11), 11);
}

#[test]
fn a_request_that_was_lost_is_appended_after_a_later_one() {
    let mock = Mock::new(2);
    let later = of_workspaces(&["a"], 5);
    write_part(&mock.config, 2, &later, &[0]);
    let log = mock.log();
    assert!(
        !append(&log, of_workspaces(&["b"], 4))
            .expect("appended")
            .repeated
    );
    assert!(append(&log, later).expect("answered").repeated);
    assert!(
        !append(&log, of_workspaces(&["a"], 6))
            .expect("appended")
            .repeated
    );
    assert_eq!(count(&log, 3), 3);
}

#[test]
fn another_request_with_a_used_number_is_appended() {
    let mock = Mock::new(1);
    write_part(&mock.config, 1, &of_workspaces(&["a", "b"], 1), &[0, 1]);
    let log = mock.log();
    let answer = append(&log, of_workspaces(&["x", "y"], 1)).expect("appended");
    assert!(!answer.repeated);
    assert_eq!(count(&log, 4), 4);
}

#[test]
fn engines_side_by_side_find_each_others_requests() {
    let mock = Mock::new(3);
    let (one, other) = (mock.log(), mock.log());
    for sequence in 1..=12 {
        let log = if sequence % 3 == 0 { &other } else { &one };
        let workspace = format!("w{sequence}");
        let answer = append(log, request(&workspace, 2, Some(("p", sequence)))).expect("appended");
        assert!(!answer.repeated, "{sequence}");
    }
    for log in [&one, &other] {
        for sequence in 6..=12 {
            let workspace = format!("w{sequence}");
            let answer = append(log, request(&workspace, 2, Some(("p", sequence))));
            assert!(answer.expect("answered").repeated, "{sequence}");
        }
        assert_eq!(expected(append(log, request("a", 1, Some(("p", 14))))), 13);
    }
    assert_eq!(count(&one, 24), 24);
}

#[test]
fn an_unknown_producer_of_an_empty_topic_does_not_wait() {
    let mock = Mock::new(12);
    let log = mock.log();
    let mut names = (0..).map(|number| format!("new-{number}"));
    quick(Duration::from_secs(3), "the first append", || {
        let name = names.next().expect("endless");
        append(&log, request("acme", 1, Some((&name, 1)))).expect("appended");
    });
}

#[test]
fn neither_callers_nor_unnamed_appends_wait_for_the_scan() {
    let mock = Mock::of_brokers(2, 2);
    for (partition, broker) in [(0, 1), (1, 2)] {
        let leader = mock
            .cluster
            .partition_leader(&mock.config.topic, partition, Some(broker));
        leader.expect("a leader");
    }
    let name = |partition| {
        let mut names = (0..100).map(|number| format!("w{number}"));
        names
            .find(|name| partition_of(&id(name), 2) == PartitionId(partition))
            .expect("one of them")
    };
    let log = mock.log();
    append(&log, request(&name(0), 1, None)).expect("appended");
    // The topic cannot be scanned for the producer; requests without a producer are appended where that is possible.
    mock.cluster.broker_down(2).expect("down");
    let mut waiting = log.submit(request(&name(0), 1, Some(("p", 1))));
    append(&log, request(&name(0), 1, None)).expect("appended");
    assert!(waiting.try_recv().is_err(), "it waits");
    mock.cluster.broker_up(2).expect("up");
    let answer = waiting
        .blocking_recv()
        .expect("answered")
        .expect("appended");
    assert!(!answer.repeated);
}

#[test]
fn a_request_whose_producer_cannot_be_found_is_to_be_repeated() {
    let mock = Mock::new(1);
    let log = mock.log();
    mock.cluster.broker_down(-1).expect("down");
    // The brokers stay down, so only the log itself can end the request.
    match append(&log, request("acme", 1, Some(("p", 1)))) {
        Err(AppendError::Unavailable(error_text)) => {
            assert!(
                error_text.contains("request 1 of producer p"),
                "{error_text}"
            );
            assert!(error_text.contains("repeat it"), "{error_text}");
        }
        other => panic!("{other:?}"),
    }
    let waiting = log.submit(request("acme", 1, Some(("p", 1))));
    drop(log);
    assert_eq!(
        waiting.blocking_recv().expect("answered"),
        Err(AppendError::Closed)
    );
}
