//! Checks the database's journals before the database opens them.
//!
//! The database (fjall 3.1) ends its recovery at the first batch that it cannot read, cuts the journal there and reports
//! nothing; it also refuses some torn tails that a power failure leaves behind, does not notice a missing journal, and
//! trusts sequence numbers that no checksum covers. So the journals are read here first, without changing anything. The
//! witness alone is not enough: where a block of an older journal is lost, the database continues with the next journal,
//! whose ledger is the newest (`a_block_that_is_missing_before_acknowledged_events_is_refused` in `tests/on_disk`).
//!
//! A journal consists of batches, then zeros to the end of the file. A batch is a start marker, items, and an end
//! marker with the xxh3 of the items. The start marker contains the sequence number of the batch. It decides which of
//! two values is newer, so it must grow. A journal that is not the newest was synced before the next one began, so
//! it has no torn tail. Every durable commit contains the ledger, and the next commit is written only when it is
//! durable: a batch with ledger *n* proves that *n - 1* was acknowledged.

use super::DiskError;
use super::ledger::{LEDGER_KEY, Ledger};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// The database assigns sequence numbers one by one and stops at 2^63. A number of half that or more is a flipped bit;
/// continuing from it would end the log's writer.
const SEQUENCE_END: u64 = 1 << 62;
const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TAG_CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";

/// Most copies of one journal that are set aside.
const MAX_COPIES: u32 = 100;

/// The newest journal where a batch in it is broken, or does not follow the one before it.
#[derive(Debug)]
pub(crate) struct Torn {
    pub(crate) path: PathBuf,
    /// Everything before this byte is intact.
    pub(crate) position: u64,
    pub(crate) reason: String,
    /// The newest ledger before the position; `None` if the tables have it.
    pub(crate) ledger: Option<Ledger>,
    /// The last commit of which an intact batch behind the position proves that it was acknowledged.
    pub(crate) acknowledged_commit: u64,
}

/// Reads all journals of a database, oldest first. Returns where the newest must be cut, if it is torn.
///
/// # Errors
/// [`DiskError::DamagedBetween`] for damage in a journal that others follow: cutting it would not help.
pub(crate) fn inspect(database: &Path) -> Result<Option<Torn>, DiskError> {
    let journals = journals(database)?;
    let mut previous: Option<u64> = None;
    let mut order = Order::default();
    let mut torn: Option<Torn> = None;
    for (id, path) in journals {
        if let Some(Torn {
            path,
            position,
            reason,
            ..
        }) = torn
        {
            return Err(DiskError::DamagedBetween {
                file: path,
                position,
                reason,
            });
        }
        if previous.is_some_and(|previous| previous + 1 != id) {
            let reason = "the journal before it is missing".to_owned();
            return Err(DiskError::DamagedBetween {
                file: path,
                position: 0,
                reason,
            });
        }
        previous = Some(id);
        let bytes = std::fs::read(&path).map_err(DiskError::io("read", &path))?;
        torn = scan(&bytes, &mut order).err().map(|(rest, reason)| Torn {
            position: count(bytes.len() - rest.len()),
            ledger: order.ledger.clone(),
            acknowledged_commit: acknowledged_commit(rest),
            reason,
            path,
        });
    }
    Ok(torn)
}

/// Cuts a torn journal, so that the database itself finds the end of the intact part.
pub(crate) fn cut(torn: &Torn) -> Result<(), DiskError> {
    let cut = || {
        let file = File::options().write(true).open(&torn.path)?;
        file.set_len(torn.position)?;
        file.sync_all()
    };
    cut().map_err(DiskError::io("cut the broken tail off", &torn.path))
}

/// Copies a torn journal into the data directory, durably, before it is cut. Returns the path of the copy.
pub(crate) fn set_aside(torn: &Torn, dir: &Path) -> Result<PathBuf, DiskError> {
    let name = torn.path.file_stem().unwrap_or_default().display();
    let copy = (1..=MAX_COPIES)
        .map(|number| dir.join(format!("damaged-{name}-{number}.jnl")))
        .find(|copy| !copy.exists())
        .ok_or_else(|| {
            DiskError::io("set a damaged journal aside: remove older copies in", dir)(
                ErrorKind::AlreadyExists.into(),
            )
        })?;
    std::fs::copy(&torn.path, &copy)
        .and_then(|_| File::open(&copy)?.sync_all())
        .map_err(DiskError::io("copy the damaged journal to", &copy))?;
    super::format::sync_dir(dir)?;
    Ok(copy)
}

fn journals(database: &Path) -> Result<Vec<(u64, PathBuf)>, DiskError> {
    let list = || {
        let mut journals = Vec::new();
        for entry in std::fs::read_dir(database)? {
            let path = entry?.path();
            let id = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse().ok());
            journals.extend(id.map(|id| (id, path)));
        }
        journals.sort_unstable();
        Ok(journals)
    };
    list().map_err(DiskError::io("list", database))
}

