//! Against the broker within this process: it has no compaction, and shows what was aborted.

use super::*;
use rdkafka::mocking::MockCluster;

type Cluster = MockCluster<'static, rdkafka::producer::DefaultProducerContext>;

fn cluster() -> Cluster {
    MockCluster::new(1).expect("a cluster")
}

fn place(cluster: &Cluster) -> Place {
    let place = Place::new(&cluster.bootstrap_servers());
    for topic in [place.config.topic.clone(), place.config.changelog_topic()] {
        cluster
            .create_topic(&topic, i32::try_from(PARTITIONS).expect("small"), 1)
            .expect("created");
    }
    place
}

#[test]
fn the_changelog_does_what_every_store_must() {
    let cluster = cluster();
    all_cases(|| place(&cluster));
}

#[test]
fn what_was_saved_is_there() {
    let cluster = cluster();
    // It takes offsets in transactions and forgets them.
    let committed = Offset::ZERO;
    what_was_saved_is_there_with_an_empty_disk_and_with_a_warm_one(&place(&cluster), committed);
}
