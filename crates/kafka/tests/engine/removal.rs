//! Records that the cluster removes, before or after they were applied.

use workspace_lifecycle::{Command, Offset};

use crate::node::{Node, P0, disk};
use crate::testing::{TestTopic, events};

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn removed_records_that_were_applied_are_not_needed() {
    let topic = TestTopic::new("removed-below", 1, &[]);
    topic.produce(P0, events("acme", 0..10));
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 10, 10);
    topic.remove_below(P0, 10);
    topic.produce(P0, events("acme", 10..12));
    node.wait_ready("acme", 12, 12);
    assert!(node.is_ready("acme"));
    node.stop();

    // From the local copy, and from the changelog alone.
    for disk in [disk, crate::node::disk()] {
        let node = Node::start(&topic, &disk);
        node.wait_ready("acme", 12, 12);
        node.stop();
    }
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn removed_records_that_were_not_applied_park_their_workspace() {
    let topic = TestTopic::new("removed-above", 1, &[]);
    topic.produce(P0, events("acme", 0..10));
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 10, 10);
    node.stop();
    topic.produce(P0, events("acme", 10..20));
    topic.remove_below(P0, 15);

    let node = Node::start(&topic, &disk);
    let reason = "events of partition 0 from offset 10 on were removed by retention before they were applied; the log \
                  begins at 15";
    assert_eq!(node.wait_parked("acme"), reason);
    assert_eq!(node.contents("acme"), Some((10, 10)), "as it was");
    node.command("acme", Command::Skip).expect("skipped");
    node.wait_ready("acme", 15, 15);
    let dead_letters = node.dead_letters("acme");
    assert_eq!(dead_letters.len(), 1);
    let dead_letter = &dead_letters[0];
    assert_eq!(
        (dead_letter.offset, dead_letter.reason.as_str()),
        (Offset(14), reason)
    );
    assert_eq!((&dead_letter.key, &dead_letter.value), (&None, &None));
    node.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_workspace_loaded_after_its_records_were_removed_is_parked() {
    let topic = TestTopic::new("removed-cold", 1, &[]);
    topic.produce(P0, events("cold", 0..5));
    topic.produce(P0, events("warm", 0..5));
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_ready("cold", 5, 5);
    node.wait_ready("warm", 5, 5);
    node.command("cold", Command::Unload).expect("unloaded");
    topic.produce(P0, events("cold", 5..10));
    topic.produce(P0, events("warm", 5..10));
    node.wait_ready("warm", 10, 10);
    topic.remove_below(P0, 18);
    node.command("cold", Command::Load).expect("requested");
    assert_eq!(
        node.wait_parked("cold"),
        "events of partition 0 from offset 10 on were removed by retention before they were applied; the log begins at \
         18"
    );
    assert!(node.is_ready("warm"));
    node.command("cold", Command::Skip).expect("skipped");
    node.wait_ready("cold", 5, 5);
    topic.produce(P0, events("cold", 10..12));
    node.wait_ready("cold", 7, 7);
    node.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_skip_over_all_removed_records_leads_to_the_end() {
    let topic = TestTopic::new("removed-all", 1, &[]);
    topic.produce(P0, events("acme", 0..10));
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 10, 10);
    node.stop();
    topic.produce(P0, events("acme", 10..20));
    topic.remove_below(P0, 20);

    let node = Node::start(&topic, &disk);
    assert_eq!(
        node.wait_parked("acme"),
        "events of partition 0 from offset 10 on were removed by retention before they were applied; the log begins at \
         20"
    );
    topic.produce(P0, events("new", 0..2));
    node.wait_ready("new", 2, 2);
    node.command("acme", Command::Skip).expect("skipped");
    node.wait_ready("acme", 10, 10);
    topic.produce(P0, events("acme", 20..22));
    node.wait_ready("acme", 12, 12);
    node.stop();
}
