//! Loads that hang: what they wait for may never answer, and must not keep other workspaces from loading.
//!
//! A load that makes no progress for [`EngineConfig::load_timeout`](crate::EngineConfig) is abandoned: its workspace is
//! in a retrying error, its permit goes to the next load, and a new thread replaces the one that hangs. A result that
//! the hung thread still returns is dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use workspace_lifecycle::{Input, LoadFailure};

use super::loader;
use crate::jobs::LoadJob;
use crate::message::Message;
use crate::running_loads::{HungThread, RunningLoad};
use crate::shared::EngineShared;

/// Most threads that hang in abandoned loads and were replaced. Further ones keep their permits until they return.
const MAX_REPLACED_THREADS: usize = 64;

/// Watches until the engine ends.
pub(super) fn run(shared: &Arc<EngineShared>, jobs: &Receiver<LoadJob>) {
    let timeout = shared.config.load_timeout;
    let look_every = (timeout / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
    let mut seen: HashMap<u64, (u64, Instant)> = HashMap::new();
    while !shared.ending.load(Ordering::Acquire) {
        std::thread::park_timeout(look_every);
        let now = Instant::now();
        let under_way = shared.running_loads.under_way();
        seen.retain(|number, _| under_way.iter().any(|(of, _)| of == number));
        for (number, load) in under_way {
            let ticks = load.ticks();
            let (last, since) = seen.entry(number).or_insert((ticks, now));
            if *last != ticks {
                (*last, *since) = (ticks, now);
            } else if now.duration_since(*since) >= timeout {
                abandon(shared, jobs, &load, timeout);
            }
        }
    }
}

fn abandon(
    shared: &Arc<EngineShared>,
    jobs: &Receiver<LoadJob>,
    load: &RunningLoad,
    timeout: Duration,
) {
    let hung = shared.running_loads.hung_threads();
    let replaced = hung.iter().filter(|one| **one == HungThread::Replaced);
    let may_replace = replaced.count() < MAX_REPLACED_THREADS;
    let Some((step, thread)) = load.abandon(|| {
        if may_replace && start_replacement(shared, jobs) {
            HungThread::Replaced
        } else {
            HungThread::KeepsPermit
        }
    }) else {
        return;
    };
    let reason = format!(
        "the load made no progress for {} s while {step}, and was abandoned",
        timeout.as_secs_f32()
    );
    tracing::error!(
        workspace = %load.id, partition = %load.assignment.id(), epoch = %load.epoch,
        replaced = thread == HungThread::Replaced, "{reason}"
    );
    shared.counters.load_failures.add(1);
    let _ = load.assignment.send(Message::Input(Input::LoadFailed {
        slot: load.slot,
        epoch: load.epoch,
        claimed: load.is_claimed(),
        failure: LoadFailure::Retry(reason),
    }));
    match thread {
        HungThread::Replaced => shared.permits.release(),
        HungThread::KeepsPermit => {}
    }
}

/// Whether another thread takes the next loads.
fn start_replacement(shared: &Arc<EngineShared>, jobs: &Receiver<LoadJob>) -> bool {
    let jobs = jobs.clone();
    let thread = super::spawn(shared, "load-again", move |shared| {
        loader::run(shared, &jobs);
    });
    let thread = thread.inspect_err(|error| {
        tracing::error!(%error, "no thread can be started to replace one whose load hangs");
    });
    let is_started = thread.is_ok();
    let mut replacements = shared.replacements.lock();
    replacements.retain(|thread| !thread.is_finished());
    replacements.extend(thread);
    is_started
}
