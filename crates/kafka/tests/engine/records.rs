//! Records that are not events of a workspace: each is skipped and counted, or parks one workspace at its offset.

use workspace_engine_core::misrouted::Misrouted;
use workspace_engine_core::routing::Partitioner;
use workspace_lifecycle::{Command, Offset, PartitionId};
use workspace_status::State;

use crate::node::{Node, P0, disk, id};
use crate::testing::{Raw, TestTopic, event, events, json, raw, until};

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn records_without_a_workspace_are_skipped_and_counted() {
    let topic = TestTopic::new("no-workspace", 1, &[]);
    let value = || Some(crate::testing::json("acme", 50).into_bytes());
    let without_workspace: [Raw; 5] = [
        (None, value()),
        (None, None),
        (Some(Vec::new()), value()),
        (Some(b"no id, but text".to_vec()), value()),
        (Some(vec![0xff, 0x00]), value()),
    ];
    let disk = disk();
    // First between events that are replayed, then between events that arrive live.
    for round in 0..2_u32 {
        let node = Node::start(&topic, &disk);
        let applied = u64::from(round * 20);
        if round > 0 {
            node.wait_ready("acme", applied, usize::try_from(applied).unwrap());
        }
        for half in 0..2 {
            topic.produce(P0, without_workspace.clone());
            let from = round * 20 + half * 10;
            topic.produce(P0, events("acme", from..from + 10));
            let applied = u64::from(from + 10);
            node.wait_ready("acme", applied, usize::try_from(applied).unwrap());
        }
        assert_eq!(node.engine.counters().records_unroutable.get(), 10);
        assert_eq!(node.engine.tracker().count(), 1);
        until("it is at the end", || {
            (node.engine.partitions()[0].lag == 0).then_some(())
        });
        node.stop();
    }
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_record_on_a_partition_that_is_not_its_own_is_named_and_not_applied() {
    let topic = TestTopic::new("misrouted", 2, &[]);
    let (here, stranger) = (topic.name_on(0, "here"), topic.name_on(1, "stranger"));
    topic.produce(0, events(&here, 0..2));
    topic.produce(0, events(&stranger, 0..3));
    topic.produce(0, events(&here, 2..4));
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_ready(&here, 4, 4);
    let expected = Misrouted {
        topic: topic.config.topic.as_str().into(),
        found: PartitionId(0),
        offset: Offset(2),
        id: id(&stranger),
        expected: PartitionId(1),
        partitioner: Partitioner::Murmur2Random,
        partitions: 2,
    };
    let found = until("it is named", || node.engine.misrouted(&id(&stranger)));
    assert_eq!(found, expected);
    assert_eq!(node.engine.counters().records_misrouted.get(), 3);
    let shown = node.snapshot(&stranger).expect("it is in the lists");
    assert_eq!(shown.state(), State::Error);
    assert_eq!(shown.error_message(), Some(&*found.to_string()));
    assert_eq!(node.engine.misrouted(&id(&here)), None);

    // Once its producer is fixed, only its events on its own partition are applied.
    topic.produce(1, events(&stranger, 10..12));
    node.wait_ready(&stranger, 2, 2);
    node.stop();
}

/// Produces a record between events of a workspace, expects it to be parked there, and skips it.
fn check(value: Option<&[u8]>, reason: &str) {
    let topic = TestTopic::new("poison", 1, &[]);
    let poison: Raw = (Some(b"acme".to_vec()), value.map(<[u8]>::to_vec));
    topic.produce(P0, events("acme", 0..5));
    topic.produce(P0, [poison]);
    topic.produce(P0, events("acme", 5..10));
    topic.produce(P0, events("other", 0..5));
    let (name, disk) = (&topic.config.topic, disk());
    let expected =
        format!("event at topic {name} partition 0 offset 5 key acme cannot be applied: {reason}");
    // It is parked there again after a restart, and no other workspace is affected.
    for _ in 0..2 {
        let node = Node::start(&topic, &disk);
        assert_eq!(node.wait_parked("acme"), expected);
        assert_eq!(node.contents("acme"), Some((5, 5)), "what came before it");
        assert_eq!(node.engine.counters().events_poisoned.get(), 1);
        node.wait_ready("other", 5, 5);
        node.stop();
    }
    let node = Node::start(&topic, &disk);
    node.wait_parked("acme");
    node.command("acme", Command::Skip).expect("skipped");
    node.wait_ready("acme", 10, 10);
    let dead_letters = node.dead_letters("acme");
    assert_eq!(dead_letters.len(), 1);
    let dead_letter = &dead_letters[0];
    assert_eq!(
        (dead_letter.partition, dead_letter.offset),
        (PartitionId(0), Offset(5))
    );
    assert_eq!((&dead_letter.topic, &dead_letter.reason), (name, &expected));
    assert_eq!(dead_letter.key.as_deref(), Some(&b"acme"[..]));
    assert_eq!(dead_letter.value.as_deref(), value);
    node.stop();

    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 10, 10);
    node.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_record_that_cannot_be_applied_parks_the_workspace_of_its_key() {
    let of_another = json("other", 1);
    let rows: [(Option<&[u8]>, &str); 4] = [
        (None, "the record has no value"),
        (Some(b"<event/>"), "not an event: expected a JSON object"),
        (
            Some(&[0xff, 0x00, 0xfe]),
            "not an event: expected a JSON object",
        ),
        (
            Some(of_another.as_bytes()),
            r#"the record's key is "acme", but its workspaceId is "other""#,
        ),
    ];
    for (value, reason) in rows {
        check(value, reason);
    }
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_first_record_that_cannot_be_applied_parks_a_new_workspace() {
    let topic = TestTopic::new("poison-first", 1, &[]);
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_open(&[0]);
    topic.produce(P0, [raw("acme", "{}")]);
    let error_text = node.wait_parked("acme");
    let name = &topic.config.topic;
    assert_eq!(
        error_text,
        format!(
            "event at topic {name} partition 0 offset 0 key acme cannot be applied: workspaceId is missing"
        )
    );
    topic.produce(P0, [event("acme", 1)]);
    node.command("acme", Command::Skip).expect("skipped");
    node.wait_ready("acme", 1, 1);
    node.stop();
}
