//! What only a real Apache Kafka does: transactions, compaction, removal, topics that are made anew.
//!
//! `KAFKA_BROKERS=$(scripts/kafka.sh start) cargo test -p workspace-engine-kafka --test log -- --ignored`

use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset as At, TopicPartitionList};
use workspace_engine_core::log::conformance::{self, EVERYTHING, append, id, request};
use workspace_engine_core::log::{
    Append, AppendError, EventLog, ProducerSequence, ReadError, ReadLimit,
};
use workspace_engine_kafka::{KafkaConfig, KafkaLog};
use workspace_lifecycle::Offset;

use crate::cluster::{
    P0, PATIENCE, offsets, open_all, produce, produce_numbers, read_to, text, until,
};

/// A topic of its own on the real cluster.
struct Real {
    config: KafkaConfig,
    partitions: u32,
    admin: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
}

impl Real {
    fn new(name: &str, partitions: u32, settings: &[(&str, &str)]) -> Self {
        let brokers = std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS");
        let config = KafkaConfig {
            topic: format!("{name}-{}", std::process::id()),
            group: "engine".to_owned(),
            brokers,
            ..KafkaConfig::default()
        };
        let admin = ClientConfig::new()
            .set("bootstrap.servers", &config.brokers)
            .create()
            .expect("a client");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let real = Self {
            config,
            partitions,
            admin,
            runtime,
        };
        real.create(settings);
        real.create_topic(&real.config.dead_letter_topic(), 1, &[]);
        real
    }

    fn create(&self, settings: &[(&str, &str)]) {
        self.create_topic(&self.config.topic, self.partitions, settings);
    }

    fn create_topic(&self, name: &str, partitions: u32, settings: &[(&str, &str)]) {
        let count = i32::try_from(partitions).expect("few");
        let mut topic = NewTopic::new(name, count, TopicReplication::Fixed(-1));
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        until("the topic is created", || {
            let created = self.admin.create_topics([&topic], &AdminOptions::new());
            match &self.runtime.block_on(created).expect("answered")[0] {
                Ok(_) => Some(()),
                Err(error) => {
                    println!("{error:?}");
                    None
                }
            }
        });
    }

    fn delete(&self) {
        let topics = [self.config.topic.as_str()];
        let deleted = self.admin.delete_topics(&topics, &AdminOptions::new());
        self.runtime.block_on(deleted).expect("answered")[0]
            .as_ref()
            .expect("deleted");
    }

    fn log(&self) -> KafkaLog {
        let log = KafkaLog::open(&self.config, self.partitions).expect("opened");
        open_all(&log);
        log
    }

