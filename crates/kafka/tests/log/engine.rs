//! An engine over the log: what is appended is applied, also after the brokers were down.

use std::sync::Arc;
use std::time::Instant;

use workspace_engine_core::log::conformance::{append, id, request};
use workspace_engine_core::store::MemoryStore;
use workspace_engine_core::{Engine, Entities};
use workspace_engine_kafka::KafkaLog;

use crate::support::Mock;
use crate::testing::{PATIENCE, until};

fn engine(mock: &Mock) -> Engine<Entities> {
    let log = KafkaLog::open(&mock.config, mock.partitions).expect("opened");
    Engine::builder()
        .start_on(Arc::new(log), Arc::new(MemoryStore::new()))
        .expect("started")
}

fn applied(engine: &Engine<Entities>, workspace: &str) -> u64 {
    let loaded = engine.workspace(&id(workspace));
    loaded.map_or(0, |loaded| loaded.applied().events_applied)
}

#[test]
fn an_engine_applies_each_append_once_also_after_an_outage() {
    let mock = Mock::new(3);
    let names: Vec<String> = (0..20).map(|number| format!("w{number}")).collect();
    let first = engine(&mock);
    for name in &names {
        append(&**first.log(), request(name, 50, None)).expect("appended");
    }
    let all = |engine: &Engine<Entities>, events| {
        until("everything is applied", || {
            let all = names.iter().all(|name| applied(engine, name) == events);
            all.then_some(())
        });
    };
    all(&first, 50);
    mock.cluster.broker_down(-1).expect("down");
    until("health reports the failure", || first.log().health().err());
    mock.cluster.broker_up(-1).expect("up");
    until("healthy", || first.log().health().ok());
    for name in &names {
        append(&**first.log(), request(name, 10, None)).expect("appended");
    }
    all(&first, 60);
    first.shutdown(Instant::now() + PATIENCE);
    drop(first);

    // Another process, with no state yet.
    let second = engine(&mock);
    all(&second, 60);
    let report = second.shutdown(Instant::now() + PATIENCE);
    assert_eq!(report.abandoned, 0, "it ends by itself");
}
