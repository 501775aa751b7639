//! The data directory: one engine's disk, with one database for the embedded log and the LSM store.
//!
//! ```text
//! lock                 held while an engine runs, with its process id
//! format.json          version of the format, number of partitions
//! witness              copy of the newest acknowledged ledger, outside of the database
//! witness.accepted     the same, renamed by an operator who accepts a loss
//! damaged-*            journals as they were before a loss in them was accepted
//! *.set-aside-SECONDS  what could not be used and may hold data; nothing deletes it
//! db/                  the database
//! workspaces/          the file store, if it is used
//! ```

pub(crate) mod aside;
pub(crate) mod codec;
mod error;
mod format;
mod journal;
mod ledger;
mod lock;
mod memtables;
mod recovery;
mod space;
mod versions;
mod witness;

pub use error::{DiskError, Loss, LostRange, WriteError};
pub use format::FORMAT_VERSION;

pub(crate) use error::{describe, is_damage};
pub(crate) use lock::DirLock;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use ledger::{LEDGER_KEY, Ledger};
pub use memtables::MIN_DATABASE_MEMORY;
use memtables::{MemoryShares, Memtables};
use parking_lot::Mutex;
use space::FreeSpace;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use witness::Witness;
use workspace_lifecycle::{Offset, PartitionId};

use crate::routing::Partitioner;

/// Most partitions of the embedded log: each is a separate tree in the database.
pub const MAX_PARTITIONS: u32 = 256;

/// Number of partitions of a data directory by default.
pub const PARTITIONS_DEFAULT: u32 = 12;

/// How a data directory is to be created or opened.
#[derive(Debug, Clone)]
pub struct DataDirSpec {
    /// Number of partitions of the embedded log, 1 to [`MAX_PARTITIONS`]; fixed when the directory is created.
    pub partitions: u32,
    /// Gives the partition of a workspace whose own record can no longer be read; for a copy of a topic, that topic's
    /// partitioner.
    pub partitioner: Partitioner,
    /// Memory of the database, in bytes, at least [`MIN_DATABASE_MEMORY`]: blocks of tables that were read, and what is
    /// not in tables yet. Indexes of open tables, and the tables that a flush or a compaction writes, are not counted.
    pub memory_bytes: u64,
    /// Most bytes of journals on disk, at least 64 MiB; the journals are read back when the engine starts.
    pub journal_bytes: u64,
    /// Most tables of the database that are kept open, at least 10. A flush or a compaction opens some more.
    pub open_files: usize,
}

impl Default for DataDirSpec {
    fn default() -> Self {
        Self {
            partitions: PARTITIONS_DEFAULT,
            partitioner: Partitioner::default(),
            memory_bytes: 128 * 1024 * 1024,
            journal_bytes: 256 * 1024 * 1024,
            open_files: 900,
        }
    }
}

/// Least value of [`DataDirSpec::journal_bytes`] that the database accepts.
const MIN_JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

/// Least value of [`DataDirSpec::open_files`] that the database accepts.
const MIN_OPEN_FILES: usize = 10;

/// Upper bound of a commit that holds little besides the ledger of all partitions.
const MAX_COMMIT_BYTES: u64 = 16 * 1024;

/// An open data directory; clones share it, and the last one closes it.
#[derive(Clone)]
pub struct DataDir {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    partitions: u32,
    partitioner: Partitioner,
    /// The operator renamed or removed the witness: the engine continues with what is left.
    loss_accepted: bool,
    database: Database,
    ledger_keyspace: Keyspace,
    memtables: Memtables,
    space: FreeSpace,
    /// Why the database accepts no more writes until it is opened again.
    fatal_error: OnceLock<String>,
    durable: Mutex<Durable>,
    // Dropped last, when the database is closed.
    _lock: DirLock,
}

/// What was acknowledged so far. One commit at a time: the next batch with a ledger is written when the previous one is
/// durable. The scan of the journals relies on that.
struct Durable {
    ledger: Ledger,
    witness: Witness,
}