    fn transactional(&self, name: &str) -> BaseProducer {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.config.brokers)
            .set("transactional.id", format!("{}-{name}", self.config.topic))
            .create()
            .expect("a producer");
        producer.init_transactions(PATIENCE).expect("ready");
        producer
    }

    fn send(&self, producer: &BaseProducer, texts: &[&str]) {
        for text in texts {
            let record = BaseRecord::<str, str>::to(&self.config.topic).partition(0);
            producer
                .send(record.key("acme").payload(text))
                .map_err(|(error, _)| error)
                .expect("sent");
        }
        producer.flush(PATIENCE).expect("flushed");
    }

    fn transaction(&self, producer: &BaseProducer, texts: &[&str]) {
        producer.begin_transaction().expect("begun");
        self.send(producer, texts);
    }
}

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn the_log_on_kafka_does_what_every_log_must() {
    for (place, (name, case)) in conformance::CASES
        .iter()
        .chain(conformance::PRODUCER_CASES)
        .enumerate()
    {
        println!("{name}");
        let mut real = Real::new(&format!("conformance-{place}"), 3, &[]);
        real.partitions = 3;
        case(&real.log());
    }
}

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn aborted_records_and_markers_are_passed() {
    let real = Real::new("transactions", 1, &[]);
    let producer = real.transactional("p");
    real.transaction(&producer, &["a", "b"]);
    producer.commit_transaction(PATIENCE).expect("committed");
    real.transaction(&producer, &["no", "no", "no"]);
    producer.abort_transaction(PATIENCE).expect("aborted");
    real.transaction(&producer, &["c"]);
    producer.commit_transaction(PATIENCE).expect("committed");
    real.transaction(&producer, &["no"]);
    producer.abort_transaction(PATIENCE).expect("aborted");

    let log = real.log();
    // Two records and a marker, three and a marker, one and a marker, one and a marker.
    let end = Offset(11);
    assert_eq!(log.high_watermark(P0), end);
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
    // What comes next is read, after any of them.
    real.transaction(&producer, &["d"]);
    producer.commit_transaction(PATIENCE).expect("committed");
    until("the end is known", || {
        (log.high_watermark(P0) == Offset(13)).then_some(())
    });
    let records = read_to(&log, P0, end, Offset(13));
    assert_eq!(records.iter().map(text).collect::<Vec<_>>(), ["d"]);
}

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn markers_do_not_hold_a_reader_up() {
    let real = Real::new("markers", 1, &[]);
    let log = real.log();
    let producer = real.transactional("p");
    let mut next = Offset(0);
    let mut slowest = Duration::ZERO;
    for round in 0..20_u64 {
        let word = round.to_string();
        real.transaction(&producer, &[&word]);
        producer.commit_transaction(PATIENCE).expect("committed");
        let end = Offset(next.0 + 2);
        until("the end is known", || {
            (log.high_watermark(P0) == end).then_some(())
        });
        let began = Instant::now();
        let records = read_to(&log, P0, next, end);
        slowest = slowest.max(began.elapsed());
        assert_eq!(records.iter().map(text).collect::<Vec<_>>(), [word]);
        next = end;
    }
    println!("slowest read of a record and its marker: {slowest:?}");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn an_open_transaction_of_another_holds_nobody_up() {
    let real = Real::new("open-transaction", 1, &[]);
    let log = real.log();
    append(&log, request("acme", 3, None)).expect("appended");
    let producer = real.transactional("p");
    real.transaction(&producer, &["late"]);
    // Acknowledged behind a record that is not committed: nobody can read it yet.
    append(&log, request("acme", 2, None)).expect("appended");
    until("the end is what can be read", || {
        (log.high_watermark(P0) == Offset(3)).then_some(())
    });
    assert_eq!(read_to(&log, P0, Offset(0), Offset(3)).len(), 3);
    append(&log, request("acme", 1, None)).expect("appended");
    assert_eq!(log.high_watermark(P0), Offset(3));
    let other = real.log();
    assert_eq!(
        other.high_watermark(P0),
        Offset(3),
        "a load begins here, and has a target that it reaches"
    );
    let batch = other.read(P0, Offset(3), EVERYTHING).expect("read");
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

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn gaps_of_a_compacted_topic_are_passed() {
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "1000"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "1000"),
    ];
    let real = Real::new("compacted", 1, &settings);
    for round in 0..20 {
        let record = |n: u64| {
            (
                Some(format!("key-{}", n % 10).into_bytes()),
                Some(vec![round; 100]),
            )
        };
        produce(&real.config, P0, (0..100).map(record));
    }
    let end = Offset(2000);
    let mut log = real.log();
    assert_eq!(log.high_watermark(P0), end);
    until("records are gone", || {
        // The last segment is not compacted: another one begins.
        std::thread::sleep(Duration::from_millis(1100));
        produce(
            &real.config,
            P0,
            [(Some(b"tail".to_vec()), Some(b"x".to_vec()))],
        );
        log = real.log();
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
    // An end in the middle of a gap.
    assert_eq!(read_to(&log, P0, Offset(0), Offset(1000)).len(), 0);
    assert_eq!(
        offsets(&read_to(&log, P0, Offset(1000), end)),
        offsets(&whole)
    );
}

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn records_that_were_deleted_have_fallen_out() {
    let real = Real::new("deleted-records", 1, &[]);
    produce_numbers(&real.config, P0, 0..100);
    let log = real.log();
    read_to(&log, P0, Offset(0), Offset(10));
    let mut before = TopicPartitionList::new();
    before
        .add_partition_offset(&real.config.topic, 0, At::Offset(60))
        .expect("an offset");
    let deleted = real.admin.delete_records(&before, &AdminOptions::new());
    real.runtime.block_on(deleted).expect("deleted");
    let fell_out = |error: Option<ReadError>| match error {
        Some(ReadError::FellOut {
            asked,
            low_watermark,
            ..
        }) => (asked, low_watermark),
        other => panic!("{other:?}"),
    };
    // A reader that begins anew is told at once; one that goes on has some of them already.
    assert_eq!(
        fell_out(real.log().read(P0, Offset(20), EVERYTHING).err()),
        (Offset(20), Offset(60))
    );
    let asked = Offset(5);
    let error = until("it is noticed", || log.read(P0, asked, EVERYTHING).err());
    assert_eq!(fell_out(Some(error)), (asked, Offset(60)));
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
fn a_topic_that_was_made_anew_ends_before_its_readers() {
    let real = Real::new("anew", 1, &[]);
    produce_numbers(&real.config, P0, 0..100);
    let log = real.log();
    read_to(&log, P0, Offset(0), Offset(100));
    real.delete();
    let words = until("it is missed", || log.health().err());
    println!("{words}");
    real.create(&[]);
    produce_numbers(&real.config, P0, 0..5);
    until("healthy", || log.health().ok());
    until("its end is known", || {
        (log.high_watermark(P0) == Offset(5)).then_some(())
    });
    match log.read(P0, Offset(100), EVERYTHING) {
        Err(ReadError::BeyondEnd {
            asked,
            high_watermark,
            ..
        }) => {
            assert_eq!((asked, high_watermark), (Offset(100), Offset(5)));
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
#[ignore = "needs KAFKA_BROKERS"]
fn the_largest_record_goes_through_and_a_larger_one_is_refused() {
    let real = Real::new("large", 1, &[("max.message.bytes", "12000000")]);
    let log = real.log();
    let noise = |bytes: usize| -> Bytes {
        (0..bytes)
            .map(|_| fastrand::u8(..))
            .collect::<Vec<_>>()
            .into()
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
        Err(AppendError::Unavailable(words)) => {
            assert!(words.contains("larger than topic large-"), "{words}");
        }
        other => panic!("{other:?}"),
    }
    // Nobody else is harmed.
    assert_eq!(log.health(), Ok(()));
    let answer = append(&log, request("acme", 1, None)).expect("appended");
    assert_eq!(answer.partitions[0].first_offset, Offset(1));
}

#[test]
#[ignore = "needs KAFKA_BROKERS; prints how fast a partition is read"]
fn the_speed_of_reading() {
    let real = Real::new("speed", 1, &[]);
    let count = 1_000_000_u64;
    let record = |n: u64| {
        (
            Some(format!("workspace-{}", n % 500).into_bytes()),
            Some(vec![b'x'; 200]),
        )
    };
    produce(&real.config, P0, (0..count).map(record));
    let log = real.log();
    for records in [10_000, 1000] {
        let limit = ReadLimit {
            records,
            ..EVERYTHING
        };
        let (mut next, mut seen, mut reads) = (Offset(0), 0, 0);
        let began = Instant::now();
        while next < Offset(count) {
            let batch = log.read(P0, next, limit).expect("read");
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
#[ignore = "needs KAFKA_BROKERS, and KAFKA_DATA, where the broker keeps its logs"]
fn a_flipped_bit_is_damage_with_its_place() {
    let Ok(data) = std::env::var("KAFKA_DATA") else {
        println!("left out: KAFKA_DATA is not set");
        return;
    };
    let real = Real::new("damaged", 1, &[]);
    let word = |text: &str| [(Some(b"acme".to_vec()), Some(text.as_bytes().to_vec()))];
    for text in ["whole-0", "broken-1", "whole-2"] {
        produce(&real.config, P0, word(text));
    }
    let segment = format!("{data}/{}-0/00000000000000000000.log", real.config.topic);
    let mut bytes = std::fs::read(&segment).expect("the segment");
    let place = bytes
        .windows(8)
        .position(|window| window == b"broken-1")
        .expect("not compressed");
    bytes[place] = b'B';
    std::fs::write(&segment, bytes).expect("written");
    let log = real.log();
    let limit = ReadLimit {
        until: Offset(3),
        ..EVERYTHING
    };
    let batch = until("the first one", || {
        let batch = log.read(P0, Offset(0), limit).expect("read");
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

#[test]
#[ignore = "needs KAFKA_BROKERS and KAFKA_DIR of a cluster of one node, which it kills"]
fn events_appended_while_a_broker_is_killed_are_read_once_and_in_order() {
    let script = |command: &str| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/kafka.sh");
        let status = std::process::Command::new(path)
            .args([command, "1"])
            .status();
        assert!(status.expect("the script").success(), "{command}");
    };
    let real = Real::new("killed", 1, &[]);
    let log = real.log();
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
            for _ in 0..2 {
                std::thread::sleep(Duration::from_millis(700));
                let dir = std::env::var("KAFKA_DIR").expect("KAFKA_DIR");
                let pid = std::fs::read_to_string(format!("{dir}/1/pid")).expect("a node");
                script("kill");
                until("it is dead", || {
                    let lives = std::path::Path::new("/proc").join(pid.trim()).exists();
                    (!lives).then_some(())
                });
                until("the trouble is told", || log.health().err());
                script("restart");
            }
        });
        let end = Offset(rounds * 3);
        let records = {
            let mut records = Vec::new();
            let mut next = Offset(0);
            let began = Instant::now();
            while next < end && began.elapsed() < 6 * PATIENCE {
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
