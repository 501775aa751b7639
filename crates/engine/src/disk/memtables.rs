//! The memory of the database: one part caches blocks of tables, another holds what is not in tables yet (memtables).
//!
//! The database limits the memtable of each keyspace, but not their sum, and keeps the limit with which a keyspace was
//! created. So their sum is limited here: above it, the largest memtables are written to tables.

use super::describe;
use fjall::{AbstractTree, Database, Keyspace};
use parking_lot::Mutex;
use std::time::Duration;

/// Least memory of a database, in bytes; a smaller value is raised to it.
pub const MIN_DATABASE_MEMORY: u64 = 32 * 1024 * 1024;

/// A write waits in such steps while tables are written more slowly than memtables fill,
const FLUSH_POLL: Duration = Duration::from_millis(1);

/// and at most this often: if no table can be written any more, the next write has to report that.
const MAX_FLUSH_POLLS: u32 = 100;

/// How the memory of a database is divided. A quarter is left for what the sizes do not count: the nodes around small
/// entries, and the memtable that became a table last, which the database releases with the next one.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemoryShares {
    /// Cached blocks of tables.
    pub(super) cache_bytes: u64,
    /// Memtables that are filled.
    filling_bytes: u64,
    /// These, and the memtables that are written to tables.
    memtable_bytes: u64,
}

impl MemoryShares {
    pub(super) fn of(memory_bytes: u64) -> Self {
        let quarter = memory_bytes.max(MIN_DATABASE_MEMORY) / 4;
        Self {
            cache_bytes: quarter,
            filling_bytes: quarter,
            memtable_bytes: 2 * quarter,
        }
    }
}

/// The memtables of all keyspaces.
pub(super) struct Memtables {
    shares: MemoryShares,
    keyspaces: Mutex<Vec<Keyspace>>,
}

impl Memtables {
    pub(super) fn new(shares: MemoryShares) -> Self {
        Self {
            shares,
            keyspaces: Mutex::default(),
        }
    }

    pub(super) fn add(&self, keyspace: Keyspace) {
        self.keyspaces.lock().push(keyspace);
    }

    /// Keeps their sum within its share; called after each write.
    pub(super) fn limit(&self, database: &Database) {
        if database.write_buffer_size() <= self.shares.filling_bytes {
            return;
        }
        // If another thread has the lock, it does the same.
        if let Some(keyspaces) = self.keyspaces.try_lock() {
            flush_largest(&keyspaces, self.shares.filling_bytes);
        }
        for _ in 0..MAX_FLUSH_POLLS {
            if database.write_buffer_size() <= self.shares.memtable_bytes {
                return;
            }
            std::thread::sleep(FLUSH_POLL);
        }
    }
}

/// Starts to write the largest memtables to tables, until the others have at most `most_bytes`. (The database does not
/// document these calls.)
fn flush_largest(keyspaces: &[Keyspace], most_bytes: u64) {
    let mut sizes: Vec<_> = keyspaces
        .iter()
        .map(|keyspace| (keyspace.tree.active_memtable().size(), keyspace))
        .collect();
    let mut sum: u64 = sizes.iter().map(|(size, _)| size).sum();
    if sum <= most_bytes {
        return;
    }
    sizes.sort_unstable_by_key(|(size, _)| std::cmp::Reverse(*size));
    for (size, keyspace) in sizes {
        if sum <= most_bytes {
            return;
        }
        if let Err(error) = keyspace.rotate_memtable() {
            tracing::warn!(
                keyspace = &**keyspace.name(),
                error = describe(&error),
                "a memtable cannot be flushed"
            );
        }
        sum -= size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{DataDir, DataDirSpec};

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn the_shares_are_within_the_memory_and_never_below_the_least() {
        for (memory, expected) in [
            (0, MIN_DATABASE_MEMORY),
            (MIN_DATABASE_MEMORY, MIN_DATABASE_MEMORY),
            (128 * MIB, 128 * MIB),
            (u64::MAX, u64::MAX),
        ] {
            let shares = MemoryShares::of(memory);
            let used = shares.cache_bytes + shares.memtable_bytes;
            assert_eq!(used, expected / 4 * 3, "{memory}");
            assert!(shares.filling_bytes < shares.memtable_bytes);
        }
    }

    #[test]
    fn memtables_of_any_number_of_keyspaces_keep_within_their_share() {
        for count in [1, 12, 1024] {
            let path = tempfile::tempdir().expect("a directory");
            let spec = DataDirSpec {
                memory_bytes: MIN_DATABASE_MEMORY,
                ..DataDirSpec::default()
            };
            let dir = DataDir::open(path.path(), &spec).expect("opened");
            let keyspaces: Vec<_> = (0..count)
                .map(|number| dir.keyspace(&format!("test-{number}"), Default::default))
                .collect::<Result<_, _>>()
                .expect("created");
            let shares = MemoryShares::of(MIN_DATABASE_MEMORY);
            // 40 MiB, more than all shares together.
            for number in 0..2_560_usize {
                let mut batch = dir.database().batch();
                let value = vec![0; 16 * 1024];
                batch.insert(&keyspaces[number % count], number.to_be_bytes(), value);
                dir.write(batch, 16 * 1024).expect("written");
                let used = dir.database().write_buffer_size();
                assert!(used <= shares.memtable_bytes, "{count} keyspaces: {used}");
            }
        }
    }
}
