//! A topic that is deleted and recreated: what was saved from the old one is not continued from the new one.

use std::time::Duration;

use rdkafka::Offset as At;
use workspace_engine_kafka::prepare;

use crate::node::{Node, disk};
use crate::place::{P0, Place, events, until};

/// The error of a workspace of the deleted topic.
fn of_another(place: &Place) -> String {
    format!(
        "workspace old was saved from another topic {} than the one that is there: it was made anew, and offsets of the one say nothing about the other; engines of another group begin from the one that is there",
        place.config.topic
    )
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn workspaces_that_stand_behind_the_end_of_a_topic_made_anew_are_parked_at_a_restart() {
    let place = Place::new("anew-restart", 1, &[]);
    place.produce(P0, events("old", 0..10));
    let disk = disk();
    let node = Node::start(&place, &disk);
    node.wait_ready("old", 10, 10);
    node.stop();

    place.delete();
    place.create(&[]);
    place.produce(P0, events("new", 0..3));
    let node = Node::start(&place, &disk);
    assert_eq!(node.wait_parked("old"), of_another(&place));
    // A new workspace is not affected.
    node.wait_ready("new", 3, 3);
    node.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn workspaces_that_stand_behind_the_end_of_a_topic_made_anew_are_parked_while_the_engine_runs() {
    let place = Place::new("anew-running", 1, &[]);
    place.produce(P0, events("old", 0..10));
    let disk = disk();
    let node = Node::start(&place, &disk);
    node.wait_ready("old", 10, 10);

    place.delete();
    until("health tells that it is missed", || {
        let ready = node.engine.health().ready;
        let mut error_text = ready.into_iter().filter_map(|check| check.outcome.err());
        error_text.find(|error_text| error_text.contains(&place.config.topic))
    });
    assert!(node.is_ready("old"), "what it has is still right");
    place.create(&[]);
    place.produce(P0, events("new", 0..3));
    assert_eq!(node.wait_parked("old"), of_another(&place));
    node.wait_ready("new", 3, 3);
    place.produce(P0, events("new", 3..5));
    node.wait_ready("new", 5, 5);
    node.stop();
    // The committed offset is of the recreated topic: the next owner discovers new workspaces from it on.
    assert_eq!(place.committed(P0), At::Offset(5));

    // The error persists after the next start.
    let node = Node::start(&place, &disk);
    node.wait_parked("old");
    node.wait_ready("new", 5, 5);
    node.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn workspaces_of_a_topic_that_is_made_anew_and_grows_past_them_are_parked_while_the_engine_runs() {
    let place = Place::new("anew-running-longer", 1, &[]);
    place.produce(P0, events("old", 0..10));
    let disk = disk();
    let node = Node::start(&place, &disk);
    node.wait_ready("old", 10, 10);
    // The log queries the topic's id twice a second.
    std::thread::sleep(Duration::from_secs(2));

    place.delete();
    place.create(&[]);
    place.produce(P0, events("old", 100..120));
    assert_eq!(node.wait_parked("old"), of_another(&place));
    place.produce(P0, events("new", 0..3));
    node.wait_ready("new", 3, 3);
    node.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn who_is_ready_stays_so_while_the_topic_is_gone_and_nobody_starts_without_it() {
    let place = Place::new("gone", 1, &[]);
    place.produce(P0, events("acme", 0..10));
    let disk = disk();
    let node = Node::start(&place, &disk);
    node.wait_ready("acme", 10, 10);
    place.delete();
    let error_text = until("health tells that it is missed", || {
        let ready = node.engine.health().ready;
        ready.into_iter().find_map(|check| check.outcome.err())
    });
    println!("{error_text}");
    node.wait_ready("acme", 10, 10);
    node.stop();
    let error = prepare(&place.config).expect_err("refused");
    assert!(!error.is_passing());
    let error_text = error.to_string();
    let missing = format!("topic {} does not exist", place.config.topic);
    assert!(error_text.starts_with(&missing), "{error_text}");
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn workspaces_of_a_topic_that_was_made_anew_and_has_grown_past_them_are_parked() {
    let place = Place::new("anew-longer", 1, &[]);
    place.produce(P0, events("old", 0..10));
    let disk = disk();
    let node = Node::start(&place, &disk);
    node.wait_ready("old", 10, 10);
    node.stop();

    place.delete();
    place.create(&[]);
    place.produce(P0, events("old", 100..120));
    place.produce(P0, events("new", 0..3));
    // With its own copy, again after it has owned the partition of the new topic, and with an empty disk.
    let empty = self::disk();
    for disk in [&disk, &disk, &empty] {
        let node = Node::start(&place, disk);
        assert_eq!(node.wait_parked("old"), of_another(&place));
        node.wait_ready("new", 3, 3);
        node.stop();
    }
}
