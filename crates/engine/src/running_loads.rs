//! Loads under way: how far each is, and which of them hang.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use workspace_lifecycle::Slot;
use workspace_status::{Epoch, WorkspaceId};

use crate::assignment::Assignment;

/// A load under way, shared by its thread and the watch.
pub(crate) struct RunningLoad {
    pub(crate) assignment: Arc<Assignment>,
    pub(crate) id: WorkspaceId,
    pub(crate) slot: Slot,
    pub(crate) epoch: Epoch,
    /// Grows with every step and every entry.
    ticks: AtomicU64,
    is_claimed: AtomicBool,
    stage: Mutex<LoadStage>,
}

#[derive(Debug, Clone, Copy)]
enum LoadStage {
    /// The text completes "made no progress while …".
    Runs(&'static str),
    Returned,
    Abandoned(HungThread),
}

/// The thread of an abandoned load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HungThread {
    /// Another thread has its permit. It ends when its load returns.
    Replaced,
    /// It keeps its permit, and takes the next load when its load returns.
    KeepsPermit,
}

impl RunningLoad {
    /// Begins the next step of the load; false if the load was abandoned: its result would be dropped.
    pub(crate) fn begin_step(&self, step: &'static str) -> bool {
        self.tick();
        match &mut *self.stage.lock() {
            LoadStage::Runs(now) => {
                *now = step;
                true
            }
            LoadStage::Returned | LoadStage::Abandoned(_) => false,
        }
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

    pub(crate) fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Abandons the load, unless it has returned or was abandoned before. A load that returns meanwhile waits for
    /// `replace`, so that its thread and the permit have one outcome. Returns the step and that outcome.
    pub(crate) fn abandon(
        &self,
        replace: impl FnOnce() -> HungThread,
    ) -> Option<(&'static str, HungThread)> {
        let mut stage = self.stage.lock();
        let LoadStage::Runs(step) = *stage else {
            return None;
        };
        let thread = replace();
        *stage = LoadStage::Abandoned(thread);
        Some((step, thread))
    }

    fn hung_thread(&self) -> Option<HungThread> {
        match *self.stage.lock() {
            LoadStage::Runs(_) | LoadStage::Returned => None,
            LoadStage::Abandoned(thread) => Some(thread),
        }
    }
}

/// The loads under way, each by its own number.
pub(crate) struct RunningLoads {
    loads: Mutex<HashMap<u64, Arc<RunningLoad>>>,
    next: AtomicU64,
}

impl Default for RunningLoads {
    fn default() -> Self {
        Self {
            loads: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }
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
        let mut of_workspace = loads.values().filter(|load| load.id == *id);
        if of_workspace.any(|load| load.hung_thread().is_some()) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let load = Arc::new(RunningLoad {
            assignment: Arc::clone(assignment),
            id: id.clone(),
            slot,
            epoch,
            ticks: AtomicU64::new(0),
            is_claimed: AtomicBool::new(false),
            stage: Mutex::new(LoadStage::Runs("its epoch was claimed in the store")),
        });
        loads.insert(number, Arc::clone(&load));
        Some((number, load))
    }

    /// A load has returned; `Some` if it was abandoned before.
    pub(crate) fn end(&self, number: u64) -> Option<HungThread> {
        let load = self.loads.lock().remove(&number)?;
        match std::mem::replace(&mut *load.stage.lock(), LoadStage::Returned) {
            LoadStage::Runs(_) | LoadStage::Returned => None,
            LoadStage::Abandoned(thread) => Some(thread),
        }
    }

    /// Those that were not abandoned.
    pub(crate) fn under_way(&self) -> Vec<(u64, Arc<RunningLoad>)> {
        let loads = self.loads.lock();
        let running = loads
            .iter()
            .filter(|(_, load)| load.hung_thread().is_none());
        running
            .map(|(number, load)| (*number, Arc::clone(load)))
            .collect()
    }

    /// Loads that were abandoned and have not returned.
    pub(crate) fn hung(&self) -> usize {
        self.hung_threads().len()
    }

    /// The threads of abandoned loads.
    pub(crate) fn hung_threads(&self) -> Vec<HungThread> {
        let loads = self.loads.lock();
        loads
            .values()
            .filter_map(|load| load.hung_thread())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use workspace_lifecycle::{
        Input, Known, Limits, Listing, Offset, Partition, PartitionId, Residence, Time,
    };

    fn slot_of(id: &WorkspaceId) -> Slot {
        let mut machine = Partition::new(PartitionId(0), Limits::default());
        machine.handle(Time::default(), Input::Assigned);
        let known = Known {
            id: id.clone(),
            epoch: Epoch::FIRST,
            next_offset: Offset::ZERO,
            first_offset: Offset::ZERO,
            residence: Residence::Unloaded,
            damaged: false,
        };
        let listing = Listing {
            workspaces: vec![known],
            deleted: Vec::new(),
            committed: Offset::ZERO,
            low_watermark: Offset::ZERO,
            high_watermark: Offset::ZERO,
            first_epoch: Epoch::FIRST,
        };
        machine.handle(Time::default(), Input::Listed(listing));
        machine.slot(id).unwrap()
    }

    #[test]
    fn an_abandoned_load_has_one_outcome_for_its_thread_and_its_permit() {
        let id = WorkspaceId::new("acme").unwrap();
        let slot = slot_of(&id);
        let (assignment, _messages) = Assignment::new(PartitionId(0), Duration::ZERO);
        for thread in [HungThread::Replaced, HungThread::KeepsPermit] {
            let loads = RunningLoads::default();
            let begin = || loads.begin(&assignment, &id, slot, Epoch::FIRST);
            let (number, load) = begin().unwrap();
            let (step, outcome) = load.abandon(|| thread).unwrap();
            assert_eq!(
                (step, outcome),
                ("its epoch was claimed in the store", thread)
            );
            assert_eq!(load.abandon(|| unreachable!()), None, "only once");
            assert!(!load.begin_step("its entries were read"));
            assert!(begin().is_none(), "it still hangs");
            assert_eq!(loads.hung_threads(), [thread]);
            assert_eq!(loads.end(number), Some(thread));

            let (number, load) = begin().unwrap();
            assert!(load.begin_step("its entries were read"));
            assert_eq!(loads.end(number), None, "in time");
            assert_eq!(load.abandon(|| unreachable!()), None, "it has returned");
            assert_eq!(loads.hung(), 0);
        }
    }
}
