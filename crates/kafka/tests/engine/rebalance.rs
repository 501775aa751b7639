//! Partitions that move while their workspaces load: no load, however slow, makes the group remove its engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use workspace_engine_kafka::GroupProtocol;
use workspace_lifecycle::PartitionId;
use workspace_status::State;

use crate::node::{Node, Start, Wrap, disk};
use crate::slow::{Gate, slow};
use crate::testing::{PATIENCE, TestTopic, event, until};

const PARTITIONS: u32 = 4;
const WORKSPACES: u64 = 200;
const EVENTS: u32 = 3;

/// Saved workspaces, and a group that waits six seconds for a member that does not poll.
fn topic_with_workspaces(name: &str, protocol: GroupProtocol) -> (TestTopic, Vec<String>) {
    let mut topic = TestTopic::new(name, PARTITIONS, &[]);
    topic.config.protocol = protocol;
    topic
        .config
        .properties
        .set("max.poll.interval.ms", "6000")
        .unwrap();
    let names: Vec<String> = (0..WORKSPACES).map(|number| format!("w{number}")).collect();
    for partition in 0..PARTITIONS {
        let of_it = names.iter().filter(|name| topic.home(name) == partition);
        let all = of_it.flat_map(|name| (0..EVENTS).map(move |number| event(name, number)));
        topic.produce(partition, all);
    }
    let disk = disk();
    let node = Node::start(&topic, &disk);
    wait_all_ready(&[&node]);
    node.stop();
    (topic, names)
}

/// Waits until each workspace is ready, and checks meanwhile that no member lost its partitions.
fn wait_all_ready(nodes: &[&Node]) {
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        for node in nodes {
            let report = node.member();
            assert_eq!(report.losses, 0, "{:?}", report.last_error);
        }
        let ready: usize = nodes.iter().map(|node| node.ready()).sum();
        if u64::try_from(ready).unwrap() == WORKSPACES {
            return;
        }
        assert!(Instant::now() < deadline, "{ready} are ready");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn start(topic: &TestTopic, disk: &TempDir, owner: &'static str, store: &Wrap) -> Node {
    let start = Start {
        owner,
        permits: 64,
        store: Arc::clone(store),
    };
    Node::start_as(topic, disk, &start)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Loads {
    AreQuick,
    OutlastPolls,
}

fn check(protocol: GroupProtocol, loads: Loads) {
    let gate = Arc::new(Gate::default());
    let store = match loads {
        Loads::AreQuick => Start::default().store,
        Loads::OutlastPolls => slow(&gate),
    };
    let (topic, names) = topic_with_workspaces("rebalance", protocol);
    let (first, second) = (disk(), disk());
    let one = start(&topic, &first, "one", &store);
    until("loads are under way", || {
        let (loading, _) = one.engine.admission();
        (loading > 0 || one.ready() > 0).then_some(())
    });
    let two = start(&topic, &second, "two", &store);
    until("each has its share", || {
        (one.member().partitions == 2 && two.member().partitions == 2).then_some(())
    });
    if loads == Loads::OutlastPolls {
        let (loading, _) = one.engine.admission();
        assert!(loading > 0, "partitions moved while workspaces loaded");
    }
    gate.open();
    wait_all_ready(&[&one, &two]);
    for name in &names {
        let owners: Vec<&Node> = [&one, &two]
            .into_iter()
            .filter(|node| node.snapshot(name).is_some())
            .collect();
        assert_eq!(owners.len(), 1, "{name} belongs to one");
        let home = PartitionId(topic.home(name));
        assert!(owners[0].engine.is_assigned(home), "{name}");
        owners[0].wait_ready(name, u64::from(EVENTS), EVENTS as usize);
    }
    // The remaining engine takes over all partitions while it loads.
    one.stop();
    wait_all_ready(&[&two]);
    for name in &names {
        two.wait_ready(name, u64::from(EVENTS), EVENTS as usize);
    }
    two.stop();
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_rebalance_during_loads_loses_no_partition() {
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        for loads in [Loads::AreQuick, Loads::OutlastPolls] {
            check(protocol, loads);
        }
    }
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn a_workspace_whose_engine_leaves_during_a_load_is_ready() {
    let (topic, _) = topic_with_workspaces("leave-loading", GroupProtocol::Classic);
    let (first, second) = (disk(), disk());
    let gate = Arc::new(Gate::default());
    gate.open();
    let one = start(&topic, &first, "one", &slow(&gate));
    until("loads are under way", || {
        let loading = one.engine.tracker().count_by_state();
        (loading[State::RestoringFromSnapshot] > 0).then_some(())
    });
    let began = Instant::now();
    one.stop();
    let two = start(&topic, &second, "two", &Start::default().store);
    wait_all_ready(&[&two]);
    // Loads that are no longer needed should delay the handover only briefly; this is printed, not checked.
    println!("handed over in {:?}", began.elapsed());
    let epochs = two.engine.tracker().list_all();
    assert!(epochs.iter().all(|one| one.epoch().get() >= 3));
    two.stop();
}
