//! Data directories to damage, and their expected contents.

use std::path::Path;
use std::time::{Duration, SystemTime};
use workspace_engine_core::disk::{DataDir, DataDirSpec, DiskError};
use workspace_engine_core::log::conformance::{append, read_all, request};
use workspace_engine_core::log::{EmbeddedLog, EmbeddedLogConfig, EventLog, RetentionConfig};
use workspace_lifecycle::{Offset, PartitionId};

/// Few partitions, so that opening is quick.
pub(crate) fn spec() -> DataDirSpec {
    DataDirSpec {
        partitions: 2,
        ..DataDirSpec::default()
    }
}

pub(crate) fn open(path: &Path) -> Result<(DataDir, EmbeddedLog), DiskError> {
    open_with(path, RetentionConfig::default())
}

pub(crate) fn open_with(
    path: &Path,
    retention: RetentionConfig,
) -> Result<(DataDir, EmbeddedLog), DiskError> {
    let dir = DataDir::open(path, &spec())?;
    let config = EmbeddedLogConfig {
        retention,
        ..EmbeddedLogConfig::default()
    };
    let log = EmbeddedLog::open(&dir, config)?;
    Ok((dir, log))
}

/// Keeps as little as possible of what the store holds.
pub(crate) const NOTHING_KEPT: RetentionConfig = RetentionConfig {
    partition_bytes: Some(0),
    age: None,
};

/// Keeps no record that is older than the present millisecond.
pub(crate) const NO_AGE: RetentionConfig = RetentionConfig {
    partition_bytes: None,
    age: Some(Duration::ZERO),
};

/// Waits for the clock, so that every record is older than the present millisecond.
pub(crate) fn tick() {
    let now = SystemTime::now();
    while now
        .elapsed()
        .is_ok_and(|past| past < Duration::from_millis(2))
    {
        std::thread::yield_now();
    }
}

/// Appends `requests` requests of three events each, from request `first` on.
pub(crate) fn fill(log: &EmbeddedLog, first: u64, requests: u64) {
    for sequence in first..first + requests {
        let workspace = format!("workspace-{}", sequence % 5);
        append(log, request(&workspace, 3, Some(("filler", sequence)))).expect("appended");
    }
}

/// Number of events in all partitions, each of which must be readable.
pub(crate) fn events(log: &EmbeddedLog) -> usize {
    (0..log.partitions())
        .map(|partition| {
            read_all(log, PartitionId(partition), Offset::ZERO)
                .records
                .len()
        })
        .sum()
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("created");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// The newest journal of a data directory.
pub(crate) fn journal(path: &Path) -> std::path::PathBuf {
    let journals = std::fs::read_dir(path.join("db"))
        .expect("listed")
        .filter_map(|entry| {
            let path = entry.expect("listed").path();
            let id: u64 = path
                .file_name()?
                .to_str()?
                .strip_suffix(".jnl")?
                .parse()
                .ok()?;
            Some((id, path))
        });
    journals.max().expect("a journal").1
}

/// Replaces a file. It is removed first: some file systems sync a file that is truncated and rewritten.
pub(crate) fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    let _ = std::fs::remove_file(&path);
    std::fs::write(path, bytes).expect("written");
}
