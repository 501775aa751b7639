//! Why a data directory cannot be used, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use workspace_lifecycle::{Offset, PartitionId};

/// Name of the witness file by which an operator accepts a loss.
const WITNESS_ACCEPTED: &str = "witness.accepted";

/// Why a data directory, or what is in it, cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another process has the directory open.
    #[error("the data directory {} is in use by another engine{}; stop it, or give this one a directory of its own", .path.display(), Pid(*.pid))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Id of the process that has it open, if known.
        pid: Option<u32>,
    },
    /// The directory has a format version that this engine does not read.
    #[error("the data directory {} has format version {found}, this engine reads version {expected}; use the engine that wrote it, or start with an empty directory", .path.display())]
    Version {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version that this engine reads and writes.
        expected: u64,
    },
    /// The directory was created with another number of partitions.
    #[error("the data directory {} was created with {found} partitions, not {requested}; start with {found} partitions, or with an empty directory", .path.display())]
    Partitions {
        /// The directory.
        path: PathBuf,
        /// Its number of partitions.
        found: u32,
        /// The requested number.
        requested: u32,
    },
    /// The requested number of partitions is not possible.
    #[error("{requested} partitions were requested; between 1 and {most} are possible")]
    PartitionCount {
        /// The requested number.
        requested: u32,
        /// The largest possible number.
        most: u32,
    },
    /// The directory is not empty, but its format file does not identify it.
    #[error("{} is not a data directory of an engine: {reason}; restore it from a copy, or give the engine another directory", .path.display())]
    NotADataDirectory {
        /// The directory.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A file is damaged at a position where acknowledged data would be lost.
    #[error("{} is damaged at byte {position}: {reason}; nothing was changed: restore the directory from a copy, or, to continue without the lost data, rename {} to {WITNESS_ACCEPTED}", .file.display(), .witness.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The first byte that cannot be read.
        position: u64,
        /// What is wrong there.
        reason: String,
        /// The file whose renaming accepts the loss.
        witness: PathBuf,
    },
    /// The file by which the database recognises its directory is missing; the rest of the database exists.
    #[error("{} is missing, without which the database does not open; nothing was changed: restore it from a copy of the directory, or copy it from any other data directory of this version; or, to begin with an empty database, rename {} to {WITNESS_ACCEPTED}: existing files are set aside", .file.display(), .witness.display())]
    NoMarker {
        /// The file that is missing.
        file: PathBuf,
        /// The file whose renaming accepts the loss.
        witness: PathBuf,
    },
    /// A journal that others build on is damaged, or one between others is missing: cutting it would not help.
    #[error("{} is damaged at byte {position}: {reason}; nothing was changed: other journals build on what is lost there, so only a copy of the directory helps: restore it", .file.display())]
    DamagedBetween {
        /// The file.
        file: PathBuf,
        /// The first byte that cannot be read.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A list of tables of the database is damaged.
    #[error("{} is damaged: {reason}; nothing was changed: it lists the tables, so only a copy of the directory helps: restore it", .file.display())]
    DamagedList {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The database holds less than what was acknowledged.
    #[error("the data directory {} has lost acknowledged data: {lost}; nothing was appended to it: restore it from a copy, or, to continue without the lost data, rename {} to {WITNESS_ACCEPTED}", .path.display(), .witness.display())]
    Lost {
        /// The directory.
        path: PathBuf,
        /// What is lost.
        lost: Loss,
        /// The file whose renaming accepts the loss.
        witness: PathBuf,
    },
    /// The witness file itself cannot be read.
    #[error("the witness file {} is damaged, so it is not known whether acknowledged events were lost; restore the directory from a copy, or rename the file to {WITNESS_ACCEPTED} to continue with the existing data", .path.display())]
    Witness {
        /// The file.
        path: PathBuf,
    },
    /// The operating system returned an error.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file that the database reads when it is opened is damaged.
    #[error("the database in {} is damaged: {reason}; nothing was changed: restore the directory from a copy", .path.display())]
    DamagedDatabase {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The database returned an error.
    #[error("the database in {} cannot be used: {reason}", .path.display())]
    Database {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl DiskError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}

/// What a database lacks of the acknowledged data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Number of the last commit that the database holds.
    pub found_commit: u64,
    /// Number of the last commit that was acknowledged.
    pub acknowledged_commit: u64,
    /// Partitions that end too early.
    pub partitions: Vec<LostRange>,
}

/// Events of a partition that were acknowledged and are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostRange {
    /// The partition.
    pub partition: PartitionId,
    /// End of the partition as it was found.
    pub found: Offset,
    /// End of the partition as it was acknowledged.
    pub acknowledged: Offset,
}

/// Most partitions that the message of a loss names.
const LOST_PARTITIONS_SHOWN: usize = 8;

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it holds {} of {} commits",
            self.found_commit, self.acknowledged_commit
        )?;
        for range in self.partitions.iter().take(LOST_PARTITIONS_SHOWN) {
            let LostRange {
                partition,
                found,
                acknowledged,
            } = range;
            write!(
                f,
                ", partition {partition} ends at offset {found} and not at {acknowledged}"
            )?;
        }
        match self.partitions.len().checked_sub(LOST_PARTITIONS_SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, ", and {more} more partitions"),
        }
    }
}

struct Pid(Option<u32>);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, " (process {pid})"))
    }
}

/// Why a write to the database failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// Too little space is free; nothing was written. Writes succeed again when there is space.
    #[error("{0}")]
    NoSpace(String),
    /// A write failed. Usually the database accepts no more writes until the engine is restarted.
    #[error("{0}; start the engine again when the cause is removed: what was acknowledged is kept")]
    Broken(String),
}

impl WriteError {
    /// The error of a failed write, or of a write that the database refuses because an earlier one failed.
    pub(crate) fn from_database(error: &fjall::Error) -> Self {
        if matches!(error, fjall::Error::Poisoned) {
            return Self::Broken("an earlier write to the disk failed".to_owned());
        }
        Self::Broken(format!("a write to the disk failed ({})", describe(error)))
    }
}

/// The message of a database error, without its wrapping.
pub(crate) fn describe(error: &fjall::Error) -> String {
    if let fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) = error {
        return error.to_string();
    }
    if let fjall::Error::Storage(fjall::LsmError::ChecksumMismatch { .. }) = error {
        return "the checksum of its block in the database does not match".to_owned();
    }
    error.to_string()
}

/// Whether a database error reports damaged data, so that a retry does not help.
pub(crate) fn is_damage(error: &fjall::Error) -> bool {
    let cannot_be_read = matches!(error, fjall::Error::Storage(fjall::LsmError::Io(_)));
    !cannot_be_read
        && matches!(
            error,
            fjall::Error::Storage(_) | fjall::Error::Decompress(_)
        )
}
