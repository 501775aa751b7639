//! What the log may remove, and what it must keep.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use workspace_engine_core::Entities;
use workspace_engine_core::lifecycle::{Command, Offset};
use workspace_engine_core::store::MemoryStore;
use workspace_status::State;

use super::support::{Service, Setup, id, partition, workspace_where};

/// Appends events of one workspace; returns the offset of the last.
fn append_many(service: &Service, workspace: &str) -> Offset {
    (0..20).fold(Offset::ZERO, |_, _| service.create(workspace, "x"))
}

#[test]
fn a_store_that_misses_what_the_log_has_removed_is_refused() {
    let directory = TempDir::new().unwrap();
    let setup = Setup::without_retention(directory.path());
    let service: Service = setup.start();
    let last = append_many(&service, "a");
    service.wait_for("a", State::Ready);
    service.wait_applied("a", last);
    service.stop();
    setup.log.trim(partition("a"), last).unwrap();
    let builder = setup.builder::<Entities>();
    let refused = builder.start_on(Arc::clone(&setup.log), Arc::new(MemoryStore::new()));
    let refused = refused.err().unwrap().to_string();
    assert!(
        refused.contains("begins at offset 19, but the store holds it only up to offset 0"),
        "{refused}"
    );
    setup.start::<Entities>().stop();
}

#[test]
fn an_unloaded_workspace_without_events_does_not_hold_retention_back() {
    let directory = TempDir::new().unwrap();
    let mut setup = Setup::without_retention(directory.path());
    setup.config.limits.stale_after = Duration::from_millis(50);
    setup.config.trim_every = Duration::from_millis(50);
    let service: Service = setup.start();
    let partition = partition("idle");
    let busy = workspace_where(|of| of == partition);
    service.create("idle", "x");
    service.wait_for("idle", State::Ready);
    service.command("idle", Command::Unload).unwrap();
    let last = append_many(&service, &busy);
    // Retention keeps the last event.
    service.eventually(|| service.log.low_watermark(partition) == last);
    service.stop();

    // The same after a restart, when the workspace is not in memory.
    let service: Service = setup.start();
    let last = append_many(&service, &busy);
    service.eventually(|| service.log.low_watermark(partition) == last);

    // An event of the workspace itself holds the log back and is reported.
    let own = service.create("idle", "y");
    append_many(&service, &busy);
    service.eventually(|| {
        let reports = service.engine.partitions();
        let report = reports.iter().find(|report| report.partition == partition);
        let held_by = report.unwrap().held_by.as_ref();
        held_by.is_some_and(|held| held.workspace_id == id("idle") && held.offset == own)
            && service.log.low_watermark(partition) == own
    });
    service.command("idle", Command::Load).unwrap();
    service.wait_for("idle", State::Ready);
    assert_eq!(service.contents("idle").0, 2, "nothing of it is lost");
    service.stop();
}
