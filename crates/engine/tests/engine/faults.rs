//! What the engine does when the store, the populator or a workspace type fails.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tempfile::TempDir;
use workspace_engine_core::log::EmbeddedLogConfig;
use workspace_engine_core::populate::{Populate, PopulateError};
use workspace_engine_core::store::{EntrySink, LsmStore, Store, StoreError};
use workspace_engine_core::testing::{FaultyStore, Request};
use workspace_lifecycle::{Command, Offset};
use workspace_status::{ErrorInfo, ErrorKind, State, WorkspaceId};

use super::support::{PATIENCE, Service, Setup, data_dir, id, partition, workspace_where};

/// A setup on a store without faults yet.
fn faulty(directory: &Path) -> (Arc<FaultyStore<LsmStore>>, Setup) {
    let data = data_dir(directory);
    let store = Arc::new(FaultyStore::new(LsmStore::open(&data).unwrap()));
    let faulty = Arc::clone(&store) as Arc<dyn Store>;
    (
        store,
        Setup::on(&data, EmbeddedLogConfig::default(), faulty),
    )
}

/// Waits until the store holds a workspace beyond an offset.
fn wait_saved(service: &Service, store: &dyn Store, workspace: &str, offset: Offset) {
    service.eventually(|| {
        let stored = store.workspace(&id(workspace)).unwrap();
        stored.is_some_and(|stored| stored.next_offset > offset)
    });
}

/// Claims of workspaces whose names begin with `hangs` wait while the result is locked.
fn hang_claims(store: &FaultyStore<LsmStore>) -> Arc<Mutex<()>> {
    let gate = Arc::new(Mutex::new(()));
    let closed = Arc::clone(&gate);
    store.fail(move |request| {
        if let Request::Claim(claim) = request
            && claim.id.as_str().starts_with("hangs")
        {
            drop(closed.lock());
        }
        Ok(())
    });
    gate
}

#[test]
fn a_workspace_that_cannot_be_saved_is_parked_and_the_others_are_saved() {
    let directory = TempDir::new().unwrap();
    let (store, setup) = faulty(directory.path());
    let service = setup.start();
    service.create("bad", "x");
    service.wait_for("bad", State::Ready);
    store.fail(|request| {
        if let Request::Save(save) = request
            && save.id.as_str() == "bad"
        {
            return Err(StoreError::Corrupt {
                place: "its file".to_owned(),
                reason: "on purpose".to_owned(),
            });
        }
        Ok(())
    });
    service.create("bad", "y");
    service.wait_for_stop("bad");
    assert_eq!(
        service.error("bad"),
        "it cannot be saved: its file is damaged: on purpose"
    );
    let last = service.create("good", "x");
    wait_saved(&service, &*store, "good", last);

    store.recover();
    service.command("bad", Command::Load).unwrap();
    service.wait_for("bad", State::Ready);
    assert_eq!(service.contents("bad").1.len(), 2, "nothing is lost");
    service.stop();
}

#[test]
fn a_partition_whose_saves_are_not_accepted_holds_up_no_other() {
    let directory = TempDir::new().unwrap();
    let (store, setup) = faulty(directory.path());
    let service = setup.start();
    let first = service.create("a", "x");
    wait_saved(&service, &*store, "a", first);
    let held_up = partition("a");
    let elsewhere = workspace_where(|of| of != held_up);
    store.fail(move |request| {
        if matches!(request, Request::TakesSaves(of) if of == held_up) {
            return Err(StoreError::Unavailable("on purpose".to_owned()));
        }
        Ok(())
    });
    let last = service.create("a", "y");
    service.eventually(|| service.engine.counters().save_failures.get() > 0);
    let of_other = service.create(&elsewhere, "x");
    wait_saved(&service, &*store, &elsewhere, of_other);
    let saved = store.workspace(&id("a")).unwrap().unwrap().next_offset;
    assert_eq!(saved, Offset(first.0 + 1), "it still waits");

    store.recover();
    wait_saved(&service, &*store, "a", last);
    service.stop();
}

#[test]
fn what_a_full_disk_or_a_panic_keeps_from_being_saved_is_saved_later() {
    let directory = TempDir::new().unwrap();
    let (store, setup) = faulty(directory.path());
    let service = setup.start();
    store.fail(|request| {
        if let Request::Saves(_) = request {
            return Err(StoreError::NoSpace("on purpose".to_owned()));
        }
        Ok(())
    });
    service.create("a", "x");
    service.wait_for("a", State::Ready);
    service.eventually(|| service.engine.counters().save_failures.get() > 0);
    service.create("a", "y");
    let panics = AtomicBool::new(true);
    store.fail(move |request| {
        if let Request::Saves(_) = request {
            assert!(!panics.swap(false, Ordering::Relaxed), "on purpose");
        }
        Ok(())
    });
    let last = service.create("a", "z");
    wait_saved(&service, &*store, "a", last);
    service.stop();
    drop((store, setup));

    let service: Service = Service::start(directory.path());
    service.wait_for("a", State::Ready);
    let (events, entities) = service.contents("a");
    assert_eq!((events, entities.len()), (3, 3));
    let applied = service.engine.counters().events_applied.get();
    assert_eq!(applied, 0, "all of it was saved");
    service.stop();
}

