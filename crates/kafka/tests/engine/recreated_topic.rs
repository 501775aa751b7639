//! A topic that is deleted and recreated: what was saved from the old one is not continued from the new one.

use rdkafka::Offset as At;
use workspace_engine_kafka::prepare;

use crate::node::{Node, P0, disk};
use crate::testing::{TestTopic, events, until};

/// The error of a workspace of the deleted topic.
fn of_another(topic: &TestTopic) -> String {
    format!(
        "workspace old was saved from another topic {} than the present one of that name: their offsets do not compare; reset the workspace, or start the engines with another group, to begin with the present one",
        topic.config.topic
    )
}

/// Events of the old workspace in the recreated topic, which then ends before or after the workspace's offset.
const REFILLS: [u32; 2] = [3, 20];

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn workspaces_of_a_recreated_topic_are_parked_at_a_restart() {
    for refill in REFILLS {
        let topic = TestTopic::new("recreated-restart", 1, &[]);
        topic.produce(P0, events("old", 0..10));
        let disk = disk();
        let node = Node::start(&topic, &disk);
        node.wait_ready("old", 10, 10);
        node.stop();

        topic.delete();
        topic.create(&[]);
        topic.produce(P0, events("old", 100..100 + refill));
        topic.produce(P0, events("new", 0..3));
        // With its own copy, again after it has owned the partition of the new topic, and with an empty disk.
        let empty = crate::node::disk();
        for disk in [&disk, &disk, &empty] {
            let node = Node::start(&topic, disk);
            assert_eq!(node.wait_parked("old"), of_another(&topic));
            // A new workspace is not affected.
            node.wait_ready("new", 3, 3);
            node.stop();
        }
    }
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn workspaces_of_a_recreated_topic_are_parked_while_the_engine_runs() {
    for refill in REFILLS {
        let topic = TestTopic::new("recreated-running", 1, &[]);
        topic.produce(P0, events("old", 0..10));
        let disk = disk();
        let node = Node::start(&topic, &disk);
        node.wait_ready("old", 10, 10);

        topic.delete();
        until("health reports that it is missing", || {
            let ready = node.engine.health().ready;
            let mut error_text = ready.into_iter().filter_map(|check| check.outcome.err());
            error_text.find(|error_text| error_text.contains(&topic.config.topic))
        });
        assert!(node.is_ready("old"), "its contents are still right");
        topic.create(&[]);
        topic.produce(P0, events("old", 100..100 + refill));
        assert_eq!(node.wait_parked("old"), of_another(&topic));
        // A workspace that is met before the engine has noticed it is parked too.
        topic.produce(P0, events("new", 0..3));
        node.wait_ready("new", 3, 3);
        topic.produce(P0, events("new", 3..5));
        node.wait_ready("new", 5, 5);
        node.stop();
        // The committed offset is of the recreated topic: the next owner discovers new workspaces from it on.
        assert_eq!(topic.committed(P0), At::Offset(i64::from(refill) + 5));

        // The error persists after the next start.
        let node = Node::start(&topic, &disk);
        node.wait_parked("old");
        node.wait_ready("new", 5, 5);
        node.stop();
    }
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn ready_workspaces_outlast_a_missing_topic_and_no_engine_starts() {
    let topic = TestTopic::new("missing", 1, &[]);
    topic.produce(P0, events("acme", 0..10));
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 10, 10);
    topic.delete();
    let error_text = until("health reports that it is missing", || {
        let ready = node.engine.health().ready;
        ready.into_iter().find_map(|check| check.outcome.err())
    });
    println!("{error_text}");
    node.wait_ready("acme", 10, 10);
    node.stop();
    let error = prepare(&topic.config).expect_err("refused");
    assert!(!error.is_passing());
    let error_text = error.to_string();
    let missing = format!("topic {} does not exist", topic.config.topic);
    assert!(error_text.starts_with(&missing), "{error_text}");
}
