//! Topics that are empty, get new workspaces, or get more partitions than the engine was started with.

use workspace_engine_core::misrouted::Misrouted;
use workspace_engine_core::routing::Partitioner;
use workspace_engine_kafka::prepare;
use workspace_lifecycle::{Offset, PartitionId};

use crate::node::{Node, Start, disk, id};
use crate::testing::{TestTopic, event, events, until};

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn members_of_an_empty_topic_take_up_the_first_events() {
    let topic = TestTopic::new("empty", 2, &[]);
    let (first, second) = (disk(), disk());
    let one = Node::start(&topic, &first);
    one.wait_open(&[0, 1]);
    let start = Start {
        owner: "two",
        ..Start::default()
    };
    let two = Node::start_as(&topic, &second, &start);
    until("each has a partition", || {
        let open = |node: &Node| {
            let reports = node.engine.partitions();
            reports.len() == 1 && reports[0].opening.is_none()
        };
        (open(&one) && open(&two)).then_some(())
    });
    for node in [&one, &two] {
        assert_eq!(node.engine.tracker().count(), 0);
        until("it is a member and healthy", || {
            let report = node.member();
            let is_member = report.last_error.is_none() && report.joining_for.is_none();
            let health = node.engine.health();
            let is_healthy = health.ready.iter().all(|check| check.outcome.is_ok());
            (report.partitions == 1 && is_member && is_healthy).then_some(())
        });
    }

    let names: Vec<String> = (0..20).map(|number| format!("new-{number}")).collect();
    for (round, events) in [(0_u32, 3_u64), (1, 6)] {
        for name in &names {
            let more = (round * 3..).take(3).map(|number| event(name, number));
            topic.produce(topic.home(name), more);
        }
        for name in &names {
            let owner = until("one of them owns it", || {
                [&one, &two]
                    .into_iter()
                    .find(|node| node.engine.is_assigned(PartitionId(topic.home(name))))
            });
            owner.wait_ready(name, events, usize::try_from(events).unwrap());
        }
    }
    assert_eq!(one.ready() + two.ready(), names.len());
    two.stop();
    one.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn an_added_partition_is_not_served_and_the_others_continue() {
    let mut topic = TestTopic::new("grown", 2, &[]);
    // So that the group learns of the new partition at once, not after minutes.
    topic
        .config
        .properties
        .set("topic.metadata.refresh.interval.ms", "500")
        .unwrap();
    let (a, b) = (topic.name_on(0, "a"), topic.name_on(1, "b"));
    topic.produce(0, events(&a, 0..5));
    topic.produce(1, events(&b, 0..5));
    let disk = disk();
    let node = Node::start(&topic, &disk);
    for name in [&a, &b] {
        node.wait_ready(name, 5, 5);
    }

    topic.grow(3);
    let error_text = until("the added partition says why it is not served", || {
        node.opening(2)
            .filter(|error_text| error_text.contains(&topic.config.topic))
    });
    assert_eq!(
        error_text,
        format!(
            "topic {} now has a partition 2, but had 2 partitions when this engine was started: workspaces would be looked \
             for in the wrong partition; partitions must not be added to a topic that is partitioned by key",
            topic.config.topic
        )
    );
    // Health names it as well: no engine reads the events of the added partition.
    let bad = Err(format!("partition 2 cannot be read: {error_text}"));
    until("health reports it", || {
        let mut ready = node.engine.health().ready.into_iter();
        ready.find(|check| check.outcome == bad)
    });

    // The old partitions continue.
    topic.produce(0, events(&a, 5..8));
    topic.produce(1, events(&b, 5..8));
    for name in [&a, &b] {
        node.wait_ready(name, 8, 8);
    }
    // A producer that counts the new partition moves workspaces; their events on partitions that the engine reads are
    // reported as misrouted, and not applied.
    topic.produce(1, [event(&a, 99)]);
    let misrouted = until("it is noticed", || node.engine.misrouted(&id(&a)));
    let expected = Misrouted {
        topic: topic.config.topic.as_str().into(),
        found: PartitionId(1),
        offset: Offset(8),
        id: id(&a),
        expected: PartitionId(0),
        partitioner: Partitioner::Murmur2Random,
        partitions: 2,
    };
    assert_eq!(misrouted, expected);
    node.wait_ready(&a, 8, 8);
    assert_eq!(node.member().losses, 0);
    node.stop();

    // An engine that finds more partitions than its changelog has does not start.
    let error = prepare(&topic.config).expect_err("refused");
    assert!(!error.is_passing(), "a retry does not help");
    let (name, changelog) = (&topic.config.topic, topic.config.changelog_topic());
    assert_eq!(
        error.to_string(),
        format!(
            "topic {changelog} has 2 partitions and topic {name} has 3: workspaces would be looked for in the wrong \
             partition; partitions must not be added to a topic that is partitioned by key"
        )
    );
}
