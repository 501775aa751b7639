//! Cost of the operations of a status and of a tracker, compared with the naive implementation.
//!
//! `cargo bench -p workspace-status --bench operations`

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, dead_code)]
#![allow(clippy::indexing_slicing)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use workspace_status::{Epoch, State, Tracker, Unit, Value};

mod naive;
mod workload;

use naive::NaiveTracker;

const WORKSPACES: usize = 100_000;

fn filled(workspaces: usize) -> Tracker {
    let tracker = Tracker::new();
    for n in 0..workspaces {
        let status = tracker.get_or_create(&workload::id(n));
        workload::live(n, |state, message| status.set_state(state, message));
    }
    tracker
}

fn naive_filled(workspaces: usize) -> NaiveTracker {
    let tracker = NaiveTracker::default();
    for n in 0..workspaces {
        let status = tracker.get_or_create(&workload::id(n));
        workload::live(n, |state, message| status.set_state(state, message));
    }
    tracker
}

/// The next change of a life.
fn next(turn: &mut usize) -> (State, &'static str) {
    *turn += 1;
    black_box(workload::ROUND[*turn % workload::ROUND.len()])
}

fn one_status(c: &mut Criterion) {
    let tracker = filled(1000);
    let naive = naive_filled(1000);
    let status = tracker.get(&workload::id(7)).unwrap();
    let naive_status = naive.get(&workload::id(7)).unwrap();
    status.update_metadata("topic", "events").unwrap();
    status.update_metadata("partition", "3").unwrap();
    naive_status.update_metadata("topic", "events");
    naive_status.update_metadata("partition", "3");

    let mut group = c.benchmark_group("clock");
    group.bench_function("wall and monotonic", |b| {
        b.iter(|| (SystemTime::now(), Instant::now()));
    });
    group.bench_function("monotonic", |b| b.iter(Instant::now));
    group.finish();

    let mut group = c.benchmark_group("set_state");
    let mut turn = 0_usize;
    group.bench_function("ours", |b| {
        b.iter(|| {
            let (state, message) = next(&mut turn);
            status.set_state(state, message);
        });
    });
    group.bench_function("ours, a snapshot of before is held", |b| {
        b.iter(|| {
            let held = status.snapshot();
            let (state, message) = next(&mut turn);
            status.set_state(state, message);
            held
        });
    });
    group.bench_function("naive", |b| {
        b.iter(|| {
            let (state, message) = next(&mut turn);
            naive_status.set_state(state, message);
        });
    });
    group.finish();

    let mut group = c.benchmark_group("is_ready");
    group.bench_function("ours", |b| b.iter(|| status.is_ready()));
    group.bench_function("naive", |b| b.iter(|| naive_status.is_ready()));
    group.finish();

    let mut group = c.benchmark_group("update_metadata");
    let mut partition = 0_usize;
    group.bench_function("ours", |b| {
        b.iter(|| {
            partition += 1;
            status.update_metadata("partition", black_box(["4", "5"][partition % 2]))
        });
    });
    group.bench_function("ours, there already", |b| {
        b.iter(|| status.update_metadata("topic", black_box("events")));
    });
    group.bench_function("naive", |b| {
        b.iter(|| naive_status.update_metadata("partition", black_box("4")));
    });
    group.finish();
    metadata_numbers(c);

    let mut group = c.benchmark_group("snapshot");
    group.bench_function("ours", |b| b.iter(|| status.snapshot()));
    group.bench_function("ours, history read", |b| {
        b.iter(|| {
            let snapshot = status.snapshot();
            black_box(snapshot.state_history().len());
            snapshot
        });
    });
    group.bench_function("naive", |b| b.iter(|| naive_status.snapshot()));
    let progress = status.start_progress(State::ReplayingEvents, Unit::Positions, Some(1 << 40));
    progress.add(1);
    group.bench_function("ours, with progress", |b| b.iter(|| status.snapshot()));
    group.finish();

    let mut group = c.benchmark_group("progress tick");
    group.bench_function("ours", |b| b.iter(|| progress.add(black_box(1))));
    group.bench_function("naive", |b| b.iter(|| naive_status.tick()));
    group.finish();

    let mut group = c.benchmark_group("progress report");
    group.bench_function("ours", |b| b.iter(|| status.progress()));
    group.finish();
}

