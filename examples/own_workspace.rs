//! An engine whose workspaces are ledgers: an account's balance is the sum of its bookings.
//!
//! `cargo run -p workspace-engine-examples --example own_workspace`. It books, stops, starts again
//! on the same directory, and finds its previous state.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use workspace_engine_core::disk::{DataDir, DataDirSpec};
use workspace_engine_core::event::Event;
use workspace_engine_core::log::{Append, EmbeddedLog, EmbeddedLogConfig, EventLog};
use workspace_engine_core::populate::BeginEmpty;
use workspace_engine_core::store::{Change, LsmStore, StoredEntry};
use workspace_engine_core::{Engine, EngineConfig, Rejection, Workspace};
use workspace_status::{State, Tracker, WaitOutcome, WorkspaceId};

/// Balances by account, and the accounts that changed since the last save.
struct Ledger {
    balances: BTreeMap<String, i64>,
    changed: BTreeMap<String, workspace_engine_core::lifecycle::Offset>,
}

impl Workspace for Ledger {
    fn new(_id: &WorkspaceId) -> Self {
        Self {
            balances: BTreeMap::new(),
            changed: BTreeMap::new(),
        }
    }

    fn restore(&mut self, entry: StoredEntry) -> Result<(), Rejection> {
        let balance =
            serde_json::from_slice(&entry.data).map_err(|error| Rejection(error.to_string()))?;
        self.balances.insert(entry.id.into(), balance);
        Ok(())
    }

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Rejection> {
        let refuse = |reason: String| Err(Rejection(reason));
        if event.event_type() != "booking" {
            return refuse(format!(
                "a ledger knows only bookings, not {}",
                event.event_type()
            ));
        }
        let booking: BTreeMap<String, i64> =
            match serde_json::from_str(event.data().unwrap_or("null")) {
                Ok(booking) => booking,
                Err(error) => return refuse(format!("not a booking: {error}")),
            };
        for (account, amount) in booking {
            *self.balances.entry(account.clone()).or_default() += amount;
            self.changed.insert(account, event.offset());
        }
        Ok(())
    }

    fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changed)
            .into_iter()
            .filter_map(|(account, offset)| {
                let data = Bytes::from(self.balances.get(&account)?.to_string());
                Some(Change::Set(StoredEntry {
                    kind: "balance".into(),
                    id: account.into(),
                    data,
                    offset,
                }))
            })
            .collect()
    }

    fn entries(&self) -> u64 {
        u64::try_from(self.balances.len()).unwrap_or(u64::MAX)
    }
}

fn start(directory: &Path) -> anyhow::Result<(Engine<Ledger>, Arc<dyn EventLog>)> {
    let data = DataDir::open(directory, &DataDirSpec::default())?;
    let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(&data, EmbeddedLogConfig::default())?);
    let store = Arc::new(LsmStore::open(&data)?);
    let config = EngineConfig::default();
    let engine = Engine::start(
        config,
        Arc::clone(&log),
        store,
        Tracker::new(),
        Arc::new(BeginEmpty),
    )?;
    Ok((engine, log))
}

fn book(log: &dyn EventLog, workspace: &WorkspaceId, booking: &str) -> anyhow::Result<()> {
    let event = format!(
        r#"{{"eventType":"booking","workspaceId":"{workspace}","timestamp":0,"data":{booking}}}"#
    );
    let append = Append {
        producer: None,
        events: vec![(workspace.clone(), Bytes::from(event))],
    };
    log.submit(append).blocking_recv()??;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example shows what it did")]
fn show(engine: &Engine<Ledger>, workspace: &WorkspaceId, bookings: u64) -> anyhow::Result<()> {
    let patience = Duration::from_mins(1);
    let outcome = engine
        .tracker()
        .wait(workspace)
        .until(State::Ready)
        .timeout(patience)
        .blocking();
    ensure!(
        matches!(outcome, WaitOutcome::Met(_)),
        "not ready: {outcome:?}"
    );
    let until = Instant::now() + patience;
    loop {
        let ledger = engine.workspace(workspace).context("ready, so in memory")?;
        let applied = ledger.applied().events_applied;
        if applied == bookings {
            ledger.read(|ledger, _| {
                println!(
                    "{workspace} after {applied} bookings: {:?}",
                    ledger.balances
                );
            });
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "only {applied} bookings were applied"
        );
        std::thread::yield_now();
    }
}

fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let acme = WorkspaceId::new("acme")?;

    let (engine, log) = start(directory.path())?;
    book(&*log, &acme, r#"{"cash":100,"sales":-100}"#)?;
    book(&*log, &acme, r#"{"cash":-30,"rent":30}"#)?;
    show(&engine, &acme, 2)?;
    engine.shutdown(Instant::now() + Duration::from_mins(1));
    drop((engine, log));

    let (engine, _log) = start(directory.path())?;
    show(&engine, &acme, 2)?;
    engine.shutdown(Instant::now() + Duration::from_mins(1));
    Ok(())
}
