//! Ledgers: embeds the engine, twice on one directory; with arguments, such as `-- serve`, it is the whole binary.
#![expect(clippy::print_stdout, clippy::indexing_slicing, reason = "an example")]
use std::{collections::BTreeMap, error::Error, process::ExitCode, time::Instant};
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
    fn check(event: &Event<'_>) -> Result<(), Rejection> {
        Self::default().apply(event)
    }
    fn apply(&mut self, event: &Event<'_>) -> Result<(), Rejection> {
        let (id, amount): (Box<str>, i64) = serde_json::from_str(event.data().unwrap_or_default())?;
        let sum = self.balances.get(&id).unwrap_or(&0).checked_add(amount);
        let balance = sum.ok_or_else(|| Rejection(format!("account {id} overflows")))?;
        self.balances.insert(id.clone(), balance);
        self.changes.push(Change::Set(StoredEntry {
            kind: "balance".into(),
            id,
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
    for event in [r#"{"eventType":"booking","workspaceId":"acme","data":["cash",100]}"#; 2] {
        let engine = Engine::<Ledger>::builder().data_dir(data.path()).start()?;
        let append = workspace_engine::engine::log::Append::new(vec![(acme.clone(), event.into())]);
        let appended = engine.log().submit(append).blocking_recv()??;
        let applied = engine.wait_applied(&acme, appended.partitions[0].last_offset);
        let ledger = tokio::runtime::Runtime::new()?.block_on(applied);
        ledger.read(|ledger, _| println!("{acme} has {:?}", ledger.balances));
        engine.shutdown(Instant::now() + std::time::Duration::from_secs(30));
    }
    Ok(ExitCode::SUCCESS)
}