/// Panics for one workspace.
struct Panics;

impl Populate for Panics {
    fn populate(&self, id: &WorkspaceId, _: EntrySink<'_>) -> Result<(), PopulateError> {
        assert_ne!(id.as_str(), "bad", "on purpose");
        Ok(())
    }
}

#[test]
fn a_panic_while_loading_parks_one_workspace_and_releases_its_permit() {
    let directory = TempDir::new().unwrap();
    let mut setup = Setup::new(directory.path());
    setup.config.admission.permits = 1;
    setup.populate = Arc::new(Panics);
    let service: Service = setup.start();
    service.create("bad", "x");
    service.wait_for_stop("bad");
    for workspace in ["a", "b", "c"] {
        service.create(workspace, "x");
        service.wait_for(workspace, State::Ready);
    }
    service.stop();
}

#[test]
fn loads_that_hang_give_their_permits_to_the_next() {
    let directory = TempDir::new().unwrap();
    let (store, mut setup) = faulty(directory.path());
    setup.config.load_timeout = Duration::from_millis(300);
    let service = setup.start();
    let hung: Vec<String> = (0..=setup.config.admission.permits)
        .map(|number| format!("hangs-{number}"))
        .collect();
    let gate = hang_claims(&store);
    let closed = gate.lock();
    for workspace in &hung {
        service.create(workspace, "x");
    }
    for workspace in &hung {
        service.wait_for(workspace, State::Error);
        let snapshot = service.snapshot(workspace);
        let kind = snapshot.error().map(ErrorInfo::kind);
        assert!(matches!(kind, Some(ErrorKind::Retrying { .. })), "{kind:?}");
        let reason = snapshot.error_message().unwrap();
        let expected =
            "the load made no progress for 0.3 s while its epoch was claimed in the store";
        let again = "an earlier load of it still hangs";
        assert!(
            reason.starts_with(expected) || reason.starts_with(again),
            "{reason}"
        );
    }
    for workspace in ["a", "b", "c"] {
        service.create(workspace, "x");
        service.wait_for(workspace, State::Ready);
    }
    assert_eq!(service.engine.hung_loads(), hung.len(), "one thread each");

    // The late claims block no later load.
    drop(closed);
    for workspace in &hung {
        service.wait_for(workspace, State::Ready);
        assert_eq!(service.contents(workspace).0, 1);
    }
    service.eventually(|| service.engine.hung_loads() == 0);
    service.stop();
}

#[test]
fn an_engine_whose_loads_hang_stops_in_time() {
    let directory = TempDir::new().unwrap();
    let (store, mut setup) = faulty(directory.path());
    setup.config.load_timeout = Duration::from_millis(100);
    let service: Service = setup.start();
    let gate = hang_claims(&store);
    let closed = gate.lock();
    service.create("hangs", "x");
    service.wait_for("hangs", State::Error);
    let began = Instant::now();
    let report = service.engine.shutdown(began + 4 * PATIENCE);
    assert_eq!(report.abandoned, 0);
    let took = began.elapsed();
    assert!(took < 2 * PATIENCE, "it did not wait for the hung load");
    drop(closed);
}

#[test]
fn a_command_is_answered_in_time_where_the_store_hangs() {
    let directory = TempDir::new().unwrap();
    let (store, mut setup) = faulty(directory.path());
    setup.config.command_timeout = Duration::from_millis(300);
    let service: Service = setup.start();
    service.create("a", "x");
    service.wait_for("a", State::Ready);
    let gate = Arc::new(Mutex::new(()));
    let waits_for = Arc::clone(&gate);
    store.fail(move |request| {
        if let Request::Saves(_) = request {
            drop(waits_for.lock());
        }
        Ok(())
    });
    let closed = gate.lock();
    let refused = service.command("a", Command::Unload).unwrap_err();
    assert!(refused.starts_with("no answer within 0.3s: "), "{refused}");
    assert!(refused.ends_with("may still take effect"), "{refused}");
    drop(closed);
    service.eventually(|| service.engine.tracker().get("a").is_none());
    service.stop();
}
