//! The engine's counters, for metrics. All start at 0 with the process and only grow.

use std::sync::atomic::{AtomicU64, Ordering};

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `more`.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counters of the engine.
#[derive(Debug, Default)]
pub struct EngineCounters {
    /// Events applied to workspaces.
    pub events_applied: Counter,
    /// Routable records that were read and not applied: of a workspace that had applied them already or was not in
    /// memory, or at or after a poison event in their batch.
    pub events_passed: Counter,
    /// Events that a workspace could not apply.
    pub events_poisoned: Counter,
    /// Records without a valid workspace id as their key.
    pub records_unroutable: Counter,
    /// Records whose key belongs on another partition.
    pub records_misrouted: Counter,
    /// Bytes of records read from the log.
    pub bytes_read: Counter,
    /// Workspaces saved.
    pub workspaces_saved: Counter,
    /// Saves that the store failed or refused.
    pub save_failures: Counter,
    /// Entries written or removed by saves.
    pub changes_saved: Counter,
    /// Bytes of entries written by saves.
    pub bytes_saved: Counter,
    /// Microseconds spent in saves.
    pub save_micros: Counter,
    /// Loads that succeeded.
    pub loads: Counter,
    /// Workspaces that left memory because it was needed.
    pub evictions: Counter,
    /// Loads that failed.
    pub load_failures: Counter,
    /// Entries read from the store by loads.
    pub entries_loaded: Counter,
    /// Events put into the dead-letter log.
    pub dead_letters: Counter,
    /// Transitions that could not be written to the durable history.
    pub history_lost: Counter,
}