/// Numbers beside the other metadata of a workspace that replays.
fn metadata_numbers(c: &mut Criterion) {
    let status = Tracker::new().get_or_create("replaying");
    let naive_status = NaiveTracker::default().get_or_create("replaying");
    let attempt = status.begin_attempt(Epoch::FIRST, "load").unwrap();
    for (key, text) in [workload::TOPIC, (workload::PHASE, "reading")] {
        status.update_metadata(key, text).unwrap();
        naive_status.update_metadata(key, text);
    }
    for key in workload::COUNTED.into_iter().chain(workload::REPORTED) {
        status.update_metadata(key, 0_u64).unwrap();
        naive_status.update_metadata_number(key, 0);
    }

    let mut group = c.benchmark_group("update_metadata of a number");
    let mut n = 0_u64;
    group.bench_function("ours", |b| {
        b.iter(|| {
            n += 1;
            status.update_metadata(black_box("events_processed"), n)
        });
    });
    group.bench_function("ours, a snapshot of before is held", |b| {
        b.iter(|| {
            let held = status.snapshot();
            n += 1;
            status
                .update_metadata(black_box("events_processed"), n)
                .unwrap();
            held
        });
    });
    group.bench_function("ours, four as one change", |b| {
        b.iter(|| {
            n += 1;
            let entries = workload::REPORTED.map(|key| (key, Value::from(n)));
            attempt.update_metadata_many(black_box(entries))
        });
    });
    group.bench_function("naive", |b| {
        b.iter(|| {
            n += 1;
            naive_status.update_metadata_number(black_box("events_processed"), n);
        });
    });
    group.bench_function("naive, without a time", |b| {
        b.iter(|| {
            n += 1;
            naive_status.set_metadata_number(black_box("events_processed"), n);
        });
    });
    group.finish();
}

fn whole_tracker(c: &mut Criterion) {
    let tracker = filled(WORKSPACES);
    let naive = naive_filled(WORKSPACES);
    let id = workload::id(WORKSPACES / 3);

    let mut group = c.benchmark_group("get of 100k");
    group.bench_function("ours", |b| b.iter(|| tracker.get(black_box(&id))));
    group.bench_function("naive", |b| b.iter(|| naive.get(black_box(&id))));
    group.finish();

    let mut group = c.benchmark_group("count_by_state");
    let small = filled(100);
    group.bench_function("ours, 100", |b| b.iter(|| small.count_by_state()));
    group.bench_function("ours, 100k", |b| b.iter(|| tracker.count_by_state()));
    group.sample_size(10);
    group.bench_function("naive, 100k", |b| b.iter(|| naive.count_by_state()));
    group.finish();

    let mut group = c.benchmark_group("list_all of 100k");
    group.sample_size(20);
    group.bench_function("ours", |b| b.iter(|| tracker.list_all()));
    group.bench_function("naive", |b| b.iter(|| naive.list_all()));
    group.finish();

    let mut group = c.benchmark_group("page of 100 from the middle of 100k");
    let query = workspace_status::PageQuery {
        after: Some(id.parse().unwrap()),
        ..Default::default()
    };
    group.bench_function("ours", |b| b.iter(|| tracker.page(&query)));
    group.finish();
}

/// The same while another thread changes states without pausing.
fn beside_a_writer(c: &mut Criterion) {
    let tracker = filled(1000);
    let naive = Arc::new(naive_filled(1000));
    let stop = Arc::new(AtomicBool::new(false));
    let id = workload::id(7);
    let status = tracker.get(&id).unwrap();
    let naive_status = naive.get(&id).unwrap();

    let mut group = c.benchmark_group("beside a writer of the same status");
    let write = |work: Box<dyn Fn(usize) + Send>| {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            let mut turn = 0;
            while !stop.load(Ordering::Relaxed) {
                turn += 1;
                work(turn);
            }
        })
    };
    let theirs = Arc::clone(&status);
    let writer = write(Box::new(move |turn| {
        let (state, message) = workload::ROUND[turn % workload::ROUND.len()];
        theirs.set_state(state, message);
    }));
    group.bench_function("is_ready, ours", |b| b.iter(|| status.is_ready()));
    group.bench_function("snapshot, ours", |b| b.iter(|| status.snapshot()));
    group.bench_function("get, ours", |b| b.iter(|| tracker.get(black_box(&id))));
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();

    stop.store(false, Ordering::Relaxed);
    let theirs = Arc::clone(&naive_status);
    let writer = write(Box::new(move |turn| {
        let (state, message) = workload::ROUND[turn % workload::ROUND.len()];
        theirs.set_state(state, message);
    }));
    group.bench_function("is_ready, naive", |b| b.iter(|| naive_status.is_ready()));
    group.bench_function("snapshot, naive", |b| b.iter(|| naive_status.snapshot()));
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    group.finish();
}

fn configured() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
}

criterion_group! {
    name = operations;
    config = configured();
    targets = one_status, whole_tracker, beside_a_writer
}
criterion_main!(operations);
