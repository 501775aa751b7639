//! Workspaces leave memory when it is needed, and miss nothing.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use workspace_engine_core::EngineConfig;
use workspace_lifecycle::{Command, Limits};
use workspace_status::{Absence, State};

use super::support::{Service, Setup, id};

/// Room for about ten empty workspaces.
const LIMIT: u64 = 60_000;

const WORKSPACES: usize = 40;

fn name(number: usize) -> String {
    format!("w{number}")
}

fn limited(directory: &Path, max_evicted_age: Duration) -> Service {
    let mut setup = Setup::new(directory);
    setup.config = EngineConfig {
        memory_limit: Some(LIMIT),
        limits: Limits {
            save_every: Duration::from_millis(20),
            gather: Duration::from_millis(10),
            max_evicted_age,
            ..Limits::default()
        },
        ..EngineConfig::default()
    };
    setup.start()
}

/// Creates more workspaces than fit.
fn fill(service: &Service) {
    for number in 0..WORKSPACES {
        service.create(&name(number), "x");
    }
}

fn filled(directory: &Path, max_evicted_age: Duration) -> Service {
    let service = limited(directory, max_evicted_age);
    fill(&service);
    service
}

fn is_evicted(service: &Service, workspace: &str) -> bool {
    let absent = service.engine.absent().get(workspace);
    absent.is_some_and(|absent| service.engine.absence(&absent) == Absence::Evicted)
}

fn evicted(service: &Service) -> usize {
    let names = (0..WORKSPACES).map(name);
    names.filter(|name| is_evicted(service, name)).count()
}

#[test]
fn workspaces_above_the_limit_are_evicted_and_read_again_on_request() {
    let directory = TempDir::new().unwrap();
    let service = filled(directory.path(), Duration::from_hours(1));
    service.eventually(|| evicted(&service) >= 28 && service.engine.memory().0 <= LIMIT);
    for number in 0..WORKSPACES {
        service.eventually(|| {
            // It may be evicted again between the load and the read.
            let _ = service.command(&name(number), Command::Load);
            let loaded = service.engine.workspace(&id(&name(number)));
            loaded.is_some_and(|loaded| loaded.applied().events_applied == 1)
        });
    }
    service.stop();
}

#[test]
fn evicted_workspaces_stay_out_of_memory_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let service = filled(directory.path(), Duration::from_hours(1));
    service.eventually(|| evicted(&service) >= 28);
    service.stop();

    let service = limited(directory.path(), Duration::from_hours(1));
    service.eventually(|| service.engine.is_listed());
    assert!(evicted(&service) >= 28, "{}", evicted(&service));
    service.stop();
}

#[test]
fn events_bring_an_evicted_workspace_back() {
    let directory = TempDir::new().unwrap();
    let service = filled(directory.path(), Duration::from_millis(100));
    service.eventually(|| evicted(&service) >= 20);
    let first = (0..WORKSPACES).map(name);
    let evicted = first.clone().find(|name| is_evicted(&service, name));
    let evicted = evicted.expect("one is evicted");
    service.create(&evicted, "y");
    service.eventually(|| {
        let stored = service.engine.stored(&id(&evicted)).unwrap();
        stored.is_some_and(|stored| stored.events_applied == 2)
    });
    service.stop();
}

#[test]
fn a_parked_workspace_stays_in_memory() {
    let directory = TempDir::new().unwrap();
    let service = limited(directory.path(), Duration::from_hours(1));
    service.append("bad", "resource.exploded", r#"{"id":"x"}"#);
    service.wait_for_stop("bad");
    fill(&service);
    service.eventually(|| evicted(&service) >= 28);
    service.wait_for("bad", State::Error);
    service.command("bad", Command::Skip).unwrap();
    service.stop();
}
