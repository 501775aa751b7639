//! Against a real Apache Kafka: `KAFKA_BROKERS=$(scripts/kafka.sh start) cargo test -- --ignored`.

use super::*;

const SETTINGS: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("max.message.bytes", "16777216"),
];

fn place() -> Place {
    let brokers = std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS names the brokers");
    Place::new(&brokers).with_topics(SETTINGS)
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn the_changelog_does_what_every_store_must() {
    all_cases(place);
}

#[test]
#[ignore = "needs a real Kafka in KAFKA_BROKERS"]
fn what_was_saved_is_there() {
    what_was_saved_is_there_with_an_empty_disk_and_with_a_warm_one(&place(), Offset(12));
}
