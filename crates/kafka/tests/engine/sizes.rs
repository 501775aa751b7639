//! Records of every size that the topic accepts.

use workspace_engine_core::event::MAX_EVENT_BYTES;
use workspace_lifecycle::{Command, Offset};

use crate::node::{Node, disk};
use crate::place::{P0, Place, events, raw};

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

fn large_topic(name: &str) -> Place {
    Place::new(name, 1, &[("max.message.bytes", "12582912")])
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn the_largest_events_are_applied_and_saved() {
    let place = large_topic("largest");
    let disk = disk();
    for number in 0..8 {
        place.produce(
            P0,
            [raw("acme", &event_of("acme", number, MAX_EVENT_BYTES))],
        );
    }
    let node = Node::start(&place, &disk);
    node.wait_ready("acme", 8, 8);
    place.produce(P0, [raw("acme", &event_of("acme", 8, MAX_EVENT_BYTES))]);
    node.wait_ready("acme", 9, 9);
    node.stop();

    // From the local copy, and from the changelog alone.
    for disk in [disk, crate::node::disk()] {
        let node = Node::start(&place, &disk);
        node.wait_ready("acme", 9, 9);
        assert_eq!(node.engine.counters().events_applied.get(), 0, "saved");
        node.stop();
    }
}

/// What a dead letter keeps of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    All,
    /// Only its size: the letter would be larger than its topic accepts.
    Size,
}

/// Produces a record that is too large, expects an error that names it with its size, and skips it.
fn check(name: &str, value: &[u8], kept: Kept) {
    let place = large_topic(name);
    let bytes = value.len();
    place.produce(P0, events("acme", 0..3));
    place.produce(P0, [(Some(b"acme".to_vec()), Some(value.to_vec()))]);
    place.produce(P0, events("acme", 3..5));
    place.produce(P0, events("other", 0..3));
    let disk = disk();
    let node = Node::start(&place, &disk);
    let topic = &place.config.topic;
    let error_text = node.wait_parked("acme");
    assert_eq!(
        error_text,
        format!(
            "event at topic {topic} partition 0 offset 3 key acme cannot be applied: the event has {bytes} bytes, \
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
                "{error_text}; its value of {bytes} bytes is too large for a dead letter and stands only in the topic"
            );
            assert_eq!((&dead_letter.reason, &dead_letter.value), (&more, &None));
        }
    }
    node.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn an_event_of_one_byte_too_many_parks_its_workspace_and_says_its_size() {
    let value = event_of("acme", 3, MAX_EVENT_BYTES + 1);
    check("one-more", value.as_bytes(), Kept::All);
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn an_event_of_many_mebibytes_parks_its_workspace_and_says_its_size() {
    let value = event_of("acme", 3, 8 * MIB);
    check("many", value.as_bytes(), Kept::All);
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn many_mebibytes_that_are_no_text_park_their_workspace_and_can_be_skipped() {
    check("many-bytes", &vec![0xff; 8 * MIB + 1000], Kept::Size);
}