impl std::fmt::Debug for DataDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataDir")
            .field("path", &self.inner.path)
            .finish_non_exhaustive()
    }
}

impl DataDir {
    /// Opens a data directory, and creates it if it does not exist.
    ///
    /// # Errors
    /// [`DiskError`] names the path and says what can be done.
    pub fn open(path: impl AsRef<Path>, spec: &DataDirSpec) -> Result<Self, DiskError> {
        let path = path.as_ref();
        if spec.partitions == 0 || spec.partitions > MAX_PARTITIONS {
            return Err(DiskError::PartitionCount {
                requested: spec.partitions,
                most: MAX_PARTITIONS,
            });
        }
        std::fs::create_dir_all(path).map_err(DiskError::io("create", path))?;
        let path = std::path::absolute(path).map_err(DiskError::io("find", path))?;
        let lock = DirLock::acquire(&path)?;
        let database_path = path.join("db");
        let has_format = format::check(&path, spec)?;
        if !has_format && database_path.exists() {
            let reason = "it has a database, but no format.json".to_owned();
            return Err(DiskError::NotADataDirectory { path, reason });
        }
        let expected = recovery::prepare(&path, &database_path, spec)?;
        if !has_format {
            format::write(&path, spec)?;
        }
        let accepted = witness::read_accepted(&path, spec.partitions)?;
        let loss_accepted = accepted.is_some() || expected.is_anything();
        let shares = MemoryShares::of(spec.memory_bytes);
        let database = open_database(&database_path, spec, shares)?;
        let ledger_keyspace = keyspace(&database, &path, "ledger", KeyspaceCreateOptions::default)?;
        let ledger = read_ledger(&ledger_keyspace, &path, spec.partitions)?;
        if let Some(lost) = expected.loss(&ledger) {
            drop((ledger_keyspace, database));
            return Err(expected.refuse(&path, lost));
        }
        expected.settle()?;
        if loss_accepted {
            tracing::warn!(
                path = %path.display(),
                commit = ledger.commit,
                "the witness file was renamed or removed: the engine continues with what the database holds"
            );
        }
        let witness = Witness::create(&path, &ledger, spec.partitions)?;
        let memtables = Memtables::new(shares);
        memtables.add(ledger_keyspace.clone());
        let dir = Self {
            inner: Arc::new(Inner {
                partitions: spec.partitions,
                partitioner: spec.partitioner,
                loss_accepted,
                space: FreeSpace::new(&path),
                fatal_error: OnceLock::new(),
                path,
                database,
                ledger_keyspace,
                memtables,
                durable: Mutex::new(Durable { ledger, witness }),
                _lock: lock,
            }),
        };
        if let Some(accepted) = accepted {
            dir.take_accepted(&accepted)?;
        }
        Ok(dir)
    }

