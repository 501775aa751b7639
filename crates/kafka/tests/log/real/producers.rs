//! A producer whose engine has ended, with many records of other producers after its own.

use std::time::{Duration, Instant, SystemTime};

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use workspace_engine_core::log::conformance::{append, request};
use workspace_engine_core::log::{Append, AppendError, EventLog};
use workspace_lifecycle::{Offset, PartitionId};

use crate::support::{P0, produce_numbers};
use crate::testing::{PATIENCE, TestTopic, until};

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn a_request_of_an_ended_engine_is_found_before_many_others() {
    const PARTITIONS: u32 = 4;
    let topic = TestTopic::new("producers", PARTITIONS, &[]);
    let all = || {
        let mut all = request("w0", 0, Some(("p", 2)));
        for number in 0..50 {
            let one = request(&format!("w{number}"), 3, None);
            all.events.extend(one.events);
        }
        all
    };
    let fill = |count| {
        for partition in (0..PARTITIONS).map(PartitionId) {
            produce_numbers(&topic.config, partition, 0..count);
        }
    };
    fill(150_000);
    let first = topic.log();
    append(&first, request("w0", 1, Some(("p", 1)))).expect("appended");
    let answer = append(&first, all()).expect("appended");
    drop(first);
    fill(150_000);

    let second = topic.log();
    let total = |at_least: u64| {
        until("the ends are known", || {
            let partitions = (0..PARTITIONS).map(PartitionId);
            let total = partitions.map(|id| second.high_watermark(id).0).sum();
            (total >= at_least).then_some(total)
        })
    };
    let before: u64 = total(1_200_151);
    let timed = |what: &str, append_this: Append| {
        let began = Instant::now();
        let answer = append(&second, append_this);
        println!("{what}: {:?}", began.elapsed());
        answer
    };
    let again = timed("the first look", all()).expect("answered");
    assert!(again.repeated);
    assert_eq!(again.partitions, answer.partitions);
    assert_eq!(total(before), before);
    let next = timed("the next request", request("w0", 1, Some(("p", 3)))).expect("appended");
    assert!(!next.repeated);
    let other = timed("another producer", request("w0", 1, Some(("q", 1)))).expect("appended");
    assert!(!other.repeated);
    assert!(matches!(
        timed("a gap", request("w0", 1, Some(("p", 5)))),
        Err(AppendError::Sequence { expected: 4, .. })
    ));
    assert_eq!(total(before + 2), before + 2);
}

#[test]
#[ignore = "needs KAFKA_BROKERS"]
fn old_records_are_found_only_at_the_end_of_the_topic() {
    const EVENTS: u64 = 3_000;
    let topic = TestTopic::new("old-producers", 1, &[]);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &topic.config.brokers)
        .create()
        .expect("a producer");
    let hour_ago = SystemTime::now() - Duration::from_hours(1);
    let since = hour_ago.duration_since(SystemTime::UNIX_EPOCH);
    let time_ms = i64::try_from(since.expect("later").as_millis()).expect("small");
    let one = |id| request("acme", 1, Some((id, 1)));
    for offset in 0..EVENTS {
        let id = match offset {
            0 => "first",
            2_500 => "late",
            _ => "other",
        };
        let sender = [
            ("producer-id", id),
            ("producer-sequence", "1"),
            ("producer-index", "0"),
        ];
        let headers = sender
            .into_iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(value),
                })
            });
        let (workspace, value) = &one(id).events[0];
        let record = BaseRecord::to(&topic.config.topic)
            .partition(0)
            .key(workspace.as_str())
            .payload(&value[..])
            .timestamp(time_ms)
            .headers(headers);
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("sent");
    }
    producer.flush(PATIENCE).expect("acknowledged");

    let log = topic.log();
    let late = append(&log, one("late")).expect("answered");
    assert!(late.repeated);
    assert_eq!(late.partitions[0].first_offset, Offset(2_500));
    assert!(!append(&log, one("first")).expect("appended").repeated);
    assert_eq!(log.high_watermark(P0), Offset(EVENTS + 1));
}