/// Checks that batches follow each other, also from one journal to the next.
#[derive(Debug, Default)]
struct Order {
    sequence: Option<u64>,
    ledger: Option<Ledger>,
}

impl Order {
    fn follow(&mut self, batch: JournalBatch) -> Result<(), String> {
        if let Some(before) = self.sequence
            && batch.sequence <= before
        {
            return Err(format!("batch {} follows batch {before}", batch.sequence));
        }
        self.sequence = Some(batch.sequence);
        if let Some(ledger) = batch.ledger {
            if let Some(before) = &self.ledger
                && before.commit + 1 != ledger.commit
            {
                let (next, before) = (ledger.commit, before.commit);
                return Err(format!("commit {next} follows commit {before}"));
            }
            self.ledger = Some(ledger);
        }
        Ok(())
    }
}

/// Reads the batches of one journal.
///
/// # Errors
/// What follows the intact part, and what is wrong with it.
fn scan<'a>(mut bytes: &'a [u8], order: &mut Order) -> Result<(), (&'a [u8], String)> {
    while bytes.iter().any(|byte| *byte != 0) {
        let (batch, rest) =
            JournalBatch::read(bytes).map_err(|reason| (bytes, reason.to_owned()))?;
        order.follow(batch).map_err(|reason| (bytes, reason))?;
        bytes = rest;
    }
    Ok(())
}

/// The last commit that the intact batches in `bytes` prove to be acknowledged.
fn acknowledged_commit(bytes: &[u8]) -> u64 {
    let mut rest = bytes;
    let mut newest = 0;
    while let Some(start) = rest.iter().position(|byte| *byte == TAG_START) {
        rest = rest.get(start..).unwrap_or_default();
        match JournalBatch::read(rest) {
            Ok((batch, behind)) => {
                newest = newest.max(batch.ledger.map_or(0, |ledger| ledger.commit));
                rest = behind;
            }
            Err(_) => rest = rest.get(1..).unwrap_or_default(),
        }
    }
    newest.saturating_sub(1)
}

/// An intact batch.
#[derive(Debug)]
struct JournalBatch {
    sequence: u64,
    ledger: Option<Ledger>,
}

type Broken = &'static str;

impl JournalBatch {
    /// Reads the batch at the beginning of `bytes`. Returns it, and what follows it.
    fn read(bytes: &[u8]) -> Result<(Self, &[u8]), Broken> {
        let mut bytes = bytes;
        let bytes = &mut bytes;
        if byte(bytes)? != TAG_START {
            return Err("a batch does not begin with its marker");
        }
        let items = u32::from_le_bytes(array(bytes)?);
        let sequence = u64::from_le_bytes(array(bytes)?);
        if sequence >= SEQUENCE_END {
            return Err("the sequence number of a batch is beyond any that a database gives");
        }
        let body = *bytes;
        let mut ledger = None;
        for _ in 0..items {
            match byte(bytes)? {
                TAG_ITEM => ledger = item(bytes)?.or(ledger),
                TAG_CLEAR => {
                    take(bytes, size_of::<u64>())?;
                }
                _ => return Err("an item of a batch does not begin with its marker"),
            }
        }
        let mut hasher = Xxh3::new();
        hasher.update(body.get(..body.len() - bytes.len()).unwrap_or_default());
        if byte(bytes)? != TAG_END {
            return Err("a batch does not end with its marker");
        }
        let checksum = u64::from_le_bytes(array(bytes)?);
        if take(bytes, TRAILER.len())? != TRAILER {
            return Err("a batch does not end with its trailer");
        }
        if hasher.digest() != checksum {
            return Err("the checksum of a batch does not match");
        }
        Ok((Self { sequence, ledger }, bytes))
    }
}

/// Reads an item behind its marker: kind, compression, keyspace, length of the key, of the value, and of the value as it
/// is stored, then both. Returns the ledger if it is that.
fn item(bytes: &mut &[u8]) -> Result<Option<Ledger>, Broken> {
    take(bytes, 1 + 1 + 8)?;
    let key_bytes = u16::from_le_bytes(array(bytes)?);
    let value_bytes = u32::from_le_bytes(array(bytes)?);
    let stored_bytes = u32::from_le_bytes(array(bytes)?);
    let key = take(bytes, usize::from(key_bytes))?;
    let value = take(bytes, usize::try_from(stored_bytes).map_err(|_| CUT_SHORT)?)?;
    let is_ledger = key == LEDGER_KEY && value_bytes == stored_bytes;
    let ledger = is_ledger.then(|| Ledger::decode(value.to_vec().into()).ok());
    Ok(ledger.flatten())
}

