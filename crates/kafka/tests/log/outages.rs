//! Brokers that are down, and recover.

use std::time::Duration;

use workspace_engine_core::log::conformance::{EVERYTHING, append, request};
use workspace_engine_core::log::{AppendError, EventLog, ReadError};
use workspace_engine_kafka::{KafkaConfig, KafkaLog, KafkaLogError};
use workspace_lifecycle::{Offset, PartitionId};

use crate::support::{Mock, P0, TOPIC, insist_on, produce_numbers, quick, read_to};
use crate::testing::until;

#[test]
fn a_log_opens_without_brokers_and_reports_the_client_error() {
    let config = KafkaConfig {
        brokers: "127.0.0.1:1".to_owned(),
        ..KafkaConfig::default()
    };
    let log = quick(Duration::from_secs(1), "opening", || {
        KafkaLog::open(&config, 4).expect("opened")
    });
    assert!(log.health().is_err(), "no broker has answered");
    until("the client's error text", || {
        let error_text = log.health().expect_err("no broker answers");
        (error_text.contains("127.0.0.1:1") && error_text.contains("Connection refused"))
            .then_some(())
    });
    let opened = quick(Duration::from_secs(3), "opening a partition", || {
        log.open(P0)
    });
    match opened {
        Err(ReadError::Unavailable(error_text)) => {
            assert!(error_text.contains("Connection refused"), "{error_text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(log.read(P0, Offset(0), EVERYTHING), Ok(batch) if batch.records.is_empty()));
    let waiting = log.submit(request("acme", 1, None));
    // No broker answers, so only closing the log can end the request.
    drop(log);
    assert_eq!(
        waiting.blocking_recv().expect("answered"),
        Err(AppendError::Closed)
    );
}

#[test]
fn an_unknown_property_is_refused_at_once() {
    let mut config = KafkaConfig::default();
    config.properties.set("no.such.thing", "1").unwrap();
    match KafkaLog::open(&config, 1) {
        Err(KafkaLogError::Client(error)) => assert!(error.contains("no.such.thing")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_topic_is_named() {
    let mut mock = Mock::new(1);
    "elsewhere".clone_into(&mut mock.config.topic);
    mock.cluster
        .topic_error(
            "elsewhere",
            rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        )
        .expect("set");
    let log = KafkaLog::open(&mock.config, 1).expect("opened");
    match log.open(P0) {
        Err(ReadError::Unavailable(error_text)) => {
            assert!(
                error_text.contains("topic elsewhere does not exist"),
                "{error_text}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_and_appends_continue_when_the_brokers_are_back() {
    let mock = Mock::new(1);
    produce_numbers(&mock.config, P0, 0..100);
    let log = mock.log();
    until("healthy", || log.health().ok());
    read_to(&log, P0, Offset(0), Offset(50));

    mock.cluster.broker_down(-1).expect("down");
    until("health reports the failure", || log.health().err());
    // While the brokers are down, an append waits and a partition cannot be opened.
    let mut next = Offset(50);
    let pending = log.submit(request("acme", 1, None));
    assert!(matches!(log.open(P0), Err(ReadError::Unavailable(_))));

    mock.cluster.broker_up(-1).expect("up");
    until("healthy again", || log.health().ok());
    let answer = pending
        .blocking_recv()
        .expect("answered")
        .expect("appended");
    assert_eq!(answer.partitions[0].first_offset, Offset(100));
    let records = read_to(&log, P0, next, Offset(101));
    next = Offset(101);
    assert_eq!(records.len(), 51);
    println!(
        "{:?}",
        append(&log, request("acme", 1, None)).expect("appended")
    );
    println!("{:?}", log.read(P0, next, EVERYTHING));
    assert_eq!(read_to(&log, P0, next, Offset(102)).len(), 1);
}

#[test]
fn a_failed_read_names_the_reason() {
    let mock = Mock::new(1);
    produce_numbers(&mock.config, P0, 0..100);
    let log = mock.log();
    mock.cluster.broker_down(-1).expect("down");
    let error_text = until("the read fails", || {
        match log.read(P0, Offset(0), EVERYTHING) {
            Err(ReadError::Unavailable(error_text)) => Some(error_text),
            Ok(batch) => {
                assert!(batch.records.is_empty());
                None
            }
            Err(error) => panic!("{error}"),
        }
    });
    assert!(error_text.contains(&mock.config.brokers), "{error_text}");
    mock.cluster.broker_up(-1).expect("up");
    assert_eq!(read_to(&log, P0, Offset(0), Offset(100)).len(), 100);
}

#[test]
fn a_log_is_dropped_at_once_during_reads() {
    let mock = Mock::new(8);
    for partition in (0..8).map(workspace_lifecycle::PartitionId) {
        produce_numbers(&mock.config, partition, 0..1000);
    }
    let reading = || {
        let log = mock.log();
        for partition in (0..8).map(workspace_lifecycle::PartitionId) {
            read_to(&log, partition, Offset(0), Offset(10));
            read_to(&log, partition, Offset(500), Offset(510));
        }
        log
    };
    let mut log = Some(reading());
    quick(Duration::from_secs(3), "the end", || {
        drop(log.take().unwrap_or_else(reading));
    });
}

#[test]
fn a_request_without_acknowledgement_is_refused_in_time() {
    let mut mock = Mock::new(1);
    mock.config
        .properties
        .set("message.timeout.ms", "1000")
        .unwrap();
    let log = mock.log();
    insist_on(&log, || request("acme", 1, Some(("p", 1))));
    mock.cluster.broker_down(-1).expect("down");
    match append(&log, request("acme", 1, Some(("p", 2)))) {
        Err(AppendError::Unavailable(error_text)) => {
            assert!(error_text.contains("timed out"), "{error_text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(log.health().is_err());
    mock.cluster.broker_up(-1).expect("up");
    let expected = until("out of turn", || {
        match append(&log, request("acme", 1, Some(("p", 3)))) {
            Err(AppendError::Sequence { expected, .. }) => Some(expected),
            Err(AppendError::Unavailable(error_text)) => {
                println!("{error_text}");
                None
            }
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(expected, 2);
    for sequence in [2, 3] {
        insist_on(&log, || request("acme", 1, Some(("p", sequence))));
    }
    until("healthy", || log.health().ok());
}

#[test]
fn a_producer_with_a_fatal_error_is_replaced() {
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    let mut mock = Mock::new(1);
    mock.config
        .properties
        .set("message.timeout.ms", "3000")
        .unwrap();
    mock.cluster.request_errors(
        RDKafkaApiKey::InitProducerId,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED],
    );
    let log = mock.log();
    // The producer may get its fatal error, and be replaced, before the first append or with it.
    insist_on(&log, || request("acme", 1, None));
    until("healthy", || log.health().ok());
}

#[test]
fn a_missing_leader_affects_its_own_partitions_alone() {
    let mock = Mock::of_brokers(2, 2);
    for (partition, broker) in [(0, 1), (1, 2)] {
        let led = mock
            .cluster
            .partition_leader(TOPIC, partition, Some(broker));
        led.expect("a leader");
    }
    let log = mock.log();
    mock.cluster.broker_down(2).expect("down");
    until("health reports the failure", || log.health().err());
    produce_numbers(&mock.config, P0, 0..10);
    until("the other partition is served", || {
        (log.high_watermark(P0) == Offset(10)).then_some(())
    });
    assert!(log.health().is_err(), "it lasts");
    assert_eq!(read_to(&log, P0, Offset(0), Offset(10)).len(), 10);
    until("it has a leader", || log.open(P0).ok());
    let error = log.open(PartitionId(1)).expect_err("it has none");
    assert!(matches!(error, ReadError::Unavailable(_)), "{error}");
    until("it is served as before", || log.open(P0).ok());
    mock.cluster.broker_up(2).expect("up");
    until("the failure has ended", || log.health().ok());
    until("it has a leader again", || log.open(PartitionId(1)).ok());
}
