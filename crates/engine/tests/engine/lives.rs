//! Lives of workspaces from the first event to the next start.

use std::sync::Arc;

use tempfile::TempDir;
use workspace_engine_core::disk::DataDir;
use workspace_engine_core::log::EmbeddedLogConfig;
use workspace_engine_core::populate::NdjsonDirectory;
use workspace_engine_core::store::{FileStore, LsmStore, MemoryStore, Store};
use workspace_lifecycle::{Command, Offset};
use workspace_status::State;

use super::support::{Service, Setup, data_dir, id};

#[test]
fn events_become_entities_and_survive_a_restart_with_each_store() {
    check_restart(|data| Arc::new(LsmStore::open(data).unwrap()));
    let files = TempDir::new().unwrap();
    check_restart(|_| Arc::new(FileStore::open(files.path()).unwrap()));
    check_restart(|_| Arc::new(MemoryStore::new()));
}

fn check_restart(open: impl Fn(&DataDir) -> Arc<dyn Store>) {
    let directory = TempDir::new().unwrap();
    let start = || -> (Service, bool) {
        let data = data_dir(directory.path());
        let setup = Setup::on(&data, EmbeddedLogConfig::default(), open(&data));
        (setup.start(), setup.store.is_durable())
    };
    let (service, _) = start();
    for n in 0..100 {
        for workspace in ["a", "b", "c", "d"] {
            service.append(
                workspace,
                "resource.created",
                &format!(r#"{{"id":"r{}","n":{n}}}"#, n % 7),
            );
        }
    }
    let last = service.append("a", "resource.deleted", r#"{"id":"r0"}"#);
    service.wait_for("a", State::Ready);
    service.wait_applied("a", last);
    let before: Vec<_> = ["a", "b", "c", "d"]
        .into_iter()
        .map(|workspace| {
            service.wait_for(workspace, State::Ready);
            service.wait_applied(workspace, Offset(0));
            service.snapshot(workspace).epoch()
        })
        .collect();
    service.stop();

    let (service, is_durable) = start();
    for (workspace, epoch) in ["a", "b", "c", "d"].into_iter().zip(before) {
        service.wait_for(workspace, State::Ready);
        let (events, entities) = service.contents(workspace);
        let deleted = usize::from(workspace == "a");
        assert_eq!(
            (events, entities.len()),
            (100 + deleted as u64, 7 - deleted),
            "{workspace}"
        );
        assert_eq!(entities["resource/r1"], r#"{"id":"r1","n":99}"#);
        let snapshot = service.snapshot(workspace);
        assert_eq!(snapshot.epoch() > epoch, is_durable, "{workspace}");
    }
    service.stop();
}

#[test]
fn a_poison_event_parks_its_workspace_alone_until_it_is_skipped() {
    let directory = TempDir::new().unwrap();
    let service: Service = Service::start(directory.path());
    service.create("good", "x");
    service.create("bad", "x");
    let poison = service.append("bad", "resource.exploded", r#"{"id":"x"}"#);
    let after = service.create("bad", "y");
    service.wait_for("bad", State::Error);
    service.wait_for("good", State::Ready);
    let reason = service.error("bad");
    assert!(
        reason.contains(&format!("offset {poison} key bad")),
        "{reason}"
    );
    assert_eq!(service.contents("bad").0, 1);
    assert_eq!(
        service.command("good", Command::Skip).unwrap_err(),
        "the workspace is not stopped at an event that it cannot apply"
    );

    service.command("bad", Command::Skip).unwrap();
    service.wait_for("bad", State::Ready);
    service.wait_applied("bad", after);
    let (events, entities) = service.contents("bad");
    assert_eq!((events, entities.len()), (2, 2));
    let dead_letters = service
        .log
        .dead_letters(Some(&id("bad")), None, 10)
        .unwrap();
    assert_eq!(
        dead_letters
            .iter()
            .map(|dead_letter| dead_letter.offset)
            .collect::<Vec<_>>(),
        [poison]
    );
    assert!(String::from_utf8_lossy(dead_letters[0].value.as_ref().unwrap()).contains("exploded"));
    service.stop();

    let service: Service = Service::start(directory.path());
    service.wait_for("bad", State::Ready);
    assert_eq!(service.contents("bad").0, 2);
    service.stop();
}

#[test]
fn an_unloaded_workspace_is_loaded_on_request_and_has_missed_nothing() {
    let directory = TempDir::new().unwrap();
    let service: Service = Service::start(directory.path());
    service.create("a", "x");
    service.wait_for("a", State::Ready);
    service.command("a", Command::Unload).unwrap();
    assert!(service.engine.workspace(&id("a")).is_none());
    assert!(service.engine.tracker().get("a").is_none());
    service.create("a", "y");
    service.stop();

    let service: Service = Service::start(directory.path());
    assert_eq!(
        service.command("unknown", Command::Load).unwrap_err(),
        "no such workspace"
    );
    assert!(
        service.engine.tracker().get("a").is_none(),
        "it stays out of memory"
    );
    service.command("a", Command::Load).unwrap();
    service.wait_for("a", State::Ready);
    assert_eq!(service.contents("a").0, 2);
    service.stop();
}

#[test]
fn the_history_of_a_workspace_holds_every_transition_with_its_epoch() {
    let directory = TempDir::new().unwrap();
    for epoch in 1..=3 {
        let service: Service = Service::start(directory.path());
        if epoch == 1 {
            service.create("a", "x");
        }
        service.wait_for("a", State::Ready);
        service.stop();
    }
    let service: Service = Service::start(directory.path());
    service.wait_for("a", State::Ready);
    let history = service.engine.history(&id("a"), None, 1000).unwrap();
    for epoch in 1..=3 {
        let states: Vec<_> = history
            .iter()
            .filter(|record| record.epoch.get() == epoch)
            .map(|record| record.transition.to.as_str())
            .collect();
        let loading = if epoch == 1 {
            "populating_initial_state"
        } else {
            "restoring_from_snapshot"
        };
        assert_eq!(
            states,
            [
                "loading_kafka_partitions",
                "loading_from_persistence",
                loading,
                "replaying_events",
                "ready",
                "unloading"
            ],
            "epoch {epoch}"
        );
    }
    service.stop();
}

#[test]
fn the_last_transition_before_an_unload_is_in_the_history() {
    let directory = TempDir::new().unwrap();
    let service: Service = Service::start(directory.path());
    service.create("a", "x");
    for _ in 0..5 {
        service.wait_for("a", State::Ready);
        service.command("a", Command::Unload).unwrap();
        service.command("a", Command::Load).unwrap();
    }
    service.wait_for("a", State::Ready);
    let engine = service.engine.clone();
    service.stop();
    let history = engine.history(&id("a"), None, 1000).unwrap();
    let unloaded: Vec<_> = history
        .iter()
        .filter(|record| record.transition.to == State::Unloading)
        .map(|record| record.epoch.get())
        .collect();
    assert_eq!(unloaded, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_workspace_that_the_store_does_not_know_is_populated_once() {
    let source = TempDir::new().unwrap();
    std::fs::write(
        source.path().join("a.ndjson"),
        "{\"type\":\"resource\",\"id\":\"p\",\"data\":{\"id\":\"p\"}}\n",
    )
    .unwrap();
    let directory = TempDir::new().unwrap();
    let mut setup = Setup::new(directory.path());
    setup.populate = Arc::new(NdjsonDirectory::new(source.path()));
    let service: Service = setup.start();
    drop(setup);
    service.create("a", "x");
    service.wait_for("a", State::Ready);
    service.stop();

    std::fs::remove_file(source.path().join("a.ndjson")).unwrap();
    let service: Service = Service::start(directory.path());
    service.wait_for("a", State::Ready);
    let (events, entities) = service.contents("a");
    assert_eq!(
        (
            events,
            entities.keys().map(String::as_str).collect::<Vec<_>>()
        ),
        (1, vec!["resource/p", "resource/x"])
    );
    service.stop();
}

#[test]
fn two_requests_for_the_same_cold_workspace_load_it_once() {
    let directory = TempDir::new().unwrap();
    let service: Service = Service::start(directory.path());
    service.create("a", "x");
    service.wait_for("a", State::Ready);
    service.command("a", Command::Unload).unwrap();
    let loads = service.engine.counters().loads.get();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| service.command("a", Command::Load).unwrap());
        }
    });
    service.wait_for("a", State::Ready);
    assert_eq!(service.engine.counters().loads.get(), loads + 1);
    service.stop();
}
