//! What the durable history keeps.

use std::time::Duration;

use super::support::{Engine, event};

/// Far longer than ends of loads are gathered before they are written.
const WRITTEN: Duration = Duration::from_secs(2);

#[test]
fn an_answered_ready_or_error_is_in_the_history_after_kill_9() {
    let mut engine = Engine::start(&[]);
    engine.produce(&event("good", "x"));
    engine.produce_unchecked("{\"eventType\":\"nonsense\",\"workspaceId\":\"bad\"}\n");
    engine.wait_for("good", "ready");
    engine.wait_for("bad", "error");
    std::thread::sleep(WRITTEN);
    engine.kill();
    engine.restart();
    engine.wait_for("good", "ready");
    for (id, end) in [("good", "ready"), ("bad", "error")] {
        let history = engine.run(&["history", id, "-o", "json"], "").json();
        let transitions = history["transitions"].as_array().unwrap();
        let first_load: Vec<_> = transitions
            .iter()
            .filter(|transition| transition["epoch"] == 1)
            .map(|transition| transition["toState"].as_str().unwrap())
            .collect();
        assert_eq!(first_load.last(), Some(&end), "{history}");
        assert_eq!(
            first_load.first(),
            Some(&"loading_kafka_partitions"),
            "{history}"
        );
    }
}
