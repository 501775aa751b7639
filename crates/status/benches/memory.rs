//! Bytes per workspace with a full history, counted at the allocator and by the system.
//!
//! `cargo bench -p workspace-status --bench memory`

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, dead_code)]
#![allow(clippy::cast_precision_loss, clippy::indexing_slicing)]

use std::alloc::System;
use std::time::Instant;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use workspace_status::{Epoch, HISTORY_CAPACITY, State, Tracker, Unit, Value};

mod naive;
mod workload;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn allocated_bytes() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

fn allocations() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|n| n.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

fn report<T>(name: &str, workspaces: usize, make: impl FnOnce() -> T) -> T {
    let (bytes, resident) = (allocated_bytes(), resident_bytes());
    let begun = Instant::now();
    let made = make();
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = (allocated_bytes() - bytes) as f64 / workspaces as f64;
    let resident = resident_bytes().saturating_sub(resident) as f64 / workspaces as f64;
    println!(
        "{name:<34} {workspaces:>8} workspaces: {bytes:>6.1} bytes allocated, {resident:>6.1} \
         resident, each; made in {seconds:.2} s"
    );
    made
}

fn fill(workspaces: usize, transitions: usize) -> Tracker {
    let tracker = Tracker::new();
    for n in 0..workspaces {
        let status = tracker.get_or_create(&workload::id(n));
        let mut left = transitions;
        workload::live(n, |state, message| {
            if left > 0 {
                left -= 1;
                status.set_state(state, message);
            }
        });
    }
    tracker
}

/// One load with the metadata and the progress that the engine reports, in its order.
fn fill_as_the_engine(workspaces: usize) -> Tracker {
    let tracker = Tracker::new();
    let [partition, loaded, total] = workload::COUNTED;
    for n in 0..workspaces {
        let status = tracker.get_or_create(&workload::id(n));
        let attempt = status.begin_attempt(Epoch::FIRST, "assigned").unwrap();
        let (topic, events) = workload::TOPIC;
        let assigned = [
            (topic, Value::from(events)),
            (partition, Value::from(n)),
            ("queue_position", Value::from(n)),
        ];
        attempt.update_metadata_many(assigned).unwrap();
        status.remove_metadata("queue_position");
        let mut left = 4;
        workload::live(n, |state, message| {
            if left > 0 {
                left -= 1;
                status.set_state(state, message);
            }
        });
        attempt.update_metadata(loaded, n).unwrap();
        let progress = status.start_progress(State::ReplayingEvents, Unit::Positions, Some(1000));
        let seeking = [
            (workload::PHASE, Value::from("seeking_offset")),
            (workload::REPORTED[0], Value::from(n)),
            (total, Value::from(1000)),
        ];
        attempt.update_metadata_many(seeking).unwrap();
        progress.set(1000);
        let report = workload::REPORTED.map(|key| (key, Value::from(n + 1000)));
        let caught_up = (workload::PHASE, Value::from("caught_up"));
        attempt
            .update_metadata_many([caught_up].into_iter().chain(report))
            .unwrap();
        status.set_state(State::Ready, "ready");
    }
    tracker
}

fn main() {
    for workspaces in [100_000, 1_000_000] {
        let tracker = report("full history (20 transitions)", workspaces, || {
            fill(workspaces, HISTORY_CAPACITY)
        });
        assert_eq!(tracker.count(), workspaces);
        let history = tracker.snapshot(&workload::id(7)).unwrap();
        assert_eq!(history.state_history().len(), HISTORY_CAPACITY);
        drop(report("  + a list of all of them", workspaces, || {
            tracker.list_all()
        }));
    }
    drop(report("one load (5 transitions)", 100_000, || {
        fill(100_000, 5)
    }));
    drop(report("new", 100_000, || fill(100_000, 0)));
    drop(report(
        "one load, as the engine reports it",
        100_000,
        || fill_as_the_engine(100_000),
    ));
    drop(report("naive, full history", 100_000, || {
        let tracker = naive::NaiveTracker::default();
        for n in 0..100_000 {
            let status = tracker.get_or_create(&workload::id(n));
            workload::live(n, |state, message| status.set_state(state, message));
        }
        tracker
    }));

    let tracker = fill(1, HISTORY_CAPACITY);
    let status = tracker.get(&workload::id(0)).unwrap();
    let count = |name: &str, operation: &mut dyn FnMut()| {
        operation();
        let before = allocations();
        for _ in 0..100 {
            operation();
        }
        let each = (allocations() - before) as f64 / 100.0;
        println!("{name:<34} {each:.2} allocations");
    };
    let mut flip = false;
    let mut set = || {
        flip = !flip;
        let state = if flip { State::Ready } else { State::Unloading };
        status.set_state(state, "target reached");
    };
    count("snapshot", &mut || drop(status.snapshot()));
    count("set_state", &mut set);
    count("set_state after a snapshot", &mut || {
        let held = status.snapshot();
        set();
        drop(held);
    });
    count("snapshot with its history read", &mut || {
        assert_eq!(status.snapshot().state_history().len(), HISTORY_CAPACITY);
    });
}
