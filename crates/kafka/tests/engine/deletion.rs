//! Workspaces that an operator deletes or resets on a cluster.

use workspace_lifecycle::Command;

use crate::node::{Node, P0, Start, disk};
use crate::testing::{TestTopic, events, until};

fn owned_by(owner: &'static str) -> Start {
    Start {
        owner,
        ..Start::default()
    }
}

/// Waits until the partition is read to its end.
fn wait_read(node: &Node) {
    node.wait_open(&[P0]);
    until("the partition is read to its end", || {
        let reports = node.engine.partitions();
        let report = reports.iter().find(|report| report.partition.0 == P0)?;
        (report.high_watermark.0 > 0 && report.lag == 0).then_some(())
    });
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_deleted_workspace_stays_deleted_for_every_later_owner() {
    let topic = TestTopic::new("deleted", 1, &[]);
    topic.produce(P0, events("acme", 0..10));
    topic.produce(P0, events("other", 0..3));
    let warm = disk();
    let node = Node::start(&topic, &warm);
    node.wait_ready("acme", 10, 10);
    node.wait_ready("other", 3, 3);
    node.command("acme", Command::Delete).expect("deleted");
    until("it is removed", || {
        node.snapshot("acme").is_none().then_some(())
    });
    node.stop();

    // With its copy, with an empty disk, and again with the copy, which has missed the writes of an owner.
    let empty = disk();
    for (owner, disk) in [("one", &warm), ("two", &empty), ("one", &warm)] {
        let node = Node::start_as(&topic, disk, &owned_by(owner));
        node.wait_ready("other", 3, 3);
        wait_read(&node);
        assert!(node.snapshot("acme").is_none(), "{owner}");
        assert_eq!(node.history("acme"), 0, "{owner}");
        node.stop();
    }
    // An event after the deletion creates a new workspace, on every disk.
    topic.produce(P0, events("acme", 10..12));
    for disk in [&empty, &warm, &crate::node::disk()] {
        let node = Node::start(&topic, disk);
        node.wait_ready("acme", 2, 2);
        node.stop();
    }
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_reset_rebuilds_a_workspace_of_a_recreated_topic() {
    let topic = TestTopic::new("recreated-reset", 1, &[]);
    // Its first event has a higher offset than all events of the recreated topic.
    topic.produce(P0, events("other", 0..20));
    topic.produce(P0, events("acme", 0..10));
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 10, 10);
    node.stop();
    topic.delete();
    topic.create(&[]);
    topic.produce(P0, events("acme", 100..104));
    let node = Node::start(&topic, &disk);
    node.wait_parked("acme");
    node.command("acme", Command::Reset { force: false })
        .expect("reset");
    node.wait_ready("acme", 4, 4);
    node.stop();
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 4, 4);
    node.stop();
}
