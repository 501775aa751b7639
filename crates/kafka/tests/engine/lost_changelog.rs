//! A changelog that is lost: the group's offset is meaningless without its ownership record.

use std::path::Path;

use rdkafka::Offset as At;
use workspace_engine_core::routing::Partitioner;
use workspace_engine_kafka::{AcceptLoss, GroupProtocol, prepare};

use crate::node::{Node, P0, copy_on, disk, id};
use crate::testing::{TestTopic, events, until};

fn topic(name: &str, protocol: GroupProtocol) -> TestTopic {
    let mut topic = TestTopic::new(name, 1, &[]);
    topic.config.protocol = protocol;
    topic
}

/// The files that were set aside on a disk.
fn set_aside(copy: &Path) -> Vec<String> {
    let Ok(found) = std::fs::read_dir(copy.join("set-aside")) else {
        return Vec::new();
    };
    let names = found.map(|entry| entry.expect("readable").file_name().into_string());
    names.collect::<Result<_, _>>().expect("text")
}

/// Waits until a partition is refused. Returns the reason.
fn refused(node: &Node) -> String {
    until("the partition is refused", || {
        let error_text = node.opening(P0)?;
        error_text.contains("is not served").then_some(error_text)
    })
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_lost_changelog_is_rebuilt_from_a_topic_that_has_everything() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        rebuilds(protocol);
    }
}

fn rebuilds(protocol: GroupProtocol) {
    let topic = topic("changelog-lost", protocol);
    topic.produce(P0, events("acme", 0..30));
    let (warm, empty) = (disk(), disk());
    let node = Node::start(&topic, &warm);
    node.wait_ready("acme", 30, 30);
    node.stop();
    let mut total = 30;
    for disk in [&warm, &empty] {
        topic.delete_changelog();
        topic.produce(P0, events("acme", total..total + 1));
        total += 1;
        let node = Node::start(&topic, disk);
        node.wait_ready("acme", total.into(), total as usize);
        let notice = node.notice(P0).expect("a notice");
        assert!(
            notice.ends_with("; all of the topic is read again, from offset 0"),
            "{notice}"
        );
        node.stop();
    }
    // The copy held what the changelog had lost; it is set aside in a readable form.
    let aside = set_aside(&copy_on(&warm));
    assert_eq!(aside.len(), 1, "{aside:?}");
    let entries = copy_on(&warm)
        .join("set-aside")
        .join(&aside[0])
        .join("acme");
    let entries = std::fs::read_to_string(entries.join("entries.jsonl")).expect("readable");
    assert!(entries.contains("e29"), "{entries}");
    assert!(set_aside(&copy_on(&empty)).is_empty());
    // Later starts succeed, also without the beginning of the topic.
    topic.remove_below(P0, 20);
    let node = Node::start(&topic, &warm);
    node.wait_ready("acme", 32, 32);
    assert_eq!(node.notice(P0), None);
    node.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_lost_changelog_is_refused_where_the_topic_begins_later() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        refuses(protocol);
    }
}

