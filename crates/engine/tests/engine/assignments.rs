//! Partitions that are assigned and revoked while the engine runs, and two engines on one log and store.

use std::sync::{Arc, Barrier};
use std::time::Instant;

use tempfile::TempDir;
use workspace_engine_core::disk::DataDir;
use workspace_engine_core::log::{EmbeddedLog, EmbeddedLogConfig, EventLog};
use workspace_engine_core::populate::{BeginEmpty, Populate, PopulateError};
use workspace_engine_core::routing::partition_of;
use workspace_engine_core::store::{EntrySink, LsmStore, Store};
use workspace_engine_core::{Engine, EngineConfig, Entities};
use workspace_lifecycle::{AdmissionLimits, Limits, PartitionId};
use workspace_status::{State, WorkspaceId};

use super::{PATIENCE, Service, data_dir, id};

/// One log and one store, shared by as many engines as a test needs.
struct Cluster {
    _directory: TempDir,
    data: DataDir,
    log: Arc<dyn EventLog>,
    store: Arc<dyn Store>,
}

impl Cluster {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let data = data_dir(directory.path());
        let log = EmbeddedLog::open(&data, EmbeddedLogConfig::default()).unwrap();
        let store = LsmStore::open(&data).unwrap();
        Self {
            _directory: directory,
            data,
            log: Arc::new(log),
            store: Arc::new(store),
        }
    }

    fn engine(&self, owner: &str, populate: Arc<dyn Populate>) -> Service {
        let config = EngineConfig {
            owner: owner.to_owned(),
            admission: AdmissionLimits {
                permits: 1,
                ..AdmissionLimits::default()
            },
            limits: Limits {
                save_every: std::time::Duration::from_millis(20),
                ..Limits::default()
            },
            ..EngineConfig::default()
        };
        let engine: Engine<Entities> = Engine::builder()
            .config(config)
            .populate(populate)
            .start_unassigned(Arc::clone(&self.log), Arc::clone(&self.store))
            .unwrap();
        let log = Arc::clone(&self.log);
        Service { engine, log }
    }

    fn partition(&self, workspace: &str) -> PartitionId {
        partition_of(&id(workspace), self.data.partitions())
    }

    fn epoch(&self, workspace: &str) -> u64 {
        let stored = self.store.workspace(&id(workspace)).unwrap();
        stored.expect("in the store").epoch.get()
    }
}

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

#[test]
fn a_partition_that_moves_takes_its_workspaces_along_and_loses_no_event() {
    let cluster = Cluster::new();
    let (a, b) = (
        cluster.engine("a", Arc::new(BeginEmpty)),
        cluster.engine("b", Arc::new(BeginEmpty)),
    );
    let partition = cluster.partition("w");
    let mut epoch = 0;
    for round in 1..=6_u64 {
        let owner = if round % 2 == 1 { &a } else { &b };
        owner.engine.assign(partition).unwrap();
        let event = format!(r#"{{"id":"r{round}"}}"#);
        let last = a.append("w", "resource.created", &event);
        owner.wait_for("w", State::Ready);
        owner.wait_applied("w", last);
        let (events, entities) = owner.contents("w");
        assert_eq!((events, entities.len() as u64), (round, round));
        assert!(cluster.epoch("w") > epoch, "a new owner is a new epoch");
        epoch = cluster.epoch("w");
        assert_eq!(owner.engine.revoke(&[partition], deadline()), 0);
        assert!(owner.engine.tracker().get("w").is_none());
        assert!(owner.engine.workspace(&id("w")).is_none());
    }
    a.stop();
    b.stop();
}

#[test]
fn a_partition_that_is_lost_is_dropped_without_a_save_and_can_come_back() {
    let cluster = Cluster::new();
    let a = cluster.engine("a", Arc::new(BeginEmpty));
    let partition = cluster.partition("w");
    for round in 1..=5 {
        a.engine.assign(partition).unwrap();
        let last = a.append("w", "resource.created", r#"{"id":"x"}"#);
        a.wait_for("w", State::Ready);
        a.wait_applied("w", last);
        assert_eq!(a.contents("w").0, round);
        a.engine.lose(&[partition]);
    }
    a.stop();
}

#[test]
fn an_owner_that_does_not_know_that_it_lost_the_partition_can_save_nothing() {
    let cluster = Cluster::new();
    let (zombie, owner) = (
        cluster.engine("zombie", Arc::new(BeginEmpty)),
        cluster.engine("owner", Arc::new(BeginEmpty)),
    );
    let partition = cluster.partition("w");
    zombie.engine.assign(partition).unwrap();
    zombie.append("w", "resource.created", r#"{"id":"x"}"#);
    zombie.wait_for("w", State::Ready);
    owner.engine.assign(partition).unwrap();
    owner.wait_for("w", State::Ready);
    let epoch = cluster.epoch("w");
    let last = owner.append("w", "resource.created", r#"{"id":"y"}"#);
    zombie.wait_for("w", State::Error);
    owner.wait_applied("w", last);
    assert_eq!(cluster.epoch("w"), epoch);
    zombie.engine.lose(&[partition]);
    let last = owner.append("w", "resource.created", r#"{"id":"z"}"#);
    owner.wait_applied("w", last);
    assert_eq!(owner.contents("w").0, 3);
    zombie.stop();
    owner.stop();
}

/// Blocks the first load until the test releases it.
struct Held(Barrier, std::sync::atomic::AtomicBool);

impl Populate for Held {
    fn populate(&self, _: &WorkspaceId, _: EntrySink<'_>) -> Result<(), PopulateError> {
        if !self.1.swap(true, std::sync::atomic::Ordering::Relaxed) {
            self.0.wait();
            self.0.wait();
        }
        Ok(())
    }
}

#[test]
fn a_load_of_an_assignment_that_is_over_reaches_nobody_and_gives_its_permit_back() {
    let cluster = Cluster::new();
    let held = Arc::new(Held(Barrier::new(2), false.into()));
    let a = cluster.engine("a", Arc::clone(&held) as Arc<dyn Populate>);
    let partition = cluster.partition("w");
    a.append("w", "resource.created", r#"{"id":"x"}"#);
    a.engine.assign(partition).unwrap();
    held.0.wait();
    a.engine.lose(&[partition]);
    a.engine.assign(partition).unwrap();
    // The load of the previous assignment still holds the only permit.
    held.0.wait();
    a.wait_for("w", State::Ready);
    assert_eq!(a.contents("w").0, 1);
    assert_eq!(a.engine.admission(), (0, 0));
    a.stop();
}
