//! The witness file: a copy of the ledger outside of the database.
//!
//! The database ends its recovery at the first broken batch of a journal and reports nothing. The witness is written
//! after each acknowledged commit, and shows later what the database must hold. It is not synced: it may lag behind the
//! database, and is never ahead of it. Two slots are written in turn, so that one is intact at any moment.
//!
//! Renaming the file to `witness.accepted` accepts the loss. Its contents are used once more, so that no offset of a
//! lost event is assigned to another one. Removing the file accepts the loss too.

use super::DiskError;
use super::ledger::{self, Ledger};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "witness";
const SLOTS: u64 = 2;
const SLOT_ALIGNMENT: u64 = 512;

#[derive(Debug)]
pub(crate) struct Witness {
    file: File,
    slot_bytes: u64,
}

pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// The path to which the operator renames the witness to accept a loss.
pub(crate) fn accepted_path(dir: &Path) -> PathBuf {
    dir.join("witness.accepted")
}

/// The ledger in the witness file of a directory; `None` if there is no file.
pub(crate) fn read(dir: &Path, partitions: u32) -> Result<Option<Ledger>, DiskError> {
    read_file(path(dir), partitions)
}

/// The ledger in the witness with which the operator accepts a loss; `None` if there is no file. A damaged file counts
/// as an empty ledger and accepts the loss all the same.
pub(crate) fn read_accepted(dir: &Path, partitions: u32) -> Result<Option<Ledger>, DiskError> {
    match read_file(accepted_path(dir), partitions) {
        Err(error @ DiskError::Witness { .. }) => {
            tracing::warn!(%error, "the loss is accepted; offsets of lost events may be used again");
            Ok(Some(Ledger::new(partitions)))
        }
        read => read,
    }
}

fn read_file(path: PathBuf, partitions: u32) -> Result<Option<Ledger>, DiskError> {
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DiskError::io("read", &path)(error)),
    }
    let slot_bytes = usize::try_from(slot_bytes(partitions)).unwrap_or(usize::MAX);
    let length = ledger::encoded_bytes(usize::try_from(partitions).unwrap_or(usize::MAX));
    let newest = bytes
        .chunks(slot_bytes)
        .filter_map(|slot| Ledger::decode(slot.get(..length)?.to_vec().into()).ok())
        .max_by_key(|ledger| ledger.commit);
    newest.map_or_else(
        || Err(DiskError::Witness { path }),
        |ledger| Ok(Some(ledger)),
    )
}

impl Witness {
    /// Creates or replaces the file, with both slots filled, durably.
    pub(crate) fn create(dir: &Path, ledger: &Ledger, partitions: u32) -> Result<Self, DiskError> {
        let path = path(dir);
        let draft = dir.join("witness.new");
        let slot_bytes = slot_bytes(partitions);
        let open = || {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(&draft)?;
            file.set_len(slot_bytes * SLOTS)?;
            let mut witness = Self { file, slot_bytes };
            for slot in 0..SLOTS {
                witness.write_slot(slot, ledger)?;
            }
            witness.file.sync_all()?;
            std::fs::rename(&draft, &path)?;
            Ok(witness)
        };
        let witness = open().map_err(DiskError::io("write", &path))?;
        super::format::sync_dir(dir)?;
        Ok(witness)
    }

    /// Records what has just become durable.
    pub(crate) fn note(&mut self, ledger: &Ledger) -> std::io::Result<()> {
        self.write_slot(ledger.commit % SLOTS, ledger)
    }

    fn write_slot(&mut self, slot: u64, ledger: &Ledger) -> std::io::Result<()> {
        self.file.seek(SeekFrom::Start(slot * self.slot_bytes))?;
        self.file.write_all(&ledger.encode())
    }
}

fn slot_bytes(partitions: u32) -> u64 {
    let bytes = ledger::encoded_bytes(usize::try_from(partitions).unwrap_or(usize::MAX));
    u64::try_from(bytes)
        .unwrap_or(u64::MAX)
        .next_multiple_of(SLOT_ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use workspace_lifecycle::{Offset, PartitionId};

    #[test]
    fn the_newest_whole_slot_is_what_the_witness_knows() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(dir.path(), 2).expect("no file is no error"), None);
        let mut ledger = Ledger::new(2);
        let mut witness = Witness::create(dir.path(), &ledger, 2).expect("created");
        for offset in 1..=5 {
            ledger = ledger.advanced(&[(PartitionId(1), Offset(offset))]);
            witness.note(&ledger).expect("noted");
            assert_eq!(read(dir.path(), 2).expect("readable"), Some(ledger.clone()));
        }

        let mut bytes = std::fs::read(path(dir.path())).expect("readable");
        bytes[512] ^= 1;
        std::fs::write(path(dir.path()), &bytes).expect("writable");
        let older = read(dir.path(), 2)
            .expect("one slot is enough")
            .expect("there");
        assert_eq!(older.commit, 4, "the slot of commit 5 is damaged");

        bytes[3] ^= 1;
        std::fs::write(path(dir.path()), &bytes).expect("writable");
        assert!(matches!(
            read(dir.path(), 2),
            Err(DiskError::Witness { .. })
        ));
    }
}
