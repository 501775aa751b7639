//! The conformance suite, large records, throughput, and a broker that is killed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use workspace_engine_core::log::conformance::{self, EVERYTHING, append, id, request};
use workspace_engine_core::log::{
    Append, AppendError, EventLog, ProducerSequence, ReadError, ReadLimit,
};
use workspace_lifecycle::Offset;

use crate::support::{P0, produce, read_to, text};
use crate::testing::{PATIENCE, TestTopic, until};

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn a_real_kafka_passes_the_conformance_suite() {
    for (index, (name, case)) in conformance::CASES
        .iter()
        .chain(conformance::PRODUCER_CASES)
        .enumerate()
    {
        println!("{name}");
        let topic = TestTopic::new(&format!("conformance-{index}"), 3, &[]);
        case(&topic.log());
    }
}

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn the_largest_record_is_appended_and_a_larger_one_refused() {
    let topic = TestTopic::new("large", 1, &[("max.message.bytes", "12000000")]);
    let log = topic.log();
    // Data that does not compress.
    let mut random = fastrand::Rng::with_seed(7);
    let mut noise = |bytes: usize| -> Bytes {
        let mut noise = vec![0; bytes];
        random.fill(&mut noise);
        noise.into()
    };
    let events = vec![(id("acme"), noise(11_900_000))];
    let value = events[0].1.clone();
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
    let events = vec![(id("acme"), noise(12_100_000))];
    match append(
        &log,
        Append {
            producer: None,
            events,
        },
    ) {
        Err(AppendError::Unavailable(error_text)) => {
            assert!(
                error_text.contains("larger than topic large-"),
                "{error_text}"
            );
        }
        other => panic!("{other:?}"),
    }
    // Other requests are not affected.
    until("healthy", || log.health().ok());
    let answer = append(&log, request("acme", 1, None)).expect("appended");
    assert_eq!(answer.partitions[0].first_offset, Offset(1));
}

#[test]
#[ignore = "needs KAFKA_BROKERS; prints how fast a partition is read"]
fn the_speed_of_reading() {
    let topic = TestTopic::new("speed", 1, &[]);
    let count = 1_000_000_u64;
    let record = |n: u64| {
        (
            Some(format!("workspace-{}", n % 500).into_bytes()),
            Some(vec![b'x'; 200]),
        )
    };
    produce(&topic.config, P0, (0..count).map(record));
    let log = topic.log();
    for records in [10_000, 1000] {
        let limit = ReadLimit {
            records,
            ..EVERYTHING
        };
        let (mut next, mut seen, mut reads) = (Offset(0), 0, 0);
        let began = Instant::now();
        while next < Offset(count) {
            assert!(began.elapsed() < PATIENCE, "read up to {next}");
            let Ok(batch) = log.read(P0, next, limit) else {
                continue;
            };
            seen += batch.records.len();
            reads += 1;
            next = batch.next_offset;
        }
        let seconds = began.elapsed().as_secs_f64();
        println!("{seen} records in {seconds:.2} s, {reads} reads of up to {records}");
        assert_eq!(u64::try_from(seen), Ok(count));
    }
}

#[test]
#[ignore = "needs KAFKA_BROKERS, and KAFKA_KILL: the KAFKA_DIR of its only node, which dies; run it alone"]
fn events_appended_while_a_broker_is_killed_are_read_once_and_in_order() {
    let Ok(dir) = std::env::var("KAFKA_KILL") else {
        println!("left out: KAFKA_KILL is not set");
        return;
    };
    let dir = dir.as_str();
    let script = |command: &str| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/kafka.sh");
        let status = std::process::Command::new(path)
            .args([command, "1"])
            .env("KAFKA_DIR", dir)
            .status();
        assert!(status.expect("the script").success(), "{command}");
    };
    let mut topic = TestTopic::new("killed", 1, &[]);
    topic
        .config
        .properties
        .set("message.timeout.ms", "120000")
        .unwrap();
    let log = topic.log();
    let rounds = 300_u64;
    std::thread::scope(|scope| {
        let log = &log;
        scope.spawn(move || {
            for round in 0..rounds {
                let event = (id("acme"), Bytes::from(round.to_string()));
                let producer = Some(ProducerSequence {
                    producer_id: "p".to_owned(),
                    sequence: round + 1,
                });
                append(
                    log,
                    Append {
                        producer,
                        events: vec![event; 3],
                    },
                )
                .expect("appended");
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        scope.spawn(move || {
            // Twice, because the second time the producer has lost its connection before.
            for _ in 0..2 {
                std::thread::sleep(Duration::from_millis(700));
                let pid = std::fs::read_to_string(format!("{dir}/1/pid")).expect("a node");
                script("kill");
                until("it is dead", || {
                    let lives = std::path::Path::new("/proc").join(pid.trim()).exists();
                    (!lives).then_some(())
                });
                until("health reports the failure", || log.health().err());
                script("restart");
            }
        });
        let end = Offset(rounds * 3);
        let records = {
            let mut records = Vec::new();
            let mut next = Offset(0);
            let began = Instant::now();
            while next < end && began.elapsed() < PATIENCE {
                match log.read(P0, next, EVERYTHING) {
                    Ok(batch) => {
                        next = batch.next_offset;
                        records.extend(batch.records);
                    }
                    Err(ReadError::Unavailable(_)) => std::thread::sleep(Duration::from_millis(50)),
                    Err(error) => panic!("{error}"),
                }
            }
            records
        };
        let numbers: Vec<u64> = records
            .iter()
            .map(|record| text(record).parse().expect("a number"))
            .collect();
        let expected: Vec<u64> = (0..rounds).flat_map(|round| [round; 3]).collect();
        assert_eq!(numbers, expected);
    });
}