const CUT_SHORT: Broken = "a batch is cut short";

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Broken> {
    bytes.split_off(..length).ok_or(CUT_SHORT)
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Broken> {
    let (array, rest) = bytes.split_first_chunk().ok_or(CUT_SHORT)?;
    *bytes = rest;
    Ok(*array)
}

fn byte(bytes: &mut &[u8]) -> Result<u8, Broken> {
    array(bytes).map(|[byte]| byte)
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{DataDir, DataDirSpec};
    use workspace_lifecycle::{Offset, PartitionId};

    const COMMITS: u64 = 6;

    /// A closed database of a few commits, each after a plain write, and its only journal.
    fn database() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let path = tempfile::tempdir().expect("a directory");
        for _ in 0..2 {
            // The second time the journal ends where its content does.
            let dir = DataDir::open(path.path(), &DataDirSpec::default()).expect("opened");
            let keyspace = dir.keyspace("test", Default::default).expect("created");
            for number in 1..=COMMITS / 2 {
                let batch = || {
                    let mut batch = dir.database().batch();
                    batch.insert(&keyspace, number.to_be_bytes(), vec![7; 30]);
                    batch
                };
                dir.write(batch(), 0).expect("written");
                let end = dir.acknowledged_end(PartitionId(1)).next();
                dir.commit(batch(), 0, &[(PartitionId(1), end)])
                    .expect("committed");
            }
        }
        drop(DataDir::open(path.path(), &DataDirSpec::default()).expect("opened"));
        let database = path.path().join("db");
        let [(_, journal)] = journals(&database)
            .expect("listed")
            .try_into()
            .expect("one journal");
        let bytes = std::fs::read(&journal).expect("readable");
        (path, journal, bytes)
    }

    fn inspect_all(journal: &Path) -> Result<Option<Torn>, DiskError> {
        inspect(journal.parent().expect("a database"))
    }

    /// The newest ledger of an intact journal.
    fn newest(bytes: &[u8]) -> Ledger {
        let mut order = Order::default();
        scan(bytes, &mut order).expect("intact");
        order.ledger.expect("a commit")
    }

    #[test]
    fn an_intact_journal_gives_its_newest_ledger() {
        let (_path, journal, bytes) = database();
        assert!(inspect_all(&journal).expect("readable").is_none());
        let ledger = newest(&bytes);
        assert_eq!(ledger.commit, COMMITS);
        assert_eq!(ledger.high_watermark(PartitionId(1)), Offset(COMMITS));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (_path, journal, bytes) = database();
        let mut numbers = std::collections::HashSet::new();
        let mut highest = std::collections::HashSet::new();
        let mut rest = bytes.as_slice();
        while let Ok((_, behind)) = JournalBatch::read(rest) {
            let start = bytes.len() - rest.len();
            numbers.extend(start + 5..start + 13);
            highest.extend([(start + 12) * 8 + 6, (start + 12) * 8 + 7]);
            rest = behind;
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::remove_file(&journal).expect("removed");
            std::fs::write(&journal, &damaged).expect("written");
            let Some(torn) = inspect_all(&journal).expect("readable") else {
                // A changed sequence number that is still in order changes nothing.
                assert_eq!(newest(&damaged).commit, COMMITS);
                assert!(numbers.contains(&(bit / 8)), "bit {bit}");
                assert!(
                    !highest.contains(&bit),
                    "bit {bit}: the next batch finds no number"
                );
                continue;
            };
            let before = torn.ledger.map_or(0, |ledger| ledger.commit);
            let acknowledged = torn.acknowledged_commit;
            assert!(before < COMMITS, "bit {bit}");
            assert!(
                acknowledged == COMMITS - 1 || before >= COMMITS - 1,
                "bit {bit}: {before} {acknowledged}"
            );
        }
    }

    #[test]
    fn zeros_behind_the_last_batch_are_its_clean_end() {
        let (_path, journal, bytes) = database();
        for zeros in [0, 1, 4096, 1 << 20] {
            std::fs::write(&journal, [bytes.as_slice(), &vec![0; zeros]].concat())
                .expect("written");
            assert!(
                inspect_all(&journal).expect("readable").is_none(),
                "{zeros}"
            );
        }
    }

    #[test]
    fn an_older_journal_that_is_cut_short_or_missing_is_damage() {
        let (_path, journal, bytes) = database();
        let next = journal.with_file_name("1.jnl");
        std::fs::write(&next, vec![0; 100]).expect("written");
        assert!(inspect_all(&journal).expect("readable").is_none());
        let damage = |expected: &Path, text: &str| match inspect_all(&journal) {
            Err(DiskError::DamagedBetween { file, reason, .. }) => {
                assert_eq!((file.as_path(), reason.as_str()), (expected, text));
            }
            other => panic!("{other:?}"),
        };
        std::fs::write(&journal, &bytes[..bytes.len() - 10]).expect("written");
        damage(&journal, CUT_SHORT);
        std::fs::write(&journal, &bytes).expect("written");
        let later = journal.with_file_name("2.jnl");
        std::fs::rename(&next, &later).expect("renamed");
        damage(&later, "the journal before it is missing");
    }
}
