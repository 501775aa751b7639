//! Append, replay and restart of the embedded engine, each beside its floor in the same run.
//!
//! `cargo bench -p workspace-engine-core --bench life`. `EVENTS`, `ENTITIES` and `WORKSPACES`
//! change the sizes (1,000,000, 1,000,000 and 1,000), `ROUNDS` how often each is measured (3).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement prints its figures and fails by panicking"
)]

use std::collections::{HashMap, VecDeque};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Deserialize;
use tempfile::TempDir;
use workspace_engine_core::disk::{DataDir, DataDirSpec};
use workspace_engine_core::log::{Append, EmbeddedLog, EmbeddedLogConfig, EventLog, ReadLimit};
use workspace_engine_core::store::{LsmStore, MemoryStore, Store};
use workspace_engine_core::{Engine, EngineConfig};
use workspace_lifecycle::{Offset, PartitionId};
use workspace_status::{State, Tracker, WorkspaceId};

/// The allocator of the `workspace-engine` binary; the floors use it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Events of one append.
const BATCH: usize = 1000;

/// Appends that wait for their answer at a time.
const APPENDS_AT_ONCE: usize = 4;

fn size(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn main() {
    let events = size("EVENTS", 1_000_000);
    let entities = size("ENTITIES", 1_000_000);
    let workspaces = size("WORKSPACES", 1_000);
    let rounds = size("ROUNDS", 3);
    let ids: Vec<WorkspaceId> = (0..workspaces)
        .map(|n| WorkspaceId::new(&format!("workspace-{n:05}")).expect("valid"))
        .collect();
    let made = make_events(&ids, events, entities);
    let bytes: usize = made.iter().map(|(_, event)| event.len()).sum();
    println!(
        "{events} events of {} bytes, {entities} entities, {workspaces} workspaces",
        bytes / events.max(1)
    );
    touch_memory();
    let mut directory = TempDir::new().expect("a temporary directory");
    for round in 1..=rounds {
        println!("round {round}");
        let floor = floor(&made);
        show("floor: parse and map insert, one thread", events, floor);
        directory = TempDir::new().expect("a temporary directory");
        show("append, durable", events, append(directory.path(), &made));
        show(
            "bare read of the log, one thread",
            events,
            scan_log(directory.path()),
        );
        for (what, stores) in [
            ("replay, memory store", Stores::Memory),
            ("replay, LSM store with its saves", Stores::Lsm),
        ] {
            let (data, log) = open(directory.path());
            let took = until_ready(&data, log, stores, workspaces);
            show(what, events, took);
            println!(
                "    speed / floor: {:.2}",
                floor.time.as_secs_f64() / took.time.as_secs_f64()
            );
        }
    }
    for round in 1..=rounds {
        println!("restart {round}");
        let (opened, scan, entries) = scan_store(directory.path());
        show("bare scan of the store, one thread", entries, scan);
        let watch = Watch::start();
        let (data, log) = open(directory.path());
        println!(
            "    opening the data directory {:.2?}, bare {:.2?}",
            watch.took().time,
            opened.time
        );
        let took = until_ready(&data, log, Stores::Lsm, workspaces);
        show("restart until all are ready", entries, took);
        println!(
            "    time / scan: {:.2}",
            took.time.as_secs_f64() / scan.time.as_secs_f64()
        );
    }
}

/// Memory that a virtual machine's host has never handed out costs more at its first touch than
/// all that is measured here; who comes first would pay for it.
fn touch_memory() {
    black_box(vec![1_u8; 3 << 30]);
}

fn show(what: &str, count: usize, took: Took) {
    let rate = count as f64 / took.time.as_secs_f64() / 1000.0;
    println!(
        "  {what}: {:.2?}, {rate:.0} k/s, {:.2?} of the processors",
        took.time, took.processors
    );
}

/// How long something took by the clock, and on all processors together.
#[derive(Clone, Copy)]
struct Took {
    time: Duration,
    processors: Duration,
}

struct Watch(Instant, Duration);

impl Watch {
    fn start() -> Self {
        Self(Instant::now(), processors())
    }

    fn took(&self) -> Took {
        Took {
            time: self.0.elapsed(),
            processors: processors().saturating_sub(self.1),
        }
    }
}

/// Time of all processors that this process has used; zero where the system does not report it.
fn processors() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// Every entity is set about `events / entities` times, in an order that jumps between workspaces.
fn make_events(ids: &[WorkspaceId], events: usize, entities: usize) -> Vec<(WorkspaceId, Bytes)> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..events)
        .map(|n| {
            let number = if n < entities { n } else { random.usize(..entities.max(1)) };
            let id = &ids[number % ids.len()];
            let resource = number / ids.len();
            let json = format!(
                r#"{{"eventType":"resource.updated","workspaceId":"{id}","timestamp":{},"data":{{"id":"service/region-{}/resource-{resource:06}","version":"{:016x}","mode":"100644","blob":"{:032x}"}}}}"#,
                1_700_000_000_000_u64 + n as u64,
                resource % 7,
                random.u64(..),
                random.u128(..),
            );
            (id.clone(), Bytes::from(json))
        })
        .collect()
}

