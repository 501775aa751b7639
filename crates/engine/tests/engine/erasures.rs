//! Reset and delete: what an operator does with a workspace that is damaged or no longer needed.

use std::sync::Arc;

use tempfile::TempDir;
use workspace_engine_core::disk::DataDir;
use workspace_engine_core::log::EmbeddedLogConfig;
use workspace_engine_core::store::{Claim, FileStore, LsmStore, Save, Store};
use workspace_lifecycle::{Command, Offset, PartitionId, Residence};
use workspace_status::{Epoch, State};

use super::support::{Service, Setup, data_dir, id, partition};

const RESET: Command = Command::Reset { force: false };
const FORCED: Command = Command::Reset { force: true };

type Open = fn(&DataDir) -> Arc<dyn Store>;

/// The durable stores.
const STORES: [Open; 2] = [
    |data| Arc::new(LsmStore::open(data).unwrap()),
    |data| Arc::new(FileStore::open(data.path().join("workspaces")).unwrap()),
];

/// A directory, and how its store is opened.
struct StoreDirectory {
    directory: TempDir,
    open: Open,
}

impl StoreDirectory {
    fn new(open: Open) -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            open,
        }
    }

    fn start(&self) -> Service {
        let data = data_dir(self.directory.path());
        Setup::on(&data, EmbeddedLogConfig::default(), (self.open)(&data)).start()
    }

    /// Accesses the store while no engine runs.
    fn with_store(&self, work: impl FnOnce(&dyn Store)) {
        let data = data_dir(self.directory.path());
        work(&*(self.open)(&data));
    }

    /// Stores a count of entries that differs from the actual one: a load finds damage.
    fn damage(&self, text: &str) {
        self.with_store(|store| {
            let about = store.workspace(&id(text)).unwrap().unwrap();
            let epoch = about.epoch.next();
            let claim = Claim {
                id: id(text),
                partition: about.partition,
                epoch,
                owner: "test".to_owned(),
                first_offset: Offset::ZERO,
            };
            store.claim(claim).unwrap();
            let save = Save {
                id: id(text),
                epoch,
                next_offset: about.next_offset,
                events_applied: about.events_applied,
                entries: about.entries + 1,
                changes: Vec::new(),
                last_load_ms: None,
                residence: Residence::Memory,
                only_offset: None,
            };
            assert!(store.save(&[save], &[]).unwrap().is_empty());
        });
    }
}

