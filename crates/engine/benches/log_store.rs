//! The embedded log and the LSM store beside the bare database.
//!
//! `LOG_STORE_EVENTS` (default 200,000) events are appended and scanned, `LOG_STORE_ENTRIES`
//! (default 100,000) entries in a thousandth as many workspaces are saved and loaded.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::print_stderr,
    reason = "a bench"
)]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::path::Path;
use workspace_engine_core::disk::{DataDir, DataDirSpec};
use workspace_engine_core::log::{Append, EmbeddedLog, EmbeddedLogConfig, EventLog, ReadLimit};
use workspace_engine_core::routing::partition_of;
use workspace_engine_core::store::{Change, Claim, LsmStore, Save, Store, StoredEntry};
use workspace_lifecycle::{Offset, PartitionId, Residence};
use workspace_status::{Epoch, WorkspaceId};

const EVENTS_A_REQUEST: usize = 1000;
const ENTRIES_A_WORKSPACE: usize = 1000;

fn size(variable: &str, default: usize) -> usize {
    std::env::var(variable)
        .ok()
        .and_then(|size| size.parse().ok())
        .unwrap_or(default)
}

fn id(number: usize) -> WorkspaceId {
    WorkspaceId::new(&format!("workspace-{number:05}")).expect("valid")
}

/// An event of about 265 bytes.
fn event(number: usize) -> (WorkspaceId, Bytes) {
    let id = id(number % 1000);
    let text = format!(
        r#"{{"eventType":"resource.updated","workspaceId":"{id}","timestamp":{number},"data":{{"id":"resource-{}","name":"{:0>120}","count":{number}}}}}"#,
        number % 5000,
        number * 7919
    );
    (id, Bytes::from(text))
}

fn request(first: usize) -> Append {
    Append {
        producer: None,
        events: (first..first + EVENTS_A_REQUEST).map(event).collect(),
    }
}

fn open_log(path: &Path) -> (DataDir, EmbeddedLog) {
    let dir = DataDir::open(path, &DataDirSpec::default()).expect("opened");
    let log = EmbeddedLog::open(&dir, EmbeddedLogConfig::default()).expect("opened");
    (dir, log)
}

/// Appends requests, so many at a time.
fn append_all(log: &EmbeddedLog, requests: Vec<Append>, at_a_time: usize) {
    let mut waiting = std::collections::VecDeque::new();
    for request in requests {
        waiting.push_back(log.submit(request));
        if waiting.len() >= at_a_time {
            let answer = waiting.pop_front().expect("not empty");
            answer.blocking_recv().expect("answered").expect("appended");
        }
    }
    for answer in waiting {
        answer.blocking_recv().expect("answered").expect("appended");
    }
}

/// The least that an append can be: the same events under the same keys, one sync a request.
fn append_bare(database: &fjall::Database, requests: Vec<Append>) {
    let keyspaces: Vec<_> = (0..12)
        .map(|partition| {
            database
                .keyspace(&format!("log-{partition}"), Default::default)
                .expect("created")
        })
        .collect();
    let mut next = [0_u64; 12];
    for request in requests {
        let mut batch = database
            .batch()
            .durability(Some(fjall::PersistMode::SyncAll));
        for (id, event) in request.events {
            let partition = partition_of(&id, 12).0 as usize;
            batch.insert(&keyspaces[partition], next[partition].to_be_bytes(), event);
            next[partition] += 1;
        }
        batch.commit().expect("committed");
    }
}

fn append(c: &mut Criterion) {
    let events = size("LOG_STORE_EVENTS", 200_000);
    let mut group = c.benchmark_group("append with fsync");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(events as u64));
    for at_a_time in [1, 8] {
        group.bench_function(
            format!("embedded log, {at_a_time} requests of {EVENTS_A_REQUEST} at a time"),
            |b| {
                b.iter_batched(
                    || {
                        let path = tempfile::tempdir().expect("a directory");
                        let log = open_log(path.path());
                        let requests = (0..events).step_by(EVENTS_A_REQUEST).map(request).collect();
                        (path, log, requests)
                    },
                    |(path, log, requests)| {
                        append_all(&log.1, requests, at_a_time);
                        (path, log)
                    },
                    BatchSize::PerIteration,
                );
            },
        );
    }
    group.bench_function(
        format!("bare database, batches of {EVENTS_A_REQUEST}"),
        |b| {
            b.iter_batched(
                || {
                    let path = tempfile::tempdir().expect("a directory");
                    let database = fjall::Database::builder(path.path())
                        .open()
                        .expect("opened");
                    let requests: Vec<_> =
                        (0..events).step_by(EVENTS_A_REQUEST).map(request).collect();
                    (path, database, requests)
                },
                |(path, database, requests)| {
                    append_bare(&database, requests);
                    (path, database)
                },
                BatchSize::PerIteration,
            );
        },
    );
    group.finish();
}

