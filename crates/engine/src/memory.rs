//! How much memory the workspaces take, and which of them leave it first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Estimate of what the engine holds for each workspace in memory besides its entities: the status with its history,
/// the machine's record, and its place in the tables.
pub(crate) const WORKSPACE_BYTES: u64 = 5_000;

/// What is left of a workspace that is out of memory: its record in the machine, its name and its last known state.
const ABSENT_BYTES: u64 = 700;

/// The memory of all workspaces, as an estimate, and its limit.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Of those in memory.
    loaded: AtomicU64,
    /// Of those out of it, at the last pass.
    absent: AtomicU64,
    limit: Option<u64>,
    /// Passes of the eviction thread: the time of reads and writes, without a clock.
    pass: AtomicU32,
}

impl Memory {
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Self {
            loaded: AtomicU64::new(0),
            absent: AtomicU64::new(0),
            limit,
            pass: AtomicU32::new(1),
        }
    }

    pub(crate) fn limit(&self) -> Option<u64> {
        self.limit
    }

    pub(crate) fn used(&self) -> u64 {
        self.loaded.load(Ordering::Relaxed) + self.absent.load(Ordering::Relaxed)
    }

    /// Bytes above the limit; 0 at or below it.
    pub(crate) fn excess(&self) -> u64 {
        self.limit
            .map_or(0, |limit| self.used().saturating_sub(limit))
    }

    /// Begins a pass, with this number of workspaces out of memory.
    pub(crate) fn begin_pass(&self, absent: usize) {
        let absent = u64::try_from(absent).unwrap_or(u64::MAX);
        self.absent
            .store(absent.saturating_mul(ABSENT_BYTES), Ordering::Relaxed);
        self.pass.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn pass(&self) -> u32 {
        self.pass.load(Ordering::Relaxed)
    }
}

/// The memory of one workspace; it is returned on drop.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    memory: Arc<Memory>,
    bytes: AtomicU64,
    /// The pass in which it was last read or written.
    used_in: AtomicU32,
}

impl MemoryShare {
    pub(crate) fn new(memory: &Arc<Memory>, bytes: u64) -> Self {
        memory.loaded.fetch_add(bytes, Ordering::Relaxed);
        Self {
            memory: Arc::clone(memory),
            bytes: AtomicU64::new(bytes),
            used_in: AtomicU32::new(memory.pass()),
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Sets its size. Only one thread at a time may.
    pub(crate) fn resize(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        if bytes >= before {
            self.memory
                .loaded
                .fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            self.memory
                .loaded
                .fetch_sub(before - bytes, Ordering::Relaxed);
        }
    }

    /// Notes a read or a write.
    pub(crate) fn touch(&self) {
        let pass = self.memory.pass();
        // Most reads come in the same pass: they do not write to the shared line.
        if self.used_in.load(Ordering::Relaxed) != pass {
            self.used_in.store(pass, Ordering::Relaxed);
        }
    }

    pub(crate) fn used_in(&self) -> u32 {
        self.used_in.load(Ordering::Relaxed)
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        let bytes = self.bytes();
        self.memory.loaded.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_counted_until_it_is_dropped() {
        let memory = Arc::new(Memory::new(Some(100)));
        let share = MemoryShare::new(&memory, 60);
        let other = MemoryShare::new(&memory, 60);
        assert_eq!((memory.used(), memory.excess()), (120, 20));
        share.resize(30);
        assert_eq!((memory.used(), memory.excess()), (90, 0));
        other.resize(100);
        assert_eq!((memory.used(), memory.excess()), (130, 30));
        drop((share, other));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn the_pass_of_the_last_use_is_kept() {
        let memory = Arc::new(Memory::new(None));
        let (old, new) = (MemoryShare::new(&memory, 1), MemoryShare::new(&memory, 1));
        memory.begin_pass(0);
        new.touch();
        assert!(old.used_in() < new.used_in());
        assert_eq!(memory.excess(), 0, "without a limit");
    }
}
