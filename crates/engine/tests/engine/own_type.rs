//! A workspace type of one's own, which refuses some events and panics at others.

use bytes::Bytes;
use tempfile::TempDir;
use workspace_engine_core::event::Event;
use workspace_engine_core::store::{Change, StoredEntry};
use workspace_engine_core::{Rejection, Workspace};
use workspace_lifecycle::{Command, Offset};
use workspace_status::{State, WorkspaceId};

use super::support::{Service, id};

/// Sums numbers; panics at 13, after adding it, and refuses 7.
struct Sum(i64);

impl Workspace for Sum {
    fn new(_: &WorkspaceId) -> Self {
        Self(0)
    }

    fn restore(&mut self, entry: StoredEntry) -> Result<(), Rejection> {
        let text =
            std::str::from_utf8(&entry.data).map_err(|error| Rejection(error.to_string()))?;
        self.0 = text
            .parse()
            .map_err(|error| Rejection(format!("{text}: {error}")))?;
        Ok(())
    }

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Rejection> {
        let number: i64 = event
            .data()
            .unwrap_or("0")
            .parse()
            .map_err(|_| Rejection("not a number".to_owned()))?;
        match number {
            7 => Err(Rejection("seven is refused".to_owned())),
            13 => {
                self.0 += number;
                panic!("thirteen");
            }
            _ => {
                self.0 += number;
                Ok(())
            }
        }
    }

    fn take_changes(&mut self) -> Vec<Change> {
        let data = Bytes::from(self.0.to_string());
        vec![Change::Set(StoredEntry {
            kind: "sum".into(),
            id: "sum".into(),
            data,
            offset: Offset(0),
        })]
    }

    fn entries(&self) -> u64 {
        1
    }
}

fn total(service: &Service<Sum>, workspace: &str) -> i64 {
    let loaded = service.engine.workspace(&id(workspace)).unwrap();
    loaded.read(|sum, _| sum.0)
}

#[test]
fn a_panic_of_a_workspace_type_parks_one_workspace() {
    let directory = TempDir::new().unwrap();
    let service: Service<Sum> = Service::start(directory.path());
    for number in ["1", "2", "3"] {
        service.append("sum", "number", number);
    }
    service.append("panics", "number", "5");
    service.append("panics", "number", "13");
    service.append("refuses", "number", "7");
    for (workspace, text) in [
        ("panics", "applying it panicked: thirteen"),
        ("refuses", "seven is refused"),
    ] {
        service.wait_for_stop(workspace);
        let reason = service.error(workspace);
        assert!(reason.ends_with(text), "{reason}");
    }
    service.wait_for("sum", State::Ready);
    assert_eq!(total(&service, "panics"), 5, "half an event is none");
    service.command("panics", Command::Skip).unwrap();
    service.append("panics", "number", "1");
    service.stop();
    let service: Service<Sum> = Service::start(directory.path());
    for (workspace, sum) in [("sum", 6), ("panics", 6)] {
        service.wait_for(workspace, State::Ready);
        assert_eq!(total(&service, workspace), sum, "{workspace}");
    }
    service.stop();
}
