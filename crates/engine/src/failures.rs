//! Which requests of the log and the store fail now, each with its last error.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use workspace_lifecycle::PartitionId;

/// What was requested of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StoreRequest {
    /// To save, or to sync what was saved.
    Saves,
    /// To save a partition whose saves it does not accept now, while it may accept those of others.
    SavesOf(PartitionId),
    /// To open or to list a partition.
    Partition(PartitionId),
}

/// The last error of each request that fails now.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    store: Mutex<BTreeMap<StoreRequest, String>>,
    log: Mutex<BTreeMap<PartitionId, String>>,
}

impl Failures {
    /// Records how the store answered. True if that has changed.
    pub(crate) fn store_answered(&self, request: StoreRequest, answer: Result<(), String>) -> bool {
        let mut failures = self.store.lock();
        match answer {
            Ok(()) => failures.remove(&request).is_some(),
            Err(reason) => failures.insert(request, reason.clone()) != Some(reason),
        }
    }

    /// Records how a read of the log went.
    pub(crate) fn log_answered(&self, partition: PartitionId, answer: Result<(), String>) {
        let mut failures = self.log.lock();
        match answer {
            Ok(()) => drop(failures.remove(&partition)),
            Err(reason) => drop(failures.insert(partition, reason)),
        }
    }

    /// The next owner of the partition, here or elsewhere, finds out by itself how log and store answer.
    pub(crate) fn forget(&self, partition: PartitionId) {
        self.log.lock().remove(&partition);
        let mut failures = self.store.lock();
        failures.remove(&StoreRequest::Partition(partition));
        failures.remove(&StoreRequest::SavesOf(partition));
    }

    /// No partition is left whose save could clear the last error.
    pub(crate) fn forget_saves(&self) {
        self.store.lock().clear();
    }

    /// An error of the store.
    pub(crate) fn of_store(&self) -> Option<String> {
        let failures = self.store.lock();
        failures.first_key_value().map(|(_, reason)| reason.clone())
    }

    /// The error of the store that a partition waits for.
    pub(crate) fn of_store_for(&self, partition: PartitionId) -> Option<String> {
        let failures = self.store.lock();
        let of_partition = [
            StoreRequest::SavesOf(partition),
            StoreRequest::Partition(partition),
            StoreRequest::Saves,
        ];
        of_partition
            .iter()
            .find_map(|request| failures.get(request).cloned())
    }

    /// A partition that cannot be read, and why.
    pub(crate) fn of_log(&self) -> Option<(PartitionId, String)> {
        let failures = self.log.lock();
        failures
            .first_key_value()
            .map(|(partition, reason)| (*partition, reason.clone()))
    }
}