fn scan(c: &mut Criterion) {
    let events = size("LOG_STORE_EVENTS", 200_000);
    let path = tempfile::tempdir().expect("a directory");
    let (dir, log) = open_log(path.path());
    append_all(
        &log,
        (0..events).step_by(EVENTS_A_REQUEST).map(request).collect(),
        8,
    );
    let mut group = c.benchmark_group("scan of the log");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(events as u64));
    group.bench_function("embedded log, 1000 records a read", |b| {
        b.iter(|| {
            let mut records = 0;
            for partition in (0..log.partitions()).map(PartitionId) {
                let mut from = Offset::ZERO;
                while from < log.high_watermark(partition) {
                    let limit = ReadLimit {
                        records: 1000,
                        bytes: usize::MAX,
                        until: Offset(u64::MAX),
                    };
                    let batch = log.read(partition, from, limit).expect("readable");
                    records += black_box(&batch.records).len();
                    from = batch.next_offset;
                }
            }
            assert_eq!(records, events);
        });
    });
    drop((log, dir));
    let database = fjall::Database::builder(path.path().join("db"))
        .open()
        .expect("opened");
    group.bench_function("bare database", |b| {
        b.iter(|| {
            let mut records = 0;
            for partition in 0..12 {
                let keyspace = database
                    .keyspace(&format!("log-{partition}"), Default::default)
                    .expect("there");
                for entry in keyspace.iter() {
                    black_box(entry.into_inner().expect("readable"));
                    records += 1;
                }
            }
            assert_eq!(records, events);
        });
    });
    group.finish();
}

fn load(c: &mut Criterion) {
    let entries = size("LOG_STORE_ENTRIES", 100_000);
    let workspaces = entries.div_ceil(ENTRIES_A_WORKSPACE);
    let path = tempfile::tempdir().expect("a directory");
    let dir = DataDir::open(path.path(), &DataDirSpec::default()).expect("opened");
    let store = LsmStore::open(&dir).expect("opened");
    for workspace in 0..workspaces {
        store
            .claim(Claim {
                id: id(workspace),
                partition: PartitionId(0),
                epoch: Epoch::FIRST,
                owner: "bench".to_owned(),
                first_offset: Offset::ZERO,
            })
            .expect("claimed");
    }
    let saved = std::time::Instant::now();
    // Each workspace is saved in five parts, so that the entries of one lie in several tables.
    for part in 0..5 {
        let saves = (0..workspaces)
            .map(|workspace| save(workspace, part))
            .collect::<Vec<_>>();
        for save in saves {
            store.save(&[save], &[]).expect("saved");
        }
        store.sync().expect("synced");
    }
    let seconds = saved.elapsed().as_secs_f64();
    eprintln!(
        "save of {entries} entries: {:.0} a second",
        entries as f64 / seconds
    );

    let mut group = c.benchmark_group("load of all workspaces");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(entries as u64));
    group.bench_function("LSM store", |b| {
        b.iter(|| {
            let mut loaded = 0;
            for workspace in 0..workspaces {
                let mut sink = |entry: StoredEntry| {
                    loaded += 1;
                    drop(black_box(entry));
                    Ok(())
                };
                store.load(&id(workspace), &mut sink).expect("loaded");
            }
            assert_eq!(loaded, entries);
        });
    });
    drop((store, dir));
    let database = fjall::Database::builder(path.path().join("db"))
        .cache_size(64 << 20)
        .open()
        .expect("opened");
    let keyspace = database
        .keyspace("store-entries", Default::default)
        .expect("there");
    group.bench_function("bare database, one scan", |b| {
        b.iter(|| {
            let mut loaded = 0;
            for entry in keyspace.iter() {
                black_box(entry.into_inner().expect("readable"));
                loaded += 1;
            }
            assert_eq!(loaded, entries);
        });
    });
    group.finish();
}

fn save(workspace: usize, part: usize) -> Save {
    let changes = (part..ENTRIES_A_WORKSPACE).step_by(5).map(|number| {
        let data = format!(
            r#"{{"id":"resource-{number}","name":"{:0>180}","workspace":{workspace}}}"#,
            number * 7919
        );
        Change::Set(StoredEntry {
            kind: "resource".into(),
            id: format!("resource-{number}").into(),
            data: Bytes::from(data),
            offset: Offset(number as u64),
        })
    });
    Save {
        id: id(workspace),
        epoch: Epoch::FIRST,
        next_offset: Offset(part as u64),
        events_applied: part as u64,
        entries: ((part + 1) * ENTRIES_A_WORKSPACE / 5) as u64,
        changes: changes.collect(),
        last_load_ms: None,
        residence: Residence::Memory,
        only_offset: None,
    }
}

criterion_group!(benches, append, scan, load);
criterion_main!(benches);