fn refuses(protocol: GroupProtocol) {
    let mut topic = topic("changelog-refused", protocol);
    topic.produce(P0, events("acme", 0..30));
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 30, 30);
    node.stop();
    topic.remove_below(P0, 5);
    topic.delete_changelog();
    topic.produce(P0, events("acme", 30..31));
    for _ in 0..2 {
        let node = Node::start(&topic, &disk);
        let error_text = refused(&node);
        let expected = format!(
            "partition 0 is not served: the group has committed offset 30 of topic {} partition 0, but the ownership \
             record that it was committed under is not in topic {}, which was deleted, recreated or has lost its end; \
             the events begin at offset 5; start the engines with --accept-loss to begin at offset 5 with the events that exist",
            topic.config.topic,
            topic.config.changelog_topic()
        );
        assert_eq!(error_text, expected);
        assert!(node.snapshot("acme").is_none(), "nothing is served");
        node.stop();
    }
    assert_eq!(topic.committed(P0), At::Offset(30), "as it was");
    assert_eq!(set_aside(&copy_on(&disk)).len(), 1);

    topic.config.accept_loss = AcceptLoss::Yes;
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 26, 26);
    let notice = node.notice(P0).expect("a notice");
    assert!(
        notice.ends_with(
            "; this loss was accepted (accept-loss), and the partition begins at offset 5 with the events that exist"
        ),
        "{notice}"
    );
    node.stop();
    // A loss that was accepted once is not reported again.
    topic.config.accept_loss = AcceptLoss::No;
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 26, 26);
    assert_eq!(node.notice(P0), None);
    node.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn an_offset_that_something_else_committed_is_refused() {
    let mut topic = topic("foreign-offset", GroupProtocol::Classic);
    topic.produce(P0, events("acme", 0..30));
    topic.commit(P0, 20, "");
    let disk = disk();
    let node = Node::start(&topic, &disk);
    let error_text = refused(&node);
    let expected = format!(
        "partition 0 is not served: offset 20 of topic {} partition 0 was not committed by an engine of group {}",
        topic.config.topic, topic.config.group
    );
    assert!(error_text.starts_with(&expected), "{error_text}");
    node.stop();
    topic.config.accept_loss = AcceptLoss::Yes;
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 30, 30);
    node.stop();

    // Nor if an engine has owned the partition before.
    topic.config.accept_loss = AcceptLoss::No;
    topic.produce(P0, events("acme", 30..40));
    topic.produce(P0, events("new", 0..2));
    topic.commit(P0, 42, "by hand");
    let node = Node::start(&topic, &disk);
    refused(&node);
    node.stop();
    // Another way out that the error names: without the group's offset each workspace continues from its own.
    topic.delete_offsets();
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 40, 40);
    node.wait_ready("new", 2, 2);
    node.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_new_group_begins_where_the_topic_begins() {
    let topic = topic("new-group", GroupProtocol::Classic);
    topic.produce(P0, events("acme", 0..30));
    topic.remove_below(P0, 5);
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 25, 25);
    assert_eq!(
        node.notice(P0).as_deref(),
        Some(
            "the group begins at offset 5, where the topic begins now: earlier events were removed"
        )
    );
    node.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn an_engine_whose_changelog_is_recreated_must_be_restarted() {
    let topic = TestTopic::new("changelog-recreated", 1, &[]);
    topic.produce(P0, events("acme", 0..30));
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 30, 30);
    until("it is saved", || {
        (topic.committed(P0) == At::Offset(30)).then_some(())
    });
    topic.delete_changelog();
    until("it exists again", || prepare(&topic.config).ok());
    topic.produce(P0, events("acme", 30..31));
    let reason = until("it must be restarted", || node.needs_restart());
    println!("{reason}");
    assert!(reason.contains("has lost its end") || reason.contains("the ownership record"));
    assert!(reason.contains("until this engine is restarted"));
    node.abandon();
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 31, 31);
    assert_eq!(node.needs_restart(), None);
    node.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_disk_of_another_group_gives_a_workspace_nothing() {
    let mut topic = TestTopic::new("another-partitioner", 2, &[]);
    let other = Partitioner::ConsistentRandom;
    let moves = |name: &String| other.partition_of(&id(name), 2).0 != topic.home(name);
    let acme = (0..10_000)
        .map(|number| format!("acme{number}"))
        .find(moves)
        .expect("one");
    topic.produce(topic.home(&acme), events(&acme, 0..10));
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_ready(&acme, 10, 10);
    node.stop();
    topic.produce(other.partition_of(&id(&acme), 2).0, events(&acme, 20..23));
    topic.config.partitioner = other;
    topic.config.group += "-other";
    let node = Node::start(&topic, &disk);
    node.wait_ready(&acme, 3, 3);
    node.stop();
    let copy = copy_on(&disk);
    let beside = std::fs::read_dir(copy.parent().expect("a parent")).expect("listed");
    let aside = beside.filter(|entry| {
        let name = entry.as_ref().expect("listed").file_name();
        name.to_string_lossy().contains("-set-aside-")
    });
    assert_eq!(aside.count(), 1, "nothing is deleted");
}
