//! The threads of the engine besides those of the partitions.

mod eraser;
mod evict;
mod history;
mod history_changes;
mod history_waiting;
mod load_watch;
mod loader;
mod saver;
mod upkeep;

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::jobs::Jobs;
use crate::shared::EngineShared;
use crate::start_error::StartError;

/// Starts one thread for each load permit, and one each to write the history, watch loads, save, erase, do upkeep and,
/// where memory is limited, evict.
pub(crate) fn start(
    shared: &Arc<EngineShared>,
    jobs: Jobs,
) -> Result<Vec<JoinHandle<()>>, StartError> {
    let Jobs {
        loads,
        saves,
        erasures,
    } = jobs;
    // Before the first partition is assigned: the feed keeps nothing before it has a watcher.
    let watcher = shared.tracker.watch();
    let mut threads = vec![spawn(shared, "history", |shared| {
        history::run(shared, watcher);
    })?];
    for number in 0..shared.config.admission.permits.max(1) {
        let loads = loads.clone();
        threads.push(spawn(shared, &format!("load-{number}"), move |shared| {
            loader::run(shared, &loads);
        })?);
    }
    threads.push(spawn(shared, "load-watch", move |shared| {
        load_watch::run(shared, &loads);
    })?);
    threads.push(spawn(shared, "save", move |shared| {
        saver::run(shared, &saves);
    })?);
    threads.push(spawn(shared, "erase", move |shared| {
        shared.work(&erasures, |job| eraser::erase(shared, job));
    })?);
    if shared.memory.limit().is_some() {
        threads.push(spawn(shared, "evict", |shared| evict::run(shared))?);
    }
    threads.push(spawn(shared, "upkeep", |shared| upkeep::run(shared))?);
    Ok(threads)
}

pub(crate) fn spawn(
    shared: &Arc<EngineShared>,
    name: &str,
    run: impl FnOnce(&Arc<EngineShared>) + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || run(&shared))
        .map_err(|source| StartError::Thread {
            name: name.to_owned(),
            source,
        })
}