fn open(path: &Path) -> (DataDir, Arc<dyn EventLog>) {
    let data = DataDir::open(path, &DataDirSpec::default()).expect("opens");
    let log = EmbeddedLog::open(&data, EmbeddedLogConfig::default()).expect("opens");
    (data, Arc::new(log))
}

fn append(path: &Path, events: &[(WorkspaceId, Bytes)]) -> Took {
    let (_data, log) = open(path);
    let watch = Watch::start();
    let mut waiting = VecDeque::new();
    for batch in events.chunks(BATCH) {
        waiting.push_back(log.submit(Append {
            producer: None,
            events: batch.to_vec(),
        }));
        if waiting.len() >= APPENDS_AT_ONCE {
            let oldest = waiting.pop_front().expect("not empty");
            oldest.blocking_recv().expect("answered").expect("appended");
        }
    }
    for answer in waiting {
        answer.blocking_recv().expect("answered").expect("appended");
    }
    watch.took()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    event_type: &'a str,
    workspace_id: &'a str,
    #[serde(borrow)]
    data: &'a serde_json::value::RawValue,
}

#[derive(Deserialize)]
struct DataId<'a> {
    id: &'a str,
}

type Values = HashMap<(Box<str>, Box<str>), Box<str>>;

fn floor(events: &[(WorkspaceId, Bytes)]) -> Took {
    let watch = Watch::start();
    let mut all: HashMap<Box<str>, Values> = HashMap::new();
    for (_, event) in events {
        let wire: Wire<'_> = serde_json::from_slice(event).expect("an event");
        let DataId { id } = serde_json::from_str(wire.data.get()).expect("an id");
        let (kind, _) = wire.event_type.rsplit_once('.').expect("a type");
        if !all.contains_key(wire.workspace_id) {
            all.insert(wire.workspace_id.into(), HashMap::new());
        }
        let entities = all.get_mut(wire.workspace_id).expect("inserted");
        entities.insert((kind.into(), id.into()), wire.data.get().into());
    }
    let took = watch.took();
    black_box(&all);
    took
}

fn scan_log(path: &Path) -> Took {
    let (_data, log) = open(path);
    let watch = Watch::start();
    let mut bytes = 0;
    for partition in (0..log.partitions()).map(PartitionId) {
        let until = log.high_watermark(partition);
        let mut from = Offset::ZERO;
        while from < until {
            let limit = ReadLimit {
                records: 4096,
                bytes: 4 * 1024 * 1024,
                until,
            };
            let batch = log.read(partition, from, limit).expect("reads");
            let values = batch.records.iter().filter_map(|record| record.value());
            bytes += values.map(<[u8]>::len).sum::<usize>();
            from = batch.next_offset;
        }
    }
    black_box(bytes);
    watch.took()
}

#[derive(Clone, Copy)]
enum Stores {
    Memory,
    Lsm,
}

/// From the start of an engine on an open data directory until every workspace is ready.
fn until_ready(data: &DataDir, log: Arc<dyn EventLog>, stores: Stores, workspaces: usize) -> Took {
    let store: Arc<dyn Store> = match stores {
        Stores::Memory => Arc::new(MemoryStore::new()),
        Stores::Lsm => Arc::new(LsmStore::open(data).expect("opens")),
    };
    let tracker = Tracker::new();
    let watch = Watch::start();
    let config = EngineConfig::default();
    let engine: Engine = Engine::builder()
        .config(config)
        .tracker(tracker.clone())
        .start_on(log, store)
        .expect("starts");
    while tracker.count_by_state()[State::Ready] < workspaces {
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = watch.took();
    engine.shutdown(Instant::now() + Duration::from_mins(1));
    took
}

/// The time to open the database, and then to read every entry, without any of the engine's code.
fn scan_store(path: &Path) -> (Took, Took, usize) {
    let watch = Watch::start();
    let database = fjall::Database::builder(path.join("db"))
        .open()
        .expect("opens");
    let entries = database
        .keyspace("store-entries", fjall::KeyspaceCreateOptions::default)
        .expect("opens");
    let opened = watch.took();
    let watch = Watch::start();
    let mut count = 0;
    let mut bytes = 0;
    for entry in entries.iter() {
        let (key, value) = entry.into_inner().expect("reads");
        bytes += key.len() + value.len();
        count += 1;
    }
    black_box(bytes);
    (opened, watch.took(), count)
}
