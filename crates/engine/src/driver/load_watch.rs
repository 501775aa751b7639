//! Loads that hang: what they wait for may never answer, and must not keep other workspaces from loading.
//!
//! A load that makes no progress for [`EngineConfig::load_timeout`](crate::EngineConfig) is abandoned: its workspace is
//! in a retrying error, its permit goes to the next load, and a new thread replaces the one that hangs. A result that
//! the hung thread still returns is dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use workspace_lifecycle::{Input, LoadFailure, Slot};
use workspace_status::{Epoch, WorkspaceId};

use crate::assignment::Assignment;
use crate::message::Message;
use crate::shared::Shared;

/// Most threads that hang in abandoned loads and were replaced. Further ones keep their permits until they return.
pub(crate) const MAX_ABANDONED_LOADS: usize = 64;

const RUNS: u8 = 0;
const DONE: u8 = 1;
const ABANDONED: u8 = 2;
/// Abandoned, but its thread is not replaced and keeps its permit.
const ABANDONED_IN_PLACE: u8 = 3;

/// What becomes of the thread of a load that has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Returned {
    /// In time: its result is used.
    InTime,
    /// Its result is dropped and its thread ends, because another one has replaced it.
    Replaced,
    /// Its result is dropped, and its thread takes the next load.
    Late,
}

/// A load under way, shared by its thread and the watch.
pub(crate) struct RunningLoad {
    assignment: Arc<Assignment>,
    id: WorkspaceId,
    slot: Slot,
    epoch: Epoch,
    state: AtomicU8,
    /// Grows with every step and every entry.
    ticks: AtomicU64,
    step: Mutex<&'static str>,
    is_claimed: AtomicBool,
}

impl RunningLoad {
    /// Begins the next step of the load; the text completes "made no progress while …".
    pub(crate) fn begin_step(&self, step: &'static str) {
        *self.step.lock() = step;
        self.tick();
    }

    /// The store has accepted its epoch.
    pub(crate) fn claimed(&self) {
        self.is_claimed.store(true, Ordering::Release);
    }

    pub(crate) fn is_claimed(&self) -> bool {
        self.is_claimed.load(Ordering::Acquire)
    }

    pub(crate) fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the load was abandoned: its result would be dropped.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.state.load(Ordering::Acquire) != RUNS
    }

    fn leave(&self, from: u8, to: u8) -> bool {
        let changed = self
            .state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        changed.is_ok()
    }
}

/// The loads under way, each by its own number.
#[derive(Default)]
pub(crate) struct RunningLoads {
    loads: Mutex<HashMap<u64, Arc<RunningLoad>>>,
    next: AtomicU64,
}

impl RunningLoads {
    /// Registers a load that begins; `None` if an earlier one of the same workspace still hangs.
    pub(crate) fn begin(
        &self,
        assignment: &Arc<Assignment>,
        id: &WorkspaceId,
        slot: Slot,
        epoch: Epoch,
    ) -> Option<(u64, Arc<RunningLoad>)> {
        let mut loads = self.loads.lock();
        let hangs = |load: &&Arc<RunningLoad>| load.id == *id && load.is_abandoned();
        if loads.values().any(|load| hangs(&load)) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let load = Arc::new(RunningLoad {
            assignment: Arc::clone(assignment),
            id: id.clone(),
            slot,
            epoch,
            state: AtomicU8::new(RUNS),
            ticks: AtomicU64::new(0),
            step: Mutex::new("its epoch was claimed in the store"),
            is_claimed: AtomicBool::new(false),
        });
        loads.insert(number, Arc::clone(&load));
        Some((number, load))
    }

    /// A load has returned.
    pub(crate) fn end(&self, number: u64, load: &RunningLoad) -> Returned {
        let in_time = load.leave(RUNS, DONE);
        self.loads.lock().remove(&number);
        if in_time {
            Returned::InTime
        } else if load.state.load(Ordering::Acquire) == ABANDONED {
            Returned::Replaced
        } else {
            Returned::Late
        }
    }

    fn under_way(&self) -> Vec<(u64, Arc<RunningLoad>)> {
        let loads = self.loads.lock();
        let running = loads.iter().filter(|(_, load)| !load.is_abandoned());
        running
            .map(|(number, load)| (*number, Arc::clone(load)))
            .collect()
    }

    /// Loads that were abandoned and have not returned.
    pub(crate) fn hung(&self) -> usize {
        let loads = self.loads.lock();
        loads.values().filter(|load| load.is_abandoned()).count()
    }

    /// Number of those whose threads were replaced.
    pub(crate) fn replaced(&self) -> usize {
        let loads = self.loads.lock();
        let states = loads
            .values()
            .map(|load| load.state.load(Ordering::Acquire));
        states.filter(|state| *state == ABANDONED).count()
    }
}

/// Watches until the engine ends; `replace` starts a thread to replace one that hangs.
pub(crate) fn run(shared: &Shared, replace: impl Fn() -> bool) {
    let timeout = shared.config.load_timeout;
    let look_every = (timeout / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
    let mut seen: HashMap<u64, (u64, Instant)> = HashMap::new();
    while !shared.ending.load(Ordering::Acquire) {
        std::thread::park_timeout(look_every);
        let now = Instant::now();
        let under_way = shared.running_loads.under_way();
        seen.retain(|number, _| under_way.iter().any(|(of, _)| of == number));
        for (number, load) in under_way {
            let ticks = load.ticks.load(Ordering::Relaxed);
            let (last, since) = seen.entry(number).or_insert((ticks, now));
            if *last != ticks {
                (*last, *since) = (ticks, now);
            } else if now.duration_since(*since) >= timeout {
                abandon(shared, &load, timeout, &replace);
            }
        }
    }
}

fn abandon(shared: &Shared, load: &RunningLoad, timeout: Duration, replace: &impl Fn() -> bool) {
    let may_replace = shared.running_loads.replaced() < MAX_ABANDONED_LOADS;
    let to = if may_replace {
        ABANDONED
    } else {
        ABANDONED_IN_PLACE
    };
    if !load.leave(RUNS, to) {
        return;
    }
    let step = *load.step.lock();
    let reason = format!(
        "the load made no progress for {} s while {step}, and was abandoned",
        timeout.as_secs_f32()
    );
    tracing::error!(
        workspace = %load.id, partition = %load.assignment.id(), epoch = %load.epoch,
        replaced = may_replace, "{reason}"
    );
    shared.counters.load_failures.add(1);
    let _ = load.assignment.send(Message::Input(Input::LoadFailed {
        slot: load.slot,
        epoch: load.epoch,
        claimed: load.is_claimed(),
        failure: LoadFailure::Retry(reason),
    }));
    if may_replace {
        if replace() {
            shared.release_permit();
        } else {
            // The system could not start a thread: the one that hangs keeps its permit.
            load.state.store(ABANDONED_IN_PLACE, Ordering::Release);
        }
    }
}
