//! Partitions that are assigned and revoked while the engine runs, and two engines on one log and store.

use std::sync::{Arc, Barrier};
use std::time::Instant;

use tempfile::TempDir;
use workspace_engine_core::populate::{Populate, PopulateError};
use workspace_engine_core::store::EntrySink;
use workspace_status::{State, WorkspaceId};

use super::support::{PATIENCE, Service, Setup, id, partition};

/// An engine without partitions, whose name is its owner; others share its log and store.
fn node(setup: &mut Setup, owner: &str) -> Service {
    owner.clone_into(&mut setup.config.owner);
    setup.config.admission.permits = 1;
    setup.start_unassigned()
}

fn epoch(setup: &Setup, workspace: &str) -> u64 {
    let stored = setup.store.workspace(&id(workspace)).unwrap();
    stored.expect("in the store").epoch.get()
}

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

#[test]
fn a_partition_that_moves_takes_its_workspaces_along_and_loses_no_event() {
    let directory = TempDir::new().unwrap();
    let mut setup = Setup::new(directory.path());
    let (a, b) = (node(&mut setup, "a"), node(&mut setup, "b"));
    let partition = partition("w");
    let mut last_epoch = 0;
    for round in 1..=6_u64 {
        let owner = if round % 2 == 1 { &a } else { &b };
        owner.engine.assign(partition).unwrap();
        let event = format!(r#"{{"id":"r{round}"}}"#);
        let last = a.append("w", "resource.created", &event);
        owner.wait_for("w", State::Ready);
        owner.wait_applied("w", last);
        let (events, entities) = owner.contents("w");
        assert_eq!((events, entities.len() as u64), (round, round));
        assert!(
            epoch(&setup, "w") > last_epoch,
            "a new owner is a new epoch"
        );
        last_epoch = epoch(&setup, "w");
        assert_eq!(owner.engine.revoke(&[partition], deadline()), 0);
        assert!(owner.engine.tracker().get("w").is_none());
        assert!(owner.engine.workspace(&id("w")).is_none());
    }
    a.stop();
    b.stop();
}

#[test]
fn a_partition_that_is_lost_is_dropped_without_a_save_and_can_come_back() {
    let directory = TempDir::new().unwrap();
    let mut setup = Setup::new(directory.path());
    let a = node(&mut setup, "a");
    let partition = partition("w");
    for round in 1..=5 {
        a.engine.assign(partition).unwrap();
        let last = a.create("w", "x");
        a.wait_for("w", State::Ready);
        a.wait_applied("w", last);
        assert_eq!(a.contents("w").0, round);
        a.engine.lose(&[partition]);
    }
    a.stop();
}

#[test]
fn an_owner_that_lost_the_partition_unknowingly_saves_nothing() {
    let directory = TempDir::new().unwrap();
    let mut setup = Setup::new(directory.path());
    let (zombie, owner) = (node(&mut setup, "zombie"), node(&mut setup, "owner"));
    let partition = partition("w");
    zombie.engine.assign(partition).unwrap();
    zombie.create("w", "x");
    zombie.wait_for("w", State::Ready);
    owner.engine.assign(partition).unwrap();
    owner.wait_for("w", State::Ready);
    let of_owner = epoch(&setup, "w");
    let last = owner.create("w", "y");
    zombie.wait_for("w", State::Error);
    owner.wait_applied("w", last);
    assert_eq!(epoch(&setup, "w"), of_owner);
    zombie.engine.lose(&[partition]);
    let last = owner.create("w", "z");
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
fn a_load_of_an_ended_assignment_has_no_effect_and_releases_its_permit() {
    let directory = TempDir::new().unwrap();
    let mut setup = Setup::new(directory.path());
    let held = Arc::new(Held(Barrier::new(2), false.into()));
    setup.populate = Arc::clone(&held) as Arc<dyn Populate>;
    let a = node(&mut setup, "a");
    let partition = partition("w");
    a.create("w", "x");
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