    /// Merges the witness with which the operator accepted a loss: partitions continue after the ends that it names.
    fn take_accepted(&self, accepted: &Ledger) -> Result<(), DiskError> {
        let ends = self.inner.durable.lock().ledger.further_ends(accepted);
        self.commit_unchecked(self.inner.database.batch(), &ends)
            .map_err(|error| self.unreadable(error.to_string()))?;
        let path = witness::accepted_path(&self.inner.path);
        std::fs::remove_file(&path).map_err(DiskError::io("remove", &path))
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Number of partitions of the embedded log.
    pub fn partitions(&self) -> u32 {
        self.inner.partitions
    }

    pub(crate) fn partitioner(&self) -> Partitioner {
        self.inner.partitioner
    }

    /// The error for something in the database that cannot be read.
    pub(crate) fn unreadable(&self, reason: String) -> DiskError {
        DiskError::Database {
            path: self.inner.path.clone(),
            reason,
        }
    }

    /// The error for something in the database that is damaged.
    pub(crate) fn damaged(&self, reason: String) -> DiskError {
        DiskError::DamagedDatabase {
            path: self.inner.path.clone(),
            reason,
        }
    }

    pub(crate) fn failed(&self, error: &fjall::Error) -> DiskError {
        self.unreadable(describe(error))
    }

    pub(crate) fn database(&self) -> &Database {
        &self.inner.database
    }

    pub(crate) fn keyspace(
        &self,
        name: &str,
        options: impl FnOnce() -> KeyspaceCreateOptions,
    ) -> Result<Keyspace, DiskError> {
        let keyspace = keyspace(&self.inner.database, &self.inner.path, name, options)?;
        self.inner.memtables.add(keyspace.clone());
        Ok(keyspace)
    }

    /// End of a partition as of the last durable commit.
    pub(crate) fn acknowledged_end(&self, partition: PartitionId) -> Offset {
        self.inner.durable.lock().ledger.high_watermark(partition)
    }

    /// Whether the operator accepted, at this start, that acknowledged events may be lost.
    pub(crate) fn loss_accepted(&self) -> bool {
        self.inner.loss_accepted
    }

    /// Refuses a partition that does not end where it should, unless the loss was accepted.
    pub(crate) fn accept_end(&self, range: &LostRange) -> Result<(), DiskError> {
        if !self.inner.loss_accepted {
            let commit = self.inner.durable.lock().ledger.commit;
            return Err(DiskError::Lost {
                path: self.inner.path.clone(),
                lost: Loss {
                    found_commit: commit,
                    acknowledged_commit: commit,
                    partitions: vec![*range],
                },
                witness: witness::path(&self.inner.path),
            });
        }
        let LostRange {
            partition,
            found,
            acknowledged,
        } = range;
        tracing::warn!(
            %partition,
            %found,
            %acknowledged,
            "a partition does not end where it was acknowledged; the loss is accepted, and appends continue behind both"
        );
        Ok(())
    }

    /// Why nothing is written until the process is restarted; `None` while the database accepts writes.
    pub(crate) fn fatal_error(&self) -> Option<&str> {
        self.inner.fatal_error.get().map(String::as_str)
    }

    /// Turns a failed write into an error, and records if the database accepts no more writes.
    fn write_failed(&self, error: &fjall::Error) -> WriteError {
        let failure = WriteError::from_database(error);
        // Flushing the buffer does only what a later write would do too, and shows whether the database is poisoned.
        let is_poisoned = matches!(error, fjall::Error::Poisoned)
            || matches!(
                self.inner.database.persist(PersistMode::Buffer),
                Err(fjall::Error::Poisoned)
            );
        if is_poisoned && self.inner.fatal_error.set(failure.to_string()).is_ok() {
            tracing::error!(error = %failure, path = %self.inner.path.display(), "the database accepts no more writes");
        }
        failure
    }

    /// Refuses a write for which there is no space: a write on a full disk can break the database.
    pub(crate) fn check_space(&self, batch_bytes: usize) -> Result<(), WriteError> {
        self.inner.space.check(self.needed_bytes(batch_bytes))
    }

    fn needed_bytes(&self, batch_bytes: usize) -> u64 {
        // The batch is written twice, to the journal and later to a table; and all unflushed data will become a table
        // too.
        let batch_bytes = u64::try_from(batch_bytes).unwrap_or(u64::MAX);
        let unflushed = self.inner.database.write_buffer_size();
        batch_bytes.saturating_mul(2).saturating_add(unflushed)
    }

    /// Writes a batch that survives a crash of the process, but not always one of the machine.
    pub(crate) fn write(
        &self,
        batch: OwnedWriteBatch,
        batch_bytes: usize,
    ) -> Result<(), WriteError> {
        self.check_space(batch_bytes)?;
        self.write_buffered(batch)
    }

    /// As [`DataDir::write`], for a batch that removes. It may use the reserve, because it frees space.
    pub(crate) fn write_removal(
        &self,
        batch: OwnedWriteBatch,
        batch_bytes: usize,
    ) -> Result<(), WriteError> {
        let needed_bytes = self.needed_bytes(batch_bytes);
        self.inner.space.check_with_reserve(needed_bytes)?;
        self.write_buffered(batch)
    }

    fn write_buffered(&self, batch: OwnedWriteBatch) -> Result<(), WriteError> {
        batch
            .durability(Some(PersistMode::Buffer))
            .commit()
            .map_err(|error| self.write_failed(&error))?;
        self.inner.memtables.limit(&self.inner.database);
        Ok(())
    }

    /// Writes a batch durably, with everything that was written before it, and records the new ends of partitions.
    pub(crate) fn commit(
        &self,
        batch: OwnedWriteBatch,
        batch_bytes: usize,
        ends: &[(PartitionId, Offset)],
    ) -> Result<(), WriteError> {
        self.check_space(batch_bytes)?;
        self.commit_unchecked(batch, ends)
    }

    /// As [`DataDir::commit`], for a batch that removes, or an empty one that only syncs. Unflushed data does not count
    /// against it: it takes a few kilobytes, and without it nothing ever frees space.
    pub(crate) fn commit_removal(&self, batch: OwnedWriteBatch) -> Result<(), WriteError> {
        self.inner.space.check_with_reserve(MAX_COMMIT_BYTES)?;
        self.commit_unchecked(batch, &[])
    }

    fn commit_unchecked(
        &self,
        mut batch: OwnedWriteBatch,
        ends: &[(PartitionId, Offset)],
    ) -> Result<(), WriteError> {
        let mut durable = self.inner.durable.lock();
        let next = durable.ledger.advanced(ends);
        batch.insert(&self.inner.ledger_keyspace, LEDGER_KEY, next.encode());
        batch
            .durability(Some(PersistMode::SyncAll))
            .commit()
            .map_err(|error| self.write_failed(&error))?;
        if let Err(error) = durable.witness.note(&next) {
            tracing::warn!(%error, path = %self.inner.path.display(), "the witness file could not be written and lags behind");
        }
        durable.ledger = next;
        drop(durable);
        self.inner.memtables.limit(&self.inner.database);
        Ok(())
    }
}

fn open_database(
    path: &Path,
    spec: &DataDirSpec,
    shares: MemoryShares,
) -> Result<Database, DiskError> {
    let builder = Database::builder(path)
        .cache_size(shares.cache_bytes)
        .max_cached_files(Some(spec.open_files.max(MIN_OPEN_FILES)))
        .max_journaling_size(spec.journal_bytes.max(MIN_JOURNAL_BYTES));
    // The database panics on some kinds of damage instead of returning an error.
    match catch_unwind(AssertUnwindSafe(|| builder.open())) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(fjall::Error::Locked)) => Err(DiskError::Locked {
            path: path.to_owned(),
            pid: None,
        }),
        Ok(Err(error)) => Err(database_error(path, &error)),
        Err(_) => Err(DiskError::DamagedDatabase {
            path: path.to_owned(),
            reason: "its files are damaged in a way that it does not expect".to_owned(),
        }),
    }
}

