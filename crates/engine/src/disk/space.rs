//! Free disk space, checked before each write.
//!
//! The database accepts no more writes once the disk is full in the middle of a write, a flush or a compaction. So a
//! write is refused while there is still room for the data that the database has yet to flush, and accepted again when
//! space is freed. In addition, a reserve is kept for the writes that free space: removals, and syncs, after which the
//! log may be trimmed.

use super::WriteError;
use std::path::{Path, PathBuf};

/// Largest reserve that is kept free in addition to what is known to be needed.
const MAX_RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// The reserve is at most the size of the disk divided by this, so that small disks can be used too.
const RESERVE_PART_OF_DISK: u64 = 16;

#[derive(Debug)]
pub(crate) struct FreeSpace {
    dir: PathBuf,
}

#[derive(Debug, Clone, Copy)]
struct Space {
    free_bytes: u64,
    total_bytes: u64,
}

impl FreeSpace {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Refuses if less than `needed_bytes` and the reserve together are free.
    pub(crate) fn check(&self, needed_bytes: u64) -> Result<(), WriteError> {
        space_of(&self.dir).map_or(Ok(()), |space| {
            self.compare(space, needed_bytes.saturating_add(reserve(space)))
        })
    }

    /// Refuses if less than `needed_bytes` are free: for writes that may use the reserve.
    pub(crate) fn check_with_reserve(&self, needed_bytes: u64) -> Result<(), WriteError> {
        space_of(&self.dir).map_or(Ok(()), |space| self.compare(space, needed_bytes))
    }

    fn compare(&self, space: Space, wanted: u64) -> Result<(), WriteError> {
        if space.free_bytes >= wanted {
            return Ok(());
        }
        Err(WriteError::NoSpace(format!(
            "{} of {} MiB are free in {}, {} are needed",
            mebibytes(space.free_bytes),
            mebibytes(space.total_bytes),
            self.dir.display(),
            mebibytes(wanted)
        )))
    }
}

fn reserve(space: Space) -> u64 {
    MAX_RESERVE_BYTES.min(space.total_bytes / RESERVE_PART_OF_DISK)
}

/// Mebibytes with one decimal digit, rounded up.
fn mebibytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10).div_ceil(1024 * 1024);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(unix)]
fn space_of(dir: &Path) -> Option<Space> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(Space {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

#[cfg(not(unix))]
fn space_of(_dir: &Path) -> Option<Space> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_a_part_of_a_small_disk_and_bounded_on_a_large_one() {
        let check = |total_bytes, expected| {
            assert_eq!(
                reserve(Space {
                    free_bytes: 0,
                    total_bytes
                }),
                expected
            );
        };
        check(32 << 20, 2 << 20);
        check(1 << 40, MAX_RESERVE_BYTES);
    }

    #[test]
    fn more_than_the_disk_holds_is_refused_with_the_numbers() {
        let space = FreeSpace::new(&std::env::temp_dir());
        space.check(0).expect("the temporary directory has space");
        let error = space
            .check(u64::MAX / 2)
            .expect_err("no disk is that large")
            .to_string();
        assert!(error.contains("MiB are free"), "{error}");
    }
}
