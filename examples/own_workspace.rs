//! Ledgers: `cargo run -p workspace-engine-examples --example own_workspace` embeds the engine, twice on one directory. With
//! arguments, such as `-- serve`, it is the whole binary.
#![expect(clippy::print_stdout, clippy::indexing_slicing, reason = "an example")]

use std::{collections::BTreeMap, error::Error, process::ExitCode, time::Instant};
use workspace_engine::engine::log::Append;
use workspace_engine::{Change, Engine, Event, Rejection, StoredEntry, Workspace, WorkspaceId};

#[derive(Default)]
struct Ledger {
    balances: BTreeMap<Box<str>, i64>,
    changes: Vec<Change>,
}

impl Workspace for Ledger {
    fn new(_id: &WorkspaceId) -> Self {
        Self::default()
    }
    fn restore(&mut self, StoredEntry { id, data, .. }: StoredEntry) -> Result<(), Rejection> {
        self.balances.insert(id, serde_json::from_slice(&data)?);
        Ok(())
    }
    fn apply(&mut self, event: &Event<'_>) -> Result<(), Rejection> {
        let booking: (Box<str>, i64) = serde_json::from_str(event.data().unwrap_or_default())?;
        let balance = self.balances.entry(booking.0.clone()).or_default();
        *balance += booking.1;
        self.changes.push(Change::Set(StoredEntry {
            kind: "balance".into(),
            id: booking.0,
            data: balance.to_string().into(),
            offset: event.offset(),
        }));
        Ok(())
    }
    fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }
    fn entries(&self) -> u64 {
        self.balances.len() as u64
    }
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    if std::env::args().len() > 1 {
        return Ok(workspace_engine::run::<Ledger>());
    }
    let (data, acme) = (tempfile::tempdir()?, WorkspaceId::new("acme")?);
    for _ in 0..2 {
        let engine = Engine::<Ledger>::builder().data_dir(data.path()).start()?;
        let event = r#"{"eventType":"booking","workspaceId":"acme","data":["cash",100]}"#;
        let append = Append::new(vec![(acme.clone(), event.into())]);
        let appended = engine.log().submit(append).blocking_recv()??;
        let applied = engine.wait_applied(&acme, appended.partitions[0].last_offset);
        let ledger = tokio::runtime::Runtime::new()?.block_on(applied);
        ledger.read(|ledger, _| println!("{acme} has {:?}", ledger.balances));
        engine.shutdown(Instant::now() + std::time::Duration::from_secs(30));
    }
    Ok(ExitCode::SUCCESS)
}
