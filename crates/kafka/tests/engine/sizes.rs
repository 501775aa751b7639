//! Records of every size that the topic accepts.

use workspace_engine_core::event::MAX_EVENT_BYTES;
use workspace_lifecycle::{Command, Offset};

use crate::node::{Node, P0, disk};
use crate::testing::{TestTopic, events, raw};

const MIB: usize = 1024 * 1024;

/// An event of exactly `bytes`.
fn event_of(workspace: &str, number: u32, bytes: usize) -> String {
    let json = |filling: &str| {
        format!(
            r#"{{"eventType":"resource.created","workspaceId":"{workspace}","data":{{"id":"e{number}","x":"{filling}"}}}}"#
        )
    };
    let text = json(&"x".repeat(bytes - json("").len()));
    assert_eq!(text.len(), bytes);
    text
}

fn large_topic(name: &str) -> TestTopic {
    TestTopic::new(name, 1, &[("max.message.bytes", "12582912")])
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn the_largest_events_are_applied_and_saved() {
    let topic = large_topic("largest");
    let disk = disk();
    for number in 0..8 {
        topic.produce(
            P0,
            [raw("acme", &event_of("acme", number, MAX_EVENT_BYTES))],
        );
    }
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 8, 8);
    topic.produce(P0, [raw("acme", &event_of("acme", 8, MAX_EVENT_BYTES))]);
    node.wait_ready("acme", 9, 9);
    node.stop();

    // From the local copy, and from the changelog alone.
    for disk in [disk, crate::node::disk()] {
        let node = Node::start(&topic, &disk);
        node.wait_ready("acme", 9, 9);
        assert_eq!(node.engine.counters().events_applied.get(), 0, "saved");
        node.stop();
    }
}

/// What a dead letter keeps of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    All,
    /// Only its size: the dead letter would be larger than its topic accepts.
    Size,
}

/// Produces a record that is too large, expects an error that names it with its size, and skips it.
fn check(value: &[u8], kept: Kept) {
    let topic = large_topic("too-large");
    let bytes = value.len();
    topic.produce(P0, events("acme", 0..3));
    topic.produce(P0, [(Some(b"acme".to_vec()), Some(value.to_vec()))]);
    topic.produce(P0, events("acme", 3..5));
    topic.produce(P0, events("other", 0..3));
    let disk = disk();
    let node = Node::start(&topic, &disk);
    let name = &topic.config.topic;
    let error_text = node.wait_parked("acme");
    assert_eq!(
        error_text,
        format!(
            "event at topic {name} partition 0 offset 3 key acme cannot be applied: the event has {bytes} bytes, \
             1048576 are allowed"
        )
    );
    node.wait_ready("other", 3, 3);
    node.command("acme", Command::Skip).expect("skipped");
    node.wait_ready("acme", 5, 5);
    let dead_letters = node.dead_letters("acme");
    assert_eq!(dead_letters.len(), 1);
    let dead_letter = &dead_letters[0];
    assert_eq!(dead_letter.offset, Offset(3));
    match kept {
        Kept::All => {
            assert_eq!(dead_letter.reason, error_text);
            assert!(
                dead_letter.value.as_deref() == Some(value),
                "all of it is kept"
            );
        }
        Kept::Size => {
            let more = format!(
                "{error_text}; its value of {bytes} bytes is too large for a dead letter and is only in the topic"
            );
            assert_eq!((&dead_letter.reason, &dead_letter.value), (&more, &None));
        }
    }
    node.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn an_event_that_is_too_large_parks_its_workspace_and_can_be_skipped() {
    let one_more = event_of("acme", 3, MAX_EVENT_BYTES + 1);
    let many = event_of("acme", 3, 8 * MIB);
    check(one_more.as_bytes(), Kept::All);
    check(many.as_bytes(), Kept::All);
    check(&vec![0xff; 8 * MIB + 1000], Kept::Size);
}
