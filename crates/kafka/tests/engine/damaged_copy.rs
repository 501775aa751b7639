//! A local copy of the changelog that is damaged: it is set aside, and rebuilt while the engine runs.

use std::path::Path;

use workspace_engine_core::disk::{DataDir, DataDirSpec};
use workspace_engine_core::store::{Key, LsmStore};
use workspace_lifecycle::Command;

use crate::node::{Node, P0, copy_on, disk, id};
use crate::testing::{TestTopic, events, until};

/// The names in a directory that begin with `beginning`.
fn names(directory: &Path, beginning: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("listed");
    let names = entries.map(|entry| entry.expect("listed").file_name().into_string());
    let mut names: Vec<_> = names.map(|name| name.expect("text")).collect();
    names.retain(|name| name.starts_with(beginning));
    names.sort();
    names
}

/// A topic where two workspaces were saved, and the disk with the copy.
fn saved(name: &str) -> (TestTopic, tempfile::TempDir) {
    let topic = TestTopic::new(name, 1, &[]);
    topic.produce(P0, events("acme", 0..10));
    topic.produce(P0, events("other", 0..5));
    let disk = disk();
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 10, 10);
    node.wait_ready("other", 5, 5);
    node.stop();
    (topic, disk)
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_copy_whose_checksums_fail_during_a_load_is_rebuilt() {
    let (topic, disk) = saved("copy-damaged");
    let spec = DataDirSpec {
        partitions: 1,
        ..DataDirSpec::default()
    };
    {
        let data = DataDir::open(copy_on(&disk), &spec).expect("opened");
        let copy = LsmStore::open(&data).expect("opened");
        let entry = Key::Entry {
            id: id("acme"),
            kind: "resource".into(),
            entity: "e3".into(),
        };
        for key in [entry, Key::Workspace(id("other"))] {
            copy.damage(&key).expect("written");
        }
    }
    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 10, 10);
    node.wait_ready("other", 5, 5);
    topic.produce(P0, events("acme", 10..12));
    node.wait_ready("acme", 12, 12);
    until("the damaged one is set aside", || {
        (names(disk.path(), "kafka-set-aside-").len() == 1).then_some(())
    });
    assert_eq!(names(disk.path(), "kafka-2"), ["kafka-2"]);
    node.stop();

    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 12, 12);
    node.wait_ready("other", 5, 5);
    node.command("other", Command::Reload).expect("reloaded");
    node.wait_ready("other", 5, 5);
    node.stop();
    assert_eq!(names(disk.path(), "kafka-set-aside-").len(), 1);
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_copy_that_cannot_be_opened_is_set_aside_and_rebuilt() {
    let (topic, disk) = saved("copy-broken");
    let written = "of an engine that knows more";
    std::fs::write(copy_on(&disk).join("format.json"), written).expect("written");

    let node = Node::start(&topic, &disk);
    node.wait_ready("acme", 10, 10);
    node.wait_ready("other", 5, 5);
    node.stop();
    let aside = names(disk.path(), "kafka-set-aside-");
    assert_eq!(aside.len(), 1, "{aside:?}");
    let kept = disk.path().join(&aside[0]).join("format.json");
    assert_eq!(std::fs::read_to_string(kept).expect("readable"), written);
}