fn fill(service: &Service, text: &str) -> Offset {
    service.append(text, "resource.created", r#"{"id":"x","n":1}"#);
    service.append(text, "resource.created", r#"{"id":"y","n":2}"#);
    service.append(text, "resource.deleted", r#"{"id":"x"}"#)
}

fn check_filled(service: &Service, text: &str) {
    service.wait_for(text, State::Ready);
    let (events, entities) = service.contents(text);
    let names: Vec<&str> = entities.keys().map(String::as_str).collect();
    assert_eq!((events, names), (3, vec!["resource/y"]));
}

#[test]
fn a_reset_is_the_way_out_of_a_damaged_store_entry() {
    for open in STORES {
        let stored = StoreDirectory::new(open);
        let service = stored.start();
        let last = fill(&service, "a");
        fill(&service, "other");
        service.wait_for("a", State::Ready);
        service.wait_applied("a", last);
        service.stop();
        stored.damage("a");

        let service = stored.start();
        service.wait_for_stop("a");
        let before = service.snapshot("a").epoch();
        service.command("a", RESET).unwrap();
        check_filled(&service, "a");
        check_filled(&service, "other");
        let after = service.snapshot("a").epoch();
        assert!(after > before, "epochs keep growing");
        let history = service.engine.history(&id("a"), None, 1000).unwrap();
        assert!(history.iter().any(|record| record.epoch == Epoch::FIRST));
        service.stop();
        let service = stored.start();
        check_filled(&service, "a");
        service.stop();
    }
}

#[test]
fn a_reset_works_on_what_is_ready_unloaded_or_stopped() {
    let stored = StoreDirectory::new(STORES[0]);
    let service = stored.start();
    let last = fill(&service, "a");
    service.wait_for("a", State::Ready);
    service.wait_applied("a", last);
    service.command("a", RESET).unwrap();
    check_filled(&service, "a");

    service.command("a", Command::Unload).unwrap();
    service.command("a", RESET).unwrap();
    check_filled(&service, "a");

    let poison = service.append("a", "resource.exploded", r#"{"id":"x"}"#);
    service.wait_for_stop("a");
    service.command("a", RESET).unwrap();
    service.wait_for_stop("a");
    let reason = service.error("a");
    assert!(
        reason.contains(&format!("offset {poison}")),
        "it is met again: {reason}"
    );
    service.command("a", Command::Skip).unwrap();
    check_filled(&service, "a");
    assert_eq!(
        service.command("unknown", RESET).unwrap_err(),
        "no such workspace"
    );
    service.stop();
}

#[test]
fn a_deleted_workspace_stays_deleted_while_the_log_has_its_events() {
    for open in STORES {
        let stored = StoreDirectory::new(open);
        let service = stored.start();
        fill(&service, "a");
        let other = fill(&service, "other");
        service.append("a", "resource.exploded", r#"{"id":"x"}"#);
        service.wait_for_stop("a");
        service.command("a", Command::Skip).unwrap();
        service.append("a", "resource.exploded", r#"{"id":"x"}"#);
        service.wait_for_stop("a");
        service.wait_for("other", State::Ready);
        service.wait_applied("other", other);

        service.command("a", Command::Delete).unwrap();
        check_deleted(&service, "a");
        service.command("a", Command::Delete).expect("again");
        for command in [Command::Load, Command::Unload, Command::Skip, RESET] {
            assert_eq!(
                service.command("a", command).unwrap_err(),
                "no such workspace"
            );
        }
        service.stop();

        // It stays deleted even if every event is read again.
        stored.with_store(|store| {
            for partition in (0..3).map(PartitionId) {
                store.save(&[], &[(partition, Offset::ZERO)]).unwrap();
            }
            store.sync().unwrap();
        });
        let service = stored.start();
        check_filled(&service, "other");
        service.eventually(|| {
            let reports = service.engine.partitions();
            reports
                .iter()
                .all(|report| report.discovered == report.high_watermark)
        });
        check_deleted(&service, "a");

        service.create("a", "z");
        check_new(&service);
        service.stop();
        let service = stored.start();
        check_new(&service);
        service.command("a", RESET).unwrap();
        check_new(&service);
        service.stop();
    }
}

fn check_deleted(service: &Service, text: &str) {
    let engine = &service.engine;
    assert!(engine.tracker().get(text).is_none());
    assert!(engine.workspace(&id(text)).is_none());
    assert_eq!(engine.stored(&id(text)).unwrap(), None);
    assert_eq!(engine.history(&id(text), None, 10).unwrap(), []);
    let dead_letters = engine.log().dead_letters(Some(&id(text)), None, 10);
    assert_eq!(dead_letters.unwrap(), []);
}

/// Checks the workspace that begins with the first event after the deletion.
fn check_new(service: &Service) {
    service.wait_for("a", State::Ready);
    let (events, entities) = service.contents("a");
    let names: Vec<&str> = entities.keys().map(String::as_str).collect();
    assert_eq!((events, names), (1, vec!["resource/z"]));
}

#[test]
fn a_workspace_that_was_never_loaded_here_is_deleted_too() {
    let stored = StoreDirectory::new(STORES[0]);
    let service = stored.start();
    fill(&service, "unloaded");
    fill(&service, "damaged");
    for text in ["unloaded", "damaged"] {
        service.wait_for(text, State::Ready);
    }
    service.command("unloaded", Command::Unload).unwrap();
    service.stop();
    stored.damage("damaged");
    let service = stored.start();
    service.wait_for_stop("damaged");
    for text in ["unloaded", "damaged"] {
        service.command(text, Command::Delete).unwrap();
        check_deleted(&service, text);
    }
    service.eventually(|| {
        let reports = service.engine.partitions();
        reports.iter().all(|report| report.workspaces == 0)
    });
    service.stop();
    let service = stored.start();
    for text in ["unloaded", "damaged"] {
        check_deleted(&service, text);
    }
    service.stop();
}

#[test]
fn a_reset_is_refused_where_the_log_begins_later_and_done_by_force() {
    let directory = TempDir::new().unwrap();
    let setup = Setup::without_retention(directory.path());
    let service: Service = setup.start();
    let last = fill(&service, "a");
    service.wait_for("a", State::Ready);
    service.wait_applied("a", last);
    service.eventually(|| {
        let saved = setup
            .store
            .workspace(&id("a"))
            .unwrap()
            .unwrap()
            .next_offset;
        saved > last
    });
    // Retention keeps the last event of a partition.
    let partition = partition("a");
    service.log.trim(partition, last.next()).unwrap();
    assert_eq!(service.log.low_watermark(partition), last);

    let refused = service.command("a", RESET).unwrap_err();
    assert!(
        refused.starts_with(
            "the log has all events from offset 2 on only, but the workspace begins at 0"
        ),
        "{refused}"
    );
    assert!(refused.contains("with force"), "{refused}");
    check_filled(&service, "a");
    service.command("a", FORCED).unwrap();
    service.wait_for("a", State::Ready);
    let (events, entities) = service.contents("a");
    assert_eq!((events, entities.len()), (1, 0), "of the last event alone");
    service.stop();
}