/// The error for a database that cannot be opened.
fn database_error(path: &Path, error: &fjall::Error) -> DiskError {
    let (path, reason) = (path.to_owned(), describe(error));
    if is_damage(error) || is_cut(error) {
        DiskError::DamagedDatabase { path, reason }
    } else {
        DiskError::Database { path, reason }
    }
}

/// Whether a file ends before its contents do.
fn is_cut(error: &fjall::Error) -> bool {
    let (fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error))) = error
    else {
        return false;
    };
    matches!(
        error.kind(),
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData
    )
}

fn keyspace(
    database: &Database,
    path: &Path,
    name: &str,
    options: impl FnOnce() -> KeyspaceCreateOptions,
) -> Result<Keyspace, DiskError> {
    let keyspace = database.keyspace(name, options);
    keyspace.map_err(|error| database_error(path, &error))
}

fn read_ledger(keyspace: &Keyspace, path: &Path, partitions: u32) -> Result<Ledger, DiskError> {
    let value = keyspace.get(LEDGER_KEY);
    let Some(value) = value.map_err(|error| database_error(path, &error))? else {
        return Ok(Ledger::new(partitions));
    };
    Ledger::decode(value.into()).map_err(|damage| DiskError::DamagedDatabase {
        path: path.to_owned(),
        reason: format!("its ledger: {damage}"),
    })
}
